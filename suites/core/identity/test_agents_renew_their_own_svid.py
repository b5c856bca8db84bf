"""Agents renew their own SVIDs: an expired one stops the agent, and with it its workloads."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from svidproof import (
    TRUNCATION,
    Budget,
    Capability,
    Measure,
    Period,
    Testbed,
    Timestamp,
    as_uri,
    eventually,
    needs,
    reading,
    requirement,
)
from svidproof.checks import Observation

# Seconds between an agent's looks at its own SVID: SPIRE pkg/agent/svid/rotator_config.go.
LOOKS = 5.0


@dataclass(frozen=True)
class AgentSvid:
    """An agent's own SVID, as the server lists it."""

    signed: datetime
    expires: datetime

    @property
    def left(self) -> float:
        """Seconds until it expires."""
        return (self.expires - Timestamp.now().wall).total_seconds()


@requirement("ROTATION-10")
@needs(Capability.OWN_SPIRE, Capability.SPIRE_LOGS)
def test_agents_renew_their_own_svid(rotations: Observation, measure: Measure) -> None:
    """Each agent renews its own SVID when half of its lifetime is left, and not earlier."""
    testbed = rotations.testbed
    ttl = testbed.scenario.agent_ttl
    period = Period.of(ttl, LOOKS)

    for agent, agent_id in testbed.agent_ids.items():
        attested = _attested(testbed, agent)
        due = attested + timedelta(seconds=period.longest(ttl) + TRUNCATION)
        wait = max((due - Timestamp.now().wall).total_seconds(), TRUNCATION)
        svid = eventually(
            partial(_renewed_svid, testbed, agent_id, attested),
            Budget(f"{agent} renews its own SVID", wait, 0.25),
            alive=testbed.assert_alive,
        )

        left, times = svid.left, _times_renewed(testbed, agent_id, attested)
        measure(f"left of {agent}'s own SVID", round(left, 1), "s")
        assert left <= ttl, f"{agent}'s own SVID is valid for {left:.0f} s more, not {ttl} s"
        assert left >= period.latest, (
            f"{agent} has {left:.0f} s of its own SVID left, not {period.latest:.0f} s"
        )
        passed = (Timestamp.now().wall - attested).total_seconds()
        assert times <= passed / (ttl - period.earliest), (
            f"{agent} renewed its own SVID {times} times in {passed:.0f} s"
        )


def _attested(testbed: Testbed, agent: str) -> datetime:
    """The time of an agent's last attestation, from its log."""
    lines = testbed.watch.timeline.logs(agent, testbed.messages.attested)
    assert lines, f"{agent} did not log its attestation"
    return lines[-1].wall


def _renewed_svid(testbed: Testbed, agent_id: str, attested: datetime) -> AgentSvid:
    """The agent's SVID; raises AssertionError while it is the one from its attestation."""
    svid = agent_svid(testbed, agent_id)
    assert svid.signed > attested, (
        f"{agent_id} still has the SVID from its attestation, which expires {svid.expires:%X}"
    )
    return svid


def _times_renewed(testbed: Testbed, agent_id: str, attested: datetime) -> int:
    """How often the server logged a renewal of an agent's SVID since its attestation."""
    lines = testbed.watch.timeline.logs(testbed.spire.component, testbed.messages.admitted)
    return sum(r.fields.get("agent_id") == agent_id and r.wall > attested for r in lines)


def agent_svid(testbed: Testbed, agent_id: str) -> AgentSvid:
    """The agent's SVID as the server lists it; raises AssertionError for an unknown agent."""
    found = [a for a in testbed.spire.agents() if as_uri(a["id"]) == agent_id]
    assert found, f"the server does not list {agent_id}"
    with reading(f"the server's listing of {agent_id}"):
        expires = datetime.fromtimestamp(int(found[0]["x509svid_expires_at"]), UTC)
    return AgentSvid(expires - timedelta(seconds=testbed.scenario.agent_ttl), expires)
