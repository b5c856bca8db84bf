"""Waiting keeps to its budget, says what it waited for, and never waits in vain."""

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from svidproof import budgets
from svidproof.budgets import Budget
from svidproof.waiting import (
    REAL_CLOCK,
    NotYet,
    Overdue,
    Stopped,
    consistently,
    eventually,
    stop_on,
    to_the_end,
)

TEA = Budget("tea", 2.0, 0.5)


class Clock:
    """A clock that goes on only while somebody waits by it."""

    def __init__(self) -> None:
        """Start at an odd hour, so that nobody takes it for zero."""
        self.now = 1234.5
        self.waits: list[float] = []

    def monotonic(self) -> float:
        """The present."""
        return self.now

    def wait(self, seconds: float) -> None:
        """Go on."""
        self.waits.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    """A clock that costs no time."""
    return Clock()


def after(attempts: int, error: type[Exception] = NotYet) -> Callable[[], str]:
    """A condition that holds after so many attempts."""
    asked = count(1)

    def condition() -> str:
        number = next(asked)
        if number <= attempts:
            raise error(f"no tea at attempt {number}")
        return "tea"

    return condition


def test_what_holds_at_once_costs_no_time(clock: Clock) -> None:
    """A condition that holds is asked once, and its value returned."""
    assert eventually(after(0), TEA, clock=clock) == "tea"
    assert clock.waits == []


@pytest.mark.parametrize("attempts", [1, 2, 4])
def test_it_is_asked_until_it_holds(clock: Clock, attempts: int) -> None:
    """A condition is asked again after each interval, until it holds."""
    assert eventually(after(attempts), TEA, clock=clock) == "tea"
    assert clock.waits == [TEA.interval] * attempts


@pytest.mark.parametrize(
    ("budget", "attempts"),
    [
        pytest.param(Budget("b", 2.0, 0.5), 5, id="whole-intervals"),
        pytest.param(Budget("b", 2.2, 0.5), 5, id="a-rest"),
        pytest.param(Budget("b", 0.3, 0.5), 1, id="shorter-than-its-interval"),
        pytest.param(Budget("b", 0.0, 0.5), 1, id="nothing"),
        pytest.param(Budget("b", -3.0, 0.5), 1, id="already-spent"),
    ],
)
def test_budget_is_kept(clock: Clock, budget: Budget, attempts: int) -> None:
    """A budget is never overdrawn, and there is always one attempt."""
    start = clock.now

    with pytest.raises(Overdue, match=f"asked {attempts} times"):
        eventually(after(99), budget, clock=clock)

    assert clock.now - start <= max(budget.seconds, 0)
    assert len(clock.waits) == attempts - 1


def test_a_slow_condition_counts_against_its_budget(clock: Clock) -> None:
    """What a condition itself takes is part of its budget."""

    def slow() -> None:
        clock.now += 1.4
        raise NotYet("still brewing")

    with pytest.raises(Overdue, match="asked 2 times"):
        eventually(slow, TEA, clock=clock)


def test_failure_says_what_was_awaited_and_seen_last(clock: Clock) -> None:
    """The error names the budget, its seconds, the attempts, and the last thing seen."""
    with pytest.raises(Overdue) as raised:
        eventually(after(99), TEA, clock=clock)

    assert str(raised.value) == (
        "tea: not within 2 s (asked 5 times); last seen: no tea at attempt 5"
    )
    assert isinstance(raised.value.__cause__, NotYet)


def test_a_bare_assert_is_a_condition(clock: Clock) -> None:
    """A plain AssertionError means "not yet", as NotYet does."""
    assert eventually(after(2, AssertionError), TEA, clock=clock) == "tea"


@pytest.mark.parametrize("error", [ValueError, KeyError, OSError, KeyboardInterrupt])
def test_other_errors_are_not_waited_out(clock: Clock, error: type[Exception]) -> None:
    """An error that is no assertion ends the wait at once, as it is."""
    with pytest.raises(error):
        eventually(after(1, error), TEA, clock=clock)

    assert clock.waits == []


def test_overdue_is_not_retried(clock: Clock) -> None:
    """A wait within a wait that has failed is not started again."""
    with pytest.raises(Overdue, match="no tea at attempt 1"):
        eventually(after(1, Overdue), TEA, clock=clock)

    assert clock.waits == []


@pytest.mark.parametrize("dies_at", [1, 3])
def test_death_ends_the_wait_at_once(clock: Clock, dies_at: int) -> None:
    """When a component has died, its death is told and nothing is asked of it any more."""
    asked: list[int] = []
    looks = count(1)

    def alive() -> None:
        if next(looks) >= dies_at:
            raise RuntimeError("the cook has died")

    def condition() -> None:
        asked.append(1)
        raise NotYet("no tea")

    with pytest.raises(RuntimeError, match="the cook has died"):
        eventually(condition, TEA, alive=alive, clock=clock)

    assert len(asked) == len(clock.waits) == dies_at - 1


def test_what_goes_on_holding_is_asked_to_the_end(clock: Clock) -> None:
    """A condition that must go on holding is asked all through its budget."""
    asked = count()

    consistently(lambda: next(asked), TEA, clock=clock)

    assert next(asked) == 5
    assert sum(clock.waits) == TEA.seconds


def test_first_failure_ends_what_should_go_on(clock: Clock) -> None:
    """The first failure ends the wait, and the error says how long it had held."""
    answers: Iterator[bool] = iter([True, True, False])

    def condition() -> None:
        assert next(answers), "the tea is cold"

    with pytest.raises(AssertionError) as raised:
        consistently(condition, TEA, clock=clock)

    expected = "tea: held for 1.00 s of 2 s (2 times), then: the tea is cold"
    assert str(raised.value).startswith(expected)
    assert not isinstance(raised.value, Overdue)


def test_death_ends_what_should_go_on(clock: Clock) -> None:
    """When a component has died, nothing goes on holding."""

    def alive() -> None:
        if clock.waits:
            raise RuntimeError("the cook has died")

    with pytest.raises(RuntimeError, match="the cook has died"):
        consistently(lambda: None, TEA, alive=alive, clock=clock)

    assert len(clock.waits) == 1


def test_real_clock_goes_on() -> None:
    """By the real clock, a wait ends when another thread has done its part."""
    done = threading.Event()
    threading.Timer(0.02, done.set).start()
    start = time.monotonic()

    def condition() -> None:
        assert done.is_set(), "not done"

    eventually(condition, Budget("thread", 5, 0.005))

    assert 0.01 < REAL_CLOCK.monotonic() - start < 5


def test_every_budget_is_named_and_can_be_kept() -> None:
    """Each budget of the suite has a name of its own and time for more than one look."""
    known = [b for b in vars(budgets).values() if isinstance(b, Budget)]

    assert len({budget.name for budget in known}) == len(known)
    assert all(budget.seconds >= 10 * budget.interval > 0 for budget in known)
    with pytest.raises(dataclasses.FrozenInstanceError):
        known[0].seconds = 99  # type: ignore[misc]


def test_waits_of_a_thread_stop_with_the_run() -> None:
    """All of that thread, but those of the clean-up; no others."""
    end, found = threading.Event(), list[object]()

    def wait() -> None:
        stop_on(end)
        end.set()
        for waits in (eventually, consistently):
            with pytest.raises(Stopped):
                waits(lambda: None, TEA)
        with to_the_end():
            found.append(eventually(lambda: "clean", TEA))
        with pytest.raises(Stopped):
            eventually(lambda: None, TEA)
        found.append("stopped")

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join()

    assert found == ["clean", "stopped"]
    assert eventually(lambda: "goes on", TEA) == "goes on"
