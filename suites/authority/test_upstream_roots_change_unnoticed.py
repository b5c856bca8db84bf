"""The upstream root is replaced on disk, by one that soon expires and then by another."""

from http import HTTPStatus

import pytest

from svidproof import Measure, Saw, Unseen, requirement
from svidproof.checks import UpstreamChange, assert_signed_below

each_sidecar = pytest.mark.parametrize("name", ["server", "client"])
each_root = pytest.mark.parametrize(
    "number", [pytest.param(0, id="short"), pytest.param(1, id="last")]
)


@requirement("AUTHORITY-7")
@each_root
def test_next_root_is_in_every_bundle(
    upstream_change: UpstreamChange, number: int, measure: Measure
) -> None:
    """The next upstream root is in every Workload API stream and in every sidecar."""
    bound = upstream_change.bounds[0]
    took = upstream_change.took(upstream_change.steps[number].prepared, bound)

    measure(f"from a prepared upstream root to every bundle, root {number + 2}", took, "s")
    assert took <= bound, f"every bundle had it after {took:.1f} s"


@requirement("AUTHORITY-7")
@each_root
@each_sidecar
def test_nothing_is_signed_below_it_before(
    upstream_change: UpstreamChange, number: int, name: str
) -> None:
    """No SVID below the next root is seen before the server activates its CA of it."""
    step = upstream_change.steps[number]

    own = upstream_change.sightings(name)
    new = [s for s in own if upstream_change.root_of(s) == step.root]

    assert new, f"{name} never had an SVID of the new authority: this proves nothing"
    early = step.activated.at - new[0].first.at
    assert early <= 0, f"{name} had one {early:.1f} s before the activation"


@requirement("AUTHORITY-7")
@each_root
def test_new_svid_is_not_signed_below_it_before(
    upstream_change: UpstreamChange, number: int
) -> None:
    """An SVID that is signed between preparation and activation is below the former root."""
    step = upstream_change.steps[number]

    assert_signed_below(step.between, step.root)


@requirement("AUTHORITY-7")
def test_no_request_fails(upstream_change: UpstreamChange, saw: Saw) -> None:
    """Every request succeeds from before the first replacement until after the second."""
    requests = upstream_change.requests()

    failed = [r for r in requests if r.status != HTTPStatus.OK]
    assert requests, "no request was sent"
    assert not failed, f"{len(failed)} of {len(requests)} failed; the first: {failed[0].note}"
    saw(f"{len(requests)} requests succeeded")


@requirement("AUTHORITY-8")
@each_sidecar
def test_no_svid_outlives_its_root(
    upstream_change: UpstreamChange, name: str, measure: Measure
) -> None:
    """No SVID, and no CA in its chain, is valid for longer than the upstream root above it."""
    own = upstream_change.sightings(name)
    assert own, f"no SVID of {name} was seen: the observation window was empty"

    left = []
    for sighting in own:
        end = upstream_change.root_of(sighting).not_valid_after_utc
        left += [(end - c.not_valid_after_utc).total_seconds() for c in sighting.chain]

    measure(f"least time of an upstream root beyond its SVIDs, {name}", min(left), "s")
    assert min(left) >= 0, f"an SVID of {name} outlives its CA by {-min(left):.0f} s"


@requirement("AUTHORITY-8")
@each_root
def test_no_long_lived_svid_outlives_its_root(
    upstream_change: UpstreamChange, number: int, measure: Measure
) -> None:
    """No SVID of an entry with a TTL of an hour is valid for longer than the root above it."""
    step = upstream_change.steps[number]
    assert step.long is not None, "the process with a long TTL was given no SVID"

    end = step.root.not_valid_after_utc
    left = min((end - c.not_valid_after_utc).total_seconds() for c in step.long.chain)

    measure(f"time of upstream root {number + 2} beyond a long-lived SVID", left, "s")
    assert left >= 0, f"a long-lived SVID outlives its root by {-left:.0f} s"


@requirement("AUTHORITY-9")
@each_root
@pytest.mark.parametrize("which", ["kept", "fresh"])
def test_token_is_valid(upstream_change: UpstreamChange, number: int, which: str) -> None:
    """A token of before the replacements, and one issued after each, are valid after each."""
    step, own = upstream_change.steps[number], upstream_change.testbed.scenario.spiffe_id("bearer")
    answer = step.kept if which == "kept" else step.fresh
    if answer is None:
        raise Unseen("the process was given no token before the replacement")

    assert answer.spiffe_id == own, f"a token was not validated after root {number + 2}: {answer}"
