"""Thirty-second SVIDs rotate in time, completely and without a gap, in every view of them.

All checks share one observation window, because rotations cannot be hurried.
"""

import itertools
import statistics

import pytest

from svidproof import (
    BACKDATING,
    JITTER,
    LAG,
    TRUNCATION,
    TYPICAL_LAG,
    Measure,
    Period,
    Rotation,
    Sighting,
    Source,
    Unseen,
    key_hash,
    requirement,
    spiffe_ids,
)
from svidproof.checks import (
    API_SERVERS,
    API_WORKLOADS,
    ROTATIONS,
    SLACK_S,
    Observation,
    each_workload,
)

# How often the watch must have read a view in the window.
READS = ROTATIONS * 5


@requirement("ROTATION-1")
@each_workload
def test_each_rotation_renews_serial_and_key(rotations: Observation, name: str) -> None:
    """Each SVID rotates three times or more, to a new serial number and key for the same ID."""
    rotations.assert_enough(name)

    leaves = [sighting.chain[0] for sighting in rotations.delivered(name)]
    assert len({leaf.serial_number for leaf in leaves}) == len(leaves), (
        f"{name}: a serial number was used twice"
    )
    assert len({key_hash(leaf) for leaf in leaves}) == len(leaves), f"{name}: a key was used twice"
    own = rotations.testbed.scenario.spiffe_id(name)
    ids = {uri for leaf in leaves for uri in spiffe_ids(leaf)}
    assert ids == {own}, f"{name} got SVIDs for {sorted(ids)}, not only {own}"


@requirement("ROTATION-2")
@each_workload
def test_svid_is_renewed_in_time(rotations: Observation, name: str) -> None:
    """The agent renews each SVID when half its lifetime is left, within SPIRE's jitter."""
    testbed = rotations.testbed
    allowed = Period.of(testbed.scenario.svid_ttl, testbed.settings.timing.sync_s)

    for rotation in rotations.rotations(name):
        left = _left(rotation)

        if (late := allowed.latest - left) > 0:
            since, until = rotation.before.first.at, rotation.after.first.at
            rotations.assert_not_stalled(since, until, late)
        assert allowed.latest <= left <= allowed.earliest, (
            f"{name} was renewed with {left:.0f} s left; "
            f"expected {allowed.latest:.1f} to {allowed.earliest:.1f} s"
        )


@requirement("ROTATION-2")
def test_svids_are_renewed_at_half_their_lifetime(rotations: Observation, measure: Measure) -> None:
    """The median renewal follows SPIRE's rule, without an allowance for load."""
    testbed = rotations.testbed
    half = (testbed.scenario.svid_ttl + BACKDATING) / 2
    sync = testbed.settings.timing.sync_s
    latest = half * (1 - JITTER) - sync * (1 + JITTER)
    seen = [r for name in API_WORKLOADS for r in rotations.rotations(name)]

    left = statistics.median(_left(rotation) for rotation in seen)

    measure("time left at renewal", left, "s")
    assert latest <= left <= half * (1 + JITTER) + TRUNCATION, (
        f"half of {len(seen)} SVIDs were renewed with {left:.1f} s left or less; "
        f"expected {latest:.1f} to {half * (1 + JITTER) + TRUNCATION:.1f} s"
    )


@requirement("ROTATION-3")
@each_workload
@pytest.mark.parametrize("source", [Source.CERTS, Source.WORKLOAD_API], ids=lambda s: s.value)
def test_validity_advances_without_a_gap(rotations: Observation, name: str, source: Source) -> None:
    """Both ends of the validity advance, and each SVID arrives before its predecessor expires."""
    shown = list(rotations.seen(source, name).values())

    if len(shown) <= ROTATIONS:
        rotations.assert_not_stalled(rotations.timeline.start.at, rotations.end.at, SLACK_S)
    assert len(shown) > ROTATIONS, (
        f"{source.value} of {name} showed too few certificates for {ROTATIONS} rotations: "
        f"{len(shown)}"
    )
    for before, after in itertools.pairwise(shown):
        assert after.not_before > before.not_before, (
            f"not_before did not advance: {before.not_before}, then {after.not_before}"
        )
        assert after.not_after > before.not_after, (
            f"not_after did not advance: {before.not_after}, then {after.not_after}"
        )
        assert after.not_before < before.not_after, (
            f"a gap in validity: from {before.not_after} to {after.not_before}"
        )
        assert after.first.wall < before.not_after, (
            f"{after.serial:x} arrived at {after.first.wall:%X}, "
            f"after its predecessor had expired at {before.not_after:%X}"
        )


@requirement("ROTATION-4")
@each_workload
@pytest.mark.parametrize(
    "source", [Source.CERTS, Source.SECRETS, Source.WIRE], ids=lambda s: s.value
)
def test_no_invalid_certificate_is_ever_shown(
    rotations: Observation, name: str, source: Source
) -> None:
    """No source shows or serves a certificate that has expired or is not yet valid."""
    if source is Source.WIRE and name not in API_SERVERS:
        # What a client presents on the wire is seen by its server: ROTATION-7 covers it.
        source = Source.SECRETS
    shown = rotations.seen(source, name)

    assert not rotations.testbed.watch.errors, rotations.testbed.watch.errors[:3]
    reads, own = sum(s.times for s in shown.values()), rotations.looks(source, name)
    if own is not None and own < READS:
        raise Unseen(f"the suite's watch has read {source.value} of {name} only {own} times")
    assert reads >= READS, f"{source.value} of {name} showed a certificate in only {reads} reads"
    for sighting in shown.values():
        first, last = sighting.first.wall, sighting.last.wall
        assert first >= sighting.not_before, (
            f"{sighting.serial:x} was not yet valid at {first:%X}: from {sighting.not_before:%X}"
        )
        assert last <= sighting.not_after, (
            f"{sighting.serial:x} had expired at {last:%X}: until {sighting.not_after:%X}"
        )


@requirement("ROTATION-5")
@each_workload
def test_all_views_of_an_svid_agree(rotations: Observation, name: str, measure: Measure) -> None:
    """`/certs`, `config_dump` and the wire show each SVID soon after the Workload API does."""
    sources = [Source.CERTS, Source.SECRETS, *([Source.WIRE] if name in API_SERVERS else [])]
    delivered = rotations.delivered(name)
    lasting = {rotation.after.serial for rotation in rotations.lasting(name)}

    for source in sources:
        shown = rotations.seen(source, name)
        came, stayed = [], []
        for before, after in itertools.pairwise(delivered):
            if after.serial not in {*shown, *lasting}:
                continue
            if after.serial not in shown:
                rotations.assert_looked(source, name, after.first)
            assert after.serial in shown, f"{source.value} never showed {after.serial:x}"
            first = shown[after.serial]
            came.append((after.serial, after.first, first.first, first.delay))
            if before.serial in shown:
                last = shown[before.serial]
                stayed.append((before.serial, after.first, last.last, last.took))
        lags = rotations.lags(came)
        late, serial = max(lags)
        assert late <= LAG, f"{source.value} showed {serial:x} {late:.2f} s late, at most {LAG:g}"
        longest, _ = max(rotations.lags(stayed), default=(0.0, 0))
        assert longest <= LAG, f"{source.value} showed the old SVID {longest:.2f} s longer"
        undelivered = set(shown) - set(rotations.seen(Source.WORKLOAD_API, name))
        # The first look may come before the stream: it sees what was replaced in between.
        undelivered -= {s for s in undelivered if _precedes(shown[s], delivered[0])}
        serials = [f"{serial:x}" for serial in undelivered]
        assert not serials, f"{source.value} showed SVIDs that were never delivered: {serials}"
        measure(f"{source.value} lag {name}", late, "s")
        typical = statistics.median(lag for lag, _ in lags)
        assert typical <= TYPICAL_LAG, (
            f"the median lag of {source.value} is {typical:.2f} s, not at most {TYPICAL_LAG:g} s"
        )


def _precedes(shown: Sighting, first: Sighting) -> bool:
    """Whether an SVID is older than the first one that the stream delivered, and ended with it."""
    return shown.not_before < first.not_before and shown.last.at <= first.first.at + LAG


@requirement("ROTATION-9")
@each_workload
def test_lifetime_is_ttl_plus_backdating(rotations: Observation, name: str) -> None:
    """Each SVID is valid for its entry's TTL plus the ten seconds by which SPIRE backdates it."""
    expected = rotations.testbed.scenario.svid_ttl + BACKDATING
    # The first SVID was in the agent's cache while the sidecars started.
    cached = rotations.testbed.sidecar_boot_time

    for number, sighting in enumerate(rotations.delivered(name)):
        lifetime = (sighting.not_after - sighting.not_before).total_seconds()
        assert abs(lifetime - expected) < TRUNCATION, (
            f"SVID {number + 1} is valid for {lifetime:.0f} s, not {expected:.0f} s"
        )
        late = (sighting.first.wall - sighting.not_before).total_seconds() - BACKDATING
        late -= rotations.stalled(sighting.first, late)
        latest = LAG + TRUNCATION + (0.0 if number else cached)
        assert -TRUNCATION <= late <= latest, (
            f"not_before of {sighting.serial:x} was {BACKDATING + late:.1f} s old on delivery, "
            f"SPIRE backdates by {BACKDATING:g} s"
        )


def _left(rotation: Rotation) -> float:
    """Seconds that the old SVID had left when the new one was signed, from their contents."""
    signed = rotation.after.not_before.timestamp() + BACKDATING
    return rotation.before.not_after.timestamp() - signed
