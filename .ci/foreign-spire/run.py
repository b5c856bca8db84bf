"""Runs the suite as a tenant of a correct, existing SPIRE: no check may fail.

    python .ci/foreign-spire/run.py [--keep] [--diagnose] [VARIANT ...]

The manifests next to this script deploy a SPIRE of its Helm chart's shape on a kind cluster. It
logs little, and a default ClusterSPIFFEID gives every pod an identity. A run cannot be
conformant there: it says why for each requirement that it cannot judge.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
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
from svidproof.supply import tools
from svidproof.waiting.budgets import Budget

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from svidproof.platforms.kubernetes.client.api import Cluster
    from svidproof.platforms.kubernetes.pods.placement import ClusterContext

HERE = Path(__file__).parent
SPIRE, TENANT = "spire-system", "demo"
_NOT_CONFORMANT = 1
_DEPLOYED = Budget("SPIRE is deployed", 90, 0.2)
_REMOVED = Budget("SPIRE is removed", 90, 0.2)
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
    """

    holding: int
    reasons: Mapping[str, str]
    said: Mapping[str, str] = field(default_factory=dict)
    identities: tuple[str, ...] = ("identities.yaml",)
    red: tuple[str, ...] = ()


SAID = {
    "TRUST_DOMAIN": "example.org",
    "LOG_LEVEL": "info",
    "LOG_FORMAT": "text",
    "CA_KEY_TYPE": "ec-p256",
}
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
    "hijack": Variant(
        0,
        {},
        identities=("identities.yaml", "hijack.yaml"),
        red=("WLAPI-1", "SDS-1"),
    ),
}


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
    cluster, said = ground.cluster, {**SAID, **variant.said}
    values = {
        **said,
        **{name.upper().replace("-", "_"): ref for name, ref in ground.images.items()},
    }
    core = kubernetes.client.CoreV1Api(cluster.client)
    try:
        for body in yaml.safe_load_all(ground.crds):
            cluster.apply_object(body)
        for name in variant.identities:
            eventually(functools.partial(_identify, cluster, name, values), _DEPLOYED)
        _apply(cluster, "server.yaml", values)
        cluster.apply_object(_namespace(TENANT))
        eventually(lambda: _assert_bundle(core), _DEPLOYED)
        _apply(cluster, "agent.yaml", values)
        eventually(lambda: _assert_ready(core), _DEPLOYED)
        yield
    finally:
        _remove(cluster, core, variant)


def judge(report: Mapping[str, Any], variant: Variant) -> list[str]:
    """What is wrong with a report, a line each."""
    results = {r["id"]: r["result"] for r in report["requirements"]}
    told = {r["id"]: [c["message"] for c in r["checks"]] for r in report["requirements"]}
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


def check(variant: Variant, kubeconfig: Path, directory: Path, options: Sequence[str]) -> list[str]:
    """Run the suite as a tenant; returns what is wrong with that, a line each."""
    command = Path(sys.executable).with_name("svidproof")
    argv = [
        str(command), "run", "--platform", "cluster", "--images", "build",
        "--kubeconfig", str(kubeconfig), "--namespace", TENANT, "--spire-namespace", SPIRE,
        "--report-dir", str(directory), *options,
    ]  # fmt: skip
    code = subprocess.run(argv, check=False).returncode
    wrong = judge(_read(directory), variant)
    if (code == _NOT_CONFORMANT) != bool(variant.red):
        wrong.insert(0, f"exit code {code}")
    return wrong


def diagnose(ground: ClusterContext, kubeconfig: Path) -> list[str]:
    """Have the causes named of pods without an identity; returns what is wrong with that."""
    script = [sys.executable, str(HERE / "diagnose.py"), "--kubeconfig", str(kubeconfig)]
    code = subprocess.run([*script, "--image", ground.images["workload"]], check=False).returncode
    return [f"diagnose: exit code {code}, see above"] if code else []


def main() -> int:
    """Try the variants that are named, or the chart's shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the cluster standing")
    parser.add_argument("--report-dir", type=Path, default=Path("reports/foreign-spire"))
    parser.add_argument("--profile", default="core")
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
        for name in asked.variants or ([] if asked.diagnose else ["chart"]):
            with deployed(ground, VARIANTS[name]):
                directory = asked.report_dir / name
                found = check(VARIANTS[name], kubeconfig, directory, ["--profile", asked.profile])
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


def _namespace(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def _assert_bundle(core: Any) -> None:  # noqa: ANN401  the client has no types
    """The server has published its bundle, from which agents bootstrap."""
    bundle = core.read_namespaced_config_map("spire-bundle", SPIRE).data or {}
    if "BEGIN CERTIFICATE" not in bundle.get("bundle.crt", ""):
        raise NotYet("the server has not published its bundle")


def _assert_ready(core: Any) -> None:  # noqa: ANN401  the client has no types
    """Server and agent are ready; one node has an agent, as the other is tainted."""
    pods = core.list_namespaced_pod(SPIRE).items
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
    for name in (SPIRE, TENANT):
        with contextlib.suppress(kubernetes.client.ApiException):
            core.delete_namespace(name, grace_period_seconds=0)
    cluster.await_removed([SPIRE, TENANT])


def _read(directory: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    return report


if __name__ == "__main__":
    sys.exit(main())
