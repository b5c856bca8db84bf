"""Runs the suite as a tenant of a correct, existing SPIRE: no check may fail.

    python .ci/foreign-spire/run.py [--keep] [--diagnose] [VARIANT ...]

The manifests next to this script deploy a SPIRE of its Helm chart's shape on a kind cluster. It
logs little, and a default ClusterSPIFFEID gives every pod an identity. Profile `core` cannot be
conformant there: it says why for each requirement that it cannot judge. Profile `deployment` must
be, whatever the shape.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import functools
import gzip
import json
import string
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes.client
import yaml
from kubernetes.dynamic.exceptions import ResourceNotFoundError

from svidproof import Capability, NotYet, eventually
from svidproof.model.errors import PlatformError
from svidproof.platforms.kubernetes.kind.site import KindSite
from svidproof.run.request.options import RunRequest
from svidproof.run.request.selection import Selection
from svidproof.supply import images, tools
from svidproof.waiting.budgets import Budget

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from svidproof.platforms.kubernetes.client.api import Cluster
    from svidproof.platforms.kubernetes.pods.placement import ClusterContext

HERE = Path(__file__).parent
TENANT = "demo"
_CONFORMANT, _NOT_CONFORMANT = 0, 1
_DEPLOYED = Budget("SPIRE is deployed", 90, 0.2)
_JOB = Budget("the Job ends", 600, 1.0)
PRIVILEGED = {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}
# A build with a defect: it expects another header from the callers of the Workload API.
BROKEN = """
import os, sys
sound, broken = "/opt/spire/bin/spire-agent", "/var/lib/spire/spire-agent"
with open(sound, "rb") as file:
    program = file.read()
with open(broken, "wb") as file:
    file.write(program.replace(b"workload.spiffe.io", b"workload.spiffe.iO"))
os.chmod(broken, 0o755)
os.execv(broken, [broken, "run", *sys.argv[1:]])
"""
EVERYBODY = "this SPIRE gives pods identities of its own, as by a default ClusterSPIFFEID"
QUIET = "has no line at level DEBUG"


@dataclass(frozen=True)
class Variant:
    """A SPIRE, and what a run must come to on it.

    Attributes:
        holding: how many requirements must hold at least.
        reasons: what must be said of requirements that cannot be judged.
        said: in its configuration.
        identities: the files with its ClusterSPIFFEIDs.
        red: the requirements that must fail; none on a correct SPIRE.
        profile: the profile of the run.
        further: more files that it is deployed with.
        namespace: labels and annotations of the tenant's namespace.
        in_cluster: whether the run is a Job, with the roles that `svidproof job` prints.
    """

    holding: int = 0
    reasons: Mapping[str, str] = field(default_factory=dict)
    said: Mapping[str, str] = field(default_factory=dict)
    identities: tuple[str, ...] = ("identities.yaml",)
    red: tuple[str, ...] = ()
    profile: str = "core"
    further: tuple[str, ...] = ()
    namespace: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    in_cluster: bool = False

    @property
    def values(self) -> dict[str, str]:
        """All that is filled into its files, but the images."""
        return {**SAID, **self.said}

    @property
    def namespaces(self) -> list[str]:
        """The namespaces of SPIRE."""
        return list(dict.fromkeys(self.values[n] for n in ("SERVER_NAMESPACE", "AGENT_NAMESPACE")))


SAID = {
    "TRUST_DOMAIN": "example.org",
    "LOG_LEVEL": "info",
    "LOG_FORMAT": "text",
    "CA_KEY_TYPE": "ec-p256",
    "SERVER_NAMESPACE": "spire-system",
    "AGENT_NAMESPACE": "spire-system",
    "SERVER_USER": "1000",
    "DATASTORE": "/run/spire/data/datastore.sqlite3",
    "ENTRY_PREFIX": "example-cluster",
    "STATIC_ENTRIES": "false",
    "AGENT_COMMAND": "[/opt/spire/bin/spire-agent, run]",
}
RESTRICTED = {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
VARIANTS = {
    "chart": Variant(32, {"WLAPI-2": EVERYBODY, "EVENTS-1": QUIET}),
    "debug": Variant(35, {"WLAPI-2": EVERYBODY}, {"LOG_LEVEL": "debug"}),
    # Logrus's own format, which SPIRE has by default: times are whole seconds.
    "debug-seconds": Variant(35, {"WLAPI-2": EVERYBODY}, {"LOG_LEVEL": "debug", "LOG_FORMAT": ""}),
    "json": Variant(32, {"WLAPI-2": EVERYBODY, "EVENTS-1": QUIET}, {"LOG_FORMAT": "json"}),
    "no-identities": Variant(33, {"EVENTS-1": QUIET}, identities=()),
    "two-identities": Variant(
        32,
        {"WLAPI-2": EVERYBODY, "EVENTS-1": QUIET},
        identities=("identities.yaml", "hinted.yaml"),
    ),
    "rsa": Variant(
        32,
        {"WLAPI-2": EVERYBODY, "EVENTS-1": QUIET},
        {"CA_KEY_TYPE": "rsa-2048", "TRUST_DOMAIN": "prod.bank.internal"},
    ),
    # The verdict of a release gate, on the same SPIRE and on others.
    "deployment": Variant(profile="deployment"),
    # A namespace that admits no hostPath: the CSI driver is the only way to the agent.
    "csi": Variant(
        profile="deployment", further=("csi.yaml",), namespace=RESTRICTED, in_cluster=True
    ),
    "openshift": Variant(
        profile="deployment",
        further=("csi.yaml", "openshift.yaml"),
        namespace={
            **RESTRICTED,
            "annotations": {"openshift.io/sa.scc.uid-range": "1000680000/10000"},
        },
    ),
    # A controller manager that removes entries of others, and makes those of ClusterStaticEntries.
    "static-entries": Variant(
        said={"ENTRY_PREFIX": "", "STATIC_ENTRIES": "true"},
        profile="deployment",
        further=("static.yaml",),
    ),
    "two-servers": Variant(
        said={
            "SERVER_NAMESPACE": "spire-server",
            "TRUST_DOMAIN": "prod.bank.internal",
            "SERVER_USER": "0",
            "DATASTORE": "/run/spire/shared/datastore.sqlite3",
        },
        profile="deployment",
        further=("second.yaml",),
    ),
    "broken-agent": Variant(
        said={"AGENT_COMMAND": json.dumps(["python3", "-c", BROKEN])},
        red=("WLAPI-4", "DEPLOYMENT-5"),
        profile="deployment",
    ),
    "hijack": Variant(
        identities=("identities.yaml", "hijack.yaml"),
        red=("WLAPI-1", "SDS-1"),
    ),
}


# The chart's shape, and the one that is furthest from what the suite deploys itself.
DEFAULT = ("chart", "openshift")


@contextlib.contextmanager
def kind(*, keep: bool) -> Iterator[tuple[ClusterContext, Path]]:
    """A cluster with the images of SPIRE, its controller manager and Envoy; and its kubeconfig."""
    progress = tools.Progress()
    request = RunRequest(platform="kind", images="build", keep=keep)
    selection = Selection(request, (), (), frozenset(), narrowed=False)
    options = replace(request.site(), wanted=frozenset({Capability.CONTROLLER_MANAGER}))
    site = selection.ground(options, progress)
    assert isinstance(site, KindSite)  # noqa: S101  for mypy
    site.open()
    try:
        with tempfile.TemporaryDirectory(prefix="svidproof-foreign-") as name:
            kubeconfig = Path(name) / "kubeconfig"
            argv = [
                str(tools.resolve("kind").path),
                "get",
                "kubeconfig",
                "--name",
                site.ground.name,
            ]
            kubeconfig.write_bytes(subprocess.run(argv, check=True, capture_output=True).stdout)
            yield site.ground, kubeconfig
    finally:
        site.close()


@contextlib.contextmanager
def deployed(ground: ClusterContext, variant: Variant) -> Iterator[None]:
    """An existing SPIRE during the block."""
    cluster = ground.cluster
    values = {
        **variant.values,
        **{name.upper().replace("-", "_"): ref for name, ref in ground.images.items()},
    }
    core: Any = kubernetes.client.CoreV1Api(cluster.client)
    try:
        for text in ground.crds.values():
            cluster.apply_object(yaml.safe_load(text))
        for name in variant.identities:
            eventually(functools.partial(_identify, cluster, name, values), _DEPLOYED)
        for name in variant.namespaces:
            cluster.apply_object(_namespace(name, PRIVILEGED))
        cluster.apply_object(_namespace(TENANT, variant.namespace))
        if "static.yaml" in variant.further:
            _apply(cluster, "static.yaml", values)
        _apply(cluster, "server.yaml", values)
        eventually(lambda: _assert_bundle(core, variant), _DEPLOYED)
        cluster.apply_object(_driver(values["AGENT_NAMESPACE"]))
        for name in (*variant.further, "agent.yaml"):
            _apply(cluster, name, values)
        eventually(lambda: _assert_ready(core, variant), _DEPLOYED)
        yield
    finally:
        _remove(cluster, core, variant)


def judge(report: Mapping[str, Any], variant: Variant) -> list[str]:
    """What is wrong with a report, a line each."""
    results = {r["id"]: r["result"] for r in report["requirements"]}
    told = {r["id"]: [c["message"] for c in r["checks"]] for r in report["requirements"]}
    if variant.profile == "deployment" and not variant.red and report["verdict"] != "conformant":
        return [f"it is {report['verdict']}: {report['reason']}"]
    if variant.red:
        return [f"{i} is {results[i]} and not red" for i in variant.red if results[i] != "fail"]
    wrong = [
        f"{r['id']}: {check['id']} is {check['outcome']}: {check['message']}"
        for r in report["requirements"]
        for check in r["checks"]
        if check["outcome"] in {"fail", "error", "not-run"}
    ]
    holding = sum(result in {"pass", "known-deviation"} for result in results.values())
    if holding < variant.holding:
        wrong.append(f"only {holding} requirements hold, not {variant.holding}")
    for name, reason in variant.reasons.items():
        if results[name] != "unsupported" or not any(reason in line for line in told[name]):
            wrong.append(f"{name} is {results[name]} and not unsupported because {reason!r}")
    return wrong


def check(variant: Variant, kubeconfig: Path, directory: Path) -> list[str]:
    """Run the suite as a tenant; returns what is wrong with that, a line each."""
    command = Path(sys.executable).with_name("svidproof")
    argv = [
        str(command), "run", "--platform", "cluster", "--images", "build",
        "--kubeconfig", str(kubeconfig), "--namespace", TENANT,
        "--spire-namespace", ",".join(variant.namespaces), "--profile", variant.profile,
        "--report-dir", str(directory),
    ]  # fmt: skip
    code = subprocess.run(argv, check=False).returncode
    wrong = judge(_read(directory), variant)
    if (code == _NOT_CONFORMANT) != bool(variant.red):
        wrong.insert(0, f"exit code {code}")
    if variant.profile == "deployment" and not variant.red and code == _CONFORMANT:
        gate = [str(command), "verify", str(directory), "--profile", variant.profile]
        if subprocess.run(gate, check=False).returncode:
            wrong.append("verify refuses its report")
    return wrong


def check_inside(ground: ClusterContext, variant: Variant, directory: Path) -> list[str]:
    """Run the suite as a Job, with no more rights than it asks for; returns what is wrong."""
    command = Path(sys.executable).with_name("svidproof")
    argv = [
        str(command), "job", "--images", "build", "--namespace", TENANT,
        "--spire-namespace", ",".join(variant.namespaces), "--profile", variant.profile,
    ]  # fmt: skip
    printed = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    objects = [body for body in yaml.safe_load_all(printed) if body]
    [container] = objects[-1]["spec"]["template"]["spec"]["containers"]
    nodes = [node.name for node in ground.nodes]
    images.load(ground.name.removeprefix("kind-"), nodes, [container["image"]])
    core: Any = kubernetes.client.CoreV1Api(ground.cluster.client)
    before = _objects(ground.cluster)
    for body in objects:
        ground.cluster.apply_object(body)
    batch: Any = kubernetes.client.BatchV1Api(ground.cluster.client)

    def ended() -> bool:
        status = batch.read_namespaced_job("svidproof", TENANT).status
        if not (status.succeeded or status.failed):
            raise NotYet("the Job is active")
        return bool(status.succeeded)

    succeeded = eventually(ended, _JOB)
    [pod] = core.list_namespaced_pod(TENANT, label_selector="job-name=svidproof").items
    print(core.read_namespaced_pod_log(pod.metadata.name, TENANT))  # noqa: T201
    left = core.read_namespaced_config_map("svidproof-report", TENANT)
    directory.mkdir(parents=True, exist_ok=True)
    packed = base64.b64decode(left.binary_data["report.json.gz"])
    (directory / "report.json").write_bytes(gzip.decompress(packed))
    wrong = judge(_read(directory), variant)
    if succeeded == bool(variant.red):
        wrong.insert(0, f"the Job has {'succeeded' if succeeded else 'failed'}")
    kept = {"ConfigMap svidproof-report", "ServiceAccount svidproof"}
    if more := _objects(ground.cluster) - before - kept - {f"Pod {pod.metadata.name}"}:
        wrong.append(f"it left {', '.join(sorted(more))}")
    return wrong


def _objects(cluster: Cluster) -> set[str]:
    """The objects of the tenant's namespace that a run creates."""
    core: Any = kubernetes.client.CoreV1Api(cluster.client)
    network: Any = kubernetes.client.NetworkingV1Api(cluster.client)
    lists = {
        "Pod": core.list_namespaced_pod,
        "Service": core.list_namespaced_service,
        "ConfigMap": core.list_namespaced_config_map,
        "Secret": core.list_namespaced_secret,
        "ServiceAccount": core.list_namespaced_service_account,
        "NetworkPolicy": network.list_namespaced_network_policy,
    }
    return {f"{kind} {o.metadata.name}" for kind, many in lists.items() for o in many(TENANT).items}


def diagnose(ground: ClusterContext, kubeconfig: Path) -> list[str]:
    """Have the causes named of pods without an identity; returns what is wrong with that."""
    script = [sys.executable, str(HERE / "diagnose.py"), "--kubeconfig", str(kubeconfig)]
    code = subprocess.run([*script, "--image", ground.images["workload"]], check=False).returncode
    return [f"diagnose: exit code {code}, see above"] if code else []


def main() -> int:
    """Try the variants that are named, or those of DEFAULT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the cluster standing")
    parser.add_argument("--report-dir", type=Path, default=Path("reports/foreign-spire"))
    parser.add_argument(
        "--diagnose",
        action="store_true",
        help="try svidproof check on pods without identity; VARIANTs only if named",
    )
    parser.add_argument("variants", nargs="*", metavar="VARIANT")
    asked = parser.parse_args()
    if unknown := [name for name in asked.variants if name not in VARIANTS]:
        parser.error(f"unknown variant {unknown[0]}: there are {', '.join(VARIANTS)}")
    wrong: list[str] = []
    with kind(keep=asked.keep) as (ground, kubeconfig):
        if asked.diagnose:
            with deployed(ground, VARIANTS["no-identities"]):
                wrong += diagnose(ground, kubeconfig)
        for name in asked.variants or ([] if asked.diagnose else DEFAULT):
            with deployed(ground, VARIANTS[name]):
                directory = asked.report_dir / name
                if VARIANTS[name].in_cluster:
                    found = check_inside(ground, VARIANTS[name], directory)
                else:
                    found = check(VARIANTS[name], kubeconfig, directory)
                wrong += [f"{name}: {line}" for line in found]
    for line in wrong:
        print(line, file=sys.stderr)  # noqa: T201  that is what CI shows
    return 1 if wrong else 0


def _apply(cluster: Cluster, name: str, values: Mapping[str, str]) -> None:
    text = string.Template((HERE / name).read_text(encoding="utf-8")).substitute(values)
    for body in yaml.safe_load_all(text):
        cluster.apply_object(body)


def _identify(cluster: Cluster, name: str, values: Mapping[str, str]) -> None:
    """The kind ClusterSPIFFEID is served a moment after it was defined."""
    try:
        _apply(cluster, name, values)
    except (PlatformError, ResourceNotFoundError) as error:
        raise NotYet(f"cannot apply {name}: {error}") from None


def _namespace(name: str, more: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, **more}}


def _driver(namespace: str) -> dict[str, Any]:
    """The CSI driver's program, for the containers that run it."""
    program = (HERE / "csi_driver.py").read_text(encoding="utf-8")
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "csi-driver", "namespace": namespace},
        "data": {"csi_driver.py": program},
    }


def _assert_bundle(core: Any, variant: Variant) -> None:  # noqa: ANN401  the client has no types
    """The server has published its bundle, from which agents bootstrap."""
    namespace = variant.values["AGENT_NAMESPACE"]
    bundle = core.read_namespaced_config_map("spire-bundle", namespace).data or {}
    if "BEGIN CERTIFICATE" not in bundle.get("bundle.crt", ""):
        raise NotYet("the server has not published its bundle")


def _assert_ready(core: Any, variant: Variant) -> None:  # noqa: ANN401  the client has no types
    """Server and agent are ready; one node has an agent, as the other is tainted."""
    pods = [pod for name in variant.namespaces for pod in core.list_namespaced_pod(name).items]
    ready = {
        p.metadata.name: any(
            c.type == "Ready" and c.status == "True" for c in p.status.conditions or ()
        )
        for p in pods
    }
    agents = [name for name in ready if name.startswith("spire-agent-")]
    if len(agents) != 1 or not all(ready.values()):
        raise NotYet(
            f"{len(agents)} agents; ready are {[n for n, is_ready in ready.items() if is_ready]}"
        )


def _remove(cluster: Cluster, core: Any, variant: Variant) -> None:  # noqa: ANN401  the client has no types
    objects = kubernetes.client.CustomObjectsApi(cluster.client)
    if variant.identities:
        objects.delete_collection_cluster_custom_object(
            "spire.spiffe.io", "v1alpha1", "clusterspiffeids"
        )
    cluster_wide = ("csi.yaml", "openshift.yaml")
    for name in filter(variant.further.__contains__, cluster_wide):
        _delete_wide(cluster, name, variant)
    for name in (*variant.namespaces, TENANT):
        with contextlib.suppress(kubernetes.client.ApiException):
            core.delete_namespace(name, grace_period_seconds=0)
    cluster.await_removed([*variant.namespaces, TENANT])


def _delete_wide(cluster: Cluster, name: str, variant: Variant) -> None:
    """Delete the cluster-scoped objects of a file."""
    text = string.Template((HERE / name).read_text(encoding="utf-8"))
    for body in yaml.safe_load_all(text.safe_substitute({**variant.values, "WORKLOAD": "none"})):
        if "namespace" not in body["metadata"]:
            with contextlib.suppress(kubernetes.client.ApiException):
                cluster.resource_of(body).delete(name=body["metadata"]["name"])


def _read(directory: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    return report


if __name__ == "__main__":
    sys.exit(main())
