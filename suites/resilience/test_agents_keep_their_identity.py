"""An agent with keys on disk keeps its identity after a restart; and agents that lack theirs."""

from collections.abc import Mapping
from http import HTTPStatus

import pytest

from svidproof import Measure, Saw, health, requirement
from svidproof.checks import SPENT, AgentRestart, AgentStart, Answers, Unstored

each_end = pytest.mark.parametrize("how", ["stopped", "killed"])
each_endpoint = pytest.mark.parametrize("endpoint", [health.READY, health.COMMAND])
# What an agent logs at its start of an attestation, and of an SVID that it has kept. It renews its
# SVID by attesting, too, if its attestor can do that again, and logs that otherwise.
ATTESTS, LOADED = "Starting node attestation", "SVID loaded"


class Untrue(AssertionError):  # noqa: N818  a verdict, not a programming error
    """Raised if an agent reports that it is healthy although it is not."""


@requirement("RESILIENCE-25")
@each_end
def test_agent_loads_its_svid(agent_kept: Mapping[str, AgentRestart], how: str) -> None:
    """The agent loads its stored SVID, and does not attest again."""
    restart = agent_kept[how]

    attested = [m for m in restart.messages if ATTESTS in m]
    assert not attested, f"the agent attested again after it was {how}: {attested[0]}"
    assert any(LOADED in m for m in restart.messages), f"the agent loaded no SVID; {restart.late}"


@requirement("RESILIENCE-25")
@each_end
def test_no_request_fails(agent_kept: Mapping[str, AgentRestart], how: str) -> None:
    """Every request succeeds during the restart and after it."""
    requests = agent_kept[how].requests()

    assert requests, "no request was sent during the restart"
    failed = [r for r in requests if r.status != HTTPStatus.OK]
    assert not failed, f"{len(failed)} of {len(requests)} failed; the first: {failed[0].note}"


@requirement("RESILIENCE-44")
def test_agent_trusts_the_present_ca(agent_below_another_ca: AgentRestart) -> None:
    """After a restart, the agent connects by its stored bundle, and does not attest again."""
    restart = agent_below_another_ca

    attested = [m for m in restart.messages if ATTESTS in m]
    assert not attested, f"the agent attested again below another CA: {attested[0]}"
    assert any(LOADED in m for m in restart.messages), f"the agent loaded no SVID; {restart.late}"
    assert restart.late == "nothing was late", f"the agent was not ready again; {restart.late}"


@requirement("RESILIENCE-26")
@each_endpoint
def test_agent_notices_that_its_data_is_lost(data_lost: Unstored, endpoint: str, saw: Saw) -> None:
    """An agent that cannot store its next SVID is not ready before the present one expires."""
    said = data_lost.during[endpoint]
    saw(f"{endpoint}: {', '.join(said)}; recovered without a restart: {data_lost.recovered}")

    if health.HEALTHY in said:
        raise Untrue(f"{endpoint}: healthy, with {data_lost.fault.name}")


@requirement("RESILIENCE-26")
def test_agent_renews_its_svid_when_its_data_is_back(data_lost: Unstored, measure: Measure) -> None:
    """Once the directory is back, the agent renews its own SVID within the bound of its rule."""
    took = data_lost.renewed_s()

    measure("from the return of an agent's data to its next SVID", took, "s")
    assert took <= data_lost.bound, (
        f"the agent renewed its own SVID after {took:.1f} s, not {data_lost.bound:.1f} s"
    )


@requirement("RESILIENCE-26")
@each_endpoint
def test_agent_is_ready_when_its_data_is_back(data_lost: Unstored, endpoint: str) -> None:
    """Once the directory is back, the agent is healthy without a restart."""
    assert data_lost.recovered, "the agent was not ready when its data was back"
    assert data_lost.after[endpoint] == health.HEALTHY, f"{endpoint}: {data_lost.after[endpoint]}"


@requirement("RESILIENCE-28")
@each_endpoint
def test_agent_without_a_server_is_not_ready(agent_alone: Answers, endpoint: str, saw: Saw) -> None:
    """An agent that starts without a server is not healthy."""
    said = agent_alone.during[endpoint]

    if health.HEALTHY in said:
        raise Untrue(f"{endpoint}: healthy, with an agent that has not attested")
    saw(f"{endpoint} of an agent that has not attested: {', '.join(said)}")


@requirement("RESILIENCE-28")
@each_endpoint
def test_agent_is_ready_when_its_server_is_there(agent_alone: Answers, endpoint: str) -> None:
    """Once the server is up, the agent attests without a restart, and is healthy."""
    assert agent_alone.recovered, "the agent was not ready after its server's return"
    assert agent_alone.after[endpoint] == health.HEALTHY, (
        f"{endpoint}: {agent_alone.after[endpoint]}"
    )


@requirement("RESILIENCE-29")
def test_one_of_two_agents_attests(twins: tuple[AgentStart, ...]) -> None:
    """Exactly one of two agents with the same join token is ready."""
    ready = sum(start.ready for start in twins)

    assert ready == 1, f"{ready} of 2 agents with one join token attested"


@requirement("RESILIENCE-29")
def test_other_agent_says_why(twins: tuple[AgentStart, ...]) -> None:
    """The agent that is refused logs that the token has been used."""
    others = [start for start in twins if not start.ready]

    assert others, "no agent was refused: both attested with one join token"
    for other in others:
        assert SPENT in other.log, f"it logged no reason: {other.log.splitlines()[-1:]}"


@requirement("RESILIENCE-30")
def test_expired_agent_attests_again(agents_expired: Mapping[str, AgentStart]) -> None:
    """An agent whose SVID has expired and whose node attestor can attest again is ready again."""
    start = agents_expired["can"]

    assert start.ready, f"it did not attest again: {start.log.splitlines()[-1:]}"
    assert ATTESTS in start.log, "it logged no attestation"


@requirement("RESILIENCE-30")
def test_expired_agent_says_why_it_cannot(agents_expired: Mapping[str, AgentStart]) -> None:
    """An agent whose join token has been used is not ready, and logs why."""
    start = agents_expired["cannot"]

    assert not start.ready, "an agent attested again with a join token that had been used"
    assert SPENT in start.log, f"it logged no reason: {start.log.splitlines()[-1:]}"
