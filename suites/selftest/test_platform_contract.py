"""What every platform must do; a new one joins the table `PLATFORMS`, and nothing else changes."""

from __future__ import annotations

import contextlib
import signal
import socket
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from svidproof.model.capabilities import Capability
from svidproof.model.errors import PlatformError
from svidproof.model.scenario import PROBER
from svidproof.platforms.local.platform import LocalPlatform
from svidproof.platforms.protocol import Completed, Platform, Program
from svidproof.waiting import consistently, eventually
from svidproof.waiting.budgets import Budget

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PLATFORMS = [pytest.param(lambda: LocalPlatform({}, "example.org"), id="local")]
SOON = Budget("program does it", 10, 0.01)
A_WHILE = Budget("program does nothing", 0.1, 0.02)

WAITS = "import signal; print('ready', flush=True); signal.pause()"
LEAVES = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('bye', flush=True)))
print('ready', flush=True)
while True: signal.pause()
"""
TICKS = """
import signal
signal.signal(signal.SIGALRM, lambda *_: print('tick', flush=True))
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
while True: signal.pause()
"""
GREETS = """
import socket, sys
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
print('ready', flush=True)
while True:
    with server.accept()[0] as client: client.sendall(sys.argv[3].encode())
"""


class Make(Protocol):
    """Makes platforms, which are closed after the test."""

    def __call__(self) -> Platform:
        """Make one."""


@pytest.fixture(params=PLATFORMS)
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """A factory of platforms whose runs are nobody else's."""
    build: Callable[[], Platform] = request.param
    with tempfile.TemporaryDirectory() as cache, contextlib.ExitStack() as stack:
        # Not below tmp_path: the path of a socket must be short.
        monkeypatch.setenv("SVIDPROOF_CACHE", cache)

        def factory() -> Platform:
            platform = build()
            stack.callback(platform.close)
            return platform

        yield factory


@pytest.fixture
def platform(make: Make) -> Platform:
    """One platform."""
    return make()


def python(component: str, script: str, *args: str, place: str = "here") -> Program:
    """A program that is one script."""
    return Program(component, place, "python", ("-I", "-c", script, *args))


def wait_for(platform: Platform, component: str, text: str) -> None:
    """Wait until a program has written `text`."""

    def written() -> None:
        log = platform.read_log(component, 0).decode()
        assert text in log, f"{component} has written {log!r}"

    eventually(written, SOON)


def wait_for_end(platform: Platform, component: str) -> int:
    """Wait until a program has ended, and return its status."""

    def ended() -> int:
        status = platform.exit_status(component)
        assert status is not None, f"{component} runs"
        return status

    return eventually(ended, SOON)


def test_program_runs_until_it_is_ended(platform: Platform) -> None:
    """A program that was started has no status while it runs."""
    platform.start(python("one", WAITS))
    wait_for(platform, "one", "ready")

    assert platform.exit_status("one") is None


@pytest.mark.parametrize("status", [0, 3])
def test_status_is_the_programs_own(platform: Platform, status: int) -> None:
    """A program that ends of itself keeps its own status."""
    platform.start(python("one", f"raise SystemExit({status})"))

    assert wait_for_end(platform, "one") == status


def test_stop_lets_a_program_finish(platform: Platform) -> None:
    """A program that is stopped is asked to end, and has ended when that returns."""
    platform.start(python("one", LEAVES))
    wait_for(platform, "one", "ready")

    platform.stop("one")

    assert platform.exit_status("one") == 0
    assert platform.read_log("one", 0).endswith(b"bye\n")


def test_stop_sends_the_signal_of_the_program(platform: Platform) -> None:
    """A program that ends in order by another signal than SIGTERM is sent that one."""
    script = LEAVES.replace("signal.SIGTERM", "signal.SIGINT")
    platform.start(replace(python("one", script), stop_signal=signal.SIGINT))
    wait_for(platform, "one", "ready")

    platform.stop("one")

    assert platform.exit_status("one") == 0
    assert platform.read_log("one", 0).endswith(b"bye\n")


def test_kill_gives_no_notice(platform: Platform) -> None:
    """A program that is killed has no chance to say so."""
    platform.start(python("one", LEAVES))
    wait_for(platform, "one", "ready")

    platform.kill("one")

    assert platform.exit_status("one") == -9
    assert b"bye" not in platform.read_log("one", 0)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_ending_what_has_ended_is_no_error(platform: Platform, end: str) -> None:
    """A program that has ended of itself can be stopped and killed all the same."""
    platform.start(python("one", "raise SystemExit(3)"))
    wait_for_end(platform, "one")

    getattr(platform, end)("one")

    assert platform.exit_status("one") == 3


def test_program_starts_again(platform: Platform) -> None:
    """A program that was ended can be started again; its log goes on."""
    for number in (1, 2, 3):
        platform.start(python("one", WAITS))
        wait_for(platform, "one", "ready\n" * number)
        assert platform.exit_status("one") is None
        platform.kill("one")


def test_pause_freezes_and_resume_lets_go_on(platform: Platform) -> None:
    """A program that is paused does nothing, and goes on where it was."""
    assert Capability.PAUSE in platform.capabilities
    platform.start(python("one", TICKS))
    wait_for(platform, "one", "tick")

    platform.pause("one")
    eventually(lambda: still(platform, "one"), SOON)

    assert platform.exit_status("one") is None
    platform.resume("one")
    wait_for(platform, "one", platform.read_log("one", 0).decode() + "tick")


def still(platform: Platform, component: str) -> None:
    """A program writes nothing for a while."""
    length = len(platform.read_log(component, 0))

    def unchanged() -> None:
        assert len(platform.read_log(component, 0)) == length, f"{component} goes on"

    consistently(unchanged, A_WHILE)


@pytest.mark.parametrize(("end", "status"), [("stop", 0), ("kill", -9)])
def test_paused_program_can_be_ended(platform: Platform, end: str, status: int) -> None:
    """A frozen program ends like any other."""
    platform.start(python("one", LEAVES))
    wait_for(platform, "one", "ready")
    platform.pause("one")

    getattr(platform, end)("one")

    assert platform.exit_status("one") == status


def test_log_is_read_on_from_an_offset(platform: Platform) -> None:
    """A log has what was written to both outputs, from an offset to the last whole line."""
    script = (
        "import sys; print('out', flush=True); print('err', file=sys.stderr); print('half', end='')"
    )
    platform.start(python("one", script))
    wait_for_end(platform, "one")

    assert platform.read_log("one", 0) == b"out\nerr\n"
    assert platform.read_log("one", 4) == b"err\n"
    assert platform.read_log("one", 8) == b""


def test_log_of_nothing_is_empty(platform: Platform) -> None:
    """A program that was never started has an empty log."""
    assert platform.read_log("nobody", 0) == b""


def test_file_is_private_and_where_it_says(platform: Platform) -> None:
    """A file is at the path that was returned, for the programs there and only for their owner."""
    path = platform.put("here", "secret.key", b"\x00secret\xff")

    script = (
        "import os, sys; print(oct(os.stat(sys.argv[1]).st_mode), open(sys.argv[1], 'rb').read())"
    )
    done = platform.run("here", "python", ["-I", "-c", script, path])

    assert done == Completed(0, "0o100600 b'\\x00secret\\xff'\n", "")
    assert path == platform.path("here", "secret.key")
    assert platform.get("here", "secret.key") == b"\x00secret\xff"


def test_file_is_replaced_whole(platform: Platform) -> None:
    """A file that is put again has the new content, and nothing of the old one."""
    platform.put("here", "file", b"a long content")
    platform.put("here", "file", b"short")

    assert platform.get("here", "file") == b"short"


def test_places_have_files_of_their_own(platform: Platform) -> None:
    """The same name at two places is two files."""
    platform.put("here", "file", b"one")
    platform.put("there", "file", b"two")

    assert (platform.get("here", "file"), platform.get("there", "file")) == (b"one", b"two")


def test_run_tells_status_and_both_outputs(platform: Platform) -> None:
    """A command that was run to its end tells its status and what it wrote where."""
    script = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(4)"

    assert platform.run("here", "python", ["-c", script]) == Completed(4, "out\n", "err\n")


def test_environment_of_the_caller_stays_outside(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proxies and other settings of the caller do not reach what is under test."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.invalid")
    monkeypatch.setenv("SPIFFE_ENDPOINT_SOCKET", "unix:///somewhere.sock")
    script = "import os; print(*os.environ)"

    ran = platform.run("here", "python", ["-I", "-c", script]).stdout
    platform.start(python("one", script))
    wait_for_end(platform, "one")

    for names in (ran, platform.read_log("one", 0).decode()):
        assert "PATH" in names.split()
        assert not {"HTTPS_PROXY", "SPIFFE_ENDPOINT_SOCKET"} & set(names.split())


def greet(platform: Platform, place: str, text: str) -> None:
    """Start a server at the place's own address and the scenario's port."""
    platform.start(python(place, GREETS, platform.host(place), "8443", text, place=place))
    wait_for(platform, place, "ready")


def ask(platform: Platform, place: str) -> bytes:
    """What the server at a place says."""
    with socket.create_connection(platform.dial(place, 8443), timeout=5) as client:
        return client.recv(64)


def test_places_have_addresses_of_their_own(platform: Platform) -> None:
    """Programs at two places listen on the same port, and each is reached at its own address."""
    greet(platform, "here", "I am here")
    greet(platform, "there", "I am there")

    assert (ask(platform, "here"), ask(platform, "there")) == (b"I am here", b"I am there")


def test_two_platforms_do_not_meet(make: Make) -> None:
    """Two runs at once have addresses, files and programs of their own."""
    first, second = make(), make()
    for platform, text in ((first, "first"), (second, "second")):
        platform.put("here", "file", text.encode())
        greet(platform, "here", text)

    assert first.host("here") != second.host("here")
    assert (ask(first, "here"), first.get("here", "file")) == (b"first", b"first")
    assert (ask(second, "here"), second.get("here", "file")) == (b"second", b"second")


def test_closing_one_leaves_the_other(make: Make, request: pytest.FixtureRequest) -> None:
    """The end of one run is not noticed by another."""
    other = make()
    greet(other, "here", "still here")
    build: Callable[[], Platform] = request.node.callspec.params["make"]
    ending = build()
    greet(ending, "here", "going")
    address = ending.dial("here", 8443)

    ending.close()

    assert ask(other, "here") == b"still here"
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(address, timeout=5)


def test_selectors_tell_places_apart(platform: Platform) -> None:
    """Each place, and the prober, has selectors of its own, the same whenever asked."""
    places = ("api", "valid-api-client", "invalid-api-client", PROBER)

    selectors = [platform.selectors(place) for place in places]

    assert len(set(selectors)) == len(places)
    assert selectors == [platform.selectors(place) for place in places]
    assert all(":" in selector for found in selectors for selector in found)


def test_private_endpoint_fits_a_socket(platform: Platform) -> None:
    """The path for a socket is one that the kernel takes, in a directory of its owner only."""
    path = platform.private_endpoint("invalid-api-client", "workload-api.sock")
    script = """if True:
        import os, socket, sys
        socket.socket(socket.AF_UNIX).bind(sys.argv[1])
        print(oct(os.stat(os.path.dirname(sys.argv[1])).st_mode))
    """

    done = platform.run("invalid-api-client", "python", ["-I", "-c", script, path])

    assert done == Completed(0, "0o40700\n", "")


def test_attestation_is_complete(platform: Platform) -> None:
    """Each part of SPIRE gets its block, and entries have a parent before the agent runs."""
    attestation = platform.attestation()

    assert "NodeAttestor" in attestation.server
    assert "NodeAttestor" in attestation.agent
    assert "WorkloadAttestor" in attestation.workload
    assert set(attestation.agent_ids) == set(platform.agents)
    assert attestation.parent_id.startswith("spiffe://example.org/")


def test_capabilities_are_declared(platform: Platform) -> None:
    """A platform says what it can do before it is asked to."""
    assert platform.name
    assert platform.capabilities <= set(Capability)
    assert type(platform).capabilities == platform.capabilities


def test_what_cannot_be_started_is_told(make: Make) -> None:
    """A program that is not there is an error, or ends at once and its log says why."""
    platform = make()
    platform._tools["gone"] = Path("/nonexistent/program")  # type: ignore[attr-defined]

    try:
        platform.start(Program("one", "here", "gone", ()))
        status = wait_for_end(platform, "one")
    except PlatformError as error:
        told = str(error)
    else:
        assert status > 0
        told = platform.read_log("one", 0).decode()

    assert "/nonexistent/program" in told
