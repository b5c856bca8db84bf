"""Clients that the API's sidecar must refuse, and proof that it did.

Each row is a credential that is wrong in exactly one way, the alert that the client must get, and
the counter that must say why. Envoy's two validators give different reasons for some rows; what
must not differ is that the client is refused.
"""

from dataclasses import dataclass

import pytest

from svidproof import Alert, Capability, Flaw, Saw, Testbed, Version, needs, requirement
from svidproof.checks import assert_accepted, assert_not_answered, assert_refused
from svidproof.forge import UNCHAINED_FLAWS

ERROR, SAN, NO_CERT, CONNECTION = (
    "fail_verify_error",
    "fail_verify_san",
    "fail_verify_no_cert",
    "connection_error",
)
UNKNOWN, UNKNOWN_CA = Alert.CERTIFICATE_UNKNOWN, Alert.UNKNOWN_CA
EXPIRED, DECRYPT = Alert.CERTIFICATE_EXPIRED, Alert.DECRYPT_ERROR
MISSING = {Version.TLS1_2: Alert.HANDSHAKE_FAILURE, Version.TLS1_3: Alert.CERTIFICATE_REQUIRED}


@dataclass(frozen=True)
class Row:
    """A flaw, and how each validator says no: alert and counter."""

    flaw: Flaw
    spiffe: tuple[Alert, str]
    trusted_ca: tuple[Alert, str]


ROWS = [
    Row(Flaw.SELF_SIGNED, (UNKNOWN, ERROR), (UNKNOWN_CA, ERROR)),
    Row(Flaw.OTHER_CA, (UNKNOWN, ERROR), (UNKNOWN_CA, ERROR)),
    Row(Flaw.OTHER_TRUST_DOMAIN, (UNKNOWN, ERROR), (UNKNOWN_CA, ERROR)),
    Row(Flaw.FOREIGN_ID, (UNKNOWN, ERROR), (UNKNOWN, SAN)),
    Row(Flaw.EXPIRED, (UNKNOWN, ERROR), (EXPIRED, ERROR)),
    Row(Flaw.NOT_YET_VALID, (UNKNOWN, ERROR), (EXPIRED, ERROR)),
    Row(Flaw.OTHER_ID, (UNKNOWN, SAN), (UNKNOWN, SAN)),
    Row(Flaw.LONGER_ID, (UNKNOWN, SAN), (UNKNOWN, SAN)),
    Row(Flaw.SHORTER_ID, (UNKNOWN, SAN), (UNKNOWN, SAN)),
    Row(Flaw.OTHER_CASE, (UNKNOWN, SAN), (UNKNOWN, SAN)),
    Row(Flaw.OTHER_SCHEME, (UNKNOWN, ERROR), (UNKNOWN, SAN)),
    Row(Flaw.NO_PATH, (UNKNOWN, ERROR), (UNKNOWN, SAN)),
    Row(Flaw.NO_SAN, (UNKNOWN, ERROR), (UNKNOWN, SAN)),
    Row(Flaw.DNS_SAN_ONLY, (UNKNOWN, ERROR), (UNKNOWN, SAN)),
    Row(Flaw.TWO_URI_SANS, (UNKNOWN, ERROR), (UNKNOWN, ERROR)),
    Row(Flaw.TAMPERED_SIGNATURE, (UNKNOWN, ERROR), (DECRYPT, ERROR)),
    Row(Flaw.TAMPERED_ID, (UNKNOWN, ERROR), (DECRYPT, ERROR)),
    Row(Flaw.CA_AS_LEAF, (UNKNOWN, ERROR), (UNKNOWN, ERROR)),
    Row(Flaw.KEY_CERT_SIGN, (UNKNOWN, ERROR), (UNKNOWN, ERROR)),
    Row(Flaw.CRL_SIGN, (UNKNOWN, ERROR), (UNKNOWN, ERROR)),
    Row(Flaw.WRONG_KEY, (DECRYPT, CONNECTION), (DECRYPT, CONNECTION)),
    Row(Flaw.UNCHAINED, (UNKNOWN, ERROR), (UNKNOWN_CA, ERROR)),
    Row(Flaw.EXPIRED_INTERMEDIATE, (UNKNOWN, ERROR), (EXPIRED, ERROR)),
    Row(Flaw.LEAF_AS_CA, (UNKNOWN, ERROR), (UNKNOWN_CA, ERROR)),
]
SERVERS = [
    pytest.param("api", id="spiffe", marks=requirement("HANDSHAKE-4")),
    pytest.param("api-trusted-ca", id="trusted-ca", marks=requirement("HANDSHAKE-8")),
]
# What chains to the trust bundle can be forged only with its key.
CHAINED = needs(Capability.OWN_TRUST_ROOT)
PARAMS = [
    pytest.param(row, id=row.flaw.value, marks=() if row.flaw in UNCHAINED_FLAWS else CHAINED)
    for row in ROWS
]
VERSIONS = [
    pytest.param(Version.TLS1_2, id="tls12"),
    pytest.param(Version.TLS1_3, id="tls13"),
]


@pytest.mark.usefixtures("genuine_client_is_accepted")
@pytest.mark.parametrize("row", PARAMS)
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("server", SERVERS)
def test_flawed_client_is_refused(
    api: Testbed, server: str, version: Version, row: Row, saw: Saw
) -> None:
    """A client whose credential is flawed gets a fatal alert and never reaches the workload."""
    workload = api.workload(server)
    alert, counter = row.spiffe if server == "api" else row.trusted_ca
    before = workload.tally()

    exchange = api.prober.get(
        workload, credential=api.forged_client(row.flaw), versions=(version, version)
    )

    assert_refused(exchange, {alert}, at=workload, since=before, counter=counter)
    saw(f"{exchange}; {counter} +1; the app saw nothing")


@pytest.mark.usefixtures("genuine_client_is_accepted")
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("server", SERVERS)
def test_client_without_certificate_is_refused(
    api: Testbed, server: str, version: Version, saw: Saw
) -> None:
    """A client that presents no certificate is told that one is required."""
    workload = api.workload(server)
    before = workload.tally()

    exchange = api.prober.get(workload, credential=None, versions=(version, version))

    assert_refused(exchange, {MISSING[version]}, at=workload, since=before, counter=NO_CERT)
    saw(f"{exchange}; {NO_CERT} +1; the app saw nothing")


@requirement("HANDSHAKE-7")
@pytest.mark.usefixtures("genuine_client_is_accepted")
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "flaw", [Flaw.NO_CERTIFICATE, Flaw.OTHER_CA, pytest.param(Flaw.OTHER_ID, marks=CHAINED)]
)
def test_refused_client_gets_no_http_byte(api: Testbed, flaw: Flaw, version: Version) -> None:
    """A refused client, even one that sends its request early, reads no byte of HTTP."""
    credential = api.forged_client(flaw)

    exchange = api.prober.get(
        api.workload("api"), credential=credential, versions=(version, version)
    )

    assert_not_answered(exchange)


@requirement("HANDSHAKE-7")
@pytest.mark.usefixtures("genuine_client_is_accepted")
def test_other_workload_gets_no_http_byte(api: Testbed) -> None:
    """The invalid client's own genuine SVID brings no byte of HTTP either."""
    credential = api.workload("invalid-api-client").svid()

    exchange = api.prober.get(api.workload("api"), credential=credential)

    assert_not_answered(exchange)


@requirement("HANDSHAKE-2")
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("server", ["api", "api-trusted-ca"])
def test_genuine_svid_is_accepted(api: Testbed, server: str, version: Version) -> None:
    """The valid client's own SVID, straight from the Workload API, is accepted."""
    credential = api.workload("valid-api-client").svid()

    exchange = api.prober.get(
        api.workload(server), credential=credential, versions=(version, version)
    )

    assert_accepted(exchange)
    assert exchange.version == {"TLS1_2": "TLSv1.2", "TLS1_3": "TLSv1.3"}[version.name]
