"""Each renewal replaces the files and signals the program, which presents the new SVID.

All checks read one window with five renewals on each side.
"""

import http
import itertools
import statistics
from collections.abc import Sequence

import pytest
from cryptography.hazmat.primitives import hashes

from svidproof import (
    Capability,
    Measure,
    Sighting,
    Source,
    key_hash,
    needs,
    reading,
    requirement,
    spiffe_ids,
)
from svidproof.checks import FILE_LAG, RENEWALS, Renewals, assert_sent

CLIENT = "manifest-client"
RATE = 10.0  # requests a second that the watch makes the client send
ENOUGH = 0.3  # of these requests: a busy machine delays some
each_side = pytest.mark.parametrize("name", ["manifest-server", CLIENT])


@requirement("HELPER-2")
@each_side
def test_files_are_replaced(renewals: Renewals, name: str) -> None:
    """Five or more renewals bring a new serial, a new key and a later expiry for the same ID."""
    found = renewals.files(name)

    leaves = [sighting.chain[0] for sighting in found]
    assert len({leaf.serial_number for leaf in leaves}) == len(leaves), "a serial was used again"
    assert len({key_hash(leaf) for leaf in leaves}) == len(leaves), "a key was used again"
    for before, after in itertools.pairwise(found):
        assert after.not_after > before.not_after, (
            f"{name}: {after.serial:x} expires at {after.not_after:%X}, "
            f"the SVID before it, {before.serial:x}, at {before.not_after:%X}"
        )
    ids = {uri for leaf in leaves for uri in spiffe_ids(leaf)}
    assert ids == {renewals.testbed.scenario.spiffe_id(name)}, f"{name}'s files hold {sorted(ids)}"


@requirement("HELPER-2")
@needs(Capability.SPIRE_LOGS)
@each_side
def test_every_signed_svid_reaches_the_files(
    renewals: Renewals, name: str, measure: Measure
) -> None:
    """Each SVID that the server signs for a workload reaches its files within a bound."""
    testbed, first = renewals.testbed, renewals.files(name)[0]
    own, shown = testbed.scenario.spiffe_id(name), _first_seen(renewals, Source.FILES, name)
    others = testbed.other_agents(name)

    lines = renewals.timeline.logs(testbed.spire.component, testbed.messages.signed)
    with reading("a serial in the server's log"):
        signed = {
            int(line.fields["serial_num"]): line.wall
            for line in lines
            if line.fields.get("spiffe_id") == own
            and line.fields.get("caller_id") not in others
            and first.first.wall < line.wall < renewals.cutoff.wall
        }

    assert len(signed) >= RENEWALS, f"{name}: the server signed {len(signed)} times"
    lags = []
    for serial, wall in signed.items():
        assert serial in shown, f"{name}: {serial:x}, signed at {wall:%X}, never reached its files"
        first = shown[serial]
        lag = (first.first.wall - wall).total_seconds()
        since = first.first.at - lag
        lags.append(
            renewals.timeline.attention.lag(since, first.first.at, first.delay, bound=FILE_LAG)
        )
    measure(f"from signature to file, {name}", statistics.median(lags), "s")
    assert max(lags) <= FILE_LAG, (
        f"{name}: an SVID reached its files {max(lags):.2f} s after it was signed"
    )


@requirement("HELPER-2")
@each_side
def test_program_is_signalled_once_each_time(renewals: Renewals, name: str) -> None:
    """A program reloads exactly once per renewal, when it is signalled."""
    first, *later = [_sha256(sighting) for sighting in renewals.files(name)]

    reloads = renewals.state(name).reloads

    loaded = [r.certificate for r in reloads]
    # The window starts with the SVID of that moment, and may end just before another renewal.
    begin = loaded.index(first) + 1 if first in loaded else 0
    errors = [r.error for r in reloads[begin:] if r.error]
    assert not errors, f"{name} could not load what it was signalled for: {errors[0]}"
    end = len(loaded) - loaded[::-1].index(later[-1]) if later[-1] in loaded else len(loaded)
    assert loaded[begin:end] == later, (
        f"{name} was signalled {end - begin} times for {len(later)} renewals: "
        f"it loaded {_short(loaded[begin:end])}, its files held {_short(later)}"
    )


@requirement("HELPER-2")
@each_side
def test_signal_comes_with_the_files(renewals: Renewals, name: str) -> None:
    """A program reloads a renewal soon after the files change."""
    loaded = {r.certificate: r.wall for r in renewals.state(name).reloads}

    for sighting in renewals.files(name)[1:]:
        assert _sha256(sighting) in loaded, f"{name} never loaded {sighting.serial:x}"
        late = loaded[_sha256(sighting)] - sighting.first.wall.timestamp()
        assert late <= FILE_LAG, (
            f"{name} loaded {sighting.serial:x} {late:.2f} s after it was written"
        )


@requirement("HELPER-2")
@each_side
def test_program_presents_each_renewal(renewals: Renewals, name: str, measure: Measure) -> None:
    """A program presents each renewal soon after it is in the files, in order."""
    presented = _first_seen(renewals, Source.WIRE, name)
    attention, files = renewals.timeline.attention, renewals.files(name)[1:]
    lags = []

    for sighting, following in zip(files, [*files[1:], None], strict=True):
        since = sighting.first.at
        if sighting.serial not in presented and following is not None:
            # On a busy machine no client may connect before the next one is there.
            kept = attention.lag(since, following.first.at, following.delay, bound=FILE_LAG)
            if kept <= FILE_LAG:
                continue
        assert sighting.serial in presented, f"{name} never presented {sighting.serial:x}"
        first = presented[sighting.serial]
        lags.append(attention.lag(since, first.first.at, first.delay, bound=FILE_LAG))

    assert lags, f"{name} presented none of {len(files)} renewals"
    measure(f"from file to wire, {name}", statistics.median(lags), "s")
    assert max(lags) <= FILE_LAG, (
        f"{name} presented a renewal {max(lags):.2f} s after it was written"
    )
    written = [sighting.serial for sighting in renewals.files(name)]
    order = [serial for serial in presented if serial in written]
    assert order == [serial for serial in written if serial in presented], "in another order"


@requirement("HELPER-2")
@each_side
def test_previous_svid_is_not_presented(renewals: Renewals, name: str) -> None:
    """No peer sees the previous certificate soon after a renewal."""
    presented = _first_seen(renewals, Source.WIRE, name)

    for before, after in itertools.pairwise(renewals.files(name)):
        if before.serial in presented:
            last = presented[before.serial]
            attention = renewals.timeline.attention
            late = attention.lag(after.first.at, last.last.at, last.took, bound=FILE_LAG)
            assert late <= FILE_LAG, (
                f"{name} presented {before.serial:x} {late:.2f} s after its renewal"
            )


@requirement("HELPER-2")
@each_side
def test_program_stays_the_same_process(renewals: Renewals, name: str) -> None:
    """The program's process stays the same before, during and after the renewals."""
    assert name in renewals.before, f"{name}'s program did not answer before the renewals"

    before, after = renewals.before[name], renewals.state(name)

    same = (after.pid, after.begun) == (before.pid, before.begun)
    assert same, f"{name}'s program was process {before.pid}, and is {after.pid} now"


@requirement("HELPER-2")
def test_no_request_fails(renewals: Renewals, measure: Measure) -> None:
    """Every request of the client succeeds while both sides are renewed."""
    requests = [r for r in renewals.timeline.requests(CLIENT) if r.sent.at <= renewals.end.at]
    assert requests, "the client sent no request"
    failed = [r for r in requests if r.status != http.HTTPStatus.OK]

    assert not failed, f"{len(failed)} of {len(requests)} failed; the first: {failed[0].note}"
    measure("requests while files are renewed", len(requests), "requests")
    since, until = requests[0].sent.at, renewals.end.at
    enough = RATE * ENOUGH * (until - since)
    assert_sent(renewals.timeline, CLIENT, requests, enough, since=since, until=until)


@requirement("HELPER-14")
@needs(Capability.OWN_MACHINE)
@each_side
def test_no_descriptor_is_kept(renewals: Renewals, name: str, measure: Measure) -> None:
    """After the renewals, spiffe-helper holds at most one more descriptor for two of them."""
    count = len(renewals.files(name)) - 1
    assert name in renewals.descriptors, f"{name}'s spiffe-helper does not run"

    before, after = renewals.descriptors[name]

    measure(f"more descriptors of {name} after {count} renewals", after - before, "")
    # The first count may come after some of the renewals that the watch has seen.
    assert after - before <= count // 2, (
        f"{name}'s spiffe-helper holds {after} descriptors after {count} renewals, not {before}"
    )


def _first_seen(renewals: Renewals, source: Source, name: str) -> dict[int, Sighting]:
    return {s.serial: s for s in renewals.timeline.sightings(source, name)}


def _sha256(sighting: Sighting) -> str:
    return sighting.chain[0].fingerprint(hashes.SHA256()).hex()


def _short(fingerprints: Sequence[str | None]) -> str:
    return ", ".join((each or "nothing")[:8] for each in fingerprints) or "nothing"
