"""The backend accepts only the proxy, and authorizes the client that the proxy forwards."""

import uuid

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from svidproof import Capability, Saw, Testbed, needs, requirement
from svidproof.checks import (
    assert_counted,
    assert_decided,
    assert_echoed,
    assert_forbidden,
    assert_not_answered,
    assert_refused,
    assert_unseen,
    refusals,
)
from svidproof.probes import CLIENT_CERTIFICATE

pytestmark = needs(Capability.OUTSIDE)
ALLOWED, DENIED = "allowed", "denied"
CLIENTS = ["generator", "outside/client"]
FORGED = "By={proxy};Hash=00;URI={client}"


@requirement("PROXY-6")
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("name", CLIENTS)
def test_allowed_client_is_served(front_proxy: Testbed, name: str, saw: Saw) -> None:
    """An allowed client gets HTTP 200 and is counted once as allowed."""
    backend, tag = front_proxy.workload("backend"), uuid.uuid4().hex
    credential = front_proxy.own_credential(name)
    before, decided = backend.tally(), backend.decisions()

    exchange = front_proxy.external_client.get(
        "proxy", credential=credential, headers=(("x-svidproof-tag", tag),)
    )

    assert_echoed(exchange)
    assert [r.tag for r in backend.app.seen(before.requests)] == [tag], (
        "the app saw another request"
    )
    assert_decided(backend, decided, {ALLOWED: 1})
    saw(f"{exchange.status}; allowed +1")


@requirement("PROXY-6")
@pytest.mark.usefixtures("genuine_client_is_accepted")
@pytest.mark.parametrize("forged", [False, True], ids=["without-headers", "with-forged-header"])
def test_other_client_is_denied(front_proxy: Testbed, saw: Saw, *, forged: bool) -> None:
    """A client that only the proxy accepts gets 403 from the backend, whatever it sends."""
    proxy, backend = front_proxy.workload("proxy"), front_proxy.workload("backend")
    credential = front_proxy.own_credential("outside/visitor")
    client = front_proxy.scenario.spiffe_id("outside/client")
    value = FORGED.format(proxy=proxy.spiffe_id, client=client)
    before, at_proxy, decided = backend.tally(), proxy.tally(), backend.decisions()

    exchange = front_proxy.external_client.get(
        "proxy",
        credential=credential,
        headers=((CLIENT_CERTIFICATE, value),) if forged else (),
    )

    assert_forbidden(exchange)
    handshakes = {"listener.inbound.ssl.handshake": 1, "cluster.backend.ssl.handshake": 1}
    assert_counted(proxy, at_proxy, handshakes)
    assert_decided(backend, decided, {DENIED: 1})
    assert_unseen(backend, before)
    saw(f"{exchange}; denied +1; the app saw no request")


@requirement("PROXY-7")
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("name", CLIENTS)
def test_client_and_proxy_are_distinguished(front_proxy: Testbed, name: str, saw: Saw) -> None:
    """The first XFCC element names the client, as the proxy saw it; the second the proxy."""
    proxy, backend = front_proxy.workload("proxy"), front_proxy.workload("backend")
    credential = front_proxy.own_credential(name)
    # The proxy's certificate may be renewed during the request.
    proxy_hashes = {_hash(proxy.svid().leaf)}

    exchange = front_proxy.external_client.get("proxy", credential=credential)

    proxy_hashes.add(_hash(proxy.svid().leaf))
    clients = assert_echoed(exchange).clients
    assert len(clients) == 2, f"the backend got {len(clients)} elements: {clients}"
    first, second = clients
    spiffe_id = front_proxy.scenario.spiffe_id(name)
    assert (first.by, first.uris) == (proxy.spiffe_id, (spiffe_id,)), f"first: {first}"
    assert first.hash == _hash(credential.leaf), "the first hash is not the client's"
    assert (second.by, second.uris) == (backend.spiffe_id, (proxy.spiffe_id,)), f"second: {second}"
    assert second.hash in proxy_hashes, "the second hash is not the proxy's"
    saw(f"{spiffe_id} through {proxy.spiffe_id}, each with its certificate's hash")


@requirement("PROXY-7")
@pytest.mark.usefixtures("genuine_client_is_accepted")
def test_proxy_itself_is_denied(front_proxy: Testbed, saw: Saw) -> None:
    """The proxy's own request, without a client, gets 403 and does not reach the app."""
    backend = front_proxy.workload("backend")
    before, decided = backend.tally(), backend.decisions()

    exchange = front_proxy.workload("proxy").envoy.request("backend")

    assert_forbidden(exchange)
    assert_decided(backend, decided, {DENIED: 1})
    assert_unseen(backend, before)
    saw(f"{exchange}; denied +1; the app saw no request")


@requirement("PROXY-7")
@pytest.mark.usefixtures("proxy_reaches_the_backend")
@pytest.mark.parametrize("name", CLIENTS)
def test_client_cannot_bypass_the_proxy(front_proxy: Testbed, name: str, saw: Saw) -> None:
    """A client that connects to the backend directly is rejected in the handshake."""
    backend, credential = front_proxy.workload("backend"), front_proxy.own_credential(name)
    before = backend.tally()

    exchange = front_proxy.prober.get(backend, credential=credential)

    assert_refused(exchange, {refusals.UNKNOWN}, at=backend, since=before, counter=refusals.SAN)
    saw(f"{exchange}; {refusals.SAN} +1; the app saw no request")


@requirement("PROXY-7")
@pytest.mark.usefixtures("proxy_reaches_the_backend")
def test_backend_answers_no_plaintext(front_proxy: Testbed, saw: Saw) -> None:
    """The backend does not answer plain HTTP, so the proxy must use TLS."""
    backend = front_proxy.workload("backend")
    before = backend.tally()

    exchange = front_proxy.prober.get_plain(backend)

    assert_not_answered(exchange)
    assert_counted(backend, before, {f"listener.inbound.ssl.{refusals.CONNECTION}": 1})
    assert_unseen(backend, before)
    saw(f"{exchange}; {refusals.CONNECTION} +1; the app saw no request")


def _hash(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()
