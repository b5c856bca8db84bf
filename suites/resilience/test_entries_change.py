"""An entry is created, changed, deleted and created again; its process gets the present state."""

import pytest

from svidproof import Measure, requirement
from svidproof.checks import EntryChanges, Given, Outage, Withdrawal

WAYS = ["created", "recreated"]
UNNOTICED = ["changed-over-a-slow-connection", "replaced-between-two-syncs"]


class Mismatch(AssertionError):  # noqa: N818  a verdict, not a programming error
    """Raised if a message has another SPIFFE ID than its certificate."""


@requirement("RESILIENCE-15")
@pytest.mark.parametrize("way", [pytest.param(way, id=way) for way in WAYS])
def test_message_names_the_id_of_its_certificate(entry_changes: EntryChanges, way: str) -> None:
    """Each message of the Workload API has the SPIFFE ID of its certificate at all times."""
    _assert_matching(entry_changes.given[way])


@requirement("RESILIENCE-15")
@pytest.mark.parametrize("way", [pytest.param(way, id=way) for way in UNNOTICED])
def test_message_names_that_id_whatever_the_agent_has_missed(
    entry_replacement: EntryChanges, way: str
) -> None:
    """This also holds if the agent syncs a change late, or only the next entry."""
    _assert_matching(entry_replacement.given[way])


@requirement("RESILIENCE-16")
@pytest.mark.parametrize("way", ["created", "changed", "named", "recreated"])
def test_entry_takes_effect_in_time(
    entry_changes: EntryChanges, way: str, measure: Measure
) -> None:
    """The process gets an SVID of its entry within the sync intervals of server and agent."""
    took = entry_changes.assert_in_time(way)

    measure(f"from an entry's change to its SVID, {way}", took, "s")


@requirement("RESILIENCE-16")
def test_entry_takes_effect_in_time_after_an_outage(server_gone: Outage, measure: Measure) -> None:
    """This also holds once the agent has recovered from a long outage of its server."""
    changes = server_gone.entry
    assert changes is not None, "no entry was created after the absence: this proves nothing"

    took = changes.assert_in_time("created")

    measure("from an entry's change to its SVID, after an absence of the server", took, "s")


@requirement("RESILIENCE-43")
def test_entry_deleted_meanwhile_is_gone(entry_withdrawn: Withdrawal, measure: Measure) -> None:
    """Once the agent reaches the server again, the process of the entry is denied an SVID."""
    entry_withdrawn.before.assert_seen()

    took = entry_withdrawn.took()

    measure("from the agent's return to the loss of an entry that was deleted meanwhile", took, "s")
    assert took <= entry_withdrawn.bound, (
        f"the process was denied an SVID after {took:.1f} s, not {entry_withdrawn.bound:.1f} s"
    )


def _assert_matching(given: Given) -> None:
    for message in given.messages:
        for spiffe_id, sans in message:
            if sans != (spiffe_id,):
                raise Mismatch(f"a message says {spiffe_id}, its certificate {', '.join(sans)}")
    given.assert_seen()
