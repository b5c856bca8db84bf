"""A partner whose bundle endpoint is silent, or serves too much, harms only itself."""

import pytest

from svidproof import Measure, requirement
from svidproof.checks import ENDPOINT_FAILURES, Harm

HARMS = [
    "silence",
    "silent-end",
    *(failure.name for failure in ENDPOINT_FAILURES if failure.alone),
    "bulk",
]
each_harm = pytest.mark.parametrize("way", HARMS)


class Suffered(AssertionError):  # noqa: N818  a verdict, not a programming error
    """Raised if a partner's bundle endpoint affects other trust domains."""


@pytest.fixture
def harm(
    way: str, silence: Harm, silent_end: Harm, bulk: Harm, failures_alone: dict[str, Harm]
) -> Harm:
    """The record of one way to do harm; raises Unseen if the machine was too slow to judge it."""
    made = {"silence": silence, "silent-end": silent_end, "bulk": bulk, **failures_alone}[way]
    if made.unseen is not None:
        raise made.unseen
    return made


@requirement("FEDERATION-23")
@each_harm
def test_own_requests_do_not_notice(harm: Harm, way: str) -> None:
    """No request between the trust domain's own workloads fails meanwhile."""
    sent = harm.requests()

    failed = [r for r in sent if r.status != 200]
    assert sent, "no request was sent"
    if failed:
        raise Suffered(f"{way}: {len(failed)} of {len(sent)} failed; the first: {failed[0].note}")


@requirement("FEDERATION-23")
@each_harm
def test_new_workloads_are_served(harm: Harm, way: str, measure: Measure) -> None:
    """A new entry gets its SVID meanwhile without a delay."""
    if harm.newcomer_s is None:
        raise Suffered(f"{way}: a new entry got no SVID in time")

    measure(f"from an entry to its SVID, {way}", harm.newcomer_s, "s")


@requirement("FEDERATION-23")
@each_harm
def test_other_partner_is_refreshed(harm: Harm, way: str, measure: Measure) -> None:
    """The next bundle of another partner reaches its workloads meanwhile."""
    if harm.other_said is None:
        raise Suffered(f"{way}: the refresh of another partner did not end in time")
    assert not harm.other_said, f"{way}: the refresh of another partner failed: {harm.other_said}"
    if harm.other_s is None:
        raise Suffered(f"{way}: the next bundle of another partner did not come in time")

    measure(f"from another partner's refresh to its bundle, {way}", harm.other_s, "s")


@requirement("FEDERATION-23")
@each_harm
def test_other_partner_is_accepted(harm: Harm, way: str, measure: Measure) -> None:
    """A sidecar accepts an SVID of the other partner's next X.509 authority meanwhile."""
    if harm.mesh_s is None:
        raise Suffered(f"{way}: the next X.509 authority of another partner is not trusted in time")

    measure(f"from another partner's refresh to its next SVIDs accepted, {way}", harm.mesh_s, "s")


@requirement("FEDERATION-24")
@each_harm
def test_all_is_well_again(harm: Harm, way: str, measure: Measure) -> None:
    """Once the endpoint is harmless again, its bundle and all others are refreshed."""
    assert harm.recovered_s is not None, f"{way}: not refreshed in time: {harm.late}"

    measure(f"until a bundle is refreshed again, {way}", harm.recovered_s, "s")
