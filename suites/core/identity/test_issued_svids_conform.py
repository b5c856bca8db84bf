"""The certificates that SPIRE issues conform to the X509-SVID standard.

An Envoy that accepts a flawed certificate hides an issuer's mistake. These checks therefore read
the certificates themselves: every one that was seen, not a sample.
"""

import contextlib
import itertools
from collections.abc import Iterator
from typing import TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from svidproof import (
    Capability,
    Saw,
    Source,
    Testbed,
    TimedOut,
    budgets,
    eventually,
    key_hash,
    requirement,
    runs_last,
    spiffe_ids,
)
from svidproof.checks import API_SERVERS, API_WORKLOADS
from svidproof.probes import extensions_of, is_signed_by, signer_in

# They judge all that was observed, so they run after as much as possible was.
pytestmark = runs_last()

SERVER_ID = "spire/server"
Chain = tuple[x509.Certificate, ...]
E = TypeVar("E", bound=x509.ExtensionType)
VIEWS = {
    Source.WORKLOAD_API: API_WORKLOADS,
    Source.SECRETS: API_WORKLOADS,
    Source.WIRE: API_SERVERS,
}
# The values of an agent's `workload_x509_svid_key_type`.
CONFIGURABLE = {"secp256r1", "RSAPublicKey"}
RSA_BITS = 2048
RANDOM_BITS = 64  # the least for a serial number (CA/Browser Forum BR 7.1)


@pytest.fixture(scope="module")
def everything_seen(api: Testbed) -> list[tuple[str, Chain]]:
    """Every chain seen so far, with its owner: from Workload API, sidecars, wire and server."""
    timeline = api.watch.timeline

    def everywhere() -> None:
        for source, workloads in VIEWS.items():
            missing = set(workloads) - {s.workload for s in timeline.sightings(source)}
            assert not missing, f"no SVID of {sorted(missing)} at {source.value}"

    # Another check finds a sidecar that never gets its SVID; these judge what was issued.
    with contextlib.suppress(TimedOut):
        eventually(everywhere, budgets.SECRETS_READY, alive=api.assert_alive)
    sightings = [s for s in timeline.sightings() if s.chain]
    missing = set(api.workloads) - {s.workload for s in sightings}
    assert not missing, f"no SVID of {sorted(missing)} was seen anywhere"
    return [*((s.workload, s.chain) for s in sightings), *_of_server(api)]


@pytest.fixture
def leaves(everything_seen: list[tuple[str, Chain]]) -> list[tuple[str, x509.Certificate]]:
    """The SVIDs, each with its owner."""
    return [(name, chain[0]) for name, chain in everything_seen]


@pytest.fixture
def signers(everything_seen: list[tuple[str, Chain]], api: Testbed) -> list[x509.Certificate]:
    """The signing certificates: the intermediate CAs of the chains, and the CAs of the bundle."""
    intermediate = [certificate for _, chain in everything_seen for certificate in chain[1:]]
    # Without an upstream authority SPIRE's CA signs itself, and a chain is the SVID alone.
    own = Capability.OWN_TRUST_ROOT in api.capabilities
    assert intermediate or not own, "no chain has an intermediate CA"
    return [*dict.fromkeys(intermediate), *api.spire.bundle()]


@requirement("IDENTITY-20")
def test_svid_has_exactly_one_uri_san(leaves: list[tuple[str, x509.Certificate]]) -> None:
    """Each SVID has exactly one URI SAN."""
    for name, leaf in leaves:
        assert len(spiffe_ids(leaf)) == 1, f"{name} has the URI SANs {spiffe_ids(leaf)}, not one"


@requirement("IDENTITY-22")
def test_svid_names_its_workload(api: Testbed, leaves: list[tuple[str, x509.Certificate]]) -> None:
    """Each SVID carries the SPIFFE ID of its own workload, with a path."""
    for name, leaf in leaves:
        uri = next(iter(spiffe_ids(leaf)), "")
        wanted = api.scenario.spiffe_id(name)
        assert uri == wanted, f"the SVID of {name} is for {uri}, not {wanted}"
        assert uri.removeprefix("spiffe://").partition("/")[2], f"{name}: no path in {uri}"


@requirement("IDENTITY-23")
def test_uri_san_is_critical_without_subject(
    leaves: list[tuple[str, x509.Certificate]], saw: Saw
) -> None:
    """The SAN extension of an SVID with an empty subject is critical.

    SPIRE sets a subject unless a CredentialComposer plugin removes it: the check then says that the
    clause applied to no SVID.
    """
    for name, leaf in leaves:
        san = _the(leaf, x509.SubjectAlternativeName)
        assert san.critical or leaf.subject.rdns, f"{name}: empty subject, SAN not critical"
    empty = sum(not leaf.subject.rdns for _, leaf in leaves)
    saw(f"{empty} of {len(leaves)} SVIDs have an empty subject, to which the clause applies")


@requirement("IDENTITY-24")
def test_signing_id_has_no_path(api: Testbed, signers: list[x509.Certificate]) -> None:
    """The SPIFFE ID of a signing certificate, if present, is that of the trust domain."""
    for signer in signers:
        for uri in spiffe_ids(signer):
            own = f"spiffe://{api.scenario.trust_domain}"
            assert uri == own, f"{signer.subject.rfc4514_string()} is for {uri}, not {own}"


@requirement("IDENTITY-26")
def test_signing_certificate_is_ca(signers: list[x509.Certificate]) -> None:
    """A signing certificate sets cA to true."""
    for signer in signers:
        assert _constraints(signer).ca, f"{signer.subject.rfc4514_string()} is no CA: cA is not set"


@requirement("IDENTITY-27")
def test_svid_is_no_ca(leaves: list[tuple[str, x509.Certificate]]) -> None:
    """An SVID sets cA to false or omits it."""
    for name, leaf in leaves:
        constraints = list(_find(leaf, x509.BasicConstraints))
        assert not any(extension.value.ca for extension in constraints), (
            f"{name}: the SVID is a CA: cA is set"
        )


@requirement("IDENTITY-28")
def test_key_usage_is_set(everything_seen: list[tuple[str, Chain]]) -> None:
    """Every certificate of every chain has a keyUsage."""
    for name, chain in everything_seen:
        for certificate in chain:
            assert list(_find(certificate, x509.KeyUsage)), (
                f"{name}: a certificate of the chain has no keyUsage"
            )


@requirement("IDENTITY-29")
def test_key_usage_is_critical(everything_seen: list[tuple[str, Chain]]) -> None:
    """Every keyUsage is critical."""
    for name, chain in everything_seen:
        for certificate in chain:
            usage = _the(certificate, x509.KeyUsage)
            assert usage.critical, f"{name}: keyUsage is not critical"


@requirement("IDENTITY-30")
def test_signing_certificate_may_sign(signers: list[x509.Certificate]) -> None:
    """A signing certificate's keyUsage has keyCertSign."""
    for signer in signers:
        assert _usage(signer).key_cert_sign, (
            f"{signer.subject.rfc4514_string()} does not set keyCertSign"
        )


@requirement("IDENTITY-31")
def test_svid_has_digital_signature(leaves: list[tuple[str, x509.Certificate]]) -> None:
    """An SVID's keyUsage has digitalSignature."""
    for name, leaf in leaves:
        assert _usage(leaf).digital_signature, f"{name}: the SVID does not set digitalSignature"


@requirement("IDENTITY-32")
def test_svid_has_no_key_cert_sign(leaves: list[tuple[str, x509.Certificate]]) -> None:
    """An SVID's keyUsage does not have keyCertSign."""
    for name, leaf in leaves:
        assert not _usage(leaf).key_cert_sign, f"{name}: the SVID sets keyCertSign"


@requirement("IDENTITY-33")
def test_svid_has_no_crl_sign(leaves: list[tuple[str, x509.Certificate]]) -> None:
    """An SVID's keyUsage does not have cRLSign."""
    for name, leaf in leaves:
        assert not _usage(leaf).crl_sign, f"{name}: the SVID sets cRLSign"


@requirement("IDENTITY-34")
def test_extended_key_usage_serves_both_sides(
    leaves: list[tuple[str, x509.Certificate]],
) -> None:
    """An SVID's extended key usage, if present, lists server and client authentication."""
    both = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    for name, leaf in leaves:
        for extension in _find(leaf, x509.ExtendedKeyUsage):
            missing = [oid._name for oid in both - set(extension.value)]
            assert not missing, f"{name}: extended key usage lacks {missing}"


@requirement("IDENTITY-104")
def test_extended_key_usage_is_present(leaves: list[tuple[str, x509.Certificate]]) -> None:
    """An SVID has an extended key usage."""
    for name, leaf in leaves:
        assert list(_find(leaf, x509.ExtendedKeyUsage)), (
            f"{name}: the SVID has no extended key usage"
        )


@requirement("IDENTITY-101")
@pytest.mark.usefixtures("everything_seen")
@pytest.mark.parametrize("name", API_SERVERS)
def test_certificate_is_served(api: Testbed, name: str) -> None:
    """Each listener serves a certificate, so the other checks also examine what is on the wire."""

    def served() -> None:
        assert api.watch.timeline.sightings(Source.WIRE, name), (
            f"{name} serves no certificate; last warning of its sidecar: {_last_warning(api, name)}"
        )

    eventually(served, budgets.SECRETS_READY, alive=api.assert_alive)


@requirement("IDENTITY-101")
def test_chain_leads_to_the_bundle(api: Testbed, everything_seen: list[tuple[str, Chain]]) -> None:
    """Each chain verifies up to a CA of the bundle, and no issuer expires before the SVID."""
    bundle = api.spire.bundle()
    for name, chain in everything_seen:
        roots = [root for root in bundle if root.subject == chain[-1].issuer]
        assert roots, f"{name}: {chain[-1].issuer.rfc4514_string()} is not in the bundle"
        # A server that renews its CA may have two CAs of one name.
        root = signer_in(roots, chain[-1]) or roots[0]
        for certificate, issuer in zip(chain, [*chain[1:], root], strict=True):
            signer = issuer.subject.rfc4514_string()
            assert is_signed_by(certificate, issuer), (
                f"{name}: {signer} did not sign the certificate below it"
            )
            assert chain[0].not_valid_after_utc <= issuer.not_valid_after_utc, (
                f"{name}: the SVID expires later than its issuer {signer}"
            )


@requirement("IDENTITY-102")
def test_serial_numbers_are_unique(everything_seen: list[tuple[str, Chain]]) -> None:
    """No two certificates have the same serial number, and serial numbers are random."""
    certificates = {c for _, chain in everything_seen for c in chain}
    serials = sorted(c.serial_number for c in certificates)
    svids = sorted({c.serial_number for _, (c, *_) in everything_seen})

    assert len(set(serials)) == len(serials), "a serial number was used twice"
    shortest = min(serial.bit_length() for serial in svids)
    assert shortest >= RANDOM_BITS, f"a serial number has only {shortest} bits"
    closest = min(b - a for a, b in itertools.pairwise(svids))
    assert closest.bit_length() >= RANDOM_BITS / 2, f"two serial numbers differ by {closest}"


@requirement("IDENTITY-102")
def test_keys_are_unique(everything_seen: list[tuple[str, Chain]]) -> None:
    """No two SVIDs have the same key, within a workload or across workloads."""
    svids = {chain[0]: name for name, chain in everything_seen}
    owners: dict[str, x509.Certificate] = {}

    for svid, name in svids.items():
        first = owners.setdefault(key_hash(svid), svid)
        assert first == svid, f"{name} and {svids[first]} have SVIDs with the same key"


@requirement("IDENTITY-103")
def test_keys_and_signatures_are_strong(
    api: Testbed, everything_seen: list[tuple[str, Chain]]
) -> None:
    """Each SVID has an EC P-256 key, and every signature uses SHA-256 or stronger.

    A SPIRE that the suite did not deploy may configure its agents to use RSA keys.
    """
    kinds = {"secp256r1"} if Capability.OWN_SPIRE in api.capabilities else CONFIGURABLE
    for name, chain in everything_seen:
        key = chain[0].public_key()
        kind = key.curve.name if isinstance(key, ec.EllipticCurvePublicKey) else type(key).__name__
        strong = not isinstance(key, rsa.RSAPublicKey) or key.key_size >= RSA_BITS
        assert kind in kinds, f"{name}: the key is {kind}, not {' or '.join(sorted(kinds))}"
        assert strong, f"{name}: the RSA key has less than {RSA_BITS} bits"
        for certificate in chain:
            digest = certificate.signature_hash_algorithm
            assert digest is not None, f"{name}: signed without a digest"
            assert digest.digest_size >= 32, f"{name}: signed with {digest.name}"


def _find(certificate: x509.Certificate, kind: type[E]) -> Iterator[x509.Extension[E]]:
    with contextlib.suppress(x509.ExtensionNotFound):
        yield extensions_of(certificate).get_extension_for_class(kind)


def _usage(certificate: x509.Certificate) -> x509.KeyUsage:
    return _the(certificate, x509.KeyUsage).value


def _constraints(certificate: x509.Certificate) -> x509.BasicConstraints:
    return _the(certificate, x509.BasicConstraints).value


def _the(certificate: x509.Certificate, kind: type[E]) -> x509.Extension[E]:
    found = next(_find(certificate, kind), None)
    name = (spiffe_ids(certificate) or [certificate.subject.rfc4514_string()])[0]
    assert found is not None, f"{name}: no {kind.oid._name}"
    return found


def _last_warning(api: Testbed, name: str) -> str:
    component = api.workload(name).envoy.component
    lines = [r.message for r in api.watch.timeline.logs(component) if r.level == "warning"]
    return lines[-1][:200] if lines else "none"


def _of_server(api: Testbed) -> list[tuple[str, Chain]]:
    """The server's own SVID, which agents verify; none if the suite does not run the server."""
    if Capability.OWN_SPIRE not in api.capabilities:
        return []
    chain = api.spire.presented_chain()
    assert chain, "the server presented no certificate to a client"
    return [(SERVER_ID, chain)]
