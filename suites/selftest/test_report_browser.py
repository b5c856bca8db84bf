"""report.html in a real Chromium: it opens alone, shows what the report says, and can be used."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from svidproof.model.catalogue import Catalogue
from svidproof.report.html import render
from svidproof.report.html.timeline import lanes
from svidproof.report.model import Evidence

from . import told
from .browsing import DESKTOP, PALE, PHONE, UNFOLD, Opened

if TYPE_CHECKING:
    from playwright.sync_api import Browser


class Run(Opened):
    """The page of a run."""

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
def opened(chromium: "Browser", written: Path) -> Iterator[Run]:
    """It, on a desktop."""
    found = Run(chromium, written, **DESKTOP)
    yield found
    found.context.close()


def test_page_opens_alone_and_without_errors(opened: Run, written: Path) -> None:
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


def test_what_a_component_logged_is_text_in_a_chart(opened: Run, written: Path) -> None:
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


def test_page_shows_the_numbers_of_the_report(opened: Run, written: Path) -> None:
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


def test_filters_leave_what_fits(opened: Run) -> None:
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


def test_link_opens_what_it_leads_to(opened: Run) -> None:
    """Though it be folded or filtered away."""
    page = opened.page
    page.locator("#f-text").fill("nothing is like this")

    page.locator("#fails-ONE-1 h3 a").click()

    assert page.locator("#ONE-1").evaluate("r => r.open")
    assert len(opened.shown()) == 3


def test_timeline_is_moved_by_keys_and_buttons(opened: Run) -> None:
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


def test_timeline_shows_what_is_asked_for(opened: Run) -> None:
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
    opened = Run(chromium, written, **looks, color_scheme=scheme)
    page = opened.page
    page.locator("body").evaluate(UNFOLD)

    wide = page.locator("html").evaluate("d => [d.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1]
    texts, pale = page.locator("body").evaluate(PALE)
    assert texts > 80
    assert not pale
    opened.context.close()
