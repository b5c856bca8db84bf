"""Ways in which a pod has no identity, and what `svidproof check` must name as the cause of each.

    python .ci/foreign-spire/diagnose.py --kubeconfig FILE --image REFERENCE

It needs the SPIRE that run.py deploys without ClusterSPIFFEIDs, and is started by `run.py
--diagnose`. REFERENCE is an image with python3. The checks run with a service account that has only
the rights of docs/check.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes.client
import yaml

from svidproof import NotYet, eventually
from svidproof.platforms.kubernetes.client.api import Cluster
from svidproof.waiting.budgets import Budget

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SPIRE, TENANT, CLASS = "spire-system", "demo", "spire-system-spire"
READER = "svidproof-check"
IDENTITIES_OF = ("spire.spiffe.io", "v1alpha1", "clusterspiffeids")
_SETTLED = Budget("pods run, or wait for a volume", 90, 0.5)
_NAMED = Budget("the cause is named", 60, 1.0)
_SOCKETS = "/run/spire/agent-sockets"
RIGHT = {"name": "spire", "hostPath": {"path": _SOCKETS, "type": "Directory"}}
WRONG = {"name": "spire", "hostPath": {"path": "/run/spire/elsewhere", "type": "DirectoryOrCreate"}}
DRIVER = {"name": "spire", "csi": {"driver": "csi.spiffe.io", "readOnly": True}}
ENDPOINT = "unix:///spire/spire-agent.sock"


@dataclass(frozen=True)
class Case:
    """A pod, and what must be said about it.

    Attributes:
        label: its label `app`.
        cause: the ID of the line that must be the cause; empty for a pod in order.
        says: what that line must contain.
        volume: the volume with the socket; None for none.
        endpoint: SPIFFE_ENDPOINT_SOCKET of its container.
        by_agent: whether it runs on the node that has an agent.
        words: more options of the command.
    """

    label: str
    cause: str
    says: str = ""
    volume: Mapping[str, Any] | None = field(default_factory=lambda: RIGHT)
    endpoint: str = ENDPOINT
    by_agent: bool = True
    words: tuple[str, ...] = ()


CASES = {
    "in-order": Case("web", ""),
    "label-missing": Case("wbe", "identity-registration", "it selects pods with app In (web)"),
    "namespace-not-selected": Case(
        "by-namespace", "identity-registration", "it selects namespaces with team=a"
    ),
    "class-of-another-manager": Case(
        "by-class", "identity-registration", "it is of class other, and the controller manager's"
    ),
    "no-agent-on-the-node": Case(
        "web", "identity-agent", "no spire-agent runs on node", by_agent=False
    ),
    "volume-missing": Case("web", "identity-mount", "no volume of the pod", volume=None),
    "driver-not-registered": Case(
        "web", "identity-mount", "csi.spiffe.io is not registered on node", volume=DRIVER
    ),
    "host-path-wrong": Case(
        "web", "identity-mount", "is not where the agent has its socket", volume=WRONG
    ),
    "endpoint-wrong": Case(
        "web", "identity-socket", "its volume at /spire", endpoint="unix:///tmp/api.sock"
    ),
    "secret-wrong": Case(
        "web", "identity-sds", "SDS refuses", words=("--sds-name", "spiffe://example.org/api")
    ),
    "other-trust-domain": Case(
        "web",
        "identity-entry",
        "partner.example",
        words=("--spiffe-id", "spiffe://partner.example/x"),
    ),
}


def _labelled(label: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": "app", "operator": "In", "values": [label]}]}


IDENTITIES: dict[str, dict[str, Any]] = {
    "diagnose-web": {"podSelector": _labelled("web")},
    "diagnose-namespace": {
        "podSelector": _labelled("by-namespace"),
        "namespaceSelector": {"matchLabels": {"team": "a"}},
    },
    "diagnose-class": {"podSelector": _labelled("by-class"), "className": "other"},
}
# docs/check.md, Rights.
_SPIRE_RULES = [
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
    {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["get", "create"]},
    {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]},
]
_TENANT_RULES = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]
_WIDE_RULES = [
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
    {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"]},
    {"apiGroups": ["spire.spiffe.io"], "resources": ["clusterspiffeids"], "verbs": ["list"]},
    {"apiGroups": ["storage.k8s.io"], "resources": ["csinodes"], "verbs": ["get"]},
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get"]},
]
_RBAC = "rbac.authorization.k8s.io"


def identity(name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """A ClusterSPIFFEID."""
    template = "spiffe://{{ .TrustDomain }}/" + name
    return {
        "apiVersion": "spire.spiffe.io/v1alpha1",
        "kind": "ClusterSPIFFEID",
        "metadata": {"name": name},
        "spec": {"className": CLASS, "spiffeIDTemplate": template, **spec},
    }


def pod(name: str, case: Case, image: str, node: str) -> dict[str, Any]:
    """The pod of a case, which waits for ever."""
    mounts = [{"name": "spire", "mountPath": "/spire", "readOnly": True}] if case.volume else []
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": TENANT, "labels": {"app": case.label}},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "app",
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python3", "-c", "import signal; signal.pause()"],
                    "env": [{"name": "SPIFFE_ENDPOINT_SOCKET", "value": case.endpoint}],
                    "volumeMounts": mounts,
                }
            ],
            "volumes": [case.volume] if case.volume else [],
        },
    }


def reader(cluster: Cluster, kubeconfig: Path, directory: Path, *, wide: bool) -> Path:
    """The kubeconfig of a service account that has only the rights to read.

    Args:
        cluster: the cluster.
        kubeconfig: with all rights on it.
        directory: where the file goes.
        wide: whether it has the optional rights too.
    """
    name = f"{READER}-wide" if wide else READER
    account = {"kind": "ServiceAccount", "name": name, "namespace": TENANT}
    metadata = {"name": name, "namespace": TENANT}
    cluster.apply_object({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    scopes = [(SPIRE, _SPIRE_RULES), (TENANT, _TENANT_RULES)]
    for namespace, rules in [*scopes, ("", _WIDE_RULES)] if wide else scopes:
        kind, where = "Role", {"name": name, "namespace": namespace}
        if not namespace:
            kind, where = "ClusterRole", {"name": name}
        base = {"apiVersion": f"{_RBAC}/v1", "metadata": where}
        cluster.apply_object({**base, "kind": kind, "rules": rules})
        role = {"apiGroup": _RBAC, "kind": kind, "name": name}
        cluster.apply_object(
            {**base, "kind": f"{kind}Binding", "roleRef": role, "subjects": [account]}
        )
    spec = kubernetes.client.V1TokenRequestSpec(audiences=[], expiration_seconds=3600)
    request = kubernetes.client.AuthenticationV1TokenRequest(spec=spec)
    token = cluster.core.create_namespaced_service_account_token(name, TENANT, request)
    [known] = yaml.safe_load(kubeconfig.read_text())["clusters"]
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [known],
        "users": [{"name": name, "user": {"token": token.status.token}}],
        "contexts": [{"name": name, "context": {"cluster": known["name"], "user": name}}],
    }
    path = directory / f"{name}.kubeconfig"
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(content))
    return path


def check(kubeconfig: Path, *words: str) -> tuple[int, dict[str, Any]]:
    """The exit code of `svidproof check`, and what it says."""
    command = Path(sys.executable).with_name("svidproof")
    argv = [
        str(command), "check", "--platform", "cluster", "--kubeconfig", str(kubeconfig),
        "--spire-namespace", SPIRE, "-o", "json", *words,
    ]  # fmt: skip
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    if not done.stdout:
        raise NotYet(f"exit code {done.returncode}: {done.stderr}")
    content: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, content


def judge(case: Case, code: int, content: Mapping[str, Any]) -> str:
    """What is wrong with what was said about a pod; empty if nothing is."""
    said = content["cause"] or {"id": "", "outcome": ""}
    # An entry that is seconds old warns, and its pod is in order all the same.
    first = "" if said["outcome"] == "warn" else said["id"]
    found = [f"{r['found']} {r['hint']}" for r in content["lines"] if r["id"] == first]
    if first != case.cause or code != int(bool(case.cause)):
        return f"exit code {code}, cause {first or 'none'}: {' '.join(found)}"
    if case.says and not any(case.says in text for text in found):
        return f"{case.says!r} is not in {found}"
    return ""


def diagnose(cluster: Cluster, kubeconfig: Path, image: str, directory: Path) -> list[str]:
    """Check every case; returns what is wrong, a line each."""
    there = cluster.core.list_namespaced_pod(SPIRE).items
    [node] = {p.spec.node_name for p in there if p.metadata.name.startswith("spire-agent-")}
    other = next(n.name for n in cluster.nodes() if n.name != node)
    for name, spec in IDENTITIES.items():
        cluster.apply_object(identity(name, spec))
    for name, case in CASES.items():
        cluster.apply_object(pod(name, case, image, node if case.by_agent else other))
    eventually(lambda: _assert_settled(cluster.core), _SETTLED)
    reading, wrong = reader(cluster, kubeconfig, directory, wide=True), []
    for name, case in CASES.items():
        words = ("--pod", f"{TENANT}/{name}", *case.words)

        def named(case: Case = case, words: tuple[str, ...] = words) -> None:
            if found := judge(case, *check(reading, *words)):
                raise NotYet(found)

        try:
            # The controller manager makes entries within seconds, and the agent fetches them.
            eventually(named, _NAMED)
        except AssertionError as error:
            wrong.append(f"{name}: {error}")
        else:
            print(f"{name}: {case.cause or 'in order'}", flush=True)  # noqa: T201  progress
    return wrong + narrow(reader(cluster, kubeconfig, directory, wide=False))


def narrow(kubeconfig: Path) -> list[str]:
    """Without the optional rights, their lines are skipped and the rest is judged."""
    _, content = check(kubeconfig, "--pod", f"{TENANT}/volume-missing")
    outcomes = {(row["id"], row["outcome"]) for row in content["lines"]}
    wanted = {
        ("clusterspiffeids", "skipped"),
        ("entries-selectors", "skipped"),
        ("server-api", "ok"),
        ("identity-entry", "ok"),
        ("identity-mount", "fail"),
    }
    return [f"with the least rights: {' '.join(line)} is missing" for line in wanted - outcomes]


def remove(cluster: Cluster) -> None:
    """Delete what is in no namespace; SPIRE and its namespaces are removed by run.py."""
    objects = kubernetes.client.CustomObjectsApi(cluster.client)
    access = kubernetes.client.RbacAuthorizationV1Api(cluster.client)
    with contextlib.suppress(kubernetes.client.ApiException):
        objects.delete_collection_cluster_custom_object(*IDENTITIES_OF)
    with contextlib.suppress(kubernetes.client.ApiException):
        access.delete_cluster_role_binding(f"{READER}-wide")
        access.delete_cluster_role(f"{READER}-wide")


def _assert_settled(core: Any) -> None:  # noqa: ANN401  the client has no types
    """All pods run, but for those that need not: they have no volume, or no image on their node."""
    phases = {p.metadata.name: p.status.phase for p in core.list_namespaced_pod(TENANT).items}
    waiting = {name for name, phase in phases.items() if phase != "Running"}
    if waiting - {"driver-not-registered", "no-agent-on-the-node"}:
        raise NotYet(f"not running: {', '.join(sorted(waiting))}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Check every case on a cluster."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kubeconfig", required=True)
    parser.add_argument("--image", required=True)
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="svidproof-diagnose-") as name:
        directory = Path(name)
        context = yaml.safe_load(Path(asked.kubeconfig).read_text())["contexts"][0]["name"]
        cluster = Cluster(asked.kubeconfig, context, directory)
        try:
            wrong = diagnose(cluster, Path(asked.kubeconfig), asked.image, directory)
        finally:
            remove(cluster)
    for line in wrong:
        print(line, file=sys.stderr)  # noqa: T201  that is what CI shows
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
