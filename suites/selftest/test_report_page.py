"""report.html says what report.json says, keeps quiet about secrets, and never costs a verdict."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from svidproof.model.catalogue import Catalogue
from svidproof.model.verdict import Result
from svidproof.report import build, edition, publish
from svidproof.report.html import excerpts, render, view
from svidproof.report.model import Evidence

from . import told
from .reading import Reader

Spoil = Callable[..., Evidence]
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def failed(tmp_path: Path, evidence: Evidence, catalogue: Catalogue) -> str:
    """The page of a run in which a check failed."""
    report = told.write(tmp_path, told.broken(evidence), catalogue)
    return render.write(report, tmp_path).read_text("utf-8")


def page_of(evidence: Evidence, catalogue: Catalogue, directory: Path) -> Reader:
    """The page of a run without a timeline."""
    return Reader(render.make(build.build(evidence, catalogue), directory))


def test_page_says_what_the_report_says(
    tmp_path: Path, evidence: Evidence, catalogue: Catalogue
) -> None:
    """Verdict, reason, components with checksums, every requirement and check, measurements."""
    report = build.build(evidence, catalogue)

    page = page_of(evidence, catalogue, tmp_path)

    assert "Conformant" in page.text
    assert "All 3 requirements hold, 1 with a known deviation." in page.text
    for component in report["components"]:
        assert component["sha256"] in page.text
        assert component["version"] in page.text
    for requirement in report["requirements"]:
        assert requirement["title"] in page.text
        assert {"class": "requirement", "id": requirement["id"], "data-result":
                requirement["result"], "data-profiles": " ".join(requirement["profiles"])
                } in page.all("details")  # fmt: skip
    assert "saw it" in page.text, "what a check saw"
    assert "Envoy is lax." in page.text, "why a deviation is tolerated"
    assert "https://example.org/lax" in [a["href"] for a in page.all("a")]
    assert re.search(r"lag\s*0\.1 s\s*ONE-1", page.text)
    assert "1 May 2026, 12:00 UTC" in page.text
    assert not re.search(r"\bFailures\b", page.text)


@pytest.mark.parametrize(
    ("run", "note"),
    [
        pytest.param({"sabotage": "frozen"}, "Sabotaged on purpose: frozen", id="sabotage"),
        pytest.param({"selection": "partial"}, "A part only", id="partial"),
        pytest.param({"stopped": "interrupted"}, "Stopped early: Interrupted.", id="stopped"),
        pytest.param({"warnings": ("mind this",)}, "Warning: Mind this.", id="warning"),
        pytest.param({"environment": "no SPIRE"}, "The environment failed", id="environment"),
    ],
)
def test_what_a_reader_must_know_stands_on_top(
    tmp_path: Path, spoil: Spoil, catalogue: Catalogue, run: dict[str, Any], note: str
) -> None:
    """Before any detail."""
    text = page_of(spoil(**run), catalogue, tmp_path).text

    assert text.index(note) < text.index("What was tested")


def test_failure_comes_first_with_its_evidence(failed: str) -> None:
    """Claim, what was seen, the command that reruns it, its files; then all the rest."""
    page = Reader(failed)

    assert page.text.index("Failures") < page.text.index("Profile core")
    assert "It should be so: It does" in page.text
    assert told.COMMAND in page.text
    assert "the end" in page.text, "of a log its end is shown"
    assert "the first 12 kB of 60 kB" in page.text
    assert f"{told.FOLDER}/config_dump.json" in [a["href"] for a in page.all("a")]


def test_evidence_of_one_check_stands_once(
    tmp_path: Path, evidence: Evidence, catalogue: Catalogue
) -> None:
    """Below its second requirement there is a link."""
    *others, last = told.broken(evidence).checks
    both = [
        replace(c, requirements=("ONE-1", "ONE-2")) if c.result is Result.FAIL else c
        for c in (*others, last)
    ]
    report = told.write(tmp_path, replace(evidence, checks=tuple(both)), catalogue)

    text = Reader(render.make(report, tmp_path)).text

    assert text.count("the end\n") == 1
    assert "Its evidence stands at ONE-1." in text


def test_nothing_is_taken_for_markup(failed: str) -> None:
    """Neither an element nor a script comes from what a component logs, or a check is called."""
    page = Reader(failed)

    assert [attributes.get("type") for attributes in page.all("script")] == [
        "application/json", None, None, None,
    ]  # fmt: skip
    assert not page.all("img")
    assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]
    assert "saw </script><script>document.title='taken'" in page.text
    assert "\x00" not in failed
    assert "\x1b" not in failed


def test_page_asks_for_nothing(failed: str) -> None:
    """No element fetches anything, and a policy forbids what might."""
    page = Reader(failed)

    policies = [m["content"] or "" for m in page.all("meta") if "http-equiv" in m]
    assert [p.partition(";")[0] for p in policies] == ["default-src 'none'"]
    assert "unsafe-eval" not in policies[0]
    assert "script-src 'unsafe" not in policies[0]
    assert not [s for s in page.all("script") if "src" in s]
    assert [link["href"] for link in page.all("link")] == ["data:,"]
    links = [a["href"] or "" for a in page.all("a")]
    assert all(re.match(r"#|https://|artifacts/|[\w.-]+\.(json|xml|jsonl)$", x) for x in links)


def test_links_within_the_page_lead_somewhere(failed: str) -> None:
    """Each has its place, and no place is there twice."""
    page = Reader(failed)

    ids = [str(attributes["id"]) for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    inside = {href[1:] for a in page.all("a") if (href := str(a["href"])).startswith("#")}
    assert inside <= set(ids)


@pytest.mark.parametrize("link", ["javascript:alert(1)", "data:text/html,x", "//evil.example"])
def test_only_addresses_become_links(
    tmp_path: Path, evidence: Evidence, catalogue: Catalogue, link: str
) -> None:
    """Whatever a report that somebody sends has for one."""
    report = build.build(evidence, catalogue)
    report["deviations"][0]["link"] = link

    page = Reader(render.make(report, tmp_path))

    assert link in page.text
    assert link not in [a["href"] for a in page.all("a")]


def test_page_has_no_secret(tmp_path: Path, evidence: Evidence, catalogue: Catalogue) -> None:
    """A key in an artifact does not come in, though it be an old report's."""
    report = told.write(tmp_path, told.broken(evidence), catalogue)
    key = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQ\n-----END EC PRIVATE KEY-----"
    (tmp_path / told.FOLDER / "traceback.txt").write_text(f"before {key} after")

    page = render.make(report, tmp_path)

    assert "MHcCAQ" not in page
    assert "before [private key removed] after" in page


def test_large_evidence_is_cut_and_told(
    tmp_path: Path, evidence: Evidence, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What explains most stays longest; what is not shown has its link; and the page is small."""
    report = told.write(tmp_path, told.broken(evidence), catalogue)
    monkeypatch.setattr(excerpts, "TOTAL", 2_000)

    page = Reader(render.make(report, tmp_path))

    assert "E  </script>" in page.text
    assert "the end\n" not in page.text
    assert f"{told.FOLDER}/log/api.envoy.tail.log" in [a["href"] for a in page.all("a")]


def test_page_that_is_too_large_goes_without_evidence(
    tmp_path: Path, evidence: Evidence, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather than not at all; only then is there none."""
    report = told.write(tmp_path, told.broken(evidence), catalogue)
    whole = len(render.make(report, tmp_path).encode())

    monkeypatch.setattr(render, "LARGEST", whole - 1)
    assert "the end\n" not in render.make(report, tmp_path)

    monkeypatch.setattr(render, "LARGEST", 10_000)
    with pytest.raises(render.PageError, match="larger"):
        render.make(report, tmp_path)


@pytest.mark.parametrize("folder", ["../outside", "artifacts/../../outside", "/etc", "artifacts"])
def test_only_artifacts_are_evidence(tmp_path: Path, folder: str) -> None:
    """A report of somebody else's cannot have other files read."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "traceback.txt").write_text("secret")
    (tmp_path / "run" / "artifacts").mkdir(parents=True)

    assert excerpts.gather(tmp_path / "run", [folder]) == {}
    assert excerpts.rerun(tmp_path / "run", folder) is None


@pytest.mark.parametrize(
    ("end", "text", "note"),
    [
        pytest.param(False, "aaaa\nbbbb", "the first 9 characters of 14 characters", id="first"),
        pytest.param(True, "bbbb\ncccc", "the last 9 characters of 14 characters", id="last"),
    ],
)
def test_cut_is_between_lines(end: bool, text: str, note: str) -> None:  # noqa: FBT001  a parameter
    """And says what is left."""
    assert excerpts.cut("aaaa\nbbbb\ncccc", 11, end=end) == (text, note)


def test_broken_environment_is_told_once(
    tmp_path: Path, evidence: Evidence, catalogue: Catalogue
) -> None:
    """Not by every check that it kept from running; what the boot left behind is there."""
    why = "testbed api did not boot: no SPIRE"
    checks = tuple(replace(c, result=Result.ERROR, message=why) for c in evidence.checks)
    run = replace(evidence.run, environment=why)
    (tmp_path / "artifacts" / "boot-api").mkdir(parents=True)
    (tmp_path / "artifacts" / "boot-api" / "spire-server.log").write_text("address in use\n")

    page = page_of(replace(evidence, run=run, checks=checks), catalogue, tmp_path)

    assert "Inconclusive" in page.text
    assert "address in use" in page.text
    assert "It should be so" not in page.text


def test_what_was_not_checked_is_told_with_its_reason(
    tmp_path: Path, spoil: Spoil, catalogue: Catalogue
) -> None:
    """An unsupported check is no success."""
    page = page_of(spoil("test_c", Result.UNSUPPORTED), catalogue, tmp_path)

    assert re.search(r"Not checked\s*unsupported here\s*spoiled\s*ONE-1\s*,\s*TWO-1", page.text)


def test_checks_stand_below_what_they_claim() -> None:
    """Those of one function together, each by its parameter."""
    checks = [
        {"id": f"a.py::test_it_holds{p}", "claim": "", "outcome": "pass", "message": "",
         "duration_s": 0.0, "deviation": None, "artifacts": None}
        for p in ("[one]", "[two]", "")
    ]  # fmt: skip

    [claim] = view.claims(checks)

    assert claim.text == "it holds"
    assert [case.name for case in claim.cases] == ["one", "two", "it holds"]


def test_page_that_cannot_be_made_is_a_warning(
    tmp_path: Path, evidence: Evidence, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The verdict is published, and says what is wrong."""

    def fail(*_: object) -> str:
        raise ZeroDivisionError("no page\ntoday")

    monkeypatch.setattr(render, "make", fail)

    report = edition.put_out(evidence, catalogue, tmp_path)

    assert report["verdict"] == "conformant"
    assert report["run"]["warnings"] == [
        "report.html could not be created: ZeroDivisionError: no page today"
    ]
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert build.digest(report) == report["digest"]
    assert not (tmp_path / "report.html").exists()


def test_missing_library_is_a_warning(
    tmp_path: Path, evidence: Evidence, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bokeh may not be there, or may not be what it was."""
    told.write(tmp_path, evidence, catalogue)
    monkeypatch.setitem(sys.modules, "bokeh.models", None)
    monkeypatch.delitem(sys.modules, "svidproof.report.html.timeline.figures", raising=False)
    monkeypatch.delattr("svidproof.report.html.timeline.figures", raising=False)

    report = edition.put_out(evidence, catalogue, tmp_path)

    assert report["verdict"] == "conformant"
    assert "report.html could not be created" in report["run"]["warnings"][0]


def test_disk_that_is_full_for_the_page_keeps_the_verdict(
    tmp_path: Path, evidence: Evidence, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """report.json was written before."""
    real = publish.write

    def write(path: Path, text: str) -> None:
        if (tmp_path / "report.json").exists():
            raise publish.PublishError(f"cannot write {path.name}: no space")
        real(path, text)

    monkeypatch.setattr(publish, "write", write)

    report = edition.put_out(evidence, catalogue, tmp_path)

    assert json.loads((tmp_path / "report.json").read_text())["verdict"] == "conformant"
    assert report["run"]["warnings"] == [
        "report.html could not be created: cannot write report.html: no space"
    ]


def test_command_writes_the_page_again(
    svidproof: Command, tmp_path: Path, evidence: Evidence, catalogue: Catalogue
) -> None:
    """`svidproof report DIR`, of a report as it was written and no other."""
    told.write(tmp_path, evidence, catalogue)

    assert svidproof("report", tmp_path)[:2] == (0, f"{tmp_path}/report.html\n")

    assert "Conformant" in (tmp_path / "report.html").read_text("utf-8")
    (tmp_path / "report.json").write_text("{}")
    code, _, err = svidproof("report", tmp_path)
    assert code == 2
    assert "not a valid report of svidproof" in err
