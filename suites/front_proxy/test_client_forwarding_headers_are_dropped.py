"""The proxy drops or overwrites forwarding headers that a client sends."""

import uuid

import pytest
from cryptography.hazmat.primitives import hashes

from svidproof import Capability, Saw, Testbed, needs, requirement
from svidproof.checks import assert_counted, assert_echoed, assert_unseen
from svidproof.probes import CLIENT_CERTIFICATE, Credential, Element

pytestmark = [requirement("PROXY-5"), needs(Capability.OUTSIDE), pytest.mark.usefixtures("quiet")]
Headers = tuple[tuple[str, str], ...]
HASH = "0" * 64
# A documentation address (RFC 5737), and a UUID without a meaning.
MARK, FORGED_ID = "203.0.113.7", "12345678-1234-4234-8234-123456789abc"
FORGERIES = {
    # What the proxy itself writes about a client that the backend accepts.
    "imitation": ((CLIENT_CERTIFICATE, "By={proxy};Hash={hash};URI={client}"),),
    "mixed-case": (("X-Forwarded-CLIENT-Cert", "By={proxy};Hash={hash};URI={client}"),),
    "two-headers": (
        (CLIENT_CERTIFICATE, "By={proxy};Hash={hash};URI={client}"),
        (CLIENT_CERTIFICATE, "By={backend};Hash={hash};URI={proxy}"),
    ),
    # What the backend's own sidecar derives from it.
    "two-elements": (
        (
            CLIENT_CERTIFICATE,
            "By={proxy};Hash={hash};URI={client},By={backend};Hash={hash};URI={proxy}",
        ),
    ),
    # The text that the proxy appends would become a part of a quoted field.
    "open-quote": ((CLIENT_CERTIFICATE, 'By={proxy};Hash={hash};URI={client};Subject="'),),
}
OTHERS = [
    pytest.param("X-Forwarded-For", MARK, id="for"),
    pytest.param("X-Forwarded-Proto", "http", id="proto"),
    pytest.param("X-Forwarded-Host", MARK, id="host"),
    pytest.param("X-Forwarded-Port", "20311", id="port"),
    pytest.param("Forwarded", f"for={MARK}", id="forwarded"),
    pytest.param("X-Real-IP", MARK, id="real-ip"),
    pytest.param("X-Request-Id", FORGED_ID, id="request-id"),
    pytest.param("X-Envoy-External-Address", MARK, id="external-address"),
    pytest.param("X-Envoy-Internal", "true", id="internal"),
    pytest.param("X-Envoy-Original-Path", "/forged", id="original-path"),
    pytest.param("X-Envoy-Original-Dst-Host", f"{MARK}:80", id="original-host"),
    pytest.param("X-Envoy-Peer-Metadata", "forged", id="peer-metadata"),
    pytest.param("X-Envoy-Attempt-Count", "20311", id="attempt-count"),
    pytest.param("X-Envoy-Upstream-Rq-Timeout-Ms", "20311", id="timeout"),
]


@pytest.mark.parametrize("form", FORGERIES)
def test_forged_client_certificate_is_overwritten(
    front_proxy: Testbed, form: str, saw: Saw
) -> None:
    """The proxy replaces a forged X-Forwarded-Client-Cert, whatever its form."""
    credential = front_proxy.generators["generator"].credential()
    headers = _forged(front_proxy, FORGERIES[form])

    exchange = front_proxy.external_client.get("proxy", credential=credential, headers=headers)

    assert exchange.status == 200, f"the forged header was not overwritten: {exchange}"
    echo = assert_echoed(exchange)
    values = echo.values(CLIENT_CERTIFICATE)
    assert len(values) == 1, f"the backend got {len(values)} such headers: {values}"
    assert HASH not in values[0], f"the backend got the forged header: {values[0]}"
    assert [(e.by, e.uris) for e in echo.clients] == _expected(front_proxy), (
        f"the backend got {values[0]}"
    )
    assert echo.clients[0].hash == _hash(credential), "the first hash is not the client's"
    saw(f"{form}: the backend got {_described(echo.clients)}")


@pytest.mark.usefixtures("genuine_client_is_accepted")
@pytest.mark.parametrize("name", ["x_forwarded_client_cert", "X_Forwarded_For"])
def test_name_with_underscores_is_rejected(front_proxy: Testbed, name: str, saw: Saw) -> None:
    """A header name with `_` in place of `-`, which an app may confuse, gets HTTP 400."""
    proxy, credential = front_proxy.workload("proxy"), front_proxy.genuine_client()
    before = proxy.tally()

    exchange = front_proxy.external_client.get(
        "proxy", credential=credential, headers=((name, MARK),)
    )

    assert exchange.status == 400, f"expected HTTP 400, got {exchange}"
    assert_counted(proxy, before, {"listener.inbound.ssl.handshake": 1})
    assert_unseen(proxy, before)
    saw(f"{exchange}; the backend saw no request")


@pytest.mark.parametrize(("name", "value"), OTHERS)
def test_forged_header_does_not_reach_the_backend(
    front_proxy: Testbed, name: str, value: str, saw: Saw
) -> None:
    """A forwarding header of a client does not reach the backend unchanged."""
    credential, tag = front_proxy.genuine_client(), uuid.uuid4().hex

    exchange = front_proxy.external_client.get(
        "proxy", credential=credential, headers=(("x-svidproof-tag", tag), (name, value))
    )

    echo = assert_echoed(exchange)
    assert echo.values("x-svidproof-tag") == [tag], "the backend got another request"
    # Also as one of several values: a client's address would stand before the added one.
    forged = [(n, v) for n, v in echo.headers if value in map(str.strip, v.split(","))]
    assert not forged, f"the backend got {forged}"
    assert echo.values("x-forwarded-proto") == ["https"], echo.values("x-forwarded-proto")
    # Envoy replaces one digit of a request ID that it keeps.
    kept = [i for i in echo.values("x-request-id") if i.startswith(FORGED_ID[:8])]
    assert not kept, f"the backend got the client's own x-request-id {kept}"
    saw(f"{name} became {echo.values(name.lower()) or 'nothing'}")


def _forged(front_proxy: Testbed, forgery: Headers) -> Headers:
    names = {
        "proxy": front_proxy.scenario.spiffe_id("proxy"),
        "backend": front_proxy.scenario.spiffe_id("backend"),
        "client": front_proxy.scenario.spiffe_id("outside/client"),
        "hash": HASH,
    }
    return tuple((name, value.format(**names)) for name, value in forgery)


def _expected(front_proxy: Testbed) -> list[tuple[str, tuple[str, ...]]]:
    client, proxy, backend = map(front_proxy.scenario.spiffe_id, ("generator", "proxy", "backend"))
    return [(proxy, (client,)), (backend, (proxy,))]


def _hash(credential: Credential) -> str:
    return credential.leaf.fingerprint(hashes.SHA256()).hex()


def _described(clients: list[Element]) -> str:
    return " and ".join(f"{', '.join(e.uris)}, set by {e.by}" for e in clients)
