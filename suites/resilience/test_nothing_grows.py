"""What a component needs for one call it gives back: it does not grow with the number of calls."""

from collections.abc import Mapping

import pytest

from svidproof import Measure, requirement
from svidproof.checks import CALLS, MOST, TIMES, Growth

pytestmark = requirement("RESILIENCE-27")
each_component = pytest.mark.parametrize(
    "component", ["spire-server", "spire-agent", "server.envoy", "client.envoy"]
)


@each_component
@pytest.mark.parametrize("what", ["descriptors", "threads"])
def test_number_stays(
    growth: Mapping[str, Growth], component: str, what: str, measure: Measure
) -> None:
    """After many calls, a component has not kept one thing of every ten calls."""
    own = growth[component]
    before, after = getattr(own.before, what), getattr(own.after, what)

    measure(f"{what} of {component} after {CALLS} calls, beyond those before", after - before, "")
    assert after - before < MOST, (
        f"{component} has {after - before} more {what} after {CALLS} calls: {after}, not {before}"
    )


@each_component
def test_memory_stays(growth: Mapping[str, Growth], component: str, measure: Measure) -> None:
    """After many calls, a component occupies less than twice the memory of before."""
    own = growth[component]

    measure(f"memory of {component} after {CALLS} calls", own.after.memory / 2**20, "MiB")
    assert own.after.memory < TIMES * own.before.memory, (
        f"{component} occupies {own.after.memory >> 20} MiB after {CALLS} calls, "
        f"not {own.before.memory >> 20} MiB"
    )
