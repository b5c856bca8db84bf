"""The CSI driver is told of one plugin of the run's own, and leaves nothing on the nodes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from svidproof.components.spire import csi_driver
from svidproof.components.spire.csi_driver import CsiDriver
from svidproof.model.capabilities import Capability
from svidproof.model.errors import PlatformError
from svidproof.platforms.protocol import Completed
from svidproof.sabotage import find

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from svidproof.platforms.protocol import Program

AGENTS = {
    name: SimpleNamespace(component=name, socket="/run/svidproof/1a2b/agent.sock")
    for name in ("spire-agent-worker", "spire-agent-other")
}
MOUNT = "700 600 0:40 /{root} /kubelet/pods/{uid}/volumes/kubernetes.io~csi/agent/mount rw - x x rw"


class PaperPlatform:
    """A platform on which nothing runs: it remembers what it was told, in order."""

    name = "paper"
    capabilities = frozenset({Capability.CSI})

    def __init__(self) -> None:
        """Nothing is mounted."""
        self.told: list[tuple[str, str]] = []
        self.programs: dict[str, tuple[Program, ...]] = {}
        self.mounts: list[str] = []
        self.log = b'"Received NotifyRegistrationStatus call" status="plugin_registered:true"'

    def marks(self) -> dict[str, str]:
        """The run's label."""
        return {"svidproof.dev/run": "1a2b"}

    def declare(self, body: dict[str, Any]) -> None:
        """Remember."""
        self.told.append(("declare", body["metadata"]["name"]))

    def retract(self, body: dict[str, Any]) -> None:
        """Remember."""
        self.told.append(("retract", body["metadata"]["name"]))

    def daemon(self, *programs: Program, agent: str, name: str) -> None:
        """Remember."""
        self.programs[programs[0].place] = programs
        self.told.append(("start", programs[0].place))
        assert agent in AGENTS
        assert name.startswith("1a2b.")

    def remove(self, place: str) -> None:
        """Remember."""
        del self.programs[place]
        self.told.append(("remove", place))

    def run(self, place: str, _tool: str, args: Sequence[str]) -> Completed:
        """Answer with the mounts; remember what is more than a question."""
        if "rmtree" in args[1]:
            self.told.append(("clean", place))
        return Completed(0, "\n".join(self.mounts), "")

    def read_log(self, _component: str, _offset: int) -> bytes:
        """What the registrar says."""
        return self.log

    def exit_status(self, _component: str) -> int | None:
        """All run."""
        return None


@pytest.fixture
def paper() -> PaperPlatform:
    """A platform on paper."""
    return PaperPlatform()


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for."""

    def at_once(condition: Callable[[], object], *_: object, **__: object) -> object:
        return condition()

    monkeypatch.setattr(csi_driver, "eventually", at_once)


@pytest.fixture
def driver(paper: PaperPlatform) -> CsiDriver:
    """Its driver."""
    return CsiDriver(cast("Any", paper), cast("Any", AGENTS))


def test_each_node_has_one_and_it_goes(driver: CsiDriver, paper: PaperPlatform) -> None:
    """Kubernetes is told of it first and last; what it left on a node is removed with it."""
    with driver.running():
        names = driver.components
        began = len(paper.told)

    places = ["spiffe-csi-driver-worker", "spiffe-csi-driver-other"]
    assert names == tuple(f"{place}.{part}" for place in places for part in ("driver", "registrar"))
    assert paper.told[:began] == [("declare", driver.name), *(("start", p) for p in places)]
    ends = [(what, place) for place in reversed(places) for what in ("clean", "remove")]
    assert paper.told[began:] == [*ends, ("retract", driver.name)]
    assert driver.components == ()


def test_driver_and_kubelet_mean_the_same_socket(driver: CsiDriver, paper: PaperPlatform) -> None:
    """The plugin's directory on the node is named like the plugin, which is the run's own."""
    with driver.running():
        [own, registrar] = paper.programs["spiffe-csi-driver-worker"]

    assert own.args[own.args.index("-plugin-name") + 1] == driver.name
    socket = own.args[own.args.index("-csi-socket-path") + 1]
    assert registrar.args[registrar.args.index("-csi-address") + 1] == socket
    path = registrar.args[registrar.args.index("-kubelet-registration-path") + 1]
    assert path == f"/var/lib/kubelet/plugins/{driver.name}/csi.sock"
    assert driver.name == "1a2b.csi.svidproof.dev"


def test_restart_is_another_pod(driver: CsiDriver, paper: PaperPlatform) -> None:
    """It takes the other's place."""
    agent = cast("Any", AGENTS["spire-agent-worker"])
    place = "spiffe-csi-driver-worker"
    with driver.running():
        del paper.told[:]
        driver.restart(agent)
        again = list(paper.told)

    assert again == [("remove", place), ("start", place)]


def test_driver_that_stays_away_comes_back_to_clean(paper: PaperPlatform) -> None:
    """A sabotaged driver is away from its restart until the end, when it must clean."""
    driver = find("driver-stays-away").hooks.csi_driver(cast("Any", paper), cast("Any", AGENTS))
    agent = cast("Any", AGENTS["spire-agent-worker"])
    place = "spiffe-csi-driver-worker"
    with driver.running():
        del paper.told[:]
        driver.restart(agent)
        away, there = list(paper.told), driver.components
        del paper.told[:]

    assert away == [("remove", place)]
    assert not [name for name in there if name.startswith(place)]
    assert [what for what, of in paper.told if of == place] == ["start", "clean", "remove"]


def test_only_its_own_volumes_are_counted(driver: CsiDriver, paper: PaperPlatform) -> None:
    """A volume is known by the directory that is mounted: that of the testbed's own agent."""
    paper.mounts = [
        "36 35 98:0 / / rw master:1 - ext4 /dev/root rw",
        MOUNT.format(root="svidproof/1a2b", uid="ours"),
        MOUNT.format(root="svidproof/3c4d", uid="theirs"),
        "70 60 0:40 /svidproof/1a2b /elsewhere rw - x x rw",
    ]

    assert driver.volumes(cast("Any", AGENTS["spire-agent-worker"])) == {"ours"}


def test_kubelet_that_does_not_take_it_is_told(driver: CsiDriver, paper: PaperPlatform) -> None:
    """The node is named, and what was begun is ended."""
    paper.log = b'status="error:version mismatch"'

    with (
        pytest.raises(AssertionError, match="CSI driver of spire-agent-worker's node"),
        driver.running(),
    ):
        pass

    assert paper.told[-1] == ("retract", driver.name)
    assert paper.programs == {}


def test_platform_without_it_is_told(paper: PaperPlatform) -> None:
    """In one line."""
    paper.capabilities = frozenset()

    with pytest.raises(PlatformError, match="platform paper cannot run a CSI driver"):
        CsiDriver(cast("Any", paper), {})
