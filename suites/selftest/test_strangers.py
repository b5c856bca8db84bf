"""A stranger's pod is like another in all but what is said, and takes nothing away from it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import grpc
import pytest
import yaml

from svidproof.model.errors import PlatformError
from svidproof.model.manifests import render
from svidproof.platforms.kubernetes.client.api import Node
from svidproof.platforms.kubernetes.platform import KubernetesPlatform
from svidproof.platforms.kubernetes.pods import placement
from svidproof.platforms.kubernetes.pods.placement import Ground, Places
from svidproof.platforms.protocol import WRITABLE, Program
from svidproof.probes.workload_api.x509 import Answer, X509Svid
from svidproof.testbed import extra_workload
from svidproof.testbed.extra_workload import Guest
from svidproof.waiting import NotYet

if TYPE_CHECKING:
    from pathlib import Path

RUN = "1a2b3c4d"
NODES = (Node("kind-worker", "kind-worker", "uid-1"), Node("kind-other", "kind-other", "uid-2"))
AGENTS = ("spire-agent-worker", "spire-agent-other")
DENIED, OK = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.OK
OWN = "spiffe://example.org/api"


class PaperCluster:
    """A cluster on which nothing runs: it remembers what it was given."""

    def __init__(self, *namespaces: str) -> None:
        """These namespaces are somebody else's."""
        self.objects: list[dict[str, Any]] = []
        self.deleted: list[tuple[str, str]] = []
        self.namespaces = set(namespaces)
        self.client = None
        self.isolates = True

    def apply(self, template: str, **values: object) -> list[Any]:
        """Remember what the template says."""
        bodies = [body for body in yaml.safe_load_all(render(template, **values)) if body]
        self.objects += bodies
        return [SimpleNamespace(metadata=SimpleNamespace(uid="uid")) for _ in bodies]

    def apply_object(self, body: dict[str, Any]) -> None:
        """Remember it."""
        self.objects.append(body)

    def assert_free(self, name: str) -> None:
        """Refuse what is somebody else's."""
        if name in self.namespaces:
            raise PlatformError(f"namespace {name} exists and was not created by svidproof")

    def delete_pod(self, namespace: str, name: str) -> None:
        """Remember."""
        self.deleted.append((namespace, name))

    def made(self, kind: str) -> dict[str, dict[str, Any]]:
        """What was made of a kind, by name."""
        return {o["metadata"]["name"]: o for o in self.objects if o["kind"] == kind}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> PaperCluster:
    """A cluster on paper, whose pods are not followed."""
    quiet = SimpleNamespace(
        expect=lambda _: None, follow_log=lambda *_: None, await_gone=lambda _: None
    )
    monkeypatch.setattr(placement, "Pods", lambda *_: quiet)
    return PaperCluster()


def platform(cluster: PaperCluster, directory: Path) -> KubernetesPlatform:
    """A platform whose only workload is the API, on the first node."""
    names = ["spire-server", "spire-agent", "envoy", "workload"]
    names += ["spiffe-csi-driver", "node-driver-registrar"]
    ground = Ground(
        cluster=cast("Any", cluster),
        name="kind",
        images={name: f"{name}:1" for name in names},
        nodes=NODES,
        namespace="demo",
        tolerates=False,
        disposable=True,
    )
    made = object.__new__(KubernetesPlatform)
    run = cast("Any", SimpleNamespace(id=RUN, path=directory))
    made._places = Places(ground, run, "machine")
    made._places.open()
    made._places.create("api", ())
    return made


def labels(pod: dict[str, Any]) -> dict[str, str]:
    """What a pod is labelled with."""
    found: dict[str, str] = pod["metadata"]["labels"]
    return found


@pytest.mark.parametrize(
    ("but", "selectors"),
    [
        pytest.param({}, ("k8s:ns:demo", "k8s:sa:api", "k8s:pod-label:app:api"), id="twin"),
        pytest.param({"label": "x"}, ("k8s:ns:demo", "k8s:sa:api", "k8s:pod-label:app:x"),
                     id="label"),
        pytest.param({"namespace": "x"}, ("k8s:ns:demo-x", "k8s:sa:api", "k8s:pod-label:app:api"),
                     id="namespace"),
        pytest.param({"service_account": "x"},
                     ("k8s:ns:demo", "k8s:sa:x", "k8s:pod-label:app:api"), id="service-account"),
    ],
)  # fmt: skip
def test_stranger_differs_in_what_is_said(
    cluster: PaperCluster, tmp_path: Path, but: dict[str, str], selectors: tuple[str, ...]
) -> None:
    """Namespace, service account and label are the other's, but for the one that is said."""
    testbed = platform(cluster, tmp_path)

    testbed.stranger("stranger", agent=AGENTS[0], like="api", **but)

    assert testbed.selectors("stranger") == selectors
    pod, like = cluster.made("Pod")["stranger"], cluster.made("Pod")["api"]
    namespace, account, label = (selector.rpartition(":")[2] for selector in selectors)
    assert pod["metadata"]["namespace"] == namespace
    assert pod["spec"]["serviceAccountName"] == account
    assert labels(pod)["app"] == label
    assert [c["name"] for c in pod["spec"]["containers"]] == ["relay"]
    alike = ("securityContext", "restartPolicy", "shareProcessNamespace")
    assert [pod["spec"][key] for key in alike] == [like["spec"][key] for key in alike]
    # Its account is made where it is.
    accounts = [o["metadata"] for o in cluster.objects if o["kind"] == "ServiceAccount"]
    assert (account, namespace) in {(a["name"], a["namespace"]) for a in accounts}


def test_stranger_attracts_no_traffic(cluster: PaperCluster, tmp_path: Path) -> None:
    """The Service of the one that is imitated leads to it alone."""
    testbed = platform(cluster, tmp_path)
    testbed.stranger("stranger", agent=AGENTS[0], like="api")
    [service] = [
        yaml.safe_load(
            render("kubernetes/service.yaml.j2", name="api", place="api", namespace="demo",
                   run=RUN, ports=(1,), node_port=False)
        )
    ]  # fmt: skip

    wanted = service["spec"]["selector"].items()

    assert wanted <= labels(cluster.made("Pod")["api"]).items()
    assert not wanted <= labels(cluster.made("Pod")["stranger"]).items()


def test_stranger_is_on_the_node_of_the_agent(cluster: PaperCluster, tmp_path: Path) -> None:
    """A stranger is where it was said, and elsewhere once it was removed and made again."""
    testbed = platform(cluster, tmp_path)

    for agent, node in zip(AGENTS, NODES, strict=True):
        testbed.stranger("stranger", agent=agent, like="stranger")

        assert testbed.agent_of("stranger") == agent
        assert node.name in yaml.safe_dump(cluster.made("Pod")["stranger"]["spec"])
        testbed.remove("stranger")
        testbed.remove("stranger")

    assert cluster.deleted == [("demo", "stranger")] * 2


@pytest.mark.parametrize(
    ("volume", "source", "read_only"),
    [
        pytest.param(None, {"hostPath"}, True, id="path"),
        pytest.param("x.csi", {"csi"}, False, id="csi"),
        pytest.param(WRITABLE, {"hostPath"}, False, id="writable"),
    ],
)
def test_stranger_has_the_agents_socket_one_way_only(
    cluster: PaperCluster, tmp_path: Path, volume: str | None, source: set[str], *, read_only: bool
) -> None:
    """Where a CSI volume brings it, no path of the node does, and the volume is what forbids."""
    testbed = platform(cluster, tmp_path)

    testbed.stranger("stranger", agent=AGENTS[0], like="api", volume=volume)

    spec = cluster.made("Pod")["stranger"]["spec"]
    [agent] = [v for v in spec["volumes"] if v["name"] == "agent"]
    [mount] = [m for m in spec["containers"][0]["volumeMounts"] if m["name"] == "agent"]
    assert agent.keys() - {"name"} == source
    assert mount["readOnly"] is read_only
    assert [v for v in spec["volumes"] if "hostPath" in v and v is not agent] == []
    if "csi" in agent:
        assert agent["csi"] == {"driver": "x.csi", "readOnly": True}


def test_driver_of_a_node_is_beside_its_agent(cluster: PaperCluster, tmp_path: Path) -> None:
    """It is in SPIRE's namespace, on the agent's node, and sees the agent's directory."""
    testbed = platform(cluster, tmp_path)
    programs = [
        Program(f"d.{name}", "d", tool, ())
        for name, tool in (("driver", "spiffe-csi-driver"), ("registrar", "node-driver-registrar"))
    ]

    testbed.daemon(*programs, agent=AGENTS[1], name="x.csi")

    pod = cluster.made("Pod")["d"]
    assert pod["metadata"]["namespace"] == "demo-spire"
    assert NODES[1].name in yaml.safe_dump(pod["spec"]["affinity"])
    volumes = [v for v in pod["spec"]["volumes"] if v["name"] != "access"]
    paths = {v["name"]: v["hostPath"]["path"] for v in volumes}
    assert paths["sockets"] == f"/run/svidproof/{RUN}"
    assert paths["csi"] == "/var/lib/kubelet/plugins/x.csi"
    driver, registrar, relay = pod["spec"]["containers"]
    own = {m["name"]: m for m in driver["volumeMounts"]}
    assert own["pods"]["mountPath"] == paths["pods"]
    assert own["pods"]["mountPropagation"] == "Bidirectional"
    assert [c["securityContext"].get("privileged") for c in (driver, registrar, relay)] == [
        True,
        None,
        None,
    ]


def test_second_namespace_is_the_runs_own(cluster: PaperCluster, tmp_path: Path) -> None:
    """A namespace is made once, labelled like the others, and removed with them."""
    testbed = platform(cluster, tmp_path)

    for name in ("one", "two"):
        testbed.stranger(name, agent=AGENTS[0], like="api", namespace="x")

    made = [o["metadata"] for o in cluster.objects if o["kind"] == "Namespace"]
    assert [m["name"] for m in made] == ["demo-spire", "demo", "demo-x"]
    assert {m["labels"]["svidproof.dev/run"] for m in made} == {RUN}
    assert testbed._places.namespaces == ["demo-spire", "demo", "demo-x"]
    assert testbed._places.made == testbed._places.namespaces


def test_namespace_of_others_is_left_alone(cluster: PaperCluster, tmp_path: Path) -> None:
    """A namespace that is there already is not taken, so that it is not removed either."""
    testbed = platform(cluster, tmp_path)
    cluster.namespaces.add("demo-x")

    with pytest.raises(
        PlatformError, match="namespace demo-x exists and was not created by svidproof"
    ):
        testbed.stranger("one", agent=AGENTS[0], like="api", namespace="x")

    assert testbed._places.made == testbed._places.namespaces == ["demo-spire", "demo"]


def svid(spiffe_id: str) -> X509Svid:
    """An SVID of which only the ID counts."""
    return X509Svid(spiffe_id, (), b"", (), "")


@pytest.mark.parametrize(
    ("answer", "served", "refused"),
    [
        pytest.param(Answer(OK, "", (svid(OWN),), messages=1), True, False, id="own"),
        pytest.param(Answer(OK, "", (svid(OWN), svid("spiffe://x/y")), messages=1), False, False,
                     id="two"),
        pytest.param(Answer(OK, "", (svid("spiffe://x/y"),), messages=1), False, False, id="other"),
        pytest.param(Answer(OK, "", messages=1), False, False, id="none"),
        pytest.param(Answer(DENIED, "no identity issued"), False, True, id="denied"),
        pytest.param(Answer(grpc.StatusCode.DEADLINE_EXCEEDED, "late"), False, False, id="late"),
        pytest.param(Answer(grpc.StatusCode.UNAVAILABLE, "gone"), False, False, id="gone"),
    ],
)  # fmt: skip
def test_guest_is_served_or_refused_or_neither(
    monkeypatch: pytest.MonkeyPatch, answer: Answer, *, served: bool, refused: bool
) -> None:
    """Only exactly its own SVID is an identity, and only PermissionDenied is a refusal."""
    agent = cast("Any", SimpleNamespace(socket="/agent.sock", assert_alive=lambda: None))
    paper = cast("Any", SimpleNamespace(reach_socket=lambda *_: "unix:/nowhere"))
    guest = Guest("guest", agent, paper, lambda _name: None)
    monkeypatch.setattr(extra_workload, "fetch_x509", lambda *_, **__: answer)
    monkeypatch.setattr(extra_workload, "eventually", lambda condition, *_, **__: condition())

    for ask, holds in ((lambda: guest.await_svid(OWN), served), (guest.await_refusal, refused)):
        if holds:
            ask()
        else:
            with pytest.raises(NotYet, match="guest"):
                ask()
