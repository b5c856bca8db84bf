"""A SPIRE that is there already is found, or it is told what was not."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from svidproof.model.errors import PlatformError
from svidproof.platforms.kubernetes.tenant import discovery
from svidproof.platforms.kubernetes.tenant.discovery import (
    AGENT,
    SERVER,
    DiscoveryError,
    discover,
    seats,
)
from svidproof.platforms.protocol import Completed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


# As in SPIRE's own quickstart; `kubectl get pods -o json` has no more that matters.
QUICKSTART = """
- metadata: { name: spire-server-0, uid: u-server, labels: { app: spire-server } }
  spec:
    nodeName: node-1
    containers:
    - name: spire-server
      image: ghcr.io/spiffe/spire-server:1.15.3
      args: [-config, /run/spire/config/server.conf]
      volumeMounts: [{ name: spire-config, mountPath: /run/spire/config }]
    volumes: [{ name: spire-config, configMap: { name: spire-server } }]
  status:
    conditions: [{ type: Ready, status: "True" }]
    containerStatuses: [{ name: spire-server, imageID: "ghcr.io/spiffe/spire-server@sha256:abc" }]
- metadata: { name: spire-agent-x, uid: u-x, labels: { app: spire-agent } }
  spec:
    nodeName: node-1
    containers: &agent
    - name: spire-agent
      image: ghcr.io/spiffe/spire-agent:1.15.3
      args: [-config, /run/spire/config/agent.conf]
      volumeMounts:
      - { name: spire-config, mountPath: /run/spire/config }
      - { name: spire-agent-socket, mountPath: /run/spire/sockets }
    volumes: &volumes
    - { name: spire-config, configMap: { name: spire-agent } }
    - { name: spire-agent-socket, hostPath: { path: /run/spire/on-node } }
  status: &ready { conditions: [{ type: Ready, status: "True" }] }
- metadata: { name: spire-agent-y, uid: u-y, labels: { app: spire-agent } }
  spec: { nodeName: node-2, containers: *agent, volumes: *volumes }
  status: *ready
- metadata: { name: unrelated, uid: u-z }
  spec: { nodeName: node-2, containers: [{ name: app, image: "registry:5000/app:1" }] }
  status: *ready
"""
CONFIG_MAPS = {
    "spire-server": {"server.conf": 'server {\n  trust_domain = "example.org"\n}\n'},
    "spire-agent": {
        "agent.conf": 'agent {\n  # socket_path = "/no"\n  admin_socket_path = "/nor/this"\n'
        '  socket_path = "/run/spire/sockets/agent.sock"\n}\n'
    },
}


def listed(node: str, uid: str, cluster: str = "c", attestor: str = "k8s_psat") -> dict[str, Any]:
    """One agent, as `spire-server agent list` shows it."""
    values = (f"agent_node_name:{node}", f"agent_node_uid:n-{uid}", f"agent_pod_uid:{uid}")
    return {
        "attestation_type": attestor,
        "banned": False,
        "id": {"trust_domain": "example.org", "path": f"/spire/agent/{cluster}/{node}"},
        "selectors": [{"type": attestor, "value": v} for v in (*values, f"cluster:{cluster}")],
    }


class Namespace:
    """A namespace on paper."""

    name = "spire"

    def __init__(self) -> None:
        """As in the quickstart."""
        # What the text shares is apart after this.
        self.items: list[dict[str, Any]] = json.loads(json.dumps(yaml.safe_load(QUICKSTART)))
        self.config_maps: Mapping[str, Mapping[str, str]] | None = CONFIG_MAPS
        self.listed = [listed("node-1", "u-x"), listed("node-2", "u-y")]
        self.status = 0
        self.ran: list[list[str]] = []

    def pods(self) -> list[dict[str, Any]]:
        """All of them."""
        return self.items

    def config_map(self, name: str) -> Mapping[str, str] | None:
        """What it holds."""
        return None if self.config_maps is None else self.config_maps.get(name)

    def run(self, pod: str, container: str, argv: Sequence[str]) -> Completed:
        """Answer as SPIRE's commands do."""
        self.ran.append([pod, container, *argv])
        if argv[1:] == ["--version"]:
            return Completed(0, "", "1.15.3-dev\n")
        return Completed(self.status, json.dumps({"agents": self.listed}), "no socket")

    def container(self, number: int) -> dict[str, Any]:
        """The first container of a pod."""
        first: dict[str, Any] = self.items[number]["spec"]["containers"][0]
        return first


@pytest.fixture
def around() -> Namespace:
    """A sound one."""
    return Namespace()


def test_spire_of_the_quickstart_is_found(around: Namespace) -> None:
    """Pods, sockets, trust domain, versions, and the agents by node."""
    found = discover(around)

    assert (found.server.pod, found.server.digest) == ("spire-server-0", "abc")
    assert found.server_socket == "/tmp/spire-server/private/api.sock"  # noqa: S108  its default
    assert found.agent_socket == "/run/spire/on-node/agent.sock"
    assert found.trust_domain == "example.org"
    assert found.versions == {SERVER: "1.15.3", AGENT: "1.15.3"}
    assert {node: agent.seat.pod for node, agent in found.agents.items()} == {
        "node-1": "spire-agent-x",
        "node-2": "spire-agent-y",
    }
    assert found.agents["node-2"].spiffe_id == "spiffe://example.org/spire/agent/c/node-2"
    assert found.agents["node-2"].selectors == (
        "k8s_psat:agent_node_uid:n-u-y",
        "k8s_psat:cluster:c",
    )


def test_spire_of_the_chart_is_found(around: Namespace) -> None:
    """Other labels, JSON for configuration."""
    around.items[0]["metadata"]["labels"] = {"app.kubernetes.io/name": "server"}
    server = json.dumps({"server": {"socket_path": "/run/s/api.sock"}}, indent=2)
    around.config_maps = {**CONFIG_MAPS, "spire-server": {"server.conf": server}}

    found = discover(around)

    assert found.server.name == "spire-server"
    assert found.server_socket == "/run/s/api.sock"


@pytest.mark.parametrize(
    ("configuration", "spares"),
    [
        pytest.param("entryIDPrefix: mine\n", True, id="said"),
        pytest.param('{\n  "entryIDPrefix": "mine"\n}', True, id="json"),
        pytest.param('entryIDPrefix: ""\n', False, id="empty"),
        pytest.param("# entryIDPrefix: mine\n", False, id="not-said"),
        pytest.param(None, False, id="not-readable"),
    ],
)
def test_controller_manager_must_spare_our_entries(
    around: Namespace, configuration: str | None, *, spares: bool
) -> None:
    """Else it would remove them, and SPIRE would seem not to serve."""
    name = "spire-controller-manager"
    mounts = [{"name": "cm", "mountPath": "/cm.yaml", "subPath": "cm.yaml"}]
    manager = {"name": name, "image": f"ghcr.io/spiffe/{name}:0.6", "volumeMounts": mounts}
    around.items[0]["spec"]["containers"].insert(0, manager)
    around.items[0]["spec"]["volumes"].append({"name": "cm", "configMap": {"name": "manager"}})
    if configuration is not None:
        around.config_maps = {**CONFIG_MAPS, "manager": {"cm.yaml": configuration}}

    if spares:
        assert discover(around).server.name == "spire-server"
    else:
        with pytest.raises(DiscoveryError, match=f"{name} in pod spire-server-0 removes entries"):
            discover(around)


@pytest.mark.parametrize(
    ("container", "known"),
    [
        ({"image": "mirror.example:5000/spire-server@sha256:1", "name": "main"}, True),
        ({"image": "mirror.example/security:1", "name": "spire-server"}, True),
        ({"image": "a", "name": "b", "command": ["/usr/bin/spire-server", "run"]}, True),
        ({"image": "a", "name": "b"}, True),  # by its label, as it is the only container
        ({"image": "spire-controller-manager", "name": "b", "label": "other"}, False),
        ({"image": "spire-server-backup", "name": "b", "label": "other"}, False),
    ],
)
def test_server_is_known_by_what_runs(
    around: Namespace, container: dict[str, Any], *, known: bool
) -> None:
    """By image, name or command; by the label only where nothing else could be meant."""
    pod = around.items[0]
    pod["metadata"]["labels"]["app"] = container.pop("label", "spire-server")
    pod["spec"]["containers"] = [container]

    assert [seat.pod for seat in seats(SERVER, around.items)] == ["spire-server-0"] * known


@pytest.mark.parametrize("change", ["deleting", "not-ready"])
def test_pod_that_goes_is_not_taken(around: Namespace, change: str) -> None:
    """Of several the one that is ready is."""
    going = around.items[1]
    if change == "deleting":
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    else:
        going["status"]["conditions"][0]["status"] = "False"

    assert [seat.node for seat in seats(AGENT, around.items)] == ["node-2"]
    assert list(discover(around).agents) == ["node-2"]


@pytest.mark.parametrize(
    ("args", "option"),
    [
        (["-config", "/a"], "/a"),
        (["--config", "/a"], "/a"),
        (["run", "-config=/a"], "/a"),
        (["-expandEnv", "-config", "/a"], "/a"),
        (["-configs", "/a"], None),
    ],
)
def test_option_is_read_as_go_does(around: Namespace, args: list[str], option: str | None) -> None:
    """With one dash or two, and with `=` or without."""
    seat = replace(seats(SERVER, around.items)[0], container={"name": "n", "args": args})

    assert seat.option("config") == option


def test_socket_on_the_command_line_comes_first(around: Namespace) -> None:
    """As it does for SPIRE."""
    around.container(0)["args"] = ["-socketPath", "/run/other.sock"]
    around.container(1)["args"] = ["-socketPath=/run/spire/sockets/deeper/a.sock"]

    found = discover(around)

    assert found.server_socket == "/run/other.sock"
    assert found.agent_socket == "/run/spire/on-node/deeper/a.sock"


def test_agents_of_another_cluster_are_not_taken(around: Namespace) -> None:
    """Their nodes may have the same names."""
    around.listed.append(listed("node-1", "u-elsewhere", cluster="other"))

    assert discover(around).agents["node-1"].spiffe_id.endswith("/c/node-1")


def without_pods(around: Namespace) -> None:
    """Nothing runs there."""
    around.items = []


def without_host_path(around: Namespace) -> None:
    """The socket is shared by something else."""
    for pod in around.items[1:3]:
        pod["spec"]["volumes"][1] = {"name": "spire-agent-socket", "csi": {}}


def without_config_maps(around: Namespace) -> None:
    """They may not be read."""
    around.config_maps = None


def without_psat(around: Namespace) -> None:
    """The agents came by tokens."""
    around.listed = [listed("node-1", "u-x", attestor="join_token")]


def without_agents(around: Namespace) -> None:
    """None has come."""
    around.listed = []


@pytest.mark.parametrize(
    ("spoil", "says", "hint"),
    [
        (
            without_pods,
            "no ready spire-server in namespace spire (found no pod",
            "--spire-namesp",
        ),
        (
            without_host_path,
            "/run/spire/sockets/agent.sock is not in a hostPath volume",
            "--spire-socket PATH",
        ),
        (without_config_maps, "the ConfigMap of pod spire-agent-x cannot be", "get on configmaps"),
        (without_psat, "has no agent of a pod there (attested by join_token)", "k8s_psat"),
        (without_agents, "no agent has attested to the server in spire", "agents' logs"),
    ],
)
def test_what_is_not_found_is_told_with_what_to_do(
    around: Namespace, spoil: Callable[[Namespace], None], says: str, hint: str
) -> None:
    """One line each."""
    spoil(around)

    with pytest.raises(DiscoveryError) as raised:
        discover(around)

    assert says in raised.value.found
    assert hint in raised.value.hint
    assert "\n" not in str(raised.value)


def test_socket_that_the_user_says_needs_no_reading(around: Namespace) -> None:
    """Neither a ConfigMap nor a volume."""
    without_config_maps(around)
    without_host_path(around)

    assert discover(around, "/run/a.sock").agent_socket == "/run/a.sock"


def test_command_that_fails_is_told(around: Namespace) -> None:
    """With the command, the pod and what it said."""
    around.status = 1

    with pytest.raises(
        PlatformError, match=r"spire-server agent list in pod spire-server-0 .*: no s"
    ):
        discover(around)


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        pytest.param('{"level":"info"}\n{"level":"debug"}\n{"lev', "", id="json"),
        pytest.param('{"level":"info"}\n{"level":"info"}\n', "no line at level DEBUG", id="info"),
        pytest.param('time="2026" level=debug msg="x"\ncut', "", id="text"),
        pytest.param('time="2026" level=info msg="x"\n', "no line at level DEBUG", id="text-info"),
        pytest.param('time="2026" level=debug msg="x"\nx\n', "in neither", id="text-and-else"),
        pytest.param('{"level":"debug"}\n{"a":"b"}\n', "in neither", id="other-json"),
        pytest.param("", "no line at level DEBUG", id="empty"),
    ],
)
def test_log_is_evidence_at_debug(log: str, reason: str) -> None:
    """In JSON as in text; its last line may be cut."""
    told = discovery.unreadable(log)

    assert bool(told) == bool(reason)
    assert reason in told
