"""A release may be the program itself, or a program for each tool, instead of an archive."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from svidproof.supply import tools
from svidproof.supply.tools import pins

from .release_site import Site, serving

NAMES = ("demo-one", "demo-two")
FOLDER = "/demo/v1.2.3/1/2/bin"


def program(name: str) -> bytes:
    """Return a program that tells who it is."""
    return f"#!/bin/sh\necho {name} 1.2.3\n".encode()


def sha256(content: bytes) -> str:
    """Return the sha256 of bytes, in hex."""
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A site that has two programs, each with its checksum file."""
    with serving(monkeypatch, tmp_path / "authority.pem") as served:
        for name in NAMES:
            path = f"{FOLDER}/{pins.host().os}/{pins.host().arch}/{name}"
            served.files |= {path: program(name), f"{path}.sha256": sha256(program(name)).encode()}
        yield served


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVIDPROOF_CACHE", str(tmp_path / "cache"))


def pin(
    folder: Path, monkeypatch: pytest.MonkeyPatch, file: str = "{tool}", pinned: str = ""
) -> None:
    """Pin the two tools; `file` is the last part of the url, `pinned` the checksums."""
    tables = [
        f"""
        [tools.{name}]
        version = "1.2.3"
        sources = ["bare"]
        probes = [{{ argv = ["-v"], pattern = '^{name} (?P<version>\\S+)', like = "{name} 1" }}]
        """
        for name in NAMES
    ]
    names = NAMES if file == "{tool}" else NAMES[:1]
    url = f"https://github.com/demo/v{{version}}/{{major}}/{{minor}}/bin/{{os}}/{{arch}}/{file}"
    tables.append(f"""
        [sources.bare]
        kind = "release"
        title = "the bare programs"
        url = "{url}"
        checksums = "{url}.sha256"
        platforms = ["{pins.host().name}"]
        bare = {[*names]}
        versions."1.2.3" = {{ {pinned} }}
        """)
    (folder / "tools.toml").write_text("".join(tables), encoding="utf-8")
    pins.load.cache_clear()
    monkeypatch.setattr(pins, "data_directory", lambda: folder)


def resolve(name: str) -> tools.Tool:
    """Resolve a tool without showing progress."""
    return tools.resolve(name, progress=tools.Progress.silent())


def test_bare_program_becomes_an_executable_tool(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A download that is the program itself is kept as it is, and can be run."""
    pin(tmp_path, monkeypatch, "demo-one")

    tool = resolve("demo-one")

    assert tool.path.read_bytes() == program("demo-one")
    assert tools.inspect("demo-one", tool.path).version == "1.2.3"
    assert tool.note == "not pinned: checked against the release's own checksum file only"
    assert len(site.paths) == 2


def test_only_the_tool_asked_for_is_downloaded(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where each tool is a download of its own, the others are left where they are."""
    pin(tmp_path, monkeypatch)

    two = resolve("demo-two")

    assert [path.rpartition("/")[2] for path in site.paths] == ["demo-two.sha256", "demo-two"]
    assert tools.installed() == [two]
    assert tools.find("demo-one") is None
    assert resolve("demo-one").path.read_bytes() == program("demo-one")
    assert resolve("demo-two") == two


def test_each_tool_has_its_own_checksum(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checksum pinned for one tool is that tool's alone; with another content it is refused."""
    host = pins.host().name
    sums = {name: sha256(program("demo-one")) for name in NAMES}
    pinned = ", ".join(f'{name}-{host} = "{value}"' for name, value in sums.items())
    pin(tmp_path, monkeypatch, pinned=pinned)

    assert resolve("demo-one").note == ""
    with pytest.raises(tools.ToolError, match="is not the pinned file"):
        resolve("demo-two")

    assert not [path for path in site.paths if path.endswith(".sha256")]
