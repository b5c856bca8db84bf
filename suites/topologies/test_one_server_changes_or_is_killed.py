"""No request fails while the CA of one of two servers changes, or while it is gone."""

import pytest

from svidproof import Measure, Saw, requirement
from svidproof.checks import ReplicaChange, ReplicaOutage, assert_all_succeeded

each_workload = pytest.mark.parametrize("name", ["west", "east"])
STEPS = {
    "prepared": "from the next CA of one server to every bundle",
    "renewed": "from a tainted CA of one server to an SVID of its next",
    "servers": "from a tainted CA of one server to the servers' own SVIDs",
    "revoked": "from a revoked CA of one server to every bundle",
}


@requirement("TOPOLOGY-11")
@pytest.mark.parametrize("step", STEPS)
def test_each_step_reaches_every_workload(
    replica_change: ReplicaChange, step: str, measure: Measure
) -> None:
    """The next CA is in every bundle, replaces the first, and the first leaves every bundle."""
    took, bound = replica_change.took(step), replica_change.bounds[step]

    measure(STEPS[step], took, "s")
    assert took <= bound, f"{step}: it came after {took:.1f} s"


@requirement("TOPOLOGY-11")
def test_tainted_root_stays_until_it_is_revoked(replica_change: ReplicaChange) -> None:
    """The first root is in every bundle until it is revoked: SVIDs below it may be presented."""
    names = ", ".join(replica_change.dropped)
    assert not names, f"before its revocation, the first root was not in the bundle of {names}"


@requirement("TOPOLOGY-11")
@each_workload
def test_no_request_fails_during_the_change(
    replica_change: ReplicaChange, name: str, saw: Saw
) -> None:
    """Every request between workloads of both servers succeeds throughout the change."""
    saw(assert_all_succeeded(replica_change.requests(name), name))


@requirement("TOPOLOGY-12")
def test_other_server_serves_new_workloads(replica_outage: ReplicaOutage, measure: Measure) -> None:
    """A new entry at the other server gets its SVID meanwhile."""
    assert replica_outage.newcomer_s is not None, f"no SVID in time: {replica_outage.late}"

    measure("from an entry to its SVID, without one server", replica_outage.newcomer_s, "s")


@requirement("TOPOLOGY-12")
def test_agent_of_the_killed_server_follows_afterwards(
    replica_outage: ReplicaOutage, measure: Measure
) -> None:
    """Once the killed server is back, its agent serves that entry, too."""
    assert replica_outage.back_s is not None, f"not served: {replica_outage.missing}"

    measure("from a server's return to an entry of meanwhile", replica_outage.back_s, "s")


@requirement("TOPOLOGY-12")
def test_no_ca_is_lost(replica_outage: ReplicaOutage) -> None:
    """Once the killed server is back, the trust bundle of each server has the CAs of before."""
    assert replica_outage.lost, "no bundle was looked at"
    lost = [f"{name} lacks {count}" for name, count in replica_outage.lost.items() if count]
    assert not lost, f"of the CAs of before, the trust bundle of {', that of '.join(lost)}"


@requirement("TOPOLOGY-12")
@each_workload
def test_no_request_fails_meanwhile(replica_outage: ReplicaOutage, name: str, saw: Saw) -> None:
    """Every request between workloads of both servers succeeds meanwhile."""
    saw(assert_all_succeeded(replica_outage.requests(name), name))
