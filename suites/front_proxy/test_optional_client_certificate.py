"""A listener that requests a client certificate and does not require one."""

import pytest

from svidproof import Capability, Saw, Testbed, needs, requirement
from svidproof.checks import (
    assert_echoed,
    assert_forbidden,
    assert_handshake,
    assert_refused,
    refusals,
)
from svidproof.probes import Flaw, Version

pytestmark = [
    requirement("PROXY-10"),
    needs(Capability.OUTSIDE),
    pytest.mark.usefixtures("genuine_client_is_accepted"),
]
LISTENER = "tls-only"
UNTRUSTED = [Flaw.SELF_SIGNED, Flaw.OTHER_CA, Flaw.OTHER_TRUST_DOMAIN]


@pytest.mark.parametrize("version", refusals.VERSIONS)
def test_client_without_certificate_is_accepted(front_proxy: Testbed, version: Version) -> None:
    """A client without a certificate completes the handshake and gets the backend's 403."""
    exchange = front_proxy.external_client.get(
        "proxy", port=_port(front_proxy), credential=None, versions=(version, version)
    )

    assert_handshake(exchange)
    assert_forbidden(exchange)


@pytest.mark.parametrize("version", refusals.VERSIONS)
def test_client_with_certificate_is_accepted(
    front_proxy: Testbed, version: Version, saw: Saw
) -> None:
    """A client with a valid certificate gets the same answer as on the strict listener."""
    credential = front_proxy.genuine_client()

    exchange = front_proxy.external_client.get(
        "proxy", port=_port(front_proxy), credential=credential, versions=(version, version)
    )

    assert_handshake(exchange)
    assert_echoed(exchange)
    saw(str(exchange))


@pytest.mark.parametrize("version", refusals.VERSIONS)
@pytest.mark.parametrize("flaw", UNTRUSTED, ids=lambda flaw: flaw.value)
def test_client_with_untrusted_certificate_is_rejected(
    front_proxy: Testbed, flaw: Flaw, version: Version, saw: Saw
) -> None:
    """A client with an untrusted certificate is rejected on this listener too."""
    proxy = front_proxy.workload("proxy")
    before = proxy.tally()

    exchange = front_proxy.external_client.get(
        "proxy",
        port=_port(front_proxy),
        credential=front_proxy.forged_client(flaw),
        versions=(version, version),
    )

    assert_refused(
        exchange,
        {refusals.UNKNOWN},
        at=proxy,
        since=before,
        counter=refusals.ERROR,
        listener=LISTENER,
    )
    saw(f"{exchange}; {refusals.ERROR} +1; the backend saw no request")


def _port(front_proxy: Testbed) -> int:
    listeners = front_proxy.workload("proxy").spec.listeners
    return next(listener.port for listener in listeners if listener.name == LISTENER)
