"""The connections of an attested agent lead to a workload, which takes the server's place.

A relay of the suite is between agent and server. The workload presents its own X.509-SVID, which
the CA of the trust domain has signed.
"""

import pytest

from svidproof import Measure, Saw, requirement
from svidproof.checks import Accepted, Misled, assert_recovered

pytestmark = requirement("RESILIENCE-45")


def test_agent_refuses_a_workload(connection_misled: Misled, saw: Saw) -> None:
    """The agent ends every TLS handshake with the workload."""
    contacts = connection_misled.contacts
    assert contacts, "the agent opened no connection"
    saw(f"{len(contacts)} connections; {contacts[0]}")

    for contact in contacts:
        if not contact.refusal:
            raise Accepted(f"the agent took a workload for its server: {contact}")


def test_no_request_fails(connection_misled: Misled) -> None:
    """Every request succeeds before, meanwhile and afterwards."""
    connection_misled.outage.assert_none_failed("client")


@pytest.mark.parametrize("name", ["server", "client"])
def test_renewals_resume(connection_misled: Misled, name: str, measure: Measure) -> None:
    """Each sidecar gets an SVID signed afterwards, within the bound of the agent's rule."""
    took = assert_recovered(connection_misled.outage, name)

    measure(f"from the return of its server to a new SVID, {name}", took, "s")
