"""The demo page is parsed correctly, and JWT-SVIDs are parsed, forged and verified."""

from __future__ import annotations

import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from svidproof.checks.pages.demo_page import Shown, differences
from svidproof.model.errors.attribution import Malformed
from svidproof.probes.workload_api.jwt import Token, forged, public_key, verify
from svidproof.probes.workload_api.messages import message

PAGE = """<p data-field="trouble">no stream</p>
<article data-svid><h3 data-field="spiffe_id">spiffe://a/b</h3>
<code data-field="serial">1f</code>
<time data-field="not_after" datetime="2026">soon</time></article>
<article data-bundle><h3 data-field="trust_domain">a</h3>
<dl data-authority><dd data-field="subject">CN=<b>x</b></dd></dl>
<dl data-key><dd data-field="id">k1</dd></dl><dl data-key><dd data-field="id">k2</dd></dl></article>
"""


def test_page_is_read_by_its_marks() -> None:
    """Each part has its own fields, and of a moment its exact form counts."""
    shown = Shown.read(PAGE)

    assert shown.of("svid") == [{"spiffe_id": "spiffe://a/b", "serial": "1f", "not_after": "2026"}]
    assert shown.serials == ["1f"]
    assert shown.of("bundle") == [{"trust_domain": "a"}]
    assert shown.of("authority") == [{"subject": "CN=x"}]
    assert [fields["id"] for fields in shown.of("key")] == ["k1", "k2"]
    assert shown.of("jwt") == []


@pytest.mark.parametrize(
    ("shown", "given", "says"),
    [
        pytest.param([{"a": "1", "b": "2"}], [{"a": "1"}], "", id="more-is-shown"),
        pytest.param([{"a": "1"}], [{"a": "2"}], "a: 1 is shown, 2 expected", id="another"),
        pytest.param([{}], [{"a": "2"}], "a: None is shown, 2 expected", id="nothing"),
        pytest.param([], [{"a": "2"}], "0 are shown, 1 expected", id="too-few"),
    ],
)
def test_differences_are_told(
    shown: list[dict[str, str]], given: list[dict[str, str]], says: str
) -> None:
    """What is shown otherwise than it was given is told by its name."""
    assert differences(shown, given) == says


@pytest.fixture
def key() -> ec.EllipticCurvePrivateKey:
    """A key that signs tokens."""
    return ec.generate_private_key(ec.SECP256R1())


def signed(key: ec.EllipticCurvePrivateKey, **claims: Any) -> str:  # noqa: ANN401  JSON
    """A token with these claims beside sound ones."""
    sound = {"sub": "spiffe://a/b", "aud": ["x"], "exp": int(time.time()) + 60}
    return jwt.encode({**sound, **claims}, key, "ES256", {"kid": "k1"})


def public(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    """The key as a bundle has it."""
    found: dict[str, Any] = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
    return {**found, "kid": "k1", "use": "jwt-svid"}


def test_token_is_taken_apart(key: ec.EllipticCurvePrivateKey) -> None:
    """Header and claims are read without believing them."""
    read = Token.read(signed(key))

    assert (read.parts, read.header["kid"], read.claims["sub"]) == (3, "k1", "spiffe://a/b")
    with pytest.raises(ValueError, match="not a JWT"):
        Token.read("nonsense")


def test_sound_token_is_verified(key: ec.EllipticCurvePrivateKey) -> None:
    """A token that is good is accepted by its key."""
    verify(signed(key), public(key), "x")


@pytest.mark.parametrize(
    ("claims", "audience", "says"),
    [
        pytest.param({}, "y", "Audience", id="other-audience"),
        pytest.param({"exp": 1}, "x", "expired", id="expired"),
    ],
)
def test_flawed_token_is_not(
    key: ec.EllipticCurvePrivateKey, claims: dict[str, Any], audience: str, says: str
) -> None:
    """A token for another audience, or of the past, is refused."""
    with pytest.raises(ValueError, match=says):
        verify(signed(key, **claims), public(key), audience)


def test_token_of_another_key_is_not(key: ec.EllipticCurvePrivateKey) -> None:
    """A token that another key has signed is refused."""
    other = ec.generate_private_key(ec.SECP256R1())

    with pytest.raises(ValueError, match="Signature"):
        verify(signed(other), public(key), "x")


def test_messages_have_the_standards_field_numbers() -> None:
    """On the wire the messages are those of workload.proto."""
    request = message("JWTSVIDRequest")(audience=["a", "b"], spiffe_id="c")
    assert request.SerializeToString() == b"\x0a\x01a\x0a\x01b\x12\x01c"

    svid = message("JWTSVID")(spiffe_id="i", svid="t", hint="h")
    answer = message("JWTSVIDResponse")(svids=[svid])
    assert answer.SerializeToString() == b"\x0a\x09\x0a\x01i\x12\x01t\x1a\x01h"

    bundles = message("JWTBundlesResponse")(bundles={"d": b"k"})
    assert bundles.SerializeToString() == b"\x0a\x06\x0a\x01d\x12\x01k"

    validate = message("ValidateJWTSVIDRequest")(audience="a", svid="t")
    assert validate.SerializeToString() == b"\x0a\x01a\x12\x01t"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"claims": {"sub": "spiffe://a/c"}}, "Signature", id="claims"),
        pytest.param({"header": {"typ": "JOSE"}}, "Signature", id="header"),
        pytest.param({"signature": ""}, "Signature", id="no-signature"),
        pytest.param({"header": {"alg": "none"}, "signature": ""}, "NotImplemented", id="alg-none"),
    ],
)
def test_forged_token_has_the_change_and_is_rejected(
    key: ec.EllipticCurvePrivateKey, changes: dict[str, Any], says: str
) -> None:
    """A forged token holds exactly what was changed, and no key verifies it."""
    token = signed(key)

    other = forged(token, **changes)

    header, claims = changes.get("header", {}), changes.get("claims", {})
    if header.get("alg") != "none":
        assert Token.read(other).header == {**Token.read(token).header, **header}
        assert Token.read(other).claims == {**Token.read(token).claims, **claims}
    with pytest.raises(ValueError, match=says):
        verify(other, public(key), "x")


def test_unchanged_token_is_verified(key: ec.EllipticCurvePrivateKey) -> None:
    """A token forged without a change is the same token."""
    token = signed(key)

    assert forged(token) == token


def test_jwk_is_compared_by_its_public_key(key: ec.EllipticCurvePrivateKey) -> None:
    """A JWK gives the public key that it holds; one that is incomplete is malformed."""
    der = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )

    assert public_key(public(key)) == der
    with pytest.raises(Malformed, match="y"):
        public_key({k: v for k, v in public(key).items() if k != "y"})
