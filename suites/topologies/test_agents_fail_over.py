"""An agent whose server is killed continues with another server behind the same address."""

import pytest

from svidproof import Measure, Saw, requirement
from svidproof.checks import Failover, assert_all_succeeded


@requirement("TOPOLOGY-14")
def test_agent_serves_new_workloads(failover: Failover, measure: Measure) -> None:
    """The agent serves an entry that the other server created after the first was killed."""
    took, bound = failover.took("served"), failover.bounds["served"]

    measure("from a killed server to an entry of the other one", took, "s")
    assert took <= bound, f"served: the entry was served after {took:.1f} s"


@requirement("TOPOLOGY-14")
def test_other_server_signs_every_svid(failover: Failover, measure: Measure) -> None:
    """Every workload gets an SVID of the other server's authority before its own expires."""
    took, bound = failover.took("renewed"), failover.bounds["renewed"]

    measure("from a killed server to SVIDs of the other one", took, "s")
    assert took <= bound, f"renewed: every SVID was replaced after {took:.1f} s"


@requirement("TOPOLOGY-14")
@pytest.mark.parametrize("name", ["west", "east"])
def test_no_request_fails_meanwhile(failover: Failover, name: str, saw: Saw) -> None:
    """Every request between the workloads succeeds, until the killed server is back."""
    saw(assert_all_succeeded(failover.requests(name), name))
