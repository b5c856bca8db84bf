"""A program that starts before its entry exists gets, changes and loses its identity.

The entry is created, changed and deleted once, in this order, and each step is recorded. The checks
only read the records.
"""

import itertools
from dataclasses import dataclass
from datetime import datetime, timedelta

import grpc

from svidproof import (
    BACKDATING,
    TRUNCATION,
    Budget,
    Items,
    Measure,
    Progress,
    Saw,
    Testbed,
    TimedOut,
    Timestamp,
    budgets,
    eventually,
    experiment,
    requirement,
)
from svidproof.checks import Call, Greeter, Greeters, Hello, IdentitySnapshot, Refusal
from svidproof.probes import X509Answer, fetch_x509

DENIED = "PERMISSION_DENIED"
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0  # seconds between two attempts of a program
ENOUGH = 3  # attempts that must be denied before the entry is created
MISSING = 0.5  # seconds after which an agent requests SVIDs that it lacks, at the latest
SLACK = 2.0  # seconds for a busy machine
OTHER_TTL, OTHER_NAME = 8, "newcomer.example.org"
CALL_INTERVAL = 0.2  # seconds between two calls of a program whose entry is deleted


def propagation(testbed: Testbed) -> float:
    """Return the longest allowed time from a change at the server to an open stream, in seconds.

    The server reloads its cache, the agent syncs (give or take a tenth), and requests what it
    lacks; see SPIRE pkg/server/endpoints and pkg/agent/manager.
    """
    return testbed.settings.timing.sync_s * 2.1 + MISSING + SLACK


@dataclass(frozen=True)
class Created:
    """The newcomer's entry was created.

    Attributes:
        since: just before the entry was created.
        before: what the program held until then.
        after: what it held once it had its SVID.
        hello: its first call.
    """

    since: Timestamp
    before: IdentitySnapshot
    after: IdentitySnapshot
    hello: Hello


@dataclass(frozen=True)
class Changed:
    """The newcomer's entry got another DNS name and TTL.

    Attributes:
        since: just before the change.
        before: what the program held until then.
        after: what it held when the change had arrived, or was overdue.
        took: seconds until then.
        shortfall: what had not arrived; empty if all had.
    """

    since: Timestamp
    before: IdentitySnapshot
    after: IdentitySnapshot
    took: float
    shortfall: str


@dataclass(frozen=True)
class Deleted:
    """The newcomer's entry was deleted.

    Attributes:
        held: what the program held when its stream had ended, or was to have ended.
        took: seconds from the deletion until then.
        open_stream: why the stream counts as open; empty if it ended in time.
        calls: the program's calls until it was rejected.
        access: why it counts as never rejected; empty if it was in time.
        refusals: the server's refusals since the deletion.
        last: what the program held after its last call.
        answer: what the Workload API answered in the program's place then.
        control: the genuine client's call then.
    """

    held: IdentitySnapshot
    took: float
    open_stream: str
    calls: tuple[Call, ...]
    access: str
    refusals: tuple[Refusal, ...]
    last: IdentitySnapshot
    answer: X509Answer
    control: Hello

    @property
    def answered(self) -> list[Call]:
        """The calls that the server answered."""
        return [call for call in self.calls if call.hello.message]

    @property
    def end(self) -> datetime:
        """The end of the last second in which the program's SVID is valid."""
        return self.held.until + timedelta(seconds=TRUNCATION)


@dataclass(frozen=True)
class Newcomer:
    """A program that started without an entry, and the record of its entry's life.

    Attributes:
        testbed: the testbed that it runs in.
        spiffe_id: its SPIFFE ID.
        created: the record of the entry's creation.
        changed: the record of the entry's change.
        deleted: the record of the entry's deletion.
    """

    testbed: Testbed
    spiffe_id: str
    created: Created
    changed: Changed
    deleted: Deleted


@experiment("greeter", testbed="newcomer", changes=True, seconds=15)
def newcomer(testbed: Testbed, progress: Progress) -> Newcomer:
    """The newcomer is denied for some time; then its entry is created, changed and deleted."""
    greeters = Greeters.of(testbed)
    program = greeters.newcomer
    progress("waiting for a program without an entry to be denied")

    def denied() -> IdentitySnapshot:
        snapshot = program.identity()
        outcomes = [attempt.outcome for attempt in snapshot.attempts]
        assert len(outcomes) >= ENOUGH, f"it has asked {len(outcomes)} times: {outcomes}"
        return snapshot

    before = eventually(denied, budgets.PROGRAM_READY, alive=testbed.assert_alive)
    since = Timestamp.now()
    with testbed.registered("newcomer", program.program.selectors) as entry_id:
        after = _await_svid(program)
        progress("changing and deleting the entry of a program")
        created = Created(since, before, after, program.hello("server", "Nan"))
        changed = _change(testbed, program, entry_id)
        deleted = _delete(testbed, greeters, entry_id)
    return Newcomer(testbed, program.spiffe_id, created, changed, deleted)


@requirement("GREETER-5")
def test_program_retries_until_its_entry_exists(newcomer: Newcomer) -> None:
    """A program without an entry is denied, and retries with growing pauses."""
    created = newcomer.created
    attempts = created.before.attempts

    assert not created.before.svids, "it had an SVID before it had an entry"
    outcomes = {attempt.outcome for attempt in attempts}
    assert outcomes == {DENIED}, f"without an entry it got {outcomes}"
    for number, (earlier, later) in enumerate(itertools.pairwise(attempts)):
        pause = (later.at - earlier.at).total_seconds()
        least = min(FIRST_PAUSE * 2**number, LONGEST_PAUSE)
        assert pause >= least, f"pause {number + 1} was {pause:.2f} s, not {least:.1f} s"
        assert pause <= LONGEST_PAUSE + SLACK, f"pause {number + 1} was {pause:.2f} s"


@requirement("GREETER-5")
def test_created_entry_reaches_the_program(newcomer: Newcomer, measure: Measure, saw: Saw) -> None:
    """The program gets its SVID within a bound after its entry is created, and uses it."""
    created = newcomer.created
    ids = [svid["spiffe_id"] for svid in created.after.svids]
    assert ids == [newcomer.spiffe_id], f"it got SVIDs of {ids}"
    first = Items(a for a in created.after.attempts if a.outcome == "OK")[0]
    took = (first.at - created.since.wall).total_seconds()
    longest = propagation(newcomer.testbed) + LONGEST_PAUSE
    measure("from an entry to the SVID of a program that waits for it", round(took, 2), "s")
    assert took <= longest, f"{took:.1f} s after its entry was made, not {longest:.1f} s"
    assert created.hello.message, f"with its SVID it got {created.hello}"
    saw(f"denied {len(created.before.attempts)} times; {took:.1f} s from entry to SVID")


@requirement("GREETER-6")
def test_changed_entry_reaches_the_open_stream(
    newcomer: Newcomer, measure: Measure, saw: Saw
) -> None:
    """A changed DNS name and TTL of an entry reach the open stream within a bound."""
    changed = newcomer.changed
    before, after = changed.before, changed.after
    outcomes = after.since(changed.since)

    assert OTHER_NAME not in before.svid["dns_names"], "it had the other DNS name already"
    assert not changed.shortfall, changed.shortfall
    assert set(outcomes) == {"OK"}, f"the stream was ended: {outcomes}"
    assert after.svid["serial"] != before.svid["serial"], "the serial is the same"
    measure("from a changed entry to the SVID of an open stream", round(changed.took, 2), "s")
    saw(f"{OTHER_NAME}, {OTHER_TTL} s: {changed.took:.1f} s after the change")


@requirement("GREETER-6")
def test_deleted_entry_ends_the_stream(newcomer: Newcomer, measure: Measure) -> None:
    """A deleted entry ends the open stream within a bound."""
    deleted = newcomer.deleted
    assert not deleted.open_stream, deleted.open_stream
    measure("from a deleted entry to the end of its stream", round(deleted.took, 2), "s")


@requirement("GREETER-6")
def test_access_lasts_as_long_as_the_last_svid(newcomer: Newcomer, saw: Saw) -> None:
    """After the deletion, calls succeed until the last SVID expires, and none succeeds later."""
    deleted = newcomer.deleted
    assert deleted.answered, f"it was rejected while its SVID was valid; {deleted.open_stream}"
    assert not deleted.access, deleted.access
    late = [c.start.wall for c in deleted.answered if c.start.wall > deleted.end]
    assert not late, f"it was answered {(late[-1] - deleted.end).total_seconds():.1f} s late"
    saw(f"{len(deleted.answered)} calls answered after the deletion")


@requirement("GREETER-6")
def test_expired_svid_is_rejected_as_expired(newcomer: Newcomer, saw: Saw) -> None:
    """The server then rejects the program because its SVID has expired, and no other client."""
    deleted = newcomer.deleted
    assert deleted.refusals, f"the server has rejected no handshake; {deleted.open_stream}"
    reason = deleted.refusals[-1].reason
    assert "expired" in reason, f"the server rejected it because: {reason}"
    assert deleted.control.message, f"the genuine client is rejected too: {deleted.control}"
    saw(reason)


@requirement("GREETER-6")
def test_deleted_entry_gets_no_new_svid(newcomer: Newcomer) -> None:
    """After the deletion the program gets no SVID: the Workload API denies it."""
    deleted = newcomer.deleted
    serials = deleted.held.svid["serial"], deleted.last.svid["serial"]
    assert serials[0] == serials[1], f"it got another SVID: {serials[1]} after {serials[0]}"
    denied = deleted.answer.code is grpc.StatusCode.PERMISSION_DENIED
    assert denied, f"expected PermissionDenied: {deleted.answer}"


def _await_svid(program: Greeter) -> IdentitySnapshot:
    """Wait until the program holds an SVID; raises TimedOut."""

    def held() -> IdentitySnapshot:
        now = program.identity()
        ids = [svid["spiffe_id"] for svid in now.svids]
        assert program.spiffe_id in ids, f"it is {ids or now.attempts[-1].outcome}"
        return now

    return eventually(held, budgets.REGISTRATION, alive=program.program.assert_alive)


def _change(testbed: Testbed, program: Greeter, entry_id: str) -> Changed:
    """Give the entry another DNS name and TTL, and wait until the program has both."""
    budget = Budget("a changed entry reaches its program", propagation(testbed))
    before, since = program.identity(), Timestamp.now()

    def arrived() -> None:
        snapshot = program.identity()
        names = snapshot.svid["dns_names"]
        assert names == [OTHER_NAME], f"DNS names {names}"
        lifetime = snapshot.lifetime - BACKDATING
        assert abs(lifetime - OTHER_TTL) <= TRUNCATION, f"it lives for {lifetime:.0f} s"

    testbed.registration.change(entry_id, dns_names=[OTHER_NAME], x509_svid_ttl=OTHER_TTL)
    shortfall = ""
    try:
        eventually(arrived, budget, alive=program.program.assert_alive)
    except TimedOut as error:
        shortfall = str(error)
    took = Timestamp.now().at - since.at
    return Changed(since, before, program.identity(), took, shortfall)


def _delete(testbed: Testbed, greeters: Greeters, entry_id: str) -> Deleted:
    """Delete the entry, and have the program call until it is rejected."""
    program, refused = greeters.newcomer, len(greeters.server.refused())
    budget = Budget("a deleted entry ends its program's stream", propagation(testbed))
    since = Timestamp.now()

    def ended() -> None:
        outcomes = program.identity().since(since)
        assert DENIED in outcomes, f"its stream goes on: {outcomes[-3:]}"

    testbed.spire.delete_entry(entry_id)
    open_stream, calls, access = "", list[Call](), ""
    try:
        eventually(ended, budget, alive=program.program.assert_alive)
    except TimedOut as error:
        open_stream = str(error)
    held, took = program.identity(), Timestamp.now().at - since.at
    # While its stream is open it may get SVIDs that never let its access end.
    if not open_stream:
        access = _call_until_rejected(program, held, calls)
    return Deleted(
        held=held,
        took=took,
        open_stream=open_stream,
        calls=tuple(calls),
        access=access,
        refusals=tuple(greeters.server.refused()[refused:]),
        last=program.identity(),
        answer=fetch_x509(program.program.workload_api()),
        control=greeters.client.hello("server", "Control"),
    )


def _call_until_rejected(program: Greeter, held: IdentitySnapshot, calls: list[Call]) -> str:
    """Have the program call until it is rejected, at most until shortly after its SVID expires.

    Returns:
        Why it counts as never rejected; empty if it was.
    """
    left = (held.until - Timestamp.now().wall).total_seconds()
    budget = Budget("access ends with the last SVID", max(left, 0) + SLACK, CALL_INTERVAL)

    def rejected() -> None:
        start = Timestamp.now()
        hello = program.hello("server", "Nan")
        calls.append(Call(start, hello, Timestamp.now()))
        assert hello.refused, f"it got {hello}"

    try:
        eventually(rejected, budget, alive=program.program.assert_alive)
    except TimedOut as error:
        return str(error)
    return ""
