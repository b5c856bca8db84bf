"""The connection between agent and server is refused, held or delayed, and no request fails.

A relay of the suite is between the two, and proves that it has passed, refused or held bytes.
"""

from collections.abc import Mapping

import pytest

from svidproof import Measure, requirement
from svidproof.checks import Outage, assert_recovered

pytestmark = requirement("RESILIENCE-9")
each_fault = pytest.mark.parametrize("how", ["refused", "held", "delayed"])


@each_fault
def test_no_request_fails(connection_broken: Mapping[str, Outage], how: str) -> None:
    """Every request succeeds before, during and after the fault."""
    connection_broken[how].assert_none_failed("client")


@each_fault
@pytest.mark.parametrize("name", ["server", "client"])
def test_renewals_resume(
    connection_broken: Mapping[str, Outage], how: str, name: str, measure: Measure
) -> None:
    """Each sidecar gets an SVID signed after the fault, within the bound of the agent's rule."""
    took = assert_recovered(connection_broken[how], name)

    measure(f"from a connection's return to a new SVID, {how}, {name}", took, "s")
