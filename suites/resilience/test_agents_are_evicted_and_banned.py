"""An agent that the server evicts attests again; one that the server bans does not."""

from http import HTTPStatus

import pytest

from svidproof import Measure, requirement
from svidproof.checks import Ban, Eviction

BANNED = "agent is banned"


@requirement("RESILIENCE-17")
def test_evicted_agent_attests_again(evicted_agent: Eviction, measure: Measure) -> None:
    """The server lists the evicted agent again, with another SVID and without a restart."""
    attested = evicted_agent.attested

    assert attested is not None, f"the server listed no evicted agent again; {evicted_agent.late}"
    measure("from an agent's eviction to its attestation", _after(evicted_agent, attested.at), "s")


@requirement("RESILIENCE-17")
@pytest.mark.parametrize("name", ["server", "client"])
def test_renewals_go_on(evicted_agent: Eviction, name: str) -> None:
    """Each sidecar gets SVIDs from the agent after it has attested again."""
    assert name in evicted_agent.renewed, f"{name} was not renewed; {evicted_agent.late}"


@requirement("RESILIENCE-17")
def test_no_request_fails(evicted_agent: Eviction) -> None:
    """Every request succeeds before and after the eviction."""
    requests = evicted_agent.requests()

    failed = [r for r in requests if r.status != HTTPStatus.OK]
    assert not failed, f"{len(failed)} of {len(requests)} failed; the first: {failed[0].note}"


@requirement("RESILIENCE-18")
def test_banned_agent_ends(banned_agent: Ban, measure: Measure) -> None:
    """The banned agent notices at its next sync, and exits with an error."""
    assert banned_agent.ended is not None, f"a banned agent went on; {banned_agent.late}"

    moment, status = banned_agent.ended

    assert status > 0, f"it ended with status {status}"
    measure("from an agent's ban to its end", moment.at - banned_agent.banned.at, "s")


@requirement("RESILIENCE-18")
def test_banned_agent_cannot_attest(banned_agent: Ban) -> None:
    """The banned agent is started again, is refused by the server with the reason, and exits."""
    assert banned_agent.again is not None, f"a banned agent went on; {banned_agent.late}"

    reasons = [r.fields.get("error", "") for r in banned_agent.lines]

    assert banned_agent.again > 0, f"its start ended with status {banned_agent.again}"
    assert any(BANNED in reason for reason in reasons), f"it logged {reasons[-1:]}"


def _after(eviction: Eviction, at: float) -> float:
    return at - eviction.evicted.at
