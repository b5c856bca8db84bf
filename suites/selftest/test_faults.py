"""A malformed answer is a component's fault; whatever else goes wrong is the suite's own."""

from __future__ import annotations

import pytest

from svidproof import Budget, eventually
from svidproof.model.errors.attribution import (
    Malformed,
    Row,
    SuiteFailure,
    Told,
    Unreadable,
    Unseen,
    only,
    read_json,
    reading,
)
from svidproof.model.verdict import Fault
from svidproof.run.collection import excuse_timeouts, raised_by
from svidproof.testbed.watch.attention import Attention
from svidproof.waiting import Overdue

SOON = Budget("something", 5, 0.01)


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        pytest.param(Malformed("no"), Fault.CLAIM, id="malformed"),
        pytest.param(AssertionError("no"), Fault.CLAIM, id="assertion"),
        pytest.param(KeyError("x"), Fault.ENVIRONMENT, id="key"),
        pytest.param(IndexError("x"), Fault.ENVIRONMENT, id="index"),
        pytest.param(ValueError("x"), Fault.ENVIRONMENT, id="value"),
        pytest.param(UserWarning("x"), Fault.ENVIRONMENT, id="warning"),
        pytest.param(SuiteFailure("x"), Fault.ENVIRONMENT, id="suite"),
        pytest.param(Unseen("x"), Fault.ENVIRONMENT, id="unseen"),
        pytest.param(Unreadable("x"), Fault.ENVIRONMENT, id="unreadable"),
        pytest.param(OSError(28, "No space left on device"), Fault.ENVIRONMENT, id="full-disk"),
    ],
)
def test_exceptions_are_blamed_on_whom_they_concern(error: Exception, fault: Fault) -> None:
    """Only an assertion, of which Malformed is one, says something about a component."""
    [raised] = raised_by(error)

    assert raised.fault is fault


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        pytest.param(Overdue("ready: not within 5 s"), Fault.ENVIRONMENT, id="overdue"),
        pytest.param(AssertionError("no answer (timed out)"), Fault.ENVIRONMENT, id="timed-out"),
        pytest.param(AssertionError("DEADLINE_EXCEEDED"), Fault.ENVIRONMENT, id="deadline"),
        pytest.param(AssertionError("expected 503, got 200"), Fault.CLAIM, id="wrong-answer"),
        pytest.param(Malformed("/certs is malformed"), Fault.CLAIM, id="malformed"),
    ],
)
def test_timeouts_are_no_claims_while_the_machine_stands_still(
    error: Exception, fault: Fault
) -> None:
    """What came too late says nothing of a component then; what came and is wrong does."""
    [raised] = excuse_timeouts(raised_by(error), 4.2)

    assert raised.fault is fault
    assert str(error) in raised.message
    assert ("ran nothing for 4.2 s" in raised.message) == (fault is Fault.ENVIRONMENT)


def test_longest_stall_is_found_within_a_time() -> None:
    """Only what lies in it counts, and stalls are not added up."""
    attention = Attention()
    attention.stalled_between(10.0, 12.0)
    attention.stalled_between(13.0, 14.5)

    assert attention.longest_stall(0.0, 20.0) == 2.0
    assert attention.longest_stall(11.5, 14.0) == 1.0
    assert attention.longest_stall(15.0, 20.0) <= 0.0


def test_groups_are_taken_apart() -> None:
    """A failure of the suite beside a broken claim is told apart from it."""
    group = ExceptionGroup("both", [Malformed("broken"), KeyError("x")])

    assert [r.fault for r in raised_by(group)] == [Fault.CLAIM, Fault.ENVIRONMENT]


@pytest.mark.parametrize("answer", ["", "{", "nonsense", "[" * 100_000, '{"a": "\ud800"', b"\xff"])
def test_text_that_is_not_json_is_malformed(answer: str | bytes) -> None:
    """JSON that cannot be read raises Malformed, with what it was."""
    with pytest.raises(Malformed, match="the answer is malformed"):
        read_json(answer, "the answer")


@pytest.mark.parametrize(
    "wrong", [None, 1, "text", [], {}, {"a": None}, {"a": {}}, {"a": []}, {"a": ["x"]}]
)
def test_json_of_another_form_is_malformed(wrong: object) -> None:
    """What lacks what it must have raises Malformed, whatever it is instead."""
    with pytest.raises(Malformed, match="the answer is malformed"), reading("the answer"):
        int(Told({"a": wrong})["a"]["a"][0]["b"])  # type: ignore[index]


def test_names_that_are_not_there_are_malformed_later_too() -> None:
    """A name is missed wherever it is asked for, and the message says what there is."""
    told = read_json('{"a": {"b": 1, "c": 2}}', "the answer")

    assert told["a"]["b"] == 1
    with pytest.raises(Malformed, match="'d' is missing; there is b, c"):
        told["a"]["d"]
    with pytest.raises(Malformed, match="'d' is missing"):
        told["a"].pop("d")
    assert told.get("d") is None
    assert told["a"].pop("d", 3) == 3
    assert told == {"a": {"b": 1, "c": 2}}


def test_places_that_are_empty_are_malformed() -> None:
    """A row is a tuple but for the places that it has not."""
    row = Row("ab")

    assert (row[0], row[-1], row[:1], row == ("a", "b")) == ("a", "b", ("a",), True)
    with pytest.raises(Malformed, match="only 2"):
        row[2]


@pytest.mark.parametrize("found", [(), (1, 2)], ids=["none", "two"])
def test_one_is_expected(found: tuple[int, ...]) -> None:
    """None and several of what there must be one of are malformed."""
    with pytest.raises(Malformed, match=f"expected one SVID, got {len(found)}"):
        only(found, "SVID")
    assert only([7], "SVID") == 7


def test_mistakes_of_the_suite_pass_through() -> None:
    """What the suite raises of its own is not turned into a component's fault."""
    for error in (Unseen("late"), OSError("no"), AssertionError("no")):
        with pytest.raises(type(error)) as raised, reading("the answer"):
            raise error
        assert raised.value is error


def test_malformed_answers_are_not_awaited() -> None:
    """Nothing better comes of a malformed answer: it is told at once, not when time is up."""
    asked: list[int] = []

    def ask() -> None:
        asked.append(1)
        raise Malformed("no JSON")

    with pytest.raises(Malformed, match="no JSON"):
        eventually(ask, SOON)
    assert asked == [1]
