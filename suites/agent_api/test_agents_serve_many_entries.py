"""An agent serves every entry that it is responsible for, and no other, however many there are."""

import contextlib
from collections.abc import Callable, Iterator

import pytest

from svidproof import (
    Budget,
    Capability,
    NotYet,
    PlatformError,
    Saw,
    Testbed,
    budgets,
    consistently,
    eventually,
    needs,
    requirement,
)
from svidproof.probes import X509Answer, agent_debug, delegated, last_of

pytestmark = needs(Capability.OWN_SPIRE, Capability.OWN_MACHINE, Capability.UNREGISTERED_PROCESS)
Marked = Callable[..., tuple[str, ...]]
AwaitSvids = Callable[..., X509Answer]
# A server sends 500 revisions at once (SPIRE pkg/server/api/entry/v1/service.go).
NUMBER, SAMPLE = 1_100, 100
# The agent looks for SVIDs to remove when it synchronises, and answers GetInfo from a cache of 5 s.
CACHE_SHRINKS = Budget("the agent removes SVIDs that nobody asks for", 30, 0.5)
# Several times the age of an answer of GetInfo: a busy agent takes longer to fill its cache.
CACHE_STAYS = Budget("the agent's cache of SVIDs keeps its limit", 20, 0.5)


def _name(number: int) -> str:
    return f"crowd-{number:04}"


@pytest.fixture(scope="module")
def admin(many_entries: Testbed, marked: Marked) -> Iterator[str]:
    """The admin socket of the agent, below which all the entries are."""
    registration, parent = many_entries.registration, many_entries.agent_id("prober")
    names = map(_name, range(NUMBER))
    crowd = [registration.entry(name, marked(name), parent) for name in names]
    many_entries.spire.create_entries(crowd)
    with many_entries.registered("delegate", many_entries.prober.selectors):
        yield many_entries.prober.admin_api()


@requirement("AGENT-9")
def test_every_entry_is_served(
    many_entries: Testbed, admin: str, marked: Marked, await_svids: AwaitSvids, saw: Saw
) -> None:
    """A hundred of more than a thousand entries, evenly spread, each get their SVID."""
    names = [_name(number) for number in range(0, NUMBER, NUMBER // SAMPLE)]

    answer = await_svids(
        admin,
        delegated.On(marked(*names)),
        [many_entries.scenario.spiffe_id(name) for name in names],
    )

    saw(f"{len(answer.ids)} SVIDs of {NUMBER} entries")


@requirement("AGENT-9")
def test_changes_among_many_entries_are_served(
    many_entries: Testbed, admin: str, marked: Marked, await_svids: AwaitSvids
) -> None:
    """A new entry, a changed one and a deleted one among them take effect."""
    spiffe_id, answers = many_entries.scenario.spiffe_id("late"), list[X509Answer]()
    on = delegated.On(marked("late", "later"))

    def await_ids(ids: list[str]) -> None:
        def has() -> None:
            if last_of(answers).ids != ids:
                raise NotYet(f"{last_of(answers)}, not {ids}")

        eventually(has, budgets.REGISTRATION)

    await_svids(admin, on, [])
    with contextlib.closing(delegated.DelegatedStream(admin, on, answers.append)):
        with many_entries.registered("late", marked("late")) as entry:
            await_ids([spiffe_id])
            elsewhere = [{"type": "svidproof", "value": "mark:elsewhere"}]
            many_entries.registration.change(entry, selectors=elsewhere)
            await_ids([])
            back = [{"type": "svidproof", "value": "mark:later"}]
            many_entries.registration.change(entry, selectors=back)
            await_ids([spiffe_id])
        await_ids([])


@requirement("AGENT-10")
def test_cache_shrinks_to_its_limit(
    many_entries: Testbed, admin: str, marked: Marked, await_svids: AwaitSvids
) -> None:
    """A process gets more SVIDs than the cache holds; once it has gone, the agent drops them."""
    limit = many_entries.scenario.svid_cache
    names = [_name(number) for number in range(5 * limit)]
    ids = [many_entries.scenario.spiffe_id(name) for name in names]

    await_svids(admin, delegated.On(marked(*names)), ids)

    eventually(lambda: _assert_cached(admin, limit), CACHE_SHRINKS)


@requirement("AGENT-11")
def test_shared_selector_fills_no_cache(
    many_entries: Testbed, admin: str, marked: Marked, await_svids: AwaitSvids
) -> None:
    """A process that has one of two selectors of many entries causes none of their SVIDs."""
    limit, answers = many_entries.scenario.svid_cache, list[X509Answer]()
    registration, parent = many_entries.registration, many_entries.agent_id("prober")
    names = [f"sharing-{number:04}" for number in range(5 * limit)]
    entries = [registration.entry(name, marked("shared", name), parent) for name in names]
    many_entries.spire.create_entries(entries)
    last = [many_entries.scenario.spiffe_id(names[-1])]
    await_svids(admin, delegated.On(marked("shared", names[-1])), last)
    eventually(lambda: _assert_cached(admin, limit), CACHE_SHRINKS)

    on = delegated.On(marked("shared"))
    with contextlib.closing(delegated.DelegatedStream(admin, on, answers.append)):
        eventually(lambda: last_of(answers), budgets.WORKLOAD_API)
        consistently(lambda: _assert_cached(admin, limit), CACHE_STAYS)


def _assert_cached(admin: str, limit: int) -> None:
    info = agent_debug.get_info(admin)
    if info.problem:
        raise PlatformError(f"GetInfo of the agent: {info.problem}")
    if info.svids > limit:
        raise NotYet(f"{info.svids} SVIDs are in a cache of {limit}")
