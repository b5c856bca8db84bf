"""SPIRE controller manager touches what is the testbed's own, and all that is made for it goes."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import yaml
from kubernetes.client.exceptions import ApiException

from svidproof.components.spire.controller_manager import ControllerManager
from svidproof.model.scenario import load_scenario
from svidproof.platforms import created
from svidproof.platforms.created import Made
from svidproof.platforms.kubernetes.client import objects
from svidproof.platforms.kubernetes.client.api import DEFINITION
from svidproof.platforms.kubernetes.client.objects import ClusterWide
from svidproof.platforms.run_directory import RunDirectory, owner
from svidproof.sabotage import find
from svidproof.testbed.hooks import Hooks
from svidproof.testbed.optional import AtNeed
from svidproof.waiting import NotYet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RUN = "1a2b3c4d"
UNCHANGED = Hooks()
NAME = "clusterspiffeids.spire.spiffe.io"
KIND = yaml.safe_dump({"kind": "CustomResourceDefinition", "metadata": {"name": NAME}})
KIND_MADE = Made("https://paper", DEFINITION, NAME, "uid of the kind")


class PaperPlatform:
    """A platform on which nothing runs: it remembers what it was given."""

    def __init__(self) -> None:
        """Nothing was given."""
        self.files: dict[str, str] = {}
        self.there: dict[str, dict[str, Any]] = {}
        self.log = b""

    def marks(self) -> dict[str, str]:
        """The run's label."""
        return {"svidproof.dev/run": RUN}

    def selectors(self, place: str) -> tuple[str, ...]:
        """Those of a pod."""
        return ("k8s:ns:demo", f"k8s:sa:{place}", f"k8s:pod-label:app:{place}")

    def read_log(self, _component: str, offset: int) -> bytes:
        """What it has logged."""
        return self.log[offset:]

    def put(self, _place: str, name: str, content: bytes) -> str:
        """Keep a file."""
        self.files[f"/{name}"] = content.decode()
        return f"/{name}"

    def declare(self, body: dict[str, Any]) -> None:
        """Keep an object."""
        self.there[body["metadata"]["name"]] = body

    def retract(self, body: dict[str, Any]) -> None:
        """Forget it."""
        self.there.pop(body["metadata"]["name"], None)


@pytest.fixture
def paper() -> PaperPlatform:
    """A platform on paper."""
    return PaperPlatform()


@pytest.fixture
def manager(paper: PaperPlatform) -> ControllerManager:
    """Its controller manager."""
    return ControllerManager(cast("Any", paper), "example.org")


def configurations(
    manager: ControllerManager, paper: PaperPlatform, hooks: Hooks = UNCHANGED
) -> list[dict[str, Any]]:
    """What each program that runs beside the server is told."""
    server = cast("Any", SimpleNamespace(socket="/api.sock"))
    own = (manager.program(server, "kind"),)
    programs = hooks.server_companions(own, manager, server, "kind")
    return [yaml.safe_load(paper.files[program.args[1]]) for program in programs]


def test_it_touches_only_its_own(manager: ControllerManager, paper: PaperPlatform) -> None:
    """It looks at one class, makes entries of one prefix, and makes nothing but these."""
    [told] = configurations(manager, paper)

    with manager.identify("greeter", like="greeter"):
        [body] = paper.there.values()
    assert told["className"] == body["spec"]["className"]
    assert manager.entry_prefix == f"{told['entryIDPrefix']}."
    assert manager.owns({"id": f"{manager.entry_prefix}x"})
    assert not manager.owns({"id": "x"})
    assert RUN in told["className"]
    assert told["reconcile"] == {"clusterSPIFFEIDs": True}
    assert told["gcInterval"] == 1_000_000_000
    assert "entryIDPrefixCleanup" not in told
    assert paper.there == {}


def test_identity_selects_who_is_like_the_place(
    manager: ControllerManager, paper: PaperPlatform
) -> None:
    """By namespace and label; it can be changed, and is gone in the end even if it was before."""
    with manager.identify("one", like="greeter", ttl=12) as ids:
        [body] = paper.there.values()
        ids.change(spiffeIDTemplate="other")
        [changed] = paper.there.values()
        ids.delete()
        assert paper.there == {}

    spec = body["spec"]
    assert spec["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": "demo"}}
    [labels] = spec["podSelector"]["matchExpressions"]
    assert labels == {"key": "app", "operator": "In", "values": ["greeter"]}
    assert spec["ttl"] == "12s"
    assert changed["spec"] == {**spec, "spiffeIDTemplate": "other"}
    assert manager.spiffe_id("greeter") == "spiffe://example.org/ns/demo/sa/greeter"


def test_scenario_is_registered_by_one_identity(
    manager: ControllerManager, paper: PaperPlatform
) -> None:
    """Its pods by their labels, with its TTL; and the template gives the scenario's own IDs."""
    greeter = load_scenario("greeter")
    at_need = AtNeed.__new__(AtNeed)
    at_need._controller = manager
    names = greeter.registered

    with at_need.identifying(greeter, names):
        [body] = paper.there.values()

    assert paper.there == {}
    spec = body["spec"]
    assert spec["podSelector"]["matchExpressions"][0]["values"] == list(names)
    assert spec["ttl"] == f"{greeter.svid_ttl}s"
    for name in names:
        account = greeter.workloads[name].service_account or name
        made = spec["spiffeIDTemplate"].replace("{{ .TrustDomain }}", greeter.trust_domain)
        made = made.replace("{{ .PodSpec.ServiceAccountName }}", account)
        assert made == greeter.spiffe_id(name)


STARTS, FAILS, ENDS = (
    f'{{"level":"{level}","logger":"entry-reconciler","msg":"{message}"}}\n'
    for level, message in (
        ("Level(-2)", "Starting reconciliation"),
        ("error", "Failed to list SPIRE entries"),
        ("Level(-2)", "Reconciliation finished"),
    )
)


@pytest.mark.parametrize(
    ("log", "ready"),
    [
        ("", False),
        (STARTS, False),
        (STARTS + ENDS, True),
        (STARTS + FAILS + ENDS, False),
        (STARTS + FAILS + ENDS + STARTS, False),
        (STARTS + FAILS + ENDS + STARTS + ENDS, True),
        (STARTS + ENDS + STARTS + FAILS, True),
    ],
)
def test_it_is_ready_when_it_has_looked_without_an_error(
    manager: ControllerManager, paper: PaperPlatform, log: str, *, ready: bool
) -> None:
    """Its last whole look counts."""
    paper.log = log.encode()

    with contextlib.nullcontext() if ready else pytest.raises(NotYet):
        manager._assert_reconciles()


def test_second_identity_stays(paper: PaperPlatform) -> None:
    """What a sabotage adds is not deleted with the check's own."""
    hooks = find("second-identity-stays").hooks
    manager = ControllerManager(cast("Any", paper), "example.org", transform=hooks.identities)

    with manager.identify("one", like="greeter"):
        assert len(paper.there) == 2

    assert len(paper.there) == 1


def test_rival_cleans_up(manager: ControllerManager, paper: PaperPlatform) -> None:
    """A second one is of another class, and takes the first one's entries away."""
    first, second = configurations(manager, paper, find("rival-controller").hooks)

    assert second["entryIDPrefixCleanup"] == first["entryIDPrefix"]
    assert second["className"] != first["className"]
    assert second["health"] != first["health"]


class PaperCluster:
    """A cluster that may serve a kind already, whoever made it."""

    client = None
    where = "https://paper"

    def __init__(self, labels: dict[str, str] | None = None) -> None:
        """It serves it with these labels; None if it does not."""
        self.labels = labels
        self.others: list[str] = []
        self.made: list[dict[str, Any]] = []
        self.cleared: list[str] = []
        self.owned: list[Made] = []

    def apply_object(self, body: dict[str, Any]) -> None:
        """Remember."""
        self.made.append(body)
        if body["kind"] == "CustomResourceDefinition":
            self.labels = body["metadata"]["labels"]
            self.owned.append(KIND_MADE)

    def made_by(self, run: str) -> list[Made]:
        """What the run has made."""
        return self.owned if run == RUN else []

    def delete_made(self, _run: str, things: list[Made]) -> None:
        """The kind goes with its definition."""
        assert things == [KIND_MADE]
        self.labels = None

    def delete_wide(self, run: str) -> None:
        """Remember."""
        self.cleared.append(run)

    def identities(self) -> list[str]:
        """Those of others."""
        return self.others

    def read_custom_resource_definition(self, _name: str) -> Any:  # noqa: ANN401  the client's
        """As the client's API has it."""
        if self.labels is None:
            raise ApiException(status=404)
        established = SimpleNamespace(type="Established", status="True")
        return SimpleNamespace(
            metadata=SimpleNamespace(labels=self.labels),
            status=SimpleNamespace(conditions=[established]),
        )


@pytest.fixture
def _one_api(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster on paper is its own API."""
    client = SimpleNamespace(ApiextensionsV1Api=lambda _: CLUSTERS[-1])
    monkeypatch.setattr(objects, "kubernetes", SimpleNamespace(client=client))


CLUSTERS: list[PaperCluster] = []


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of the test's own."""
    monkeypatch.setenv("SVIDPROOF_CACHE", str(tmp_path))


@pytest.fixture
def live() -> Iterator[str]:
    """Another run, which goes on."""
    run = RunDirectory()
    yield run.id
    run.close()


def used(cluster: PaperCluster) -> PaperCluster:
    """A cluster whose kind a run has used, and that it has left."""
    CLUSTERS.append(cluster)
    wide = ClusterWide(cast("Any", cluster), RUN)
    wide.define(KIND)
    wide.declare({"kind": "ClusterSPIFFEID", "metadata": {"name": "x"}})
    wide.remove()
    return cluster


@pytest.mark.usefixtures("_one_api")
def test_kind_that_was_made_is_removed() -> None:
    """With the objects of the run, which are labelled; the kind is too."""
    cluster = used(PaperCluster())

    definition, item = cluster.made
    assert definition["metadata"]["labels"]["svidproof.dev/run"] == RUN
    assert item["metadata"]["labels"] == {"svidproof.dev/run": RUN}
    assert cluster.cleared == [RUN]
    assert cluster.labels is None


@pytest.mark.usefixtures("_one_api")
def test_kind_of_others_stays(live: str) -> None:
    """Whether somebody else's, or that of a run that goes on."""
    ours = {"svidproof.dev/run": live, "svidproof.dev/machine": owner()}

    for labels in ({}, {"app": "spire"}, ours):
        cluster = used(PaperCluster(labels))

        assert cluster.labels is not None
        assert [body["kind"] for body in cluster.made] == ["ClusterSPIFFEID"]


@pytest.mark.usefixtures("_one_api")
def test_kind_of_a_killed_run_is_removed() -> None:
    """The next run that has used it takes it away, if it is the one that was noted."""
    labels = {"svidproof.dev/run": "gone", "svidproof.dev/machine": owner()}

    assert used(PaperCluster(labels)).labels == labels, "a label is no proof"
    created.note("gone", KIND_MADE)
    assert used(PaperCluster(labels)).labels is None


@pytest.mark.usefixtures("_one_api")
def test_kind_that_others_use_stays() -> None:
    """Its objects would go with it."""
    cluster = PaperCluster()
    cluster.others = ["theirs"]

    assert used(cluster).labels is not None
