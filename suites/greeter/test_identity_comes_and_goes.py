"""A program that starts before its entry exists gains, changes and loses its identity."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import grpc
import pytest

from svidproof import Measure, Saw, Testbed, budgets, eventually, requirement
from svidproof.budgets import Budget
from svidproof.clock import Moment
from svidproof.faults import Row
from svidproof.greeters import Call, Cast, Greeter, Held
from svidproof.renewal_rule import BACKDATING, TRUNCATION
from svidproof.workload_api import fetch_x509

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
class Arrival:
    """A newcomer whose entry has just been made.

    Attributes:
        entry_id: the entry's.
        before: what it held until then.
        since: just before the entry was made.
    """

    entry_id: str
    before: Held
    since: Moment


@pytest.fixture(scope="module")
def arrival(greeter: Testbed, cast: Cast) -> Iterator[Arrival]:
    """The newcomer has asked in vain for some time, and then gets its entry."""

    def refused() -> Held:
        held = cast.newcomer.identity()
        outcomes = [attempt.outcome for attempt in held.attempts]
        assert len(outcomes) >= ENOUGH, f"it has asked {len(outcomes)} times: {outcomes}"
        return held

    before = eventually(refused, budgets.PROGRAM_READY, alive=greeter.assert_alive)
    since = Moment.now()
    with greeter.registered("newcomer", cast.newcomer.program.selectors) as entry_id:
        yield Arrival(entry_id, before, since)


def await_svid(newcomer: Greeter) -> Held:
    """Wait until it holds an SVID."""

    def held() -> Held:
        now = newcomer.identity()
        ids = [svid["spiffe_id"] for svid in now.svids]
        assert newcomer.spiffe_id in ids, f"it is {ids or now.attempts[-1].outcome}"
        return now

    return eventually(held, budgets.REGISTRATION, alive=newcomer.program.assert_alive)


@requirement("GREETER-5")
def test_program_asks_until_it_has_an_entry(
    greeter: Testbed, cast: Cast, arrival: Arrival, measure: Measure, saw: Saw
) -> None:
    """A program without an entry retries with growing pauses, and gets its SVID soon after."""
    assert not arrival.before.svids, "it had an SVID before it had an entry"
    outcomes = {attempt.outcome for attempt in arrival.before.attempts}
    assert outcomes == {DENIED}, f"without an entry it got {outcomes}"
    pauses = [
        (later.at - earlier.at).total_seconds()
        for earlier, later in itertools.pairwise(arrival.before.attempts)
    ]
    for number, pause in enumerate(pauses):
        least = min(FIRST_PAUSE * 2**number, LONGEST_PAUSE)
        assert pause >= least, f"pause {number + 1} was {pause:.2f} s, not {least:.1f} s"
        assert pause <= LONGEST_PAUSE + SLACK, f"pause {number + 1} was {pause:.2f} s"

    held = await_svid(cast.newcomer)

    ids = [svid["spiffe_id"] for svid in held.svids]
    assert ids == [cast.newcomer.spiffe_id], f"it got SVIDs of {ids}"
    first = Row(a for a in held.attempts if a.outcome == "OK")[0]
    took = (first.at - arrival.since.wall).total_seconds()
    longest = propagation(greeter) + LONGEST_PAUSE
    measure("from an entry to the SVID of a program that waits for it", round(took, 2), "s")
    assert took <= longest, f"{took:.1f} s after its entry was made, not {longest:.1f} s"
    hello = cast.newcomer.hello("server", "Nan")
    assert hello.message, f"with its SVID it got {hello}"
    saw(f"refused {len(arrival.before.attempts)} times; {took:.1f} s from entry to SVID")


@requirement("GREETER-6")
def test_changed_entry_reaches_the_open_stream(
    greeter: Testbed, cast: Cast, arrival: Arrival, measure: Measure, saw: Saw
) -> None:
    """A changed DNS name and TTL of an entry reach the open stream within a bound."""
    before = await_svid(cast.newcomer)
    assert OTHER_NAME not in before.svid["dns_names"], "it has the other DNS name already"
    since, budget = (
        Moment.now(),
        Budget("a changed entry reaches its program", propagation(greeter)),
    )

    greeter.registration.change(arrival.entry_id, dns_names=[OTHER_NAME], x509_svid_ttl=OTHER_TTL)

    def changed() -> Held:
        held = cast.newcomer.identity()
        assert held.svid["dns_names"] == [OTHER_NAME], f"DNS names {held.svid['dns_names']}"
        off = abs(held.lifetime - BACKDATING - OTHER_TTL)
        assert off <= TRUNCATION, f"it lives for {held.lifetime - BACKDATING:.0f} s"
        return held

    held = eventually(changed, budget, alive=cast.newcomer.program.assert_alive)
    took = Moment.now().at - since.at
    assert set(held.since(since)) == {"OK"}, f"the stream was ended: {held.since(since)}"
    assert held.svid["serial"] != before.svid["serial"], "the serial is the same"
    measure("from a changed entry to the SVID of an open stream", round(took, 2), "s")
    saw(f"{OTHER_NAME}, {OTHER_TTL} s: {took:.1f} s after the change")


@requirement("GREETER-6")
def test_deleted_entry_ends_access(
    greeter: Testbed, cast: Cast, arrival: Arrival, measure: Measure, saw: Saw
) -> None:
    """A deleted entry ends the stream within a bound; access ends when the last SVID expires."""
    await_svid(cast.newcomer)
    refused = len(cast.server.refused())
    budget = Budget("a deleted entry ends its program's stream", propagation(greeter))
    since = Moment.now()

    greeter.spire.delete_entry(arrival.entry_id)

    def ended() -> Held:
        held = cast.newcomer.identity()
        assert DENIED in held.since(since), f"its stream goes on: {held.since(since)[-3:]}"
        return held

    held = eventually(ended, budget, alive=cast.newcomer.program.assert_alive)
    took = Moment.now().at - since.at
    calls = call_until_refused(cast.newcomer, held)
    answered = [call for call in calls if call.hello.message]
    # A certificate is good to the end of its last second.
    end = held.until + timedelta(seconds=TRUNCATION)
    late = [call for call in answered if call.start.wall > end]
    assert answered, "it was refused while its SVID was good"
    assert not late, f"it was answered {(late[-1].start.wall - end).total_seconds():.1f} s late"
    refusals = cast.server.refused()[refused:]
    assert refusals, "the server has refused nobody"
    last = refusals[-1]
    assert "expired" in last.reason, f"the server refused it because: {last.reason}"
    assert cast.newcomer.identity().svid["serial"] == held.svid["serial"], "it got another SVID"
    answer = fetch_x509(cast.newcomer.program.workload_api())
    assert answer.code is grpc.StatusCode.PERMISSION_DENIED, f"expected PermissionDenied: {answer}"
    assert cast.client.hello("server", "Control").message, "the genuine client is refused, too"
    measure("from a deleted entry to the end of its stream", round(took, 2), "s")
    saw(
        f"stream ended after {took:.1f} s, answered {len(answered)} times more, then: {last.reason}"
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
