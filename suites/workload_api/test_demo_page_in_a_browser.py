"""The demo page in a real browser shows the same content, and updates live."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from svidproof import Budget, Period, Saw, Testbed, budgets, eventually, only, requirement
from svidproof.checks import DemoPage, Shown, demo_page, launched_browser
from svidproof.probes import fetch_x509

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def errors() -> list[str]:
    """Errors that the browser reports, and requests of the page to other places."""
    return []


@pytest.fixture(scope="module")
def opened(page: DemoPage, errors: list[str]) -> Iterator[Page]:
    """The page in a browser, loaded once."""
    with launched_browser() as browser:
        tab = browser.new_page(viewport=PHONE)  # type: ignore[arg-type]
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on(
            "console",
            lambda entry: errors.append(entry.text) if entry.type == "error" else None,
        )
        tab.on(
            "request",
            lambda request: (
                None
                if request.url.startswith(page.url)
                else errors.append(f"requested {request.url}")
            ),
        )
        tab.goto(page.url)
        tab.evaluate("window.loadedOnce = true")
        yield tab


@pytest.mark.usefixtures("greeter")
@requirement("GREETER-9")
def test_browser_follows_a_rotation(
    page: DemoPage, greeter: Testbed, opened: Page, errors: list[str], saw: Saw
) -> None:
    """A browser shows the Workload API's content, and a renewed SVID without a reload."""
    ttl, sync = greeter.scenario.svid_ttl, greeter.settings.timing.sync_s
    budget = Budget("a browser shows a renewed SVID", Period.of(ttl, sync).longest(ttl) + 5.0)

    def compared() -> Shown:
        answer = fetch_x509(page.program.workload_api())
        shown = Shown.read(opened.content())
        wrong = demo_page.differences(
            shown.of("svid"), [demo_page.of_svid(svid) for svid in answer.svids]
        )
        assert not wrong, f"the browser differs from the Workload API: {wrong}"
        return shown

    first = eventually(compared, budgets.PAGE).serials

    def renewed() -> Shown:
        shown = compared()
        assert shown.serials != first, f"still {first}"
        return shown

    last = eventually(renewed, budget).serials

    assert opened.evaluate("window.loadedOnce"), "the page was reloaded"
    assert not errors, errors[0]
    assert "Renewed" in opened.inner_text("[role=status]"), "the page does not announce the renewal"
    saw(f"{first[0]} became {last[0]} without a reload")


@pytest.mark.usefixtures("greeter")
@requirement("GREETER-9")
def test_browser_shows_a_token_for_the_typed_audience(
    page: DemoPage, opened: Page, errors: list[str]
) -> None:
    """Typing an audience on a phone shows the JWT-SVID for it, and no text is cut off."""
    opened.fill("#audience", "typed.example")

    opened.press("#audience", "Enter")

    def shown() -> Shown:
        seen = Shown.read(opened.content())
        assert seen.of("jwt"), "no JWT-SVID is shown"
        return seen

    fields = only(eventually(shown, budgets.PAGE).of("jwt"), "JWT-SVID")
    assert fields["aud"] == "typed.example", f"for {fields['aud']}"
    assert fields["sub"] == page.program.spiffe_id, f"of {fields['sub']}"
    width = opened.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["width"], f"the page is {width} pixels wide"
    assert opened.evaluate("window.loadedOnce"), "the page was reloaded"
    assert not errors, errors[0]
