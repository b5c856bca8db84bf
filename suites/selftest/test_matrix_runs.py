"""`svidproof matrix` makes each run once, some at a time, and ends all of them in order."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from svidproof.cli import matrix
from svidproof.cli.requirements import listing
from svidproof.model.catalogue import Catalogue
from svidproof.model.verdict import Result
from svidproof.report import build, publish
from svidproof.report.model import Evidence
from svidproof.run.process import pytest_process
from svidproof.run.request import selection
from svidproof.run.request.options import RunRequest
from svidproof.supply import tools

from .test_matrix import versions

Command = Callable[..., tuple[int, str, str]]
Spoil = Callable[..., Evidence]
TWO = ("--spire", "1.15.3", "--envoy", "1.39.3,1.40.0")
# Stands in for a run: tells that it is there, and ends in its own time when it is asked to.
PATIENT = """
import signal, sys, threading
asked = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: asked.set())
signal.signal(signal.SIGINT, signal.SIG_IGN)
print("up", flush=True)
while not asked.wait(0.05):
    pass
open(sys.argv[1], "w").close()
"""


@pytest.fixture
def command(svidproof: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Runs `svidproof matrix` without tools."""
    monkeypatch.setattr(matrix, "get_tools", lambda _selection, _wanted: None)
    monkeypatch.chdir(tmp_path)
    return partial(svidproof, "matrix")


class Children:
    """Stands in for `child.capture`: leaves the reports that runs would leave."""

    def __init__(self, evidence: Evidence, catalogue: Catalogue) -> None:
        """Every run is good, until a test says otherwise."""
        self.evidence = evidence
        self.catalogue = catalogue
        self.spoiled: dict[str, Evidence | None] = {}
        self.status: dict[str, int] = {}
        self.words: dict[str, list[str]] = {}
        self.together = 0
        self.most = 0
        self.lock = threading.Lock()

    def __call__(self, words: list[str], *, on_start: object) -> tuple[int, str]:
        """Be one run."""
        assert on_start
        with self.lock:
            self.together += 1
            self.most = max(self.most, self.together)
        options = dict(word.removeprefix("--svidproof-").partition("=")[::2] for word in words)
        envoy = options["envoy"]
        self.words[envoy] = words
        evidence = self.spoiled.get(envoy, self.evidence)
        if evidence is not None:
            report = build.build(versions(evidence, options["spire"], envoy), self.catalogue)
            publish.publish(report, Path(options["report-dir"]))
        with self.lock:
            self.together -= 1
        return self.status.get(envoy, 0), "a last word\n"


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch, evidence: Evidence, catalogue: Catalogue) -> Children:
    """The runs."""
    found = Children(evidence, catalogue)
    monkeypatch.setattr(pytest_process, "capture", found)
    return found


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--envoy", "9.9"), "envoy 9.9 is not pinned: choose one of"),
        (("--spire", "1.15.3,0.1"), "spire-server 0.1 is not pinned: choose one of"),
        (("--spire", ","), "',' names no version of spire-server"),
        (("--profile", "gold"), "unknown profile gold"),
        (("--platform", "moon"), "unknown platform moon"),
        (("--jobs", "0"), "0 is not in the range"),
        (("--from", ".", "--envoy", "1.40"), "--from runs nothing"),
        (("--from", "."), "there is no report.json below ."),
    ],
)
def test_wrong_usage_is_one_line(command: Command, words: list[str], complaint: str) -> None:
    """Exit code 2, before anything is made."""
    code, out, err = command(*words)

    assert (code, out) == (2, "")
    assert complaint in err
    assert err.count("\n") == 1


def combinations(catalogue: Catalogue, spire: str | None, envoy: str | None, *given: str) -> list[
    tuple[str | None, str | None]
]:  # fmt: skip
    """What is run for these words."""
    request = RunRequest(tools=given)
    chosen = selection.select(request, catalogue, scenarios=["api"])
    return [(c.spire, c.envoy) for c in matrix.combinations(chosen, spire, envoy)]


def test_all_pinned_versions_are_run_by_default(catalogue: Catalogue) -> None:
    """Every SPIRE with every Envoy, the lowest first."""
    found = combinations(catalogue, None, None)

    spires, envoys = tools.known_versions("spire-server"), tools.known_versions("envoy")
    assert len(found) == len(set(found)) == len(spires) * len(envoys)
    assert found[0] == (min(spires), "1.36.4")
    assert found[-1] == (max(spires), "1.40.0")


def test_versions_are_what_the_user_means(catalogue: Catalogue) -> None:
    """The newest of a minor, each once; and a binary that is given stands for its axis."""
    assert combinations(catalogue, "1.15.3", "1.39, v1.40.0,1.39.3") == [
        ("1.15.3", "1.39.3"), ("1.15.3", "1.40.0"),
    ]  # fmt: skip
    assert combinations(catalogue, "1.15.3", None, f"envoy={sys.executable}") == [("1.15.3", None)]


def test_each_combination_is_run_once(command: Command, children: Children) -> None:
    """With its versions, its own directory, and a command that makes it again; then the page."""
    code, out, err = command(*TWO, "--timing", "stock", "--report-dir", "m")

    assert (code, err) == (0, "")
    assert sorted(children.words) == ["1.39.3", "1.40.0"]
    words = children.words["1.39.3"]
    assert "--svidproof-spire=1.15.3" in words
    assert "--svidproof-timing=stock" in words
    assert f"--svidproof-report-dir={Path('m').absolute()}/spire-1.15.3-envoy-1.39.3" in words
    assert (
        "--svidproof-command=svidproof run --profile core --platform local --timing stock "
        "--spire 1.15.3 --envoy 1.39.3"
    ) in words
    lines = out.splitlines()
    told = "all 3 requirements hold, 1 with a known deviation  40 s"
    for envoy in ("1.39.3", "1.40.0"):
        assert f"CONFORMANT SPIRE 1.15.3, Envoy {envoy}: {told}" in lines
    assert lines[-2].startswith("CONFORMANT: both combinations meet the 3")
    assert lines[-1] == "m/matrix.html"
    assert Path("m/matrix.html").is_file()


def test_worst_run_decides(command: Command, children: Children, spoil: Spoil) -> None:
    """A failure, though another run could not be judged."""
    children.spoiled = {"1.39.3": spoil("test_a", Result.FAIL), "1.40.0": spoil(stopped="ended")}
    children.status = {"1.39.3": 1, "1.40.0": 3}

    code, out, _ = command(*TWO)

    assert code == 1
    assert "NOT CONFORMANT SPIRE 1.15.3, Envoy 1.39.3: ONE-1 does not hold" in out
    assert "INCONCLUSIVE SPIRE 1.15.3, Envoy 1.40.0: ended" in out


def test_run_without_a_report_is_inconclusive(command: Command, children: Children) -> None:
    """What an earlier matrix left there does not pass for its report; its last word is told."""
    command(*TWO, "--report-dir", "m")
    children.spoiled, children.status = {"1.40.0": None}, {"1.40.0": -9}

    code, out, _ = command(*TWO, "--report-dir", "m")

    assert code == 3
    assert "INCONCLUSIVE SPIRE 1.15.3, Envoy 1.40.0: it left no report: a last word" in out
    assert not Path("m/spire-1.15.3-envoy-1.40.0/report.json").exists()
    assert Path("m/spire-1.15.3-envoy-1.40.0/output.txt").read_text() == "a last word\n"


def test_run_that_ends_otherwise_than_its_report_is_inconclusive(
    command: Command, children: Children
) -> None:
    """Something happened after the report was written: it is not to be relied on."""
    children.status = {"1.40.0": 3}

    code, out, _ = command(*TWO)

    assert code == 3
    assert (
        "INCONCLUSIVE SPIRE 1.15.3, Envoy 1.40.0: its run ended with exit code 3 "
        "though its report is conformant" in out
    )


def test_report_of_somebody_else_is_left_alone(command: Command, children: Children) -> None:
    """And nothing is run."""
    foreign = Path("m/spire-1.15.3-envoy-1.40.0/report.json")
    foreign.parent.mkdir(parents=True)
    foreign.write_text("{}")

    code, _, err = command(*TWO, "--report-dir", "m")

    assert code == 2
    assert "is not a report of svidproof" in err
    assert foreign.read_text() == "{}"
    assert not children.words


@pytest.mark.parametrize("jobs", [1, 2])
def test_no_more_run_at_once_than_asked_for(
    command: Command, monkeypatch: pytest.MonkeyPatch, children: Children, jobs: int
) -> None:
    """And as many, where there are as many."""
    together = threading.Barrier(jobs)

    def run(words: list[str], *, on_start: object) -> tuple[int, str]:
        with children.lock:
            children.together += 1
            children.most = max(children.most, children.together)
        together.wait(10)
        with children.lock:
            children.together -= 1
        return Children.__call__(children, words, on_start=on_start)

    monkeypatch.setattr(pytest_process, "capture", run)

    code, _, _ = command("--spire", "1.15.3", "--envoy", "1.37,1.38,1.39,1.40", "--jobs", str(jobs))

    assert code == 0
    assert children.most <= jobs


def test_ctrl_c_ends_every_run_in_order(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A run that goes on cleans up first, one that has not begun does not begin; exit code 3."""
    begun: list[str] = []

    def run(
        words: list[str], *, on_start: Callable[[subprocess.Popen[str]], None]
    ) -> tuple[int, str]:
        name = next(w for w in words if "report-dir" in w).rpartition("/")[2]
        argv = [sys.executable, "-c", PATIENT, str(tmp_path / f"{name}.clean")]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        begun.append(name)
        on_start(process)
        os.kill(os.getpid(), signal.SIGINT)
        process.communicate()
        return process.returncode, ""

    monkeypatch.setattr(pytest_process, "capture", run)

    code, _, err = command(*TWO, "--jobs", "1", "--report-dir", "m")

    assert code == 3
    assert err.splitlines()[-1] == "svidproof: interrupted"
    assert begun == ["spire-1.15.3-envoy-1.39.3"]
    assert (tmp_path / "spire-1.15.3-envoy-1.39.3.clean").exists()


def test_page_is_made_of_reports_that_are_there(
    command: Command, children: Children, spoil: Spoil
) -> None:
    """Nothing is run; the exit code is that of what they say, and of what is not there."""
    command(*TWO, "--report-dir", "m")
    children.words.clear()
    Path("m/matrix.html").unlink()

    code, out, _ = command("--from", "m")

    assert code == 0
    assert out.splitlines()[-1] == "m/matrix.html"
    assert Path("m/matrix.html").is_file()

    children.evidence, children.status = spoil("test_a"), {"1.39.3": 1}
    command("--spire", "1.15.2", "--envoy", "1.39.3", "--report-dir", "m")
    children.words.clear()

    code, out, _ = command("--from", "m")

    assert code == 1
    assert "SPIRE 1.15.2, Envoy 1.40.0 (there is no report of it)" in out
    assert not children.words


def test_tools_are_those_of_the_scenarios_that_are_used(
    monkeypatch: pytest.MonkeyPatch, catalogue: Catalogue
) -> None:
    """Each version is asked for before a run needs it; what no check uses is not got."""
    asked: list[tuple[str, str | None]] = []

    def resolve(name: str, *, version: str | None, **_: Any) -> None:  # noqa: ANN401
        asked.append((name, version))

    monkeypatch.setattr(tools, "resolve", resolve)
    checks = [{"requirements": ["ONE-1"], "scenarios": ["api"]},
              {"requirements": ["OTHER-1"], "scenarios": ["manifest"]}]  # fmt: skip
    monkeypatch.setattr(listing, "all_checks", lambda: json.loads(json.dumps(checks)))
    chosen = selection.select(RunRequest(), catalogue, scenarios=["api", "manifest"])
    wanted = [matrix.Combination("1.15.3", "1.39.3"), matrix.Combination("1.15.3", "1.40.0")]

    matrix.get_tools(chosen, wanted)

    assert {name for name, _ in asked} == set(tools.UNDER_TEST)
    assert {v for name, v in asked if name == "envoy"} == {"1.39.3", "1.40.0"}
