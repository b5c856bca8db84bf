"""A self-signed X.509 authority is rotated, and no request fails.

It is prepared, which adds its root to the trust bundle; activated; and the first one is tainted,
which replaces every SVID of it, and then revoked.
"""

from http import HTTPStatus

import pytest

from svidproof import Measure, Saw, requirement
from svidproof.checks import (
    Accepted,
    AuthorityChange,
    assert_accepted,
    assert_signed_below,
    is_below,
    refusals,
)

each_sidecar = pytest.mark.parametrize("name", ["server", "client"])


@requirement("AUTHORITY-1")
def test_next_root_is_in_every_bundle(authority_change: AuthorityChange, measure: Measure) -> None:
    """The root of a prepared authority is in every Workload API stream and in every sidecar."""
    took = authority_change.took("prepared")

    measure("from a prepared authority to every bundle", took, "s")
    assert took <= authority_change.bounds["prepared"], f"every bundle had it after {took:.1f} s"


@requirement("AUTHORITY-1")
@each_sidecar
def test_nothing_is_signed_by_it_before(authority_change: AuthorityChange, name: str) -> None:
    """No SVID of the prepared authority is seen before it is activated."""
    own = authority_change.sightings(name)

    new = [s for s in own if is_below(s, authority_change.new)]

    assert new, f"{name} never had an SVID of the new authority: this proves nothing"
    early = authority_change.activated.at - new[0].first.at
    assert early <= 0, f"{name} had one {early:.1f} s before the activation"


@requirement("AUTHORITY-1")
def test_new_svid_is_not_signed_by_it_before(authority_change: AuthorityChange) -> None:
    """An SVID that is signed between preparation and activation is of the first authority."""
    assert_signed_below(authority_change.between, authority_change.new)


@requirement("AUTHORITY-2")
def test_no_request_fails(authority_change: AuthorityChange, saw: Saw) -> None:
    """Every request succeeds from before the preparation until after the revocation."""
    requests = authority_change.requests()

    failed = [r for r in requests if r.status != HTTPStatus.OK]
    assert requests, "no request was sent"
    assert not failed, f"{len(failed)} of {len(requests)} failed; the first: {failed[0].note}"
    saw(f"{len(requests)} requests succeeded")


@requirement("AUTHORITY-3")
def test_tainted_authority_is_replaced(authority_change: AuthorityChange, measure: Measure) -> None:
    """Every sidecar has an SVID of the new authority soon after the old one was tainted."""
    took = authority_change.took("tainted")

    measure("from a taint to the last SVID that it concerns", took, "s")
    assert took <= authority_change.bounds["tainted"], f"every SVID was replaced after {took:.1f} s"


@requirement("AUTHORITY-10")
def test_agents_replace_their_own_svids(
    authority_change: AuthorityChange, measure: Measure
) -> None:
    """Every agent soon has another SVID of its own, although that is not due for renewal."""
    took = authority_change.took("agents")

    measure("from a taint to the last agent's own SVID", took, "s")
    assert took <= authority_change.bounds["agents"], f"every agent had one after {took:.1f} s"


@requirement("AUTHORITY-10")
def test_server_replaces_its_own_svid(authority_change: AuthorityChange, measure: Measure) -> None:
    """SPIRE server soon presents another SVID of its own to agents."""
    took = authority_change.took("servers")

    measure("from a taint to the server's own SVID", took, "s")
    assert took <= authority_change.bounds["servers"], f"the server had one after {took:.1f} s"


@requirement("AUTHORITY-4")
def test_revoked_root_leaves_every_bundle(
    authority_change: AuthorityChange, measure: Measure
) -> None:
    """The root of a revoked authority leaves every Workload API stream and every sidecar."""
    took = authority_change.took("revoked")

    measure("from a revocation to every bundle", took, "s")
    assert took <= authority_change.bounds["revoked"], f"it left every bundle after {took:.1f} s"


@requirement("AUTHORITY-4")
def test_svid_of_revoked_authority_is_rejected(authority_change: AuthorityChange, saw: Saw) -> None:
    """An SVID of the revoked authority, accepted before and not expired, is rejected."""
    refused = authority_change.refused
    assert authority_change.left > 0, "the SVID had expired: this proves nothing"
    assert_accepted(authority_change.accepted)
    assert authority_change.control is not None, "control: the client was given no SVID"
    assert_accepted(authority_change.control)

    if refused.status is not None:
        raise Accepted(f"an SVID of a revoked authority was accepted: {refused}")
    assert refused.alert is refusals.UNKNOWN, f"it was rejected by {refused}"
    saw(str(refused))
