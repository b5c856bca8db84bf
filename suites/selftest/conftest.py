"""A small catalogue and a sound report of it, for tests to spoil."""

import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from svidproof.checks.pages import browser
from svidproof.cli import main
from svidproof.model.catalogue import Catalogue, parse
from svidproof.model.manifests import data_root
from svidproof.model.verdict import Result
from svidproof.report import build
from svidproof.report.model import Check, Component, Evidence, Measurement, Run

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CATALOGUE = """
[[requirement]]
id = "ONE-1"
title = "It holds"
profiles = ["core"]
source = ["test"]
[[requirement]]
id = "ONE-2"
title = "It nearly holds"
profiles = ["core"]
source = ["test"]
[[requirement]]
id = "TWO-1"
title = "It may hold"
level = "extended"
profiles = ["core", "more"]
source = ["test"]
[[deviation]]
id = "envoy-lax"
requirements = ["ONE-2"]
when = { flaw = ["lax"] }
component = "envoy"
versions = ">=1.36"
raises = "Accepted"
reason = "Envoy is lax"
link = "https://example.org/lax"
"""
# What they look at is in a checkout only, not in what is installed.
collect_ignore = (
    []
    if (data_root() / "reports" / "README.md").is_file()
    else ["test_examples.py", "test_foreign_spire.py"]
)
STARTED = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
Spoil = Callable[..., Evidence]
Command = Callable[..., tuple[int, str, str]]


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Take the tests' temporary files away at the end: pytest keeps those of three runs."""
    config.addinivalue_line("markers", "browser: opens pages in the machine's browser")
    if config.option.basetemp is None:
        directory = tempfile.mkdtemp(prefix="svidproof-")
        config.option.basetemp = directory
        config.add_cleanup(lambda: shutil.rmtree(directory, ignore_errors=True))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that open pages in a browser, and turn warnings into errors.

    Warnings are errors in the suite's own tests only: see `svidproof.run.process.pytest_process`.
    """
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.filterwarnings("error"))
        if isinstance(item, pytest.Function) and "chromium" in item.fixturenames:
            item.add_marker("browser")


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line which tests a machine without a browser has not run.

    It goes to the file that SVIDPROOF_SKIPPED names, too: `make test` ends with it.
    """
    skipped = [
        report
        for report in terminalreporter.stats.get("skipped", ())
        # A whole module is skipped where a library is missing; that is no test.
        if isinstance(report, pytest.TestReport) and "browser" in report.keywords
    ]
    told = [report.longrepr for report in skipped]
    reasons = {why[2].removeprefix("Skipped: ") for why in told if isinstance(why, tuple)}
    line = ""
    if skipped:
        tests = "1 test that needs" if len(skipped) == 1 else f"{len(skipped)} tests that need"
        verb = "was" if len(skipped) == 1 else "were"
        line = f"{tests} a browser {verb} skipped: {'; '.join(sorted(reasons))}"
        terminalreporter.write_line(line, yellow=True)
    if note := os.environ.get("SVIDPROOF_SKIPPED"):
        Path(note).write_text(f"{line}\n" if line else "", encoding="utf-8")


@pytest.fixture
def catalogue() -> Catalogue:
    """Two core requirements, one extended, one known deviation."""
    return parse(CATALOGUE)


@pytest.fixture
def evidence(catalogue: Catalogue) -> Evidence:
    """What a good run of it finds."""
    lax = catalogue.deviations[0]
    return Evidence(
        run=Run(
            id="run-1",
            started=STARTED,
            finished=STARTED + timedelta(seconds=40),
            platform="local",
            profiles=("core",),
            command="svidproof run",
            timing="brisk",
        ),
        components=(
            Component("spire-server", "1.15.3", "release", "a" * 64),
            Component("spire-agent", "1.15.3", "release", "b" * 64),
            Component("envoy", "1.40.0", "wheel", "c" * 64),
        ),
        requirements=("ONE-1", "ONE-2", "TWO-1"),
        checks=(
            Check("a/test_a.py::test_a", ("ONE-1",), "It does", Result.PASS, 0.5, "saw it"),
            Check("a/test_b.py::test_b[x]", ("ONE-2",), "It does", Result.PASS, 0.25),
            Check(
                "a/test_b.py::test_b[lax]",
                ("ONE-2",),
                "It does",
                Result.KNOWN_DEVIATION,
                0.25,
                "let in",
                lax,
            ),
            Check("a/test_c.py::test_c", ("TWO-1", "ONE-1"), "It does", Result.PASS, 0.1),
        ),
        measurements=(Measurement("lag", 0.1, "s", "ONE-1"),),
    )


@pytest.fixture
def spoil(evidence: Evidence) -> Spoil:
    """Changes the run, or the result of one check, of the good evidence."""

    def change(check: str | None = None, result: Result = Result.FAIL, **run: Any) -> Evidence:  # noqa: ANN401
        checks = tuple(
            replace(c, result=result, message="spoiled", deviation=None)
            if check and c.id.endswith(check)
            else c
            for c in evidence.checks
        )
        return replace(evidence, run=replace(evidence.run, **run), checks=checks)

    return change


@pytest.fixture
def report(evidence: Evidence, catalogue: Catalogue) -> dict[str, Any]:
    """The report of the good run."""
    return build.build(evidence, catalogue)


@pytest.fixture
def svidproof(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command in this process; returns its exit code and what it wrote."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["svidproof", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main.main()
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, captured.out, captured.err

    return run


@pytest.fixture(scope="session", autouse=True)
def _signals_are_not_ignored() -> Iterator[None]:
    """Tests of Ctrl-C mean the same in a script's background, where SIGINT is ignored."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def chromium() -> "Iterator[Browser]":
    """The machine's own browser; its absence is a failure where SVIDPROOF_BROWSER names one."""
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(browser.launched())
        except pytest.skip.Exception as missing:  # noqa: TID251  no check
            if os.environ.get(browser.VARIABLE):
                pytest.fail(f"{browser.VARIABLE} is set, but {missing}", pytrace=False)
            raise
        yield found
