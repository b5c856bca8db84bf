"""The server's sidecar rejects flawed clients, as seen by client, Envoy and app."""

import pytest

from svidproof import Saw, Testbed, requirement
from svidproof.checks import (
    API_SERVERS,
    assert_accepted,
    assert_not_answered,
    assert_refused,
    refusals,
)
from svidproof.probes import Flaw, Version

SERVERS = [
    pytest.param("api", id="spiffe", marks=requirement("HANDSHAKE-4")),
    pytest.param("api-trusted-ca", id="trusted-ca", marks=requirement("HANDSHAKE-8")),
]


@pytest.mark.usefixtures("genuine_client_is_accepted")
@pytest.mark.parametrize("row", refusals.params(unchained=requirement("DEPLOYMENT-2")))
@pytest.mark.parametrize("version", refusals.VERSIONS)
@pytest.mark.parametrize("server", SERVERS)
def test_flawed_client_is_refused(
    api: Testbed, server: str, version: Version, row: refusals.Row, saw: Saw
) -> None:
    """A client with a flawed credential gets a fatal alert and never reaches the workload."""
    workload = api.workload(server)
    alert, counter = row.expected(workload.spec.validator)
    before = workload.tally()

    exchange = api.prober.get(
        workload, credential=api.forged_client(row.flaw), versions=(version, version)
    )

    assert_refused(exchange, {alert}, at=workload, since=before, counter=counter)
    saw(f"{exchange}; {counter} +1; the app saw nothing")


@requirement("DEPLOYMENT-2")
@pytest.mark.usefixtures("genuine_client_is_accepted")
@pytest.mark.parametrize("version", refusals.VERSIONS)
@pytest.mark.parametrize("server", SERVERS)
def test_client_without_certificate_is_refused(
    api: Testbed, server: str, version: Version, saw: Saw
) -> None:
    """A client without a certificate gets an alert that says that a certificate is required."""
    workload = api.workload(server)
    before = workload.tally()

    exchange = api.prober.get(workload, credential=None, versions=(version, version))

    assert_refused(
        exchange, {refusals.MISSING[version]}, at=workload, since=before, counter=refusals.NO_CERT
    )
    saw(f"{exchange}; {refusals.NO_CERT} +1; the app saw nothing")


@requirement("HANDSHAKE-7")
@pytest.mark.usefixtures("genuine_client_is_accepted")
@pytest.mark.parametrize("version", refusals.VERSIONS)
@pytest.mark.parametrize(
    "flaw",
    [
        pytest.param(Flaw.NO_CERTIFICATE, marks=requirement("DEPLOYMENT-4")),
        pytest.param(Flaw.OTHER_CA, marks=requirement("DEPLOYMENT-4")),
        pytest.param(Flaw.OTHER_ID, marks=refusals.CHAINED),
    ],
)
def test_refused_client_gets_no_http_byte(api: Testbed, flaw: Flaw, version: Version) -> None:
    """A rejected client receives no byte of HTTP, even if it sends its request early."""
    credential = api.forged_client(flaw)

    exchange = api.prober.get(
        api.workload("api"), credential=credential, versions=(version, version)
    )

    assert_not_answered(exchange)


@requirement("HANDSHAKE-7", "DEPLOYMENT-4")
@pytest.mark.usefixtures("genuine_client_is_accepted")
def test_other_workload_gets_no_http_byte(api: Testbed) -> None:
    """The invalid client receives no byte of HTTP with its own genuine SVID either."""
    credential = api.workload("invalid-api-client").svid()

    exchange = api.prober.get(api.workload("api"), credential=credential)

    assert_not_answered(exchange)


@requirement("HANDSHAKE-2", "DEPLOYMENT-6")
# So that the first of these SVIDs has expired when another check needs one that has.
@pytest.mark.usefixtures("first_svid")
@pytest.mark.parametrize("version", refusals.VERSIONS)
@pytest.mark.parametrize("server", API_SERVERS)
def test_genuine_svid_is_accepted(api: Testbed, server: str, version: Version) -> None:
    """The server accepts the valid client's own SVID from the Workload API."""
    credential = api.workload("valid-api-client").svid()

    exchange = api.prober.get(
        api.workload(server), credential=credential, versions=(version, version)
    )

    assert_accepted(exchange)
    assert exchange.version == version.protocol
