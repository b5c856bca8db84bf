"""A client's SVID stays valid until it expires after its entry is deleted, and is not renewed.

All checks read one window, which lasts as long as the client's certificate. During it the proxy's
own certificate is renewed, and connections stay open until after the client's has expired.
"""

import http

import pytest

from svidproof import (
    CONNECTION_END_S,
    CONNECTION_S,
    LAG,
    Capability,
    Measure,
    Request,
    Saw,
    Sighting,
    Source,
    budgets,
    key_hash,
    needs,
    requirement,
)
from svidproof.checks import Ending, assert_sent, deletion, refusals

pytestmark = needs(Capability.OUTSIDE)
ENOUGH = 10  # requests before the certificate expires
RATE = 1.0  # requests a second, of the four that the watch tries to send
SLACK = 1.0  # seconds for the proxy's timers and for the suite to notice
PROXY = "proxy"
DENIED = "PermissionDenied"
OK = http.HTTPStatus.OK


@requirement("PROXY-3")
def test_certificate_is_accepted_until_expiry(ending: Ending, saw: Saw, measure: Measure) -> None:
    """Every request with the deleted entry's certificate succeeds until the certificate expires."""
    requests = ending.before()

    lived = (ending.not_after - ending.deleted.wall).total_seconds()
    _assert_sent(ending, deletion.HOLDER, requests, ENOUGH, lived)
    _assert_answered(requests)
    measure("validity after the entry's deletion", lived, "s")
    saw(f"{len(requests)} requests answered in {lived:.1f} s after the deletion")


@requirement("PROXY-3")
def test_expired_certificate_is_rejected(ending: Ending, saw: Saw) -> None:
    """Every request after the certificate expires is rejected in the handshake with an alert."""
    requests = ending.after()

    assert len(requests) >= deletion.SOME, (
        f"only {len(requests)} requests afterwards; {ending.shortfall}"
    )
    served = [r for r in requests if r.status is not None]
    assert not served, (
        f"{len(served)} of {len(requests)} got HTTP {served[0].status} after its expiry"
    )
    others = [r.note for r in requests if f"“{refusals.UNKNOWN.value}”" not in r.note]
    assert not others, f"{len(others)} of {len(requests)} failed in another way: {others[0]}"
    saw(f"{len(requests)} requests rejected: {requests[0].note}")


@requirement("PROXY-3")
def test_no_new_svid_is_delivered(ending: Ending, saw: Saw, measure: Measure) -> None:
    """The agent denies the workload once it has synced the deletion; its files do not change."""
    noticed = ending.noticed
    attention, bound = ending.testbed.watch.timeline.attention, budgets.REGISTRATION.seconds
    took = attention.lag(ending.deleted.at, noticed.at, bound=bound)
    later = [asked for asked in ending.asked if asked.at.at >= noticed.at]

    assert took <= bound, f"the agent synced the deletion after {took:.1f} s"
    again = [asked for asked in later if asked.given]
    assert not again, f"an SVID was delivered again {len(again)} times"
    others = [asked.said for asked in later if DENIED not in asked.said]
    assert not others, f"expected {DENIED}, got: {others[0]}"
    assert len(later) >= deletion.SOME, (
        f"it requested an SVID only {len(later)} times; {ending.shortfall}"
    )
    first, last = (files.leaf for files in ending.files)
    assert (last.serial_number, key_hash(last)) == (first.serial_number, key_hash(first)), (
        f"its files hold {last.serial_number:x} now"
    )
    measure("from deletion to the agent's sync", took, "s")
    saw(f"denied {len(later)} times, the first after {took:.1f} s")


@requirement("PROXY-3")
@needs(Capability.SPIRE_LOGS)
def test_no_new_svid_is_signed(ending: Ending) -> None:
    """The server signs no SVID for the deleted entry once the agent has synced the deletion."""
    signed = ending.signatures()

    assert signed, "the server logged no signature for it"
    late = [r for r in signed if r.wall > ending.refused.wall]
    assert not late, f"{len(late)} were signed, the first at {late[0].wall}"


@requirement("PROXY-3")
def test_other_clients_are_not_affected(ending: Ending, saw: Saw) -> None:
    """Every request of a client with another entry succeeds throughout."""
    requests = ending.requests(deletion.BYSTANDER)

    lasted = ending.end.at - ending.deleted.at
    _assert_sent(ending, deletion.BYSTANDER, requests, RATE * lasted, lasted)
    _assert_answered(requests)
    saw(f"{len(requests)} requests answered")


@requirement("PROXY-3")
def test_backend_received_the_successful_requests(ending: Ending) -> None:
    """The backend receives exactly the successful requests, with the client's SPIFFE ID."""
    own = ending.spiffe_id
    answered = {r.tag for r in ending.requests(deletion.HOLDER) if r.status == OK}

    seen = {r.tag: r.client_id for r in ending.testbed.app_behind(PROXY).seen()}

    assert answered, "no request was answered"
    missing = answered - seen.keys()
    assert not missing, f"the backend did not receive {len(missing)} successful requests"
    ids = {seen[tag] for tag in answered}
    assert ids == {own}, f"the backend saw the clients {sorted(map(str, ids))}, not {own}"
    rejected = ({r.tag for r in ending.requests(deletion.HOLDER)} - answered) & seen.keys()
    assert not rejected, f"the backend received {len(rejected)} rejected requests"


@requirement("PROXY-9")
@pytest.mark.parametrize(("name", "least"), [(deletion.BUSY, ENOUGH), (deletion.IDLE, 1)])
def test_open_connection_is_closed(
    ending: Ending, name: str, least: int, saw: Saw, measure: Measure
) -> None:
    """The proxy closes an open connection, busy or idle, soon after its connection limit."""
    held, limit = ending.held[name], CONNECTION_S + CONNECTION_END_S + SLACK

    assert len(held.answers) >= least, f"it was answered only {len(held.answers)} times"
    failed = [exchange for _, exchange in held.answers if exchange.status != OK]
    assert not failed, f"{len(failed)} of {len(held.answers)} failed: {failed[0]}"
    before = (ending.not_after - held.opened.wall).total_seconds()
    assert 0 < before < CONNECTION_S, f"it was opened {before:.1f} s before the expiry"
    assert held.ended, f"it was not closed within {limit:.0f} s, nor soon after"
    attention = ending.testbed.watch.timeline.attention
    lasted = attention.lag(held.opened.at, held.ended.at, bound=limit)
    assert lasted <= limit, f"it lasted {lasted:.1f} s, not {limit:.0f}"
    outlived = lasted - before
    measure(f"{name} connection after its certificate's expiry", outlived, "s")
    late = sum(sent.wall > ending.not_after for sent, _ in held.answers)
    saw(f"lasted {lasted:.1f} s, {outlived:.1f} s and {late} answers after the expiry")


@requirement("PROXY-11")
def test_renewed_certificate_is_served(ending: Ending, saw: Saw, measure: Measure) -> None:
    """Each new SVID of the proxy appears in `/certs` and in handshakes within a bounded lag."""
    timeline = ending.testbed.watch.timeline
    delivered = [r.after for r in timeline.rotations(PROXY) if r.after.first.at < _settled(ending)]
    served, shown = _seen(ending, Source.WIRE), _seen(ending, Source.CERTS)

    assert delivered, f"the proxy received no new SVID; {ending.shortfall}"
    for svid in delivered:
        for where, seen in (("served", served), ("shown", shown)):
            assert svid.serial in seen, f"{svid.serial:x} was never {where}"
            first = seen[svid.serial]
            since, attention = svid.first.at, timeline.attention
            lag = attention.lag(since, first.first.at, first.delay, bound=LAG)
            assert lag <= LAG, f"{svid.serial:x} was {where} {lag:.1f} s after its delivery"
    worst = max(served[svid.serial].first.at - svid.first.at for svid in delivered)
    measure("a new certificate at the proxy", worst, "s")
    saw(f"{len(delivered)} served, at most {worst:.1f} s after their delivery")


@requirement("PROXY-11")
def test_served_certificate_is_valid(ending: Ending, saw: Saw) -> None:
    """Each certificate that the proxy serves is valid at that time and listed in `/certs`."""
    shown = _seen(ending, Source.CERTS)
    served = [s for s in _seen(ending, Source.WIRE).values() if s.first.at < _settled(ending)]

    assert served, "no certificate of the proxy was sampled: the window was empty"
    for sighting in served:
        late = (sighting.last.wall - sighting.not_after).total_seconds()
        assert late <= 0, f"{sighting.serial:x} was served {late:.1f} s after its expiry"
        early = (sighting.not_before - sighting.first.wall).total_seconds()
        assert early <= 0, f"{sighting.serial:x} was served {early:.1f} s before its notBefore"
        assert sighting.serial in shown, f"{sighting.serial:x} is not in /certs"
    saw(f"{len(served)} certificates in {sum(s.times for s in served)} samples")


def _settled(ending: Ending) -> float:
    """Until when every view of an SVID was sampled, on the monotonic clock."""
    return ending.end.at - LAG


def _seen(ending: Ending, source: Source) -> dict[int, Sighting]:
    # By serial: an old certificate may stay in `/certs` for a while.
    return {s.serial: s for s in ending.testbed.watch.timeline.sightings(source, PROXY)}


def _assert_answered(requests: list[Request]) -> None:
    failed = [r for r in requests if r.status != OK]
    assert not failed, f"{len(failed)} of {len(requests)} failed; the first: {failed[0].note}"


def _assert_sent(
    ending: Ending, client: str, requests: list[Request], count: float, lasted: float
) -> None:
    """Require that a client sent enough requests in the first seconds after the deletion."""
    since = ending.deleted.at
    timeline = ending.testbed.watch.timeline
    assert_sent(timeline, client, requests, count, since=since, until=since + lasted)
