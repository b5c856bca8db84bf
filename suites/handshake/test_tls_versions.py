"""The protocol versions that the API's sidecar supports."""

import pytest

from svidproof import Alert, Testbed, Version, requirement
from svidproof.checks import (
    assert_accepted,
    assert_counted,
    assert_not_answered,
    assert_refused,
    assert_unseen,
)

SERVERS = ["api", "api-trusted-ca"]
NAMES = {Version.TLS1_2: "TLSv1.2", Version.TLS1_3: "TLSv1.3"}


@requirement("HANDSHAKE-5")
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("version", [Version.TLS1_2, Version.TLS1_3], ids=["tls12", "tls13"])
@pytest.mark.parametrize("server", SERVERS)
def test_current_version_is_spoken(api: Testbed, server: str, version: Version) -> None:
    """A client that offers only this version connects, and the version is negotiated."""
    credential = api.genuine_client()

    exchange = api.prober.get(
        api.workload(server), credential=credential, versions=(version, version)
    )

    assert_accepted(exchange)
    assert exchange.version == NAMES[version]


@requirement("HANDSHAKE-5")
@pytest.mark.usefixtures("genuine_client_is_accepted")
@pytest.mark.parametrize("version", [Version.TLS1_0, Version.TLS1_1], ids=["tls10", "tls11"])
@pytest.mark.parametrize("server", SERVERS)
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
@pytest.mark.parametrize("server", SERVERS)
def test_plaintext_is_refused(api: Testbed, server: str) -> None:
    """A client that sends plain HTTP to the mTLS port gets no answer."""
    workload = api.workload(server)
    before = workload.tally()

    exchange = api.prober.get_plain(workload)

    assert_not_answered(exchange)
    assert_counted(workload, before, {"listener.inbound.ssl.connection_error": 1})
    assert_unseen(workload, before)
