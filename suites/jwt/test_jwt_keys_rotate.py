"""A JWT key is rotated: the next one is prepared and activated, the first tainted and revoked."""

import grpc

from svidproof import Measure, Saw, requirement
from svidproof.checks import Accepted, JwtKeyChange, tokens


@requirement("JWT-15")
def test_prepared_key_is_in_the_bundle(jwt_key_change: JwtKeyChange, measure: Measure) -> None:
    """The prepared key soon appears in the JWT bundle of the Workload API."""
    took = jwt_key_change.took("prepared")

    measure("from a prepared JWT key to the JWT bundle", took, "s")
    assert took <= jwt_key_change.bounds["prepared"], f"the bundle had it after {took:.1f} s"


@requirement("JWT-15")
def test_prepared_key_signs_nothing(jwt_key_change: JwtKeyChange) -> None:
    """The prepared key signs no token before its activation, and every new one afterwards."""
    change = jwt_key_change

    early = change.keys_of("prepared", cached=False)
    late = change.keys_of("activated", cached=False)

    assert early, "no token was requested before the activation"
    assert set(early) == {change.old}, f"before the activation, {set(early)} signed tokens"
    assert late, "no token was requested after the activation"
    assert set(late) == {change.new}, f"after the activation, {set(late)} signed tokens"


@requirement("JWT-16")
def test_every_served_token_is_valid(jwt_key_change: JwtKeyChange, saw: Saw) -> None:
    """Every token served from before the preparation until after the revocation is valid."""
    served = jwt_key_change.served

    assert len({token.key_id for token in served}) > 1, "only one key signed tokens"
    failed = [t for t in served if t.validated.code is not grpc.StatusCode.OK]
    assert not failed, f"{len(failed)} of {len(served)} are not valid; the first: {failed[0]}"
    saw(f"{len(served)} tokens, all valid")


@requirement("JWT-16")
def test_former_token_stays_valid_until_revocation(
    jwt_key_change: JwtKeyChange, jwt_verifier_id: str
) -> None:
    """A token of the former key is accepted after the activation and after the tainting."""
    for phase in ("activated", "tainted"):
        tokens.assert_validated(jwt_key_change.former[phase], jwt_verifier_id)


@requirement("JWT-17")
def test_tainted_key_leaves_the_cache(jwt_key_change: JwtKeyChange, measure: Measure) -> None:
    """A cached token of the tainted key is soon replaced by one of the new key."""
    cached = jwt_key_change.keys_of("before", cached=True)
    assert set(cached) == {jwt_key_change.old}, f"tokens of {cached} were cached"

    took = jwt_key_change.took("tainted")

    measure("from a taint to the last cached JWT-SVID of that key", took, "s")
    assert took <= jwt_key_change.bounds["tainted"], f"it was replaced after {took:.1f} s"


@requirement("JWT-17")
def test_tainted_key_does_not_come_back(jwt_key_change: JwtKeyChange) -> None:
    """Afterwards no token of the tainted key is served, cached or new."""
    phases = ("after-taint", "revoked")
    keys = [key for phase in phases for c in (True, False)
            for key in jwt_key_change.keys_of(phase, cached=c)]  # fmt: skip

    assert keys, "no token was requested after the taint"
    assert set(keys) == {jwt_key_change.new}, f"tokens of {set(keys)} were served"


@requirement("JWT-18")
def test_revoked_key_leaves_the_bundle(jwt_key_change: JwtKeyChange, measure: Measure) -> None:
    """The revoked key soon leaves the JWT bundle of the Workload API."""
    took = jwt_key_change.took("revoked")

    measure("from a revoked JWT key to the JWT bundle", took, "s")
    assert took <= jwt_key_change.bounds["revoked"], f"it left the bundle after {took:.1f} s"


@requirement("JWT-18")
def test_token_of_revoked_key_is_rejected(
    jwt_key_change: JwtKeyChange, jwt_verifier_id: str, saw: Saw
) -> None:
    """A token of the revoked key, accepted before and not expired, is rejected."""
    change, answer = jwt_key_change, jwt_key_change.former["revoked"]
    assert change.left > 0, "the token had expired: this proves nothing"
    tokens.assert_validated(change.former["tainted"], jwt_verifier_id)
    tokens.assert_validated(change.control, jwt_verifier_id)

    if answer.code is grpc.StatusCode.OK:
        raise Accepted(f"a token of a revoked key was accepted, of {answer.spiffe_id}")
    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT, f"expected InvalidArgument: {answer}"
    saw(answer.details)
