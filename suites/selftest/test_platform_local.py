"""Processes of this machine leave nothing behind, however the run that started them ends."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

import svidproof
from svidproof import leftovers
from svidproof.budgets import Budget
from svidproof.doctor import machine
from svidproof.platforms import _runs, local
from svidproof.platforms._runs import RunDirectory, clear_stale_runs, installation_id
from svidproof.platforms.base import PlatformError, Program, SiteOptions
from svidproof.platforms.local import LocalPlatform, LocalSite
from svidproof.tools import Progress, Tool, prepare_cache
from svidproof.waiting import consistently, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SOON = Budget("processes end", 10, 0.01)
WAITS = ("-I", "-c", "import signal; print('ready', flush=True); signal.pause()")
IGNORES = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('ready', flush=True)
while True: signal.pause()
"""
STUBBORN = ("-I", "-c", IGNORES)
FORKS = ("-I", "-c", "import os, signal; print('child', os.fork(), flush=True); signal.pause()")
# A run as the command makes it, in a process that can be killed.
OWNER = """
import signal
from svidproof.platforms.base import Program
from svidproof.platforms.local import LocalPlatform

platform = LocalPlatform({}, "example.org")
script = "import signal; print('ready', flush=True); signal.pause()"
for name in ("one", "two"):
    platform.start(Program(name, name, "python", ("-I", "-c", script)))
print(platform.directory, *(p.pid for p in platform._processes.values()), flush=True)
signal.pause()
"""


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of the test's own."""
    with tempfile.TemporaryDirectory() as directory:
        monkeypatch.setenv("SVIDPROOF_CACHE", directory)
        leftovers.take()
        yield Path(directory)


@pytest.fixture
def platform(cache: Path) -> Iterator[LocalPlatform]:
    """A live platform."""
    assert cache.is_dir()
    with contextlib.closing(LocalPlatform({"sh": Path("/bin/sh")}, "example.org")) as made:
        yield made


def runs_in(cache: Path) -> list[str]:
    """The directories of runs that are in a cache."""
    return sorted(path.name for path in (cache / "runs").iterdir() if path.name != "installation")


def killed_run(cache: Path) -> Path:
    """The directory of a run of this installation that was killed."""
    own = installation_id()
    dead = cache / "runs" / "deadbeef"
    dead.mkdir(mode=0o700)
    (dead / "lock").write_text(own)
    return dead


@contextlib.contextmanager
def ended_after(argv: list[str], *, cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is none of a run's, and ends with the block."""
    with subprocess.Popen(argv, cwd=cwd) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_path(path: Path) -> None:
    """Wait until it is there."""

    def there() -> None:
        assert path.exists(), path

    eventually(there, SOON)


def running(pid: int) -> bool:
    """Whether a process runs; one that nobody has reaped yet does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def wait_until_ended(*pids: int) -> None:
    """Wait until none of these processes runs."""

    def ended() -> None:
        left = [pid for pid in pids if running(pid)]
        assert not left, f"still running: {left}"

    eventually(ended, SOON)


def wait_for(log: Path, text: str) -> None:
    """Wait until a log has `text`."""

    def written() -> None:
        found = log.read_text() if log.exists() else ""
        assert text in found, f"{log.name}: {found!r}"

    eventually(written, SOON)


def child_of(platform: LocalPlatform, name: str) -> int:
    """Start a program that forks, and wait until both have said so; returns the child's process."""
    start(platform, name, FORKS, "child")
    log = platform.directory / "log" / name

    def forked() -> int:
        lines = log.read_text().splitlines()
        assert len(lines) == 2, f"{name}: {lines}"
        return max(int(line.split()[1]) for line in lines)

    return eventually(forked, SOON)


def start(platform: LocalPlatform, name: str, args: tuple[str, ...], ready: str = "ready") -> int:
    """Start a Python program and wait until it is up; returns its process."""
    platform.start(Program(name, name, "python", args))
    wait_for(platform.directory / "log" / name, ready)
    return platform._processes[name].pid


def test_close_leaves_nothing(cache: Path) -> None:
    """When a run is over, its processes, directory and addresses are gone."""
    platform = LocalPlatform({}, "example.org")
    pids = [start(platform, name, WAITS) for name in ("one", "two")]
    platform.put("one", "key.pem", b"secret")

    platform.close()

    assert not any(map(running, pids))
    assert runs_in(cache) == []
    assert platform._claim.fileno() == -1


def test_close_ends_what_does_not_listen(cache: Path) -> None:
    """Programs that ignore signals, are frozen or have children of their own end as well."""
    platform = LocalPlatform({}, "example.org")
    pids = [start(platform, "stubborn", STUBBORN), start(platform, "frozen", WAITS)]
    pids += [child_of(platform, "parent"), platform._processes["parent"].pid]
    platform.pause("frozen")

    platform.close()

    wait_until_ended(*pids)
    assert runs_in(cache) == []


def test_close_tells_what_went_wrong_and_goes_on(cache: Path) -> None:
    """An error in one step of the clean-up does not keep the others from being made."""
    platform = LocalPlatform({}, "example.org")
    pid = start(platform, "one", WAITS)
    for path in (platform.directory / "one", platform.directory / "log"):
        path.rename(cache / path.name)
    (platform.directory / "lock").unlink()
    platform.directory.rmdir()

    with pytest.raises(ExceptionGroup) as raised:
        platform.close()

    assert [str(e) for e in raised.value.exceptions] == [
        f"cannot remove {platform.directory}: No such file or directory"
    ]
    assert not running(pid)
    assert platform._claim.fileno() == -1


def test_stop_kills_what_does_not_listen(
    platform: LocalPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that ignores the request to end is killed after a grace."""
    monkeypatch.setattr(local, "_STOPPED", Budget("it ends", 0.05, 0.01))
    start(platform, "one", STUBBORN)

    platform.stop("one")

    assert platform.exit_status("one") == -signal.SIGKILL


def test_program_outlives_the_thread_that_started_it(platform: LocalPlatform) -> None:
    """Testbeds are booted by threads that end; what dies with its parent must not die with them."""
    thread = threading.Thread(target=start, args=(platform, "one", WAITS))
    thread.start()
    thread.join()

    consistently(lambda: _assert_runs(platform, "one"), Budget("it runs", 0.2, 0.02))


def _assert_runs(platform: LocalPlatform, name: str) -> None:
    status = platform.exit_status(name)
    assert status is None, f"{name} ended with status {status}"


def test_kill_takes_the_children_along(platform: LocalPlatform) -> None:
    """A program that is killed leaves no child."""
    child = child_of(platform, "one")

    platform.kill("one")

    wait_until_ended(child)


def test_killed_run_takes_its_programs_along_and_is_cleared(platform: LocalPlatform) -> None:
    """When a run is killed its programs end, and the next clears its directory but no live one."""
    mine = start(platform, "one", WAITS)
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        directory, *pids = owner.stdout.readline().split()
        for name in ("one", "two"):
            wait_for(Path(directory) / "log" / name, "ready")

        owner.kill()

    wait_until_ended(*map(int, pids))
    assert clear_stale_runs() == [Path(directory).name]
    assert not Path(directory).exists()
    assert running(mine)
    assert platform.directory.is_dir()
    assert clear_stale_runs() == []


def test_run_that_is_killed_at_once_leaves_no_program(platform: LocalPlatform) -> None:
    """A program whose run dies before it is up does not come up."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        directory, *pids = owner.stdout.readline().split()

        owner.kill()

    wait_until_ended(*map(int, pids))
    assert clear_stale_runs() == [Path(directory).name]
    assert platform.directory.is_dir()


def test_stray_processes_of_a_dead_run_are_ended(platform: LocalPlatform, cache: Path) -> None:
    """A process that outlived its run is known by its program or its mark, and ended."""
    dead = killed_run(cache)
    program = dead / "api" / "program"
    program.parent.mkdir()
    shutil.copy("/bin/sleep", program)
    marked = {**os.environ, "SVIDPROOF_RUN": str(dead)}
    with (
        subprocess.Popen([program, "60"]) as by_program,
        subprocess.Popen(["/bin/sleep", "60"], env=marked, start_new_session=True) as by_mark,
        ended_after(["/bin/sleep", "60"], cwd=cache) as other,
    ):
        assert clear_stale_runs() == ["deadbeef"]

        assert by_program.wait(5) == by_mark.wait(5) == -signal.SIGKILL
        assert other.poll() is None
    assert not dead.exists()
    assert leftovers.take() == []
    assert platform.directory.is_dir()


def test_shell_in_a_dead_runs_directory_goes_on(cache: Path) -> None:
    """Whoever looks around there is not the run's: the directory goes, with a warning."""
    dead = killed_run(cache)
    (dead / "api").mkdir()
    with ended_after(["/bin/sleep", "60"], cwd=dead / "api") as shell:
        assert clear_stale_runs() == ["deadbeef"]

        assert shell.poll() is None
    assert not dead.exists()
    [told] = leftovers.take()
    assert told == (
        f"process {shell.pid} (sleep) stands in {dead}, which a killed run left: the directory is "
        "removed, and the process goes on because the run did not start it"
    )


@pytest.mark.parametrize(
    ("name", "lock"),
    [
        pytest.param("deadbeef", None, id="no lock"),
        pytest.param("deadbeef", "", id="empty lock"),
        pytest.param("deadbeef", "0" * 32, id="another installation"),
        pytest.param("Documents", "ours", id="another name"),
    ],
)
def test_directory_that_no_run_made_stays(cache: Path, name: str, lock: str | None) -> None:
    """Somebody may keep other things in a directory called runs."""
    own = installation_id()
    other = cache / "runs" / name
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    if lock is not None:
        (other / "lock").write_text(own if lock == "ours" else lock)

    assert clear_stale_runs() == []

    assert (other / "thesis.txt").read_text() == "years of work"


def test_new_run_clears_dead_ones(cache: Path) -> None:
    """A run that begins clears what is left of those that were killed."""
    dead = killed_run(cache)
    (dead / "api").mkdir()
    (dead / "api" / "key.pem").write_bytes(b"secret")

    with contextlib.closing(LocalPlatform({}, "example.org")):
        assert not dead.exists()


def test_two_starts_at_once_agree_on_the_installation(cache: Path) -> None:
    """It is random, 32 hexadecimal digits, readable by its owner only."""
    argv = [sys.executable, "-c", "from svidproof.platforms import _runs; print(_runs.owner())"]
    both = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(2)]

    said = {process.communicate()[0].strip() for process in both}

    [found] = said
    assert re.fullmatch("[0-9a-f]{32}", found)
    assert found == installation_id()
    assert (cache / "runs" / "installation").stat().st_mode & 0o777 == 0o600
    (cache / "runs" / "installation").unlink()
    assert installation_id() != found


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        pytest.param(
            lambda runs: runs.chmod(0o777),
            r"runs can be written to by other users \(mode 0777\): chmod go-w it",
            id="writable",
        ),
        pytest.param(
            lambda runs: runs.rename(runs.with_name("x")) and runs.symlink_to("x"),
            "runs is a symbolic link, which may lead anywhere: set SVIDPROOF_CACHE",
            id="link",
        ),
        pytest.param(
            lambda runs: runs.rename(runs.with_name("x")) and runs.write_text(""),
            "runs is not a directory: set SVIDPROOF_CACHE",
            id="file",
        ),
    ],
)
def test_runs_directory_that_is_not_safe_is_refused(
    cache: Path, spoil: Callable[[Path], object], why: str
) -> None:
    """In one line, before anything is written there; the doctor says the same."""
    installation_id()
    spoil(cache / "runs")

    with pytest.raises(PlatformError, match=why) as raised:
        LocalPlatform({}, "example.org")

    assert "\n" not in str(raised.value)
    [finding] = [f for f in machine.findings({}) if f.name == "runs"]
    assert not finding.ok
    assert f"{finding.found}: {finding.hint}" == str(raised.value)


def test_runs_directory_of_another_user_is_refused(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner could put anything in it."""
    prepare_cache()
    (cache / "runs").mkdir(mode=0o700, exist_ok=True)
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)

    with pytest.raises(PlatformError, match=rf"runs belongs to another user \(uid {uid}\): set"):
        installation_id()


def test_link_to_the_cache_is_resolved(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SPIRE attests the real path of a program, so selectors must say it."""
    link = cache / "link"
    link.symlink_to(cache / "real", target_is_directory=True)
    (cache / "real").mkdir()
    monkeypatch.setenv("SVIDPROOF_CACHE", str(link))

    with contextlib.closing(LocalPlatform({}, "example.org")) as platform:
        [path, _uid] = platform.selectors("api")

    assert path.startswith(f"unix:path:{cache.resolve()}/real/runs/")


def test_writer_does_not_keep_a_directory_from_its_removal(cache: Path) -> None:
    """What outlived its group and goes on writing is ended before the directory is removed."""
    platform = LocalPlatform({}, "example.org")
    script = (
        "import itertools, os, pathlib\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    for n in itertools.count():\n"
        "        pathlib.Path(f'd{n % 9}').mkdir(exist_ok=True)\n"
        "        pathlib.Path(f'd{n % 9}/f{n}').touch()\n"
    )
    platform.start(Program("one", "one", "python", ("-I", "-c", script)))
    wait_for_path(platform.directory / "one" / "d8")

    platform.close()

    assert runs_in(cache) == []


def test_directory_that_others_fill_is_left_to_the_next_run(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is not the run's and writes there goes on; nothing is left in the end."""
    monkeypatch.setattr(_runs, "_REMOVED", Budget("a run's directory is removed", 0.5, 0.05))
    run = RunDirectory()
    script = (
        "import contextlib, itertools, pathlib, sys\n"
        "for n in itertools.count():\n"
        "    with contextlib.suppress(OSError):\n"
        "        pathlib.Path(sys.argv[1], f'd{n % 9}').mkdir(exist_ok=True)\n"
        "        pathlib.Path(sys.argv[1], f'd{n % 9}/f{n}').touch()\n"
    )
    with ended_after([sys.executable, "-I", "-c", script, str(run.path)], cwd=cache) as writer:
        wait_for_path(run.path / "d8")
        try:
            run.close()
        except PlatformError as error:
            assert str(error).startswith(f"cannot remove {run.path}: ")  # noqa: PT017  or none
        assert writer.poll() is None

    clear_stale_runs()
    assert runs_in(cache) == []


def test_run_that_is_being_removed_is_not_taken_for_a_stale_one(cache: Path) -> None:
    """Runs that begin and end side by side leave each other's directories alone."""
    script = (
        "from svidproof.platforms._runs import RunDirectory\n"
        "for _ in range(15):\n"
        "    run = RunDirectory()\n"
        "    for name in range(200): (run.path / str(name)).touch()\n"
        "    run.close()\n"
        "from svidproof import leftovers; print(leftovers.take())\n"
    )
    argv = [sys.executable, "-c", script]
    both = [
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(3)
    ]

    assert [process.communicate()[0] for process in both] == ["[]\n"] * 3
    assert runs_in(cache) == []


def test_number_of_an_ended_program_is_not_given_away(platform: LocalPlatform) -> None:
    """Its process is not reaped while its group may still be signalled."""
    pid = start(platform, "one", ("-I", "-c", "print('ready', flush=True)"))
    wait_until_ended(pid)

    assert platform.exit_status("one") == 0

    assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    platform.start(Program("one", "one", "python", WAITS))
    assert not psutil.pid_exists(pid)


def test_everything_is_private(platform: LocalPlatform) -> None:
    """Whatever the umask, directories are the owner's only, and so are files and logs."""
    before = os.umask(0)
    try:
        start(platform, "one", WAITS)
        platform.put("one", "file", b"content")
    finally:
        os.umask(before)

    wrong = {
        str(path.relative_to(platform.directory)): oct(path.stat().st_mode)
        for path in [platform.directory, *platform.directory.rglob("*")]
        if path.name != "lock" and path.stat().st_mode & 0o077
    }
    assert wrong == {}


def test_half_written_file_leaves_nothing_in_the_next(platform: LocalPlatform) -> None:
    """What a failed write has left beside a file does not come into it."""
    Path(platform.path("one", "file.new")).write_bytes(b"left by a write that failed")

    platform.put("one", "file", b"new")

    assert platform.get("one", "file") == b"new"


def test_attested_program_runs_from_its_places_own_path(platform: LocalPlatform) -> None:
    """What the agent attests is told apart by the path of its binary, which is its place's own."""
    for place in ("api", "client"):
        arguments = ("-c", "kill -s STOP $$")
        platform.start(Program(place, place, "sh", arguments, attested=True))
        pid = platform._processes[place].pid

        def at_its_place(pid: int = pid, place: str = place) -> None:
            assert f"unix:path:{psutil.Process(pid).exe()}" in platform.selectors(place)

        eventually(at_its_place, SOON)


def test_attested_interpreter_finds_its_packages(platform: LocalPlatform) -> None:
    """The place's own copy of the interpreter imports what the suite's own does."""
    script = "import grpc, os, svidproof; print(os.readlink('/proc/self/exe'), svidproof.__file__)"

    platform.start(Program("one", "one", "python", ("-P", "-c", script), attested=True))

    own = platform.path("one", "program")
    wait_for(platform.directory / "log" / "one", f"{own} {svidproof.__file__}")
    assert platform.selectors("one")[0] == f"unix:path:{own}"


@pytest.mark.parametrize("attested", [False, True], ids=["plain", "attested"])
def test_script_cannot_be_attested(
    platform: LocalPlatform, tmp_path: Path, *, attested: bool
) -> None:
    """A script has its interpreter's path: it is refused where the path must tell it apart."""
    script = tmp_path / "wrapper"
    script.write_text("#!/bin/sh\necho up\n")
    script.chmod(0o755)
    platform._tools["wrapper"] = script
    program = Program("one", "one", "wrapper", (), attested=attested)

    if attested:
        with pytest.raises(PlatformError, match="wrapper is a script"):
            platform.start(program)
    else:
        platform.start(program)
        wait_for(platform.directory / "log" / "one", "up")


def test_path_too_long_for_a_socket_is_told(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache whose path leaves no room for a socket's is one line that says what to do."""
    monkeypatch.setenv("SVIDPROOF_CACHE", str(cache / ("x" * 60) / ("y" * 60)))

    with (
        contextlib.closing(LocalPlatform({}, "example.org")) as platform,
        pytest.raises(PlatformError, match="set SVIDPROOF_CACHE to a shorter directory") as raised,
    ):
        platform.private_endpoint("api", "workload-api.sock")

    assert "\n" not in str(raised.value)


def test_cache_that_cannot_be_written_is_told(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that is no directory is one line that says what to do."""
    (cache / "file").write_text("")
    monkeypatch.setenv("SVIDPROOF_CACHE", str(cache / "file"))

    with pytest.raises(PlatformError, match="set SVIDPROOF_CACHE to a directory of yours"):
        LocalPlatform({}, "example.org")


def test_hung_command_is_told(platform: LocalPlatform, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that does not end is one line that names it."""

    def hang(argv: list[str], **_: object) -> None:
        raise subprocess.TimeoutExpired(argv, 30)

    monkeypatch.setattr(subprocess, "run", hang)

    with pytest.raises(PlatformError, match="python entry did not end within 30 s"):
        platform.run("one", "python", ["entry", "show"])


def test_prober_is_this_process(platform: LocalPlatform) -> None:
    """The prober's selector is the path of the very program that the suite runs in."""
    own = f"unix:path:{psutil.Process().exe()}"

    assert own in platform.selectors("prober")


class TestReportedBinaries:
    """The report names the files that were executed, and nothing else is."""

    @pytest.fixture
    def program(self, tmp_path: Path) -> Path:
        """A program of the user's own that calls itself spiffe-helper."""
        return self.write(tmp_path / "spiffe-helper", "0.11.0")

    @staticmethod
    def write(path: Path, version: str) -> Path:
        """Replace a program in one step, as an installer does."""
        new = path.with_suffix(".new")
        new.write_text(f"#!/bin/sh\necho '{version}'; echo ' -daemon-mode'\n")
        new.chmod(0o755)
        return new.replace(path)

    @staticmethod
    def sha256sum(path: Path) -> str:
        """What coreutils says of a file."""
        asked = ["sha256sum", str(path)]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout[:64]

    @pytest.mark.usefixtures("cache")
    def test_binary_that_was_replaced_before_the_start(self, program: Path) -> None:
        """The report has the hash and the version of what is started."""
        found = Tool("spiffe-helper", "0.10.0", program, "given", "0" * 64, "")
        site = LocalSite({"spiffe-helper": found}, SiteOptions(), Progress.silent())

        site.open()

        [part] = site.parts
        assert (part.name, part.version, part.source) == ("spiffe-helper", "0.11.0", "given")
        assert part.sha256 == self.sha256sum(program)

    @pytest.mark.usefixtures("cache")
    def test_cached_binary_that_was_replaced_before_the_start(self, program: Path) -> None:
        """It is not the one that svidproof installed, so nothing is started."""
        found = Tool("spiffe-helper", "0.11.0", program, "wheel", "0" * 64, "")
        site = LocalSite({"spiffe-helper": found}, SiteOptions(), Progress.silent())

        with pytest.raises(PlatformError, match=r"cached spiffe-helper 0\.11\.0 was changed"):
            site.open()

    @pytest.mark.usefixtures("cache")
    @pytest.mark.parametrize("how", ["replaced", "written to"])
    def test_binary_that_is_changed_while_the_run_uses_it(self, program: Path, how: str) -> None:
        """A second start of it would be of another binary than the report names."""
        found = Tool("spiffe-helper", "0.11.0", program, "given", self.sha256sum(program), "")
        site = LocalSite({"spiffe-helper": found}, SiteOptions(), Progress.silent())
        site.open()
        with contextlib.closing(site.platform("example.org")) as platform:
            platform.start(Program("one", "one", "spiffe-helper", ()))
            if how == "replaced":
                self.write(program, "6.6.6")
            else:
                with program.open("a") as file:
                    file.write("# more\n")

            with pytest.raises(PlatformError, match="was changed while the run used it"):
                platform.start(Program("two", "two", "spiffe-helper", ()))

            assert list(platform._processes) == ["one"]

    def test_links_in_the_caches_path_do_not_change_selectors(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A workload is registered by the path that the kernel tells of it."""
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")
        monkeypatch.setenv("SVIDPROOF_CACHE", str(tmp_path / "link" / "c"))
        with contextlib.closing(LocalPlatform({}, "example.org")) as platform:
            platform.start(Program("one", "one", "python", WAITS, attested=True))
            wait_for(platform.directory / "log" / "one", "ready")
            executed = Path(f"/proc/{platform._processes['one'].pid}/exe").readlink()

            assert platform.selectors("one")[0] == f"unix:path:{executed}"
