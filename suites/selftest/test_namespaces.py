"""On a cluster a testbed takes away the namespaces that it has made, and no others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from svidproof.platforms import _places
from svidproof.platforms._cluster import Cluster, Node
from svidproof.platforms._places import Ground
from svidproof.platforms.base import PlatformError
from svidproof.platforms.kubernetes import KubernetesPlatform

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NODE = Node("kind-worker", "kind-worker", "uid-1")


class PaperCluster(Cluster):
    """A cluster that has namespaces, and nothing else."""

    def __init__(self, **namespaces: str) -> None:
        """These are there, each with its run, which is empty if it is none of ours."""
        self.there = namespaces
        self.refuses = ""
        self.removed: list[str] = []

    def namespace_run(self, name: str) -> str | None:
        """Look."""
        return self.there.get(name)

    def apply(self, template: str, **values: object) -> list[Any]:  # noqa: ARG002
        """Make a namespace, even if that is not told any more."""
        name = str(values["namespace"])
        self.there[name] = str(values["run"])
        if name == self.refuses:
            raise PlatformError(f"cannot apply Namespace {name}: timed out")
        return []

    def delete_all_of(self, run: str, namespaces: Sequence[str]) -> None:  # noqa: ARG002
        """Remove namespaces at once."""
        for name in namespaces:
            self.removed.append(name)
            self.there.pop(name, None)


@pytest.fixture(autouse=True)
def _on_paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of the test's own; pods are not followed."""
    monkeypatch.setenv("SVIDPROOF_CACHE", str(tmp_path))
    quiet = SimpleNamespace(close=lambda: None)
    monkeypatch.setattr(_places, "Pods", lambda *_: quiet)


def ground(cluster: Cluster) -> Ground:
    """Where the testbeds of a run stand."""
    return Ground(
        cluster=cluster,
        name="kind",
        images={},
        nodes=(NODE,),
        namespace="demo",
        tolerates=False,
        disposable=False,
    )


def test_what_was_made_is_removed() -> None:
    """Both of a testbed's namespaces."""
    cluster = PaperCluster(others="")

    KubernetesPlatform(ground(cluster), "example.org").close()

    assert cluster.removed == ["demo-spire", "demo"]
    assert list(cluster.there) == ["others"]


@pytest.mark.parametrize(
    ("taken", "removed"), [("demo-spire", []), ("demo", ["demo-spire"])], ids=["first", "second"]
)
def test_what_was_there_stays(taken: str, removed: list[str]) -> None:
    """A testbed that finds a namespace of others gives up, and leaves it."""
    cluster = PaperCluster(**{taken: ""})

    with pytest.raises(PlatformError, match=f"namespace {taken} exists and is not ours"):
        KubernetesPlatform(ground(cluster), "example.org")

    assert cluster.removed == removed
    assert cluster.there == {taken: ""}


def test_what_may_have_been_made_is_removed() -> None:
    """An answer that does not come does not say that nothing was made."""
    cluster = PaperCluster()
    cluster.refuses = "demo"

    with pytest.raises(PlatformError, match="timed out"):
        KubernetesPlatform(ground(cluster), "example.org")

    assert cluster.removed == ["demo-spire", "demo"]
    assert cluster.there == {}


@pytest.mark.parametrize(
    ("run", "expected"),
    [("", "is not ours"), ("1a2b", "belongs to run 1a2b, which goes on or was killed")],
)
def test_namespace_of_others_is_told(run: str, expected: str) -> None:
    """A namespace that is there is never taken over."""
    with pytest.raises(PlatformError, match=f"namespace kube-system exists and {expected}"):
        PaperCluster(**{"kube-system": run}).assert_free("kube-system")
