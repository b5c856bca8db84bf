"""Open channels stay open during rotations, and new connections present the new SVID."""

import pytest

from svidproof import Measure, Saw, Source, requirement
from svidproof.checks import CHANNEL_ROTATIONS, GREETERS, PROGRAM_LAG, Conversation


@requirement("GREETER-4")
def test_open_channel_survives_rotations(
    conversation_over: Conversation, measure: Measure, saw: Saw
) -> None:
    """A channel that was opened before both sides rotated still works without a reconnect."""
    calls = conversation_over.kept
    rotated = {name: len(conversation_over.rotations(name)) for name in GREETERS}

    assert calls, "no channel was ever opened"
    failed = [call.hello for call in calls if not call.hello.message]
    assert not failed, f"{len(failed)} of {len(calls)} calls failed; the first: {failed[0]}"
    connections = max(call.hello.connections for call in calls)
    assert connections == 1, f"the channel was connected {connections} times"
    assert min(rotated.values()) >= CHANNEL_ROTATIONS, f"rotations in that time: {rotated}"
    seconds = calls[-1].end.at - calls[0].start.at
    measure("calls over one channel through rotations", len(calls), "calls")
    saw(f"{len(calls)} calls in {seconds:.0f} s over one connection, rotations: {rotated}")


@requirement("GREETER-4")
@pytest.mark.parametrize(
    ("side", "presented"),
    [
        pytest.param("greeter-server", "server_serial", id="server"),
        pytest.param("greeter-client", "own_serial", id="client"),
    ],
)
def test_new_connections_present_the_new_svid(
    conversation_over: Conversation, side: str, presented: str, saw: Saw
) -> None:
    """Each new connection presents the SVID that is current in the Workload API."""
    calls = conversation_over.fresh
    timeline = conversation_over.testbed.watch.timeline
    delivered = [
        (s.first.at, f"{s.serial:x}") for s in timeline.sightings(Source.WORKLOAD_API, side)
    ]

    assert calls, "no new connection was ever made"
    failed = [call.hello for call in calls if not call.hello.message]
    seen = []
    # An old SVID is presented before it expires: only then do calls fail.
    for call in (call for call in calls if call.hello.message):
        serial = getattr(call.hello, presented)
        before = [s for at, s in delivered if at <= call.start.at - PROGRAM_LAG][-1:]
        due = before + [
            s
            for at, s in delivered
            if call.start.at - PROGRAM_LAG < at <= call.end.at + PROGRAM_LAG
        ]
        assert serial in due, (
            f"{side} presented {serial}, and not {due[-1] if due else 'an SVID of its own'}, "
            "which the Workload API had delivered"
        )
        seen.append(serial)
    assert not failed, f"{len(failed)} of {len(calls)} calls failed; the first: {failed[0]}"
    assert len(set(seen)) > CHANNEL_ROTATIONS, (
        f"only {len(set(seen))} SVIDs were presented in {len(seen)} calls"
    )
    saw(f"{len(set(seen))} SVIDs in {len(seen)} new connections, each the newest")
