"""SPIRE server signs as its configuration says where nothing else decides."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from svidproof import BACKDATING, Capability, Saw, Testbed, budgets, eventually, needs, requirement
from svidproof.probes import Credential, jwt
from svidproof.probes import server_api as api

pytestmark = needs(Capability.OWN_SPIRE)
# How the keys that the scenario asks for show in a certificate and in a token.
CURVES = {"ec-p384": "secp384r1"}
ALGORITHMS = {"rsa-2048": "RS256"}
# X.509 knows whole seconds, and so do tokens.
SLACK_S = 2


@dataclass(frozen=True)
class Signed:
    """What the server has signed for an entry without TTLs."""

    svid: Credential
    token: jwt.Token


@pytest.fixture(scope="module")
def signed(
    server_api: Testbed, agent: api.PlayedAgent, entry: Callable[..., dict[str, Any]]
) -> Iterator[Signed]:
    """An X.509-SVID and a JWT-SVID of an entry that has no TTL."""
    made = entry("without-ttls", x509_svid_ttl=0, jwt_svid_ttl=0)
    with server_api.registration.registered(made) as entry_id:
        eventually(lambda: agent.require_listed(entry_id), budgets.ENTRY_LISTED)
        token = jwt.Token.read(agent.token(entry_id, "audience"))
        yield Signed(agent.sign(entry_id), token)


@requirement("SERVER-17")
def test_ca_has_its_key_type_and_subject(server_api: Testbed, signed: Signed, saw: Saw) -> None:
    """The CA of an X.509-SVID has the configured key type and organization."""
    signing, authority = server_api.scenario.signing, _issuer(signed.svid)
    saw(authority.subject.rfc4514_string())

    key = authority.public_key()
    curve = key.curve.name if isinstance(key, ec.EllipticCurvePublicKey) else type(key).__name__
    assert curve == CURVES[signing.ca_key_type], f"the CA has a key of type {curve}"
    found = authority.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    organizations = [attribute.value for attribute in found]
    assert organizations == [signing.ca_organization], f"the CA is of {organizations}"


@requirement("SERVER-17")
def test_jwt_key_has_its_type(server_api: Testbed, signed: Signed) -> None:
    """A JWT-SVID is signed with the algorithm of the configured key type."""
    algorithm = signed.token.header.get("alg")

    wanted = ALGORITHMS[server_api.scenario.signing.jwt_key_type]
    assert algorithm == wanted, f"the JWT-SVID is signed with {algorithm}, not {wanted}"


@requirement("SERVER-17")
def test_default_lifetimes_apply(server_api: Testbed, signed: Signed) -> None:
    """SVIDs of an entry without TTLs live as long as the configured defaults."""
    signing, leaf, claims = server_api.scenario.signing, signed.svid.leaf, signed.token.claims
    lifetime = (leaf.not_valid_after_utc - leaf.not_valid_before_utc).total_seconds() - BACKDATING
    validity = claims["exp"] - claims["iat"]

    assert abs(lifetime - signing.x509_svid_ttl) <= SLACK_S, (
        f"the X.509-SVID lives for {lifetime:.0f} s, not {signing.x509_svid_ttl} s"
    )
    assert abs(validity - signing.jwt_svid_ttl) <= SLACK_S, (
        f"the JWT-SVID lives for {validity} s, not {signing.jwt_svid_ttl} s"
    )


def _issuer(svid: Credential) -> x509.Certificate:
    assert len(svid.chain) > 1, "the X.509-SVID comes without the certificate of its CA"
    return svid.chain[1]
