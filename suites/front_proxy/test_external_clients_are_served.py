"""An external client presents SVID files that a workload of the mesh wrote."""

import uuid

import pytest
from cryptography import x509

from svidproof import (
    Capability,
    Measure,
    Saw,
    Testbed,
    needs,
    only,
    reading,
    requirement,
    spiffe_ids,
)
from svidproof.checks import assert_counted, assert_echoed, refusals
from svidproof.probes import Exchange, Version, extensions_of, leads_to

pytestmark = [requirement("PROXY-1"), needs(Capability.OUTSIDE)]
DNS_NAME = "proxy.example.org"
PATH = "/hello?to=all"


def test_files_hold_a_complete_identity(front_proxy: Testbed, saw: Saw) -> None:
    """The workload's files hold its SVID, the matching key and the trust bundle."""
    generator = front_proxy.generators["generator"]

    credential = generator.credential()

    own = front_proxy.scenario.spiffe_id("generator")
    assert spiffe_ids(credential.leaf) == [own], f"an SVID of {spiffe_ids(credential.leaf)}"
    bundle = generator.bundle()
    assert set(bundle) == front_proxy.trust_bundle, f"{len(bundle)} authorities in the bundle"
    assert not generator.flaws(), generator.flaws()[0]
    saw(f"{len(credential.chain)} certificates of {own}, key, {len(bundle)} authority")


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("version", refusals.VERSIONS)
def test_client_with_files_is_accepted(
    front_proxy: Testbed, version: Version, saw: Saw, measure: Measure
) -> None:
    """A client with these files gets HTTP 200, and its one request reaches the app."""
    proxy, tag = front_proxy.workload("proxy"), uuid.uuid4().hex
    before = proxy.tally()

    exchange = _get(front_proxy, tag, version)

    assert_echoed(exchange)
    seen = [(request.tag, request.path) for request in proxy.behind.seen(before.requests)]
    assert seen == [(tag, PATH)], f"the backend saw {seen}"
    handshakes = {"listener.inbound.ssl.handshake": 1, "cluster.backend.ssl.handshake": 1}
    assert_counted(proxy, before, handshakes)
    measure(f"handshake at the proxy, {version.name}", exchange.handshake_s or 0.0, "s")
    saw(f"{exchange.version}: {exchange}")


@pytest.mark.parametrize("version", refusals.VERSIONS)
def test_backend_gets_the_request_unchanged(
    front_proxy: Testbed, version: Version, saw: Saw
) -> None:
    """The backend gets the client's method and path, `https` as its scheme, and a request ID."""
    exchange = _get(front_proxy, uuid.uuid4().hex, version)

    echo = assert_echoed(exchange)
    assert (echo.method, echo.path) == ("GET", PATH), f"the backend got {echo}"
    assert echo.values("x-forwarded-proto") == ["https"], echo.values("x-forwarded-proto")
    request_id = only(echo.values("x-request-id") or [""], "X-Request-Id")
    assert _is_uuid(request_id), f"X-Request-Id is {request_id!r}"
    saw(f"{echo.method} {echo.path}, X-Request-Id {request_id}")


def test_proxy_serves_its_own_svid(front_proxy: Testbed, saw: Saw) -> None:
    """The proxy presents its own SPIFFE ID, its public DNS name and a complete chain."""
    proxy, generator = front_proxy.workload("proxy"), front_proxy.generators["generator"]

    exchange = front_proxy.external_client.get("proxy", credential=generator.credential())

    assert exchange.peer_chain, f"no certificate was served: {exchange}"
    leaf = exchange.peer_chain[0]
    assert spiffe_ids(leaf) == [proxy.spiffe_id], f"the proxy presents {spiffe_ids(leaf)}"
    names = _dns_names(leaf)
    assert names == [DNS_NAME], f"its DNS names are {names}"
    assert leads_to(exchange.peer_chain, generator.bundle()), "the chain is not the bundle's"
    saw(f"{proxy.spiffe_id}, {names[0]}, {len(exchange.peer_chain)} certificates")


def _get(front_proxy: Testbed, tag: str, version: Version) -> Exchange:
    """Send a request as an external client with the files of the generator."""
    return front_proxy.external_client.get(
        "proxy",
        PATH,
        credential=front_proxy.generators["generator"].credential(),
        versions=(version, version),
        headers=(("x-svidproof-tag", tag),),
    )


def _dns_names(certificate: x509.Certificate) -> list[str]:
    with reading("the names in a certificate"):
        extensions = extensions_of(certificate)
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return names.get_values_for_type(x509.DNSName)


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False
