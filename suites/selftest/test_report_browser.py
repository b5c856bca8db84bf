"""report.html in a real Chromium: it opens alone, shows what the report says, and can be used."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from svidproof.catalogue import Catalogue
from svidproof.report.model import Evidence
from svidproof.report.page import lanes, render

from . import told

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
DESKTOP = {"viewport": {"width": 1280, "height": 900}}
# Texts that stand out less from the nearest painted ground than WCAG 2.1 (AA) wants.
PALE = """body => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const known = new Map();
  const rgba = colour => {
    if (!known.has(colour)) {
      canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
      known.set(colour, [...canvas.getImageData(0, 0, 1, 1).data]);
    }
    return known.get(colour);
  };
  const luminance = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
  const contrast = element => {
    let at = element;
    while (at && !rgba(getComputedStyle(at).backgroundColor)[3]) at = at.parentElement;
    const ground = luminance(rgba(getComputedStyle(at ?? body).backgroundColor));
    const text = luminance(rgba(getComputedStyle(element).color));
    return (Math.max(ground, text) + 0.05) / (Math.min(ground, text) + 0.05);
  };
  const texts = [...body.querySelectorAll('main *, header *, nav *')].filter(element =>
    element.checkVisibility()
    && [...element.childNodes].some(n => n.nodeType === 3 && n.data.trim()));
  return [texts.length, texts.filter(e => contrast(e) < 4.5).map(e => e.textContent.slice(0, 60))];
}"""
UNFOLD = "body => body.querySelectorAll('details').forEach(details => { details.open = true; })"


@pytest.fixture(scope="module")
def chromium() -> "Iterator[Browser]":
    """The machine's own browser."""
    names = ("chromium", "google-chrome", "chromium-browser")
    found = os.environ.get("SVIDPROOF_BROWSER") or next(filter(None, map(shutil.which, names)), "")
    try:
        from playwright.sync_api import sync_playwright  # noqa: PLC0415  it may not be there
    except ImportError:
        pytest.skip("playwright is not installed: pip install playwright")  # noqa: TID251  no check
    if not found:
        pytest.skip("there is no chromium on this machine: apt install chromium")  # noqa: TID251  no check
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found)
        yield browser
        browser.close()


class Opened:
    """A page that was opened, and what it did beside showing itself."""

    def __init__(self, browser: "Browser", path: Path, **looks: Any) -> None:  # noqa: ANN401  playwright's
        """Open it, and wait until its charts are drawn."""
        self.context = browser.new_context(**looks)
        self.page: Page = self.context.new_page()
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on(
            "console",
            lambda m: self.errors.append(m.text) if m.type in {"error", "warning"} else None,
        )
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-drawn]", timeout=30_000)

    def shown(self) -> list[str]:
        """The requirements that are to be seen."""
        rows = self.page.locator(".requirement:visible")
        return [row.get_attribute("id") or "" for row in rows.all()]

    def range(self) -> tuple[float, float]:
        """What the timeline shows, by its axis."""
        code = "[Bokeh.documents[0].get_model_by_name('across')].map(r => [r.start, r.end])[0]"
        begin, end = self.page.locator("html").evaluate(f"() => {code}")
        return begin, end


@pytest.fixture
def written(tmp_path: Path, evidence: Evidence, catalogue: Catalogue) -> Path:
    """The page of a run in which a check failed in the worst words."""
    return render.write(told.write(tmp_path, told.broken(evidence), catalogue), tmp_path)


@pytest.fixture
def opened(chromium: "Browser", written: Path) -> Iterator[Opened]:
    """It, on a desktop."""
    found = Opened(chromium, written, **DESKTOP)
    yield found
    found.context.close()


def test_page_opens_alone_and_without_errors(opened: Opened, written: Path) -> None:
    """Nothing but the file is asked for, nothing is complained of, and nothing is taken over."""
    page = opened.page
    page.locator("body").evaluate(UNFOLD)
    for chart in page.locator(".chart").all():
        chart.scroll_into_view_if_needed()
        box = chart.bounding_box()
        assert box is not None
        for step in range(1, 40):
            page.mouse.move(box["x"] + box["width"] * step / 40, box["y"] + box["height"] / 3)

    assert opened.requests == [written.as_uri()]
    assert opened.errors == []
    assert page.title() == "Not conformant: SPIRE 1.15.3 and Envoy 1.40.0 · svidproof"
    assert page.locator("img").count() == 0


def test_what_a_component_logged_is_text_in_a_chart(opened: Opened, written: Path) -> None:
    """The bubble at a mark shows a hostile message as it is, and does nothing of it."""
    page = opened.page
    page.locator("[data-lanes]").select_option(label="SPIRE")
    chart = page.locator("#t0-lanes")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    assert box is not None
    begin, end = opened.range()
    x = box["x"] + 6 + (3.0 - begin) / (end - begin) * (box["width"] - 12)
    y = box["y"] + lanes.LABEL + 2.5 * lanes.TICKS
    bubble = page.locator(".bk-tooltip-content").first
    for aside in range(-12, 13):
        page.mouse.move(x + aside, y)
        if bubble.is_visible():
            break

    assert "<script>document.title='taken'</script>" in bubble.inner_text()
    assert page.locator("img").count() == 0
    assert opened.requests == [written.as_uri()]
    assert "taken" not in page.title()


def test_page_shows_the_numbers_of_the_report(opened: Opened, written: Path) -> None:
    """Verdict, reason, counts, requirements with results, measurements."""
    report = json.loads(written.with_name("report.json").read_text())
    page = opened.page

    assert page.locator("h1").inner_text().strip() == "Not conformant"
    assert page.locator(".reason").inner_text() == "ONE-1 does not hold."
    results = [r["result"] for r in report["requirements"]]
    for name in set(results):
        count = page.locator(f".counts li:has(.r-{name}) b").inner_text()
        assert int(count) == results.count(name)
    rows = page.locator(".requirement")
    assert {row.get_attribute("id"): row.get_attribute("data-result") for row in rows.all()} == {
        r["id"]: r["result"] for r in report["requirements"]
    }
    cells = [
        row.locator("td").all_inner_texts() for row in page.locator(".measures tbody tr").all()
    ]
    assert cells == [["lag", "0.1 s", "ONE-1"]]
    assert page.locator(".chart canvas").count() >= 4


def test_filters_leave_what_fits(opened: Opened) -> None:
    """By result, by profile, by words; together; and what does not fit is counted."""
    page = opened.page
    assert opened.shown() == ["ONE-1", "ONE-2", "TWO-1"]

    page.locator("#f-result").select_option("fail")
    assert opened.shown() == ["ONE-1"]
    assert page.locator("#f-count").inner_text() == "1 of 3"

    page.locator("#f-result").select_option("")
    page.locator("#f-text").fill("nearly ONE")
    assert opened.shown() == ["ONE-2"]

    page.locator("#f-text").fill("nothing is like this")
    assert opened.shown() == []
    assert page.locator("#f-none").is_visible()


def test_link_opens_what_it_leads_to(opened: Opened) -> None:
    """Though it be folded or filtered away."""
    page = opened.page
    page.locator("#f-text").fill("nothing is like this")

    page.locator("#fails-ONE-1 h3 a").click()

    assert page.locator("#ONE-1").evaluate("r => r.open")
    assert len(opened.shown()) == 3


def test_timeline_is_moved_by_keys_and_buttons(opened: Opened) -> None:
    """In, out, aside, and back to all; it never leaves what there is."""
    page = opened.page
    whole = opened.range()
    page.locator("#t0-lanes").focus()

    page.keyboard.press("+")
    near = opened.range()
    assert near[1] - near[0] == pytest.approx((whole[1] - whole[0]) / 2)

    page.keyboard.press("ArrowRight")
    assert opened.range()[0] > near[0]

    for _ in range(20):
        page.get_by_role("button", name="Zoom out").click()
    far = opened.range()
    assert far[1] - far[0] < 3 * (whole[1] - whole[0])

    page.keyboard.press("Tab")
    page.get_by_role("button", name="All", exact=True).click()
    assert opened.range() == whole


def test_timeline_shows_what_is_asked_for(opened: Opened) -> None:
    """A kind of mark can be left out, and one lane looked at alone."""
    page = opened.page
    visible = "() => Bokeh.documents[0].get_model_by_name('wire').visible"
    tall = page.locator("#t0-lanes").evaluate("c => c.clientHeight")

    page.get_by_label("wire", exact=True).uncheck()
    page.locator("[data-lanes]").select_option(label="client")

    assert page.locator("html").evaluate(visible) is False
    assert page.locator("#t0-lanes").evaluate("c => c.clientHeight") < tall

    page.locator("[data-lanes]").select_option("")
    assert page.locator("#t0-lanes").evaluate("c => c.clientHeight") == tall


@pytest.mark.parametrize("looks", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_can_be_read(
    chromium: "Browser", written: Path, looks: dict[str, Any], scheme: str
) -> None:
    """Nothing sticks out to the side, and text stands out from its ground, folded or not."""
    opened = Opened(chromium, written, **looks, color_scheme=scheme)
    page = opened.page
    page.locator("body").evaluate(UNFOLD)

    wide = page.locator("html").evaluate("d => [d.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1]
    texts, pale = page.locator("body").evaluate(PALE)
    assert texts > 80
    assert not pale
    opened.context.close()
