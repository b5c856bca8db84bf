"""A component releases the resources of a call, and of another component's restart."""

from collections.abc import Mapping

import pytest

from svidproof import Measure, requirement
from svidproof.checks import CALLS, MOST, RESTARTS, TIMES, Growth

pytestmark = requirement("RESILIENCE-27")
each_component = pytest.mark.parametrize(
    "component", ["spire-server", "spire-agent", "server.envoy", "client.envoy"]
)

# The component that is restarted, and the one that keeps running.
each_restart = pytest.mark.parametrize(
    "restart",
    [
        "spire-server spire-agent",
        "client.envoy spire-server",
        "client.envoy spire-agent",
        "client.envoy server.envoy",
        "spire-agent spire-server",
        "spire-agent server.envoy",
        "spire-agent client.envoy",
    ],
)


@each_component
@pytest.mark.parametrize("what", ["descriptors", "threads"])
def test_number_stays(
    growth: Mapping[str, Growth], component: str, what: str, measure: Measure
) -> None:
    """After many calls, a component has leaked fewer than one resource per ten calls."""
    own = growth[component]
    before, after = getattr(own.before, what), getattr(own.after, what)

    measure(f"{what} of {component} after {CALLS} calls, beyond those before", after - before, "")
    assert after - before < MOST, (
        f"{component} has {after - before} more {what} after {CALLS} calls: {after}, not {before}"
    )


@each_component
def test_memory_stays(growth: Mapping[str, Growth], component: str, measure: Measure) -> None:
    """After many calls, a component uses less than twice as much memory as before."""
    own = growth[component]

    measure(f"memory of {component} after {CALLS} calls", own.after.memory / 2**20, "MiB")
    assert own.after.memory < TIMES * own.before.memory, (
        f"{component} occupies {own.after.memory >> 20} MiB after {CALLS} calls, "
        f"not {own.before.memory >> 20} MiB"
    )


@each_restart
@pytest.mark.parametrize("what", ["descriptors", "threads"])
def test_number_stays_over_restarts(
    growth_over_restarts: Mapping[str, Growth], restart: str, what: str, measure: Measure
) -> None:
    """After many restarts of another component, a component leaks less than one resource each."""
    own = growth_over_restarts[restart]
    before, after = getattr(own.before, what), getattr(own.after, what)

    measure(f"more {what} after {RESTARTS} restarts: {restart}", after - before, "")
    assert after - before < RESTARTS, (
        f"{after - before} more {what} after {RESTARTS} restarts ({restart}): {after}, not {before}"
    )


@each_restart
def test_memory_stays_over_restarts(
    growth_over_restarts: Mapping[str, Growth], restart: str, measure: Measure
) -> None:
    """After many restarts of another component, a component uses less than twice the memory."""
    own = growth_over_restarts[restart]

    measure(f"memory after {RESTARTS} restarts: {restart}", own.after.memory / 2**20, "MiB")
    assert own.after.memory < TIMES * own.before.memory, (
        f"{own.after.memory >> 20} MiB after {RESTARTS} restarts ({restart}), "
        f"not {own.before.memory >> 20} MiB"
    )
