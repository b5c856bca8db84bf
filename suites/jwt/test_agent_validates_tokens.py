"""ValidateJWTSVID accepts every valid JWT-SVID, and rejects each with one flaw.

The tokens are signed by keys of the suite's own, whose bundle the process has: a rejection is for
the flaw, and not for an unknown key.
"""

import contextlib
import time

import grpc
import pytest

from svidproof import (
    Budget,
    Capability,
    Measure,
    NotYet,
    Saw,
    Testbed,
    TimedOut,
    budgets,
    eventually,
    needs,
    requirement,
)
from svidproof.checks import Accepted, tokens
from svidproof.probes import BundlesStream, Rule, TokenFlaw, jwt, valid_tokens

pytestmark = needs(Capability.UNREGISTERED_PROCESS, Capability.OWN_SPIRE)
# A valid token's name and content; made once for the names.
VALID = (
    *(f"{family}{size}" for family in ("ES", "RS", "PS") for size in (256, 384, 512)),
    "typ-absent", "typ-jose", "audience-as-text", "audience-among-others", "no-iat",
    "nbf-in-the-past", "further-claims",
)  # fmt: skip
LEEWAYS = (0, 10, 30, 55, 65, 120)  # seconds
# The leeway is found to within so many seconds, so a token expires within twice as many.
STEP_S = 4
EXPIRES = Budget("the agent rejects a token that has expired", 4 * STEP_S, 0.5)


@requirement("JWT-6")
@pytest.mark.parametrize("name", VALID)
def test_valid_foreign_token_is_accepted(verifier: tokens.Verifier, name: str) -> None:
    """A valid token of a federated trust domain is accepted, with its SPIFFE ID and claims."""
    wanted = verifier.wanted()
    token = valid_tokens(wanted)[name]

    answer = jwt.validate(verifier.target, token, wanted.audience)

    tokens.assert_validated(answer, wanted.subject)
    claims = jwt.Token.read(token).claims
    for claim in ("sub", "exp"):
        assert answer.claims[claim] == claims[claim], f"{claim} is {answer.claims[claim]}"
    assert wanted.audience in answer.claims["aud"], f"aud is {answer.claims['aud']}"


@requirement("JWT-6")
def test_own_token_is_accepted(verifier: tokens.Verifier, audience: str) -> None:
    """A JWT-SVID issued by SPIRE is accepted for each of its audiences, with its claims."""
    second = f"second-{audience}"
    token = verifier.token(audience, second)
    claims = jwt.Token.read(token).claims

    for each in (audience, second):
        answer = jwt.validate(verifier.target, token, each)

        tokens.assert_validated(answer, verifier.spiffe_id)
        missing = claims.keys() - answer.claims.keys()
        assert not missing, f"the agent returned no {sorted(missing)}"
        for claim in claims.keys() - {"aud"}:
            assert answer.claims[claim] == claims[claim], f"{claim} is {answer.claims[claim]}"
        assert sorted(answer.claims["aud"]) == sorted([audience, second]), str(answer.claims)


@requirement("JWT-7")
@tokens.flaws_of(Rule.ALGORITHM)
def test_wrong_algorithm_is_rejected(verifier: tokens.Verifier, flaw: TokenFlaw, saw: Saw) -> None:
    """A token without a signature, or with an algorithm that JWT-SVIDs may not use, is rejected."""
    saw(tokens.assert_rejected(verifier, flaw))


@requirement("JWT-8")
@tokens.flaws_of(Rule.KEY)
def test_wrong_key_is_rejected(verifier: tokens.Verifier, flaw: TokenFlaw, saw: Saw) -> None:
    """A token signed with any other key than those of its trust domain is rejected."""
    saw(tokens.assert_rejected(verifier, flaw))


@requirement("JWT-8")
def test_token_of_an_unrelated_trust_domain_is_rejected(verifier: tokens.Verifier) -> None:
    """A token of a trust domain that the process does not federate with is rejected.

    The server has the bundle of that trust domain.
    """
    stranger, audience = verifier.unrelated, tokens.new_audience()
    control = verifier.issuer.token(verifier.subject, [audience])
    token = stranger.token(stranger.spiffe_id("workload"), [audience])

    accepted = jwt.validate(verifier.target, control, audience)
    answer = jwt.validate(verifier.target, token, audience)

    tokens.assert_validated(accepted, verifier.subject)
    if answer.code is grpc.StatusCode.OK:
        raise Accepted(f"a token of an unrelated trust domain was accepted, of {answer.spiffe_id}")
    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT, f"expected InvalidArgument: {answer}"


@requirement("JWT-9")
@tokens.flaws_of(Rule.CONTENT, Rule.FORM)
def test_changed_token_is_rejected(verifier: tokens.Verifier, flaw: TokenFlaw, saw: Saw) -> None:
    """A token whose content or signature was changed, or that is not compact, is rejected."""
    saw(tokens.assert_rejected(verifier, flaw))


@requirement("JWT-10")
@tokens.flaws_of(Rule.TIME)
def test_token_out_of_time_is_rejected(
    verifier: tokens.Verifier, flaw: TokenFlaw, saw: Saw
) -> None:
    """A token that has expired, has no expiry, or is not yet valid, is rejected."""
    saw(tokens.assert_rejected(verifier, flaw))


@requirement("JWT-10")
def test_leeway_is_small(verifier: tokens.Verifier, measure: Measure) -> None:
    """The leeway for clocks is the same for an expired token and for one that is not yet valid."""
    accepted: dict[str, list[int]] = {"exp": [], "nbf": []}
    for name, sign in (("exp", -1), ("nbf", 1)):
        for seconds in LEEWAYS:
            wanted = verifier.wanted()
            token = wanted.token(claims={name: int(time.time()) + sign * seconds})
            answer = jwt.validate(verifier.target, token, wanted.audience)
            if answer.code is grpc.StatusCode.OK:
                accepted[name].append(seconds)

    longest = {name: max(found, default=0) for name, found in accepted.items()}
    measure("leeway of ValidateJWTSVID for expired tokens, at least", longest["exp"], "s")
    assert longest["exp"] == longest["nbf"], f"the leeways are {longest} s"
    assert longest["exp"] < max(LEEWAYS), f"a token is accepted {longest['exp']} s after its expiry"


@requirement("JWT-10")
def test_token_is_rejected_once_it_has_expired(verifier: tokens.Verifier, saw: Saw) -> None:
    """A token that the agent has accepted is rejected after its expiry."""
    token, audience = _expiring_soon(verifier)

    def rejected() -> str:
        answer = jwt.validate(verifier.target, token, audience)
        if answer.code is grpc.StatusCode.OK:
            raise NotYet("the agent still accepts a token that has expired")
        assert answer.code is grpc.StatusCode.INVALID_ARGUMENT, (
            f"expected InvalidArgument: {answer}"
        )
        return answer.details

    try:
        saw(eventually(rejected, EXPIRES))
    except TimedOut as error:
        raise Accepted(f"a token that has expired was accepted: {error}") from None


def _expiring_soon(verifier: tokens.Verifier) -> tuple[str, str]:
    """A token that the agent accepts, and will not accept in a few seconds, and its audience."""
    for seconds in range(max(LEEWAYS), -1, -STEP_S):
        wanted = verifier.wanted()
        expiry = int(time.time()) - seconds + STEP_S
        token = wanted.token(claims={"exp": expiry})
        if jwt.validate(verifier.target, token, wanted.audience).code is grpc.StatusCode.OK:
            return token, wanted.audience
    raise AssertionError("the agent accepted no token that expires soon")


@requirement("JWT-11")
@tokens.flaws_of(Rule.AUDIENCE)
def test_token_for_another_audience_is_rejected(
    verifier: tokens.Verifier, flaw: TokenFlaw, saw: Saw
) -> None:
    """A token is rejected if none of its audiences is exactly the requested one."""
    saw(tokens.assert_rejected(verifier, flaw))


@requirement("JWT-12")
@tokens.flaws_of(Rule.TYPE)
def test_token_of_another_type_is_rejected(
    verifier: tokens.Verifier, flaw: TokenFlaw, saw: Saw
) -> None:
    """A token with another type or an unknown critical header is rejected."""
    saw(tokens.assert_rejected(verifier, flaw))


@requirement("JWT-13")
@tokens.flaws_of(Rule.SUBJECT)
def test_wrong_subject_is_rejected(verifier: tokens.Verifier, flaw: TokenFlaw, saw: Saw) -> None:
    """A token is rejected unless its subject is a SPIFFE ID of a trust domain with a bundle."""
    saw(tokens.assert_rejected(verifier, flaw))


@requirement("JWT-14")
def test_bundles_are_those_of_the_server(bearer: Testbed, verifier: tokens.Verifier) -> None:
    """FetchJWTBundles has exactly the server's JWT keys for the process's own trust domain."""
    delivered = {str(key["kid"]): jwt.public_key(key) for key in verifier.jwt_keys()}

    listed = bearer.spire.jwt_keys()

    assert delivered == listed, f"the server has {sorted(listed)}, delivered: {sorted(delivered)}"


@requirement("JWT-14")
def test_bundles_are_of_federated_domains_only(verifier: tokens.Verifier) -> None:
    """FetchJWTBundles has a separate bundle for each federated trust domain, and no other."""
    answer = jwt.bundles(verifier.target)

    expected = {verifier.trust_domain, *verifier.federated}
    assert set(answer.bundles) == expected, f"bundles of {sorted(answer.bundles)}"


@requirement("JWT-14")
def test_federated_bundle_has_exactly_its_jwt_keys(verifier: tokens.Verifier) -> None:
    """A federated bundle has the JWT keys of its trust domain, and none for X.509-SVIDs."""
    for issuer in (verifier.issuer, verifier.other):
        keys = verifier.jwt_keys(f"spiffe://{issuer.trust_domain}")
        delivered = {str(key.get("kid")): jwt.public_key(key) for key in keys}

        published = {str(key["kid"]): jwt.public_key(key) for key in issuer.jwks}

        assert delivered == published, f"{issuer.trust_domain}: {sorted(delivered)}"
        uses = {key.get("use") for key in keys}
        assert uses <= {"jwt-svid", None}, f"{issuer.trust_domain}: keys for {uses}"


@requirement("JWT-14")
def test_open_stream_follows_federated_keys(bearer: Testbed, verifier: tokens.Verifier) -> None:
    """An open stream delivers a federated trust domain's next JWT key, and the loss of a former."""
    issuer = verifier.issuer
    uri, document = f"spiffe://{issuer.trust_domain}", issuer.bundle()
    next_one, [x509, former, *others] = verifier.unrelated.key("p256").jwk(), document["keys"]
    changed = {**document, "keys": [x509, *others, next_one]}

    def restored() -> None:
        if next_one["kid"] in verifier.key_ids(uri):
            raise NotYet(f"the JWT bundle of {uri} has its changed key")

    with contextlib.closing(jwt.bundles_stream(verifier.target)) as stream:
        _await_key(stream, uri, former["kid"], next_one["kid"])
        bearer.spire.set_federated_document(issuer.trust_domain, changed)
        try:
            _await_key(stream, uri, next_one["kid"], former["kid"])
        finally:
            bearer.spire.set_federated_document(issuer.trust_domain, document)
            eventually(restored, budgets.REGISTRATION)
        _await_key(stream, uri, former["kid"], next_one["kid"])


def _await_key(stream: BundlesStream, uri: str, present: str, absent: str) -> None:
    """Wait until the last message on a stream has one key of a trust domain and not another."""

    def delivered() -> None:
        stream.assert_open()
        held = stream.held.get(uri, frozenset())
        if present not in held or absent in held:
            raise NotYet(f"the open stream of JWT bundles has the keys {sorted(held)} of {uri}")

    eventually(delivered, budgets.REGISTRATION)
