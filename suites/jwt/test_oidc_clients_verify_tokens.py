"""Clients without SPIFFE support verify JWT-SVIDs with SPIRE's OIDC discovery provider."""

import pytest

from svidproof import (
    Budget,
    Capability,
    Measure,
    OidcProvider,
    Saw,
    Testbed,
    consistently,
    needs,
    only,
    requirement,
)
from svidproof.checks import Accepted, OidcKeyChange, OidcReturn, entry_bound, tokens
from svidproof.probes import jwt
from svidproof.probes import oidc as client

pytestmark = needs(Capability.UNREGISTERED_PROCESS, Capability.OWN_SPIRE)
# Seconds in which the provider looks at the Workload API twice.
LOOKS_S = 1.0
# OpenID Connect Discovery 1.0, section 3.
REQUIRED = (
    "issuer",
    "authorization_endpoint",
    "jwks_uri",
    "response_types_supported",
    "subject_types_supported",
    "id_token_signing_alg_values_supported",
)
# OpenID Connect Discovery 1.0, section 4.2; RFC 7517, section 8.5.
JSON = {"application/json", "application/jwk-set+json"}
# Hosts that are not the provider's, whose own is {0}.
OTHER_HOSTS = {
    "elsewhere": "elsewhere.example",
    "longer": "{0}.elsewhere.example",
    "other-beginning": "elsewhere-{0}",
}
PRIVATE = {"d", "p", "q", "dp", "dq", "qi", "oth", "k"}  # the private members of a JWK


@pytest.fixture(scope="module")
def workload(oidc: Testbed) -> tokens.Verifier:
    """A process with JWT-SVIDs of this issuer."""
    return oidc.had.enter_context(tokens.verifying(oidc))


@pytest.fixture
def provider(oidc: Testbed) -> OidcProvider:
    """The OIDC discovery provider."""
    return only(oidc.oidc.values(), "OIDC discovery provider")


@requirement("JWT-21")
def test_document_is_complete(provider: OidcProvider, saw: Saw) -> None:
    """The discovery document has every required field, and RS256 among the algorithms."""
    document = client.discover(provider.issuer)

    missing = [name for name in REQUIRED if name not in document]
    assert not missing, f"the discovery document lacks {missing}"
    algorithms = document["id_token_signing_alg_values_supported"]
    assert "RS256" in algorithms, f"algorithms {algorithms}"
    saw(f"{document['jwks_uri']}, {', '.join(algorithms)}")


@requirement("JWT-21")
def test_document_names_the_issuer_of_tokens(
    provider: OidcProvider, workload: tokens.Verifier, audience: str
) -> None:
    """The document's issuer is its own URL and `iss` of JWT-SVIDs, and it has their algorithm."""
    document = client.discover(provider.issuer)
    token = jwt.Token.read(workload.token(audience))

    assert document["issuer"] == provider.issuer, f"the issuer is {document['issuer']}"
    assert token.claims.get("iss") == provider.issuer, f"iss is {token.claims.get('iss')}"
    algorithms = document["id_token_signing_alg_values_supported"]
    assert token.header["alg"] in algorithms, f"{token.header['alg']} is not among {algorithms}"


@requirement("JWT-21")
@pytest.mark.parametrize("host", OTHER_HOSTS)
@pytest.mark.parametrize("header", ["Host", "X-Forwarded-Host"])
def test_other_host_gets_no_document(provider: OidcProvider, header: str, host: str) -> None:
    """A request for a host that is not configured gets HTTP 400 and no document."""
    own = provider.issuer.removeprefix("http://").partition(":")[0]
    other = OTHER_HOSTS[host].format(own)
    control = provider.get(client.DISCOVERY)
    if header == "Host":
        exchange = provider.get(client.DISCOVERY, host=other)
    else:
        # As from a proxy that was asked for another host.
        exchange = provider.get(client.DISCOVERY, headers=((header, other),))

    assert control.status == 200, f"control: {control}"
    assert exchange.status == 400, f"for {other}: expected HTTP 400, got {exchange}"


@requirement("JWT-21")
def test_host_of_the_proxy_is_the_issuers(provider: OidcProvider) -> None:
    """Behind a proxy that has another name, the document names the host that was asked for."""
    asked = provider.issuer.removeprefix("http://")
    exchange = provider.get(
        client.DISCOVERY, host="proxy.example", headers=(("X-Forwarded-Host", asked),)
    )

    assert exchange.status == 200, f"for the host of a proxy: expected HTTP 200, got {exchange}"
    issuer = provider.document_of(exchange)["issuer"]
    assert issuer == provider.issuer, f"for the host of a proxy: the issuer is {issuer}"


@requirement("JWT-21")
def test_documents_are_json(provider: OidcProvider) -> None:
    """The discovery document and the keys have a content type of JSON."""
    discovered, keys = provider.get(client.DISCOVERY), provider.get_keys()

    for what, exchange in (("discovery document", discovered), ("keys", keys)):
        found = (exchange.header("content-type") or "").partition(";")[0].strip().lower()
        assert found in JSON, f"the {what} has content type {found!r}"


@requirement("JWT-22")
def test_published_keys_are_the_bundles(
    provider: OidcProvider, workload: tokens.Verifier, saw: Saw
) -> None:
    """The published keys are exactly the JWT bundle of the trust domain, and public."""
    published = {str(key["kid"]): jwt.public_key(key) for key in provider.published_keys()}
    bundle = {str(key["kid"]): jwt.public_key(key) for key in workload.jwt_keys()}

    assert bundle, "the JWT bundle has no key"
    assert published == bundle, f"published {sorted(published)}, in the bundle {sorted(bundle)}"
    private = {name for key in provider.published_keys() for name in PRIVATE & key.keys()}
    assert not private, f"private members {sorted(private)} are published"
    saw(f"{len(published)} keys")


@requirement("JWT-22")
def test_published_keys_name_their_algorithm(
    provider: OidcProvider, workload: tokens.Verifier, audience: str
) -> None:
    """The key of a JWT-SVID has its algorithm, by which some clients choose how to verify it."""
    header = jwt.Token.read(workload.token(audience)).header

    key = only([k for k in provider.published_keys() if k["kid"] == header["kid"]], "key")

    assert key.get("alg") == header["alg"], f"alg is {key.get('alg')}, in JWT-SVIDs {header['alg']}"
    assert key.get("use", "sig") == "sig", f"use is {key['use']}"


@requirement("JWT-22")
def test_federated_keys_are_not_published(
    oidc: Testbed, provider: OidcProvider, workload: tokens.Verifier
) -> None:
    """The keys stay exactly those once the provider gets the bundle of another trust domain."""
    bundle = {str(key["kid"]) for key in workload.jwt_keys()}
    entry, partner = oidc.registration.id_of(provider.name), workload.issuer.trust_domain

    def assert_only_own() -> None:
        published = {str(key["kid"]) for key in provider.published_keys()}
        assert published == bundle, f"published {sorted(published)}, in the bundle {sorted(bundle)}"

    oidc.registration.change(entry, federates_with=[partner])
    try:
        delivered = entry_bound(oidc) + LOOKS_S
        consistently(assert_only_own, Budget("only its own keys are published", delivered, 0.2))
    finally:
        oidc.registration.change(entry, federates_with=[])


@requirement("JWT-23")
def test_live_token_is_verified(
    provider: OidcProvider, workload: tokens.Verifier, audience: str, saw: Saw
) -> None:
    """An OIDC client that knows only the issuer's URL verifies a JWT-SVID."""
    claims = client.verify(provider.issuer, workload.token(audience), audience)

    assert claims["sub"] == workload.spiffe_id, f"sub is {claims['sub']}"
    saw(f"{claims['sub']}, issued by {claims['iss']}")


@requirement("JWT-23")
@pytest.mark.parametrize("flaw", ["other-audience", "changed-subject", "foreign-key", "no-issuer"])
def test_flawed_token_is_rejected(
    provider: OidcProvider, workload: tokens.Verifier, audience: str, flaw: str, saw: Saw
) -> None:
    """The same client rejects a token for another audience, a changed one, and a foreign one."""
    token, issuer = workload.token(audience), workload.issuer
    client.verify(provider.issuer, token, audience)
    flawed = {
        "other-audience": lambda: workload.token(f"other-{audience}"),
        "changed-subject": lambda: jwt.forged(token, claims={"sub": "spiffe://example.org/other"}),
        "foreign-key": lambda: issuer.token(
            workload.spiffe_id, [audience], claims={"iss": provider.issuer}
        ),
        "no-issuer": lambda: issuer.token(workload.spiffe_id, [audience]),
    }

    try:
        client.verify(provider.issuer, flawed[flaw](), audience)
    except client.Rejected as error:
        saw(str(error))
    else:
        raise Accepted(f"a token with the flaw {flaw} was accepted")


@requirement("JWT-24")
def test_next_key_is_published_in_time(oidc_key_change: OidcKeyChange, measure: Measure) -> None:
    """A prepared JWT key is published soon."""
    took = oidc_key_change.took("prepared")

    measure("from a prepared JWT key to OIDC clients", took, "s")
    assert took <= oidc_key_change.bounds["prepared"], f"it was published after {took:.1f} s"


@requirement("JWT-24")
def test_every_token_is_verified_meanwhile(oidc_key_change: OidcKeyChange, saw: Saw) -> None:
    """Every token issued from before the preparation until after the revocation is verified."""
    verified = oidc_key_change.tokens

    keys = {token.key_id for token in verified}
    assert keys == {oidc_key_change.old, oidc_key_change.new}, f"tokens of the keys {keys}"
    failed = [token for token in verified if token.reason]
    assert not failed, f"{len(failed)} of {len(verified)} were rejected; the first: {failed[0]}"
    saw(f"{len(verified)} tokens of two keys were verified")


@requirement("JWT-24")
def test_token_of_the_revoked_key_is_rejected(
    oidc_key_change: OidcKeyChange, measure: Measure
) -> None:
    """A token of the former key is verified until that key is revoked, and then rejected."""
    former, took = oidc_key_change.former, oidc_key_change.took("revoked")
    assert oidc_key_change.left > 0, "the token had expired: this proves nothing"
    for phase in ("before", "activated"):
        assert not former[phase].reason, f"{phase}: it was rejected: {former[phase].reason}"

    measure("from a revoked JWT key to OIDC clients", took, "s")
    assert took <= oidc_key_change.bounds["revoked"], f"it was published for {took:.1f} s more"
    if not former["revoked"].reason:
        raise Accepted("a token of the revoked key was accepted")


@requirement("JWT-24")
def test_caches_do_not_keep_keys(oidc_key_change: OidcKeyChange, saw: Saw) -> None:
    """The answer with the keys lets caches keep none, or makes them ask before each use."""
    said = oidc_key_change.first.header("cache-control") or ""

    directives = {directive.strip().lower() for directive in said.split(",")}
    assert directives & {"no-store", "no-cache"}, f"the keys have Cache-Control {said!r}"
    saw(said)


@requirement("JWT-24")
def test_next_keys_are_sent_to_who_has_the_former(oidc_key_change: OidcKeyChange) -> None:
    """A client that has kept the former keys, and asks for newer ones, gets them."""
    change = oidc_key_change

    assert change.again.status == 200, f"after a change of keys it got {change.again}"
    held = change.again_keys()
    assert change.new in held, f"it got the keys {sorted(held)}"
    assert change.old not in held, f"it got the revoked key among {sorted(held)}"


@requirement("JWT-25")
def test_last_keys_are_published_meanwhile(oidc_return: OidcReturn) -> None:
    """While the agent is away, the provider publishes the last keys that it has got."""
    assert oidc_return.failed, "the provider did not notice that the agent was away"
    assert oidc_return.meanwhile is not None, f"without the agent, it answers {oidc_return.said}"
    assert oidc_return.meanwhile == oidc_return.before, (
        f"without the agent, it publishes the keys {sorted(oidc_return.meanwhile)}, "
        f"and {sorted(oidc_return.before)} before"
    )


@requirement("JWT-25")
def test_key_is_published_after_the_agents_return(
    oidc_return: OidcReturn, measure: Measure, saw: Saw
) -> None:
    """A JWT key that was prepared while the agent was away is published after its return."""
    took = oidc_return.took()

    measure("from the agent's return to OIDC clients that have the next JWT key", took, "s")
    assert took <= oidc_return.bound, f"it was published after {took:.1f} s"
    assert oidc_return.failed, "the provider did not notice that the agent was away"
    saw(f"the provider failed to get keys {oidc_return.failed} times meanwhile")
