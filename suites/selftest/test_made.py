"""On a cluster only what was noted when it was made is deleted, by the UID that it was given."""

from __future__ import annotations

import shutil
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from kubernetes.client.exceptions import ApiException

from svidproof.model.errors import PlatformError
from svidproof.platforms import created, leftovers
from svidproof.platforms.created import Made
from svidproof.platforms.kubernetes.client.api import NAMESPACE, Cluster
from svidproof.platforms.kubernetes.kind import site as kind
from svidproof.platforms.kubernetes.site import clear_stale
from svidproof.platforms.run_directory import RunDirectory, owner
from svidproof.supply import tools
from svidproof.supply.images import engine

if TYPE_CHECKING:
    from pathlib import Path

RUN = "1a2b3c4d"
WHERE = "https://paper"
ROLE = "rbac.authorization.k8s.io/v1/ClusterRole"


class Api:
    """An API server that has objects of the whole cluster, by kind and name, with their UIDs."""

    def __init__(self) -> None:
        """Empty."""
        self.there: dict[tuple[str, str], SimpleNamespace] = {}
        self.emptied: list[str] = []
        self.count = 0

    def put(self, kind: str, name: str, **labels: str) -> SimpleNamespace:
        """Have an object, with a UID that no other has had."""
        self.count += 1
        told = {f"svidproof.dev/{key}": value for key, value in labels.items()}
        metadata = SimpleNamespace(uid=f"uid-{self.count}", labels=told, name=name)
        self.there[kind, name] = SimpleNamespace(metadata=metadata)
        return self.there[kind, name]

    def of_kind(self, body: dict[str, Any]) -> Any:  # noqa: ANN401  as the client has it
        """The objects of a kind, as the dynamic client has them."""
        kind = f"{body['apiVersion']}/{body['kind']}"

        def create(*, body: dict[str, Any], field_manager: str) -> SimpleNamespace:
            assert field_manager == "svidproof"
            if (kind, body["metadata"]["name"]) in self.there:
                raise ApiException(status=409, reason="AlreadyExists")
            return self.put(kind, body["metadata"]["name"])

        def delete(*, name: str, namespace: str | None, body: dict[str, Any]) -> None:
            assert namespace is None
            found = self.there.get((kind, name))
            if found is None:
                raise ApiException(status=404)
            if found.metadata.uid != body["preconditions"]["uid"]:
                raise ApiException(status=409, reason="Conflict")
            del self.there[kind, name]

        return SimpleNamespace(create=create, delete=delete)

    def read_namespace(self, name: str, **_: object) -> SimpleNamespace:
        """Show one."""
        if (NAMESPACE, name) not in self.there:
            raise ApiException(status=404)
        return self.there[NAMESPACE, name]

    def list_namespace(self, *, label_selector: str, **__: object) -> SimpleNamespace:
        """Those with a label."""
        key, _, value = label_selector.partition("=")
        items = [o for (k, _), o in self.there.items() if k == NAMESPACE]
        return SimpleNamespace(items=[o for o in items if o.metadata.labels.get(key) == value])

    def delete_collection_namespaced_pod(self, name: str, *, grace_period_seconds: int) -> None:
        """Remember."""
        assert grace_period_seconds == 0
        self.emptied.append(name)


@pytest.fixture
def api() -> Api:
    """One."""
    return Api()


@pytest.fixture
def cluster(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A cluster behind it, from a machine of its own."""
    monkeypatch.setenv("SVIDPROOF_CACHE", str(tmp_path))
    leftovers.take()
    made = object.__new__(Cluster)
    made.core, made.where = api, WHERE
    monkeypatch.setattr(made, "resource_of", api.of_kind)
    return made


def body(kind: str, name: str) -> dict[str, Any]:
    """An object of the whole cluster, of a run's."""
    version, _, short = kind.rpartition("/")
    labels = {"svidproof.dev/run": RUN}
    return {"apiVersion": version, "kind": short, "metadata": {"name": name, "labels": labels}}


def test_what_was_made_is_noted_and_deleted(cluster: Cluster, api: Api) -> None:
    """Cluster roles and namespaces, with the pods in these; then there is no note of them."""
    for kind_, name in ((ROLE, "demo-spire"), (NAMESPACE, "demo")):
        cluster.apply_object(body(kind_, name))
    noted = created.of(RUN, WHERE)

    cluster.delete_all_of(RUN, ["demo"])

    assert noted == [
        Made(WHERE, ROLE, "demo-spire", "uid-1"),
        Made(WHERE, NAMESPACE, "demo", "uid-2"),
    ]
    assert (api.there, api.emptied) == ({}, ["demo"])
    assert created.of(RUN, WHERE) == []


def test_what_has_the_same_name_by_now_stays(cluster: Cluster, api: Api) -> None:
    """Somebody deleted the run's, and made their own: neither it nor a pod in it is touched."""
    for kind_, name in ((ROLE, "demo-spire"), (NAMESPACE, "demo")):
        cluster.apply_object(body(kind_, name))
        api.put(kind_, name, run=RUN, machine=owner())

    cluster.delete_all_of(RUN, ["demo"])

    assert list(api.there) == [(ROLE, "demo-spire"), (NAMESPACE, "demo")]
    assert api.emptied == []


def test_object_of_others_is_not_taken_over(cluster: Cluster, api: Api) -> None:
    """One that is there is neither changed nor deleted."""
    api.put(ROLE, "demo-spire")

    with pytest.raises(PlatformError, match="has a ClusterRole demo-spire that this run has not"):
        cluster.apply_object(body(ROLE, "demo-spire"))
    cluster.delete_all_of(RUN, [])

    assert list(api.there) == [(ROLE, "demo-spire")]


@pytest.mark.parametrize(("machine", "stays"), [("own", False), ("0" * 32, True)])
def test_namespace_of_which_no_answer_came(
    cluster: Cluster, api: Api, machine: str, *, stays: bool
) -> None:
    """It bears what this very process has just put on it, or it is somebody else's."""
    api.put(NAMESPACE, "demo", run=RUN, machine=owner() if machine == "own" else machine)

    cluster.delete_all_of(RUN, ["demo"])

    assert bool(api.there) == stays


def test_only_noted_namespaces_of_killed_runs_are_removed(cluster: Cluster, api: Api) -> None:
    """A namespace with our label that is in no note is named, and one of a live run is not."""
    live = RunDirectory()
    for name, run in (("noted", "deadbeef"), ("labelled", "deadbeef"), ("live", live.id)):
        uid = api.put(NAMESPACE, name, run=run, machine=owner()).metadata.uid
        if name != "labelled":
            created.note(run, Made(WHERE, NAMESPACE, name, uid))

    removed = clear_stale(cluster)

    live.close()
    assert removed == ["noted"]
    assert [name for _, name in api.there] == ["labelled", "live"]
    assert [line.partition(",")[0] for line in leftovers.take()] == [
        "namespace labelled has this installation's label"
    ]


class Engine:
    """A Docker with kind clusters: the containers of each, and when they were made."""

    def __init__(self, **clusters: dict[str, str]) -> None:
        """It has these."""
        self.clusters = clusters

    def run(self, *args: str) -> str:
        """Answer `ps` and `inspect`."""
        if args[0] == "ps":
            return "\n".join(self.clusters.get(args[-1].rpartition("=")[2], ()))
        return next(made[args[-1]] for made in self.clusters.values() if args[-1] in made)


@pytest.mark.parametrize(
    ("uid", "there"),
    [
        pytest.param("a1,b2", True, id="noted"),
        pytest.param("a1,b2,c3", True, id="a node is gone"),
        pytest.param("a1", False, id="a node of others"),
        pytest.param("c3", False, id="of others"),
        pytest.param("since 2026-11-28T21:00:00", True, id="made after the intent"),
        pytest.param("since 2026-11-28T21:00:02", False, id="one was there before"),
    ],
)
def test_cluster_is_known_by_its_containers(
    monkeypatch: pytest.MonkeyPatch, uid: str, *, there: bool
) -> None:
    """Its name says nothing: another user of this Docker may have made one of that name."""
    made = {"a1": "2026-11-28T21:00:01.5Z", "b2": "2026-11-28T21:00:03.1Z"}
    monkeypatch.setattr(engine, "run", Engine(demo=made).run)

    assert kind._is_there(Made("Docker", "kind cluster", "demo", uid)) == there
    assert not kind._is_there(Made("Docker", "kind cluster", "gone", uid))


def test_down_removes_only_kept_clusters_that_were_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not every cluster whose name begins as ours do."""
    monkeypatch.setenv("SVIDPROOF_CACHE", str(tmp_path))
    monkeypatch.setattr(tools, "find", lambda _: SimpleNamespace(path="/kind"))
    monkeypatch.setattr(tools, "resolve", lambda _: SimpleNamespace(path="/kind"))
    monkeypatch.setattr(shutil, "which", lambda _: "/docker")
    made = {"svidproof-kept-1": {"a": ""}, "svidproof-kept-2": {"b": ""}}
    monkeypatch.setattr(engine, "run", Engine(**made).run)
    deleted: list[str] = []
    monkeypatch.setattr(kind.KindCluster, "delete", lambda self: deleted.append(self.name))
    created.note(RUN, Made("Docker", "kept kind cluster", "svidproof-kept-1", "a"))

    assert kind.delete_kept() == ["svidproof-kept-1"]

    assert deleted == ["svidproof-kept-1"]
    assert created.of(RUN, "Docker") == []


def test_kept_cluster_of_others_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that would take it says so in one line."""
    monkeypatch.setenv("SVIDPROOF_CACHE", str(tmp_path))
    monkeypatch.setattr(kind, "clusters", lambda _: ["svidproof-kept-1"])
    monkeypatch.setattr(engine, "run", Engine(**{"svidproof-kept-1": {"a": ""}}).run)

    assert not kind._is_kept("svidproof-kept-2", tmp_path)
    with pytest.raises(PlatformError, match="svidproof-kept-1 is there, and no note says"):
        kind._is_kept("svidproof-kept-1", tmp_path)
    created.note(RUN, Made("Docker", "kept kind cluster", "svidproof-kept-1", "a"))
    assert kind._is_kept("svidproof-kept-1", tmp_path)


def test_kept_cluster_of_a_live_run_is_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second run uses the kept cluster while the run that made it is live."""
    monkeypatch.setenv("SVIDPROOF_CACHE", str(tmp_path))
    monkeypatch.setattr(kind, "clusters", lambda _: ["svidproof-kept-1"])
    monkeypatch.setattr(engine, "run", Engine(**{"svidproof-kept-1": {"a": ""}}).run)
    run = RunDirectory()
    created.note(run.id, Made("Docker", "kept kind cluster", "svidproof-kept-1", "a"))

    assert kind._is_kept("svidproof-kept-1", tmp_path)

    run.close()


def test_note_that_was_cut_off_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill in the middle of a line does not spoil the others."""
    monkeypatch.setenv("SVIDPROOF_CACHE", str(tmp_path))
    thing = Made(WHERE, NAMESPACE, "demo", "uid")
    created.note(RUN, thing)
    file = tmp_path / "runs" / f"{RUN}.made"
    file.write_text(f'{file.read_text()}{{"where": "https://pa')

    assert list(created.left(WHERE)) == [(RUN, thing)]
    assert file.stat().st_mode & 0o777 == 0o600
