"""A report says which svidproof made it: by all its files, and by its commit."""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from svidproof.model.manifests import data_root
from svidproof.report import provenance
from svidproof.report.provenance import Commit, digest

Trees = dict[str, Path]


@pytest.fixture
def trees(tmp_path: Path) -> Trees:
    """Two small trees."""
    for name in ("one/a.py", "one/deep/b.py", "two/a.toml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return {"one": tmp_path / "one", "two": tmp_path / "two"}


def test_wheel_holds_every_folder_of_the_suites_but_the_own_tests() -> None:
    """A profile that is new must not be missing from the wheel."""
    project = tomllib.loads((data_root() / "pyproject.toml").read_text())
    listed = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    there = {f"suites/{p.name}" for p in (data_root() / "suites").iterdir()}

    assert {name for name in listed if name.startswith("suites/")} == {
        name for name in there if name not in {"suites/selftest", "suites/__pycache__"}
    }
    assert (Path(provenance.__file__).parent / "py.typed").is_file()


def test_wheel_and_checkout_are_the_same(tmp_path: Path) -> None:
    """The files lie elsewhere in a wheel; the wheel has no commit."""
    package = tmp_path / "svidproof"
    ignored = shutil.ignore_patterns("_data")
    shutil.copytree(Path(provenance.__file__).parent, package, ignore=ignored)
    for tree in ("suites", "manifests", "reports/schema"):
        shutil.copytree(data_root() / tree, package / "_data" / tree)
    program = (
        "from svidproof import provenance as p; print(p.__file__, p.files_sha256(), p.commit())"
    )

    said = subprocess.check_output(
        [sys.executable, "-P", "-c", program],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        text=True,
    )

    assert said == f"{package}/provenance.py {provenance.files_sha256()} None\n"


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(lambda t: (t["one"] / "a.py").write_text("ONE/a.py"), id="changed"),
        pytest.param(lambda t: (t["one"] / "c.py").write_text(""), id="added"),
        pytest.param(lambda t: (t["two"] / "a.toml").unlink(), id="removed"),
        pytest.param(lambda t: (t["one"] / "a.py").rename(t["one"] / "d.py"), id="renamed"),
        pytest.param(lambda t: (t["one"] / "a.py").rename(t["two"] / "a.py"), id="moved"),
        pytest.param(lambda t: t.update(one=t["two"], two=t["one"]), id="exchanged"),
    ],
)
def test_every_file_counts(trees: Trees, edit: Callable[[Trees], object]) -> None:
    """By its name and its content."""
    before = digest(trees)

    edit(trees)

    assert digest(trees) != before


@pytest.mark.parametrize(
    "name", ["one/__pycache__/a.cpython-311.pyc", "one/.a.py.swp", "two/.cache/x", "one/_data/x"]
)
def test_what_comes_and_goes_does_not(trees: Trees, name: str, tmp_path: Path) -> None:
    """Caches, hidden files, and the data that a wheel has within its package."""
    before = digest(trees)
    (tmp_path / name).parent.mkdir(exist_ok=True)

    (tmp_path / name).write_text("x")

    assert digest(trees) == before


def test_other_suites_are_another_svidproof(trees: Trees) -> None:
    """Whoever runs checks of their own says so."""
    assert provenance.files_sha256(trees["one"]) != provenance.files_sha256()
    assert provenance.files_sha256(data_root() / "suites") == provenance.files_sha256()


def test_report_has_it(report: dict[str, Any]) -> None:
    """As the gate compares it."""
    commit = provenance.commit()

    assert report["suite"]["files_sha256"] == provenance.files_sha256()
    assert report["suite"]["commit"] == (
        {"id": commit.id, "dirty": commit.dirty} if commit is not None else None
    )


class TestCommit:
    """What is checked out, and whether it was changed."""

    @pytest.fixture
    def checkout(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[tuple[Path, str]]:
        """A repository of svidproof's shape, and its commit."""
        package = tmp_path / "fixtures" / "svidproof"
        for tree in ("fixtures/svidproof", "suites", "manifests", "reports/schema"):
            (tmp_path / tree).mkdir(parents=True)
            (tmp_path / tree / "file").write_text(tree)
        git(tmp_path, "init", "--quiet")
        git(tmp_path, "add", ".")
        git(tmp_path, "commit", "--quiet", "--message=It begins")
        monkeypatch.setattr(provenance, "data_root", lambda: tmp_path)
        monkeypatch.setattr(provenance, "_PACKAGE", package)
        # Whoever points git elsewhere is not believed.
        monkeypatch.setenv("GIT_DIR", "/nowhere")
        provenance.commit.cache_clear()
        yield tmp_path, git(tmp_path, "rev-parse", "HEAD")
        provenance.commit.cache_clear()

    def test_clean(self, checkout: tuple[Path, str]) -> None:
        """What is elsewhere in the checkout does not matter."""
        root, head = checkout
        (root / "notes").write_text("x")

        assert provenance.commit() == Commit(head, dirty=False)

    @pytest.mark.parametrize("name", ["suites/file", "manifests/new"])
    def test_dirty(self, checkout: tuple[Path, str], name: str) -> None:
        """Changed, or not yet added."""
        root, head = checkout
        (root / name).write_text("x")

        assert provenance.commit() == Commit(head, dirty=True)

    @pytest.mark.usefixtures("checkout")
    def test_without_git(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nobody knows, and nothing breaks."""
        monkeypatch.setenv("PATH", "/nowhere")

        assert provenance.commit() is None

    def test_of_no_repository(self, checkout: tuple[Path, str]) -> None:
        """Nor is that of a repository around it."""
        root, _ = checkout
        (root / ".git").rename(root / "git")

        assert provenance.commit() is None


def git(root: Path, *words: str) -> str:
    """Run git as nobody in particular."""
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(root),
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{who}_NAME": "somebody" for who in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{who}_EMAIL": "somebody@example.org" for who in ("AUTHOR", "COMMITTER")},
    }
    git_ = shutil.which("git") or "git"
    return subprocess.check_output([git_, *words], cwd=root, env=env, text=True).strip()
