"""A nested server asks only its upstream SPIRE server to sign its CA."""

import pytest

from svidproof import Capability, Saw, needs, requirement
from svidproof.checks import IMPOSTORS, Impostors

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
    saw(str(false_upstreams.require_accepted()))


@pytest.mark.parametrize("name", IMPOSTORS)
def test_nested_server_rejects_another(false_upstreams: Impostors, name: str, saw: Saw) -> None:
    """With any other certificate, the nested server ends the TLS handshake with an alert."""
    saw(str(false_upstreams.require_rejected(name)))
