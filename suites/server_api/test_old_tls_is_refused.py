"""SPIRE server's API is served over current versions of TLS only."""

import pytest

from svidproof import Capability, Saw, Testbed, needs, requirement
from svidproof.checks import Accepted, Refused
from svidproof.probes import Exchange, Version, tls
from svidproof.probes import server_api as api

pytestmark = needs(Capability.OWN_SPIRE)


@requirement("SERVER-18")
@pytest.mark.parametrize("version", ["TLS1_2", "TLS1_3"])
def test_current_versions_are_accepted(
    server_api: Testbed, agent: api.PlayedAgent, version: str, saw: Saw
) -> None:
    """The server completes a handshake of TLS 1.2 and of TLS 1.3 with an agent."""
    exchange = _connect(server_api, agent, version)

    if not exchange.version:
        raise Refused(f"SPIRE server refuses {version}: {exchange}")
    saw(exchange.version)


@requirement("SERVER-18")
@pytest.mark.parametrize("version", ["TLS1_0", "TLS1_1"])
def test_old_versions_are_refused(
    server_api: Testbed, agent: api.PlayedAgent, version: str, saw: Saw
) -> None:
    """The server refuses an agent that offers TLS 1.0 or 1.1 only."""
    exchange = _connect(server_api, agent, version)

    if exchange.version:
        raise Accepted(f"SPIRE server accepts {exchange.version}")
    saw(str(exchange))


def _connect(server_api: Testbed, agent: api.PlayedAgent, version: str) -> Exchange:
    only = Version[version]
    return tls.get(server_api.spire.api, credential=agent.credential, versions=(only, only))
