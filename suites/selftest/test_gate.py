"""The gate: `svidproof verify` on one report or a whole matrix, told to people and to programs."""

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from svidproof.cli.requirements import listing
from svidproof.model.verdict import Result
from svidproof.report import build, publish, read
from svidproof.report.gate import text
from svidproof.report.gate.decide import Decision, decide
from svidproof.report.gate.expectation import parse_matrices
from svidproof.report.gate.verify import Policy
from svidproof.report.model import Evidence

from . import wholes
from .wholes import REAL, Checks

Command = Callable[..., tuple[int, str, str]]
Store = Callable[..., Path]


@pytest.fixture(scope="module")
def checks() -> Checks:
    """What the checks of the suite itself claim, by requirement."""
    return listing.by_requirement()


@pytest.fixture
def good(checks: Checks) -> Evidence:
    """A run, made just now, of everything in profile core, in which all is as it should be."""
    return wholes.sound(checks)


@pytest.fixture
def store(tmp_path: Path, good: Evidence) -> Store:
    """Puts a report where a job's artifact would be; returns the directory of all of them."""

    def put(job: str, *, evidence: Evidence = good, **versions: str) -> Path:
        of = wholes.of_versions(evidence, **versions)
        platform = versions.get("platform", evidence.run.platform)
        run = replace(evidence.run, platform=platform, id=f"run-{job}")
        directory = tmp_path / "reports" / f"svidproof-{job}" / "run"
        directory.mkdir(parents=True)
        publish.publish(build.build(replace(of, run=run), REAL), directory)
        return tmp_path / "reports"

    return put


@pytest.fixture
def verify(svidproof: Command, monkeypatch: pytest.MonkeyPatch, checks: Checks) -> Command:
    """Runs `svidproof verify`."""
    # Collected once for all tests: it takes seconds.
    monkeypatch.setattr(listing, "by_requirement", lambda: checks)
    return partial(svidproof, "verify")


def failing(evidence: Evidence, message: str = "got 200") -> Evidence:
    """The same run, in which one check of HANDSHAKE-4 has failed."""
    number = next(n for n, c in enumerate(evidence.checks) if "HANDSHAKE-4" in c.requirements)
    bad = replace(evidence.checks[number], result=Result.FAIL, message=message)
    rest = evidence.checks
    return replace(evidence, checks=(*rest[:number], bad, *rest[number + 1 :]))


def test_report_is_accepted_by_file_and_by_directory(verify: Command, store: Store) -> None:
    """Its own directory, and one far above."""
    above = store("0")
    file = above / "svidproof-0" / "run" / "report.json"
    accepted = f"{file}: accepted: profile core holds\n"

    assert verify(above) == (0, accepted, "")
    assert verify(file.parent) == (0, accepted, "")
    assert verify(file) == (0, accepted, "")
    assert verify(file, above) == (0, accepted, ""), "each once"


def test_one_bad_report_spoils_the_lot(verify: Command, store: Store, good: Evidence) -> None:
    """The others are told, too."""
    store("good")
    above = store("bad", evidence=failing(good))

    code, out, _ = verify(above)

    assert code == 1
    assert "svidproof-bad/run/report.json: refused: HANDSHAKE-4 is fail\n" in out
    assert "svidproof-good/run/report.json: accepted: profile core holds\n" in out
    assert out.endswith("\nrefused: 1 of 2 reports refused\n")


@pytest.mark.parametrize(
    ("content", "because"),
    [
        pytest.param(b'{"a": ', "is not JSON", id="torn"),
        pytest.param(b"\xff\xfe", "is not JSON", id="binary"),
        pytest.param(b"[" * 100_000, "is not JSON", id="deep"),
        pytest.param(b"", "is not JSON", id="empty"),
        pytest.param(b"{}", "violates the schema", id="not-a-report"),
    ],
)
def test_what_cannot_be_read_is_refused(
    verify: Command, store: Store, content: bytes, because: str
) -> None:
    """A line, beside the reports that can be."""
    above = store("0")
    (above / "torn").mkdir()
    (above / "torn" / "report.json").write_bytes(content)

    code, out, err = verify(above)

    assert (code, err) == (1, "")
    assert because in out
    assert out.count("refused: ") == 2
    assert ": accepted: " in out


def test_nothing_to_read_is_no_success(verify: Command, tmp_path: Path) -> None:
    """A directory without reports is refused; one that is not there is a mistake."""
    assert verify(tmp_path) == (1, "refused: there is no report\n", "")
    code, out, err = verify(tmp_path / "nowhere")
    assert (code, out) == (2, "")
    assert err.endswith("nowhere: No such file or directory\n")
    assert err.count("\n") == 1


def test_report_below_a_report_is_judged(verify: Command, store: Store, good: Evidence) -> None:
    """A good report does not hide a bad one."""
    above = store("0")
    kept = above / "svidproof-0" / "run" / "kept"
    kept.mkdir()
    run = replace(good.run, id="run-kept")
    publish.publish(build.build(replace(failing(good), run=run), REAL), kept)

    code, out, _ = verify(above)

    assert code == 1
    assert f"{kept}/report.json: refused: HANDSHAKE-4 is fail\n" in out
    assert out.endswith("\nrefused: 1 of 2 reports refused\n")


def test_directory_that_cannot_be_seen_is_not_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """There may be a report in it that would be refused."""

    def denied(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", denied)

    with pytest.raises(read.ReportError, match=r"cannot read directory .*: Permission denied"):
        read.find([str(tmp_path)])


class TestMatrix:
    """Each combination must have a report, and each report be of one."""

    MATRIX = ("--matrix", "platform=local,spire=1.15.2/1.15.3,envoy=1.40.0")
    KIND = ("--matrix", "platform=kind,spire=1.15.3")

    @pytest.fixture
    def matrix(self, store: Store) -> Path:
        """Reports of all three."""
        store("0")
        store("1", spire="1.15.2")
        return store("2", platform="kind")

    def test_whole_matrix_is_accepted(self, verify: Command, matrix: Path) -> None:
        """Of several lines."""
        code, out, _ = verify(matrix, *self.MATRIX, *self.KIND)

        assert code == 0, out
        assert out.endswith("\naccepted: profile core holds in 3 reports\n")

    def test_missing_combination_is_refused(self, verify: Command, store: Store) -> None:
        """A job that never uploaded its report is named."""
        store("0")
        code, out, _ = verify(store("2", platform="kind"), *self.MATRIX, *self.KIND)

        assert code == 1
        assert (
            "\nrefused: there is no report of platform=local, spire=1.15.2, envoy=1.40.0\n" in out
        )
        assert out.endswith("\nrefused: 0 of 2 reports refused, 1 missing\n")
        assert out.count(": accepted: ") == 2

    def test_report_of_no_combination_is_refused(self, verify: Command, matrix: Path) -> None:
        """The matrix and what was asked for do not agree."""
        code, out, _ = verify(matrix, *self.MATRIX)

        assert code == 1
        assert "svidproof-2/run/report.json: refused: it is of no combination that was asked" in out
        assert out.endswith("\nrefused: 1 of 3 reports refused\n")

    def test_refused_report_stands_for_its_combination(
        self, verify: Command, store: Store, good: Evidence
    ) -> None:
        """It is not called missing as well."""
        above = store("0", evidence=failing(good))

        code, out, _ = verify(above, "--matrix", "spire=1.15.3")

        assert (code, out.count("\n")) == (1, 2)
        assert "there is no report" not in out

    def test_every_combination_is_missing_where_there_is_nothing(
        self, verify: Command, tmp_path: Path
    ) -> None:
        """Each by its name."""
        code, out, _ = verify(tmp_path, *self.MATRIX)

        assert code == 1
        assert out.count("refused: there is no report of platform=local, spire=1.15.") == 2

    def test_edited_report_stands_for_nothing(self, verify: Command, matrix: Path) -> None:
        """Nobody knows of what it was."""
        path = matrix / "svidproof-1" / "run" / "report.json"
        path.write_text(path.read_text().replace("run-1", "run-9"))

        code, out, _ = verify(matrix, *self.MATRIX, *self.KIND)

        assert code == 1
        assert "refused: its digest does not match" in out
        assert "refused: there is no report of platform=local, spire=1.15.2" in out

    def test_one_report_stands_for_one_combination(self, verify: Command, store: Store) -> None:
        """That it fits several is no reason to run fewer."""
        above = store("0")

        code, out, _ = verify(above, "--matrix", "envoy=1.40.0", "--matrix", "spire=1.15.3")

        assert code == 1
        assert (
            "\nrefused: there is no separate report of spire=1.15.3: "
            f"{above}/svidproof-0/run/report.json counts for envoy=1.40.0\n"
        ) in out

    def test_each_report_stands_where_it_is_needed(self, verify: Command, store: Store) -> None:
        """The one that fits two combinations leaves the other its own."""
        store("0")
        above = store("1", spire="1.15.2")

        code, out, _ = verify(above, "--matrix", "envoy=1.40.0", "--matrix", "spire=1.15.3")

        assert code == 0, out


class TestOneRun:
    """A run has one report."""

    def test_copy_is_refused(self, verify: Command, store: Store) -> None:
        """Both: neither says which cell was really run."""
        above = store("0")
        first = above / "svidproof-0" / "run" / "report.json"
        second = above / "svidproof-1" / "report.json"
        second.parent.mkdir()
        second.write_bytes(first.read_bytes())

        code, out, _ = verify(above)

        assert code == 1
        told = "refused: there are two reports of one run"
        assert f"{first}: {told}: {second} is also of run run-0\n" in out
        assert f"{second}: {told}: {first} is also of run run-0\n" in out

    def test_copy_with_another_message_is_refused(
        self, verify: Command, store: Store, good: Evidence
    ) -> None:
        """By the run's name."""
        store("0")
        above = store("1", evidence=replace(good, run=replace(good.run, command="svidproof x")))
        path = above / "svidproof-1" / "run" / "report.json"
        edited = json.loads(path.read_text())
        edited["run"]["id"] = "run-0"
        edited["digest"] = build.digest(edited)
        path.write_text(json.dumps(edited))

        code, out, _ = verify(above)

        assert (code, out.count("two reports of one run")) == (1, 2)


def test_accepted_files_are_listed_by_their_digests(
    verify: Command, store: Store, good: Evidence, tmp_path: Path
) -> None:
    """Of the bytes that were judged, for whoever signs them; none if one is refused."""
    path = store("0") / "svidproof-0" / "run" / "report.json"
    sums = tmp_path / "sums"
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()

    code, out, _ = verify(path, "--format", "json", "--checksums", sums)

    assert code == 0
    (listed,) = json.loads(out)["reports"]
    assert (listed["path"], listed["accepted"], listed["sha256"]) == (str(path), True, sha256)
    assert sums.read_text() == f"{sha256}  {path}\n"

    above = store("1", evidence=failing(good))
    code, out, _ = verify(above, "--format", "json", "--checksums", sums)

    assert code == 1
    assert [r["accepted"] for r in json.loads(out)["reports"]] == [True, False]
    assert sums.read_text() == ""


def test_subject_is_that_of_each_report(verify: Command, store: Store, good: Evidence) -> None:
    """One of another commit, and one of none, are refused."""
    for job, subject in (("0", "commit-a"), ("1", "commit-b"), ("2", None)):
        run = replace(good.run, subject=subject)
        above = store(job, evidence=replace(good, run=run))

    code, out, _ = verify(above, "--subject", "commit-a")

    assert code == 1
    assert "svidproof-0/run/report.json: accepted" in out
    assert "svidproof-1/run/report.json: refused: its subject is commit-b, commit-a is" in out
    assert "svidproof-2/run/report.json: refused: it has no subject, commit-a is expected" in out


def decision(
    above: Path,
    checks: Checks,
    *matrix: str,
    catalogue: Any = REAL,  # noqa: ANN401
) -> Decision:
    """What the gate makes of all reports below a directory."""
    policy = Policy(("core",), datetime.now(UTC), checks)
    return decide(read.find([str(above)]), catalogue, policy, parse_matrices(matrix))


def shown(decided: Decision, form: str) -> str:
    """What is written of a decision."""
    stream = io.StringIO()
    text.show(decided, stream, form)
    return stream.getvalue()


class TestForms:
    """Lines for people, Markdown for a job's summary, JSON for programs."""

    def test_markdown_has_a_verdict_and_a_row_for_each_report(
        self, store: Store, good: Evidence, checks: Checks
    ) -> None:
        """Versions in columns, and the first reason."""
        store("0")
        (store("1", evidence=failing(good), spire="1.15.2") / "torn").mkdir()
        (store("2", platform="kind") / "torn" / "report.json").write_text("")
        decided = decision(store("3"), checks, "spire=1.15.3/9")

        lines = shown(decided, "markdown").splitlines()

        assert lines[:5] == [
            "### svidproof: release refused",
            "",
            "2 of 5 reports refused, 1 missing",
            "",
            "- there is no report of spire=9",
        ]
        assert lines[6] == "| report | platform | spire | envoy | profiles | verdict | why |"
        rows = {line.split(" | ")[0].rpartition("svidproof-")[2]: line for line in lines[8:]}
        assert rows["0/run"].endswith("| local | 1.15.3 | 1.40.0 | core: pass | accepted |  |")
        assert rows["1/run"].endswith(
            "| local | 1.15.2 | 1.40.0 | core: fail | **refused** "
            "| HANDSHAKE-4 is fail (and 2 more) |"
        )
        assert rows["2/run"].endswith("| kind | 1.15.3 | 1.40.0 | core: pass | accepted |  |")
        torn = next(line for line in lines if "is not JSON" in line and line[0] == "|")
        assert "| - | - | - | - | **refused** |" in torn
        reasons = lines[lines.index("<details><summary>All reasons</summary>") :]
        assert len([line for line in reasons if "svidproof-1/run: " in line]) == 3

    def test_markdown_of_a_good_release_says_so(self, store: Store, checks: Checks) -> None:
        """In its first lines."""
        lines = shown(decision(store("0"), checks), "markdown").splitlines()

        assert lines[0] == "### svidproof: release accepted"
        assert lines[2] == "profile core holds in 1 report"

    def test_no_report_gets_out_of_its_cell(
        self, store: Store, good: Evidence, checks: Checks
    ) -> None:
        """Whoever uploads a report does not write the summary, nor to the terminal."""
        run = replace(good.run, sabotage="|\n# accepted <b>\x1b[2J")

        decided = decision(store("0", evidence=replace(good, run=run)), checks)

        assert "\\|\u0020\\# accepted &lt;b&gt;?\\[2J" in shown(decided, "markdown")
        assert "\x1b" not in shown(decided, "table")
        assert len(shown(decided, "table").splitlines()) == 1

    def test_json_is_for_programs(self, store: Store, good: Evidence, checks: Checks) -> None:
        """Everything, by names that stay."""
        store("0")
        answer = json.loads(shown(decision(store("1", evidence=failing(good)), checks), "json"))

        assert answer["accepted"] is False
        assert answer["profiles"] == ["core"]
        first, second = answer["reports"]
        assert (first["accepted"], first["reasons"]) == (True, [])
        assert first["versions"] == {"spire": "1.15.3", "envoy": "1.40.0"}
        assert (second["accepted"], second["reasons"][0]) == (False, "HANDSHAKE-4 is fail")
        assert (second["platform"], second["profiles"]) == ("local", {"core": "fail"})


def test_an_old_report_is_refused_by_the_command(verify: Command, store: Store) -> None:
    """Ages are counted from the run's start, by this machine's clock."""
    above = store("0")

    assert verify(above, "--max-age", "10m")[0] == 0
    code, out, _ = verify(above, "--max-age", "1m")
    assert code == 1
    assert "it is too old: its run started 0:0" in out


def test_interrupted_run_is_refused_for_one_reason(
    verify: Command, store: Store, good: Evidence
) -> None:
    """What follows from the interruption is counted; a red check is not among it."""
    unmade = [
        replace(check, result=Result.NOT_RUN, duration_s=0.0, deviation=None)
        for check in good.checks[1:]
    ]
    run = replace(good.run, stopped="interrupted")
    first = replace(good.checks[0], result=Result.FAIL, message="got 200")
    above = store("0", evidence=replace(good, run=run, checks=(first, *unmade)))

    code, out, _ = verify(above)
    _, whole, _ = verify(above, "--verbose")

    lines, every = out.splitlines(), whole.splitlines()
    assert code == 1
    assert lines[0].endswith("refused: its run did not come to its end: interrupted")
    assert f"{first.requirements[0]} is fail" in out
    assert f"{len(every) - len(lines) + 1} more reasons follow from that: verify --v" in lines[-1]
    assert len(lines) <= 5
    assert len(every) > 40


def test_expectations_are_of_every_report(verify: Command, store: Store) -> None:
    """One that is of another version is named."""
    store("0")
    code, out, _ = verify(store("1", envoy="1.39.3"), "--expect", "envoy=1.40.0")

    assert code == 1
    assert "svidproof-1/run/report.json: refused: envoy 1.39.3 was under test, 1.40.0" in out
    assert "svidproof-0/run/report.json: accepted" in out
