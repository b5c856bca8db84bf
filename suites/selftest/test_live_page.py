"""`svidproof up --ui`, the real one, in a real browser: it shows what runs, and tries it.

One testbed for all of it, and the tests in their order: a boot each would take too long.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from svidproof import Budget, eventually
from svidproof.model.renewal_rule import Period
from svidproof.model.scenario import load_scenario
from svidproof.model.settings import BRISK
from svidproof.supply import tools

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Locator, Page

WORKLOADS = ["api", "valid-api-client", "invalid-api-client", "api-trusted-ca"]
TTL = load_scenario("api").svid_ttl
ROTATED = Budget("a rotation is shown", Period.of(TTL, BRISK.sync_s).longest(TTL) + 5.0, 0.2)
CARD = Budget("a card", 15, 0.05)
BOOT_S, END_S = 120.0, 15.0
PHONE = {"width": 390, "height": 844}


class Up:
    """The command, while it runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Wait until it says where the page is."""
        self.process = process
        self.said = ""
        overdue = threading.Timer(BOOT_S, self.process.kill)
        overdue.start()
        for line in self.process.stdout or ():
            self.said += line
            if "live page" in line:
                break
        overdue.cancel()
        assert "live page" in self.said, self.said
        self.url = self.said.split()[-1]
        [socket] = re.findall(r"unix://(\S+)", self.said)
        self.directory = Path(socket).parent.parent
        self.children = psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    """It; the tools are there before, however long it takes to get them."""
    for name in tools.UNDER_TEST:
        tools.resolve(name)
    argv = [sys.executable, "-m", "svidproof.cli.main", "up", "api", "--ui"]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield Up(process)
        finally:
            process.terminate()
            process.wait(END_S)


@pytest.fixture(scope="module")
def complaints() -> list[str]:
    """What the browser complains of, and where else the page wanted to go."""
    return []


def expect(locator: Locator) -> Any:  # noqa: ANN401  its class is not exported
    """Playwright's assertions, which wait and need no `eval` in the page."""
    from playwright.sync_api import expect as assertions  # noqa: PLC0415  not on every machine

    return assertions(locator)


@pytest.fixture(scope="module")
def page(chromium: Browser, up: Up, complaints: list[str]) -> Page:
    """The page, open in a browser, never loaded again."""
    return _open(chromium, up.url, complaints)


@pytest.fixture(scope="module")
def first(page: Page) -> dict[str, str]:
    """The serials that it showed in the beginning."""
    expect(page.locator("#lives tr")).to_have_count(4)
    return _cells(page, 4)


def _open(chromium: Browser, url: str, complaints: list[str]) -> Page:
    tab = chromium.new_page()
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on(
        "console", lambda m: complaints.append(m.text) if m.type in {"error", "warning"} else None
    )
    own = url.partition("#")[0]
    tab.on("request", lambda r: None if r.url.startswith(own) else complaints.append(r.url))
    tab.goto(url)
    tab.wait_for_selector("html[data-drawn]", timeout=30_000)
    tab.evaluate("window.neverLoadedAgain = true")
    return tab


def _cells(page: Page, column: int) -> dict[str, str]:
    rows = page.locator("#lives tr").all()
    cells = [row.locator("th, td").all_inner_texts() for row in rows]
    return {found[0]: found[column] for found in cells}


def _card(page: Page, press: str) -> dict[str, str]:
    """Press a button by the keyboard, and read the card that comes of it."""
    number = page.locator("#cards > li").count() + 1
    page.locator(f'[data-press="{press}"]').press("Enter")
    page.wait_for_selector(f'#cards > li[data-number="{number}"]', timeout=CARD.seconds * 1000)
    newest = page.locator("#cards > li").first
    return {
        name: newest.locator(f".{name}").inner_text()
        for name in ("words", "client", "envoy", "app")
    }


def test_page_shows_what_runs(page: Page, first: dict[str, str], complaints: list[str]) -> None:
    """The scenario, who may talk to whom, each workload with its SVID, and a chart of them."""
    assert list(first) == WORKLOADS
    assert page.locator("h1").inner_text() == "api is running"
    assert page.locator(".who li").all_inner_texts() == [
        "valid-api-client may talk to api, api-trusted-ca",
        "invalid-api-client must be refused by api, api-trusted-ca",
    ]
    bars = "Bokeh.documents[0].get_model_by_name('svid').data_source.data.what.length"
    assert page.evaluate(bars) >= len(WORKLOADS)
    assert re.match(r"in about \d+ s|any moment", page.locator("#next").inner_text())
    assert complaints == []


def test_valid_client_is_let_in(page: Page) -> None:
    """The card says what client, Envoy and app saw."""
    card = _card(page, "valid-api-client@api")

    assert card["words"] == "Accepted, as expected"
    assert "HTTP 200" in card["client"]
    assert "handshake +1" in card["envoy"]
    assert card["app"] == "1 request, of spiffe://example.org/valid-api-client"


def test_flawed_client_is_refused(page: Page) -> None:
    """With the alert, the counter, the log, and an app that saw nothing; by the keyboard."""
    page.locator("#flaws summary").focus()
    page.keyboard.press("Enter")
    card = _card(page, "expired@api")

    assert card["words"] == "Rejected, as expected"
    assert "certificate unknown" in card["client"]
    assert "fail_verify_error +1" in card["envoy"]
    assert "CERTIFICATE VERIFY FAILED" in card["envoy"]
    assert card["app"].startswith("no request")


def test_known_deviation_is_called_so(page: Page) -> None:
    """As in a run: what Envoy is known to let in is neither as it must be, nor a surprise."""
    card = _card(page, "two-uri-sans@api")

    assert card["words"] == "Accepted: a known deviation"
    assert "HTTP 200" in card["client"]


def test_page_follows_a_rotation(page: Page, first: dict[str, str], complaints: list[str]) -> None:
    """Another serial of the same workload, without the page being loaded again."""

    def rotated() -> dict[str, str]:
        page.wait_for_timeout(100)
        now = _cells(page, 4)
        assert now["api"] != first["api"], f"still {now['api']}"
        return now

    eventually(rotated, ROTATED)

    assert page.evaluate("window.neverLoadedAgain")
    assert complaints == []


def test_restart_of_the_agent_goes_unnoticed(page: Page, up: Up) -> None:
    """And the agent that was started at a press goes on afterwards."""
    card = _card(page, "restart-spire-agent")

    assert card["words"] == "No request failed, as expected"
    assert ", 0 failed" in card["client"]
    assert up.process.poll() is None


def test_page_on_a_phone_has_the_same_cards(chromium: Browser, up: Up, page: Page) -> None:
    """A second page shows all that was tried, and nothing sticks out to the side."""
    complaints: list[str] = []
    second = _open(chromium, up.url, complaints)
    second.set_viewport_size(PHONE)  # type: ignore[arg-type]
    second.wait_for_selector("#cards > li")

    words = "#cards .words"
    assert second.locator(words).all_inner_texts() == page.locator(words).all_inner_texts()
    wide = second.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1]
    assert complaints == []
    second.close()


def test_it_ends_with_page_open_and_a_press_at_work(page: Page, up: Up) -> None:
    """Ctrl-C leaves nothing behind, and the page says that nobody answers."""
    page.locator('[data-press="rotate-ca"]').click()
    expect(page.locator("#said")).to_have_text(re.compile("^Rotate the CA"))
    begin = time.monotonic()

    os.kill(up.process.pid, signal.SIGINT)
    up.process.wait(END_S)

    assert time.monotonic() - begin < END_S / 2
    assert up.process.returncode == 0
    assert "api is down" in (up.process.stdout.read() if up.process.stdout else "")
    assert [child for child in up.children if child.is_running()] == []
    assert not up.directory.exists()
    expect(page.locator("h1")).to_contain_text("does not answer since")
    assert page.locator("[data-press]:not(:disabled)").count() == 0
