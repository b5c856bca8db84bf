"""SPIRE server attests an agent only with proof, and identifies attested agents."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from svidproof import (
    Capability,
    Measure,
    NotYet,
    PlatformError,
    Saw,
    Testbed,
    budgets,
    eventually,
    needs,
    requirement,
)
from svidproof.checks import Accepted
from svidproof.probes import Authority, Credential, Template, Version, resumes
from svidproof.probes import server_api as api

pytestmark = needs(Capability.OWN_SPIRE)
Attest = Callable[..., api.PlayedAgent]
UNKNOWN = "00000000-0000-4000-8000-000000000000"
ATTEMPTS = 4
PARTNER = "partner.example"


@pytest.fixture(scope="module")
def partner(server_api: Testbed) -> Iterator[Authority]:
    """A CA of a trust domain whose bundle the server has.

    There is one for all checks: the server remembers a bundle for a second.
    """
    authority = Authority.create("root of a partner", PARTNER)
    server_api.spire.set_federated_bundle(PARTNER, [authority.certificate])
    yield authority
    server_api.spire.delete_federated_bundle(PARTNER)


@requirement("SERVER-7")
def test_attested_agent_is_accepted(attest: Attest, saw: Saw) -> None:
    """An attested agent can list its entries, and gets its next SVID."""
    agent = attest()
    agent.entries()
    agent.renewed().entries()
    saw(agent.spiffe_id)


@requirement("SERVER-7")
@pytest.mark.parametrize("how", ["evict_agent", "ban_agent"])
def test_removed_agent_is_refused(server_api: Testbed, attest: Attest, how: str) -> None:
    """The SVID of an evicted or banned agent is refused, though it has not expired."""
    agent = attest()
    agent.entries()
    getattr(server_api.spire, how)(agent.spiffe_id)
    _require_refusal(agent, f"after {how}, its SVID was accepted")


@requirement("SERVER-7")
def test_replaced_svid_is_refused(attest: Attest) -> None:
    """Once an agent has used its renewed SVID, the previous one is refused."""
    before = attest()
    after = before.renewed()
    after.entries()
    _require_refusal(before, "the SVID that the agent had replaced was accepted")


@requirement("SERVER-7")
@needs(Capability.OWN_TRUST_ROOT)
def test_agent_that_never_attested_is_refused(server_api: Testbed, attest: Attest) -> None:
    """A certificate with an agent's SPIFFE ID is refused if no agent has attested for it."""
    known = attest().spiffe_id
    unknown = f"{known.rpartition('/')[0]}/never-attested"
    for spiffe_id, what in ((unknown, "an agent that never attested"), (known, "another serial")):
        forged = server_api.root.issue("agent", Template(uris=(spiffe_id,)))
        agent = api.PlayedAgent(server_api.spire.api, forged, api.new_key())
        _require_refusal(agent, f"a certificate of {what} was accepted")


@requirement("SERVER-7")
@needs(Capability.OWN_TRUST_ROOT)
@pytest.mark.parametrize("flaw", ["expired", "other-root"])
def test_invalid_certificate_is_refused(server_api: Testbed, attest: Attest, flaw: str) -> None:
    """A certificate that has expired, or that another root signed, is rejected in the handshake."""
    known, trust_domain = attest().spiffe_id, server_api.scenario.trust_domain
    other = Authority.create("other root", trust_domain)
    lives = timedelta(seconds=-1) if flaw == "expired" else timedelta(hours=1)
    template = Template(uris=(known,), not_before=timedelta(hours=-1), not_after=lives)
    signer = other if flaw == "other-root" else server_api.root
    _require_rejected(server_api, signer.issue("agent", template), f"a certificate that is {flaw}")


@requirement("SERVER-7")
@pytest.mark.parametrize("path", ["", "/spire/agent/known", "/admin"])
def test_partner_is_refused(
    server_api: Testbed, attest: Attest, partner: Authority, path: str
) -> None:
    """A certificate that a federated trust domain signed is rejected in the handshake.

    Without a path, it has the SPIFFE ID of an agent of the server's own trust domain.
    """
    uri = f"spiffe://{PARTNER}{path}" if path else attest().spiffe_id
    credential = partner.issue("partner", Template(uris=(uri,)))
    _require_rejected(server_api, credential, f"a partner's certificate for {uri}")


@requirement("SERVER-7")
@pytest.mark.parametrize("version", [Version.TLS1_2, Version.TLS1_3], ids=["tls-1.2", "tls-1.3"])
def test_no_session_is_resumed(server_api: Testbed, attest: Attest, version: Version) -> None:
    """The server resumes no TLS session, so it verifies the client on each connection."""
    credential = attest().credential
    try:
        resumed = resumes(server_api.spire.api, credential, version)
    except OSError as error:
        raise AssertionError(f"the server does not accept its agent: {error}") from error
    if resumed:
        raise Accepted(f"a session of {version.protocol} was resumed without a new verification")


@requirement("SERVER-10")
def test_join_token_attests_once(server_api: Testbed) -> None:
    """A join token attests the first agent that presents it, and no other."""
    token = server_api.spire.create_join_token()
    api.PlayedAgent.attested(server_api.spire.api, token)

    _require_no_svid(_by_token(server_api, token), "a used join token")


@requirement("SERVER-10")
def test_unknown_join_token_is_refused(server_api: Testbed) -> None:
    """A join token that the server did not create attests no agent."""
    for token in (UNKNOWN, ""):
        _require_no_svid(_by_token(server_api, token), f"the unknown join token {token!r}")


@requirement("SERVER-10")
def test_expired_join_token_is_refused(server_api: Testbed) -> None:
    """A join token with a TTL of one second is refused afterwards."""
    with api.calling_locally(server_api.spire.local_api) as local:
        made = local.call("agent", "CreateJoinToken", ttl=1)
    assert made.message is not None, f"CreateJoinToken: {made}"
    end = datetime.fromtimestamp(made.message.expires_at, UTC) + timedelta(seconds=1)
    eventually(lambda: _require_past(end), budgets.TOKEN_EXPIRED)

    _require_no_svid(_by_token(server_api, made.message.value), "an expired join token")


@requirement("SERVER-11")
@needs(Capability.X509POP)
def test_certificate_of_a_node_attests(server_api: Testbed, saw: Saw) -> None:
    """A node that presents its x509pop certificate and proves possession of the key is attested."""
    node = _node(server_api)
    answer = _by_certificate(server_api, node, _key_of(node))
    if answer.message is None or not answer.message.result.svid.cert_chain:
        raise api.Refused(f"x509pop: {answer}")
    saw(f"{len(answer.message.result.svid.cert_chain)} certificates")


@requirement("SERVER-11")
@needs(Capability.X509POP)
@pytest.mark.parametrize("what", ["wrong-key", "no-response", "other-ca", "expired", "not-yet"])
def test_certificate_without_proof_is_refused(server_api: Testbed, what: str) -> None:
    """An x509pop certificate that is invalid, or whose key the node does not have, is refused."""
    now, hour = timedelta(), timedelta(hours=1)
    template = {
        "expired": Template(uris=(), not_before=-hour, not_after=timedelta(seconds=-1)),
        "not-yet": Template(uris=(), not_before=hour, not_after=2 * hour),
    }.get(what, Template(uris=(), not_before=now - hour))
    # Another CA that the server knows, but not as the CA of nodes.
    ca = server_api.root if what == "other-ca" else _nodes(server_api)
    node = ca.issue("node", template)
    key = {"wrong-key": api.new_key(), "no-response": None}.get(what, _key_of(node))
    _require_no_svid(_by_certificate(server_api, node, key), f"x509pop with flaw {what}")


@requirement("SERVER-19")
def test_attestations_are_limited(server_api: Testbed, measure: Measure) -> None:
    """Attempts to attest from one address take at least a second each."""
    begin = time.monotonic()
    answers = [_by_token(server_api, UNKNOWN) for _ in range(ATTEMPTS)]
    took = time.monotonic() - begin
    for answer in answers:
        assert answer.code is not grpc.StatusCode.UNAVAILABLE, f"the server answers none: {answer}"

    measure(f"{ATTEMPTS} attempts to attest", took, "s")
    # The first of them does not wait.
    assert took >= ATTEMPTS - 2, f"{ATTEMPTS} attempts to attest took {took:.1f} s"


def _require_rejected(server_api: Testbed, credential: Credential, what: str) -> None:
    """Require that the server rejects a client's certificate in the TLS handshake."""
    with api.calling(server_api.spire.api, credential) as caller:
        answers = [caller.call("entry", "GetAuthorizedEntries"), caller.call("bundle", "GetBundle")]

    for found in answers:
        # A handshake that fails leaves the client without a connection: no method answers.
        assert found.code is not grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer came: {found}"
        if found.code is not grpc.StatusCode.UNAVAILABLE:
            raise Accepted(f"{what} was accepted in TLS: {found}")
    # A control: without the certificate, the same server answers.
    with api.calling(server_api.spire.api) as caller:
        control = caller.call("bundle", "GetBundle")
    assert control.code is grpc.StatusCode.OK, f"without a certificate: {control}"


def _require_refusal(agent: api.PlayedAgent, message: str) -> None:
    with agent.calling() as caller:
        answer = caller.call("entry", "GetAuthorizedEntries")
    if answer.code is grpc.StatusCode.OK:
        raise Accepted(message)
    assert answer.refused, f"expected a refusal, got {answer}"


def _require_no_svid(answer: api.ApiAnswer, what: str) -> None:
    if answer.message is not None and answer.message.result.svid.cert_chain:
        raise Accepted(f"{what} was attested")
    assert not answer.silent, f"SPIRE server did not answer: {answer}"
    assert answer.code is not grpc.StatusCode.OK, f"{what} was not refused"


def _by_token(testbed: Testbed, token: str) -> api.ApiAnswer:
    with api.calling(testbed.spire.api) as caller:
        return caller.attest("join_token", token.encode(), api.signing_request(api.new_key()))


def _by_certificate(
    testbed: Testbed, node: Credential, key: ec.EllipticCurvePrivateKey | None
) -> api.ApiAnswer:
    with api.calling(testbed.spire.api) as caller:
        request = api.signing_request(api.new_key())
        return caller.attest("x509pop", api.x509pop_payload(node), request, key=key)


def _nodes(testbed: Testbed) -> Authority:
    found = testbed.home.attestation.nodes
    if found is None:
        raise PlatformError("the platform does not attest by x509pop")
    return found


def _node(testbed: Testbed) -> Credential:
    return _nodes(testbed).issue("node", Template(uris=()))


def _key_of(node: Credential) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(node.key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey), "the node's key is not an elliptic curve's"
    return key


def _require_past(end: datetime) -> None:
    if datetime.now(UTC) < end:
        raise NotYet(f"it is not yet {end:%H:%M:%S}")
