"""An agent proves its identity only to SPIRE server, not to another server in its place."""

import pytest

from svidproof import Capability, Saw, needs, requirement
from svidproof.checks import IMPOSTORS, Impostors

pytestmark = needs(Capability.OWN_SPIRE, Capability.OWN_TRUST_ROOT, Capability.OWN_MACHINE)
# How a client of HTTP/2 begins (RFC 9113, 3.4).
PREFACE = b"PRI * HTTP/2.0\r\n"


@requirement("AGENT-19")
def test_agent_trusts_its_server(impostors: Impostors, saw: Saw) -> None:
    """With the right certificate, the agent completes the handshake and sends a request."""
    contact = impostors.require_accepted()

    assert contact.sent.startswith(PREFACE), f"the agent did not send HTTP/2: {contact}"
    saw(str(contact))


@requirement("AGENT-19")
@pytest.mark.parametrize("name", IMPOSTORS)
def test_agent_rejects_another_server(impostors: Impostors, name: str, saw: Saw) -> None:
    """With any other certificate, the agent ends the TLS handshake with an alert."""
    saw(str(impostors.require_rejected(name)))
