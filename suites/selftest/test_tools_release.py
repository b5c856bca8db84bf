"""A released archive is put under test only if it is the pinned one, however it arrived."""

import errno
import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from svidproof.supply import tools
from svidproof.supply.tools import pins
from svidproof.supply.tools.cache import Cache

from .release_site import Site, serving

PATH = "/demo/releases/download/v1.0.0/demo-1.0.0.tar.gz"
SPARE = "/demo/spare/demo-1.0.0.tar.gz"


def archive(version: str = "1.0.0") -> bytes:
    """Return an archive with the program `demo`, padded, and with a member that escapes."""
    program = f"#!/bin/sh\necho demo {version}\n".encode() + b"#" * 100_000
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz", compresslevel=0) as whole:
        for name, content in (("../escaped", b"x"), ("demo-1.0.0/bin/demo", program)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            whole.addfile(info, io.BytesIO(content))
    return raw.getvalue()


GOOD = archive()


def sha256(content: bytes) -> str:
    """Return the sha256 of bytes, in hex."""
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A site that has the same archive at two places."""
    with serving(monkeypatch, tmp_path / "authority.pem") as served:
        served.files |= {PATH: GOOD, SPARE: GOOD}
        yield served


@pytest.fixture
def plain_site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The same site without TLS."""
    with serving(monkeypatch) as served:
        served.files |= {PATH: GOOD, SPARE: GOOD, f"{PATH}.sha256": sha256(GOOD).encode()}
        yield served


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use an empty cache."""
    monkeypatch.setenv("SVIDPROOF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def _pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin(tmp_path, monkeypatch, sha256(GOOD))


def pin(folder: Path, monkeypatch: pytest.MonkeyPatch, first: str, spare: str = "") -> None:
    """Pin the archive in a folder of its own, without a sha256 if that is empty."""
    name = pins.host().name
    data = folder / f"pins-{first[:8]}-{spare[:8]}"
    data.mkdir(exist_ok=True)
    tables = [
        """
        [tools.demo]
        version = "1.0.0"
        sources = ["first", "spare"]
        probes = [{ argv = ["--version"], pattern = 'demo (?P<version>\\S+)', like = "demo 1" }]
        """
    ]
    base = "https://github.com/demo"
    for source, tail, sha in (
        ("first", "releases/download/v{version}", first),
        ("spare", "spare", spare or sha256(GOOD)),
    ):
        url = f"{base}/{tail}/demo-{{version}}.tar.gz"
        tables.append(f"""
        [sources.{source}]
        kind = "release"
        title = "the {source} archive"
        url = "{url}"
        checksums = "{url}.sha256"
        platforms = ["{name}"]
        members = {{ demo = "demo-{{version}}/bin/demo" }}
        versions."1.0.0" = {{ {f'{name} = "{sha}"' if sha else ""} }}
        """)
    (data / "tools.toml").write_text("".join(tables), encoding="utf-8")
    monkeypatch.setattr(pins, "data_directory", lambda: data)


def resolve() -> tools.Tool:
    """Resolve the tool without showing progress."""
    return tools.resolve("demo", progress=tools.Progress.silent())


def left_in(cache: Path) -> list[str]:
    """Return the names of the files of tools and downloads in the cache."""
    tops = [cache / top for top in ("tools", "downloads", "tmp")]
    return sorted(path.name for top in tops for path in top.rglob("*") if path.is_file())


@pytest.mark.usefixtures("cache")
def test_pinned_archive_becomes_an_executable_tool(site: Site) -> None:
    """An archive with the pinned sha256 gives an executable tool that came from a release."""
    tool = resolve()

    assert (tool.name, tool.version, tool.source, tool.note) == ("demo", "1.0.0", "release", "")
    assert tool.sha256 == sha256(tool.path.read_bytes())
    assert tools.inspect("demo", tool.path).version == "1.0.0"
    assert site.paths == [PATH]


def test_only_the_named_member_leaves_the_archive(site: Site, cache: Path) -> None:
    """An archive's other members are never written, least of all outside of the cache."""
    resolve()

    assert site.paths == [PATH]
    assert left_in(cache) == ["demo", "tool.json"]
    assert not [*cache.parent.rglob("escaped")]


@pytest.mark.usefixtures("cache")
def test_cached_tool_needs_no_network(site: Site) -> None:
    """A tool that is in the cache is found without a request."""
    made = resolve()
    site.paths.clear()

    found = resolve()

    assert found == made
    assert site.paths == []


@pytest.mark.usefixtures("cache")
def test_broken_download_is_resumed(site: Site) -> None:
    """A download that breaks off goes on from the byte where it stopped."""
    site.break_off_at = 40_000

    tool = resolve()

    assert tool.version == "1.0.0"
    assert site.ranges == ["", "bytes=40000-"]


@pytest.mark.usefixtures("cache")
def test_server_without_ranges_is_asked_for_the_whole(site: Site) -> None:
    """A server that ignores Range gives the whole file, which replaces the half."""
    site.break_off_at, site.honours_range = 40_000, False

    tool = resolve()

    assert tool.version == "1.0.0"
    assert site.ranges == ["", "bytes=40000-"]


@pytest.mark.parametrize(
    "honours_if_range", [pytest.param(True, id="200"), pytest.param(False, id="206")]
)
def test_half_of_another_file_is_not_continued(
    site: Site, cache: Path, *, honours_if_range: bool
) -> None:
    """A half file whose ETag is no longer the server's is thrown away."""
    site.honours_if_range = honours_if_range
    whole = leave_half_a_download(site, cache)
    site.etag = '"two"'

    tool = resolve()

    assert tool.version == "1.0.0"
    assert not whole.exists()


def test_download_of_a_killed_process_is_resumed(site: Site, cache: Path) -> None:
    """What an earlier process had downloaded is not downloaded again."""
    leave_half_a_download(site, cache, b"", GOOD[:50_000])

    tool = resolve()

    assert tool.version == "1.0.0"
    assert site.ranges == ["bytes=50000-"]


def leave_half_a_download(
    site: Site, cache: Path, prefix: bytes = b"another file", content: bytes = b""
) -> Path:
    """Leave a .part file such as a killed process leaves."""
    tools.prepare_cache()
    url = site.url + PATH
    name = f"{sha256(url.encode())[:12]}-demo-1.0.0.tar.gz"
    part = cache / "downloads" / f"{name}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(prefix + content)
    part.with_suffix(".validator").write_text(site.etag, encoding="utf-8")
    return part


def test_archive_with_another_checksum_is_refused(site: Site, cache: Path) -> None:
    """An archive that is not the pinned one is an error, and no source after it is tried."""
    site.files[PATH] = archive("6.6.6")

    with pytest.raises(tools.ToolError, match=r"is not the pinned file: sha256 [0-9a-f]{64}"):
        resolve()

    assert site.paths == [PATH]
    assert left_in(cache) == []


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_missing_archive_lets_the_next_source_try(site: Site, status: int) -> None:
    """A release that the site does not give is passed over."""
    site.statuses[PATH] = status

    tool = resolve()

    assert tool.version == "1.0.0"
    assert site.paths == [PATH, SPARE]


@pytest.mark.usefixtures("cache")
def test_unreachable_site_is_named_with_every_way_out(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no source can be reached, one line names each of them and what else can be done."""
    monkeypatch.setenv("SVIDPROOF_RELEASES", "http://127.0.0.1:1")

    with pytest.raises(tools.ToolError) as raised:
        resolve()

    told = str(raised.value)
    assert "\n" not in told
    for part in (
        "not in the cache",
        "the first archive: 127.0.0.1:1 refuses connections",
        "the spare archive: 127.0.0.1:1 refuses connections",
        "--tool demo=PATH",
        "SVIDPROOF_TOOL_DEMO",
    ):
        assert part in told
    assert site.paths == []


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    "row",
    [
        pytest.param("{} demo-1.0.0.tar.gz\n", id="named"),
        pytest.param("{} *./dist/demo-1.0.0.tar.gz\n{other}  demo.zip\n", id="among-others"),
        pytest.param("{}\n", id="bare"),
    ],
)
def test_unpinned_archive_is_checked_against_its_own_checksum_file(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: str
) -> None:
    """An archive without a pinned sha256 must have the one that its project publishes."""
    pin(tmp_path, monkeypatch, "")
    site.files[f"{PATH}.sha256"] = row.format(sha256(GOOD), other="0" * 64).encode()

    tool = resolve()

    assert tool.note == "not pinned: checked against the release's own checksum file only"
    assert site.paths == [f"{PATH}.sha256", PATH]


def test_unpinned_archive_with_another_checksum_is_refused(
    site: Site, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive that differs from its project's checksum file is an error."""
    pin(tmp_path, monkeypatch, "")
    site.files[f"{PATH}.sha256"] = b"0" * 64

    with pytest.raises(tools.ToolError, match="is not the"):
        resolve()

    assert left_in(cache) == []


@pytest.mark.usefixtures("cache")
def test_pinned_archive_may_come_without_tls(plain_site: Site) -> None:
    """What is pinned is verified by its sha256, however it travelled."""
    assert resolve().version == "1.0.0"
    assert plain_site.paths == [PATH]


@pytest.mark.usefixtures("cache")
def test_checksum_is_not_asked_for_without_tls(
    plain_site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever can change the archive on its way could change its checksum file as well."""
    pin(tmp_path, monkeypatch, "", "0" * 64)

    with pytest.raises(tools.ToolError, match=r"not pinned, but not over HTTPS|is not the pinned"):
        resolve()

    assert f"{PATH}.sha256" not in plain_site.paths
    assert PATH not in plain_site.paths


@pytest.mark.usefixtures("cache")
def test_checksum_is_not_taken_from_a_plain_redirect(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site with TLS that sends its client to one without it does not verify anything."""
    pin(tmp_path, monkeypatch, "")
    with Site() as other:
        other.files[f"{PATH}.sha256"] = sha256(GOOD).encode()
        thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        site.redirects[f"{PATH}.sha256"] = f"{other.url}{PATH}.sha256"
        try:
            resolve()
        finally:
            other.shutdown()
            thread.join()

    assert site.paths == [f"{PATH}.sha256", SPARE]


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("content", [None, b"<html>sign in</html>", b""])
def test_archive_that_nothing_verifies_is_not_downloaded(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    """Without a pinned or published sha256, the archive is passed over unseen."""
    pin(tmp_path, monkeypatch, "")
    if content is not None:
        site.files[f"{PATH}.sha256"] = content

    resolve()

    assert site.paths == [f"{PATH}.sha256", SPARE]


def test_program_of_another_version_is_not_kept(
    site: Site, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive whose program tells another version than the pin does not pass for it."""
    site.files[PATH] = site.files[SPARE] = wrong = archive("1.0.1")
    pin(tmp_path, monkeypatch, sha256(wrong), sha256(wrong))

    with pytest.raises(tools.ToolError, match=r"what came is demo 1\.0\.1"):
        resolve()

    assert left_in(cache) == []


@pytest.mark.usefixtures("site")
def test_unusable_cache_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache directory that cannot be made is told in one line with the way out."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("SVIDPROOF_CACHE", str(tmp_path / "file" / "cache"))

    with pytest.raises(tools.ToolError, match=r"^cannot use the tool cache .*SVIDPROOF_CACHE.*$"):
        resolve()


@pytest.mark.usefixtures("site")
def test_full_disk_is_one_line(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is told in one line, and leaves nothing that looks finished."""

    def full(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Cache, "store", full)

    with pytest.raises(tools.ToolError, match=r"No space left on device.*free some space"):
        resolve()

    assert left_in(cache) == []
