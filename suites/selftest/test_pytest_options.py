"""Only an option of pytest that cannot change what is executed leaves a run complete."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from _pytest.config import get_config

from svidproof.model import catalogue
from svidproof.run.process import ending, pytest_options, pytest_process

Command = Callable[..., tuple[int, str, str]]
SUITES = pytest_process.suites()
ALLOWED = [
    "--basetemp", "--capture", "--code-highlight", "--color", "--durations",
    "--durations-min", "--force-short-summary", "--full-trace", "--fulltrace",
    "--junit-prefix", "--junit-xml", "--junitprefix", "--junitxml", "--log-auto-indent",
    "--log-cli-date-format", "--log-cli-format", "--log-date-format", "--log-file",
    "--log-file-date-format", "--log-file-format", "--log-file-mode", "--log-format",
    "--no-fold-skipped", "--no-header", "--no-showlocals", "--no-summary", "--quiet",
    "--report-chars", "--setup-show", "--setupshow", "--show-capture", "--showlocals",
    "--strict", "--strict-config", "--strict-markers", "--tb", "--verbose", "--verbosity",
    "--xfail-tb", "--disable-pytest-warnings", "--disable-warnings", "-l", "-q", "-r",
    "-s", "-v",
]  # fmt: skip
# Values for options that do not take any word.
VALUES = {
    "--pdbcls": "pdb:Pdb",
    "--rootdir": "/",
    "--confcutdir": "/",
    "--import-mode": "append",
    "--basetemp": "/nowhere/base",
    "--verbosity": "3",
    "--maxfail": "3",
    "--max-warnings": "3",
    "--durations": "3",
    "--durations-min": "0.5",
    "--assert": "plain",
    "--capture": "no",
    "-r": "A",
    "--report-chars": "A",
}
PARSER = get_config()._parser
DEFAULTS = vars(PARSER.parse_known_args([]))


def every_option() -> Iterator[Any]:
    """Each spelling of each option of this pytest, with its argparse action."""
    seen = set()
    for action in PARSER.optparser._actions:
        for name in action.option_strings:
            if name not in seen:
                seen.add(name)
                yield pytest.param(name, action, id=name)


def words_of(name: str, action: Any) -> list[str]:  # noqa: ANN401  argparse's
    """A command line that gives the option another value than its default."""
    if action.nargs == 0:
        return [name]
    others = [c for c in action.choices or () if c != DEFAULTS[action.dest]]
    value = VALUES.get(name) or (str(others[0]) if others else "x")
    return [f"{name}={value}"] if name.startswith("--") else [name, value]


@pytest.mark.parametrize(("name", "action"), list(every_option()))
def test_every_option_is_allowed_with_a_reason_or_makes_a_run_partial(
    name: str,
    action: Any,  # noqa: ANN401  argparse's
) -> None:
    """An option that a later pytest adds is not trusted until somebody says why it may be."""
    if action.dest in ("help", "version"):
        assert action.dest in pytest_options._RUN_NOTHING
        return
    chosen = vars(PARSER.parse_known_args(words_of(name, action)))
    found = pytest_options.departures(chosen, DEFAULTS, SUITES)
    by_default = {"--no-showlocals"}

    if name in ALLOWED:
        assert found == []
        assert pytest_options.HARMLESS[action.dest]
        assert name in by_default or chosen[action.dest] != DEFAULTS[action.dest]
    else:
        assert found == [f"--{action.dest.replace('_', '-')}"]


def test_list_of_allowed_options_is_neither_longer_nor_older_than_pytests() -> None:
    """What is allowed exists, and nobody allows more by the way."""
    spellings = {
        name
        for action in PARSER.optparser._actions
        for name in action.option_strings
        if action.dest in pytest_options.HARMLESS
    }

    assert spellings == set(ALLOWED)
    assert set(pytest_options.HARMLESS) <= {*DEFAULTS, "quiet"}
    assert all(pytest_options.HARMLESS.values())


def test_what_the_command_itself_passes_is_complete() -> None:
    """Its own options are no departure, and another value of theirs is one."""
    own = pytest_process.argv(["-v"])[4:]
    chosen = vars(PARSER.parse_known_args(own))
    own_plugins = ["-p", "svidproof.run.plugin", "-p", "no:cacheprovider"]

    assert pytest_options.departures(chosen, DEFAULTS, SUITES) == []
    for words, name in (
        ([*own, "-p", "no:assertion"], "--plugins"),
        ([*own_plugins, "-p", "evil"], "--plugins"),
        ([*own, "-W", "ignore"], "--pythonwarnings"),
        ([*own, "-c", "pytest.ini"], "--inifilename"),
        ([*own, "--rootdir", "/tmp"], "--rootdir"),  # noqa: S108  never written to
    ):
        found = pytest_options.departures(vars(PARSER.parse_known_args(words)), DEFAULTS, SUITES)
        assert found == [name]


@pytest.mark.parametrize(
    ("pytests", "code", "status"),
    [
        pytest.param(0, 0, 100, id="conformant"),
        pytest.param(1, 1, 101, id="not-conformant"),
        pytest.param(3, 3, 3, id="inconclusive"),
        pytest.param(4, None, 4, id="usage"),
        pytest.param(0, None, 3, id="no-report"),
        pytest.param(1, None, 3, id="failed-without-report"),
        pytest.param(0, 1, 3, id="changed-after-the-report"),
        pytest.param(0, 3, 3, id="green-after-an-inconclusive-report"),
    ],
)
def test_child_claims_no_more_than_its_report(pytests: int, code: int | None, status: int) -> None:
    """Whatever makes pytest end with 0, without a report it is no success."""
    assert ending.Ending(code).status(pytests) == status
    assert pytest_process.exit_code(status) == (
        code if pytests == code else 2 if pytests == 4 else 3
    )


def run(*words: object, cwd: Path, **environment: str) -> tuple[int, str, str]:
    """`svidproof` with these words, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "svidproof.cli.main", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


PROFILES = catalogue.read(SUITES / "catalogue.toml").profiles


@pytest.mark.parametrize("profile", PROFILES)
def test_setup_plan_is_inconclusive(tmp_path: Path, profile: str) -> None:
    """Nothing is booted and nothing is called, so nothing is shown of any profile."""
    code, out, err = run(
        "run", "--profile", profile, "--report-dir", tmp_path / "out", "--", "--setup-plan",
        cwd=tmp_path,
    )  # fmt: skip

    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert code == 3, out + err
    assert report["verdict"] == "inconclusive"
    assert report["run"]["selection"] == "partial"
    assert not {r["result"] for r in report["requirements"]} & {"pass", "known-deviation", "fail"}


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["--fixtures"], "--fixtures"),
        (["--funcargs"], "--fixtures"),
        (["--fixtures-per-test"], "--fixtures-per-test"),
        (["--markers"], "--markers"),
        (["--collect-only"], "--collect-only"),
        (["--co"], "--collect-only"),
        (["--cache-show"], "--cache-show"),
        (["-VV"], "--version"),
        (["-v"], None),
    ],
)
def test_options_that_run_nothing_are_known(words: list[str], flag: str | None) -> None:
    """The command refuses them; plain pytest does with them what it always does."""
    assert pytest_options.idle(vars(PARSER.parse_known_args(words))) == flag


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (["--setup-only"], 3, ""),
        (["--fixtures"], 2, "svidproof: with --fixtures pytest runs no check: leave it out\n"),
        (["--collect-only", "-q"], 2, "with --collect-only pytest runs no check"),
        (["--help"], 3, "svidproof: pytest exited without a verdict: no check ran\n"),
        (["--version"], 3, "pytest exited without a verdict"),
    ],
)
def test_no_option_of_pytest_is_a_success(
    tmp_path: Path, words: list[str], code: int, complaint: str
) -> None:
    """What runs no check ends with 2 or 3, whatever pytest itself ends with."""
    found, out, err = run(
        "run", "--profile", "helper", "--report-dir", tmp_path / "out", "--", *words, cwd=tmp_path
    )

    assert found == code, out + err
    assert complaint in err


def test_python_without_assertions_is_refused(tmp_path: Path) -> None:
    """A check without its asserts would pass; no command goes on, and pytest does not either."""
    for words in (["run"], ["verify", "x"], ["doctor"]):
        assert run(*words, cwd=tmp_path, PYTHONOPTIMIZE="1") == (
            2,
            "",
            f"svidproof: {pytest_process.NO_ASSERTIONS}\n",
        )


def test_plain_pytest_without_assertions_is_refused(tmp_path: Path) -> None:
    """By the plugin itself, where no configuration turns pytest's warning into an error."""
    done = subprocess.run(
        [
            *(sys.executable, "-O", "-P", "-m", "pytest", "-p", "svidproof.run.plugin"),
            *("-c", os.devnull, str(SUITES / "helper")),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        timeout=120,
        check=False,
    )

    assert (done.returncode, done.stderr) == (4, f"ERROR: {pytest_process.NO_ASSERTIONS}\n\n")
    assert not list(tmp_path.iterdir())


def test_environment_and_configuration_of_the_place_do_not_reach_the_child(tmp_path: Path) -> None:
    """Neither options nor plugins of the working directory make a run pass by not running it."""
    (tmp_path / "conftest.py").write_text("import os\nos._exit(0)\n")
    (tmp_path / "evil.py").write_text("import os\nos._exit(0)\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --setup-plan -p evil\n")

    code, out, err = run(
        *("run", "--requirement", "HELPER-1", "--report-dir", tmp_path / "out"),
        *("--", "-k", "no_check_has_this_name"),
        cwd=tmp_path,
        PYTEST_ADDOPTS="--setup-plan",
        PYTEST_PLUGINS="evil",
    )

    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (code, report["reason"]) == (3, "nothing ran"), out + err
    assert report["run"]["environment"] is None
