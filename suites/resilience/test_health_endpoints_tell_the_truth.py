"""`/live`, `/ready` and `healthcheck` of server and agent, and Envoy's `/ready`, under each fault.

Each record has the answers before, during and after the fault. A sidecar with a valid SVID is
healthy without SPIRE; an agent is healthy without its server as long as the SVIDs that it serves
are valid.
"""

from collections.abc import Mapping

import pytest

from svidproof import Saw, health, requirement
from svidproof.checks import Outage, assert_health_is_true

pytestmark = requirement("RESILIENCE-10")


class Untrue(AssertionError):  # noqa: N818  a verdict, not a programming error
    """Raised if a component reports that it is healthy although it is not."""


@pytest.mark.parametrize("how", ["stopped", "paused"])
def test_server_away(server_away: Mapping[str, Outage], how: str, saw: Saw) -> None:
    """Only the server is unhealthy while it is stopped or hangs."""
    assert_health_is_true(server_away[how])

    saw(str(server_away[how].health["during"]))


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_agent_away(agent_restarted: Mapping[str, Outage], how: str, saw: Saw) -> None:
    """Only the agent is unhealthy while it is down."""
    assert_health_is_true(agent_restarted[how])

    saw(str(agent_restarted[how].health["during"]))


def test_agent_hangs(agent_paused: Outage, saw: Saw) -> None:
    """Only the agent is unhealthy while it hangs."""
    assert_health_is_true(agent_paused)

    saw(str(agent_paused.health["during"]))


def test_everything_asleep(asleep: Outage) -> None:
    """No component is healthy while all are paused, and every component is healthy afterwards."""
    assert_health_is_true(asleep)


@pytest.mark.parametrize("how", ["refused", "held", "delayed"])
def test_connection_broken(connection_broken: Mapping[str, Outage], how: str) -> None:
    """Server, agent and sidecars are healthy as long as all SVIDs that they serve are valid."""
    assert_health_is_true(connection_broken[how])


@pytest.mark.parametrize("endpoint", [health.READY, health.COMMAND])
def test_agent_with_expired_svids_is_not_ready(server_gone: Outage, endpoint: str) -> None:
    """An agent is not ready once all SVIDs that it serves have expired."""
    agent = next(iter(server_gone.testbed.agents))

    answer = server_gone.health["during"].of(agent, endpoint)

    if answer == health.HEALTHY:
        raise Untrue(f"{agent} {endpoint}: healthy, though every SVID had expired")
    assert answer == health.UNHEALTHY, f"{agent} {endpoint}: {answer}"
