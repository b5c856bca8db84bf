"""SPIRE agent is down, and sidecars keep their secrets and reconnect to it.

A sidecar reopens its SDS streams with Envoy's backoff: after a random time of at most 30 seconds.
See svidproof.model.rules.recovery_rule.
"""

from collections.abc import Mapping

import pytest

from svidproof import BUNDLE, Measure, requirement
from svidproof.checks import Outage, assert_recovered

CLIENT, BOTH = "client", ("server", "client")
each_end = pytest.mark.parametrize("how", ["stopped", "killed"])
each_sidecar = pytest.mark.parametrize("name", BOTH)


@requirement("RESILIENCE-5")
@each_end
def test_no_request_fails_without_the_agent(
    agent_restarted: Mapping[str, Outage], how: str
) -> None:
    """Every request succeeds while the agent is down."""
    agent_restarted[how].assert_none_failed(CLIENT)


@requirement("RESILIENCE-5")
def test_no_request_fails_while_the_agent_hangs(agent_paused: Outage) -> None:
    """Every request succeeds while the agent hangs."""
    agent_paused.assert_none_failed(CLIENT)


@requirement("RESILIENCE-6")
@each_end
@each_sidecar
def test_streams_are_opened_again(
    agent_restarted: Mapping[str, Outage], how: str, name: str
) -> None:
    """The new agent gets requests for the SVID and the bundle of each sidecar."""
    outage = agent_restarted[how]

    missing = {outage.testbed.scenario.spiffe_id(name), BUNDLE} - outage.streams(name)

    assert not missing, f"{name} has not asked for {sorted(missing)}; {outage.late}"


@requirement("RESILIENCE-6")
@each_end
@each_sidecar
def test_sidecars_get_new_svids(
    agent_restarted: Mapping[str, Outage], how: str, name: str, measure: Measure
) -> None:
    """Each sidecar gets an SVID of the new agent within the bound of Envoy's backoff."""
    took = assert_recovered(agent_restarted[how], name)

    measure(f"from the agent's start to a new SVID, agent {how}, {name}", took, "s")


@requirement("RESILIENCE-6")
@each_sidecar
def test_renewals_resume_after_a_hang(agent_paused: Outage, name: str, measure: Measure) -> None:
    """Each sidecar gets an SVID signed after the agent resumes, over its existing stream."""
    took = assert_recovered(agent_paused, name)

    measure(f"from the agent's resumption to a new SVID, {name}", took, "s")


@requirement("RESILIENCE-7")
@each_sidecar
def test_sidecars_recover_after_expiry(agent_gone: Outage, name: str, measure: Measure) -> None:
    """After an absence longer than SVIDs live, each sidecar gets a new SVID without a restart."""
    took = assert_recovered(agent_gone, name)

    measure(f"from the agent's start to a new SVID, all expired, {name}", took, "s")


@requirement("RESILIENCE-7")
def test_requests_succeed_again(agent_gone: Outage, measure: Measure) -> None:
    """Requests succeed again once both sidecars have new SVIDs."""
    served = agent_gone.assert_served_again(CLIENT)

    measure("from the agent's start to a request", served.sent.at - agent_gone.back.at, "s")
