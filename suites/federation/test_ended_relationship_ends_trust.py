"""When a federation relationship ends and its bundle is deleted, its workloads lose access."""

import pytest

from svidproof import CONNECTION_END_S, CONNECTION_S, LAG, Measure, Saw, requirement
from svidproof.checks import Accepted, End, assert_accepted, assert_not_answered

PLACES = ["FetchX509Bundles", "FetchX509SVID", "config_dump", "/certs"]


@requirement("FEDERATION-21")
def test_server_forgets_it(ended: End) -> None:
    """The server has neither the relationship nor the bundle."""
    assert "former.example" not in ended.relationships, "the relationship is still there"
    assert "former.example" not in ended.stored, "the bundle is still stored"


@requirement("FEDERATION-21")
@pytest.mark.parametrize("place", [pytest.param(p, id=p.strip("/")) for p in PLACES])
def test_bundle_leaves(ended: End, place: str, measure: Measure) -> None:
    """The bundle leaves the Workload API and the sidecar."""
    assert place in ended.gone, f"{place}, {ended.bound_s:.1f} s: {ended.late}"

    measure(
        f"from the end of a relationship until its bundle has left, {place}", ended.gone[place], "s"
    )


@requirement("FEDERATION-21")
def test_new_connections_are_rejected(ended: End, saw: Saw) -> None:
    """The sidecar rejects a workload of the former partner that it accepted before."""
    assert_accepted(ended.accepted)
    if ended.refused.status is not None:
        raise Accepted(f"a workload of a former partner was accepted: {ended.refused}")
    assert_not_answered(ended.refused)
    assert_accepted(ended.own)
    saw(f"{ended.refused}")


@requirement("FEDERATION-25")
def test_jwt_key_signs_no_certificate(ended: End, saw: Saw) -> None:
    """The sidecar rejects a certificate that a JWT key of a partner that it trusts has signed."""
    assert_accepted(ended.accepted)
    if ended.by_jwt_key.status is not None:
        raise Accepted(f"a certificate that a JWT key signed was accepted: {ended.by_jwt_key}")
    assert_not_answered(ended.by_jwt_key)
    saw(f"{ended.by_jwt_key}")


@requirement("FEDERATION-22")
def test_open_connection_is_closed(ended: End, measure: Measure) -> None:
    """A connection that was open is closed at the sidecar's limit, and not answered for longer."""
    assert_accepted(ended.kept)

    bound = CONNECTION_S + CONNECTION_END_S + LAG
    assert ended.closed_s is not None, f"it was open for more than {ended.watched_s:.0f} s"

    measure("until an open connection of a former partner is closed", ended.closed_s, "s")
    assert ended.closed_s <= bound, f"it was open for {ended.closed_s:.1f} s"
