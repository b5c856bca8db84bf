"""The bundle endpoint serves the trust bundle in the SPIFFE format, and always the newest."""

import base64
import itertools

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from svidproof import Measure, Saw, Testbed, requirement, spiffe_ids
from svidproof.checks import BundleHistory
from svidproof.probes import BundleDocument, extensions_of, jwt, leads_to

USES = {"x509-svid", "jwt-svid"}
SPKI = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo


@requirement("SPEC-1")
def test_document_is_a_bundle_in_utf8(document: BundleDocument, saw: Saw) -> None:
    """The document is JSON in UTF-8, and is served without client authentication."""
    text = document.body.decode("utf-8", "replace")

    assert "\ufffd" not in text, "the document is not UTF-8"
    assert document.content_type.startswith("application/json"), document.content_type
    saw(f"{len(document.body)} bytes of {document.content_type}, {len(document.keys)} keys")


@requirement("SPEC-1")
def test_refresh_hint_is_an_integer(document: BundleDocument) -> None:
    """The refresh hint is a positive integer."""
    hint = document.content.get("spiffe_refresh_hint")

    assert type(hint) is int, f"the refresh hint is {hint!r}"
    assert hint > 0, f"the refresh hint is {hint}"


@requirement("SPEC-1")
def test_every_key_has_type_and_use(document: BundleDocument) -> None:
    """Every key has a type, and one of the uses of the standards."""
    assert document.keys, "the bundle has no keys"
    for key in document.keys:
        assert key.get("kty"), f"a key has no type: {sorted(key)}"
        assert key.get("use") in USES, f"a key is for {key.get('use')!r}"


@requirement("SPEC-2")
def test_x509_authorities_are_one_certificate_each(spec: Testbed, document: BundleDocument) -> None:
    """An X.509 authority has one certificate, the parameters of its key, and no key ID."""
    authorities = document.of("x509-svid")
    held = {c.public_bytes(serialization.Encoding.DER) for c in spec.spire.bundle()}

    assert authorities, "the bundle has no X.509 authority"
    for authority in authorities:
        assert "kid" not in authority, f"an X.509 authority has the key ID {authority['kid']}"
        chain = authority.get("x5c") or []
        assert len(chain) == 1, f"an X.509 authority has {len(chain)} certificates"
        der = base64.b64decode(chain[0], validate=True)
        assert der in held, "an X.509 authority is not one of the server's"
        stated = jwt.public_key({n: v for n, v in authority.items() if n not in ("use", "x5c")})
        own = x509.load_der_x509_certificate(der).public_key().public_bytes(*SPKI)
        assert stated == own, "an X.509 authority states another key than its certificate"
    assert len(authorities) == len(held), f"{len(authorities)} of {len(held)} authorities"


@requirement("SPEC-3")
def test_jwt_authorities_have_key_ids(spec: Testbed, document: BundleDocument) -> None:
    """A JWT authority has a key ID of its own, no certificate, and the server's public key."""
    authorities = document.of("jwt-svid")
    served = {str(key.get("kid")): jwt.public_key(key) for key in authorities}

    assert authorities, "the bundle has no JWT authority"
    assert all(key.get("kid") for key in authorities), "a JWT authority has no key ID"
    assert len(served) == len(authorities), "two JWT authorities have the same key ID"
    assert served == spec.spire.jwt_keys(), f"served: {sorted(served)}"
    private = {name for key in authorities for name in ("d", "p", "q", "k") if name in key}
    assert not private, f"private members {private} are served"


@requirement("SPEC-4")
def test_endpoint_presents_a_valid_svid(spec: Testbed, document: BundleDocument, saw: Saw) -> None:
    """The https_spiffe endpoint presents a valid X.509-SVID of SPIRE server."""
    leaf = document.chain[0]
    extensions = {type(e.value): e for e in extensions_of(leaf)}

    assert spiffe_ids(leaf) == [spec.spire.bundle_endpoint.spiffe_id], f"it is {spiffe_ids(leaf)}"
    usage = extensions[x509.KeyUsage]
    assert usage.critical, "its key usage is not critical"
    assert usage.value.digital_signature, "it lacks digitalSignature"
    assert not usage.value.key_cert_sign, "it sets keyCertSign"
    assert not usage.value.crl_sign, "it sets cRLSign"
    basic = extensions.get(x509.BasicConstraints)
    assert basic is None or not basic.value.ca, "it sets cA"
    assert leads_to(document.chain, spec.spire.bundle()), "its chain does not lead to the bundle"
    saw(f"{len(document.chain)} certificates")


@requirement("SPEC-5")
def test_each_change_is_served_soon(bundle_history: BundleHistory, measure: Measure) -> None:
    """The endpoint serves each change of the authorities soon afterwards."""
    moments = bundle_history.moments

    late = [moment for moment in moments if moment.changed is None]
    assert moments, "nothing was changed"
    assert not late, f"{late[0].change}: {late[0].late}"
    longest = max(moments, key=lambda moment: moment.took)
    measure("from a change of authorities to the bundle endpoint", longest.took, "s")


@requirement("SPEC-5")
def test_sequence_grows_with_each_change(bundle_history: BundleHistory, saw: Saw) -> None:
    """The sequence number is an integer that never decreases, and changes with the keys."""
    seen = bundle_history.seen

    for document in seen:
        assert type(document.sequence) is int, f"the sequence number is {document.sequence!r}"
    for before, after in itertools.pairwise(seen):
        first, then = before.sequence, after.sequence
        assert then >= first, f"the sequence number {then} came after {first}"
        if not after.has_keys_of(before):
            assert then > first, f"other keys have the same sequence number {then}"
    numbers = {document.sequence for document in seen}
    assert len(numbers) > 1, "no change was seen"
    saw(f"{min(numbers)} to {max(numbers)}")
