"""The connections of an attested agent lead to a workload, which takes the server's place.

A relay of the suite is between agent and server. The workload presents its own X.509-SVID, which
the CA of the trust domain has signed.
"""

import pytest

from svidproof import Measure, Saw, requirement
from svidproof.checks import Accepted, Redirected, assert_recovered

pytestmark = requirement("RESILIENCE-45")


def test_agent_refuses_a_workload(connection_redirected: Redirected, saw: Saw) -> None:
    """The agent ends every TLS handshake with the workload."""
    contacts = connection_redirected.contacts
    assert contacts, "the agent opened no connection"

    for contact in contacts:
        if not contact.refusal:
            raise Accepted(f"the agent took a workload for its server: {contact}")
    # The last one may have ended with the redirection.
    alerts = [contact for contact in contacts if contact.rejected]
    assert alerts, f"the agent sent no alert: {contacts[0]}"
    saw(f"{len(contacts)} connections; {alerts[0]}")


def test_no_request_fails(connection_redirected: Redirected) -> None:
    """Every request succeeds before, meanwhile and afterwards."""
    connection_redirected.outage.assert_none_failed("client")


@pytest.mark.parametrize("name", ["server", "client"])
def test_renewals_resume(connection_redirected: Redirected, name: str, measure: Measure) -> None:
    """Each sidecar gets an SVID signed afterwards, within the bound of the agent's rule."""
    took = assert_recovered(connection_redirected.outage, name)

    measure(f"from the return of its server to a new SVID, {name}", took, "s")
