"""No SVID is signed for a pod after the pod and its entry are deleted."""

from dataclasses import dataclass

import pytest

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
    runs_last,
)
from svidproof.clock import Moment
from svidproof.log_line import LogRecord
from svidproof.renewal_rule import Period

pytestmark = needs(Capability.K8S_PSAT, Capability.OWN_SPIRE, Capability.SPIRE_LOGS)
LEAVER = "leaver"
TTL = 12  # seconds: with SPIRE's backdating of ten, it is renewed every one to three
# What SPIRE says if an agent wants to renew what has just been deleted.
CROSSED = r"No identity issued|[Ee]ntry not found|[Ff]ailed to (sign|fetch|renew)"


@dataclass(frozen=True)
class Departure:
    """A workload that was renewed while it was there, and was deleted.

    Attributes:
        entry: the ID of its entry.
        over: when its agent had dropped it.
        due: when it would have been renewed at the latest, on the clock that never goes back.
    """

    entry: str
    over: Moment
    due: float


@pytest.fixture(scope="session")
def departure(api: Testbed) -> Departure:
    """A workload that comes, is renewed, and goes, and its entry with it."""
    own, agent = api.scenario.spiffe_id(LEAVER), api.agent_of("api")
    longest = Period.of(TTL, api.settings.timing.sync_s).longest(TTL)
    renewal = Budget("first renewal", longest, 0.1)

    with api.provoking(agent.component, CROSSED), api.provoking(api.spire.component, CROSSED):
        with (
            api.guest(LEAVER, agent=agent) as leaver,
            api.registered(LEAVER, leaver.selectors, agent=agent, ttl=TTL) as entry,
        ):
            leaver.await_svid(own)
            eventually(lambda: _assert_renewed(api), renewal, alive=agent.assert_alive)
            leaver.leave()
        eventually(lambda: _assert_dropped(api, entry), budgets.REGISTRATION)
    over = Moment.now()
    return Departure(entry, over, over.at + longest)


@requirement("K8S-4")
def test_entry_is_gone(api: Testbed, departure: Departure) -> None:
    """The server's list has neither the deleted entry nor another for its SPIFFE ID."""
    path = f"/{LEAVER}"

    left = [e["id"] for e in api.spire.entries() if e["spiffe_id"]["path"].endswith(path)]

    assert departure.entry not in left, f"entry {departure.entry} is still there"
    assert not left, f"entries for its ID are still there: {left}"


@requirement("K8S-4")
@runs_last(2)
def test_nobody_is_signed_for_after_deletion(api: Testbed, departure: Departure) -> None:
    """No SVID is signed for a deleted workload, not even when a renewal would be due."""
    rest = max(departure.due - Moment.now().at, 0.0)

    def quiet() -> None:
        late = [r for r in _signatures(api) if r.wall > departure.over.wall]
        assert not late, f"signed {len(late)} times after it was deleted, for {_callers(late)}"

    consistently(quiet, Budget("until its renewal would be over", rest, 0.25))


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
