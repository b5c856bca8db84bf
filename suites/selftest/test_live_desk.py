"""Each press of the live page is judged as a run would, one at a time, and told in one line."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from svidproof import Budget, Flaw, NotYet, eventually
from svidproof.checks.assertions import Accepted
from svidproof.checks.refusals import ROWS
from svidproof.cli.up.live import flaws
from svidproof.cli.up.live.actions import Busy, Button, Desk, Sides, Verdict
from svidproof.cli.up.live.overview import Relation, relations
from svidproof.model.catalogue import Deviation
from svidproof.model.errors import PlatformError
from svidproof.model.scenario import load_scenario

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from svidproof.cli.up.live.actions import Card

    Act = Callable[[Sides, Callable[[str], None]], None]

SOON = Budget("a card", 5, 0.005)
LAX = Deviation(
    "envoy-lax", ("ONE-2",), "envoy", ">=1.36", "Accepted", "Envoy is lax", "https://example.org"
)
KEY = "-----BEGIN PRIVATE KEY-----\nMIIabc\n-----END PRIVATE KEY-----"


def button(act: Act, name: str = "try", *, deviation: Deviation | None = None) -> Button:
    """A button that does something of which a refusal must come."""
    return Button(name, name, "Try", "api", "sent", "expected", Verdict.REFUSED, act, deviation)


@pytest.fixture
def desks() -> Iterator[list[Desk]]:
    """Desks to close in the end."""
    made: list[Desk] = []
    yield made
    for desk in made:
        desk.close()


def card_of(desk: Desk) -> Card:
    """The card of the press that was made."""

    def found() -> Card:
        cards = desk.cards()
        if not cards:
            raise NotYet("no card")
        return cards[-1]

    return eventually(found, SOON)


def press(desks: list[Desk], act: Act, *, deviation: Deviation | None = None) -> Card:
    """Press a button that does this, and wait for its card."""
    desks.append(desk := Desk([button(act, deviation=deviation)]))
    desk.press("try")
    return card_of(desk)


def raising(error: Exception) -> Act:
    """Something that ends so."""

    def act(_sides: Sides, _tell: Callable[[str], None]) -> None:
        raise error

    return act


def nothing(_sides: Sides, _tell: Callable[[str], None]) -> None:
    """Go well."""


@pytest.mark.parametrize(
    ("act", "deviation", "verdict"),
    [
        pytest.param(nothing, None, Verdict.REFUSED, id="as-expected"),
        pytest.param(raising(Accepted("let in")), None, Verdict.WRONG, id="let-in"),
        pytest.param(raising(AssertionError("it")), None, Verdict.WRONG, id="another-claim"),
        pytest.param(raising(PlatformError("gone")), None, Verdict.UNJUDGED, id="environment"),
        pytest.param(raising(Accepted("let in")), LAX, Verdict.KNOWN, id="known-deviation"),
        pytest.param(raising(AssertionError("it")), LAX, Verdict.WRONG, id="not-the-known-one"),
        pytest.param(nothing, LAX, Verdict.WRONG, id="deviation-has-gone"),
    ],
)
def test_verdict_is_what_a_run_would_say(
    desks: list[Desk], act: Act, deviation: Deviation | None, verdict: Verdict
) -> None:
    """By the same rules: claims, environment, known deviations."""
    card = press(desks, act, deviation=deviation)

    assert card.verdict is verdict
    assert bool(card.why) is (verdict is not Verdict.REFUSED)


def test_failure_is_one_line(desks: list[Desk]) -> None:
    """No traceback, whatever is raised."""
    card = press(desks, raising(RuntimeError("first\nsecond")))

    assert card.verdict is Verdict.UNJUDGED
    assert card.why == "RuntimeError: first"


def test_secrets_do_not_get_on_a_card(desks: list[Desk]) -> None:
    """Neither by what was seen nor by what went wrong."""

    def act(sides: Sides, _tell: Callable[[str], None]) -> None:
        sides.client = sides.envoy = sides.app = [f"saw {KEY}"]
        raise AssertionError(f"got {KEY.replace(chr(10), ' ')}")

    card = press(desks, act)

    for text in (*card.client, *card.envoy, *card.app, card.why):
        assert "private key removed" in text
        assert "MIIabc" not in text


def test_one_at_a_time(desks: list[Desk]) -> None:
    """While one is at work another press is refused, and says what for; afterwards it is not."""
    going = threading.Event()

    def slow(_sides: Sides, tell: Callable[[str], None]) -> None:
        tell("half way")
        going.wait(5)

    desks.append(desk := Desk([button(slow, "slow"), button(nothing, "other")]))
    desk.press("slow")
    eventually(lambda: _assert_progress(desk, "half way"), SOON)

    with pytest.raises(Busy, match="busy: slow"):
        desk.press("other")
    with pytest.raises(KeyError):
        desk.press("no such button")
    going.set()
    card_of(desk)
    desk.press("other")

    eventually(lambda: _assert_cards(desk, ["slow", "other"]), SOON)


def test_stop_ends_what_waits(desks: list[Desk]) -> None:
    """A press that would wait for long ends at once, without a card, and no other begins."""

    def waits(_sides: Sides, tell: Callable[[str], None]) -> None:
        def never() -> None:
            tell("waiting")
            raise NotYet("it does not come")

        eventually(never, Budget("what never comes", 60, 0.01))

    desks.append(desk := Desk([button(waits)]))
    desk.press("try")
    eventually(lambda: _assert_progress(desk, "waiting"), SOON)

    desk.stop()

    assert desk.cards() == []
    with pytest.raises(Busy, match="being stopped"):
        desk.press("try")


def test_what_is_started_at_a_press_outlives_it(desks: list[Desk]) -> None:
    """All presses run in one thread, with which nothing ends before the desk is closed."""
    threads = []

    def note(_sides: Sides, _tell: Callable[[str], None]) -> None:
        threads.append(threading.current_thread())

    desks.append(desk := Desk([button(note, "one"), button(note, "two")]))
    for number, name in enumerate(("one", "two")):
        desk.press(name)
        eventually(lambda n=number: _assert_cards(desk, ["one", "two"][: n + 1]), SOON)  # type: ignore[misc]
    desk.stop()

    assert threads[0] is threads[1]
    assert threads[0].is_alive()
    desk.close()
    assert not threads[0].is_alive()


def test_every_flaw_has_its_words() -> None:
    """Each that a check sends has a button, and no other."""
    told = [flaw for members in flaws.GROUPS.values() for flaw in members]

    assert len(told) == len(set(told))
    assert set(told) == {row.flaw for row in ROWS} | {Flaw.NO_CERTIFICATE}


def test_who_may_talk_to_whom_is_the_scenarios() -> None:
    """By what the servers accept, not by who calls."""
    servers = ("api", "api-trusted-ca")

    assert list(relations(load_scenario("api"))) == [
        Relation("valid-api-client", servers, may=True),
        Relation("invalid-api-client", servers, may=False),
    ]


def _assert_progress(desk: Desk, text: str) -> None:
    assert desk.progress == text


def _assert_cards(desk: Desk, labels: list[str]) -> None:
    assert [card.label for card in desk.cards()] == labels
