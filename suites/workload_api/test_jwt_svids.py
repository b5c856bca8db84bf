"""JWT-SVIDs: their header and claims, the keys of the JWT bundle, and validation."""

import time
import uuid
from collections.abc import Callable

import grpc
import pytest

from svidproof import Saw, Testbed, only, requirement
from svidproof.checks import DemoPage
from svidproof.probes import jwt

pytestmark = [pytest.mark.usefixtures("greeter"), requirement("GREETER-7")]
ALGORITHMS = {f"{family}{size}" for family in ("RS", "ES", "PS") for size in (256, 384, 512)}
HEADERS = {"alg", "kid", "typ"}
TYPES = {None, "JWT", "JOSE"}
PRIVATE = {"d", "p", "q", "dp", "dq", "qi", "oth", "k"}  # the private members of a JWK
OTHER = "other.example"


@pytest.fixture
def audience() -> str:
    """An audience for which no JWT-SVID has been requested."""
    return f"bank-{uuid.uuid4().hex}.example"


@pytest.fixture
def token(page: DemoPage, audience: str) -> str:
    """The JWT-SVID for this audience that the Workload API issues to the page's process."""
    answer = jwt.fetch(page.program.workload_api(), [audience])
    assert answer.code is grpc.StatusCode.OK, str(answer)
    spiffe_id, token = only(answer.svids, "JWT-SVID")
    assert spiffe_id == page.program.spiffe_id, f"a JWT-SVID of {spiffe_id}"
    return token


@pytest.fixture
def keys(greeter: Testbed, page: DemoPage) -> list[dict[str, object]]:
    """The keys of the trust domain's JWT bundle, as FetchJWTBundles delivers them."""
    answer = jwt.bundles(page.program.workload_api())
    domain = f"spiffe://{greeter.scenario.trust_domain}"
    assert list(answer.bundles) == [domain], f"bundles of {list(answer.bundles)}: {answer}"
    keys: list[dict[str, object]] = answer.bundles[domain]["keys"]
    assert keys, "the JWT bundle has no key"
    return keys


def test_token_keeps_the_standard(page: DemoPage, audience: str, token: str, saw: Saw) -> None:
    """A JWT-SVID holds its subject, its one audience and its expiry, and no other header."""
    read = jwt.Token.read(token)

    assert read.parts == 3, f"{read.parts} parts: not the compact serialisation"
    assert set(read.header) <= HEADERS, f"headers {sorted(read.header)}"
    assert read.header["alg"] in ALGORITHMS, f"signed by {read.header['alg']}"
    assert read.header.get("typ") in TYPES, f"of type {read.header['typ']}"
    assert read.claims["sub"] == page.program.spiffe_id, f"of {read.claims['sub']}"
    assert read.claims["aud"] in (audience, [audience]), f"for {read.claims['aud']}"
    assert read.claims["exp"] > time.time(), "it has expired"
    saw(f"{read.header['alg']}, {read.claims['exp'] - time.time():.0f} s")


def test_token_is_verified_by_the_bundle(
    keys: list[dict[str, object]], audience: str, token: str
) -> None:
    """The key that a JWT-SVID names is in the JWT bundle and verifies the JWT-SVID."""
    kid = jwt.Token.read(token).header["kid"]

    named = [key for key in keys if key.get("kid") == kid]

    known = sorted(str(key.get("kid")) for key in keys)
    assert named, f"key {kid} is not in the bundle: {known}"
    jwt.verify(token, only(named, f"key {kid}"), audience)


def test_jwt_bundle_keys_keep_the_standard(keys: list[dict[str, object]]) -> None:
    """Each key of the JWT bundle is public, has an ID of its own, and is for JWT-SVIDs only."""
    ids = [key.get("kid") for key in keys]

    assert all(ids), f"a key has no ID: {ids}"
    assert len(set(ids)) == len(ids), f"two keys have the same ID: {ids}"
    # The Workload API delivers a JWK Set, whose `use` may be left out; another one is wrong.
    uses = {key.get("use") for key in keys}
    assert uses <= {"jwt-svid", None}, f"keys for {uses} in the bundle for JWT-SVIDs"
    private = {name for key in keys for name in PRIVATE & key.keys()}
    assert not private, f"keys with the private members {sorted(private)}"


def test_jwt_bundle_is_the_servers(greeter: Testbed, keys: list[dict[str, object]]) -> None:
    """The JWT bundle of the Workload API holds exactly the server's JWT authorities.

    Key IDs and public keys are compared with what the server's own API lists.
    """
    delivered = {str(key.get("kid")): jwt.public_key(key) for key in keys}

    listed = greeter.spire.jwt_keys()

    assert set(delivered) == set(listed), (
        f"the server has {sorted(listed)}, not {sorted(delivered)}"
    )
    other = [kid for kid, key in delivered.items() if key != listed[kid]]
    assert not other, f"the server has other public keys under the IDs {other}"


def test_token_is_for_each_requested_audience(page: DemoPage, audience: str) -> None:
    """A JWT-SVID for two audiences holds both, and ValidateJWTSVID accepts it for either."""
    target, both = page.program.workload_api(), [audience, f"second-{audience}"]

    answer = jwt.fetch(target, both)

    _, token = only(answer.svids, "JWT-SVID")
    assert sorted(jwt.Token.read(token).claims["aud"]) == sorted(both), "not for both audiences"
    for one in both:
        validated = jwt.validate(target, token, one)
        assert validated.code is grpc.StatusCode.OK, f"{one}: {validated}"


def test_no_audience_gets_no_token(page: DemoPage) -> None:
    """A request for a JWT-SVID without an audience gets InvalidArgument."""
    target = page.program.workload_api()

    none, blank = jwt.fetch(target, []), jwt.fetch(target, [""])

    assert none.code is grpc.StatusCode.INVALID_ARGUMENT, f"expected InvalidArgument: {none}"
    # The standard requires a value and does not say what a blank one is.
    assert blank.code is not grpc.StatusCode.OK, "there is a JWT-SVID for a blank audience"
    assert not none.svids + blank.svids, "there is a JWT-SVID"


# What is presented, made of a genuine JWT-SVID, and the audience for which it is validated.
Forgery = Callable[[str, str], tuple[str, str]]


def _flipped(token: str) -> str:
    """The same JWT-SVID with one bit of its signature changed."""
    signature = token.split(".")[2]
    return jwt.forged(token, signature=("B" if signature[0] == "A" else "A") + signature[1:])


def _elsewhere(token: str) -> str:
    """The same JWT-SVID with the claim to be another workload of its trust domain."""
    return jwt.forged(token, claims={"sub": f"{jwt.Token.read(token).claims['sub']}/other"})


def _later(token: str) -> str:
    """The same JWT-SVID with an expiry an hour later."""
    return jwt.forged(token, claims={"exp": jwt.Token.read(token).claims["exp"] + 3600})


FORGERIES: dict[str, Forgery] = {
    "other-audience": lambda token, _: (token, OTHER),
    "no-audience": lambda token, _: (token, ""),
    "changed-audience": lambda token, _: (jwt.forged(token, claims={"aud": [OTHER]}), OTHER),
    "changed-subject": lambda token, audience: (_elsewhere(token), audience),
    "changed-expiry": lambda token, audience: (_later(token), audience),
    "changed-signature": lambda token, audience: (_flipped(token), audience),
    "no-signature": lambda token, audience: (jwt.forged(token, signature=""), audience),
    "alg-none": lambda token, audience: (
        jwt.forged(token, header={"alg": "none"}, signature=""),
        audience,
    ),
    "unknown-key": lambda token, audience: (jwt.forged(token, header={"kid": "unknown"}), audience),
}
each_forgery = pytest.mark.parametrize(
    "forge", [pytest.param(forge, id=name) for name, forge in FORGERIES.items()]
)


def test_agent_validates_a_genuine_token(page: DemoPage, audience: str, token: str) -> None:
    """ValidateJWTSVID accepts a JWT-SVID for its audience, with its SPIFFE ID and claims."""
    answer = jwt.validate(page.program.workload_api(), token, audience)

    assert answer.code is grpc.StatusCode.OK, str(answer)
    assert answer.spiffe_id == page.program.spiffe_id, str(answer)
    assert answer.claims["aud"] in (audience, [audience]), f"for {answer.claims['aud']}"


@each_forgery
def test_agent_rejects_a_wrong_token(
    page: DemoPage, audience: str, token: str, forge: Forgery
) -> None:
    """ValidateJWTSVID rejects a JWT-SVID for another audience, and a changed JWT-SVID."""
    target, (presented, asked) = page.program.workload_api(), forge(token, audience)

    control = jwt.validate(target, token, audience)
    answer = jwt.validate(target, presented, asked)

    assert control.code is grpc.StatusCode.OK, f"the genuine token was rejected: {control}"
    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT, f"expected InvalidArgument: {answer}"


@each_forgery
def test_workload_rejects_a_wrong_token(
    page: DemoPage, audience: str, token: str, forge: Forgery, saw: Saw
) -> None:
    """A workload rejects a JWT-SVID for another audience, and a changed JWT-SVID."""
    presented, asked = forge(token, audience)

    control = page.judge(token, audience)
    accepted, reason = page.judge(presented, asked)

    assert control == (True, ""), f"the genuine token was rejected: {control[1]}"
    assert not accepted, f"a token was accepted for {asked!r}"
    saw(reason)


def test_page_shows_the_token_for_what_was_typed(
    page: DemoPage, audience: str, token: str, saw: Saw
) -> None:
    """The page shows the verified claims of a JWT-SVID for the audience that was typed."""
    read = jwt.Token.read(token)

    shown = page.jwt(audience)

    assert shown.of("jwt"), "no JWT-SVID is shown"
    fields = only(shown.of("jwt"), "JWT-SVID")
    assert fields["aud"] == audience, f"{audience} was typed, {fields['aud']} is shown"
    assert fields["sub"] == page.program.spiffe_id, f"{fields['sub']} is shown"
    for name in ("alg", "kid"):
        assert fields[name] == read.header[name], f"{name} {fields[name]} is shown"
    assert fields["exp"], "no expiry is shown"
    saw(f"aud {fields['aud']}, key {fields['kid']}")


@pytest.mark.parametrize("typed", ["", "   "], ids=["empty", "blank"])
def test_page_shows_no_token_for_nothing(page: DemoPage, typed: str) -> None:
    """The page explains why there is no JWT-SVID when no audience was typed."""
    shown = page.get("/jwt", audience=typed)

    assert "data-jwt" not in shown, "a JWT-SVID is shown"
    assert "type one" in shown, "no reason is shown"
