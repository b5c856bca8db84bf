"""matrix.html says what the reports say, asks for nothing, and can be read everywhere."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from svidproof.model.catalogue import Catalogue
from svidproof.model.verdict import Result
from svidproof.report.compare.matrix import Matrix, arrange, gather
from svidproof.report.html import matrix as pages
from svidproof.report.html import render
from svidproof.report.model import Check, Evidence

from . import told
from .browsing import DESKTOP, PALE, PHONE, UNFOLD, Opened
from .reading import Reader
from .test_matrix import versions

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SPIRES, ENVOYS = ("1.15.2", "1.15.3"), ("1.38.3", "1.39.3", "1.40.0")
WORST = "spire-1.15.3-envoy-1.40.0"


@pytest.fixture
def reports(tmp_path: Path, evidence: Evidence, catalogue: Catalogue) -> Path:
    """The reports of six runs, in one of which a check failed in the worst words."""
    for spire in SPIRES:
        for envoy in ENVOYS:
            name = f"spire-{spire}-envoy-{envoy}"
            found = told.broken(evidence) if name == WORST else evidence
            directory = tmp_path / name
            directory.mkdir()
            report = told.write(directory, versions(found, spire, envoy), catalogue)
            # Only one of them is opened.
            if name == WORST:
                render.write(report, directory)
            else:
                (directory / render.PAGE).touch()
    return tmp_path


@pytest.fixture
def matrix(reports: Path) -> Matrix:
    """They."""
    return arrange(gather(reports), whole=True)


@pytest.fixture
def written(matrix: Matrix, reports: Path) -> Path:
    """Their page."""
    return pages.write(matrix, reports)


@pytest.fixture
def page(written: Path) -> Reader:
    """The same, taken apart."""
    return Reader(written.read_text("utf-8"))


def words(text: str) -> str:
    """A text without its line breaks."""
    return " ".join(text.split())


def test_page_says_what_the_reports_say(page: Reader) -> None:
    """What was tested, the verdict, which combination is to blame, and how each requirement is."""
    text = words(page.text)

    assert "tested SPIRE 1.15.2 and 1.15.3 with Envoy 1.38.3, 1.39.3 and 1.40.0, on" in text
    assert "Not conformant" in text[: text.index("Combinations")]
    assert "1 of 6 combinations is not conformant: SPIRE 1.15.3, Envoy 1.40.0 (ONE-1" in text
    assert text.count("3 of 3 hold, 40 s") == 5
    assert text.count("2 of 3 hold, 40 s") == 1
    assert "1 requirement of 3 has not the same result everywhere." in text
    assert re.search(r"ONE-1 It holds ?(holds ?){5}fails", text)
    assert "Envoy is lax. https://example.org/lax ONE-2; met everywhere" in text
    assert re.search(r"SPIRE 1.15.2, Envoy 1.38.3 ?40 s ?none ?10.0 s \(10.0 to 10.0\)", text)


def test_page_leads_to_each_report(page: Reader, reports: Path) -> None:
    """By links that hold wherever the directory is moved."""
    links = {str(a["href"]) for a in page.all("a")}

    for spire in SPIRES:
        for envoy in ENVOYS:
            assert f"spire-{spire}-envoy-{envoy}/report.html" in links
    inside = {link for link in links if not link.startswith(("#", "https://"))}
    assert all((reports / link).is_file() for link in inside)
    ids = [str(attributes["id"]) for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)


def test_folder_may_be_called_anything(
    tmp_path: Path, evidence: Evidence, catalogue: Catalogue
) -> None:
    """A CI calls its artifacts as it likes; the link leads there all the same."""
    directory = tmp_path / 'a #1?"<b>%20'
    directory.mkdir()
    told.write(directory, evidence, catalogue)

    page = Reader(pages.make(arrange(gather(tmp_path), whole=True), tmp_path))

    assert "a%20%231%3F%22%3Cb%3E%2520/report.json" in [a["href"] for a in page.all("a")]
    assert not page.all("b")


def test_page_asks_for_nothing(page: Reader) -> None:
    """A policy forbids all but its own scripts, and what a component logged is text."""
    policies = [m["content"] or "" for m in page.all("meta") if "http-equiv" in m]
    assert [p.partition(";")[0] for p in policies] == ["default-src 'none'"]
    assert "script-src 'unsafe" not in policies[0]
    assert not [s for s in page.all("script") if "src" in s]
    assert [link["href"] for link in page.all("link")] == ["data:,"]
    assert not page.all("img")
    assert "saw </script><script>document.title='taken'" in page.text
    assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]


def test_same_results_are_told_in_one_sentence(
    tmp_path: Path, evidence: Evidence, catalogue: Catalogue
) -> None:
    """And a page without timelines needs no charts, nor their script."""
    for envoy in ENVOYS:
        (tmp_path / envoy).mkdir()
        told.write(tmp_path / envoy, versions(evidence, "1.15.3", envoy), catalogue)
        (tmp_path / envoy / "timeline.jsonl").unlink()

    text = pages.make(arrange(gather(tmp_path), whole=True), tmp_path)

    page = words(Reader(text).text)
    assert "All 3 combinations meet the 3 selected requirements" in page
    assert "Nothing: each of the 3 requirements has the same result in all 3" in page
    assert len(text) < 60_000


def test_what_a_reader_must_know_stands_on_top(
    tmp_path: Path, evidence: Evidence, catalogue: Catalogue
) -> None:
    """What was made wrong on purpose, what is a part only, and what is not there."""
    for spire, envoy, run in (
        ("1.15.2", "1.39.3", replace(evidence.run, sabotage="frozen")),
        ("1.15.3", "1.39.3", replace(evidence.run, selection="partial")),
        ("1.15.3", "1.40.0", evidence.run),
    ):
        changed = replace(evidence, run=run)
        directory = tmp_path / f"{spire}-{envoy}"
        directory.mkdir()
        told.write(directory, versions(changed, spire, envoy), catalogue)

    text = words(Reader(pages.make(arrange(gather(tmp_path), whole=True), tmp_path)).text)

    top = text[: text.index("Each was a run")]
    assert "SPIRE 1.15.2, Envoy 1.39.3 had an active sabotage: frozen." in top
    assert "SPIRE 1.15.3, Envoy 1.39.3: not every check of its profiles was selected." in top
    assert "SPIRE 1.15.2, Envoy 1.40.0 (there is no report of it)" in top


def test_each_platform_has_a_grid_of_its_own(
    tmp_path: Path, evidence: Evidence, catalogue: Catalogue
) -> None:
    """The longer axis goes down, so that a phone shows it."""
    for platform in ("kind", "local"):
        for envoy in ENVOYS:
            changed = replace(evidence, run=replace(evidence.run, platform=platform))
            directory = tmp_path / f"{platform}-{envoy}"
            directory.mkdir()
            told.write(directory, versions(changed, "1.15.3", envoy), catalogue)

    kind, local = pages.grids(arrange(gather(tmp_path), whole=True))

    assert (kind.title, local.title) == ("platform kind", "platform local")
    assert list(kind.columns) == ["SPIRE 1.15.3"]
    assert [name for name, _ in local.rows] == [f"Envoy {envoy}" for envoy in ENVOYS]


def test_page_has_no_secret(tmp_path: Path, evidence: Evidence, catalogue: Catalogue) -> None:
    """A report that somebody sends may have a key in a message."""
    key = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQ\n-----END EC PRIVATE KEY-----"
    for envoy, seen in (("1.39.3", key), ("1.40.0", "")):
        result = Result.FAIL if seen else Result.PASS
        check = Check("a/test_a.py::test_a", ("ONE-1",), "It does", result, 0.5, seen)
        (tmp_path / envoy).mkdir()
        changed = replace(evidence, checks=(check, *evidence.checks[1:]))
        told.write(tmp_path / envoy, versions(changed, "1.15.3", envoy), catalogue)

    with pytest.raises(render.PageError, match="private key"):
        pages.make(arrange(gather(tmp_path), whole=True), tmp_path)


class TestInABrowser:
    """The page as people see it."""

    @pytest.fixture
    def opened(self, chromium: "Browser", written: Path) -> Iterator[Opened]:
        """It, on a desktop."""
        found = Opened(chromium, written, **DESKTOP)
        yield found
        found.context.close()

    def test_page_opens_alone_and_without_errors(self, opened: Opened, written: Path) -> None:
        """Nothing but the file is asked for, and its charts are drawn."""
        assert opened.requests == [written.as_uri()]
        assert opened.errors == []
        assert opened.page.title() == (
            "Not conformant: SPIRE 1.15.2 and 1.15.3 with Envoy 1.38.3, 1.39.3 and 1.40.0, "
            "on platform local, profile core · svidproof"
        )
        assert opened.page.locator(".chart canvas").count() >= 2

    def test_verdict_of_each_cell_is_a_word_that_leads_to_its_report(self, opened: Opened) -> None:
        """By keyboard too: the first links after the sections are those of the grid."""
        cells = opened.page.locator(".grid td a")
        assert cells.all_inner_texts() == ["Conformant"] * 5 + ["Not conformant"]

        cells.last.focus()
        opened.page.keyboard.press("Enter")

        opened.page.wait_for_url(f"**/{WORST}/report.html")
        assert opened.page.locator("h1").inner_text().strip() == "Not conformant"

    @pytest.mark.parametrize("looks", [DESKTOP, PHONE], ids=["desktop", "phone"])
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_page_can_be_read(
        self, chromium: "Browser", written: Path, looks: dict[str, Any], scheme: str
    ) -> None:
        """Nothing sticks out to the side, and text stands out from its ground."""
        opened = Opened(chromium, written, **looks, color_scheme=scheme)
        opened.page.locator("body").evaluate(UNFOLD)

        wide = opened.page.locator("html").evaluate("d => [d.scrollWidth, innerWidth]")
        assert wide[0] <= wide[1]
        texts, pale = opened.page.locator("body").evaluate(PALE)
        assert texts > 60
        assert not pale
        opened.context.close()
