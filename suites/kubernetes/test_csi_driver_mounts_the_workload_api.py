"""The SPIFFE CSI driver mounts the Workload API into pods, read-only, for their lifetime."""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import PurePosixPath

import pytest

from svidproof import (
    Capability,
    CsiDriver,
    ExtraWorkload,
    NotYet,
    PlatformError,
    Saw,
    SpireAgent,
    Testbed,
    budgets,
    eventually,
    needs,
    requirement,
)

pytestmark = needs(Capability.K8S_PSAT, Capability.OWN_SPIRE, Capability.SPIRE_LOGS, Capability.CSI)
# A new pod asks before its entry has reached the agent.
DENIED = r"No identity issued"
TRY_TO_CHANGE = """
import errno, json, os, sys
directory, socket = sys.argv[1:]
tried = {}
for name, act in {
    "create a file": lambda: open(f"{directory}/new", "w").close(),
    "make a directory": lambda: os.mkdir(f"{directory}/new"),
    "remove the socket": lambda: os.unlink(socket),
    "change the socket's mode": lambda: os.chmod(socket, 0o600),
}.items():
    try:
        act()
        tried[name] = "done"
    except OSError as error:
        tried[name] = errno.errorcode[error.errno]
mounts = [line.split() for line in open("/proc/self/mountinfo")]
print(json.dumps({"tried": tried, "mounts": [[m[3], m[4], m[5]] for m in mounts]}))
"""


@pytest.fixture(scope="module")
def csi(api: Testbed) -> Iterator[CsiDriver]:
    """The driver runs on every node."""
    with contextlib.ExitStack() as stack:
        for component in api.agents:
            stack.enter_context(api.provoking(component, DENIED))
        yield stack.enter_context(api.csi.running())


@requirement("CSI-1")
@pytest.mark.usefixtures("csi")
def test_socket_directory_is_mounted_once_and_read_only(api: Testbed, saw: Saw) -> None:
    """The agent's directory is mounted once in the pod, and every write attempt fails."""
    agent = api.agent_of("api")
    directory = str(PurePosixPath(agent.socket).parent)
    shared = f"/{PurePosixPath(directory).name}"

    with _pod(api, "csi-reader", agent) as pod:
        _served(api, pod)
        done = pod.run(TRY_TO_CHANGE, directory, agent.socket)

    tried = done["tried"]
    mounted = [m for m in done["mounts"] if m[0].endswith(shared)]
    assert set(tried.values()) == {"EROFS"}, f"attempts to change it: {tried}"
    assert [target for _, target, _ in mounted] == [directory], f"it is mounted: {mounted}"
    options = mounted[0][2].split(",")
    assert "ro" in options, f"it is mounted {options}"
    saw(f"{len(tried)} attempts: EROFS")


@requirement("CSI-2")
@pytest.mark.usefixtures("csi")
def test_every_pod_gets_its_own_svid_on_every_node(api: Testbed) -> None:
    """Two pods on each node have the volume, and each gets only its own SVID."""
    with contextlib.ExitStack() as stack:
        pods = [
            stack.enter_context(_pod(api, f"csi-{name}-{number}", agent))
            for number, agent in enumerate(api.agents.values())
            for name in ("one", "other")
        ]
        served = {pod.name: _served(api, pod) for pod in pods}

    assert len(set(served.values())) == len(pods), f"pods share SVIDs: {served}"


@requirement("CSI-3")
def test_volume_is_removed_with_its_pod(api: Testbed, csi: CsiDriver) -> None:
    """A deleted pod's volume is unmounted from the node, and another pod's stays."""
    agent = api.agent_of("api")

    with _pod(api, "csi-stays", agent) as stays, _pod(api, "csi-goes", agent) as goes:
        _served(api, stays)
        _served(api, goes)
        before = csi.volumes(agent)
        goes.leave()
        eventually(lambda: _assert_unmounted(csi, agent, goes), budgets.VOLUMES_GONE)
        after = csi.volumes(agent)

    assert {stays.uid, goes.uid} <= before, f"only {sorted(before)} of both pods had a volume"
    assert stays.uid in after, "the volume of the remaining pod was unmounted too"


@requirement("CSI-4")
def test_driver_restart_disconnects_no_pod(api: Testbed, csi: CsiDriver) -> None:
    """A restarted driver keeps pods connected, serves new pods and removes old volumes."""
    agent, ends = api.agent_of("api"), list[str]()

    with _pod(api, "csi-before", agent) as before, contextlib.ExitStack() as stack:
        _served(api, before)
        stack.enter_context(before.streaming(lambda answer: ends.append(str(answer))))
        csi.restart(agent)
        _served(api, before)
        after = stack.enter_context(_pod(api, "csi-after", agent))
        _served(api, after)
        there = csi.volumes(agent)
        closed = list(ends)
        stack.close()
        before.leave()
        for pod in (before, after):
            unmounted = functools.partial(_assert_unmounted, csi, agent, pod)
            eventually(unmounted, budgets.VOLUMES_GONE)

    assert not closed, f"the Workload API stream of a running pod was closed: {closed[0]}"
    assert {before.uid, after.uid} <= there, f"only {sorted(there)} of both pods had a volume"


@contextlib.contextmanager
def _pod(api: Testbed, name: str, agent: SpireAgent) -> Iterator[ExtraWorkload]:
    """Run a pod with the volume and an entry while the block runs."""
    with (
        api.extra_workload(name, like=name, agent=agent, but={"volume": api.csi.name}) as pod,
        api.registered(name, pod.selectors, agent=agent),
    ):
        yield pod


def _served(api: Testbed, pod: ExtraWorkload) -> int:
    """Wait for its own SVID and return the serial number; raises AssertionError."""
    try:
        return pod.await_svid(api.scenario.spiffe_id(pod.name)).chain[0].serial_number
    except PlatformError as error:
        raise AssertionError(f"{pod.name} is not served: {error}") from None


def _assert_unmounted(csi: CsiDriver, agent: SpireAgent, pod: ExtraWorkload) -> None:
    if pod.uid in csi.volumes(agent):
        raise NotYet(f"the volume of the deleted pod {pod.name} is still mounted")
