"""The TLS versions and cipher suites that the server's sidecar accepts."""

import pytest

from svidproof import Testbed, requirement
from svidproof.checks import (
    API_SERVERS,
    assert_accepted,
    assert_counted,
    assert_not_answered,
    assert_refused,
    assert_unseen,
)
from svidproof.probes import Alert, Version, tls_settings

each_server = pytest.mark.parametrize("server", API_SERVERS)


@requirement("HANDSHAKE-5")
@pytest.mark.usefixtures("quiet_api")
@pytest.mark.parametrize("version", [Version.TLS1_2, Version.TLS1_3], ids=["tls12", "tls13"])
@each_server
def test_current_version_is_negotiated(api: Testbed, server: str, version: Version) -> None:
    """A client that offers only this version connects with it."""
    credential = api.genuine_client()

    exchange = api.prober.get(
        api.workload(server), credential=credential, versions=(version, version)
    )

    assert_accepted(exchange)
    assert exchange.version == version.protocol


@requirement("HANDSHAKE-5")
@pytest.mark.usefixtures("genuine_client_is_accepted")
@pytest.mark.parametrize("version", [Version.TLS1_0, Version.TLS1_1], ids=["tls10", "tls11"])
@each_server
def test_old_version_is_refused(api: Testbed, server: str, version: Version) -> None:
    """A client that offers at most TLS 1.1 gets a protocol_version alert."""
    workload, credential = api.workload(server), api.genuine_client()
    before = workload.tally()

    exchange = api.prober.get(workload, credential=credential, versions=(version, version))

    assert_refused(
        exchange,
        {Alert.PROTOCOL_VERSION},
        at=workload,
        since=before,
        counter="connection_error",
    )


@requirement("HANDSHAKE-5")
@pytest.mark.usefixtures("genuine_client_is_accepted")
@each_server
def test_weak_cipher_suites_are_refused(api: Testbed, server: str) -> None:
    """A client that offers only suites without forward secrecy or without AEAD is rejected."""
    workload, credential = api.workload(server), api.genuine_client()
    tls12 = (Version.TLS1_2, Version.TLS1_2)
    strong, weak = tls_settings.INTERMEDIATE, tls_settings.suites() - tls_settings.INTERMEDIATE
    assert weak, "this machine's OpenSSL has no weak suite to offer"
    control = api.prober.get(workload, credential=credential, versions=tls12, ciphers=strong)
    assert_accepted(control)
    before = workload.tally()

    exchange = api.prober.get(workload, credential=credential, versions=tls12, ciphers=weak)

    assert_refused(
        exchange,
        {Alert.HANDSHAKE_FAILURE},
        at=workload,
        since=before,
        counter="connection_error",
    )


@requirement("HANDSHAKE-5")
@pytest.mark.usefixtures("genuine_client_is_accepted")
@each_server
def test_plaintext_is_refused(api: Testbed, server: str) -> None:
    """A client that sends plain HTTP to the mTLS port gets no answer."""
    workload = api.workload(server)
    before = workload.tally()

    exchange = api.prober.get_plain(workload)

    assert_not_answered(exchange)
    assert_counted(workload, before, {"listener.inbound.ssl.connection_error": 1})
    assert_unseen(workload, before)
