"""A pod that is rescheduled to another node keeps its SPIFFE ID and gets a new SVID there.

The pod moves once, and its entry is replaced by one for the new node's agent. The checks only read
what was recorded.
"""

import contextlib
from dataclasses import dataclass

import pytest

from svidproof import (
    Budget,
    Capability,
    LogRecord,
    NotYet,
    SpireAgent,
    Testbed,
    budgets,
    consistently,
    eventually,
    key_hash,
    needs,
    requirement,
)
from svidproof.probes import X509Svid

pytestmark = [
    requirement("K8S-3"),
    needs(Capability.K8S_PSAT, Capability.OWN_SPIRE, Capability.SPIRE_LOGS),
]
STAYS_DENIED = Budget("stays denied", 1, 0.2)
DENIED = r"No identity issued"


@dataclass(frozen=True)
class Move:
    """A pod was rescheduled; a pod with the same selectors stayed on the old node.

    Attributes:
        agents: the agents of the old and of the new node.
        svids: the pod's SVIDs on the old and on the new node.
        entry: the ID of the entry for the old node.
        still_served: why the pod on the old node counts as served; empty if it is denied.
    """

    agents: tuple[SpireAgent, SpireAgent]
    svids: tuple[X509Svid, X509Svid]
    entry: str
    still_served: str


@pytest.fixture(scope="module")
def move(api: Testbed) -> Move:
    """A pod is deleted on one node and created on another, and so is its entry."""
    own, old = api.scenario.spiffe_id("mover"), api.agent_of("api")
    new = api.another_agent(old)
    still_served = ""
    with contextlib.ExitStack() as stack:
        for agent in (old, new):
            stack.enter_context(api.provoking(agent.component, DENIED))
        mover = stack.enter_context(api.extra_workload("mover", agent=old))
        twin = stack.enter_context(api.extra_workload("mover-twin", like="mover", agent=old))
        entry = stack.enter_context(api.registered("mover", mover.selectors, agent=old))
        before = mover.await_svid(own)
        twin.await_svid(own)
        mover.leave()
        mover = stack.enter_context(api.extra_workload("mover", agent=new))
        api.spire.delete_entry(entry)
        stack.enter_context(api.registered("mover", mover.selectors, agent=new))
        after = mover.await_svid(own)
        try:
            twin.await_refusal()
            consistently(twin.assert_refused, STAYS_DENIED)
        except AssertionError as error:
            still_served = str(error)
    return Move((old, new), (before, after), entry, still_served)


def test_rescheduled_pod_gets_a_new_svid(move: Move) -> None:
    """The rescheduled pod gets an SVID with another serial number and another key."""
    before, after = (svid.chain[0] for svid in move.svids)

    assert after.serial_number != before.serial_number, "the same certificate"
    assert key_hash(after) != key_hash(before), "another certificate with the same key"


def test_each_svid_is_signed_for_its_nodes_agent(api: Testbed, move: Move) -> None:
    """The server signs each SVID for the agent of the pod's node at that time."""
    for svid, agent in zip(move.svids, move.agents, strict=True):
        wanted, found = api.agent_ids[agent.component], _signed_for(api, svid)
        assert found == [wanted], f"signed for {found}, not for {wanted}"


def test_pod_on_the_old_node_is_denied(move: Move) -> None:
    """A pod with the same selectors on the old node is denied once the entry has moved."""
    assert not move.still_served, move.still_served


def test_old_agent_drops_the_entry(api: Testbed, move: Move) -> None:
    """The agent of the old node logs that it dropped the entry."""
    old = move.agents[0].component

    removed = [r.fields.get("entry") for r in _lines(api, old, api.messages.removed)]

    assert move.entry in removed, f"{old} did not log that it dropped entry {move.entry}"


def _signed_for(api: Testbed, svid: X509Svid) -> list[str | None]:
    """Return the agents for which the server logged this SVID's signature; raises TimedOut."""
    serial = str(svid.chain[0].serial_number)

    def callers() -> list[str | None]:
        lines = _lines(api, api.spire.component, api.messages.signed)
        found = [r.fields.get("caller_id") for r in lines if r.fields.get("serial_num") == serial]
        if not found:
            raise NotYet(f"the server has not logged the signature of {serial}")
        return found

    return eventually(callers, budgets.LOG_LINE)


def _lines(api: Testbed, component: str, message: str) -> list[LogRecord]:
    api.watch.catch_up()
    return api.watch.timeline.logs(component, message)
