"""Whatever a partner's bundle endpoint answers, no good bundle is lost and no other is affected."""

import re

import pytest

from svidproof import Measure, Saw, Unseen, requirement
from svidproof.checks import (
    ENDPOINT_FAILURES,
    Accepted,
    EndpointFailure,
    EndpointFailures,
    FailureRecord,
    Harm,
    Outcome,
    assert_accepted,
    assert_not_answered,
)

# What SPIRE server reports of an endpoint that did not answer in time.
TIMED_OUT = re.compile(r"deadline exceeded|Client\.Timeout|i/o timeout")


class Misread(AssertionError):  # noqa: N818  a verdict, not a programming error
    """Raised if SPIRE server interprets a bundle document differently than the standard says."""


def rows(*outcomes: Outcome) -> pytest.MarkDecorator:
    """One row for each failure that must have one of these outcomes."""
    chosen = [
        pytest.param(failure, id=failure.name)
        for failure in ENDPOINT_FAILURES
        if failure.outcome in outcomes
    ]
    return pytest.mark.parametrize("failure", chosen)


@pytest.fixture
def record(
    failures: EndpointFailures, failures_alone: dict[str, Harm], failure: EndpointFailure
) -> FailureRecord:
    """The outcome of one failure.

    Raises Unseen if the refresh timed out where any reason is right, as nothing is known then.
    """
    made = failures_alone[failure.name].record if failure.alone else failures.records[failure.name]
    assert made is not None, f"{failure.name} did not happen"
    if not failure.alone and not failure.said and TIMED_OUT.search(made.said):
        raise Unseen(f"{failure.what}: the refresh timed out: {made.said}")
    return made


def described(record: FailureRecord) -> str:
    """A description of what the server stores afterwards."""
    stored = record.after.stored
    if stored is None:
        return "no bundle"
    return f"{len(stored.roots)} X.509 authorities and {len(stored.jwt_key_ids)} JWT keys"


@requirement("FEDERATION-11")
@rows(Outcome.KEPT)
def test_last_good_bundle_stays(record: FailureRecord, failure: EndpointFailure, saw: Saw) -> None:
    """The refresh fails, and server, Workload API and sidecar keep the last good bundle."""
    before, after = record.before, record.after

    assert_accepted(before.answered)
    assert before.stored is not None, f"before {failure.what}: the server stores no bundle"
    if after.stored != before.stored:
        raise Misread(f"{failure.what}: the server stores {described(record)}")
    assert record.said, f"{failure.what}: the refresh succeeded"
    assert after.delivered == (record.root,), f"{failure.what}: the workload got {after.delivered}"
    assert after.jwt_keys == before.stored.jwt_key_ids, (
        f"{failure.what}: the workload got other keys"
    )
    assert_accepted(after.answered)
    saw(record.said)


@requirement("FEDERATION-12")
@rows(Outcome.KEPT)
def test_refresh_says_why_it_failed(
    record: FailureRecord, failure: EndpointFailure, saw: Saw
) -> None:
    """`federation refresh` fails, and names the reason."""
    if not record.said:
        raise Misread(
            f"{failure.what}: the refresh succeeded, and the server stores {described(record)}"
        )
    assert re.search(failure.said, record.said), f"{failure.what}: the reason is {record.said!r}"
    saw(record.said)


@requirement("FEDERATION-13")
@rows(Outcome.READ)
def test_unknown_parts_are_ignored(
    record: FailureRecord, failure: EndpointFailure, saw: Saw
) -> None:
    """Parts of a bundle document that are not usable are ignored, and all others are stored."""
    after = record.after

    if record.said:
        raise Misread(f"{failure.what}: the whole bundle is rejected: {record.said}")
    assert after.stored is not None, f"{failure.what}: the server stores no bundle"
    assert after.stored.roots == {record.root}, (
        f"{failure.what}: the server stores {described(record)}"
    )
    kids = after.stored.jwt_key_ids
    assert kids == record.key_ids, f"{failure.what}: the server stores the JWT keys {sorted(kids)}"
    assert after.jwt_keys == record.key_ids, f"{failure.what}: the workload got other JWT keys"
    assert_accepted(after.answered)
    saw(described(record))


@requirement("FEDERATION-14")
@rows(Outcome.EMPTIED)
def test_empty_bundle_is_no_trust(
    record: FailureRecord, failure: EndpointFailure, saw: Saw
) -> None:
    """Once a partner publishes no key, its workloads are rejected that were accepted before."""
    after = record.after

    assert_accepted(record.before.answered)
    assert after.stored is not None, f"{failure.what}: the server stores no bundle"
    assert not after.stored.roots, f"{failure.what}: the server stores {described(record)}"
    assert not after.delivered, f"{failure.what}: the workload got {after.delivered}"
    if after.answered.status is not None:
        raise Accepted(f"{failure.what}: expected a refusal in the handshake, got {after.answered}")
    assert_not_answered(after.answered)
    saw(f"{after.answered}")


@requirement("FEDERATION-15")
@rows(*Outcome)
def test_good_bundle_is_taken_again(record: FailureRecord, failure: EndpointFailure) -> None:
    """The first refresh from an endpoint that serves a good bundle again stores that bundle."""
    assert record.recovered is not None, f"after {failure.what}: the server stores no bundle"
    assert record.recovered.roots == {record.root}, f"after {failure.what}: other X.509 authorities"
    kids = record.recovered.jwt_key_ids
    assert kids == record.wanted, f"after {failure.what}: the server stores the keys {sorted(kids)}"


@requirement("FEDERATION-16")
def test_own_requests_do_not_notice(failures: EndpointFailures, saw: Saw) -> None:
    """No request between the trust domain's own workloads fails meanwhile."""
    sent = failures.requests()

    failed = [r for r in sent if r.status != 200]
    assert sent, "no request was sent"
    assert not failed, f"{len(failed)} of {len(sent)} failed; the first: {failed[0].note}"
    saw(f"{len(sent)} requests succeeded")


@requirement("FEDERATION-16")
def test_own_workloads_are_served(failures: EndpointFailures, measure: Measure) -> None:
    """A new entry gets its SVID meanwhile without a delay."""
    assert failures.newcomer_s is not None, "a new entry got no SVID in time"

    measure("from an entry to its SVID beside bundle endpoints that fail", failures.newcomer_s, "s")


@requirement("FEDERATION-16")
def test_other_partner_is_refreshed(failures: EndpointFailures, measure: Measure) -> None:
    """The next bundle of a partner whose endpoint does not fail reaches the workload meanwhile."""
    assert not failures.steady_said, f"its refresh failed: {failures.steady_said}"
    assert failures.steady_s is not None, "the workload did not get its next JWT key in time"

    measure("from a partner's refresh to its bundle at the workload", failures.steady_s, "s")


@requirement("FEDERATION-17")
def test_each_of_many_bundles_is_right(
    failures: EndpointFailures, measure: Measure, saw: Saw
) -> None:
    """A workload that federates with many partners gets the bundle of each, and its sidecar too."""
    assert failures.many_s is not None, (
        f"not all bundles came in {failures.bound_s:.1f} s: {failures.late}"
    )
    own = failures.testbed.scenario.trust_domain
    wanted = {f"spiffe://{name}": (root,) for name, root in failures.roots.items()}
    wanted[f"spiffe://{own}"] = (failures.testbed.root.certificate,)
    held = {f"spiffe://{name}": bundle for name, bundle in failures.sidecar.items()}
    for what, got in (("the Workload API", failures.delivered), ("the sidecar", held)):
        wrong = sorted(uri for uri in {*wanted, *got} if got.get(uri) != wanted.get(uri))
        assert not wrong, f"{what} has other bundles of {wrong}"

    measure(f"from an entry to the bundles of {len(failures.roots)} partners", failures.many_s, "s")
    saw(f"{len(wanted)} bundles")


@requirement("FEDERATION-17")
def test_change_of_each_bundle_is_pushed(failures: EndpointFailures) -> None:
    """The next root of one of many partners is sent on an open stream, for every partner."""
    assert not failures.unpushed, f"a changed bundle did not come: {failures.unpushed}"


@requirement("FEDERATION-3")
def test_bundle_leaves_with_its_federation(failures: EndpointFailures) -> None:
    """Once an entry no longer federates with a trust domain, an open stream loses its bundle."""
    assert not failures.kept, f"a bundle did not leave: {failures.kept}"
