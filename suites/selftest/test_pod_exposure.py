"""A pod of a run gives each container what it needs: no token, secret or right that others have."""

from __future__ import annotations

import base64
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import yaml

from svidproof.model.manifests import render
from svidproof.model.scenario import SERVER
from svidproof.platforms.kubernetes.client import permissions
from svidproof.platforms.kubernetes.client.api import Node
from svidproof.platforms.kubernetes.client.permissions import Denied
from svidproof.platforms.kubernetes.pods import placement
from svidproof.platforms.kubernetes.pods.placement import Ground, Places, argv
from svidproof.platforms.kubernetes.pods.services import Services
from svidproof.platforms.protocol import Program

if TYPE_CHECKING:
    from pathlib import Path

RUN = "1a2b3c4d"
AGENT = "spire-agent-worker"
DRIVER = "csi-worker"
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
TOOLS = ("spire-server", "spire-agent", "envoy", "workload", "spire-controller-manager")
CSI = ("spiffe-csi-driver", "node-driver-registrar")
PROGRAMS = {
    SERVER: (
        Program(SERVER, SERVER, "spire-server", ("run",)),
        Program(f"{SERVER}.manager", SERVER, "spire-controller-manager", ()),
    ),
    AGENT: (Program(AGENT, AGENT, "spire-agent", ("run",)),),
    "api": (
        Program("api.envoy", "api", "envoy", ("-c", "envoy.json")),
        Program("api.app", "api", "python", ("-P", "-m", "svidproof.workloads.apps.api")),
    ),
    "prober": (),
    DRIVER: (
        Program(f"{DRIVER}.driver", DRIVER, "spiffe-csi-driver", ()),
        Program(f"{DRIVER}.registrar", DRIVER, "node-driver-registrar", ()),
    ),
}
each_place = pytest.mark.parametrize("place", PROGRAMS)


class PaperCluster:
    """A cluster that keeps what is applied to it."""

    def __init__(self, *, isolates: bool = True) -> None:
        """Nothing is applied yet."""
        self.isolates = isolates
        self.client = None
        self.objects: list[dict[str, Any]] = []

    def apply(self, template: str, **values: object) -> list[Any]:
        """Keep what the template says."""
        bodies = [body for body in yaml.safe_load_all(render(template, **values)) if body]
        self.objects += bodies
        made = SimpleNamespace(
            metadata=SimpleNamespace(uid="uid"),
            spec=SimpleNamespace(clusterIP="10.0.0.1", ports=[SimpleNamespace(nodePort=30000)]),
        )
        return [made for _ in bodies]

    def apply_object(self, body: dict[str, Any]) -> None:
        """Keep it."""
        self.objects.append(body)

    def assert_free(self, name: str) -> None:
        """It is."""

    def address_of(self, _node: str) -> str:
        """The node's address."""
        return "172.18.0.2"

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """What was applied of a kind."""
        return [body for body in self.objects if body["kind"] == kind]


@pytest.fixture(autouse=True)
def _not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody follows the pods."""
    quiet = SimpleNamespace(expect=lambda _: None, follow_log=lambda *_: None)
    monkeypatch.setattr(placement, "Pods", lambda *_: quiet)


def places_on(cluster: PaperCluster, directory: Path) -> Places:
    """A testbed's places, with its namespaces."""
    ground = Ground(
        cluster=cast("Any", cluster),
        name="kind",
        images={name: f"{name}:1" for name in (*TOOLS, *CSI)},
        nodes=(Node("kind-worker", "kind-worker", "uid-1"),),
        namespace="demo",
        tolerates=False,
        disposable=True,
    )
    places = Places(ground, cast("Any", SimpleNamespace(id=RUN, path=directory)), "machine")
    places.drivers[DRIVER] = "x.csi"
    places.open()
    return places


def pod_of(place: str, directory: Path) -> tuple[dict[str, Any], PaperCluster]:
    """The specification of a place's pod, and the cluster on which it was made."""
    cluster = PaperCluster()
    places_on(cluster, directory).create(place, PROGRAMS[place])
    [pod] = cluster.of_kind("Pod")
    spec: dict[str, Any] = pod["spec"]
    return spec, cluster


def containers(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All containers of a pod, by name."""
    return {c["name"]: c for c in (*spec.get("initContainers", ()), *spec["containers"])}


@each_place
def test_only_spire_has_a_service_account_token(place: str, tmp_path: Path) -> None:
    """Kubernetes mounts no token by itself; only the programs of SPIRE's pods have one."""
    spec, _ = pod_of(place, tmp_path)
    sources = [
        next(iter(source)) for v in spec["volumes"] if v["name"] == "account"
        for source in v["projected"]["sources"]
    ]  # fmt: skip
    holders = {
        name for name, container in containers(spec).items()
        if any(mount["mountPath"] == ACCOUNT for mount in container["volumeMounts"])
    }  # fmt: skip
    attesting = {
        name for name, container in containers(spec).items()
        if any(mount["name"] == "token" for mount in container["volumeMounts"])
    }  # fmt: skip

    assert spec["automountServiceAccountToken"] is False
    wanted = {SERVER: {"spire-server", "manager"}, AGENT: {AGENT}}
    assert holders == wanted.get(place, set())
    assert attesting == ({AGENT} if place == AGENT else set())
    token = ["serviceAccountToken", "configMap", "downwardAPI"]
    assert sources == (token if place in wanted else [])


@each_place
def test_only_the_relay_has_its_secret(place: str, tmp_path: Path) -> None:
    """A pod's secret is in a Secret that its relay mounts alone, readable by its user only."""
    spec, cluster = pod_of(place, tmp_path)
    [secret] = [o for o in cluster.of_kind("Secret") if o["metadata"]["name"].startswith("relay-")]
    content = json.loads(base64.b64decode(secret["data"]["access.json"]))
    [volume] = [v for v in spec["volumes"] if v["name"] == "access"]
    holders = {
        name for name, container in containers(spec).items()
        if any(mount["name"] == "access" for mount in container["volumeMounts"])
    }  # fmt: skip

    assert holders == {"relay"}
    assert volume["secret"] == {"secretName": secret["metadata"]["name"], "defaultMode": 0o400}
    assert len(content["secret"]) == 64
    assert content["programs"] == [argv(program) for program in PROGRAMS[place]]
    everything_else = [o for o in cluster.objects if o is not secret]
    assert content["secret"] not in json.dumps(everything_else)


def test_each_pod_has_a_secret_of_its_own(tmp_path: Path) -> None:
    """Not even the next pod of the same place has the secret of the one before."""
    cluster = PaperCluster()
    places = places_on(cluster, tmp_path)
    for place in ("api", "prober", "api"):
        places.create(place, PROGRAMS[place])
    secrets = [o for o in cluster.of_kind("Secret") if o["metadata"]["name"].startswith("relay-")]

    assert len({o["metadata"]["name"] for o in secrets}) == 3
    assert len({o["data"]["access.json"] for o in secrets}) == 3
    assert {o["immutable"] for o in secrets} == {True}


@each_place
def test_containers_have_no_more_rights_than_they_need(place: str, tmp_path: Path) -> None:
    """No capability, no new privileges, a read-only image; seccomp and another user than root."""
    spec, _ = pod_of(place, tmp_path)
    hardened = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }

    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    # The node's directories, in which these two make their sockets, are root's.
    assert (spec["securityContext"].get("runAsUser") == 0) is (place in (AGENT, DRIVER))
    for name, container in containers(spec).items():
        privileged = {"privileged": True, "readOnlyRootFilesystem": True}
        wanted = privileged if name == "driver" else hardened
        assert container["securityContext"] == wanted, name


@pytest.mark.parametrize(
    ("place", "files"),
    [
        pytest.param(AGENT, ["--root", "/run/svidproof", "--only", RUN], id="agent"),
        pytest.param(DRIVER, [], id="driver"),
        pytest.param("api", ["--root", f"/svidproof/{RUN}/run"], id="workload"),
        pytest.param(SERVER, ["--root", f"/svidproof/{RUN}/run"], id="server"),
    ],
)
def test_relay_serves_the_files_of_its_run_only(
    place: str, files: list[str], tmp_path: Path
) -> None:
    """On a node's directory, which all runs share, it serves the run's own part."""
    spec, _ = pod_of(place, tmp_path)
    command = containers(spec)["relay"]["command"]

    access = ["--access", "/svidproof/access/access.json"]
    module = ["python3", "-P", "-m", "svidproof.workloads.relay"]
    assert command == [*module, "--port", "15000", *access, *files]


def test_only_the_runs_pods_may_connect(tmp_path: Path) -> None:
    """In each namespace of the run, its pods admit its pods, to the ports of its Services."""
    cluster = PaperCluster()
    places = places_on(cluster, tmp_path)
    places.add_namespace("more")

    policies = cluster.of_kind("NetworkPolicy")

    own = {"matchLabels": {"svidproof.dev/run": RUN}}
    assert [p["metadata"]["namespace"] for p in policies] == ["demo-spire", "demo", "demo-more"]
    for policy in policies:
        assert policy["metadata"]["labels"] == {"svidproof.dev/run": RUN}
        assert policy["spec"] == {
            "podSelector": own,
            "policyTypes": ["Ingress"],
            "ingress": [
                {
                    "from": [
                        {"podSelector": own},
                        {"namespaceSelector": own, "podSelector": own},
                    ],
                    "ports": [
                        {"protocol": "TCP", "port": port} for port in (8443, 8444, 8445, 8446, 8081)
                    ],
                }
            ],
        }


def test_what_is_exposed_admits_everybody_to_one_port(tmp_path: Path) -> None:
    """A port that a node passes on is open to all, and no other port of the pod is."""
    cluster = PaperCluster()
    services = Services(cast("Any", cluster), places_on(cluster, tmp_path), RUN)
    before = len(cluster.of_kind("NetworkPolicy"))
    services.host("api")
    assert len(cluster.of_kind("NetworkPolicy")) == before

    assert services.expose("api", 8443, "kind-worker") == ("172.18.0.2", 30000)

    *_, policy = cluster.of_kind("NetworkPolicy")
    assert policy["metadata"]["name"] == "api-8443"
    assert policy["spec"] == {
        "podSelector": {"matchLabels": {"svidproof.dev/run": RUN, "svidproof.dev/place": "api"}},
        "policyTypes": ["Ingress"],
        "ingress": [{"ports": [{"protocol": "TCP", "port": 8443}]}],
    }


def test_without_the_right_no_policies_are_made(tmp_path: Path) -> None:
    """Where NetworkPolicies are not permitted, everything else is made."""
    cluster = PaperCluster(isolates=False)
    places = places_on(cluster, tmp_path)
    places.create("api", PROGRAMS["api"])
    Services(cast("Any", cluster), places, RUN).expose("api", 8443, "kind-worker")

    assert cluster.of_kind("NetworkPolicy") == []
    assert len(cluster.of_kind("Pod")) == len(cluster.of_kind("Service")) == 1


def test_missing_right_to_isolate_is_not_vital() -> None:
    """A tenant who may make no NetworkPolicies is told so, and goes on."""
    no = Denied(permissions.ISOLATION, ("create",), "mine", permissions.ISOLATION.without)
    other = Denied(permissions.LOGS, ("get",), "mine", "")

    assert not no.is_vital
    assert str(no) == (
        "cannot create networkpolicies in namespace mine: only the run's own pods can connect"
        " to its pods"
    )
    assert not permissions.may_isolate([other, no])
    assert permissions.may_isolate([other])
