"""A sidecar gets its SVID whenever it starts: alone, with many others, or before its agent."""

from http import HTTPStatus

import pytest

from svidproof import Measure, requirement
from svidproof.checks import Starts

pytestmark = requirement("RESILIENCE-14")


def test_restarted_sidecar_serves_again(sidecar_restarted: Starts, measure: Measure) -> None:
    """A sidecar that was killed and restarted gets its SVID at once, and serves requests."""
    measure("from a sidecar's start to its SVID", _served(sidecar_restarted, "server"), "s")
    _assert_answered(sidecar_restarted)


def test_sidecar_waits_for_its_agent(sidecar_without_agent: Starts, measure: Measure) -> None:
    """A sidecar that starts without an agent serves nothing, and gets its SVID from a later one."""
    waiting = sidecar_without_agent.waiting
    assert waiting, "no request was sent while there was no agent: this proves nothing"
    served = [r for r in waiting if r.status == HTTPStatus.OK]
    assert not served, f"{len(served)} of {len(waiting)} requests succeeded without an SVID"

    took = _served(sidecar_without_agent, "client")

    measure("from an agent's start to the SVID of a sidecar that waited", took, "s")
    _assert_answered(sidecar_without_agent)


@pytest.mark.parametrize("name", ["server", "client", *(f"member-{n}" for n in range(1, 7))])
def test_each_of_many_is_served(burst_of_sidecars: Starts, name: str, measure: Measure) -> None:
    """Each of many sidecars that start at the same time gets its SVID within the bound."""
    measure(f"from a burst's start to the SVID of {name}", _served(burst_of_sidecars, name), "s")


def _served(starts: Starts, name: str) -> float:
    took = starts.served_s(name)
    assert took <= starts.bound, f"{name} had its SVID after {took:.1f} s, not {starts.bound:.1f} s"
    return took


def _assert_answered(starts: Starts) -> None:
    took = starts.answered_s()
    assert took <= starts.bound, f"a request was answered after {took:.1f} s"
