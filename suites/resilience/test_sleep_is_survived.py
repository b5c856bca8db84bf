"""All components are paused for longer than the lifetime of SVIDs, as on a suspended laptop."""

import pytest

from svidproof import Measure, requirement
from svidproof.checks import Outage, assert_recovered

pytestmark = requirement("RESILIENCE-8")


@pytest.mark.parametrize("name", ["server", "client"])
def test_sidecars_recover(asleep: Outage, name: str, measure: Measure) -> None:
    """Each sidecar gets a new SVID without a restart, within the bound of the agent's rule."""
    took = assert_recovered(asleep, name)

    measure(f"from waking to a new SVID, {name}", took, "s")


def test_requests_succeed_again(asleep: Outage, measure: Measure) -> None:
    """Requests succeed again once both sidecars have new SVIDs."""
    served = asleep.assert_served_again("client")

    measure("from waking to a request", served.sent.at - asleep.back.at, "s")
