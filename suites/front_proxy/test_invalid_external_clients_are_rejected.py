"""The proxy rejects invalid clients, and the backend receives nothing from them."""

import pytest

from svidproof import Capability, Saw, Testbed, needs, requirement
from svidproof.checks import (
    assert_counted,
    assert_not_answered,
    assert_refused,
    assert_unseen,
    refusals,
)
from svidproof.probes import Version

pytestmark = [
    needs(Capability.OUTSIDE),
    pytest.mark.usefixtures("genuine_client_is_accepted"),
]


@requirement("PROXY-2")
@pytest.mark.parametrize("version", refusals.VERSIONS)
def test_client_without_certificate_is_rejected(
    front_proxy: Testbed, version: Version, saw: Saw
) -> None:
    """A client without a certificate gets a TLS alert, and no request is forwarded."""
    proxy = front_proxy.workload("proxy")
    before = proxy.tally()

    exchange = front_proxy.external_client.get(
        "proxy", credential=None, versions=(version, version)
    )

    assert_refused(
        exchange, {refusals.MISSING[version]}, at=proxy, since=before, counter=refusals.NO_CERT
    )
    saw(f"{exchange}; {refusals.NO_CERT} +1; the backend saw no request")


@requirement("PROXY-2")
def test_client_without_tls_is_rejected(front_proxy: Testbed, saw: Saw) -> None:
    """A client that sends plain HTTP gets no answer, and no request is forwarded."""
    proxy = front_proxy.workload("proxy")
    before = proxy.tally()

    exchange = front_proxy.external_client.get_plain("proxy")

    assert_not_answered(exchange)
    assert_counted(proxy, before, {f"listener.inbound.ssl.{refusals.CONNECTION}": 1})
    assert_unseen(proxy, before)
    saw(f"{exchange}; {refusals.CONNECTION} +1; the backend saw no request")


@requirement("PROXY-4")
@pytest.mark.parametrize("row", refusals.PARAMS)
@pytest.mark.parametrize("version", refusals.VERSIONS)
def test_flawed_external_client_is_rejected(
    front_proxy: Testbed, version: Version, row: refusals.Row, saw: Saw
) -> None:
    """A client with a flawed credential gets a fatal alert, and no request is forwarded."""
    proxy, (alert, counter) = front_proxy.workload("proxy"), row.spiffe
    before = proxy.tally()

    exchange = front_proxy.external_client.get(
        "proxy", credential=front_proxy.forged_client(row.flaw), versions=(version, version)
    )

    assert_refused(exchange, {alert}, at=proxy, since=before, counter=counter)
    saw(f"{exchange}; {counter} +1; the backend saw no request")
