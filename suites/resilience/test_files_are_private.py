"""Files with keys are for their own user, and the Workload API is for every user."""

import pytest

from svidproof import Capability, Saw, needs, requirement
from svidproof.checks import Modes

pytestmark = [requirement("RESILIENCE-42"), needs(Capability.OWN_MACHINE)]
OTHERS, GROUP_AND_OTHERS, EVERYBODY_WRITES = 0o007, 0o077, 0o222
MODES = {"restarts": "server_modes", "agent-keys": "agent_modes"}
each_scenario = pytest.mark.parametrize("scenario", list(MODES))


@pytest.fixture
def modes(request: pytest.FixtureRequest, scenario: str) -> Modes:
    """The permissions in a scenario whose server, or agent, keeps its keys on disk."""
    found: Modes = request.getfixturevalue(MODES[scenario])
    return found


@each_scenario
def test_keys_are_for_their_user(modes: Modes, saw: Saw) -> None:
    """No other user can read or replace a file with keys."""
    files = modes.keys
    assert any(path.endswith("/keys.json") for path in files), f"no keys on disk: {sorted(files)}"

    for path, mode in files.items():
        assert not mode & GROUP_AND_OTHERS, f"{path} has the mode {mode:o}"
    saw(_shown(files))


@each_scenario
def test_servers_socket_is_for_its_group(modes: Modes, saw: Saw) -> None:
    """No user outside the server's group can administer it."""
    sockets = modes.administration
    assert sockets, "the server has no socket"

    for path, mode in sockets.items():
        assert not mode & OTHERS, f"{path} has the mode {mode:o}"
    saw(_shown(sockets))


@each_scenario
def test_workload_api_is_for_every_user(modes: Modes, saw: Saw) -> None:
    """A process of every user can connect to the Workload API, whose agent finds out who it is."""
    sockets = modes.workload_api
    assert sockets, "the agent has no socket"

    for path, mode in sockets.items():
        assert mode & EVERYBODY_WRITES == EVERYBODY_WRITES, f"{path} has the mode {mode:o}"
    saw(_shown(sockets))


def _shown(modes: dict[str, int]) -> str:
    return ", ".join(f"{path.rpartition('/')[2]} {mode:o}" for path, mode in modes.items())
