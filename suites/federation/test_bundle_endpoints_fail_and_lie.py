"""Whatever a partner's bundle endpoint answers, no good bundle is lost and nobody else suffers."""

import re

import pytest

from svidproof import Measure, Saw, requirement
from svidproof.checks import (
    LIES,
    Accepted,
    Harm,
    Lie,
    Lies,
    Outcome,
    Told,
    assert_accepted,
    assert_not_answered,
)


class Misread(AssertionError):  # noqa: N818  a verdict, not a programming error
    """A SPIRE server made of a bundle document what the standard does not say."""


def rows(*outcomes: Outcome) -> pytest.MarkDecorator:
    """One row for each lie that must have one of these outcomes."""
    chosen = [pytest.param(lie, id=lie.name) for lie in LIES if lie.outcome in outcomes]
    return pytest.mark.parametrize("lie", chosen)


@pytest.fixture
def told(lies: Lies, lies_alone: dict[str, Harm], lie: Lie) -> Told:
    """What came of one lie."""
    made = lies_alone[lie.name].told if lie.alone else lies.told[lie.name]
    assert made is not None, f"{lie.name} was not told"
    return made


def described(told: Told) -> str:
    """What the server stores afterwards, in words."""
    stored = told.after.stored
    if stored is None:
        return "no bundle"
    return f"{len(stored.roots)} X.509 authorities and {len(stored.jwt_key_ids)} JWT keys"


@requirement("FEDERATION-11")
@rows(Outcome.KEPT)
def test_last_good_bundle_stays(told: Told, lie: Lie, saw: Saw) -> None:
    """The refresh fails, and server, Workload API and sidecar keep the last good bundle."""
    before, after = told.before, told.after

    assert_accepted(before.answered)
    assert before.stored is not None, f"before {lie.what}: the server stores no bundle"
    if after.stored != before.stored:
        raise Misread(f"{lie.what}: the server stores {described(told)}")
    assert told.said, f"{lie.what}: the refresh succeeded"
    assert after.delivered == (told.root,), f"{lie.what}: the workload got {after.delivered}"
    assert after.jwt_keys == before.stored.jwt_key_ids, f"{lie.what}: the workload got other keys"
    assert_accepted(after.answered)
    saw(told.said)


@requirement("FEDERATION-12")
@rows(Outcome.KEPT)
def test_refresh_says_why_it_failed(told: Told, lie: Lie, saw: Saw) -> None:
    """`federation refresh` fails, and names the reason."""
    if not told.said:
        raise Misread(f"{lie.what}: the refresh succeeded, and the server stores {described(told)}")
    assert re.search(lie.said, told.said), f"{lie.what}: the reason is {told.said!r}"
    saw(told.said)


@requirement("FEDERATION-13")
@rows(Outcome.READ)
def test_unknown_parts_are_ignored(told: Told, lie: Lie, saw: Saw) -> None:
    """Parts of a bundle document that are not usable are ignored, and all others are stored."""
    after = told.after

    if told.said:
        raise Misread(f"{lie.what}: the whole bundle is rejected: {told.said}")
    assert after.stored is not None, f"{lie.what}: the server stores no bundle"
    assert after.stored.roots == {told.root}, f"{lie.what}: the server stores {described(told)}"
    kids = after.stored.jwt_key_ids
    assert kids == told.key_ids, f"{lie.what}: the server stores the JWT keys {sorted(kids)}"
    assert after.jwt_keys == told.key_ids, f"{lie.what}: the workload got other JWT keys"
    assert_accepted(after.answered)
    saw(described(told))


@requirement("FEDERATION-14")
@rows(Outcome.EMPTIED)
def test_empty_bundle_is_no_trust(told: Told, lie: Lie, saw: Saw) -> None:
    """Once a partner publishes no key, its workloads are rejected that were accepted before."""
    after = told.after

    assert_accepted(told.before.answered)
    assert after.stored is not None, f"{lie.what}: the server stores no bundle"
    assert not after.stored.roots, f"{lie.what}: the server stores {described(told)}"
    assert not after.delivered, f"{lie.what}: the workload got {after.delivered}"
    if after.answered.status is not None:
        raise Accepted(f"{lie.what}: expected a refusal in the handshake, got {after.answered}")
    assert_not_answered(after.answered)
    saw(f"{after.answered}")


@requirement("FEDERATION-15")
@rows(*Outcome)
def test_good_bundle_is_taken_again(told: Told, lie: Lie) -> None:
    """The first refresh from an endpoint that serves a good bundle again stores that bundle."""
    assert told.recovered is not None, f"after {lie.what}: the server stores no bundle"
    assert told.recovered.roots == {told.root}, f"after {lie.what}: other X.509 authorities"
    kids = told.recovered.jwt_key_ids
    assert kids == told.wanted, f"after {lie.what}: the server stores the keys {sorted(kids)}"


@requirement("FEDERATION-16")
def test_own_requests_do_not_notice(lies: Lies, saw: Saw) -> None:
    """No request among own workloads fails meanwhile."""
    sent = lies.requests()

    failed = [r for r in sent if r.status != 200]
    assert sent, "no request was sent"
    assert not failed, f"{len(failed)} of {len(sent)} failed; the first: {failed[0].note}"
    saw(f"{len(sent)} requests succeeded")


@requirement("FEDERATION-16")
def test_own_workloads_are_served(lies: Lies, measure: Measure) -> None:
    """A new entry gets its SVID meanwhile as soon as ever."""
    assert lies.newcomer_s is not None, "a new entry got no SVID in time"

    measure("from an entry to its SVID beside bundle endpoints that lie", lies.newcomer_s, "s")


@requirement("FEDERATION-16")
def test_other_partner_is_refreshed(lies: Lies, measure: Measure) -> None:
    """The next bundle of a partner that does not lie reaches the workload meanwhile."""
    assert not lies.steady_said, f"its refresh failed: {lies.steady_said}"
    assert lies.steady_s is not None, "the workload did not get its next JWT key in time"

    measure("from a partner's refresh to its bundle at the workload", lies.steady_s, "s")


@requirement("FEDERATION-17")
def test_each_of_many_bundles_is_right(lies: Lies, measure: Measure, saw: Saw) -> None:
    """A workload that federates with many partners gets the bundle of each, and its sidecar too."""
    assert lies.many_s is not None, f"not all bundles came in {lies.bound_s:.1f} s: {lies.late}"
    own = lies.testbed.scenario.trust_domain
    wanted = {f"spiffe://{name}": (root,) for name, root in lies.roots.items()}
    wanted[f"spiffe://{own}"] = (lies.testbed.root.certificate,)
    held = {f"spiffe://{name}": bundle for name, bundle in lies.sidecar.items()}
    for what, got in (("the Workload API", lies.delivered), ("the sidecar", held)):
        wrong = sorted(uri for uri in {*wanted, *got} if got.get(uri) != wanted.get(uri))
        assert not wrong, f"{what} has other bundles of {wrong}"

    measure(f"from an entry to the bundles of {len(lies.roots)} partners", lies.many_s, "s")
    saw(f"{len(wanted)} bundles")


@requirement("FEDERATION-17")
def test_change_of_each_bundle_is_pushed(lies: Lies) -> None:
    """The next root of one of many partners is sent on an open stream, whichever partner it is."""
    assert not lies.unpushed, f"a changed bundle did not come: {lies.unpushed}"
