"""What an observation asks, and when it stops waiting for what it asks about."""

from __future__ import annotations

import functools
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, cast

import pytest

from svidproof.checks.windows.rotation import Observation, observe
from svidproof.model.clock import Moment
from svidproof.model.errors import PlatformError
from svidproof.model.renewal_rule import BACKDATING, LAG, TRUNCATION, Period
from svidproof.model.scenario import load_scenario
from svidproof.model.settings import BRISK, STOCK
from svidproof.testbed.watch.attention import OWN_LAG
from svidproof.testbed.watch.timeline import Source

from .synthetic import AGENT, VALID, Look, World, moment

if TYPE_CHECKING:
    from types import SimpleNamespace

    from svidproof.testbed.testbed import Testbed

# SPIRE's rule, pkg/common/rotationutil: an SVID of 10 s + TTL is renewed at the first look at
# which less than half of that, give or take a tenth, is left. For each TTL: the remaining seconds
# between which the agent decides, and the longest that a look can be away.
RULE = [
    pytest.param(10, 0.5, 9.0, 11.0, 0.55, id="10-s"),
    pytest.param(30, 0.5, 18.0, 22.0, 0.55, id="30-s"),
    pytest.param(30, 5.0, 18.0, 22.0, 5.5, id="30-s-stock"),
    pytest.param(60, 5.0, 31.5, 38.5, 5.5, id="60-s-stock"),
    pytest.param(120, 5.0, 58.5, 71.5, 5.5, id="120-s-stock"),
    pytest.param(3600, 5.0, 1624.5, 1985.5, 5.5, id="1-h-stock"),
]


@pytest.mark.parametrize(("ttl", "sync", "low", "high", "sync_at_most"), RULE)
def test_period_is_spires_own_rule(
    ttl: float, sync: float, low: float, high: float, sync_at_most: float
) -> None:
    """A sound renewal is never called unsound, and the allowance beyond that is three seconds."""
    period = Period.of(ttl, sync)

    assert period.earliest == pytest.approx(high + TRUNCATION)
    slack = (low - sync_at_most) - period.latest
    assert slack == pytest.approx(TRUNCATION + 2.0)


@pytest.mark.parametrize(("ttl", "sync", "low", "high", "sync_at_most"), RULE)
def test_longest_period_covers_the_rule(
    ttl: float, sync: float, low: float, high: float, sync_at_most: float
) -> None:
    """The longest sound time between two SVIDs is the documented one, and a little more."""
    documented = ttl - 1.1 * (ttl + 10) / 2, ttl - 0.9 * (ttl + 10) / 2 + sync * 1.1

    assert documented == pytest.approx((ttl - high, ttl - low + sync_at_most))
    assert 0 < Period.of(ttl, sync).longest(ttl) - documented[1] <= 3.0 + 1e-9


@pytest.mark.parametrize("timing", [BRISK, STOCK], ids=lambda timing: timing.name)
def test_scenarios_svids_are_renewed_before_they_end(timing: SimpleNamespace) -> None:
    """With the scenario's TTL and either timing a sound agent renews with seconds to spare."""
    assert Period.of(load_scenario("api").svid_ttl, timing.sync_s).latest > 5


def test_three_rotations_of_the_scenario_take_under_a_minute() -> None:
    """The budget for a window of the scenario's SVIDs leaves a run below a minute."""
    ttl = load_scenario("api").svid_ttl

    assert 3 * Period.of(ttl, BRISK.sync_s).longest(ttl) < 50


@pytest.fixture
def world() -> World:
    """A sound run."""
    return World()


def test_rotations_end_with_the_window(world: World) -> None:
    """A rotation after the window's cutoff is not asked about."""
    late = world.cutoff + 0.1
    world.looks.append(Look(late, Source.WORKLOAD_API, "api", world.issues[VALID][0].chain))

    rotations = world.observation().rotations("api")

    assert [r.after.serial for r in rotations] == [i.serial for i in world.issues["api"][1:]]


def test_delivered_begins_with_the_first_svid(world: World) -> None:
    """What was delivered is the first SVID and each that followed it."""
    delivered = world.observation().delivered("api")

    assert [s.serial for s in delivered] == [issue.serial for issue in world.issues["api"]]


def test_nothing_delivered_is_no_answer(world: World) -> None:
    """A workload without rotations raises, with the reason why the window ended."""
    world.reschedule("api", 0)
    observation = world.observation()

    for ask in (observation.rotations, observation.delivered):
        with pytest.raises(
            AssertionError, match=r"api: no rotation was seen; .*last seen: 0 of api"
        ):
            ask("api")


def test_nothing_seen_is_no_answer(world: World) -> None:
    """A source that showed nothing, and a client that sent nothing, raise."""
    world.requests = [r for r in world.requests if r.client != VALID]
    observation = world.observation()

    with pytest.raises(AssertionError, match=f"{VALID}: nothing was seen at wire"):
        observation.seen(Source.WIRE, VALID)
    with pytest.raises(AssertionError, match=f"no request of {VALID} was seen"):
        observation.requests(VALID)


def test_seen_is_by_serial_and_in_order(world: World) -> None:
    """What one source showed comes by serial, in the order in which it came."""
    seen = world.observation().seen(Source.CERTS, "api")

    assert list(seen) == [issue.serial for issue in world.issues["api"]]
    assert all(serial == sighting.serial for serial, sighting in seen.items())


def test_logs_and_requests_end_with_the_window(world: World) -> None:
    """What was written or sent after the window's end is not asked about."""
    world.log(AGENT, world.end - 0.1, "info", "in time")
    world.log(AGENT, world.end + 0.1, "info", "in time")
    world.requests.append(replace(world.requests[0], sent=moment(world.end + 0.1), tag="late"))
    observation = world.observation()

    assert len(observation.logs(AGENT, "in time")) == 1
    assert all(request.tag != "late" for request in observation.requests(VALID))


def observed(observation: Observation, **changes: object) -> Testbed:
    """A testbed as `observe` sees it, with the timeline of a run that is over."""
    testbed = cast("SimpleNamespace", observation.testbed)
    for workload in testbed.workloads.values():
        workload.has_app = False
    testbed.watch.catch_up = lambda: None
    testbed.watch.catch_up_streams = lambda: None
    testbed.assert_alive = lambda: None
    for name, value in changes.items():
        setattr(testbed, name, value)
    return cast("Testbed", testbed)


@pytest.fixture
def _window_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long after the run, each look at the clock finds it half a second later."""
    moments = (moment(4000 + 0.5 * n) for n in count())
    monkeypatch.setattr(Moment, "now", functools.partial(next, moments))


@pytest.mark.usefixtures("_window_is_over")
def test_rotations_that_were_seen_are_not_waited_for(world: World) -> None:
    """When all has been seen already, the window ends without a shortfall."""
    told: list[str] = []

    observation = observe(observed(world.observation()), told.append)

    assert observation.shortfall is None
    assert told == ["watching rotations: 3 of 3 (api)"]
    assert observation.cutoff.at < observation.end.at


@pytest.mark.usefixtures("_window_is_over")
def test_shortfall_names_the_workload_that_lacks_rotations(world: World) -> None:
    """A window whose time is over ends, and says which workload has rotated how often."""
    world.reschedule(VALID, 1, 9)
    told: list[str] = []

    observation = observe(observed(world.observation()), told.append)

    assert observation.shortfall is not None
    assert observation.shortfall.startswith("3 rotations of each workload: not within")
    assert observation.shortfall.endswith(f"last seen: 1 of {VALID}")
    assert told == [f"watching rotations: 1 of 3 ({VALID})"]


@pytest.mark.usefixtures("_window_is_over")
def test_rotation_that_nobody_can_judge_is_made_up_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rotation at which the suite itself was too late is not one of those that are wanted."""
    # Nothing is waited for: there is one look at each window.
    monkeypatch.setattr(Period, "longest", lambda *_: -10.0)
    came = world.came("api", 2)
    world.show(Source.CERTS, "api", came, came + LAG + 1, world.issues["api"][1])
    observation = world.observation()
    at = moment(came).at
    observation.timeline.attention.stalled_between(at, at + OWN_LAG + 0.5)
    told: list[str] = []

    again = observe(observed(observation), told.append)

    assert told == ["watching rotations: 3 of 3 (api)", "watching rotations: 2 of 3 (api)"]
    assert again.shortfall is not None
    assert again.shortfall.endswith("last seen: 2 of api")


def test_death_ends_the_window_at_once(world: World) -> None:
    """A component that has died ends the window with its name instead of a shortfall."""

    def alive() -> None:
        raise PlatformError("died: api.envoy (status 1)")

    testbed = observed(world.observation(), assert_alive=alive)

    with pytest.raises(PlatformError, match=r"api\.envoy"):
        observe(testbed, lambda _: None)


def test_backdating_is_spires() -> None:
    """SPIRE backdates by ten seconds: NotBeforeCushion, the same since 1.9."""
    assert BACKDATING == 10
