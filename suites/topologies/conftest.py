"""Nested servers, and servers on one datastore: changes and outages, each observed once."""

import pytest

from svidproof import Capability, Progress, Testbed, Testbeds, experiment
from svidproof.checks import (
    Failover,
    Impostors,
    NestedChange,
    NestedOutage,
    ReplicaChange,
    ReplicaOutage,
    observe_failover,
    observe_false_upstreams,
    observe_nested_change,
    observe_nested_outage,
    observe_replica_change,
    observe_replica_outage,
)

NEEDS = [Capability.OWN_SPIRE, Capability.OWN_TRUST_ROOT, Capability.NESTED]
DATABASE = [Capability.OWN_SPIRE, Capability.TOPOLOGIES, Capability.POSTGRESQL]
BALANCED = [*DATABASE, Capability.RELAY]


@pytest.fixture(scope="session")
def nested(testbeds: Testbeds) -> Testbed:
    """A server below another server, each with an agent and a workload."""
    return testbeds.get("nested")


@pytest.fixture(scope="session")
def replicas(testbeds: Testbeds) -> Testbed:
    """Two servers on one datastore, each with an agent and a workload."""
    return testbeds.get("replicas")


@experiment("nested", testbed="changing", changes=True, seconds=40, needs=NEEDS)
def nested_change(testbed: Testbed, progress: Progress) -> NestedChange:
    """The upstream server's CA is followed by another."""
    return observe_nested_change(testbed, progress)


@experiment("nested", testbed="hanging", changes=True, seconds=15, needs=NEEDS)
def nested_outage(testbed: Testbed, progress: Progress) -> NestedOutage:
    """The upstream server hangs for a while."""
    return observe_nested_outage(testbed, progress)


@experiment("nested", testbed="hanging", changes=True, seconds=20, needs=NEEDS)
def false_upstreams(
    testbed: Testbed,
    progress: Progress,
    nested_outage: NestedOutage,  # noqa: ARG001  it comes first
) -> Impostors:
    """A nested server starts below upstream servers with other certificates than SPIRE server's."""
    return observe_false_upstreams(testbed, progress)


@experiment("replicas", testbed="changing", changes=True, seconds=10, needs=DATABASE)
def replica_change(testbed: Testbed, progress: Progress) -> ReplicaChange:
    """The CA of one server is followed by another."""
    return observe_replica_change(testbed, progress)


@experiment("replicas", testbed="killed", changes=True, seconds=15, needs=DATABASE)
def replica_outage(testbed: Testbed, progress: Progress) -> ReplicaOutage:
    """One server is killed, and comes back."""
    return observe_replica_outage(testbed, progress)


@experiment("balanced", testbed="killed", changes=True, seconds=20, needs=BALANCED)
def failover(testbed: Testbed, progress: Progress) -> Failover:
    """The server that an agent uses is killed, and another is behind the same address."""
    return observe_failover(testbed, progress)
