"""The timeline keeps what was seen, in order, from many threads, and never a private key."""

from __future__ import annotations

import io
import json
import re
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from svidproof.model.clock import Moment
from svidproof.model.logs.line import LogRecord
from svidproof.probes.credentials import Authority, Credential, Template
from svidproof.probes.workload_api.x509 import X509Svid
from svidproof.testbed.watch.timeline import (
    Ended,
    Request,
    Source,
    Timeline,
    describe,
    key_hash,
    spiffe_ids,
)

if TYPE_CHECKING:
    from cryptography import x509

NOON = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
VALIDITY = (NOON, NOON + timedelta(seconds=40))
# SPIRE logs decimal, Envoy hex, and some tools pairs with colons: one number.
SERIAL = 0xCBF54FB1957B90CAB46881D831FBDE14


@pytest.fixture
def file() -> io.StringIO:
    """A timeline.jsonl."""
    return io.StringIO()


@pytest.fixture
def timeline(file: io.StringIO) -> Timeline:
    """An empty timeline that writes."""
    return Timeline(file)


def events(file: io.StringIO) -> list[dict[str, Any]]:
    """What was written, line by line."""
    return [json.loads(line) for line in file.getvalue().splitlines()]


def see(
    timeline: Timeline, serial: int, workload: str = "api", source: Source = Source.WORKLOAD_API
) -> None:
    """See a certificate of which no more is known."""
    timeline.sighted(source, workload, serial=serial, validity=VALIDITY)


def svid(name: str = "api") -> Credential:
    """An SVID with its key."""
    root = Authority.create("root", "example.org")
    return root.issue(name, Template(uris=(f"spiffe://example.org/{name}",)))


def test_a_certificate_is_one_sighting(timeline: Timeline, file: io.StringIO) -> None:
    """A certificate that is seen again keeps its first moment, moves its last, and is counted."""
    for _ in range(3):
        see(timeline, SERIAL)

    [sighting] = timeline.sightings()
    assert sighting.times == 3
    assert sighting.first.at < sighting.last.at
    assert (sighting.not_before, sighting.not_after) == VALIDITY
    assert len(events(file)) == 1, "timeline.jsonl tells of what is new"


def test_a_serial_that_comes_twice_is_two_certificates(timeline: Timeline) -> None:
    """Certificates with one serial and other times are told apart: that is a defect to find."""
    see(timeline, SERIAL)
    later = tuple(moment + timedelta(seconds=20) for moment in VALIDITY)
    timeline.sighted(Source.WORKLOAD_API, "api", serial=SERIAL, validity=(later[0], later[1]))

    [rotation] = timeline.rotations("api")
    assert rotation.before.serial == rotation.after.serial


def test_sources_and_workloads_are_told_apart(timeline: Timeline) -> None:
    """The same certificate at two sources, or of two workloads, is sighted apart."""
    see(timeline, 1)
    see(timeline, 1, source=Source.CERTS)
    see(timeline, 1, workload="other")

    assert len(timeline.sightings()) == 3
    assert len(timeline.sightings(Source.CERTS)) == 1
    assert [s.workload for s in timeline.sightings(workload="other")] == ["other"]
    assert timeline.sightings(Source.WIRE, "api") == []


def test_sightings_are_in_the_order_of_their_first_moment(timeline: Timeline) -> None:
    """Sightings come in the order in which they were first seen, whatever was seen later."""
    for serial in (3, 1, 2, 1, 3):
        see(timeline, serial)

    assert [s.serial for s in timeline.sightings()] == [3, 1, 2]


def test_rotations_are_pairs_of_one_workload(timeline: Timeline) -> None:
    """A rotation is an SVID and the next one of the same workload, from the Workload API."""
    for serial, workload in [(1, "a"), (11, "b"), (2, "a"), (12, "b"), (3, "a")]:
        see(timeline, serial, workload)
    see(timeline, 99, "a", Source.CERTS)

    pairs = [(r.workload, r.before.serial, r.after.serial) for r in timeline.rotations()]

    assert pairs == [("a", 1, 2), ("a", 2, 3), ("b", 11, 12)]
    assert [r.after.serial for r in timeline.rotations("b")] == [12]


def test_one_svid_is_no_rotation(timeline: Timeline) -> None:
    """An SVID that is delivered again is no rotation."""
    see(timeline, 1)
    see(timeline, 1)

    assert timeline.rotations() == []


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("271107012254685056574422684564377558548", id="decimal"),
        pytest.param("0xcbf54fb1957b90cab46881d831fbde14", id="hex"),
        pytest.param("0x00CBF54FB1957B90CAB46881D831FBDE14", id="padded-upper-hex"),
    ],
)
def test_serials_are_numbers(timeline: Timeline, file: io.StringIO, text: str) -> None:
    """A serial is one number however a component spells it, and is written in hex."""
    see(timeline, int(text, 0))
    see(timeline, SERIAL)

    assert len(timeline.sightings()) == 1
    assert events(file)[0]["serial"] == "cbf54fb1957b90cab46881d831fbde14"


def test_every_event_is_one_line_of_json(timeline: Timeline, file: io.StringIO) -> None:
    """Each kind of event is written as one line with its moment on both clocks."""
    now = Moment.now()
    see(timeline, 1)
    timeline.logged(LogRecord("a.envoy", now, NOON, "info", "two\nlines “x”", {"k": "v"}))
    timeline.requested(Request("client", "api", "t1", now, 503, "refused"))
    timeline.requested(Request("client", "api", "t2", now, None, "no answer"))
    timeline.ended(Ended("api", now, "UNAVAILABLE", "gone"))

    written = events(file)

    kinds = ["certificate", "log", "request", "request", "stream-ended"]
    assert [event["kind"] for event in written] == kinds
    assert all(0 <= event["at"] < 60 for event in written)
    assert all(datetime.fromisoformat(event["wall"]).tzinfo for event in written)
    assert written[0]["not_after"] == "2026-05-01T12:00:40+00:00"
    assert (written[1]["message"], written[1]["fields"]) == ("two\nlines “x”", {"k": "v"})
    assert (written[2]["status"], written[3]["status"]) == (503, None)
    assert written[4]["code"] == "UNAVAILABLE"


def test_queries_filter(timeline: Timeline) -> None:
    """Logs are asked for by component and exact message, requests by client."""
    now = Moment.now()
    for component, message in [("a", "one"), ("a", "one more"), ("b", "one")]:
        timeline.logged(LogRecord(component, now, NOON, "info", message))
    timeline.requested(Request("x", "api", "t", now, 200, ""))
    timeline.ended(Ended("api", now, "OK", ""))

    assert len(timeline.logs()) == 3
    assert len(timeline.logs("a")) == 2
    assert [r.component for r in timeline.logs(message="one")] == ["a", "b"]
    assert timeline.logs("b", "one more") == []
    assert (len(timeline.requests("x")), timeline.requests("y")) == (1, [])
    assert [ended.workload for ended in timeline.streams_ended()] == ["api"]


def test_answers_are_copies(timeline: Timeline) -> None:
    """A list that was handed out does not change when something new is seen."""
    now = Moment.now()
    before = (timeline.sightings(), timeline.logs(), timeline.requests(), timeline.streams_ended())

    see(timeline, 1)
    timeline.logged(LogRecord("a", now, NOON, "info", "m"))
    timeline.requested(Request("x", "api", "t", now, 200, ""))
    timeline.ended(Ended("api", now, "OK", ""))

    assert before == ([], [], [], [])


def test_many_threads_may_write(timeline: Timeline, file: io.StringIO) -> None:
    """Eight threads that write at once lose nothing and break no line."""
    barrier = threading.Barrier(8)
    now = Moment.now()

    def write(number: int) -> None:
        barrier.wait()
        for n in range(50):
            see(timeline, n)
            timeline.logged(LogRecord(f"c{number}", now, NOON, "info", f"{n} {'x' * 200}"))
            timeline.rotations()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(s.times for s in timeline.sightings()) == 400
    assert len(timeline.logs("c3")) == 50
    assert len(events(file)) == 50 + 400


def test_certificate_is_described_without_being_written(
    timeline: Timeline, file: io.StringIO
) -> None:
    """The line of a certificate has the hashes of it and of its public key, nothing more of it."""
    leaf = svid().leaf
    timeline.sighted(
        Source.WIRE, "api", serial=leaf.serial_number, validity=VALIDITY, chain=(leaf,)
    )

    [event] = events(file)

    assert event["sha256"] == leaf.fingerprint(hashes.SHA256()).hex()
    assert event["key_sha256"] == key_hash(leaf)
    assert "CERTIFICATE" not in file.getvalue()


def test_no_private_key_is_ever_written_or_shown(timeline: Timeline, file: io.StringIO) -> None:
    """Nothing that holds a key shows it: not a line, not a record, not a representation."""
    credential = svid()
    delivered = X509Svid("spiffe://example.org/api", credential.chain, credential.key_pem, (), "")
    chain: tuple[x509.Certificate, ...] = delivered.chain
    timeline.sighted(Source.WORKLOAD_API, "api", serial=SERIAL, validity=VALIDITY, chain=chain)
    [sighting] = timeline.sightings()

    shown = [file.getvalue(), repr(sighting), repr(timeline.__dict__), repr(credential)]
    shown += [repr(delivered), str(delivered), str(credential), json.dumps(describe(chain[0]))]
    secret = re.sub(rb"-----[A-Z ]+-----|\s", b"", credential.key_pem).decode()

    assert len(secret) > 100
    for text in shown:
        assert "PRIVATE" not in text
        assert "key_pem" not in text
        assert secret[40:80] not in text.replace("\\n", "")


def test_key_hash_is_of_the_key() -> None:
    """Two certificates with one key have one key hash, and two keys have two."""
    root, key = Authority.create("root", "example.org"), ec.generate_private_key(ec.SECP256R1())
    template = Template(uris=("spiffe://example.org/api",))
    first, second = (root.issue("api", template, key=key).leaf for _ in range(2))

    assert first.serial_number != second.serial_number
    assert key_hash(first) == key_hash(second) != key_hash(svid().leaf)


@pytest.mark.parametrize(
    "uris", [(), ("spiffe://example.org/a",), ("spiffe://example.org/b", "spiffe://example.org/a")],
    ids=["none", "one", "two"],
)  # fmt: skip
def test_spiffe_ids_are_all_uris_in_order(uris: tuple[str, ...]) -> None:
    """A certificate's IDs are all of its URI SANs, in its own order."""
    leaf = Authority.create("root", "example.org").issue("x", Template(uris=uris)).leaf

    assert spiffe_ids(leaf) == list(uris)
