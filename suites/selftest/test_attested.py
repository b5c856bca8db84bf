"""A program that was registered wrongly is told apart from an agent that attests wrongly."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from svidproof.model.clock import Moment
from svidproof.model.errors import PlatformError
from svidproof.model.logs.line import LogRecord
from svidproof.platforms.local.platform import LocalPlatform
from svidproof.platforms.protocol import Observed, Program
from svidproof.testbed.attested import ATTESTED, assert_as_registered
from svidproof.waiting import eventually
from svidproof.waiting.budgets import Budget

if TYPE_CHECKING:
    from collections.abc import Iterator

SOON = Budget("a program runs", 10, 0.01)
REGISTERED = ("unix:path:/link/api/program", "unix:uid:1000")
REAL = "/real/api/program"
ALL = ("uid:1000", "user:joe", "gid:1000")


def line(pid: int, *values: str, message: str = ATTESTED) -> LogRecord:
    """What an agent of SPIRE 1.15 logs at level debug."""
    selectors = json.dumps([{"type": "unix", "value": value} for value in values])
    fields = {"pid": str(pid), "selectors": selectors, "subsystem_name": "workload_attestor"}
    return LogRecord("spire-agent", Moment.now(), datetime.now(UTC), "debug", message, fields)


def judge(*lines: LogRecord, runs_from: str | None = REAL) -> None:
    """Judge an agent's log, where the kernel shows that process 7 runs from there."""

    def observe(pid: int) -> Observed | None:
        if pid != 7 or runs_from is None:
            return None
        return Observed("api", frozenset({f"unix:path:{runs_from}"}))

    assert_as_registered(lines, observe, lambda place: {"api": REGISTERED}[place])


def test_program_that_runs_from_another_path_is_told() -> None:
    """In one line, with both paths."""
    with pytest.raises(PlatformError) as raised:
        judge(line(7, *ALL, f"path:{REAL}"))

    assert str(raised.value).startswith(
        "the agent attested unix:path:/real/api/program, the suite registered "
        "unix:path:/link/api/program for api, and the kernel shows that the agent is right: "
    )
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("attested", "runs_from"),
    [
        pytest.param((*ALL, "path:/link/api/program"), "/link/api/program", id="sound"),
        pytest.param((*ALL, "path:/link/api/program"), REAL, id="as registered, not as it is"),
        pytest.param(ALL, REAL, id="without a path"),
        pytest.param(ALL, "/link/api/program", id="without a path, well registered"),
        pytest.param((*ALL, "path:/usr/bin/true"), REAL, id="another path than it is"),
        pytest.param((*ALL, "path:/usr/bin/true"), "/link/api/program", id="another path"),
        pytest.param((), REAL, id="nothing"),
        pytest.param(("path:/link/api/program",), "/link/api/program", id="without a user"),
        pytest.param((*ALL, f"path:{REAL}"), None, id="of another process"),
    ],
)
def test_agent_that_attests_wrongly_is_for_the_checks(
    attested: tuple[str, ...], runs_from: str | None
) -> None:
    """Whatever it attests but what the kernel shows; and so is one that attests well."""
    judge(line(7, *attested), runs_from=runs_from)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"pid": "x", "selectors": "[]"},
        {"pid": "7", "selectors": "y"},
        {"pid": "7", "selectors": '["z"]'},
    ],
)
def test_line_of_another_form_is_left_out(fields: dict[str, str]) -> None:
    """A later SPIRE may write it otherwise."""
    wall = datetime.now(UTC)
    judge(LogRecord("spire-agent", Moment.now(), wall, "debug", ATTESTED, fields))
    judge(line(7, *ALL, f"path:{REAL}", message="another"))


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalPlatform]:
    """A live platform."""
    monkeypatch.setenv("SVIDPROOF_CACHE", str(tmp_path))
    with contextlib.closing(LocalPlatform({"sh": Path("/bin/sh")}, "example.org")) as made:
        yield made


def test_wrapper_is_seen_as_what_it_runs(platform: LocalPlatform, tmp_path: Path) -> None:
    """A program that becomes another one, as a wrapper does, is not what was registered."""
    real = tmp_path / "real"
    shutil.copy("/bin/sleep", real)
    argv = ("-c", f"exec {real} 60")
    platform.start(Program("api.envoy", "api", "sh", argv, attested=True))
    pid = platform._processes["api.envoy"].pid

    def replaced() -> Observed:
        seen = platform.observe(pid)
        assert seen == Observed("api", frozenset({f"unix:path:{real}"})), seen
        return seen

    eventually(replaced, SOON)

    user = f"uid:{os.getuid()}"
    with pytest.raises(PlatformError, match=f"attested unix:path:{real}, the suite registered"):
        assert_as_registered(
            [line(pid, user, f"path:{real}")], platform.observe, platform.selectors
        )
    assert_as_registered([line(pid, user)], platform.observe, platform.selectors)
    assert platform.observe(os.getpid()) is None


def test_program_that_runs_as_registered_is_no_excuse(platform: LocalPlatform) -> None:
    """An agent that refuses it is judged by the checks."""
    platform.start(Program("api.envoy", "api", "sh", ("-c", "kill -STOP $$"), attested=True))
    pid = platform._processes["api.envoy"].pid
    path = platform.path("api", "program")

    def started() -> None:
        assert platform.observe(pid) == Observed("api", frozenset({f"unix:path:{path}"}))

    eventually(started, SOON)

    for attested in ((f"path:{path}",), ("path:/usr/bin/true",), ()):
        logged = line(pid, f"uid:{os.getuid()}", *attested)
        assert_as_registered([logged], platform.observe, platform.selectors)
