"""Each option is declared once: command, plugin, run file, request and documents agree."""

import argparse
import re
import shlex
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from svidproof.cli import main
from svidproof.model.manifests import data_root
from svidproof.report.gate import verify
from svidproof.run import plugin
from svidproof.run.process import pytest_process
from svidproof.run.request import options as request
from svidproof.run.request import run_file
from svidproof.run.request.options import OPTIONS, REQUESTED, RunRequest, options_of
from svidproof.waiting import Overdue, budgets, eventually, timeouts

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """The options of each run that the command starts, in an empty working directory."""
    seen: list[list[str]] = []

    def fake(options: list[str], _extra: tuple[str, ...]) -> int:
        seen.append(options)
        return 0

    monkeypatch.setattr(pytest_process, "run", fake)
    monkeypatch.chdir(tmp_path)
    return seen


@pytest.fixture
def _standard() -> Iterator[None]:
    """Time limits are what they were after the test."""
    yield
    timeouts.Timeouts().apply()


class TestTable:
    """What is made of the rows."""

    @pytest.mark.parametrize(
        "name", ["run", "up", "matrix", "selftest", "doctor", "verify", "list"]
    )
    def test_command_has_the_rows_of_its_name(self, name: str) -> None:
        """And no other options but its format."""
        command = main.cli.commands[name]
        flags = {o for p in command.params if isinstance(p, click.Option) for o in p.opts}

        assert flags - {"--format"} == {row.flag for row in options_of(name)}

    def test_plugin_has_the_options_of_a_run(self) -> None:
        """What is internal is in no help."""
        parser = argparse.ArgumentParser(usage="")

        class Group:
            addoption = staticmethod(parser.add_argument)

        class Parser:
            getgroup = staticmethod(lambda *_: Group)

        plugin.pytest_addoption(Parser)  # type: ignore[arg-type]

        shown = set(re.findall(r"--svidproof-([\w-]+)", parser.format_help()))
        assert shown == {row.name for row in options_of("run")}
        parser.parse_args(["--svidproof-own-terminal", "--svidproof-parent", "1"])

    def test_request_goes_through_a_command_line(self) -> None:
        """Every option of a request, read from what it writes."""
        values: dict[str, Any] = {
            row.attribute: True if row.kind == "flag" else ("x", "y") if row.repeat else "x"
            for row in REQUESTED
        }
        values |= {"timing": "stock", "options_file": None}
        asked = RunRequest(**values)

        words = asked.effective()
        read: dict[str, Any] = {}
        for row in REQUESTED:
            at = [n for n, word in enumerate(words) if word == row.flag]
            found = [words[n + 1] for n in at] if row.kind != "flag" else [True for _ in at]
            read[row.variable] = tuple(found) if row.repeat else next(iter(found), None)

        assert RunRequest.of(read.get) == asked

    def test_action_uses_options_that_exist(self) -> None:
        """Its inputs are options, and so is every option in its steps."""
        action = yaml.safe_load((data_root() / "action.yml").read_text())
        known = {row.name for row in OPTIONS}
        own = {"args", "report-name", "verify"}

        assert set(action["inputs"]) - own <= {row.name for row in options_of("run")}
        steps = " ".join(
            s["run"] for s in action["runs"]["steps"] if "SVIDPROOF" in s.get("env", {})
        )
        used = set(re.findall(r"--([a-z][a-z-]+)", steps))
        assert used - {"format", "for"} <= known

    def test_document_has_the_table(self) -> None:
        """As tox -e documents writes it."""
        text = (data_root() / "docs" / "options.md").read_text("utf-8")

        assert request.replaced(text) == text


class TestRunFile:
    """svidproof.toml, and --options-file."""

    def test_file_gives_what_the_command_line_does_not(
        self, svidproof: Command, started: list[list[str]]
    ) -> None:
        """The command in the report shows what is in effect."""
        Path("svidproof.toml").write_text(
            'profile = ["core", "rbac"]\nspire = "1.15.2"\nkeep = true\ntimeout-scale = 2\n'
            'requirement = "RBAC-1"\njobs = 2\n'
        )

        code, _, err = svidproof("run", "--spire", "1.15.3", "--", "-x")

        assert (code, err) == (0, "")
        (options,) = started
        assert "--svidproof-spire=1.15.3" in options
        assert "--svidproof-profile=rbac" in options
        assert "--svidproof-keep" in options
        assert "--svidproof-options-file=svidproof.toml" in options
        assert not any("jobs" in word for word in options)
        assert shlex.split(options[-1]) == [
            *("svidproof", "run", "--profile", "core", "--profile", "rbac"),
            *("--requirement", "RBAC-1", "--spire", "1.15.3", "--timeout-scale", "2", "--keep"),
            *("--", "-x"),
        ]

    def test_named_file_replaces_the_default_one(
        self, svidproof: Command, started: list[list[str]]
    ) -> None:
        """An empty one gives nothing."""
        Path("svidproof.toml").write_text('profile = "none"\n')

        assert svidproof("run", "--options-file", "/dev/null")[0] == 0
        assert not any(word.startswith("--svidproof-profile") for word in started[0])

    @pytest.mark.parametrize(
        ("text", "line", "why"),
        [
            ('\nprofle = "core"\n', 2, "unknown option profle: did you mean profile"),
            ('spire = "1"\nprofile = 3\n', 2, "profile must be text or a list of texts"),
            ('profile = ["core", 3]\n', 1, "profile must be text or a list of texts"),
            ('# x\nkeep = "yes"\n', 2, "keep must be true or false"),
            ("spire = 1.15\n", 1, "spire must be text"),
            ('jobs = "2"\n', 1, "jobs must be a whole number"),
            ("jobs = 0\n", 1, "jobs must be at least 1"),
            ("timeout-scale = true\n", 1, "timeout-scale must be a number"),
            ('tool = ["a=b", "a=b"]\n', 1, "tool has 'a=b' twice"),
            ('spire = "1"\nspire = "2"\n', 2, "Cannot overwrite a value"),
            ('envoy = ""\n', 1, "envoy is empty: give it a value, or leave it out"),
            ('\n[tool]\nenvoy = "x"\n', 2, "tool must be text or a list of texts"),
            ('options-file = "x"\n', 1, "unknown option options-file"),
            ("spire = \n", 1, "Invalid value"),
        ],
    )
    def test_mistake_is_one_line_with_its_place(
        self, svidproof: Command, started: list[list[str]], text: str, line: int, why: str
    ) -> None:
        """Before anything starts."""
        Path("svidproof.toml").write_text(text)

        code, out, err = svidproof("run")

        assert (code, out, started) == (2, "", [])
        assert err.startswith(f"svidproof: svidproof.toml:{line}: {why}")
        assert err.count("\n") == 1

    def test_every_key_is_an_option(self) -> None:
        """None of them is named by hand."""
        runs = {
            row.name for name in ("run", "up", "matrix", "selftest") for row in options_of(name)
        }

        assert set(run_file._KEYS) | {*run_file._NOT_IN_A_FILE} == runs


@pytest.mark.usefixtures("_standard")
class TestTimeouts:
    """--timeout-scale and --timeout."""

    def test_limits_reach_whoever_waits(self) -> None:
        """The objects that other modules have imported, too."""
        imported = budgets.COUNTERS

        timeouts.parse("0.05", ["PAGE=7"]).apply()

        assert (imported.seconds, budgets.PAGE.seconds) == (0.05, 7)
        with pytest.raises(Overdue, match=r"TLS counters: not within 0\.05 s"):
            eventually(_never, imported)
        timeouts.parse(None, []).apply()
        assert (imported.seconds, budgets.PAGE.seconds) == (1, 5)

    def test_report_tells_only_other_limits(self) -> None:
        """What is set to its standard is standard."""
        assert timeouts.parse("1", ["PAGE=5"]).content() is None
        told = timeouts.parse("2", ["PAGE=7"]).content()
        assert told == {"scale": 2, "seconds": {"PAGE": 7}}
        assert timeouts.describe(told) == "scale 2, PAGE 7 s"

    @pytest.mark.parametrize("allowed", [True, False])
    def test_gate_refuses_them_unless_told(self, report: dict[str, Any], *, allowed: bool) -> None:
        """By a line that says which, and how to accept it."""
        report["run"]["timeouts"] = {"scale": 2.0, "seconds": {}}
        policy = verify.Policy(("core",), datetime.now(UTC), {}, allow_timeouts=allowed)

        lines = list(verify._timeouts(report["run"], policy))

        refusal = (
            "its time limits are not the standard ones (scale 2); --allow-timeouts accepts that"
        )
        assert lines == ([] if allowed else [refusal])


def _never() -> None:
    raise AssertionError("nothing")
