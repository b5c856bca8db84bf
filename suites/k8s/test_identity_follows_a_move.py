"""A workload that is rescheduled to another node takes its identity with it."""

import contextlib

from svidproof import (
    Budget,
    Capability,
    NotYet,
    Testbed,
    budgets,
    consistently,
    eventually,
    needs,
    requirement,
)
from svidproof.components.spire_agent import SpireAgent
from svidproof.log_line import LogRecord
from svidproof.watch.timeline import key_hash
from svidproof.workload_api import X509Svid

A_WHILE = Budget("stays refused", 1, 0.2)
DENIED = r"No identity issued"


@requirement("K8S-3")
@needs(Capability.K8S_PSAT, Capability.OWN_SPIRE, Capability.SPIRE_LOGS)
def test_identity_follows_a_move(api: Testbed) -> None:
    """The rescheduled pod is served by its new node's agent; its twin on the old node is not."""
    own = api.scenario.spiffe_id("mover")
    old = api.agent_of("api")
    new = api.another_agent(old)

    with contextlib.ExitStack() as stack:
        for agent in (old, new):
            stack.enter_context(api.provoking(agent.component, DENIED))
        mover = stack.enter_context(api.guest("mover", agent=old))
        twin = stack.enter_context(api.guest("mover-twin", like="mover", agent=old))
        entry = stack.enter_context(api.registered("mover", mover.selectors, agent=old))
        before = mover.await_svid(own)
        twin.await_svid(own)

        mover.leave()
        mover = stack.enter_context(api.guest("mover", agent=new))
        api.spire.delete_entry(entry)
        stack.enter_context(api.registered("mover", mover.selectors, agent=new))

        after = mover.await_svid(own)
        twin.await_refusal()
        consistently(twin.assert_refused, A_WHILE)

    assert after.chain[0].serial_number != before.chain[0].serial_number, "the same certificate"
    assert key_hash(after.chain[0]) != key_hash(before.chain[0]), "another certificate of its key"
    for svid, agent in ((before, old), (after, new)):
        _assert_signed_for(api, svid, agent)
    removed = [r.fields.get("entry") for r in _lines(api, old.component, api.messages.removed)]
    assert entry in removed, f"{old.component} does not tell that it dropped entry {entry}"


def _assert_signed_for(api: Testbed, svid: X509Svid, agent: SpireAgent) -> None:
    serial = str(svid.chain[0].serial_number)

    def callers() -> list[str | None]:
        lines = _lines(api, api.spire.component, api.messages.signed)
        found = [r.fields.get("caller_id") for r in lines if r.fields.get("serial_num") == serial]
        if not found:
            raise NotYet(f"the server does not tell that it signed {serial}")
        return found

    wanted, found = api.agent_ids[agent.component], eventually(callers, budgets.LOG_LINE)
    assert found == [wanted], f"signed for {found}, not for {wanted}"


def _lines(api: Testbed, component: str, message: str) -> list[LogRecord]:
    api.watch.catch_up()
    return api.watch.timeline.logs(component, message)
