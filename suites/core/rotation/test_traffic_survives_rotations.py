"""During rotations no valid request fails, and no invalid one is accepted."""

import itertools
from http import HTTPStatus

from cryptography.hazmat.primitives import hashes

from svidproof import LAG, Measure, Saw, Source, Unseen, requirement
from svidproof.checks import Observation, OpenConnection

RATE = 10.0  # requests per second that the watch sends through the valid client
ENOUGH = 0.25  # the share that must be sent: checks that count hold requests back, as does load
LEAST = 30  # requests, ten a rotation: enough to judge where the watch itself was late


@requirement("ROTATION-6")
def test_no_request_fails(rotations: Observation, measure: Measure) -> None:
    """All requests through both sidecars, several per second, succeed during the rotations."""
    requests = rotations.requests("valid-api-client")

    failed = [r for r in requests if r.status != HTTPStatus.OK]
    assert not failed, (
        f"{len(failed)} of {len(requests)} requests failed; the first: {failed[0].note}"
    )
    seconds = requests[-1].sent.at - requests[0].sent.at
    rate = len(requests) / seconds
    measure("requests during rotations", len(requests), "requests")
    if late := rotations.timeline.attention.lateness():
        measure("lateness of the watch, 99 of 100", late[0], "s")
        measure("lateness of the watch, most", late[1], "s")
    if rate < RATE * ENOUGH:
        own = _held_back(rotations)
        possible = len(requests) / max(seconds - own, 0.001)
        assert possible >= RATE * ENOUGH, f"only {rate:.1f} requests per second in {seconds:.0f} s"
        if len(requests) < LEAST:
            raise Unseen(f"only {len(requests)} requests: the watch itself was {own:.0f} s late")
    for name in ("api", "valid-api-client"):
        for rotation in rotations.rotations(name):
            came = rotation.after.first.at
            near = [r for r in requests if abs(r.sent.at - came) <= LAG]
            if not near:
                _assert_punctual(rotations, "valid-api-client", came - LAG, came + LAG)
            assert near, f"no request within {LAG} s of a rotation of {name}"


@requirement("ROTATION-11")
def test_open_connection_is_kept(open_connection: OpenConnection, saw: Saw) -> None:
    """A connection that stays open is answered before and after the sidecar's rotations."""
    first, last = open_connection.first, open_connection.last

    assert first.status == HTTPStatus.OK, f"control: {first}"
    assert last.status == HTTPStatus.OK, (
        f"after {open_connection.certificates} new certificates an open connection got {last}"
    )
    saw(f"{open_connection.certificates} new certificates")


@requirement("ROTATION-7")
def test_new_connections_present_the_new_certificate(rotations: Observation) -> None:
    """After a rotation new connections present the client's new certificate to the server."""
    seen = list(rotations.seen(Source.WORKLOAD_API, "valid-api-client").values())
    order = {s.chain[0].fingerprint(hashes.SHA256()).hex(): n for n, s in enumerate(seen)}
    reported = {s.tag: s.client_hash for s in rotations.testbed.workload("api").app.seen()}
    answered = [r for r in rotations.requests("valid-api-client") if r.status == HTTPStatus.OK]
    presented = set()

    for request in answered:
        number = order.get(reported.get(request.tag) or "")
        if number is None and request.sent.at <= seen[0].first.at:
            continue  # the stream began after the request, and the SVID was replaced in between
        assert number is not None, f"the app saw an unknown client certificate: {request.tag}"
        presented.add(seen[number].serial)
        if number + 1 < len(seen):
            stale = rotations.lag(seen[number + 1].first, request.sent)
            assert stale <= LAG, (
                f"an SVID was presented {stale:.1f} s after its successor was delivered"
            )

    renewed = {rotation.after.serial for rotation in rotations.lasting("valid-api-client")}
    never = [f"{serial:x}" for serial in renewed - presented]
    assert not never, f"the client never presented {never}"


@requirement("ROTATION-7")
def test_listener_serves_the_new_certificate(rotations: Observation) -> None:
    """After a rotation the API's listener serves new connections the new certificate."""
    served = rotations.seen(Source.WIRE, "api")
    ended = []

    for rotation in rotations.lasting("api"):
        if rotation.after.serial not in served:
            rotations.assert_looked(Source.WIRE, "api", rotation.after.first)
        assert rotation.after.serial in served, f"api never served {rotation.after.serial:x}"
        old = served.get(rotation.before.serial)
        if old is not None:
            ended.append((old.serial, rotation.after.first, old.last, old.took))
    stale, _ = max(rotations.lags(ended), default=(0.0, 0))
    assert stale <= LAG, f"the old certificate was served {stale:.1f} s longer"


@requirement("ROTATION-8")
def test_rejected_client_rotates_and_stays_rejected(rotations: Observation) -> None:
    """The invalid client's SVID rotates like the others, and every request is rejected."""
    requests = rotations.requests("invalid-api-client")
    tags = {request.tag for request in requests}

    rotations.assert_enough("invalid-api-client")
    served = [r for r in requests if r.status != HTTPStatus.SERVICE_UNAVAILABLE]
    assert not served, f"{len(served)} of {len(requests)} requests were not rejected: {served[0]}"
    reached = [s for s in rotations.testbed.workload("api").app.seen() if s.tag in tags]
    assert not reached, f"the app saw {len(reached)} of {len(requests)} rejected requests"
    deliveries = [s.first.at for s in rotations.delivered("invalid-api-client")]
    # An SVID that is renewed at once, as at the start of a stream, leaves no time for a request.
    for start, end in itertools.pairwise(deliveries):
        between = [r for r in requests if start <= r.sent.at <= end]
        if not between:
            _assert_punctual(rotations, "invalid-api-client", start, end)
        assert between or end - start < LAG, "no request was sent between two rotations"


def _assert_punctual(rotations: Observation, client: str, since: float, until: float) -> None:
    """Raise Unseen if the machine, or the watch itself, can have kept a client from sending."""
    rotations.assert_not_stalled(since, until, LAG)
    attention = rotations.timeline.attention
    late = max(map(attention.latest, (f"requests of {client}", f"turn of {client}")))
    if late >= LAG:
        raise Unseen(f"the suite's watch itself was {late:.1f} s late with a request of {client}")


def _held_back(rotations: Observation) -> float:
    """The seconds for which requests waited for their turn or for the machine."""
    attention = rotations.timeline.attention
    stalled = attention.stalled(rotations.timeline.start.at, rotations.end.at)
    return attention.late("turn of valid-api-client") + stalled
