"""Redaction leaves no private key and no usable token, however it is written, and the rest."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from svidproof.model.redact import REMOVED, TOKEN, holds_key, redact
from svidproof.probes.credentials import Authority, Template

if TYPE_CHECKING:
    from collections.abc import Callable

MEGABYTES = 16
KEYS: dict[str, Any] = {
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "p521": ec.generate_private_key(ec.SECP521R1()),
    "rsa2048": rsa.generate_private_key(65537, 2048),
    "rsa3072": rsa.generate_private_key(65537, 3072),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "ed448": ed448.Ed448PrivateKey.generate(),
    "x25519": x25519.X25519PrivateKey.generate(),
}
PKCS8, TRADITIONAL = PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL
FORMS = [
    pytest.param(key, form, id=f"{name}-{'pkcs8' if form is PKCS8 else 'traditional'}")
    for name, key in KEYS.items()
    for form in (PKCS8, TRADITIONAL)
    if form is PKCS8 or name.startswith(("p", "r"))
]
each_form = pytest.mark.parametrize(("key", "form"), FORMS)


def pem_of(key: Any, form: PrivateFormat) -> str:  # noqa: ANN401  of any kind
    """A key as PEM."""
    pem: bytes = key.private_bytes(Encoding.PEM, form, NoEncryption())
    return pem.decode()


def der_of(key: Any, form: PrivateFormat) -> bytes:  # noqa: ANN401  likewise
    """A key as DER."""
    der: bytes = key.private_bytes(Encoding.DER, form, NoEncryption())
    return der


def urlsafe(data: bytes) -> str:
    """base64url without padding, as JOSE has it."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


ENCODINGS: dict[str, Callable[[bytes], str]] = {
    "base64": lambda der: base64.b64encode(der).decode(),
    "base64url": urlsafe,
    "second-of-three": lambda der: base64.b64encode(b"x" + der).decode(),
    "third-of-three": lambda der: base64.b64encode(b"xy" + der).decode(),
    # As in a message of the Workload API: a field's tag and length are before it.
    "in-a-message": lambda der: base64.b64encode(b"\x1a\x8a\x01" + der + b"\x22\x00").decode(),
    "hex": lambda der: der.hex(),
    "upper-hex": lambda der: der.hex().upper(),
}
SEPARATORS = ("\n", "\r\n", "\\n", "\\r\\n", "\\\\n", "\n    ", " ")
COLUMNS = (1, 5, 7, 63, 64, 76, 77)
CONTEXTS = (
    "{}",
    "the key is {}, it says",
    '{{"key": "{}", "time": 1}}',
    'level=debug key="{}" more=yes',
    "before\n{}\n\n-- after --",
)


def wrapped(text: str, columns: int, separator: str) -> str:
    """The text in lines."""
    return separator.join(text[i : i + columns] for i in range(0, len(text), columns))


def assert_clean(text: str, secret: str, *gaps: str) -> str:
    """Assert that redaction leaves no part of a secret in a text; returns what it leaves."""
    clean = redact(text)
    assert REMOVED in clean
    assert holds_key(text)
    assert redact(clean) == clean
    rest = clean
    for gap in gaps:
        rest = rest.replace(gap, "")
    pieces = [secret[i : i + 20] for i in range(0, len(secret) - 20, 4)]
    assert [piece for piece in pieces if piece in rest] == []
    return clean


@each_form
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_der_is_removed(key: Any, form: PrivateFormat, encoding: str) -> None:  # noqa: ANN401  likewise
    """A DER key goes, in one line or wrapped at any column, and what is around it stays."""
    secret = ENCODINGS[encoding](der_of(key, form))
    for context in CONTEXTS:
        before, after = context.replace("{{", "{").replace("}}", "}").split("{}")
        clean = assert_clean(context.format(secret), secret)
        assert clean.startswith(before)
        assert clean.endswith(after)
    for number, separator in enumerate(SEPARATORS):
        for columns in COLUMNS:
            context = CONTEXTS[number % len(CONTEXTS)]
            before, after = context.replace("{{", "{").replace("}}", "}").split("{}")
            text = context.format(wrapped(secret, columns, separator))
            clean = assert_clean(text, secret, separator)
            assert clean.startswith(before)
            assert clean.endswith(after)


@each_form
def test_der_as_a_list_of_bytes_is_removed(key: Any, form: PrivateFormat) -> None:  # noqa: ANN401  likewise
    """A DER key goes in the forms in which Go, Python and openssl print bytes."""
    der = der_of(key, form)
    go = " ".join(map(str, der))
    for text, secret in (
        (f"raw key [{go}] done", go),
        (f"raw key {list(der)} done", ", ".join(map(str, der))),
        (f"raw key {der.hex(':')} done", der.hex(":")),
        ("raw key " + "".join(f"\\x{byte:02x}" for byte in der) + " done", der.hex("x")),
        ("raw key " + ", ".join(f"0x{byte:02x}" for byte in der) + " done", der.hex("x")),
    ):
        clean = assert_clean(text, secret, "\\", ", 0")
        assert clean.startswith("raw key ")
        assert clean.rstrip("] ").endswith("done")


@each_form
def test_pem_is_removed(key: Any, form: PrivateFormat) -> None:  # noqa: ANN401  likewise
    """A PEM key goes: plain, in JSON, in Go's %q, and in base64 wrapped at any column."""
    pem = pem_of(key, form)
    body = "".join(pem.splitlines()[1:-1])
    for text in (pem, json.dumps({"key": pem}), json.dumps(json.dumps({"key": pem}))):
        assert_clean(f"before {text} after", body, "\n", "\\n", "\\\\n")
    encoded = base64.b64encode(pem.encode()).decode()
    for separator in SEPARATORS[:-1]:
        for columns in COLUMNS:
            assert_clean(wrapped(encoded, columns, separator), encoded, separator)
    assert_clean(f'"inline_bytes": "{encoded}", "x": 1', encoded)


@each_form
def test_key_that_is_cut_off_is_removed(key: Any, form: PrivateFormat) -> None:  # noqa: ANN401  likewise
    """The first half of a key is as bad as the whole."""
    for encode in ENCODINGS.values():
        secret = encode(der_of(key, form))
        assert_clean(f"said: {secret[: len(secret) // 2]}", secret)


def b64(number: int) -> str:
    """A number of a JWK."""
    return urlsafe(number.to_bytes((number.bit_length() + 7) // 8, "big"))


def jwks() -> dict[str, tuple[dict[str, str], dict[str, str]]]:
    """The public and the private members of a JWK of each kind."""
    numbers = KEYS["rsa2048"].private_numbers()
    curve = KEYS["p256"].private_numbers()
    raw = KEYS["ed25519"].private_bytes_raw()
    public = KEYS["ed25519"].public_key().public_bytes_raw()
    point = curve.public_numbers
    return {
        "RSA": (
            {"kty": "RSA", "kid": "k1", "n": b64(numbers.public_numbers.n), "e": "AQAB"},
            {
                "d": b64(numbers.d),
                "p": b64(numbers.p),
                "q": b64(numbers.q),
                "dp": b64(numbers.dmp1),
                "dq": b64(numbers.dmq1),
                "qi": b64(numbers.iqmp),
            },
        ),
        "EC": (
            {"kty": "EC", "crv": "P-256", "x": b64(point.x), "y": b64(point.y), "use": "jwt-svid"},
            {"d": b64(curve.private_value)},
        ),
        "OKP": ({"kty": "OKP", "crv": "Ed25519", "x": urlsafe(public)}, {"d": urlsafe(raw)}),
        "oct": ({"kty": "oct", "alg": "HS256"}, {"k": urlsafe(b"a secret of thirty-two bytes...")}),
    }


@pytest.mark.parametrize("kind", ["RSA", "EC", "OKP", "oct"])
def test_private_members_of_a_jwk_are_removed(kind: str) -> None:
    """Each private member goes; the public ones stay, whatever their order and quoting."""
    public, private = jwks()[kind]
    for jwk in (public | private, private | public):
        for text in (
            json.dumps(jwk),
            json.dumps(jwk, indent=2),
            json.dumps({"keys": [jwk]}),
            json.dumps(json.dumps(jwk)),
            str(jwk),
            json.dumps(jwk)[:-2],
        ):
            clean = redact(f"key {text}")
            assert clean.count(REMOVED) == len(private)
            assert not any(value in clean for value in private.values())
            assert all(value in clean for value in public.values())
    assert json.loads(redact(json.dumps(public | private))) == {
        **public,
        **dict.fromkeys(private, REMOVED),
    }


def token(algorithm: str = "ES256", **header: str) -> str:
    """A JWT-SVID."""
    key = KEYS["p256"] if algorithm == "ES256" else KEYS["rsa2048"]
    claims = {"sub": "spiffe://example.org/api", "aud": ["db"], "exp": 4102444800}
    return jwt.encode(claims, key, algorithm, headers=header)


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
def test_jwt_loses_its_signature_and_keeps_its_claims(algorithm: str) -> None:
    """What is left of a JWT tells whose it was, and authenticates nobody."""
    whole = token(algorithm, kid="k1")
    header, claims, signature = whole.split(".")

    for context in ("{}", "Bearer {}", "authorization: bearer {}", '"token":"{}"', "\\n{}\\n"):
        clean = redact(context.format(whole))

        assert clean == context.format(f"{header}.{claims}.{TOKEN}")
        assert signature not in clean
        assert holds_key(context.format(whole))
        assert redact(clean) == clean


def test_jwt_with_any_header_loses_its_signature() -> None:
    """A header may begin with a blank, or with a line break."""
    for text in ('{ "alg":"RS256"}', '{\n"alg":"RS256"}', '{"typ":"JWT","alg":"RS256"}'):
        head, body = urlsafe(text.encode()), urlsafe(b'{"sub":"x"}')
        assert redact(f"{head}.{body}.{'s' * 86}") == f"{head}.{body}.{TOKEN}"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Authorization: Bearer abc123def456ghi789", f"Authorization: Bearer {TOKEN}"),
        ('{"authorization":"Bearer abc123def456=="}', f'{{"authorization":"Bearer {TOKEN}"}}'),
        ("Authorization: Basic dXNlcjpwYXNzd29yZDE=", f"Authorization: Basic {TOKEN}"),
        ("a bearer token was sent", "a bearer token was sent"),
        ("Bearer authentication is required", "Bearer authentication is required"),
    ],
)
def test_bearer_tokens_are_removed(text: str, clean: str) -> None:
    """What follows Bearer or Basic goes, unless it is a word."""
    assert redact(text) == clean


def harmless() -> dict[str, str]:
    """What looks like a key, and is none."""
    root = Authority.create("root", "example.org")
    leaf = root.issue("leaf", Template(uris=("spiffe://example.org/api",)))
    texts: dict[str, str] = {}
    for name, key in KEYS.items():
        public = key.public_key()
        der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        texts |= {f"{name}.pub": pem, f"{name}.der": base64.b64encode(der).decode(),
                  f"{name}.hex": der.hex()}  # fmt: skip
        if name.startswith("p"):
            signature = key.sign(b"x", ec.ECDSA(hashes.SHA256()))
            texts |= {f"{name}.sig": base64.b64encode(signature).decode(),
                      f"{name}.sighex": signature.hex()}  # fmt: skip
    for certificate in leaf.chain:
        der = certificate.public_bytes(serialization.Encoding.DER)
        name = f"certificate {certificate.serial_number:x}"
        texts |= {
            name: certificate.public_bytes(serialization.Encoding.PEM).decode(),
            f"{name} base64": base64.b64encode(der).decode(),
            f"{name} wrapped": base64.encodebytes(der).decode(),
            f"{name} hex": der.hex(),
            f"{name} colons": der.hex(":"),
            f"{name} fingerprint": certificate.fingerprint(hashes.SHA256()).hex(),
            f"{name} list": str(list(der)),
        }
    for name, (public, _) in jwks().items():
        if name != "oct":
            texts[f"{name} jwk"] = json.dumps({"keys": [public]})
    return texts | {
        "id": "spiffe://example.org/ns/a/sa/b",
        "digest": "sha256:" + "0123456789abcdef" * 4,
        "selectors": "k8s:ns:demo, unix:uid:1000, unix:sha256:" + "ab" * 32,
        "uuid": "6f1e7c2a-3c11-4d1e-9d1c-0123456789ab",
        "members": json.dumps({"d": "a day", "k": "value", "p": 1, "q": "query=long-enough"}),
        "name": "eyJ.example.org and com.example.frontend.accounts.v1.Service",
        "time": "2026-11-28T21:55:48.123456789Z 127.16.1.2:8443 0x30 0x02 0x01 48 2 1 0 48",
        "words": "the PRIVATE key of nobody, and the bearer of this letter",
    }


HARMLESS = harmless()


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_public_stays(name: str) -> None:
    """Certificates, public keys and JWKs, signatures, serials, hashes and IDs are not touched."""
    text = HARMLESS[name]

    assert redact(text) == text
    assert redact(json.dumps({"x": text})) == json.dumps({"x": text})
    assert not holds_key(text)


def test_request_and_revocation_list_stay() -> None:
    """Both begin with a version, as keys do."""
    from cryptography import x509  # noqa: PLC0415  the rest needs none of it
    from cryptography.x509.oid import NameOID  # noqa: PLC0415

    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "example.org")])
    moment = Authority.create("root", "example.org").certificate.not_valid_before_utc
    request = x509.CertificateSigningRequestBuilder().subject_name(name)
    revoked = x509.CertificateRevocationListBuilder().issuer_name(name).last_update(moment)
    revoked = revoked.next_update(moment.replace(year=moment.year + 1))
    for key in (KEYS["p256"], KEYS["rsa2048"]):
        for built in (request, revoked):
            der = built.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
            for text in (base64.b64encode(der).decode(), der.hex()):
                assert redact(text) == text


LINE = (
    '{"level":"debug","msg":"Signed X509 SVID","spiffe_id":"spiffe://example.org/api",'
    '"serial":"123981273981273","time":"2026-11-28T21:55:48.123456789Z","n":0}\n'
)


@pytest.mark.parametrize(
    "piece",
    [
        pytest.param(LINE, id="log"),
        pytest.param(HARMLESS["p256.pub"], id="pem"),
        pytest.param(base64.b64encode(bytes(range(256))).decode(), id="base64"),
        pytest.param(bytes(range(256)).hex(), id="hex"),
        pytest.param(" ", id="blanks"),
        pytest.param("\\n", id="escapes"),
        pytest.param('{"kty":', id="objects"),
        pytest.param("eyJ", id="headers"),
        pytest.param("AgEA", id="versions"),
    ],
)
def test_redaction_is_fast(piece: str) -> None:
    """A log of 16 MB takes two seconds of CPU at most, whatever it consists of."""
    text = piece * ((MEGABYTES << 20) // len(piece))
    begin = time.process_time()

    assert redact(text) == text

    assert time.process_time() - begin < 2 * slowness()


def slowness() -> float:
    """How much slower this machine is now than one that decodes a megabyte in a millisecond."""
    begin = time.process_time()
    base64.b64decode(bytes(65 for _ in range(8 << 20)))
    return max(1.0, (time.process_time() - begin) / 0.3)
