"""Workloads below a nested server get SVIDs while the upstream server hangs."""

import pytest

from svidproof import Measure, Saw, requirement
from svidproof.checks import NestedOutage, assert_all_succeeded


@requirement("TOPOLOGY-7")
def test_new_workloads_are_served(nested_outage: NestedOutage, measure: Measure) -> None:
    """A new entry at the nested server gets its SVID meanwhile."""
    assert nested_outage.newcomer_s is not None, f"no SVID in time: {nested_outage.late}"

    measure("from an entry to its SVID, without upstream", nested_outage.newcomer_s, "s")


@requirement("TOPOLOGY-7")
@pytest.mark.parametrize("name", ["front", "back"])
def test_no_request_fails(nested_outage: NestedOutage, name: str, saw: Saw) -> None:
    """Every request between workloads of both servers succeeds meanwhile."""
    saw(assert_all_succeeded(nested_outage.requests(name), name))


@requirement("TOPOLOGY-7")
def test_upstream_keys_follow_afterwards(nested_outage: NestedOutage, measure: Measure) -> None:
    """Once the upstream server answers again, its next JWT key reaches the nested server."""
    assert nested_outage.key_s is not None, f"not followed: {nested_outage.keyless}"

    measure("from the upstream server's return to its next JWT key", nested_outage.key_s, "s")
