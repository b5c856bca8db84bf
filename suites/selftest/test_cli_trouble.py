"""Whatever goes wrong, a command says it in one line and never ends with the code of a verdict."""

import copy
import json
import pwd
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from svidproof.cli import doctor
from svidproof.model.catalogue import Catalogue
from svidproof.report import build
from svidproof.report.model import Evidence
from svidproof.supply import tools

from . import told

Command = Callable[..., tuple[int, str, str]]
Report = dict[str, Any]
ESC = "\x1b]0;taken\x07\x1b[2J\x9b31m"


def signed(report: Report) -> Report:
    """The report with a digest that fits it."""
    return {**report, "digest": build.digest(report)}


@pytest.fixture
def place(tmp_path: Path, evidence: Evidence, catalogue: Catalogue) -> Path:
    """A report's directory as a small run leaves it."""
    told.write(tmp_path, evidence, catalogue)
    return tmp_path


def spoil_report(place: Path, change: Callable[[Report], object]) -> None:
    """Change report.json so that only its content is odd."""
    path = place / "report.json"
    report = json.loads(path.read_text())
    change(report)
    path.write_text(json.dumps(signed(report)))


def event(**facts: object) -> str:
    """One line of a timeline."""
    wall = "2026-05-01T12:00:01+00:00"
    return json.dumps({"kind": "delivery", "at": 1.0, "wall": wall, "workload": "api", **facts})


LINES = [
    pytest.param(event(at=1e308), id="at-1e308"),
    pytest.param(event(at=float("inf")), id="at-infinity"),
    pytest.param(event(at=float("nan")), id="at-nan"),
    pytest.param(event(at=10**400), id="at-huge-integer"),
    pytest.param(event(at="1"), id="at-text"),
    pytest.param(event(wall=None), id="wall-null"),
    pytest.param('{"kind": "delivery", "at": 0.5, "workload": "api"}', id="no-wall"),
    pytest.param(event(wall="0001-01-01T00:00:00+00:00", at=0.1), id="wall-year-1"),
    pytest.param(event(wall="2026-99-01"), id="wall-month-99"),
    pytest.param(event(ids=5), id="ids-5"),
    pytest.param(event(flaws=5), id="flaws-5"),
    pytest.param(event(kind=[]), id="kind-list"),
    pytest.param("[" * 100_000, id="nesting"),
    pytest.param('{"kind": "delivery", "at": 1, "ids": ' + "[" * 100_000, id="deep-ids"),
    pytest.param("[]", id="list"),
    pytest.param("5", id="number"),
    pytest.param(event(kind="handshake", seconds=float("nan")), id="handshake-nan"),
    pytest.param(event(kind="handshake", seconds=1e300), id="handshake-1e300"),
    pytest.param(event(kind="handshake", seconds=-5), id="handshake-negative"),
    pytest.param(event(kind="log", component="a", level="info", message="m", fields=5,
                       written="9999-12-31T23:59:59+00:00"), id="written-9999"),
    pytest.param(event(kind="log", component="a", level="info", message="m",
                       written="2026-05-01T12:00:01+00:00", fields=[1]), id="fields-list"),
    pytest.param(event(kind="certificate", serial="1", source="certs",
                       not_before="0001-01-01T00:00:00+00:00",
                       not_after="9999-12-31T23:59:59+00:00"), id="certificate-for-ever"),
    pytest.param(event(kind="certificate", serial="1", source=[], not_before=[],
                       not_after={}), id="certificate-without-dates"),
    pytest.param(event(kind="request", client="a", call="b", status="x", note=5), id="request"),
]  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_malformed_line_of_a_timeline_is_left_out(
    svidproof: Command, place: Path, line: str
) -> None:
    """The rest is shown as if it were not there."""
    with (place / "timeline.jsonl").open("a", encoding="utf-8") as timeline:
        timeline.write(f"{line}\n")

    code, out, err = svidproof("report", place, "--format", "markdown")

    assert (code, err) == (0, "")
    assert "section client" in out


def test_malformed_timeline_does_not_keep_a_page_from_being_made(
    svidproof: Command, place: Path
) -> None:
    """All such lines at once; those that cannot be read at all are counted."""
    with (place / "timeline.jsonl").open("a", encoding="utf-8") as timeline:
        for parameters in LINES:
            timeline.write(f"{parameters.values[0]}\n")

    code, _, err = svidproof("report", place)

    assert (code, err) == (0, "")
    assert "lines of the file could not be read" in (place / "report.html").read_text()


@pytest.mark.parametrize("text", ["", "[]\n", '{"kind": "x", "at": 1}\n', event(wall="x")])
def test_timeline_of_nothing_is_no_chapter(svidproof: Command, place: Path, text: str) -> None:
    """A page can do without."""
    (place / "timeline.jsonl").write_text(text)

    assert svidproof("report", place)[0] == 0
    assert svidproof("report", place, "--format", "markdown")[0] == 0


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda r: r["run"].update(started="2026-99-01T00:00:00Z"), id="month-99"),
        pytest.param(lambda r: r["run"].update(started="0001-01-01T00:00:00+23:00"), id="year-0"),
        pytest.param(lambda r: r["run"].update(duration_s=10**400), id="duration-huge"),
        pytest.param(
            lambda r: r["requirements"][0]["checks"][0].update(duration_s=10**400),
            id="check-of-huge-duration",
        ),
        pytest.param(lambda r: r["measurements"]["lag"].update(value=10**400), id="value-huge"),
        *(
            pytest.param(
                lambda r, a=artifacts: r["requirements"][0]["checks"][0].update(
                    outcome="fail", artifacts=a
                ),
                id=name,
            )
            for name, artifacts in (
                ("artifacts-with-nul", "artifacts/\x00"),
                ("artifacts-of-5000-characters", "artifacts/" + "x" * 5000),
                ("artifacts-surrogate", "artifacts/\ud800"),
                ("artifacts-elsewhere", "../../etc"),
                ("artifacts-itself", "artifacts"),
            )
        ),
    ],
)
def test_odd_values_of_a_report_are_shown_or_refused(
    svidproof: Command, place: Path, change: Callable[[Report], object]
) -> None:
    """A page, or one line; a reader of reports that refuses more may refuse these, too."""
    spoil_report(place, change)

    for form in ("html", "markdown"):
        code, out, err = svidproof("report", place, "--format", form)
        assert (code, bool(out), err.count("\n")) in ((0, True, 0), (2, False, 1), (3, False, 1))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_has_not_are_shown_or_refused(
    svidproof: Command, place: Path, number: str
) -> None:
    """As duration of the run."""
    spoil_report(place, lambda r: r["run"].update(duration_s=float(number)))

    for words in (("report", place), ("matrix", "--from", place)):
        code, out, err = svidproof(*words)
        assert (code, bool(out), err.count("\n")) in ((0, True, 0), (2, False, 1), (3, False, 1))


def test_linked_artifacts_do_not_lead_elsewhere(svidproof: Command, place: Path) -> None:
    """The page is made without them."""
    (place / "artifacts").rename(place.parent / "elsewhere")
    (place / "artifacts").symlink_to(place.parent / "elsewhere")

    assert svidproof("report", place)[0] == 0
    assert "traceback" not in (place / "report.html").read_text()


def test_matrix_takes_versions_of_any_length(
    svidproof: Command, tmp_path: Path, report: Report
) -> None:
    """Two of them, so that they must be put in order."""
    for name, version in (("a", "1" * 5000), ("b", "2" * 4999), ("c", "1.40.0")):
        other = copy.deepcopy(report)
        other["components"][2]["version"] = version
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(signed(other)))

    code, _, err = svidproof("matrix", "--from", tmp_path)

    assert (code, err) == (0, "")


class TestEscapes:
    """What others wrote does nothing to the terminal, in whichever command it is shown."""

    @pytest.fixture
    def hostile(self, place: Path) -> Path:
        """A report whose every text has an escape sequence."""

        def change(report: Report) -> None:
            report["verdict"] = "inconclusive"
            report["reason"] = f"it was {ESC}"
            report["run"] |= {"stopped": ESC, "environment": ESC, "warnings": [ESC], "id": ESC}
            report["components"][2] |= {"version": f"1.40.0{ESC}", "note": ESC}
            for check in report["requirements"][0]["checks"]:
                check |= {"outcome": "fail", "message": f"saw {ESC}"}
            report["requirements"][0] |= {"result": "fail", "title": ESC}

        spoil_report(place, change)
        return place

    @pytest.mark.parametrize(
        "words",
        [
            ("verify",),
            ("verify", "--format", "json"),
            ("verify", "--format", "markdown"),
            ("report", "--format", "markdown"),
            ("report",),
            ("matrix", "--from"),
        ],
    )
    def test_of_a_report(self, svidproof: Command, hostile: Path, words: tuple[str, ...]) -> None:
        """A foreign report."""
        _, out, err = svidproof(*words, hostile)

        assert [c for c in out + err if not c.isprintable() and c != "\n"] == []

    @pytest.mark.parametrize("form", ["table", "json", "markdown"])
    def test_of_two_reports(
        self, svidproof: Command, hostile: Path, report: Report, form: str
    ) -> None:
        """One of them foreign."""
        (hostile / "other.json").write_text(json.dumps(report))

        _, out, err = svidproof("diff", hostile / "other.json", hostile, "--format", form)

        assert [c for c in out + err if not c.isprintable() and c != "\n"] == []

    @pytest.mark.parametrize(
        "words",
        [
            ("verify", f"/nowhere{ESC}"),
            ("report", f"/nowhere{ESC}"),
            ("run", "--profile", ESC),
            ("doctor", "--tool", ESC),
            ("run", "--requirement", ESC),
            ("up", ESC),
            ("list", "--profile", ESC),
            ("tools", "path", ESC),
            ("tools", "install", ESC),
            ("selftest", "--only", ESC),
            ("matrix", "--from", ESC),
            (ESC,),
        ],
    )
    def test_of_the_command_line(self, svidproof: Command, words: tuple[str, ...]) -> None:
        """Words may come from a pull request."""
        code, out, err = svidproof(*words)

        assert code == 2
        assert [c for c in out + err if not c.isprintable() and c != "\n"] == []
        assert err.count("\n") == 1

    @pytest.mark.parametrize("form", ["table", "json"])
    def test_of_the_machine(
        self, svidproof: Command, monkeypatch: pytest.MonkeyPatch, form: str
    ) -> None:
        """What a program answered to doctor."""
        finding = doctor.Finding("envoy", ok=False, found=f"1{ESC}", hint=ESC)
        monkeypatch.setattr(doctor, "examine", lambda *_: [finding])

        code, out, err = svidproof("doctor", "--format", form)

        assert code == 3
        assert [c for c in out + err if not c.isprintable() and c != "\n"] == []

    def test_of_an_exception(self, svidproof: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its message may hold what a component said."""

        def fail() -> None:
            raise ValueError(f"it said {ESC}\nand more")

        monkeypatch.setattr(tools, "installed", fail)

        code, out, err = svidproof("tools", "list")

        assert (code, out) == (3, "")
        assert [c for c in err if not c.isprintable() and c != "\n"] == []


def test_lone_surrogate_is_written_and_keeps_the_code(svidproof: Command, place: Path) -> None:
    """As JSON writes it: a refusal stays a refusal, and a program can read it."""
    spoil_report(place, lambda r: r.update(reason="\ud800", verdict="inconclusive"))

    code, out, _ = svidproof("verify", place, "--format", "json")

    assert code == 1
    assert json.loads(out)["accepted"] is False


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KeyError("x"), "internal error: KeyError: 'x'; SVIDPROOF_DEBUG=1 shows where"),
        (RecursionError("deep"), "internal error: RecursionError: deep; SVIDPROOF_DEBUG=1 shows"),
        (MemoryError(), "internal error: MemoryError: ; SVIDPROOF_DEBUG=1 shows where"),
        (OSError(28, "No space left on device", "/x"), "No space left on device /x"),
        (SystemExit(0), ""),
        (SystemExit(1), ""),
    ],
)
def test_unforeseen_error_is_one_line_and_inconclusive(
    svidproof: Command, monkeypatch: pytest.MonkeyPatch, error: BaseException, line: str
) -> None:
    """Python itself would end with 1, as if a requirement were refuted."""

    def fail() -> None:
        raise error

    monkeypatch.setattr(tools, "installed", fail)
    monkeypatch.delenv("SVIDPROOF_DEBUG", raising=False)

    code, out, err = svidproof("tools", "list")

    assert (code, out) == (3, "")
    assert err.startswith(f"svidproof: {line}" if line else "")
    assert err.count("\n") == bool(line)


def test_debugging_shows_the_traceback(svidproof: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """For whoever reports the error."""
    monkeypatch.setattr(tools, "installed", lambda: json.loads("x"))
    monkeypatch.setenv("SVIDPROOF_DEBUG", "1")

    code, _, err = svidproof("tools", "list")

    assert code == 3
    assert err.startswith("Traceback")


@pytest.mark.parametrize(
    ("words", "exit_code", "said"),
    [
        (("doctor",), 3, "there is no home directory"),
        (("tools", "list"), 2, "svidproof: there is no home directory, so there is no place for"),
    ],
)
def test_user_without_a_home_gets_one_line(
    svidproof: Command,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    exit_code: int,
    said: str,
) -> None:
    """Neither HOME nor an entry among the machine's users, as in some containers."""

    def nobody(_uid: int) -> None:
        raise KeyError("getpwuid(): uid not found")

    for name in ("HOME", "XDG_CACHE_HOME", "SVIDPROOF_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)

    code, out, err = svidproof(*words)

    assert code == exit_code
    assert said in (out if words == ("doctor",) else err)
    assert err.count("\n") == (0 if words == ("doctor",) else 1)


@pytest.mark.parametrize(
    ("stdout", "words", "code", "line"),
    [
        (">/dev/full", ("list",), 3, "svidproof: cannot write the output: No space"),
        (">&-", ("list",), 3, "svidproof: cannot write to stdout: it is closed"),
        (">/dev/full", ("verify", "{place}"), 3, "svidproof: cannot write what was decided: No"),
        (">&-", ("verify", "{place}"), 1, "svidproof: cannot write to stdout: it is closed"),
        ("2>&- >&-", ("verify", "{place}"), 1, ""),
        ("2>/dev/full >/dev/full", ("verify", "{place}"), 3, ""),
        (">/dev/full", ("tools", "list", "--format", "json"), 3, "svidproof: No space left"),
        (">/dev/full", ("--version",), 3, "svidproof: No space left"),
        ("| true", ("verify", "{place}"), 0, ""),
        (">&-", ("verify", "/nowhere"), 2, "svidproof: cannot read /nowhere"),
        ("2>&-", ("verify", "/nowhere"), 2, ""),
    ],
)
def test_output_that_cannot_be_written_is_no_success(
    place: Path, stdout: str, words: tuple[str, ...], code: int, line: str
) -> None:
    """A refusal stays one, and what nobody could read is inconclusive."""
    spoil_report(place, lambda r: r.update(reason="x"))
    argv = [word.format(place=place) for word in words]
    shell = f'"$0" -P -m svidproof.cli.main "$@" {stdout}'
    done = subprocess.run(
        ["/bin/sh", "-c", shell, sys.executable, *argv],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == bool(line)
