"""On a cluster a testbed takes away the namespaces that it has made, and no others."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from svidproof.model.capabilities import AT_NEED, Capability
from svidproof.model.errors import PlatformError
from svidproof.model.scenario import load_scenario
from svidproof.platforms import created, leftovers
from svidproof.platforms.created import Made
from svidproof.platforms.kubernetes import cluster as clusters
from svidproof.platforms.kubernetes.client import kubeconfig
from svidproof.platforms.kubernetes.client.api import Cluster, Node
from svidproof.platforms.kubernetes.client.kubeconfig import Context
from svidproof.platforms.kubernetes.client.permissions import Denied, Need
from svidproof.platforms.kubernetes.cluster import ClusterSite
from svidproof.platforms.kubernetes.platform import KubernetesPlatform
from svidproof.platforms.kubernetes.pods import placement
from svidproof.platforms.kubernetes.pods.placement import Ground
from svidproof.platforms.kubernetes.site import KubernetesSite
from svidproof.platforms.protocol import Part, SiteOptions
from svidproof.platforms.run_directory import RunDirectory
from svidproof.supply import images
from svidproof.supply.tools import Progress, Tool
from svidproof.testbed.testbed import Testbed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NODE = Node("kind-worker", "kind-worker", "uid-1")


class PaperCluster(Cluster):
    """A cluster that has namespaces, and nothing else."""

    where = "https://paper"

    def __init__(self, **namespaces: str) -> None:
        """These are there, each with its run, which is empty if it is none of ours."""
        self.there = namespaces
        self.client = None
        self.lingers = 0
        self.refuses = ""
        self.removed: list[str] = []
        self.pulled: list[dict[str, str]] = []

    def namespace_run(self, name: str) -> str | None:
        """Look; what is being removed is gone when it was looked at often enough."""
        if name in self.removed:
            self.lingers -= 1
        return self.there.get(name) if name not in self.removed or self.lingers >= 0 else None

    def namespaces_of_runs(self, machine: str) -> list[tuple[str, str]]:  # noqa: ARG002
        """All that runs have made."""
        return [(name, run) for name, run in self.there.items() if run]

    def version(self) -> str:
        """That of the API server."""
        return "1.34.0"

    def nodes(self) -> list[Node]:
        """The only one."""
        return [NODE]

    def apply(self, template: str, **values: object) -> list[Any]:  # noqa: ARG002
        """Make a namespace, even if that is not told any more."""
        name = str(values["namespace"])
        self.there[name] = str(values["run"])
        if name == self.refuses:
            raise PlatformError(f"cannot apply Namespace {name}: timed out")
        return []

    def delete_all_of(self, run: str, namespaces: Sequence[str]) -> None:  # noqa: ARG002
        """Begin to remove namespaces."""
        for name in namespaces:
            self.removed.append(name)
            if not self.lingers:
                self.there.pop(name, None)

    def delete_namespace(self, run: str, thing: Made) -> None:
        """Likewise, by its note."""
        self.delete_all_of(run, [thing.name])

    def delete_wide(self, run: str) -> None:
        """There is nothing but namespaces."""


@pytest.fixture(autouse=True)
def _on_paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of the test's own; pods are not followed."""
    monkeypatch.setenv("SVIDPROOF_CACHE", str(tmp_path))
    quiet = SimpleNamespace(close=lambda: None)
    monkeypatch.setattr(placement, "Pods", lambda *_: quiet)


def ground(cluster: Cluster) -> Ground:
    """Where the testbeds of a run stand."""
    return Ground(
        cluster=cluster,
        name="kind",
        images={},
        nodes=(NODE,),
        namespace="demo",
        tolerates=False,
        disposable=False,
    )


def test_what_was_made_is_removed() -> None:
    """Both of a testbed's namespaces."""
    cluster = PaperCluster(others="")

    KubernetesPlatform(ground(cluster), "example.org").close()

    assert cluster.removed == ["demo-spire", "demo"]
    assert list(cluster.there) == ["others"]


@pytest.mark.parametrize(
    ("taken", "removed"), [("demo-spire", []), ("demo", ["demo-spire"])], ids=["first", "second"]
)
def test_what_was_there_stays(taken: str, removed: list[str]) -> None:
    """A testbed that finds a namespace of others gives up, and leaves it."""
    cluster = PaperCluster(**{taken: ""})

    with pytest.raises(
        PlatformError, match=f"namespace {taken} exists and was not created by svidproof"
    ):
        KubernetesPlatform(ground(cluster), "example.org")

    assert cluster.removed == removed
    assert cluster.there == {taken: ""}


def test_what_may_have_been_made_is_removed() -> None:
    """An answer that does not come does not say that nothing was made."""
    cluster = PaperCluster()
    cluster.refuses = "demo"

    with pytest.raises(PlatformError, match="timed out"):
        KubernetesPlatform(ground(cluster), "example.org")

    assert cluster.removed == ["demo-spire", "demo"]
    assert cluster.there == {}


class PaperSite(KubernetesSite):
    """A cluster on paper, for one run."""

    def _open(self) -> Ground:
        return ground(PaperCluster())

    def _image_of(self, tool: Tool) -> tuple[str, Part]:
        raise NotImplementedError(tool.name)


def test_testbeds_of_a_run_do_not_meet() -> None:
    """Each has namespaces of its own, and leaves those of the others."""
    site = PaperSite({}, SiteOptions(), Progress.silent())
    site.open()
    assert site._ground is not None
    cluster = cast("PaperCluster", site._ground.cluster)

    first, second, third = (site.platform("example.org") for _ in range(3))
    there = list(cluster.there)
    second.close()

    names = ["demo-spire", "demo", "demo-2-spire", "demo-2", "demo-3-spire", "demo-3"]
    assert there == names
    assert [*cluster.there] == [*names[:2], *names[4:]]
    first.close()
    third.close()


def test_site_that_is_not_open_has_no_testbeds() -> None:
    """It is said in one line."""
    with pytest.raises(PlatformError, match="has not been opened"):
        PaperSite({}, SiteOptions(), Progress.silent()).platform("example.org")


def at_need(*wanted: Capability, absent: dict[str, str] | None = None) -> PaperSite:
    """A site of a run whose checks want this; `absent` are tools that cannot be had."""
    options = SiteOptions(wanted=frozenset(wanted), absent=absent or {})
    return PaperSite({}, options, Progress.silent())


def test_only_what_is_wanted_is_got(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose checks need none of it gets no image and no kind."""
    got: list[str] = []

    def image_of(_: PaperSite, tool: Tool) -> tuple[str, Part]:
        got.append(tool.name)
        return f"{tool.name}:1", Part(tool.name, tool.version, "image")

    monkeypatch.setattr(PaperSite, "_image_of", image_of)
    nothing = at_need(Capability.PAUSE)._get_more()
    some = at_need(Capability.CSI)._get_more()

    assert (nothing.references, nothing.parts, nothing.crds) == ({}, (), "")
    assert got == list(some.references) == ["spiffe-csi-driver", "node-driver-registrar"]
    assert [part.name for part in some.parts] == got


def test_what_cannot_be_had_is_told_and_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two is not enough; whether a binary or an image is lacking, its reason is told."""

    def image_of(_: PaperSite, tool: Tool) -> tuple[str, Part]:
        if tool.name == "node-driver-registrar":
            raise images.ImageError("no such image")
        return f"{tool.name}:1", Part(tool.name, tool.version, "image")

    monkeypatch.setattr(PaperSite, "_image_of", image_of)
    lacking = "spire-controller-manager"
    site = at_need(*AT_NEED, absent={lacking: "it cannot be built"})

    more = site._get_more()

    assert more.references == {}
    assert site.absent == {
        Capability.CSI: "no such image",
        Capability.CONTROLLER_MANAGER: "it cannot be built",
    }


def test_what_is_not_permitted_is_not_got(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a cluster of the user's the checks that need it are unsupported, and told why."""
    need = Need("csidrivers", ("create",), "the cluster is told of it")
    asked: list[tuple[Need, ...]] = []

    def missing(_: object, needs: tuple[Need, ...]) -> list[Denied]:
        asked.append(needs)
        return [Denied(need, ("create",), "", "ask")]

    monkeypatch.setattr(clusters, "missing_rights", missing)
    options = SiteOptions(wanted=frozenset({Capability.CSI, Capability.PAUSE}))
    site = ClusterSite({}, options, Progress.silent())

    site.lacks = site._denied(PaperCluster())

    assert site.lacks == {
        Capability.CSI: "cannot create csidrivers in the whole cluster: the cluster is told of it"
    }
    assert len(asked) == 1
    assert site._get_more().references == {}


def test_image_that_no_registry_has_is_the_users_to_give() -> None:
    """Where a cluster pulls, a scenario's own tool is in an image of the user's, or unsupported."""
    lacking = ClusterSite({}, SiteOptions(further=("spiffe-helper",)), Progress.silent())
    given = {"spiffe-helper": "registry.example/helper:1"}
    options = SiteOptions(further=("spiffe-helper",), image=given)
    site = ClusterSite({}, options, Progress.silent())

    assert lacking._get_further({"workload": "w:1"}).references == {}
    assert site._get_further({"workload": "w:1"}).references == given

    assert "--image spiffe-helper=REFERENCE" in lacking.lacks[Capability.FURTHER_TOOLS]
    assert not site.lacks


def test_further_image_stands_on_the_workloads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where images are made, it is made on that of the suite's own programs."""
    asked: list[tuple[str, str]] = []
    tool = Tool("spiffe-helper", "0.11.0", Path("/helper"), "go-module", "1a2b", "")

    def prepare(_mode: str, component: Tool, *, base: str, **_: object) -> images.Prepared:
        asked.append((component.name, base))
        return images.Prepared("build", None, {component.name: "h:1"}, ("h:1",),
                               {component.name: images.BUILT})  # fmt: skip

    monkeypatch.setattr(images, "prepare_more", prepare)
    options = SiteOptions(images="build", further=("spiffe-helper",))

    more = ClusterSite({tool.name: tool}, options, Progress.silent())._get_further(
        {"workload": "w:1"}
    )

    assert asked == [("spiffe-helper", "w:1")]
    assert more.references == {"spiffe-helper": "h:1"}
    assert [(part.name, part.version) for part in more.parts] == [("spiffe-helper", "0.11.0")]


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> Callable[[PaperCluster], ClusterSite]:
    """Opens a cluster of the user's in which all is permitted, with --namespace demo."""

    def enter(cluster: PaperCluster) -> ClusterSite:
        context = Context("mine", "/kubeconfig")
        monkeypatch.setattr(kubeconfig, "choose", lambda _: context)
        monkeypatch.setattr(clusters, "Cluster", lambda *_: cluster)
        monkeypatch.setattr(clusters, "missing_permissions", lambda *_: [])
        monkeypatch.setattr(ClusterSite, "_images", lambda _: ({"envoy": "envoy:1"}, []))
        monkeypatch.setattr(clusters, "pull", lambda *told: cluster.pulled.append(told[2]))
        site = ClusterSite({}, SiteOptions(namespace="demo"), Progress.silent())
        site.open()
        site.close()
        return site

    return enter


def test_what_a_killed_run_left_is_no_hindrance(
    entered: Callable[[PaperCluster], ClusterSite],
) -> None:
    """Its namespaces go first, and are waited for."""
    cluster = PaperCluster(demo="gone", other="gone", **{"demo-spire": "gone"})
    cluster.lingers = 3
    leftovers.take()
    for name in ("demo", "demo-spire"):
        created.note("gone", Made(cluster.where, "v1/Namespace", name, f"uid of {name}"))

    assert entered(cluster).parts[-1].version == "1.34.0"
    assert cluster.pulled == [{"envoy": "envoy:1"}], "or a renewal passes while one is pulled"

    assert cluster.removed == ["demo", "demo-spire"]
    assert cluster.lingers < 0
    assert [line.partition(",")[0] for line in leftovers.take()] == [
        "namespace other has this installation's label"
    ]


def test_what_a_run_that_goes_on_has_made_stays(
    entered: Callable[[PaperCluster], ClusterSite],
) -> None:
    """Nor is it used."""
    run = RunDirectory()
    cluster = PaperCluster(demo=run.id)

    with pytest.raises(PlatformError, match=f"namespace demo exists and belongs to run {run.id}"):
        entered(cluster)

    run.close()
    assert cluster.removed == []


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ("", "was not created by svidproof"),
        ("1a2b", "belongs to run 1a2b, which still runs or was killed"),
    ],
)
def test_namespace_of_others_is_told(run: str, expected: str) -> None:
    """A namespace that is there is never taken over."""
    with pytest.raises(PlatformError, match=f"namespace kube-system exists and {expected}"):
        PaperCluster(**{"kube-system": run}).assert_free("kube-system")


def test_testbed_that_cannot_be_prepared_leaves_nothing() -> None:
    """What was made before one namespace, or what is outside, could not be had is taken away."""
    closed = []

    class Full:
        """A platform that has no room for another namespace."""

        capabilities = frozenset[Capability]()
        agents = ("spire-agent",)
        id_prefix = "spiffe://example.org"

        def private_endpoint(self, place: str, name: str) -> str:
            """A path."""
            return f"/{place}/{name}"

        def agent_of(self, _place: str) -> str:
            """The only one."""
            return "spire-agent"

        def settle(self, *_: object, **__: object) -> None:
            """Say no."""
            raise PlatformError("no more namespaces")

        def close(self) -> None:
            """Once."""
            closed.append(True)

    with pytest.raises(PlatformError, match="no more namespaces"):
        Testbed(cast("Any", Full()), load_scenario("front-proxy"))

    assert closed == [True]
