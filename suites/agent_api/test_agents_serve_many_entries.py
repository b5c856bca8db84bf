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
    Timestamp,
    as_parts,
    budgets,
    consistently,
    eventually,
    needs,
    requirement,
)
from svidproof.checks import require_elapsed
from svidproof.probes import X509Answer, agent_debug, delegated, jwt, last_of, server_api

pytestmark = needs(Capability.OWN_SPIRE, Capability.OWN_MACHINE, Capability.UNREGISTERED_PROCESS)
Marked = Callable[..., tuple[str, ...]]
AwaitSvids = Callable[..., X509Answer]
# A server sends 500 revisions at once (SPIRE pkg/server/api/entry/v1/service.go).
NUMBER, SAMPLE = 1_100, 100
# The agent looks for SVIDs to remove when it synchronises, and answers GetInfo from a cache of 5 s.
CACHE_SHRINKS = Budget("the agent removes SVIDs that nobody asks for", 30, 0.5)
# Several times the age of an answer of GetInfo: a busy agent takes longer to fill its cache.
CACHE_STAYS = Budget("the agent's cache of SVIDs keeps its limit", 20, 0.5)
CLOCK_ADVANCES = Budget("two seconds have passed", 5, 0.2)
ID = "an-entry-that-is-replaced"


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


@requirement("AGENT-9")
def test_replaced_entry_is_served(
    many_entries: Testbed, admin: str, marked: Marked, await_svids: AwaitSvids
) -> None:
    """An entry that is deleted, and created again with its ID and another selector, takes effect.

    Both have the first revision number: they differ only in the time of their creation.
    """
    spiffe_id, parent = many_entries.scenario.spiffe_id("again"), many_entries.agent_id("prober")
    own, above = as_parts(spiffe_id), as_parts(parent)
    with server_api.calling_locally(many_entries.spire.local_api) as local:

        def create(mark: str) -> None:
            selectors = [{"type": "svidproof", "value": f"mark:{mark}"}]
            entry = {"id": ID, "spiffe_id": own, "parent_id": above, "selectors": selectors}
            answer = local.call("entry", "BatchCreateEntry", entries=[entry])
            [result] = answer.message.results if answer.message is not None else [None]
            if result is None or result.status.code:
                raise PlatformError(f"cannot create the entry {ID}: {answer} {result}")

        try:
            create("first")
            began = Timestamp.now()
            await_svids(admin, delegated.On(marked("first")), [spiffe_id])
            # The server knows the time of an entry's creation to the second.
            eventually(lambda: require_elapsed(began, 2), CLOCK_ADVANCES)
            local.call("entry", "BatchDeleteEntry", ids=[ID])
            create("second")
            await_svids(admin, delegated.On(marked("second")), [spiffe_id])
            await_svids(admin, delegated.On(marked("first")), [])
        finally:
            local.call("entry", "BatchDeleteEntry", ids=[ID])


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


@requirement("AGENT-17")
def test_cache_of_tokens_keeps_its_limit(
    many_entries: Testbed, admin: str, marked: Marked, await_svids: AwaitSvids
) -> None:
    """A process gets a JWT-SVID for each of many audiences; the agent keeps the last of them."""
    limit, target = many_entries.scenario.svid_cache, many_entries.prober.workload_api()
    # Once the agent serves the suite as a delegate, the suite's process has an SVID of its own.
    await_svids(admin, delegated.On(marked("nobody")), [])

    audiences = [f"{number}.example" for number in range(3 * limit)]
    first = {audience: jwt.fetch(target, [audience]) for audience in audiences}
    kept = jwt.fetch(target, audiences[-1:])

    refused = [f"{audience}: {answer}" for audience, answer in first.items() if not answer.svids]
    assert not refused, f"{len(refused)} of {len(first)} audiences got no JWT-SVID: {refused[0]}"
    # A control: the last one comes from the cache.
    assert kept.svids == first[audiences[-1]].svids, "the agent keeps no JWT-SVID"
    eventually(lambda: _assert_tokens_cached(admin, limit), CACHE_SHRINKS)


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


def _assert_tokens_cached(admin: str, limit: int) -> None:
    tokens = agent_debug.require_info(admin).tokens
    if tokens != limit:
        raise NotYet(f"{tokens} JWT-SVIDs are in a cache of {limit}")


def _assert_cached(admin: str, limit: int) -> None:
    svids = agent_debug.require_info(admin).svids
    if svids > limit:
        raise NotYet(f"{svids} SVIDs are in a cache of {limit}")
