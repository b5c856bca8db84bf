"""A partner rotates its CA, and only SVIDs below the revoked one are rejected."""

import pytest

from svidproof import Measure, Saw, requirement
from svidproof.checks import (
    Accepted,
    Followed,
    PartnerChange,
    assert_accepted,
    assert_all_succeeded,
    assert_not_answered,
)

PLACES = ["FetchX509Bundles", "FetchX509SVID", "config_dump", "/certs"]
CERTS = PLACES[-1]
each_place = pytest.mark.parametrize("place", [pytest.param(p, id=p.strip("/")) for p in PLACES])


class Unshown(AssertionError):  # noqa: N818  a verdict, not a programming error
    """Raised if a sidecar's `/certs` does not show the partner's roots that were pushed to it."""


@requirement("FEDERATION-18")
@each_place
def test_next_root_is_trusted(partner_change: PartnerChange, place: str, measure: Measure) -> None:
    """After one refresh the partner's next root is trusted wherever the first one is."""
    followed, bound = partner_change.prepared, partner_change.bounds["prepared"]

    _assert_followed(followed, place)

    measure(f"from a refresh to the partner's next root, {place}", followed.places[place], "s")
    assert followed.places[place] <= bound + 2.0, f"{place} had it after {bound:.1f} s"


@requirement("FEDERATION-18")
def test_nothing_is_signed_below_it_before(partner_change: PartnerChange) -> None:
    """No SVID of the partner is below its next root before that is activated."""
    assert partner_change.renewed.places, partner_change.renewed.late

    early = partner_change.early()

    assert not early, f"{len(early)} SVIDs were signed below it before"


@requirement("FEDERATION-19")
@pytest.mark.parametrize(
    "client", [pytest.param("bank", id="to-partner"), pytest.param("shop", id="from-partner")]
)
def test_no_request_fails(partner_change: PartnerChange, client: str, saw: Saw) -> None:
    """Every request between the trust domains succeeds throughout the change."""
    saw(assert_all_succeeded(partner_change.requests(client), client))


@requirement("FEDERATION-20")
@each_place
def test_revoked_root_is_trusted_nowhere(
    partner_change: PartnerChange, place: str, measure: Measure
) -> None:
    """After one refresh the root that the partner has revoked is trusted nowhere."""
    followed = partner_change.revoked

    _assert_followed(followed, place)

    measure(f"from a refresh until a revoked root has gone, {place}", followed.places[place], "s")


@requirement("FEDERATION-20")
def test_svid_below_a_revoked_root_is_rejected(partner_change: PartnerChange, saw: Saw) -> None:
    """On a new connection an SVID below the revoked root is rejected, one below the next is not."""
    assert_accepted(partner_change.accepted)
    if partner_change.refused.status is not None:
        raise Accepted(f"an SVID below a revoked root was accepted: {partner_change.refused}")
    assert_not_answered(partner_change.refused)
    saw(f"{partner_change.refused}")


def _assert_followed(followed: Followed, place: str) -> None:
    late = f"{place}: {followed.late}"
    if place == CERTS and place not in followed.places:
        raise Unshown(late)
    assert place in followed.places, late
