"""PostgreSQL runs as an ordinary user, on a socket with a password, and leaves nothing."""

from __future__ import annotations

import os
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from svidproof.components.postgres import Postgres
from svidproof.platforms.local.platform import LocalPlatform
from svidproof.supply import tools
from svidproof.supply.tools import Progress
from svidproof.waiting import eventually
from svidproof.waiting.budgets import Budget

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.boots
PROTOCOL = 196608  # 3.0
ENDED = Budget("PostgreSQL has ended", 10)
_AUTHENTICATION, _SCRAM = b"R", 10
# One that starts PostgreSQL, says where, and waits to be killed.
RUN = """
import signal, sys
from pathlib import Path
from svidproof.components.postgres import Postgres
from svidproof.platforms.local import LocalPlatform
platform = LocalPlatform({"postgres": Path(sys.argv[1])}, "example.org")
Postgres(platform, "db").start()
print(platform.directory, flush=True)
signal.pause()
"""


@pytest.fixture(scope="module")
def program() -> Path:
    """PostgreSQL, as a run gets it."""
    return tools.resolve("postgres", progress=Progress.silent()).path


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache whose path is short enough for sockets, and that only its owner can enter."""
    with tempfile.TemporaryDirectory() as directory:
        monkeypatch.setenv("SVIDPROOF_CACHE", directory)
        yield Path(directory)


@pytest.fixture
def platform(cache: Path, program: Path) -> Iterator[LocalPlatform]:  # noqa: ARG001  it is its place
    """This machine, with PostgreSQL."""
    platform = LocalPlatform({"postgres": program}, "example.org")
    try:
        yield platform
    finally:
        platform.close()


def processes(directory: Path) -> list[int]:
    """The numbers of the processes that work in a directory, or below it."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            place = link.readlink()
        except OSError:
            continue
        if place.is_relative_to(directory):
            found.append(int(link.parent.name))
    return found


def segments(pids: list[int]) -> list[str]:
    """The segments of System V's shared memory that these processes have made."""
    rows = Path("/proc/sysvipc/shm").read_text(encoding="ascii").splitlines()[1:]
    return [row for row in rows if int(row.split()[4]) in pids]


def tcp_sockets(pids: list[int]) -> set[str]:
    """The TCP sockets of these processes."""
    links = {os.readlink(fd) for pid in pids for fd in Path(f"/proc/{pid}/fd").iterdir()}  # noqa: PTH115  no path
    tables = [Path("/proc/net", name).read_text(encoding="ascii") for name in ("tcp", "tcp6")]
    rows = [row.split() for table in tables for row in table.splitlines()[1:]]
    return links & {f"socket:[{row[9]}]" for row in rows}


def asked_for(path: str) -> tuple[bytes, int]:
    """How the server at a socket answers the first message of a client: kind and first number."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(path)
        words = b"user\0spire\0database\0postgres\0\0"
        client.sendall(struct.pack("!II", 8 + len(words), PROTOCOL) + words)
        kind, _, number = struct.unpack("!cII", client.recv(9))
    return kind, number


def test_data_outlives_a_restart_and_nothing_outlives_the_end(platform: LocalPlatform) -> None:
    """The directory is made once, as the server's user; the end takes processes and memory."""
    postgres = Postgres(platform, "db")
    postgres.start()
    made = (platform.directory / "db" / "data" / "PG_VERSION").stat()
    postgres.stop()
    postgres.start()
    pids = processes(platform.directory)
    assert pids
    assert segments(pids)

    postgres.close()

    assert processes(platform.directory) == []
    assert segments(pids) == []
    assert (platform.directory / "db" / "data" / "PG_VERSION").stat().st_ino == made.st_ino
    assert made.st_uid != 0


def test_only_the_password_opens_the_only_socket(platform: LocalPlatform) -> None:
    """Nothing listens on the network; the socket is the owner's, and SCRAM is asked for there."""
    postgres = Postgres(platform, "db")
    postgres.start()
    path = platform.path("db", ".s.PGSQL.5432")

    assert asked_for(path) == (_AUTHENTICATION, _SCRAM)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700  # noqa: PTH116  a socket
    assert tcp_sockets(processes(platform.directory)) == set()
    connection = postgres.database("server").connection
    secret = platform.get("server", "datastore.pgpass").decode().strip().rpartition(":")[2]
    assert secret
    assert secret not in connection
    assert not [name for name, text in platform.evidence().items() if secret in text]
    postgres.close()


def test_killed_server_leaves_nothing(platform: LocalPlatform) -> None:
    """What shared memory a killed server leaves is gone when the database is closed."""
    postgres = Postgres(platform, "db")
    postgres.start()
    pids = processes(platform.directory)
    platform.kill("db")

    postgres.close()

    assert segments(pids) == []


def test_killed_run_leaves_nothing(cache: Path, program: Path) -> None:
    """When the suite is killed, PostgreSQL shuts down in order."""
    argv = [sys.executable, "-c", RUN, str(program)]
    package = str(Path(tools.__file__).parents[2])
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": package}
    ) as run:
        assert run.stdout is not None
        directory = Path(run.stdout.readline().strip())
        pids = processes(directory)
        run.kill()
    assert directory.is_relative_to(cache.resolve())

    def gone() -> None:
        assert processes(directory) == []
        assert segments(pids) == []

    assert pids
    eventually(gone, ENDED)
