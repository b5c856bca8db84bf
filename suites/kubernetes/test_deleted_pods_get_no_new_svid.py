"""No SVID is signed for a pod after the pod and its entry are deleted."""

from dataclasses import dataclass

import pytest

from svidproof import (
    Budget,
    Capability,
    LogRecord,
    NotYet,
    Period,
    Testbed,
    Timestamp,
    budgets,
    consistently,
    eventually,
    needs,
    requirement,
    runs_last,
)

pytestmark = needs(Capability.K8S_PSAT, Capability.OWN_SPIRE, Capability.SPIRE_LOGS)
LEAVER = "leaver"
TTL = 12  # seconds: with SPIRE's backdating of ten, it is renewed every one to three seconds
# What SPIRE logs if an agent renews an SVID whose entry was just deleted.
CROSSED = r"No identity issued|[Ee]ntry not found|[Ff]ailed to (sign|fetch|renew)"


@dataclass(frozen=True)
class Deletion:
    """A pod whose SVID was renewed, and which was then deleted with its entry.

    Attributes:
        entry: the ID of its entry.
        dropped: when its agent had dropped the entry.
        due: when the next renewal would be due at the latest, on the monotonic clock.
    """

    entry: str
    dropped: Timestamp
    due: float


@pytest.fixture(scope="session")
def deletion(api: Testbed) -> Deletion:
    """A pod is created, its SVID is renewed, and the pod and its entry are deleted."""
    own, agent = api.scenario.spiffe_id(LEAVER), api.agent_of("api")
    longest = Period.of(TTL, api.settings.timing.sync_s).longest(TTL)
    renewal = Budget("first renewal", longest, 0.1)

    with api.provoking(agent.component, CROSSED), api.provoking(api.spire.component, CROSSED):
        with (
            api.extra_workload(LEAVER, agent=agent) as leaver,
            api.registered(LEAVER, leaver.selectors, agent=agent, ttl=TTL) as entry,
        ):
            leaver.await_svid(own)
            eventually(lambda: _assert_renewed(api), renewal, alive=agent.assert_alive)
            leaver.leave()
        eventually(lambda: _assert_dropped(api, entry), budgets.REGISTRATION)
    dropped = Timestamp.now()
    return Deletion(entry, dropped, dropped.at + longest)


@requirement("K8S-4")
def test_entry_is_deleted(api: Testbed, deletion: Deletion) -> None:
    """The server's list has neither the deleted entry nor another for its SPIFFE ID."""
    path = f"/{LEAVER}"

    left = [e["id"] for e in api.spire.entries() if e["spiffe_id"]["path"].endswith(path)]

    assert deletion.entry not in left, f"entry {deletion.entry} is still there"
    assert not left, f"entries for its ID are still there: {left}"


@requirement("K8S-4")
@runs_last(2)
def test_no_svid_is_signed_after_deletion(api: Testbed, deletion: Deletion) -> None:
    """No SVID is signed for a deleted workload, not even when a renewal would be due."""
    rest = max(deletion.due - Timestamp.now().at, 0.0)

    def unsigned() -> None:
        late = [r for r in _signatures(api) if r.wall > deletion.dropped.wall]
        assert not late, f"signed {len(late)} times after it was deleted, for {_callers(late)}"

    consistently(unsigned, Budget("until its renewal would be due", rest, 0.25))


def _signatures(api: Testbed) -> list[LogRecord]:
    api.watch.catch_up()
    lines = api.watch.timeline.logs(api.spire.component, api.messages.signed)
    own = api.scenario.spiffe_id(LEAVER)
    return [r for r in lines if r.fields.get("spiffe_id") == own]


def _callers(lines: list[LogRecord]) -> set[str | None]:
    return {line.fields.get("caller_id") for line in lines}


def _assert_renewed(api: Testbed) -> None:
    if len(found := _signatures(api)) < 2:
        raise NotYet(f"{len(found)} signatures for {LEAVER}")


def _assert_dropped(api: Testbed, entry: str) -> None:
    api.watch.catch_up()
    agent = api.agent_of("api").component
    removed = api.watch.timeline.logs(agent, api.messages.removed)
    if entry not in {r.fields.get("entry") for r in removed}:
        raise NotYet(f"{agent} has not dropped entry {entry}")
