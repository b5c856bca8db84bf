"""Envoy's jwt_authn accepts the bearers of JWT-SVIDs, using the keys of the JWT bundles."""

import uuid
from collections import Counter
from collections.abc import Iterator

import pytest

from svidproof import Capability, Saw, Testbed, bearer_tokens, needs, requirement
from svidproof.checks import Accepted, assert_accepted, assert_unseen, tokens
from svidproof.probes import Exchange, Rule, TokenFlaw, Wanted, valid_tokens

pytestmark = needs(Capability.UNREGISTERED_PROCESS, Capability.OWN_SPIRE)
AUDIENCE = "api.example"
API = "api"
# What Envoy says of a valid JWT-SVID, by what is particular about it.
VALID = (
    *(f"{family}{size}" for family in ("ES", "RS", "PS") for size in (256, 384, 512)),
    "typ-absent", "audience-as-text", "audience-among-others", "nbf-in-the-past", "further-claims",
)  # fmt: skip

# What is valid but for its audiences; `aud` of another type is no valid JWT.
OTHER_AUDIENCE = {
    "no-audience", "empty-audiences", "blank-audience", "other-audience", "longer-audience",
    "shorter-audience", "joined-audiences", "audience-in-other-case",
}  # fmt: skip


@pytest.fixture(scope="module")
def guarded(bearer: Testbed, verifier: tokens.Verifier) -> Iterator[Wanted]:
    """The API accepts the tokens of its own trust domain and of a foreign one."""
    own = bearer_tokens.Provider(bearer.scenario.trust_domain, AUDIENCE, verifier.jwt_keys())
    issuer = verifier.issuer
    foreign = bearer_tokens.Provider(issuer.trust_domain, AUDIENCE, issuer.jwks)
    bearer.accept_bearers(API, own, foreign)
    with bearer.quiet():
        yield verifier.wanted(AUDIENCE)
    bearer.accept_bearers(API)


def ask(bearer: Testbed, token: str | None, tag: str = "") -> Exchange:
    """Send one request with a bearer token, and no client certificate."""
    headers = [("x-svidproof-tag", tag)] if tag else []
    if token is not None:
        headers.append(("Authorization", f"Bearer {token}"))
    return bearer.prober.get(
        bearer.workload(API), "/orders", listener="bearer", headers=tuple(headers)
    )


def counted(bearer: Testbed) -> Counter[str]:
    """The numbers of requests that Envoy's filter has allowed and denied.

    Since 1.40 Envoy counts at the listener, and earlier where the filter's configuration is from.
    """
    total = Counter[str]()
    found = bearer.workload(API).envoy.stats(r"jwt_authn\.(allowed|denied)$")
    for name, value in found.items():
        total[name.rpartition(".")[2]] += int(value)
    return total


def assert_unauthorized(exchange: Exchange, status: int = 401) -> None:
    """Require HTTP 401 or another status, with a challenge."""
    if exchange.status == 200:
        raise Accepted(f"expected HTTP {status}, got {exchange}")
    assert exchange.status == status, f"expected HTTP {status}, got {exchange}"
    challenge = exchange.header("www-authenticate") or ""
    assert challenge.startswith("Bearer "), f"the challenge is {challenge!r}"


@requirement("JWT-19")
def test_bearer_of_spires_token_is_accepted(
    bearer: Testbed, guarded: Wanted, verifier: tokens.Verifier, saw: Saw
) -> None:
    """A client without a certificate is accepted with a JWT-SVID that SPIRE has issued."""
    app, tag = bearer.workload(API).app, uuid.uuid4().hex
    before, so_far = app.count(), counted(bearer)

    exchange = ask(bearer, verifier.token(guarded.audience), tag)

    assert_accepted(exchange)
    seen = [request.tag for request in app.seen(before)]
    assert seen == [tag], f"the app saw {seen}"
    now = counted(bearer)
    assert now["allowed"] - so_far["allowed"] == 1, f"Envoy counted {so_far}, then {now}"
    saw(f"{exchange}, in the app once")


@requirement("JWT-19")
@pytest.mark.parametrize("name", VALID)
def test_bearer_of_valid_token_is_accepted(bearer: Testbed, guarded: Wanted, name: str) -> None:
    """Each valid token of a federated trust domain is accepted."""
    assert_accepted(ask(bearer, valid_tokens(guarded)[name]))


@requirement("JWT-20")
@tokens.flaws_of(
    Rule.ALGORITHM, Rule.KEY, Rule.CONTENT, Rule.FORM, Rule.TIME, Rule.AUDIENCE, Rule.SUBJECT,
    Rule.TYPE,
)  # fmt: skip
def test_bearer_of_flawed_token_gets_401(
    bearer: Testbed, guarded: Wanted, flaw: TokenFlaw, saw: Saw
) -> None:
    """A token with one flaw gets HTTP 401, and the request does not reach the app.

    For a valid token with other audiences Envoy has HTTP 403.
    """
    api = bearer.workload(API)
    assert_accepted(ask(bearer, guarded.token()))
    before, so_far = api.tally(), counted(bearer)

    exchange = ask(bearer, flaw.make(guarded))

    assert_unauthorized(exchange, 403 if flaw.name in OTHER_AUDIENCE else 401)
    now = counted(bearer)
    assert now["denied"] - so_far["denied"] == 1, f"Envoy counted {so_far}, then {now}"
    assert_unseen(api, before)
    saw(str(exchange))


@requirement("JWT-20")
def test_request_without_token_gets_401(bearer: Testbed, guarded: Wanted) -> None:
    """A request without a token gets HTTP 401, and does not reach the app."""
    api = bearer.workload(API)
    assert_accepted(ask(bearer, guarded.token()))
    before = api.tally()

    exchange = ask(bearer, None)

    assert_unauthorized(exchange)
    assert_unseen(api, before)
