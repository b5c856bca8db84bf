"""Nodes of kind pull a run's images from a registry beside them, which goes with their cluster."""

import http.server
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker
import pytest
import yaml

from svidproof.model.catalogue import Catalogue
from svidproof.model.errors import PlatformError
from svidproof.model.manifests import render
from svidproof.platforms import created, leftovers
from svidproof.platforms.created import Made
from svidproof.platforms.kubernetes.client.api import Node
from svidproof.platforms.kubernetes.cluster import as_pulled
from svidproof.platforms.kubernetes.kind import outside_container
from svidproof.platforms.kubernetes.kind import registry as _image_registry
from svidproof.platforms.kubernetes.kind import site as kind
from svidproof.platforms.kubernetes.kind.registry import ImageRegistry
from svidproof.platforms.kubernetes.pods import prepull
from svidproof.platforms.kubernetes.pods.watcher import Pods
from svidproof.platforms.protocol import Part, SiteOptions
from svidproof.platforms.run_directory import RunDirectory, owner
from svidproof.run.request.options import RunRequest
from svidproof.run.request.selection import Selection, SelectionError, select
from svidproof.supply import images
from svidproof.supply.images.registry import push
from svidproof.supply.tools import Progress

Stub = Callable[[str], Path]

DIGEST = f"sha256:{'a' * 64}"
OURS = "localhost/svidproof/envoy:1"
PUSHED = "localhost:5001/svidproof/envoy:1"
# A Docker with one registry in it, once it was run.
ENGINE = """
case "$*" in
  "run "*) touch {there}; echo abc;;
  "ps "*Ports*) echo "127.0.0.1:{port}->5000/tcp";;
  "ps "*) [ ! -e {there} ] || echo abc;;
  "rm "*) rm -f {there};;
  "port "*) echo 127.0.0.1:{port};;
  *State*) echo '{{"Running": {running}, "ExitCode": 2}}';;
  *IPAddress*) echo 172.18.0.9;;
  "logs "*) echo 'out of memory' >&2;;
  "push "*) echo "1: digest: {digest} size: 1";;
esac
"""


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stub:
    """Puts a script in docker's place; what it was asked stands in the file that is returned."""
    folder, asked = tmp_path / "bin", tmp_path / "asked"
    folder.mkdir()
    asked.touch()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SVIDPROOF_CACHE", str(tmp_path / "cache"))

    def write(script: str) -> Path:
        (folder / "docker").write_text(f'#!/bin/sh\necho "$*" >>{asked}\n{script}\n')
        (folder / "docker").chmod(0o755)
        return asked

    return write


class Answering(http.server.BaseHTTPRequestHandler):
    """Says that a registry is there."""

    def do_GET(self) -> None:
        """Answer as every registry does."""
        self.send_response(200 if self.path == "/v2/" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    """A port at which a registry answers."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def script(tmp_path: Path, port: int, *, running: str = "true") -> str:
    """What the engine answers."""
    there = tmp_path / "there"
    return ENGINE.format(there=there, port=port, running=running, digest=DIGEST)


def registry() -> ImageRegistry:
    """The registry of cluster demo."""
    return ImageRegistry("demo", image="localhost/svidproof/registry:1", network="kind", run="1")


class PaperCluster:
    """A cluster that notes what is asked of it."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.made: list[Any] = []
        self.removed: list[tuple[str, list[str]]] = []

    def apply(self, template: str, **values: object) -> None:
        """Take objects."""
        self.made += yaml.safe_load_all(render(template, **values))

    def delete_all_of(self, run: str, namespaces: list[str]) -> None:
        """Drop a run's objects."""
        self.removed.append((run, namespaces))


def paper() -> Any:  # noqa: ANN401  it stands for a Cluster
    """A cluster of two nodes."""
    return PaperCluster()


NODES = [Node(name, name, name) for name in ("one", "two")]


class TestWords:
    """`--images` says where images come from, and whether a registry brings them."""

    @pytest.mark.parametrize(
        ("words", "source", "by_registry"),
        [
            pytest.param("pull", "pull", False, id="pull"),
            pytest.param("build", "build", False, id="build"),
            pytest.param("pull,registry", "pull", True, id="pull-registry"),
            pytest.param("registry,build", "build", True, id="registry-build"),
        ],
    )
    def test_what_is_said_is_done(
        self, catalogue: Catalogue, words: str, source: str, *, by_registry: bool
    ) -> None:
        """Nothing is asked of Docker then; the words reach the process that runs the checks."""
        wanted = RunRequest(platform="kind", images=words)

        options = select(wanted, catalogue, scenarios=["api"]).site(["api"])

        assert (options.images, options.registry) == (source, by_registry)
        assert ("--images" in wanted.arguments()) == (words != "pull")

    def test_what_is_left_open_is_tried(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With `registry` alone, images are pulled where that can be, and else made."""
        monkeypatch.setattr(images, "choose", lambda _: "build")
        wanted = RunRequest(platform="kind", images="registry")

        options = Selection(wanted, (), (), frozenset(), narrowed=False).site(["api"])

        assert (options.images, options.registry) == ("build", True)

    @pytest.mark.parametrize(
        ("wanted", "why"),
        [
            pytest.param(RunRequest(images="push"), "push: there are pull, build,", id="word"),
            pytest.param(
                RunRequest(images="pull,build", platform="kind"), "say pull or build", id="both"
            ),
            pytest.param(
                RunRequest(images="registry", platform="cluster"),
                "registry is for --platform kind.*--image NAME",
                id="cluster",
            ),
            pytest.param(
                RunRequest(images="build,registry"),
                "--images applies to platforms kind",
                id="local",
            ),
        ],
    )
    def test_what_cannot_be_is_told(
        self, catalogue: Catalogue, wanted: RunRequest, why: str
    ) -> None:
        """In one line, before anything is made."""
        with pytest.raises(SelectionError, match=why):
            select(wanted, catalogue, scenarios=["api"])


class TestChoice:
    """The registry's own image, which every such run needs, tells whether images can be pulled."""

    def test_pulled_if_it_can_be(self, stub: Stub) -> None:
        """By its digest; what is here already is not asked for."""
        asked = stub('[ "$1" = pull ]')

        assert images.choose(Progress.silent()) == "pull"
        assert "pull --quiet docker.io/library/registry:3" in asked.read_text()
        assert "@sha256:" in asked.read_text()

        asked.write_text("")
        stub("exit 0")
        assert images.choose(Progress.silent()) == "pull"
        assert "pull" not in asked.read_text()

    def test_made_else(self, stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
        """A line says so, and why."""
        stub("echo 'dial tcp: no such host' >&2; exit 1")

        assert images.choose(Progress()) == "build"

        said = " ".join(capsys.readouterr().err.split())
        assert said.startswith("building the images here, because docker.io/library/registry:3")
        assert "no such host" in said

    def test_without_docker_nothing_is_decided(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The line about Docker is for whoever needs it next."""
        monkeypatch.setenv("PATH", str(tmp_path))

        assert images.choose(Progress.silent()) == "pull"


class TestPush:
    """What a node pulls is the content that was pushed, and no name of it stays here."""

    def test_digest_is_the_one_that_the_engine_tells_last(self, stub: Stub) -> None:
        """It may push less than it has, and says so in between."""
        first = f"sha256:{'b' * 64}"
        asked = stub(f'[ "$1" != push ] || echo "1: digest: {first}\n1: digest: {DIGEST} size: 2"')

        pushed = images.push([OURS, OURS], "localhost:5001", Progress.silent())

        assert pushed == {OURS: f"localhost:5001/svidproof/envoy@{DIGEST}"}
        assert asked.read_text().splitlines() == [
            f"tag {OURS} {PUSHED}",
            f"push {PUSHED}",
            f"image rm {PUSHED}",
        ]

    @pytest.mark.parametrize(
        ("answer", "why"),
        [
            pytest.param("echo 'denied: no' >&2; exit 1", "cannot be pushed.*denied: no", id="no"),
            pytest.param("echo pushed", "printed no digest", id="other-program"),
        ],
    )
    def test_push_that_fails(self, stub: Stub, answer: str, why: str) -> None:
        """The line has the image and Docker's reason; the name is dropped all the same."""
        asked = stub(f'[ "$1" != push ] || {{ {answer}; }}')

        with pytest.raises(images.ImageError, match=rf"{PUSHED}.*{why}|{why} of {PUSHED}") as error:
            images.push([OURS], "localhost:5001", Progress.silent())

        assert "\n" not in str(error.value)
        assert asked.read_text().splitlines()[-1] == f"image rm {PUSHED}"

    def test_names_of_killed_pushes_are_dropped(self, stub: Stub) -> None:
        """Not those to a registry that is there: somebody pushes to it now."""
        asked = stub(
            f'case "$2" in ls) echo {PUSHED}; echo localhost:5002/svidproof/envoy:1;; esac'
        )

        push.clean(["localhost:5002"])

        assert [line for line in asked.read_text().splitlines() if " rm " in line] == [
            f"image rm {PUSHED}"
        ]


class TestContainer:
    """The registry is a container that can do little, and is reached from here only."""

    def test_it_is_confined(self, stub: Stub, tmp_path: Path, port: int) -> None:
        """No capability, no root, nothing that can be written to but memory, loopback only."""
        asked = stub(script(tmp_path, port))

        made = registry()

        assert made.address == f"localhost:{port}"
        [run] = [line for line in asked.read_text().splitlines() if line.startswith("run ")]
        for words in (
            "--publish 127.0.0.1::5000 ",
            "--network kind",
            "--cap-drop ALL",
            "--security-opt no-new-privileges",
            "--read-only",
            "--user 65532:65532",
            "--pull never",
            "--label svidproof.dev/run=1",
            f"--label svidproof.dev/machine={owner()}",
            "--label svidproof.dev/cluster=demo",
        ):
            assert words in run
        made.close()
        assert "rm --force --volumes abc" in asked.read_text()

    def test_the_one_that_runs_is_taken(self, stub: Stub, tmp_path: Path, port: int) -> None:
        """A cluster that was kept has its registry still, with all that is in it."""
        (tmp_path / "there").touch()
        asked = stub(script(tmp_path, port))
        created.note("1", Made("Docker", "kept registry", "demo", "abc"))

        assert registry().address == f"localhost:{port}"

        assert not [line for line in asked.read_text().splitlines() if line.startswith("run ")]

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            pytest.param(
                ("touch {there}; echo abc", 'touch {there}; echo "port is taken" >&2; exit 125'),
                "does not start: docker run failed: port is taken",
                id="refused",
            ),
            pytest.param(
                ('"Running": {running}', '"Running": false'),
                "of demo exited with status 2: out of memory; run again, or .* --images",
                id="ended",
            ),
        ],
    )
    def test_one_that_does_not_start(
        self, stub: Stub, tmp_path: Path, port: int, change: tuple[str, str], why: str
    ) -> None:
        """The line has its last word; what was made of it is removed."""
        before, after = (text.format(there=tmp_path / "there", running="true") for text in change)
        asked = stub(script(tmp_path, port).replace(before, after))

        with pytest.raises(PlatformError, match=why):
            registry()

        assert not (tmp_path / "there").exists()
        assert asked.read_text().splitlines()[-1] == "rm --force --volumes abc"

    def test_one_that_has_ended_is_told(self, stub: Stub, tmp_path: Path, port: int) -> None:
        """Before a testbed waits for images, and instead of what a push says of it."""
        stub(script(tmp_path, port))
        made = registry()
        site = object.__new__(kind.KindSite)
        site._registry = made
        stub(script(tmp_path, port, running="false").replace('echo "1: digest', "exit 1 #"))

        with pytest.raises(PlatformError, match="exited with status 2: out of memory"):
            made.deliver({"envoy": OURS}, paper(), NODES, run="1", progress=Progress.silent())
        with pytest.raises(PlatformError, match="exited with status 2: out of memory"):
            site.platform("example.org")

    def test_its_memory_is_bounded(self, stub: Stub, tmp_path: Path, port: int) -> None:
        """Whoever is on the nodes' network can push to it, but not fill the machine's memory."""
        asked = stub(script(tmp_path, port))

        registry()

        [started] = [line for line in asked.read_text().splitlines() if line.startswith("run ")]
        store = "/var/lib/registry:uid=65532,gid=65532,mode=0700,size=2g"
        assert f" --read-only --tmpfs {store} " in started

    def test_nodes_are_told_where_it_is(self, stub: Stub, tmp_path: Path, port: int) -> None:
        """Each node by the registry's own address, and everybody by the cluster's ConfigMap."""
        asked = stub(script(tmp_path, port))
        cluster = paper()

        registry()._introduce(cluster, NODES)

        told = [line for line in asked.read_text().splitlines() if line.startswith("exec ")]
        folder, url = f"/etc/containerd/certs.d/localhost:{port}", '"http://172.18.0.9:5000"'
        assert [line.split()[1] for line in told] == ["one", "two"]
        assert all(f"mkdir -p {folder} && printf %s 'server = {url}" in line for line in told)
        assert f"\n[host.{url}]\n' >{folder}/hosts.toml\n" in asked.read_text()
        [hosts] = cluster.made
        [hosting] = hosts["data"].values()
        assert hosts["metadata"]["namespace"] == "kube-public"
        assert yaml.safe_load(hosting)["host"] == f"localhost:{port}"

    def test_nodes_pull_what_was_pushed(
        self, stub: Stub, tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each of them all of it, by digest, before anything else is made there."""
        stub(script(tmp_path, port))
        awaited: list[str] = []
        monkeypatch.setattr(Pods, "_follow", lambda _: None)
        monkeypatch.setattr(Pods, "await_running", lambda _, name: awaited.append(name))
        wanted, cluster = {"envoy": OURS, "workload": OURS}, paper()

        there = registry().deliver(wanted, cluster, NODES, run="1", progress=Progress.silent())

        name = f"localhost:{port}/svidproof/envoy@{DIGEST}"
        assert there == {"envoy": name, "workload": name}
        pods = [body for body in cluster.made if body["kind"] == "Pod"]
        nodes = [str(pod["spec"]["affinity"]).partition("values': ['")[2][:3] for pod in pods]
        assert nodes == ["one", "two"]
        assert awaited == [pod["metadata"]["name"] for pod in pods]
        for pod in pods:
            containers = pod["spec"]["containers"]
            assert {c["name"]: c["image"] for c in containers} == there
            assert {c["imagePullPolicy"] for c in containers} == {"IfNotPresent"}
        assert cluster.removed == [("1", ["svidproof-1-images"])]

    def test_node_that_cannot_pull(
        self, stub: Stub, tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What Kubernetes says of the pod is told, and nothing is left of it."""
        stub(script(tmp_path, port))
        cluster = paper()

        def refuse(_: object, name: str) -> None:
            raise PlatformError(f"pod {name}: ErrImagePull")

        monkeypatch.setattr(Pods, "_follow", lambda _: None)
        monkeypatch.setattr(Pods, "await_running", refuse)

        with pytest.raises(PlatformError, match="pod images-0: ErrImagePull"):
            registry().deliver({"envoy": OURS}, cluster, NODES, run="1", progress=Progress.silent())

        assert cluster.removed == [("1", ["svidproof-1-images"])]


class TestPulledImages:
    """What the nodes of a cluster have pulled is in the report by its digest."""

    def test_nodes_tell_what_they_have(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of each image, what each node says; the status of a pod has it."""
        status = SimpleNamespace(name="envoy", image_id=f"docker.io/envoyproxy/envoy@{DIGEST}")
        pod = SimpleNamespace(
            status=SimpleNamespace(init_container_statuses=None, container_statuses=[status])
        )

        def follow(pods: Pods) -> None:
            pods._known = {"images-0": pod, "images-1": pod}

        monkeypatch.setattr(Pods, "_follow", follow)
        monkeypatch.setattr(Pods, "await_running", lambda *_: None)

        found = prepull.pull(paper(), NODES, {"envoy": "envoy:1", "workload": "w:1"}, "1")

        assert found == {
            "envoy": {f"docker.io/envoyproxy/envoy@{DIGEST}"},
            "workload": {""},
        }

    @pytest.mark.parametrize(
        ("told", "sha256", "note"),
        [
            pytest.param({f"a@{DIGEST}"}, "a" * 64, "envoy:1", id="one"),
            pytest.param({f"a@{DIGEST}", f"b@{DIGEST}"}, "a" * 64, "envoy:1", id="two-names"),
            pytest.param({DIGEST}, "a" * 64, "envoy:1", id="id"),
            pytest.param(set(), "", "envoy:1", id="nothing"),
            pytest.param({""}, "", "envoy:1", id="not-told"),
            pytest.param(
                {f"a@{DIGEST}", f"a@sha256:{'b' * 64}"},
                "",
                f"envoy:1; its nodes run different images: a@{DIGEST}, a@sha256:{'b' * 64}",
                id="different",
            ),
        ],
    )
    def test_report_has_the_digest(self, told: set[str], sha256: str, note: str) -> None:
        """One that all nodes agree on; else the report says that they do not."""
        part = Part("envoy", "1.40.0", "image", note="envoy:1")

        assert as_pulled(part, frozenset(told)) == replace(part, sha256=sha256, note=note)


class TestCluster:
    """A cluster whose nodes pull from a registry is another cluster."""

    def test_its_nodes_look_where_they_are_told(self, tmp_path: Path) -> None:
        """Only then is containerd, which kind starts again for it, configured."""
        plain = yaml.safe_load(kind._config(tmp_path / "a", registry=False).read_text())
        other = yaml.safe_load(kind._config(tmp_path / "b", registry=True).read_text())

        [patch] = other.pop("containerdConfigPatches")
        assert plain == other
        assert f'config_path = "{_image_registry.HOSTS}"' in patch

    def test_it_is_kept_under_another_name(self) -> None:
        """Nodes that were not configured would not find a registry."""
        names = {kind._kept(node, registry=by) for node in ("a", None) for by in (True, False)}

        assert len(names) == 4

    def test_only_what_stays_outlives_its_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The next run removes the containers of killed runs, but a kept cluster's registry."""
        monkeypatch.setenv("SVIDPROOF_CACHE", str(tmp_path))
        removed: list[str] = []
        live = RunDirectory()

        def container(name: str, run: str, *, noted: bool = True) -> SimpleNamespace:
            if noted:
                created.note(run, Made("Docker", "container", "relay", name))
            labels = {"svidproof.dev/run": run}
            return SimpleNamespace(
                id=name, name=name, labels=labels, remove=lambda **_: removed.append(name)
            )

        found = [
            container("relay", "dead"),
            container("own", live.id),
            container("labelled", "dead", noted=False),
        ]
        created.note("dead", Made("Docker", "kept registry", "demo", "kept"))
        client = SimpleNamespace(
            containers=SimpleNamespace(
                list=lambda **_: found, get=lambda uid: next(c for c in found if c.id == uid)
            ),
            close=lambda: None,
        )
        monkeypatch.setattr(docker, "from_env", lambda: client)
        leftovers.take()

        outside_container.remove_stale()
        live.close()

        assert removed == ["relay"]
        assert created.knows("Docker", "kept")
        assert [line.partition(",")[0] for line in leftovers.take()] == [
            "container labelled has this installation's label"
        ]

    def test_tools_that_images_are_made_of(self) -> None:
        """The registry's is one where images are made, or if the user gives it."""
        tools = kind.KindSite.tools

        assert "registry" in tools(SiteOptions(images="build", registry=True))
        assert "registry" not in tools(SiteOptions(images="build"))
        assert tools(SiteOptions(registry=True)) == ()
        assert tools(SiteOptions(registry=True, given=("registry",))) == ("registry",)
