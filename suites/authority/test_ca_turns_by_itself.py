"""A CA approaches its expiry, and SPIRE server replaces it automatically without a failure."""

from http import HTTPStatus

import pytest
from grpc import StatusCode

from svidproof import LAG, SERVER_LOOK, Measure, Saw, requirement
from svidproof.checks import AuthorityTurn

each_sidecar = pytest.mark.parametrize("name", ["server", "client"])


@requirement("AUTHORITY-5")
def test_next_root_is_trusted_before_it_signs(
    authority_turn: AuthorityTurn, measure: Measure
) -> None:
    """The next root is in every stream and sidecar before the server signs with it."""
    assert authority_turn.trusted is not None, f"not every bundle has it; {authority_turn.late}"

    lead = authority_turn.activated.at - authority_turn.trusted.at

    measure("from the next root in every bundle to its first signature", lead, "s")
    between = authority_turn.activated.at - authority_turn.prepared.at
    assert lead > 0, (
        f"every bundle had it {-lead:.1f} s after the activation, "
        f"which came {between:.1f} s after the preparation"
    )


@requirement("AUTHORITY-5")
@each_sidecar
def test_sidecars_get_svids_of_the_next_ca(authority_turn: AuthorityTurn, name: str) -> None:
    """Each sidecar has an SVID of the next CA, and none before the activation."""
    own = authority_turn.sightings(name)

    new = [s for s in own if authority_turn.signer(s) == authority_turn.new]

    assert new, f"{name} has no SVID of the next CA; {authority_turn.late}"
    # The server is asked for its active authority twice a second.
    assert new[0].first.at >= authority_turn.prepared.at, f"{name} had one before its preparation"


@requirement("AUTHORITY-5")
def test_no_request_fails(authority_turn: AuthorityTurn, saw: Saw) -> None:
    """Every request succeeds from before the preparation until after the activation."""
    requests = authority_turn.requests()

    failed = [r for r in requests if r.status != HTTPStatus.OK]
    assert requests, "no request was sent"
    assert not failed, f"{len(failed)} of {len(requests)} failed; the first: {failed[0].note}"
    saw(f"{len(requests)} requests succeeded")


@requirement("AUTHORITY-6")
@each_sidecar
def test_no_svid_outlives_its_authority(
    authority_turn: AuthorityTurn, name: str, measure: Measure
) -> None:
    """No SVID is valid for longer than the CA that has signed it."""
    own = authority_turn.sightings(name)
    assert own, f"no SVID of {name} was seen: the observation window was empty"

    left = [
        (authority_turn.signer(s).not_valid_after_utc - s.not_after).total_seconds() for s in own
    ]

    measure(f"least time of a CA beyond its SVIDs, {name}", min(left), "s")
    assert min(left) >= 0, f"an SVID of {name} outlives its CA by {-min(left):.0f} s"


@requirement("AUTHORITY-6")
def test_no_long_lived_svid_outlives_its_authority(
    authority_turn: AuthorityTurn, measure: Measure
) -> None:
    """No SVID of an entry with a TTL of an hour is valid for longer than a CA of less."""
    left = authority_turn.beyond()
    assert left, "the process with a long TTL was given no SVID: this proves nothing"

    measure("least time of a CA beyond a long-lived SVID", min(left), "s")
    assert min(left) >= 0, f"an SVID of steady outlives its CA by {-min(left):.0f} s"


@requirement("AUTHORITY-11")
def test_every_jwt_svid_is_valid(authority_turn: AuthorityTurn, saw: Saw) -> None:
    """The agent validates every JWT-SVID of the former and of the next JWT key."""
    tokens = authority_turn.tokens
    keys = {token.key_id for token in tokens}
    assert len(keys) > 1, f"JWT-SVIDs of {len(keys)} JWT keys were issued: this proves nothing"

    failed = [t for t in tokens if t.validated.code is not StatusCode.OK]

    assert not failed, (
        f"{len(failed)} of {len(tokens)} JWT-SVIDs are not valid; "
        f"the first, of key {failed[0].key_id}: {failed[0].validated}"
    )
    saw(f"{len(tokens)} JWT-SVIDs of {len(keys)} keys")


@requirement("AUTHORITY-12")
def test_no_jwt_svid_outlives_its_key(authority_turn: AuthorityTurn, measure: Measure) -> None:
    """No JWT-SVID has a later expiry than the JWT key that has signed it."""
    tokens, expiries = authority_turn.tokens, authority_turn.jwt_expiries
    assert tokens, "no JWT-SVID was issued: this proves nothing"
    stray = {token.key_id for token in tokens} - expiries.keys()
    assert not stray, f"JWT-SVIDs of {sorted(stray)}, which the server does not list"

    left = min(expiries[token.key_id] - token.expiry for token in tokens)

    measure("least time of a JWT key beyond its JWT-SVIDs", left, "s")
    assert left >= 0, f"a JWT-SVID outlives its JWT key by {-left:.0f} s"


@requirement("AUTHORITY-14")
def test_server_renews_its_own_svid(authority_turn: AuthorityTurn, measure: Measure) -> None:
    """SPIRE server presents no SVID of which more than half has passed when it looks at it."""
    own, looked = authority_turn.own, authority_turn.looked
    half = (own.not_valid_after_utc - own.not_valid_before_utc).total_seconds() / 2
    age = (looked.wall - own.not_valid_before_utc).total_seconds()

    measure("age of the server's own SVID", age, "s")
    attention, bound = authority_turn.testbed.watch.attention, SERVER_LOOK + LAG
    late = attention.lag(looked.at - max(0.0, age - half), looked.at, bound=bound)
    assert late <= bound, (
        f"SPIRE server presents an SVID after {age:.0f} s, not renewed at {half:.0f} s"
    )
