"""What the suite starts imports nothing from the working directory and leaves no core file."""

from __future__ import annotations

import ast
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import svidproof
from svidproof.cli import bench, selftest
from svidproof.cli.up import session
from svidproof.platforms.local.platform import LocalPlatform
from svidproof.platforms.protocol import Program
from svidproof.report import publish
from svidproof.report.text.terminal import Screen
from svidproof.run.process import pytest_process
from svidproof.waiting import eventually
from svidproof.waiting.budgets import Budget

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(svidproof.__file__).parent
SOON = Budget("the program has started", 10, 0.01)
# Each is imported by what the suite starts.
SHADOWED = ("click", "pytest", "jinja2", "yaml", "grpc", "svidproof")
SHADOW = "open({marker!r}, 'a').write(__name__ + chr(10))\nraise SystemExit('shadowed')\n"
ISOLATED = ("-P", "-I")


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Names the shadowing modules that were imported from the working directory, if any."""
    marker = tmp_path / "imported"
    directory = tmp_path / "working"
    directory.mkdir()
    for name in SHADOWED:
        (directory / f"{name}.py").write_text(SHADOW.format(marker=str(marker)))
    monkeypatch.chdir(directory)
    monkeypatch.setenv("SVIDPROOF_CACHE", str(tmp_path / "cache"))
    return marker


def test_marker_sees_a_shadowing_module(marker: Path) -> None:
    """An interpreter without -P does import a module from the working directory."""
    done = subprocess.run(
        [sys.executable, "-m", "svidproof.cli.main"], capture_output=True, check=False
    )

    assert done.returncode == 1
    assert marker.read_text() == "svidproof\n"


def test_detached_scenario_imports_nothing_from_here(marker: Path) -> None:
    """`up --detach` starts the installed command, whatever modules the working directory has."""
    with pytest.raises(session.StandingError, match="no-such-scenario"):
        session.up_detached(["no-such-scenario"], "no-such-scenario")

    assert not marker.exists()


def test_benchmark_imports_nothing_from_here(marker: Path) -> None:
    """The benchmark starts the installed command."""
    with pytest.raises(bench.BenchError, match="no-such-profile"):
        bench.run_core("--profile", "no-such-profile")

    assert not marker.exists()


def test_checks_import_nothing_from_here(marker: Path) -> None:
    """The pytest that `run`, `matrix`, `list` and the sabotages start is the installed one."""
    status, output = pytest_process.capture(["--version"])

    assert status == 3  # it runs no check, so it is no success
    assert f"pytest {pytest.__version__}\n" in output
    assert not marker.exists()


def test_unit_tests_import_nothing_from_here(
    marker: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pytest that `selftest` starts for the unit tests is the installed one."""
    tests = Path.cwd() / "suites" / "selftest"
    tests.mkdir(parents=True)
    (tests / "test_nothing.py").write_text("def test_nothing(): pass\n")
    monkeypatch.setattr(pytest_process, "suites", lambda: tests.parent)

    assert selftest._unit_tests(Screen(sys.stdout))

    assert "1 passed" in capsys.readouterr().out
    assert not marker.exists()


def command_lines() -> Iterator[tuple[str, list[ast.expr]]]:
    """Every list or tuple of the package that begins a Python interpreter, and where it is."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, (ast.List, ast.Tuple)):
                words = [ast.unparse(word) for word in node.elts]
                module = [i for i, word in enumerate(words) if word == "'-m'"]
                if "sys.executable" in words or (module and words[0] != "str(go)"):
                    yield f"{path.relative_to(PACKAGE)}:{node.lineno}", node.elts


def test_every_interpreter_is_told_not_to_import_from_here() -> None:
    """Whatever starts Python passes -P or -I, before the module that it runs."""
    found = list(command_lines())

    assert len(found) >= 8
    for where, words in found:
        values = [word.value for word in words if isinstance(word, ast.Constant)]
        assert any(option in values for option in ISOLATED), where
        if "-m" in values:
            before = values[: values.index("-m")]
            assert any(option in before for option in ISOLATED), where


def test_component_leaves_no_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel allows a local component no core file, even if the caller may have one."""
    monkeypatch.setenv("SVIDPROOF_CACHE", str(tmp_path))
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    # As in a shell after `ulimit -c unlimited`, as far as this process may.
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    platform = LocalPlatform({"sleep": Path("/bin/sleep")}, "example.org")
    try:
        platform.start(Program("one", "one", "sleep", ("60",)))
        directory = Path(f"/proc/{platform._processes['one'].pid}")

        def started() -> None:
            assert (directory / "exe").resolve().name != Path(sys.executable).resolve().name

        eventually(started, SOON)
        limits = (directory / "limits").read_text().splitlines()
    finally:
        platform.close()

    [core] = [line.split() for line in limits if line.startswith("Max core file size")]
    assert core == ["Max", "core", "file", "size", "0", "0", "bytes"]


WRITES = """
import resource, sys
from pathlib import Path
from svidproof import cli
from svidproof.report import publish
cli.cli = lambda **_: None
try:
    cli.main()
except SystemExit:
    pass
assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
publish.prepare(Path("reports/one"))
publish.write(Path("reports/one/report.json"), "{}")
Path("reports/one/junit.xml").write_text("")
"""


@pytest.mark.parametrize(
    ("mask", "modes"),
    [
        pytest.param(0o000, {"reports": 0o755, "one": 0o755, "report.json": 0o644,
                             "junit.xml": 0o644}, id="none"),
        pytest.param(0o022, {"reports": 0o755, "one": 0o755, "report.json": 0o644,
                             "junit.xml": 0o644}, id="usual"),
        pytest.param(0o077, {"reports": 0o700, "one": 0o700, "report.json": 0o600,
                             "junit.xml": 0o600}, id="private"),
    ],
)  # fmt: skip
def test_only_the_owner_can_write_what_the_command_writes(
    tmp_path: Path, mask: int, modes: dict[str, int]
) -> None:
    """Under umask 0 nothing of a report is writable by others; a narrower umask is kept."""
    argv = [sys.executable, "-P", "-c", WRITES]
    subprocess.run(argv, cwd=tmp_path, umask=mask, check=True, timeout=60)

    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert found == modes


def test_report_is_not_writable_by_others_without_the_command(tmp_path: Path) -> None:
    """A report that is written by a caller with umask 0 is writable by its owner only."""
    before = os.umask(0)
    try:
        publish.write(tmp_path / "report.json", "{}")
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "report.json").stat().st_mode) == 0o644
