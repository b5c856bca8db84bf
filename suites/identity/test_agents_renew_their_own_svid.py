"""Agents renew their own SVIDs: one that expires stops the agent and then its workloads."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from svidproof import Capability, Measure, Testbed, eventually, needs, requirement
from svidproof.budgets import Budget
from svidproof.clock import Moment
from svidproof.faults import reading
from svidproof.renewal_rule import TRUNCATION, Period
from svidproof.scenario import as_uri
from svidproof.watch.observation import Observation

# Seconds between two looks of an agent at its own SVID: SPIRE pkg/agent/svid/rotator_config.go.
LOOKS = 5.0


@dataclass(frozen=True)
class Own:
    """An agent's own SVID, as the server knows it."""

    signed: datetime
    ends: datetime


@requirement("ROTATION-10")
@needs(Capability.OWN_SPIRE, Capability.SPIRE_LOGS)
def test_agents_renew_their_own_svid(rotations: Observation, measure: Measure) -> None:
    """Each agent renews its own SVID when half of its lifetime is left, and not earlier."""
    testbed = rotations.testbed
    texts, ttl = testbed.messages, testbed.scenario.agent_ttl
    period = Period.of(ttl, LOOKS)
    latest, soonest = period.latest, ttl - period.earliest
    admitted = testbed.watch.timeline.logs(testbed.spire.component, texts.admitted)

    for agent, own_id in testbed.agent_ids.items():
        attested = testbed.watch.timeline.logs(agent, texts.attested)
        assert attested, f"{agent} does not tell that it was attested"
        first = attested[-1].wall
        due = first + timedelta(seconds=ttl - latest)
        left = (due - Moment.now().wall).total_seconds()
        budget = Budget(f"{agent} renews its own SVID", max(left, 0) + TRUNCATION, 0.25)

        def renewed(own_id: str = own_id, agent: str = agent, first: datetime = first) -> Own:
            own = own_svid(testbed, own_id)
            assert own.signed > first, f"{agent} has the SVID of its start, until {own.ends:%X}"
            return own

        own = eventually(renewed, budget, alive=testbed.assert_alive)
        left = (own.ends - Moment.now().wall).total_seconds()
        assert left <= ttl, f"{agent}'s own SVID lives for {left:.0f} s, not {ttl} s"
        measure(f"left of {agent}'s own SVID", round(left, 1), "s")
        assert left >= latest, f"{agent} has {left:.0f} s of its own SVID left, not {latest:.0f} s"
        again = [r for r in admitted if r.fields.get("agent_id") == own_id and r.wall > first]
        passed = (Moment.now().wall - first).total_seconds()
        assert len(again) <= passed / soonest, (
            f"{agent} attested again {len(again)} times in {passed:.0f} s"
        )


def own_svid(testbed: Testbed, agent_id: str) -> Own:
    """What the server lists; raises AssertionError for an agent that it does not know."""
    found = [a for a in testbed.spire.agents() if as_uri(a["id"]) == agent_id]
    assert found, f"the server does not list {agent_id}"
    with reading(f"what the server tells of {agent_id}"):
        ends = datetime.fromtimestamp(int(found[0]["x509svid_expires_at"]), UTC)
    return Own(ends - timedelta(seconds=testbed.scenario.agent_ttl), ends)
