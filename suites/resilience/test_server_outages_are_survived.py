"""SPIRE server is down, and no request fails before SVIDs expire.

The bounds follow from SPIRE agent's rule: it syncs every interval, and its backoff grows by a
factor of 1.5 after each failure. See svidproof.model.rules.recovery_rule.
"""

from collections.abc import Mapping

import pytest

from svidproof import Measure, requirement
from svidproof.checks import Outage, assert_recovered

CLIENT, BOTH = "client", ("server", "client")
each_absence = pytest.mark.parametrize("how", ["stopped", "paused"])
each_sidecar = pytest.mark.parametrize("name", BOTH)


@requirement("RESILIENCE-1")
@each_absence
def test_no_request_fails(server_away: Mapping[str, Outage], how: str) -> None:
    """Every request succeeds before, during and after the outage of the server."""
    server_away[how].assert_none_failed(CLIENT)


@requirement("RESILIENCE-2")
@each_absence
@each_sidecar
def test_renewals_resume(
    server_away: Mapping[str, Outage], how: str, name: str, measure: Measure
) -> None:
    """Each sidecar gets an SVID signed after the return, within the bound of the agent's rule."""
    took = assert_recovered(server_away[how], name)

    measure(f"from the server's return to a new SVID, server {how}, {name}", took, "s")


@requirement("RESILIENCE-4")
@each_sidecar
def test_sidecars_recover_after_expiry(server_gone: Outage, name: str, measure: Measure) -> None:
    """After an outage longer than SVIDs live, each sidecar gets a new SVID without a restart."""
    took = assert_recovered(server_gone, name)

    measure(f"from the server's return to a new SVID, all expired, {name}", took, "s")


@requirement("RESILIENCE-4")
def test_requests_succeed_again(server_gone: Outage, measure: Measure) -> None:
    """Requests succeed again once both sidecars have new SVIDs."""
    served = server_gone.assert_served_again(CLIENT)

    assert server_gone.fault.until is not None, "the fault was never undone"
    measure("from the server's return to a request", served.sent.at - server_gone.back.at, "s")
