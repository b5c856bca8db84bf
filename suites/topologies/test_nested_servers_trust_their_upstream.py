"""A nested server asks only its upstream SPIRE server to sign its CA."""

import pytest

from svidproof import Capability, Saw, needs, requirement
from svidproof.checks import GENUINE, IMPOSTORS, Accepted, Impostors, Refused

pytestmark = [
    requirement("TOPOLOGY-15"),
    needs(
        Capability.OWN_SPIRE,
        Capability.OWN_TRUST_ROOT,
        Capability.NESTED,
        Capability.OWN_MACHINE,
    ),
]


def test_nested_server_trusts_its_upstream(false_upstreams: Impostors, saw: Saw) -> None:
    """With the right certificate, the nested server completes the handshake."""
    contact = false_upstreams.contact(GENUINE)
    saw(str(contact))

    if contact.refusal:
        raise Refused(f"the nested server refused the right certificate: {contact.refusal}")


@pytest.mark.parametrize("name", IMPOSTORS)
def test_nested_server_refuses_another(false_upstreams: Impostors, name: str, saw: Saw) -> None:
    """With any other certificate, the nested server ends the TLS handshake."""
    contact = false_upstreams.contact(name)
    saw(str(contact))

    if not contact.refusal:
        raise Accepted(f"the nested server trusted a server with {IMPOSTORS[name]}: {contact}")
