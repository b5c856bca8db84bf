"""A program that starts before its entry exists gains, changes and loses its identity."""

import itertools
from dataclasses import dataclass
from datetime import timedelta

import grpc

from svidproof import (
    Measure,
    Overdue,
    Progress,
    Saw,
    Testbed,
    budgets,
    eventually,
    experiment,
    requirement,
)
from svidproof.budgets import Budget
from svidproof.clock import Moment
from svidproof.faults import Row
from svidproof.greeters import Call, Cast, Greeter, Held, Hello, Refusal
from svidproof.renewal_rule import BACKDATING, TRUNCATION
from svidproof.workload_api import Answer, fetch_x509

DENIED = "PERMISSION_DENIED"
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0  # seconds between two attempts of a program
ENOUGH = 3  # attempts that must have been refused before there is an entry
MISSING = 0.5  # seconds after which an agent looks for SVIDs that it lacks, at the latest
SLACK = 2.0  # seconds for a busy machine
OTHER_TTL, OTHER_NAME = 8, "newcomer.example.org"
ANOTHER_CALL = 0.2  # seconds between two calls of a program whose entry is gone


def propagation(testbed: Testbed) -> float:
    """The longest sound time from a change at the server to an open stream.

    The server reloads its cache, the agent synchronises (give or take a tenth), and asks for what
    it lacks; see SPIRE pkg/server/endpoints and pkg/agent/manager.
    """
    return testbed.settings.timing.sync_s * 2.1 + MISSING + SLACK


@dataclass(frozen=True)
class Change:
    """The newcomer's entry was changed.

    Attributes:
        before: what it held until then.
        since: just before the change.
        held: what it holds since the change has come to it.
        took: seconds until then.
    """

    before: Held
    since: Moment
    held: Held
    took: float


@dataclass(frozen=True)
class Deletion:
    """The newcomer's entry was deleted.

    Attributes:
        since: just before that.
        held: what it held when its stream had been ended.
        took: seconds until then.
        calls: its calls from then on, up to the first that was refused.
        refusals: by the server, since the deletion.
        last: what it holds then.
        answer: of the Workload API to its process then.
        control: what another client is answered then.
    """

    since: Moment
    held: Held
    took: float
    calls: tuple[Call, ...]
    refusals: tuple[Refusal, ...]
    last: Held
    answer: Answer
    control: Hello


@dataclass(frozen=True)
class Newcomer:
    """A program that ran without an entry, which was then made, changed and deleted.

    Attributes:
        testbed: where.
        greeter: it.
        before: what it held when it had asked in vain for some time.
        since: just before its entry was made.
        held: what it held when it had an SVID.
        hello: what it was answered then.
        change: what came of the change, or what did not come in time.
        deletion: likewise.
    """

    testbed: Testbed
    greeter: Greeter
    before: Held
    since: Moment
    held: Held
    hello: Hello
    change: Change | Overdue
    deletion: Deletion | Overdue


@experiment("greeter", beside="newcomer", changes=True, seconds=15)
def newcomer(testbed: Testbed, progress: Progress) -> Newcomer:
    """The newcomer asks in vain for some time; its entry comes, is changed, and goes."""
    cast = Cast.of(testbed)

    def refused() -> Held:
        held = cast.newcomer.identity()
        outcomes = [attempt.outcome for attempt in held.attempts]
        assert len(outcomes) >= ENOUGH, f"it has asked {len(outcomes)} times: {outcomes}"
        return held

    progress("waiting for a program without an entry to ask in vain")
    before = eventually(refused, budgets.PROGRAM_READY, alive=testbed.assert_alive)
    since = Moment.now()
    with testbed.registered("newcomer", cast.newcomer.program.selectors) as entry_id:
        held = await_svid(cast.newcomer)
        hello = cast.newcomer.hello("server", "Nan")
        progress("changing and deleting the entry of a program")
        try:
            change: Change | Overdue = _change(testbed, cast, entry_id)
        except Overdue as error:
            change = error
        await_svid(cast.newcomer)
        try:
            deletion: Deletion | Overdue = _delete(testbed, cast, entry_id)
        except Overdue as error:
            deletion = error
    return Newcomer(testbed, cast.newcomer, before, since, held, hello, change, deletion)


def _change(testbed: Testbed, cast: Cast, entry_id: str) -> Change:
    before = await_svid(cast.newcomer)
    assert OTHER_NAME not in before.svid["dns_names"], "it has the other DNS name already"
    since = Moment.now()
    budget = Budget("a changed entry reaches its program", propagation(testbed))

    testbed.registration.change(entry_id, dns_names=[OTHER_NAME], x509_svid_ttl=OTHER_TTL)

    def changed() -> Held:
        held = cast.newcomer.identity()
        assert held.svid["dns_names"] == [OTHER_NAME], f"DNS names {held.svid['dns_names']}"
        off = abs(held.lifetime - BACKDATING - OTHER_TTL)
        assert off <= TRUNCATION, f"it lives for {held.lifetime - BACKDATING:.0f} s"
        return held

    held = eventually(changed, budget, alive=cast.newcomer.program.assert_alive)
    return Change(before, since, held, Moment.now().at - since.at)


def _delete(testbed: Testbed, cast: Cast, entry_id: str) -> Deletion:
    refused = len(cast.server.refused())
    budget = Budget("a deleted entry ends its program's stream", propagation(testbed))
    since = Moment.now()

    testbed.spire.delete_entry(entry_id)

    def ended() -> Held:
        held = cast.newcomer.identity()
        assert DENIED in held.since(since), f"its stream goes on: {held.since(since)[-3:]}"
        return held

    held = eventually(ended, budget, alive=cast.newcomer.program.assert_alive)
    took = Moment.now().at - since.at
    calls = call_until_refused(cast.newcomer, held)
    return Deletion(
        since=since,
        held=held,
        took=took,
        calls=tuple(calls),
        refusals=tuple(cast.server.refused()[refused:]),
        last=cast.newcomer.identity(),
        answer=fetch_x509(cast.newcomer.program.workload_api()),
        control=cast.client.hello("server", "Control"),
    )


def await_svid(newcomer: Greeter) -> Held:
    """Wait until it holds an SVID."""

    def held() -> Held:
        now = newcomer.identity()
        ids = [svid["spiffe_id"] for svid in now.svids]
        assert newcomer.spiffe_id in ids, f"it is {ids or now.attempts[-1].outcome}"
        return now

    return eventually(held, budgets.REGISTRATION, alive=newcomer.program.assert_alive)


@requirement("GREETER-5")
def test_program_asks_until_it_has_an_entry(newcomer: Newcomer, measure: Measure, saw: Saw) -> None:
    """A program without an entry retries with growing pauses, and gets its SVID soon after."""
    before, held = newcomer.before, newcomer.held
    assert not before.svids, "it had an SVID before it had an entry"
    outcomes = {attempt.outcome for attempt in before.attempts}
    assert outcomes == {DENIED}, f"without an entry it got {outcomes}"
    pauses = [
        (later.at - earlier.at).total_seconds()
        for earlier, later in itertools.pairwise(before.attempts)
    ]
    for number, pause in enumerate(pauses):
        least = min(FIRST_PAUSE * 2**number, LONGEST_PAUSE)
        assert pause >= least, f"pause {number + 1} was {pause:.2f} s, not {least:.1f} s"
        assert pause <= LONGEST_PAUSE + SLACK, f"pause {number + 1} was {pause:.2f} s"

    ids = [svid["spiffe_id"] for svid in held.svids]
    assert ids == [newcomer.greeter.spiffe_id], f"it got SVIDs of {ids}"
    first = Row(a for a in held.attempts if a.outcome == "OK")[0]
    took = (first.at - newcomer.since.wall).total_seconds()
    longest = propagation(newcomer.testbed) + LONGEST_PAUSE
    measure("from an entry to the SVID of a program that waits for it", round(took, 2), "s")
    assert took <= longest, f"{took:.1f} s after its entry was made, not {longest:.1f} s"
    assert newcomer.hello.message, f"with its SVID it got {newcomer.hello}"
    saw(f"refused {len(before.attempts)} times; {took:.1f} s from entry to SVID")


@requirement("GREETER-6")
def test_changed_entry_reaches_the_open_stream(
    newcomer: Newcomer, measure: Measure, saw: Saw
) -> None:
    """A changed DNS name and TTL of an entry reach the open stream within a bound."""
    change = newcomer.change
    if isinstance(change, Overdue):
        raise change
    ended = change.held.since(change.since)
    assert set(ended) == {"OK"}, f"the stream was ended: {ended}"
    assert change.held.svid["serial"] != change.before.svid["serial"], "the serial is the same"
    measure("from a changed entry to the SVID of an open stream", round(change.took, 2), "s")
    saw(f"{OTHER_NAME}, {OTHER_TTL} s: {change.took:.1f} s after the change")


@requirement("GREETER-6")
def test_deleted_entry_ends_access(newcomer: Newcomer, measure: Measure, saw: Saw) -> None:
    """A deleted entry ends the stream within a bound; access ends when the last SVID expires."""
    deletion = newcomer.deletion
    if isinstance(deletion, Overdue):
        raise deletion
    answered = [call for call in deletion.calls if call.hello.message]
    # A certificate is good to the end of its last second.
    end = deletion.held.until + timedelta(seconds=TRUNCATION)
    late = [call for call in answered if call.start.wall > end]
    assert answered, "it was refused while its SVID was good"
    assert not late, f"it was answered {(late[-1].start.wall - end).total_seconds():.1f} s late"
    assert deletion.refusals, "the server has refused nobody"
    last = deletion.refusals[-1]
    assert "expired" in last.reason, f"the server refused it because: {last.reason}"
    held = deletion.held.svid["serial"]
    assert deletion.last.svid["serial"] == held, "it got another SVID"
    answer = deletion.answer
    assert answer.code is grpc.StatusCode.PERMISSION_DENIED, f"expected PermissionDenied: {answer}"
    assert deletion.control.message, "the genuine client is refused, too"
    measure("from a deleted entry to the end of its stream", round(deletion.took, 2), "s")
    saw(
        f"stream ended after {deletion.took:.1f} s, answered {len(answered)} times more, "
        f"then: {last.reason}"
    )


def call_until_refused(newcomer: Greeter, held: Held) -> list[Call]:
    """Have it call again and again until it is refused; no longer than shortly after its SVID."""
    left = (held.until - Moment.now().wall).total_seconds()
    budget = Budget("access ends with the last SVID", max(left, 0) + SLACK, ANOTHER_CALL)
    calls: list[Call] = []

    def refused() -> None:
        start = Moment.now()
        hello = newcomer.hello("server", "Nan")
        calls.append(Call(start, hello, Moment.now()))
        assert hello.refused, f"it got {hello}"

    eventually(refused, budget, alive=newcomer.program.assert_alive)
    return calls
