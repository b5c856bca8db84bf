"""Thirty-second SVIDs rotate in time, wholly and without a gap, in every view of them.

All of this is asked of one observation window: rotation cannot be hurried.
"""

import itertools
import statistics

import pytest

from svidproof import Measure, requirement
from svidproof.faults import Unseen
from svidproof.renewal_rule import BACKDATING, JITTER, LAG, TRUNCATION, TYPICAL_LAG, Period
from svidproof.watch.observation import WANTED, Observation
from svidproof.watch.timeline import Rotation, Source, key_hash, spiffe_ids

WORKLOADS = ["api", "valid-api-client", "invalid-api-client", "api-trusted-ca"]
SERVING = {"api", "api-trusted-ca"}
each_workload = pytest.mark.parametrize("name", WORKLOADS)


@requirement("ROTATION-1")
@each_workload
def test_each_rotation_renews_serial_and_key(rotations: Observation, name: str) -> None:
    """Three or more rotations, each with a new serial and a new key for the same SPIFFE ID."""
    seen = rotations.rotations(name)

    assert len(seen) >= WANTED, rotations.shortfall
    leaves = [sighting.chain[0] for sighting in rotations.delivered(name)]
    assert len({leaf.serial_number for leaf in leaves}) == len(leaves), "a serial was used again"
    assert len({key_hash(leaf) for leaf in leaves}) == len(leaves), "a key was used again"
    own = rotations.testbed.scenario.spiffe_id(name)
    ids = {uri for leaf in leaves for uri in spiffe_ids(leaf)}
    assert ids == {own}, f"{name} was given {sorted(ids)}"


@requirement("ROTATION-2")
@each_workload
def test_svid_is_renewed_in_time(rotations: Observation, name: str) -> None:
    """Each SVID is renewed when half its lifetime is left, within SPIRE's jitter."""
    testbed = rotations.testbed
    allowed = Period.of(testbed.scenario.svid_ttl, testbed.settings.timing.sync_s)

    for rotation in rotations.rotations(name):
        left = _left(rotation)

        assert allowed.latest <= left <= allowed.earliest, (
            f"{name} was renewed with {left:.0f} s left; "
            f"sound is {allowed.latest:.1f} to {allowed.earliest:.1f} s"
        )


@requirement("ROTATION-2")
def test_svids_are_renewed_at_half_their_lifetime(rotations: Observation, measure: Measure) -> None:
    """Taken together, renewals happen where SPIRE's rule puts them, with no allowance for load."""
    testbed = rotations.testbed
    half = (testbed.scenario.svid_ttl + BACKDATING) / 2
    sync = testbed.settings.timing.sync_s
    latest = half * (1 - JITTER) - sync * (1 + JITTER)
    seen = [r for name in WORKLOADS for r in rotations.rotations(name)]

    left = statistics.median(_left(rotation) for rotation in seen)

    measure("time left at renewal", left, "s")
    assert latest <= left <= half * (1 + JITTER) + TRUNCATION, (
        f"half of {len(seen)} SVIDs were renewed with {left:.1f} s left or less; "
        f"sound is {latest:.1f} to {half * (1 + JITTER) + TRUNCATION:.1f} s"
    )


@requirement("ROTATION-3")
@each_workload
@pytest.mark.parametrize("source", [Source.CERTS, Source.WORKLOAD_API], ids=lambda s: s.value)
def test_validity_moves_on_without_a_gap(rotations: Observation, name: str, source: Source) -> None:
    """`valid_from` and `expiration_time` grow, and each SVID is there before the last one ends."""
    shown = list(rotations.seen(source, name).values())

    assert len(shown) > WANTED, f"{name} showed {len(shown)} certificates at {source.value}"
    for before, after in itertools.pairwise(shown):
        assert after.not_before > before.not_before, f"valid_from stands at {before.not_before}"
        assert after.not_after > before.not_after, f"the end stands at {before.not_after}"
        assert after.not_before < before.not_after, "a gap in validity"
        assert after.first.wall < before.not_after, f"{after.serial:x} came too late"


@requirement("ROTATION-4")
@each_workload
@pytest.mark.parametrize(
    "source", [Source.CERTS, Source.SECRETS, Source.WIRE], ids=lambda s: s.value
)
def test_no_invalid_certificate_is_ever_shown(
    rotations: Observation, name: str, source: Source
) -> None:
    """No expired and no not-yet-valid certificate is ever shown or served."""
    if source is Source.WIRE and name not in SERVING:
        # A client's certificate is on the wire too: the server's side of it is asked by ROTATION-7.
        source = Source.SECRETS
    shown = rotations.seen(source, name)

    assert not rotations.testbed.watch.errors, rotations.testbed.watch.errors[:3]
    looks, own = sum(s.times for s in shown.values()), rotations.looks(source, name)
    if own is not None and own < WANTED * 5:
        raise Unseen(f"the suite's watch has looked at {source.value} of {name} only {own} times")
    assert looks >= WANTED * 5, f"{source.value} was looked at only {looks} times"
    for sighting in shown.values():
        assert sighting.first.wall >= sighting.not_before, f"{sighting.serial:x} not yet valid"
        assert sighting.last.wall <= sighting.not_after, f"{sighting.serial:x} had expired"


@requirement("ROTATION-5")
@each_workload
def test_all_views_of_an_svid_agree(rotations: Observation, name: str, measure: Measure) -> None:
    """Workload API, `/certs`, `config_dump` and the wire show each SVID within a stated lag."""
    sources = [Source.CERTS, Source.SECRETS, *([Source.WIRE] if name in SERVING else [])]
    delivered = rotations.delivered(name)

    for source in sources:
        shown = rotations.seen(source, name)
        came, stayed = [], []
        for before, after in itertools.pairwise(delivered):
            if after.serial not in shown:
                rotations.assert_looked(source, name, after.first)
            assert after.serial in shown, f"{after.serial:x} never came to {source.value}"
            first = shown[after.serial]
            came.append((after.serial, after.first, first.first, first.delay))
            if before.serial in shown:
                last = shown[before.serial]
                stayed.append((before.serial, after.first, last.last, last.took))
        lags = rotations.lags(came)
        late, serial = max(lags)
        assert late <= LAG, f"{serial:x} came to {source.value} {late:.2f} s late"
        longest, _ = max(rotations.lags(stayed), default=(0.0, 0))
        assert longest <= LAG, f"{source.value} showed the old SVID {longest:.2f} s longer"
        foreign = set(shown) - set(rotations.seen(Source.WORKLOAD_API, name))
        strange = [f"{serial:x}" for serial in foreign]
        assert not strange, f"{source.value} showed what was never delivered: {strange}"
        measure(f"{source.value} lag {name}", late, "s")
        typical = statistics.median(lag for lag, _ in lags)
        assert typical <= TYPICAL_LAG, f"{source.value} lags by {typical:.2f} s half of the time"


@requirement("ROTATION-9")
@each_workload
def test_lifetime_is_ttl_plus_backdating(rotations: Observation, name: str) -> None:
    """Each SVID lives for its entry's TTL, plus the ten seconds by which SPIRE backdates it."""
    expected = rotations.testbed.scenario.svid_ttl + BACKDATING
    # The first one has lain in the agent's cache while the sidecars were started.
    booting = rotations.testbed.boot["envoys"]

    for number, sighting in enumerate(rotations.delivered(name)):
        lifetime = (sighting.not_after - sighting.not_before).total_seconds()
        assert abs(lifetime - expected) < TRUNCATION, (
            f"SVID {number + 1} lives for {lifetime:.0f} s, not {expected:.0f} s"
        )
        late = (sighting.first.wall - sighting.not_before).total_seconds() - BACKDATING
        late -= rotations.stalled(sighting.first, late)
        latest = LAG + TRUNCATION + (0.0 if number else booting)
        assert -TRUNCATION <= late <= latest, (
            f"{sighting.serial:x} was backdated by {BACKDATING + late:.1f} s when it was delivered"
        )


def _left(rotation: Rotation) -> float:
    """Seconds that the old SVID had left when the new one was signed, read off both."""
    signed = rotation.after.not_before.timestamp() + BACKDATING
    return rotation.before.not_after.timestamp() - signed
