"""Each flawed credential has exactly one flaw; otherwise its rejection would prove nothing."""

from __future__ import annotations

import base64
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from svidproof.probes.credentials import Authority, Credential, Template
from svidproof.probes.flaws import Flaw, Forge
from svidproof.testbed.watch.timeline import spiffe_ids

DOMAIN = "example.org"
OWN = f"spiffe://{DOMAIN}/valid-api-client"
OTHER = f"spiffe://{DOMAIN}/invalid-api-client"

# The flaw of each, as `faults` names it.
WRONG = {
    Flaw.NONE: set(),
    Flaw.SELF_SIGNED: {"chain"},
    Flaw.OTHER_CA: {"chain"},
    Flaw.OTHER_TRUST_DOMAIN: {"chain", "id"},
    Flaw.FOREIGN_ID: {"id"},
    Flaw.EXPIRED: {"expired"},
    Flaw.NOT_YET_VALID: {"not yet valid"},
    Flaw.OTHER_ID: {"id"},
    Flaw.LONGER_ID: {"id"},
    Flaw.SHORTER_ID: {"id"},
    Flaw.OTHER_CASE: {"id"},
    Flaw.OTHER_SCHEME: {"id"},
    Flaw.NO_PATH: {"id"},
    Flaw.NO_SAN: {"id"},
    Flaw.DNS_SAN_ONLY: {"id"},
    Flaw.TWO_URI_SANS: {"id"},
    Flaw.TAMPERED_SIGNATURE: {"signature"},
    Flaw.TAMPERED_ID: {"signature"},
    Flaw.CA_AS_LEAF: {"ca", "may sign certificates", "may sign crls"},
    Flaw.CA_FLAG_ONLY: {"ca"},
    Flaw.KEY_CERT_SIGN: {"may sign certificates"},
    Flaw.CRL_SIGN: {"may sign crls"},
    Flaw.WRONG_KEY: {"key"},
    Flaw.UNCHAINED: {"chain"},
    Flaw.EXPIRED_INTERMEDIATE: {"intermediate expired"},
    Flaw.LEAF_AS_CA: {"intermediate is no ca"},
    Flaw.INTERMEDIATE_MAY_NOT_SIGN: {"intermediate may not sign"},
    Flaw.PATH_LENGTH_EXCEEDED: {"path length"},
    Flaw.NAME_CONSTRAINT_VIOLATED: {"name constraint"},
    Flaw.UNKNOWN_CRITICAL_EXTENSION: {"unknown critical extension"},
}
each_flaw = pytest.mark.parametrize("flaw", WRONG, ids=lambda flaw: flaw.value)


@dataclass(frozen=True)
class Mint:
    """A forge and the root that a peer trusts."""

    root: Authority
    forge: Forge

    def __call__(self, flaw: Flaw) -> Credential:
        """Mint a credential, which must be one."""
        credential = self.forge.client(OWN, flaw, other_id=OTHER)
        assert credential is not None
        return credential


@pytest.fixture
def mint() -> Mint:
    """A forge of its own for each test."""
    root = Authority.create("root", DOMAIN)
    return Mint(root, Forge(root, DOMAIN))


def faults(credential: Credential, root: x509.Certificate) -> set[str]:
    """Everything that is wrong with a credential whose peer trusts `root` and accepts `OWN`."""
    leaf, *above = credential.chain
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    constraints = leaf.extensions.get_extension_for_class(x509.BasicConstraints).value
    now = datetime.now(UTC)
    found = {
        "id": spiffe_ids(leaf) != [OWN],
        "expired": leaf.not_valid_after_utc < now,
        "not yet valid": leaf.not_valid_before_utc > now,
        "ca": constraints.ca,
        "may sign certificates": usage.key_cert_sign,
        "may sign crls": usage.crl_sign,
        "key": not signs_for(credential),
        "intermediate expired": any(c.not_valid_after_utc < now for c in above),
        "intermediate is no ca": any(not is_ca(c) for c in above),
        "intermediate may not sign": any(is_ca(c) and not may_sign(c) for c in above),
        "path length": any(length(c) < below for below, c in enumerate(above)),
        "name constraint": any(not permits(c, OWN) for c in above),
        "unknown critical extension": any(
            e.critical and isinstance(e.value, x509.UnrecognizedExtension)
            for c in credential.chain
            for e in c.extensions
        ),
        "other": not usage.digital_signature,
        **dict.fromkeys(("chain", "signature"), False),
    }
    for certificate, issuer in zip(credential.chain, [*above, root], strict=True):
        try:
            certificate.verify_directly_issued_by(issuer)
        except ValueError:
            found["chain"] = True
        except InvalidSignature:
            # The right name, and yet not its signature: either the key or the content is another.
            found["chain" if issuer_key_differs(certificate, issuer) else "signature"] = True
    return {fault for fault, is_so in found.items() if is_so}


def is_ca(certificate: x509.Certificate) -> bool:
    """Whether a certificate says that it may issue others."""
    return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def may_sign(certificate: x509.Certificate) -> bool:
    """Whether a certificate's keyUsage has keyCertSign."""
    return certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


def length(certificate: x509.Certificate) -> float:
    """How many CAs a certificate permits below it."""
    found = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
    return math.inf if found is None else found


def permits(certificate: x509.Certificate, uri: str) -> bool:
    """Whether the name constraints of a certificate, if it has any, permit the host of a URI."""
    for extension in certificate.extensions:
        if isinstance(extension.value, x509.NameConstraints):
            names = [name.value for name in extension.value.permitted_subtrees or ()]
            return urlsplit(uri).hostname in names
    return True


def issuer_key_differs(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether a certificate says itself that another key signed it."""
    named = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return named.key_identifier != own.digest


def private_der(credential: Credential) -> bytes:
    """The private key as it stands in its PEM file."""
    return base64.b64decode(re.sub(rb"-----[A-Z ]+-----", b"", credential.key_pem))


def signing_key(credential: Credential) -> ec.EllipticCurvePrivateKey:
    """The key that signs: that of the private half, whatever public half stands beside it."""
    try:
        key = serialization.load_pem_private_key(credential.key_pem, password=None)
    except ValueError:
        # cryptography loads no key whose halves differ. SEQUENCE, version 1, 32 octets (RFC 5915).
        scalar = private_der(credential)[7:39]
        key = ec.derive_private_key(int.from_bytes(scalar, "big"), ec.SECP256R1())
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def signs_for(credential: Credential) -> bool:
    """Whether what the private key signs is verified by the certificate's key."""
    public, algorithm = credential.leaf.public_key(), ec.ECDSA(hashes.SHA256())
    assert isinstance(public, ec.EllipticCurvePublicKey)
    try:
        public.verify(signing_key(credential).sign(b"text", algorithm), b"text", algorithm)
    except InvalidSignature:
        return False
    return True


def test_every_flaw_is_judged() -> None:
    """Each flaw is in the table, but for the one that has no certificate to be wrong."""
    assert set(Flaw) - set(WRONG) == {Flaw.NO_CERTIFICATE}


@each_flaw
def test_credential_is_wrong_in_its_own_way_only(mint: Mint, flaw: Flaw) -> None:
    """A flawed credential has the fault that its name says, and no other."""
    assert faults(mint(flaw), mint.root.certificate) == WRONG[flaw]


@each_flaw
def test_credential_can_be_sent(mint: Mint, flaw: Flaw) -> None:
    """A flawed credential parses and names itself: it must be the peer that refuses it."""
    credential = mint(flaw)

    again = x509.load_pem_x509_certificates(credential.chain_pem)

    assert tuple(again) == credential.chain
    assert credential.name == flaw.value


def test_no_certificate_is_none(mint: Mint) -> None:
    """The flaw of having no certificate gives none."""
    assert mint.forge.client(OWN, Flaw.NO_CERTIFICATE, other_id=OTHER) is None


@pytest.mark.parametrize(
    ("flaw", "uris"),
    [
        pytest.param(Flaw.OTHER_TRUST_DOMAIN, ["spiffe://other.example/valid-api-client"],
                     id="other-trust-domain"),
        pytest.param(Flaw.FOREIGN_ID, ["spiffe://other.example/valid-api-client"], id="foreign-id"),
        pytest.param(Flaw.OTHER_ID, [OTHER], id="other-id"),
        pytest.param(Flaw.LONGER_ID, [f"{OWN}/admin"], id="longer-id"),
        pytest.param(Flaw.SHORTER_ID, [OWN[:-1]], id="shorter-id"),
        pytest.param(Flaw.OTHER_CASE, [f"spiffe://{DOMAIN}/Valid-Api-Client"], id="other-case"),
        pytest.param(Flaw.OTHER_SCHEME, [f"https://{DOMAIN}/valid-api-client"], id="other-scheme"),
        pytest.param(Flaw.NO_PATH, [f"spiffe://{DOMAIN}"], id="no-path"),
        pytest.param(Flaw.NO_SAN, [], id="no-san"),
        pytest.param(Flaw.DNS_SAN_ONLY, [], id="dns-san-only"),
        pytest.param(Flaw.TWO_URI_SANS, [OWN, OTHER], id="two-uri-sans"),
        pytest.param(Flaw.TAMPERED_ID, [OWN], id="tampered-id"),
        pytest.param(Flaw.TAMPERED_SIGNATURE, [OWN], id="tampered-signature"),
    ],
)  # fmt: skip
def test_ids_are_as_the_flaw_says(mint: Mint, flaw: Flaw, uris: list[str]) -> None:
    """A credential with the wrong ID has exactly the one that its name says."""
    assert spiffe_ids(mint(flaw).leaf) == uris


@pytest.mark.parametrize("flaw", [Flaw.NO_SAN, Flaw.DNS_SAN_ONLY], ids=lambda flaw: flaw.value)
def test_missing_san_is_missing(mint: Mint, flaw: Flaw) -> None:
    """A credential without a SAN has none at all, and one with a DNS SAN has just that."""
    sans = [e.value for e in mint(flaw).leaf.extensions
            if isinstance(e.value, x509.SubjectAlternativeName)]  # fmt: skip

    names = [san.get_values_for_type(x509.DNSName) for san in sans]
    assert names == ([] if flaw is Flaw.NO_SAN else [["valid-api-client"]])


@pytest.mark.parametrize(
    "flaw", [Flaw.TAMPERED_SIGNATURE, Flaw.TAMPERED_ID], ids=lambda flaw: flaw.value
)
def test_tampered_certificate_parses_but_does_not_verify(mint: Mint, flaw: Flaw) -> None:
    """A tampered certificate names the root as its issuer, and the root has not signed it."""
    leaf = mint(flaw).leaf

    assert leaf.issuer == mint.root.certificate.subject
    with pytest.raises(InvalidSignature):
        leaf.verify_directly_issued_by(mint.root.certificate)


def test_wrong_key_claims_to_be_the_right_one(mint: Mint) -> None:
    """The wrong key carries the certificate's public half, and signs what that does not verify."""
    credential = mint(Flaw.WRONG_KEY)
    public = credential.leaf.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    point = public.public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )

    assert point in private_der(credential)
    assert signing_key(credential).public_key() != public
    assert not signs_for(credential)


def test_expired_has_just_expired(mint: Mint) -> None:
    """An expired credential ended half a minute ago: no tolerance of hours hides a lax check."""
    ended = datetime.now(UTC) - mint(Flaw.EXPIRED).leaf.not_valid_after_utc

    assert timedelta(seconds=25) < ended < timedelta(minutes=2)


def test_chains_lead_to_the_root(mint: Mint) -> None:
    """A credential below intermediate CAs presents them, except with the flaw of omitting them."""
    longer = {flaw: len(mint(flaw).chain) for flaw in WRONG if len(mint(flaw).chain) > 1}

    assert longer == {
        Flaw.EXPIRED_INTERMEDIATE: 2,
        Flaw.LEAF_AS_CA: 2,
        Flaw.INTERMEDIATE_MAY_NOT_SIGN: 2,
        Flaw.PATH_LENGTH_EXCEEDED: 3,
        Flaw.NAME_CONSTRAINT_VIOLATED: 2,
    }


def test_two_credentials_have_nothing_in_common(mint: Mint) -> None:
    """Each credential has a key and a serial of its own, and the serial is long."""
    first, second = mint(Flaw.NONE), mint(Flaw.NONE)

    assert first.leaf.serial_number != second.leaf.serial_number
    assert first.leaf.public_key() != second.leaf.public_key()
    assert first.leaf.serial_number.bit_length() > 64


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"ca": True}, {"ca"}, id="ca"),
        pytest.param({"key_cert_sign": True}, {"may sign certificates"}, id="key-cert-sign"),
        pytest.param({"crl_sign": True}, {"may sign crls"}, id="crl-sign"),
        pytest.param({"digital_signature": False}, {"other"}, id="no-digital-signature"),
        pytest.param({"not_after": timedelta(seconds=-1)}, {"expired"}, id="not-after"),
        pytest.param({"serial": 42}, set(), id="serial"),
        pytest.param({"subject": None}, set(), id="no-subject"),
        pytest.param({"san_critical": True}, set(), id="san-critical"),
    ],
)
def test_template_changes_what_it_says(
    mint: Mint, change: dict[str, object], words: set[str]
) -> None:
    """A field of a template changes that of the certificate, and nothing else."""
    template = Template(uris=(OWN,), **change)  # type: ignore[arg-type]

    assert faults(mint.root.issue("leaf", template), mint.root.certificate) == words


def test_keys_are_not_shown(mint: Mint) -> None:
    """A credential's representation has no key in it."""
    assert "PRIVATE" not in repr(mint(Flaw.NONE)) + repr(mint.forge)
    assert b"PRIVATE" in mint.root.key_pem
