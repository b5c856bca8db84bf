"""The command tells every foreseeable trouble in one line, with the right exit code."""

import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from svidproof.cli import doctor, selftest
from svidproof.cli.up import session
from svidproof.model.settings import TIMINGS
from svidproof.platforms import registry
from svidproof.run.process import pytest_process, signals
from svidproof.run.request import selection
from svidproof.sabotage import Expectation, Sabotage
from svidproof.supply import tools

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own, with nothing in it."""
    monkeypatch.setenv("SVIDPROOF_CACHE", str(tmp_path / "cache"))
    for name in tools.UNDER_TEST:
        monkeypatch.delenv(tools.variable(name), raising=False)
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("run", "--platform", "moon"), "unknown platform moon: there are local"),
        (("run", "--platform", "knd"), "unknown platform knd: did you mean kind? there are local"),
        (("run", "--profile", "gold"), "unknown profile gold: there are core"),
        (
            ("run", "--requirement", "ROTATION-99"),
            "unknown requirement ROTATION-99: did you mean ROTATION-9",
        ),
        (("run", "--requirement", "HELPRE-3"), "did you mean HELPER-3, HELPER-9"),
        (("run", "--requirement", "ROTATON-3"), "did you mean ROTATION-3, "),
        (("run", "--requirement", "zzz"), "unknown requirement zzz: there are "),
        (("run", "--scenario", "mars"), "unknown scenario mars: there are api"),
        (("run", "--timing", "slow"), "unknown timing slow: there are brisk, stock"),
        (
            ("run", "--spire-namespace", "s"),
            "--spire-namespace applies to platform cluster, not lo",
        ),
        (("run", "--image", "envoy=x"), "--image applies to platforms kind and cluster, not local"),
        (("run", "--images", "build"), "--images applies to platforms kind and cluster, not local"),
        (("up", "--kubernetes", "1.34"), "--kubernetes applies to platform kind, not local"),
        (("doctor", "--context", "x"), "--context applies to platform cluster, not local"),
        (
            ("run", "--platform", "cluster", "--spire-socket", "/s"),
            "--spire-socket is of the SPIRE that --spire-names",
        ),
        (("run", "--timeout-scale", "0"), "--timeout-scale 0: it must be a number above 0 and at"),
        (("run", "--timeout-scale", "nan"), "--timeout-scale nan: it must be a number above 0"),
        (("run", "--timeout-scale", ""), "--timeout-scale is empty"),
        (("up", "--timeout", "AGENT_READY"), "write NAME=SECONDS, like AGENT_READY=40"),
        (
            ("run", "--timeout", "AGENT_REDY=4"),
            "unknown time limit AGENT_REDY: did you mean AGENT_",
        ),
        (("run", "--timeout", "PAGE=-1"), "--timeout PAGE=-1: it must be a number above 0 and at"),
        (("run", "--timeout", "PAGE=1", "--timeout", "PAGE=2"), "PAGE is given twice"),
        (("run", "--options-file", "/nowhere.toml"), "cannot read /nowhere.toml: No such file"),
        (
            ("run", "--platform", "cluster", "--spire-namespace", "s", "--sabotage", "x"),
            "--sabotage is for a SPIRE of the suite's own",
        ),
        (("run", "--bogus"), "No such option"),
        (("bogus",), "No such command"),
        (("list", "--profile", "gold"), "unknown profile gold"),
        (("up", "mars"), "unknown scenario mars"),
        (("doctor", "--platform", "moon"), "unknown platform moon"),
        (("doctor", "--tool", "envoy"), "write NAME=PATH"),
        (("tools", "path", "saw"), "'saw' is not a tool"),
        (("tools", "path", "envoi"), "'envoi' is not a tool of this suite: did you mean envoy?"),
        (("run", "--platform", "kind", "--image", "envy=x"), "unknown image envy: did you mean en"),
        (("run", "--platform", "kind", "--image", "envoy=x", "--image", "envoy=y"), "given twice"),
        (("verify", "x.json", "--expect", "envoi=1"), "unknown component envoi: did you mean env"),
        (("run", "--profile", ""), "--profile is empty: give it a value, or leave it out"),
        (("run", "--profile", "core", "--profile", " "), "--profile is empty"),
        (("run", "--profile", "core,,rbac"), "--profile core,,rbac has an empty part"),
        (("run", "--requirement", ""), "--requirement is empty"),
        (("run", "--scenario", ","), "--scenario , has an empty part"),
        (("run", "--tool", ""), "--tool is empty"),
        (("run", "--image", ""), "--image is empty"),
        (("run", "--platform", ""), "--platform is empty"),
        (("run", "--images", ""), "--images is empty"),
        (("run", "--timing", ""), "--timing is empty"),
        (("run", "--spire", ""), "--spire is empty"),
        (("run", "--envoy", " "), "--envoy is empty"),
        (("run", "--spiffe-helper", ""), "--spiffe-helper is empty"),
        (("run", "--sabotage", ""), "--sabotage is empty"),
        (("run", "--report-dir", ""), "--report-dir is empty"),
        (("run", "--kubernetes", ""), "--kubernetes is empty"),
        (("run", "--spire-namespace", ""), "--spire-namespace is empty"),
        (("matrix", "--spire", ""), "--spire is empty"),
        (("matrix", "--from", ""), "--from is empty"),
        (("list", "--profile", ""), "--profile is empty"),
        (("up", ""), "SCENARIO is empty"),
        (("up", "--scenario", ""), "--scenario is empty"),
        (("doctor", "--platform", ""), "--platform is empty"),
        (("doctor", "--tool", ""), "--tool is empty"),
        (("selftest", "--only", ""), "--only is empty"),
        (("verify", "x.json", "--profile", ""), "--profile is empty"),
        (("verify", "x.json", "--expect", ""), "--expect is empty"),
        (("verify", "x.json", "--matrix", ""), "--matrix is empty"),
        (("verify", "x.json", "--max-age", ""), "--max-age is empty"),
        (("verify", ""), "REPORT is empty"),
        (("diff", "", "x"), "svidproof: A is empty"),
        (("report", ""), "REPORT is empty"),
        (("tools", "install", "--spire", ""), "--spire is empty"),
        (("tools", "install", ""), "NAMES is empty"),
        (("tools", "path", ""), "NAME is empty"),
        (("matrix", "--jobs", "0"), "Invalid value for '--jobs': 0 is not in the range x>=1"),
        (("matrix", "--jobs", "9999"), "--jobs 9999 needs 9999 GiB of memory and "),
        (("verify",), "Missing argument"),
        (("verify", "/nowhere.json"), "cannot read /nowhere.json: No such file"),
        (("verify", "x.json", "--max-age", "long"), "long is not an age like"),
        (("verify", "x.json", "--expect", "spire"), "spire is not like spire="),
        (("verify", "x.json", "--profile", "gold"), "unknown profile gold"),
        (("verify", "x.json", "--matrix", "spire=1,"), "spire=1, is not like platform=local"),
        (("verify", "x.json", "--matrix", "spire=1,spire=2"), "spire=1,spire=2 has spire twice"),
        (("selftest", "--only", "nothing"), "unknown sabotage nothing: "),
    ],
)
def test_wrong_usage_is_one_line(svidproof: Command, words: list[str], complaint: str) -> None:
    """Exit code 2, what is wrong, and what there is."""
    code, out, err = svidproof(*words)

    assert code == 2
    assert out == ""
    assert err.startswith("svidproof: ")
    assert complaint in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["run", "up", "matrix", "selftest"])
def test_platform_without_its_packages_is_wrong_usage(
    svidproof: Command, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """The extra is named; the doctor reports it as a finding."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "pytest_kind" else found(name)
    )

    code, out, err = svidproof(command, "--platform", "kind")

    assert (code, out) == (2, "")
    assert err == (
        "svidproof: platform kind needs the package pytest-kind: "
        "pip install 'svidproof[kubernetes]'\n"
    )


def test_run_passes_everything_on(svidproof: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options become the plugin's, and what follows `--` is pytest's."""
    seen: dict[str, Any] = {}

    def fake(options: list[str], extra: tuple[str, ...]) -> int:
        seen.update(options=options, extra=extra)
        return 1

    monkeypatch.setattr(pytest_process, "run", fake)

    code, _, _ = svidproof(
        *("run", "--requirement", "ROTATION-1", "--requirement", "ROTATION-2", "--keep"),
        *("--tool", "envoy=/x", "--report-dir", "out", "--", "-x", "-k", "api"),
    )

    assert code == 1
    assert seen["extra"] == ("-x", "-k", "api")
    assert "--svidproof-requirement=ROTATION-2" in seen["options"]
    assert "--svidproof-tool=envoy=/x" in seen["options"]
    assert "--svidproof-report-dir=out" in seen["options"]
    assert "--svidproof-keep" in seen["options"]
    assert seen["options"][-1].startswith("svidproof run --requirement ROTATION-1")


@pytest.mark.parametrize(
    ("status", "code"),
    [(100, 0), (101, 1), (0, 3), (1, 3), (2, 3), (3, 3), (4, 2), (5, 3), (-9, 3), (139, 3)],
)
def test_ends_of_pytest_become_exit_codes(status: int, code: int) -> None:
    """A verdict has a status of its own: what ends a process by chance proves nothing."""
    assert pytest_process.exit_code(status) == code


def test_child_sees_only_the_suites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither configuration nor plugins of the place where it is started."""
    (tmp_path / "test_x.py").write_text("")
    monkeypatch.chdir(tmp_path)

    assert pytest_process.argv(["--a"], ["-x"])[-1] == str(pytest_process.suites())
    assert pytest_process.argv([], ["test_x.py::test_y"])[-1] == "test_x.py::test_y"
    environment = pytest_process.environment(
        {"PYTEST_ADDOPTS": "-x", "PYTEST_DEBUG": "1", "HOME": "/h"}
    )
    assert environment == {"HOME": "/h", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def test_list_shows_requirements_with_their_checks(svidproof: Command) -> None:
    """Every core requirement has a check, and every check a claim."""
    code, out, _ = svidproof("list", "--format", "json")

    rows = json.loads(out)
    assert code == 0
    assert [row["id"] for row in rows if row["level"] == "core" and not row["checks"]] == []
    assert [c["id"] for row in rows for c in row["checks"] if not c["claim"]] == []


def test_doctor_says_what_to_do(svidproof: Command, cache: Path) -> None:
    """A machine without tools can get them: that is no illness."""
    code, out, _ = svidproof("doctor", "--format", "json")

    answer = json.loads(out)
    by_name = {finding["name"]: finding for finding in answer["findings"]}
    assert by_name["envoy"]["ok"] is None
    assert "tools install" in by_name["envoy"]["hint"]
    assert str(cache) in by_name["cache"]["found"]
    assert code == (0 if answer["well"] else 3)


def test_doctor_finds_what_is_wrong(
    svidproof: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache that is a file, say: exit code 3, and a hint below the line."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SVIDPROOF_CACHE", str(tmp_path / "file" / "cache"))

    code, out, _ = svidproof("doctor")

    assert code == 3
    assert "set SVIDPROOF_CACHE to a directory of your own" in out
    assert "not ready: see above" in out
    assert not doctor.is_well([doctor.Finding("x", ok=False, found="")])


@pytest.mark.usefixtures("cache")
def test_tools_that_are_not_here_are_said_to_be_missing(
    svidproof: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listing and asking install nothing."""
    # The images of this machine are not the test's to remove.
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    assert svidproof("tools", "list") == (0, "nothing yet: svidproof tools install\n", "")
    code, _, err = svidproof("tools", "path", "envoy")
    assert code == 3
    assert "svidproof tools install envoy" in err
    assert svidproof("tools", "clean") == (0, "there is nothing to delete\n", "")


def test_down_ends_what_is_up_and_nothing_else(svidproof: Command, cache: Path) -> None:
    """A note whose process has gone, or whose number was given away, is thrown away."""
    up = cache / "up"
    cache.mkdir(exist_ok=True)
    up.mkdir(mode=0o700)
    mine = {"pid": os.getpid(), "created": psutil.Process().create_time() - 99, "scenario": "api"}
    (up / "1.json").write_text(json.dumps(mine))
    (up / "2.json").write_text(json.dumps({**mine, "pid": 2**22 + 1}))
    (up / "3.json").write_text("torn")

    assert svidproof("down") == (0, "nothing is up\n", "")
    assert [path.name for path in up.iterdir()] == ["3.json"]
    assert session.all_standing() == []


def test_down_refuses_notes_that_others_may_have_written(svidproof: Command, cache: Path) -> None:
    """They name processes to end, and directories to remove."""
    up = cache / "up"
    outside = up / "1.outside"
    outside.mkdir(parents=True)
    (up / "1.json").write_text(json.dumps({"pid": 2**22 + 1, "created": 0, "scenario": "api"}))
    up.chmod(0o777)

    code, out, err = svidproof("down")

    assert (code, out) == (3, "")
    assert err == (
        f"svidproof: {up} can be written to by other users (mode 0777): chmod go-w it, or set "
        "SVIDPROOF_CACHE to a directory of your own\n"
    )
    assert outside.is_dir()


SABOTAGE = Sabotage("lax", "it is lax", {"A-1": (Expectation("Accepted", "got 200"),)})


def sabotaged(
    outcome: str = "fail", message: str = "got 200", exception: str = "Accepted", **run: str
) -> dict[str, Any]:
    """What the report of a sabotaged run says, as far as it is looked at."""
    checks = [{"outcome": outcome, "message": message, "exception": exception}]
    return {
        "run": {"sabotage": "lax", **run},
        "reason": "so",
        "requirements": [{"id": "A-1", "result": outcome, "checks": checks}],
    }


@pytest.mark.parametrize(
    ("status", "report", "red", "because"),
    [
        pytest.param(1, sabotaged(), True, "got 200", id="red"),
        pytest.param(0, sabotaged("pass"), False, "its result is pass", id="green"),
        pytest.param(3, sabotaged("error"), False, "its result is error", id="error"),
        pytest.param(1, sabotaged(message="x"), False, "for another reason", id="other-reason"),
        pytest.param(
            1, sabotaged(exception="Overdue"), False,
            "for another reason: Overdue: got 200; expected Accepted matching 'got 200'",
            id="other-exception",
        ),
        pytest.param(3, sabotaged(), False, "exit status 3", id="status"),
        pytest.param(1, sabotaged(sabotage=""), False, "was not sabotaged", id="not-sabotaged"),
        pytest.param(1, {**sabotaged(), "requirements": []}, False, "no check", id="not-run"),
        pytest.param(2, None, False, "no report", id="no-report"),
    ],
)  # fmt: skip
def test_sabotage_must_be_noticed_for_the_right_reason(
    status: int, report: dict[str, Any] | None, *, red: bool, because: str
) -> None:
    """Red, by the requirement's own check, with the message that was foreseen."""
    (finding,) = selftest.judge(SABOTAGE, status, report)

    assert finding.red is red
    assert because in finding.because


def test_names_agree_with_what_they_name() -> None:
    """The command knows the names of what it does not load."""
    assert set(selection.TIMINGS) == set(TIMINGS)
    assert set(tools.UNDER_TEST) <= set(tools.known_tools())
    assert "local" in registry.available()


class TestInterrupts:
    """Ctrl-C, once, twice, and three times."""

    @pytest.fixture
    def told(self) -> list[str]:
        """What was said."""
        return []

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        """The present time, for a test to set."""
        now = [100.0]
        monkeypatch.setattr(time, "monotonic", lambda: now[0])
        return now

    def test_first_ends_the_run(self, told: list[str]) -> None:
        """As an exception that pytest knows, with its cause."""
        handler = signals.Interrupts(told.append)

        with pytest.raises(KeyboardInterrupt):
            handler._handle(signal.SIGTERM, None)

        assert (handler.cause, told) == ("terminated", [])

    def test_terminal_and_command_are_one(self, told: list[str], clock: list[float]) -> None:
        """The same key reaches us twice; that is no impatience."""
        handler = signals.Interrupts(told.append)
        with pytest.raises(KeyboardInterrupt):
            handler._handle(signal.SIGINT, None)
        clock[0] += 0.05

        handler._handle(signal.SIGINT, None)

        assert told == []

    def test_second_waits_and_third_does_not(
        self, told: list[str], clock: list[float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Clean-up goes on after the second, in one line; the next run does it after the third."""
        monkeypatch.setattr(os, "_exit", sys.exit)
        handler = signals.Interrupts(told.append)
        with pytest.raises(KeyboardInterrupt):
            handler._handle(signal.SIGINT, None)

        clock[0] += 1
        handler._handle(signal.SIGINT, None)
        clock[0] += 1
        with pytest.raises(SystemExit, match="3"):
            handler._handle(signal.SIGINT, None)

        assert len(told) == 2

    def test_nothing_interrupts_the_end(self, told: list[str], clock: list[float]) -> None:
        """A first Ctrl-C while all is cleaned up already raises nothing."""
        handler = signals.Interrupts(told.append)
        handler.finishing()
        clock[0] += 1

        handler._handle(signal.SIGINT, None)

        assert handler.cause is None
        assert len(told) == 1
