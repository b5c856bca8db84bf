"""The scheduler boots testbeds, runs experiments, and picks what can be checked by then."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from svidproof import Budget, NotYet, eventually
from svidproof.checks.experiments import Experiment, Place
from svidproof.run.scheduler import CHANGED, Group, Scheduler, groups_of
from svidproof.run.testbeds import BootError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from svidproof.testbed.testbed import Testbed

SOON = Budget("what happens in the background", 10, 0.01)
API, PROXY, FAULTS = Place("api"), Place("front-proxy"), Place("api", "faults")


class Stage:
    """Testbeds that are booted in no time, and all that happens to them, in order."""

    def __init__(self, *, side_by_side: bool = True) -> None:
        """Nothing has happened."""
        self.happened: list[str] = []
        self.broken: set[Place] = set()
        self.failed: list[str] = []
        self._side_by_side = side_by_side
        self._up: dict[Place, Testbed] = {}

    def place(self, place: Place) -> Place:
        """See Testbeds."""
        return place if self._side_by_side else place.shared

    def get(self, name: str, beside: str) -> Testbed:
        """See Testbeds."""
        place = self.place(Place(name, beside))
        if place in self.broken:
            raise BootError(f"{place} does not boot")
        if place not in self._up:
            self.happened.append(f"boot {place}")
            self._up[place] = cast("Testbed", SimpleNamespace(place=place))
        return self._up[place]

    def retire(self, place: Place) -> None:
        """See Testbeds."""
        self.happened.append(f"end {place}")

    def changing(self, _place: Place) -> Any:  # noqa: ANN401  a context manager
        """See Testbeds."""
        return nullcontext()


@pytest.fixture
def stage() -> Stage:
    """Where testbeds stand side by side."""
    return Stage()


@pytest.fixture
def schedulers() -> Iterator[Callable[..., Scheduler]]:
    """Makes schedulers, which are closed in the end."""
    made: list[Scheduler] = []

    def make(stage: Stage, jobs: int = 8) -> Scheduler:
        scheduler = Scheduler(
            cast("Any", stage),
            jobs=jobs,
            boots=1,
            on_failure=lambda e, *_: stage.failed.append(e.name),
            before_end=lambda *_: None,
        )
        made.append(scheduler)
        return scheduler

    yield make
    for scheduler in made:
        assert scheduler.close() == []


def group(*places: Place, experiments: tuple[Experiment, ...] = (), rank: int = 0) -> Group:
    """Checks that need these."""
    return Group([], frozenset(places), experiments, rank)


def order(scheduler: Scheduler, groups: dict[str, Group]) -> list[str]:
    """The names of these groups as they are picked, until none is left."""
    names = {found: name for name, found in groups.items()}
    scheduler.start(list(groups.values()))
    picked = []
    while (found := scheduler.next(lambda _: None)) is not None:
        picked.append(names[found])
        scheduler.done(found)
    return picked


def test_longest_experiment_is_booted_first(
    stage: Stage, schedulers: Callable[..., Scheduler]
) -> None:
    """Whatever the order of the checks is."""
    short = Experiment("short", PROXY, lambda *_: "short", seconds=5)
    long = Experiment("long", FAULTS, lambda *_: "long", seconds=30, changes=True)
    scheduler = schedulers(stage)
    groups = {
        "live": group(API),
        "short": group(PROXY, experiments=(short,)),
        "long": group(FAULTS, experiments=(long,)),
    }

    order(scheduler, groups)

    boots = [line for line in stage.happened if line.startswith("boot")]
    assert boots == ["boot api-faults", "boot front-proxy", "boot api"]
    assert (scheduler.record(short), scheduler.record(long)) == ("short", "long")


def test_checks_do_not_wait_for_what_they_do_not_need(
    stage: Stage, schedulers: Callable[..., Scheduler]
) -> None:
    """While an experiment goes on, everything else is checked."""
    checked = threading.Event()

    def wait(*_: object) -> str:
        assert checked.wait(10), "nothing was checked meanwhile"
        return "seen"

    window = Experiment("window", API, wait, seconds=30)
    scheduler = schedulers(stage)
    live = group(API)
    scheduler.start([group(API, experiments=(window,)), group(API, rank=1), live])

    assert scheduler.next(lambda _: None) is live
    scheduler.done(live)
    checked.set()
    picked = [_next(scheduler).experiments, _next(scheduler).rank]

    assert picked == [(window,), 1]
    assert scheduler.record(window) == "seen"


def _next(scheduler: Scheduler) -> Group:
    found = scheduler.next(lambda _: None)
    assert found is not None
    scheduler.done(found)
    return found


def test_where_there_is_one_testbed_a_change_comes_last(
    schedulers: Callable[..., Scheduler],
) -> None:
    """After the window, after all other checks, and before its own."""
    stage = Stage(side_by_side=False)
    window = Experiment("window", API, lambda *_: stage.happened.append("window"), seconds=30)

    def change(*_: object) -> None:
        stage.happened.append("change")

    fault = Experiment("fault", FAULTS, change, seconds=5, changes=True)
    rank = CHANGED + fault.number
    groups = {
        "fault": group(API, experiments=(fault,), rank=rank),
        "last": group(API, rank=1),
        "live": group(API),
        "window": group(API, experiments=(window,)),
    }

    picked = order(schedulers(stage, jobs=1), groups)

    assert sorted(picked[:2]) == ["live", "window"]
    assert picked[2:] == ["last", "fault"]
    assert stage.happened[:3] == ["boot api", "window", "change"]


def test_testbed_is_ended_when_nobody_needs_it(
    stage: Stage, schedulers: Callable[..., Scheduler]
) -> None:
    """With one job the next is booted only then."""
    picked = order(schedulers(stage, jobs=1), {"api": group(API), "proxy": group(PROXY)})

    assert picked == ["api", "proxy"]
    assert stage.happened[:3] == ["boot api", "end api", "boot front-proxy"]


def test_failures_stop_nothing_else(stage: Stage, schedulers: Callable[..., Scheduler]) -> None:
    """What a boot or an experiment raises is raised for those who ask."""
    stage.broken.add(PROXY)

    def break_down(*_: object) -> None:
        raise RuntimeError("it broke")

    broken = Experiment("broken", API, break_down, seconds=5)
    homeless = Experiment("homeless", PROXY, lambda *_: None, seconds=5)
    scheduler = schedulers(stage)
    groups = {
        "homeless": group(PROXY, experiments=(homeless,)),
        "broken": group(API, experiments=(broken,)),
        "live": group(API),
    }

    assert sorted(order(scheduler, groups)) == sorted(groups)

    with pytest.raises(RuntimeError, match="it broke"):
        scheduler.record(broken)
    with pytest.raises(BootError, match="front-proxy does not boot"):
        scheduler.record(homeless)
    assert stage.failed == ["broken"]


def test_close_stops_what_waits(stage: Stage, schedulers: Callable[..., Scheduler]) -> None:
    """At its next look; that is no failure, and the testbed is ended."""
    begun = threading.Event()

    def never() -> None:
        begun.set()
        raise NotYet("it goes on")

    endless = Experiment(
        "endless", API, lambda *_: eventually(never, Budget("the end", 60, 0.01)), seconds=5
    )
    scheduler = schedulers(stage)
    scheduler.start([group(API, experiments=(endless,))])
    assert begun.wait(SOON.seconds)

    assert scheduler.close() == []

    assert stage.failed == []
    assert stage.happened == ["boot api", "end api"]


def test_experiment_that_nobody_announced_runs_when_it_is_asked(
    stage: Stage, schedulers: Callable[..., Scheduler]
) -> None:
    """As for a fixture that a check asks for by its name."""
    late = Experiment("late", API, lambda bed, _: bed.place, seconds=1)
    scheduler = schedulers(stage)
    scheduler.start([])

    assert scheduler.record(late) == API
    assert scheduler.record(late) == API
    assert stage.happened == ["boot api"]


def test_checks_of_a_module_that_need_the_same_stay_together() -> None:
    """In the order of the first of each."""
    places = frozenset({API})
    items = [cast("Any", SimpleNamespace(path=Path(name))) for name in ("a", "b", "a", "a")]
    needs = [(places, (), 0), (places, (), 0), (places, (), 1), (places, (), 0)]

    found = groups_of((item, *need) for item, need in zip(items, needs, strict=True))

    assert [g.items for g in found] == [[items[0], items[3]], [items[1]], [items[2]]]
