"""What a tenant does in a namespace that stays: only what is labelled with the run is touched."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from kubernetes.client.exceptions import ApiException

from svidproof.model.errors import PlatformError
from svidproof.platforms import created, leftovers
from svidproof.platforms.created import Made
from svidproof.platforms.kubernetes.client.api import Cluster
from svidproof.platforms.kubernetes.tenant import tenancy as tenancies
from svidproof.platforms.kubernetes.tenant.tenancy import SpireNamespace, TenantCluster
from svidproof.platforms.protocol import SiteOptions
from svidproof.platforms.run_directory import RunDirectory, owner
from svidproof.supply.tools import Progress

if TYPE_CHECKING:
    from pathlib import Path

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "api", "namespace": "mine", "labels": {"svidproof.dev/run": "run1"}},
}


def made_object(uid: str) -> SimpleNamespace:
    """What an API server answers to who has made an object."""
    return SimpleNamespace(metadata=SimpleNamespace(uid=uid))


class Server:
    """An API server on paper."""

    def __init__(self) -> None:
        """Empty."""
        self.refusal = 0
        self.made: list[dict[str, Any]] = []
        self.deleted: list[tuple[str, str, str]] = []

    def create(self, *, body: dict[str, Any], namespace: str) -> SimpleNamespace:
        """Make an object."""
        if self.refusal:
            raise ApiException(status=self.refusal, reason="no")
        self.made.append(body)
        return made_object(f"{namespace}/{body['metadata']['name']}")

    def read_namespace(self, _name: str) -> None:
        """Show one."""
        if self.refusal:
            raise ApiException(status=self.refusal, reason="no")

    read_namespaced_config_map = create

    def delete(self, *, name: str, namespace: str, body: dict[str, Any]) -> None:
        """Delete an object, if it is the very one."""
        self.deleted.append((name, namespace, body["preconditions"]["uid"]))
        if self.refusal:
            raise ApiException(status=self.refusal, reason="no")


@pytest.fixture
def server() -> Server:
    """One."""
    return Server()


@pytest.fixture
def cluster(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TenantCluster:
    """A tenant's view of it, from a machine of its own."""
    monkeypatch.setenv("SVIDPROOF_CACHE", str(tmp_path))
    made = object.__new__(TenantCluster)
    made.core = server
    monkeypatch.setattr(made, "resource_of", lambda _body: server)
    applied = made_object("mine/api")
    monkeypatch.setattr(Cluster, "apply_object", lambda _self, _body: applied)
    return made


def test_what_is_made_bears_the_machines_label(cluster: TenantCluster, server: Server) -> None:
    """Beside its own; a second time it is applied."""
    for _ in range(2):
        assert cluster.apply_object(POD | {}).metadata.uid == "mine/api"

    [made] = server.made
    assert made["metadata"]["labels"] == {
        "svidproof.dev/run": "run1",
        "svidproof.dev/machine": owner(),
    }


def test_what_is_there_is_not_touched(cluster: TenantCluster, server: Server) -> None:
    """Somebody else may have a pod of that name."""
    server.refusal = 409

    with pytest.raises(PlatformError, match="namespace mine has a Pod api that is not of this run"):
        cluster.apply_object(POD | {})


def test_second_testbed_does_not_touch_the_first(cluster: TenantCluster) -> None:
    """It would have the same names; once the first is gone there is room for it."""

    def pod(run: str) -> dict[str, Any]:
        labels = {"svidproof.dev/run": run}
        return POD | {"metadata": {"name": "api", "namespace": "mine", "labels": labels}}

    cluster.apply_object(pod("run1"))

    for _ in range(2):
        with pytest.raises(PlatformError, match="mine holds another testbed of this run, with a P"):
            cluster.apply_object(pod("run2"))
        cluster.delete_all_of("run2", ["mine"])
    cluster.apply_object(pod("run1"))

    cluster.delete_all_of("run1", ["mine"])
    assert cluster.apply_object(pod("run2")).metadata.uid == "mine/api"


def test_other_refusals_are_told(cluster: TenantCluster, server: Server) -> None:
    """They are no conflict."""
    server.refusal = 403

    with pytest.raises(PlatformError, match="cannot make Pod api: not permitted"):
        cluster.apply_object(POD | {})


def own(run: str) -> dict[str, Any]:
    """A pod of a run's."""
    labels = {"svidproof.dev/run": run}
    return POD | {"metadata": {"name": "api", "namespace": "mine", "labels": labels}}


@pytest.mark.parametrize("refusal", [0, 404, 409])
def test_only_the_runs_own_is_removed(cluster: TenantCluster, server: Server, refusal: int) -> None:
    """By the UID that its maker was told: gone, or another's by now, it is left."""
    cluster.apply_object(own("run1"))
    server.refusal = refusal

    for _ in range(2):
        cluster.delete_all_of("run1", ["mine", "mine"])

    assert server.deleted == [("api", "mine", "mine/api")]
    assert created.of("run1", cluster.where) == []


def test_what_killed_runs_left_is_removed(cluster: TenantCluster, server: Server) -> None:
    """What they have noted, there, and not what a run that goes on has made."""
    run = RunDirectory()
    for made_by in (run.id, "dead"):
        for where, namespace in ((cluster.where, "mine"), (cluster.where, "x"), ("y", "mine")):
            thing = Made(where, "v1/Pod", "api", f"uid of {made_by}", namespace)
            created.note(made_by, thing)

    cluster.clear_stale("mine")

    run.close()
    assert server.deleted == [("api", "mine", "uid of dead")]


def test_notes_of_another_machine_are_named_only(
    cluster: TenantCluster, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of a machine has the notes of a run that goes on elsewhere."""
    leftovers.take()
    monkeypatch.setattr(created, "machine", lambda: "the original")
    created.note("run1", Made(cluster.where, "v1/Pod", "api", "uid", "mine"))
    monkeypatch.setattr(created, "machine", lambda: "its copy")

    cluster.clear_stale("mine")

    assert server.deleted == []
    [told] = leftovers.take()
    assert told.startswith("Pod api in namespace mine is noted as made by run run1 on another mach")


@pytest.mark.parametrize(("refusal", "there"), [(0, True), (403, True), (404, False)])
def test_namespace_must_be_there(
    cluster: TenantCluster, server: Server, refusal: int, *, there: bool
) -> None:
    """Not everybody may look."""
    server.refusal = refusal

    if there:
        cluster.assert_namespace("mine")
    else:
        with pytest.raises(PlatformError, match="namespace mine does not exist: ask for it"):
            cluster.assert_namespace("mine")


def test_namespace_must_be_named(cluster: TenantCluster) -> None:
    """A tenant cannot make one."""
    with pytest.raises(PlatformError, match="pass --namespace NAME"):
        tenancies.enter(cluster, SiteOptions(spire_namespace="spire"), Progress.silent())


@pytest.mark.parametrize("refusal", [403, 404])
def test_config_map_that_cannot_be_read_is_none(
    cluster: TenantCluster, server: Server, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    """The discovery says what to do then; other trouble is told."""

    def refuse(*_: object) -> None:
        raise ApiException(status=server.refusal, reason="no")

    monkeypatch.setattr(server, "read_namespaced_config_map", refuse)
    server.refusal = refusal

    assert SpireNamespace(cluster, "spire").config_map("agent") is None
    server.refusal = 500
    with pytest.raises(PlatformError, match="cannot read ConfigMap agent"):
        SpireNamespace(cluster, "spire").config_map("agent")


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ('{"level":"debug"}\n', None),
        ("text\ntext\n", "the log of spire-server in pod s-0 has lines in neither of SPIRE's"),
        ('{"level":"info"}\n', "the log of spire-server in pod s-0 has no line at level DEBUG"),
        ('time="2026" level=debug msg="m"\n', None),
    ],
)
def test_logs_that_tell_too_little_are_no_evidence(log: str, reason: str | None) -> None:
    """Nor are those that may not be read."""
    around = cast("SpireNamespace", SimpleNamespace(beginning_of_log=lambda _seat: log))
    seat: Any = SimpleNamespace(program="spire-server", pod="s-0")

    lacking = "; ".join(tenancies._lacking_logs(around, [seat], []).values())

    assert lacking.startswith(reason) if reason else not lacking
