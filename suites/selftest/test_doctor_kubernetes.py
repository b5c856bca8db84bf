"""`svidproof doctor` says what a cluster lacks for platform cluster."""

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import yaml
from kubernetes import client

from svidproof.cli import doctor
from svidproof.cli.doctor import cluster
from svidproof.cli.doctor.finding import Finding
from svidproof.model.capabilities import Capability
from svidproof.model.errors import PlatformError
from svidproof.model.manifests import render
from svidproof.platforms import registry
from svidproof.platforms.kubernetes.client import kubeconfig, permissions
from svidproof.platforms.kubernetes.tenant import tenancy as tenancies
from svidproof.platforms.kubernetes.tenant.discovery import DiscoveryError
from svidproof.platforms.protocol import SiteOptions

Command = Callable[..., tuple[int, str, str]]
# A SPIRE that is there, and what a tenant cannot do with it.
TENANCY = SimpleNamespace(
    spire=SimpleNamespace(
        versions={"spire-server": "1.15.3"},
        trust_domain="example.org",
        server=SimpleNamespace(pod="spire-server-0"),
        agents={"a": None, "b": None},
        agent_socket="/run/spire/agent.sock",
    ),
    lacks={Capability.OWN_SPIRE: "it serves others too"},
)

# -- cluster: which one ----------------------------------------------------------------------------


def written(path: Path, *contexts: str, server: str = "http://127.0.0.1:1") -> Path:
    """A kubeconfig with some contexts of one server."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": contexts[0] if contexts else "",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": n, "context": {"cluster": "c", "user": "u"}} for n in contexts],
    }
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory without a kubeconfig, and no proxy on the way."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return tmp_path


def test_context_is_named_or_the_only_one_of_a_named_file(home: Path) -> None:
    """Both say which cluster is meant."""
    one, two = written(home / "one", "a"), written(home / "two", "b", "c")

    assert kubeconfig.choose(SiteOptions(kubeconfig=one)).name == "a"
    assert kubeconfig.choose(SiteOptions(kubeconfig=two, context="c")).name == "c"


def test_files_of_kubectl_serve_if_the_context_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KUBECONFIG may name several, of which some are not there; else it is the one at home."""
    (home / ".kube").mkdir()
    written(home / ".kube" / "config", "at-home")
    assert kubeconfig.choose(SiteOptions(context="at-home")).name == "at-home"

    files = os.pathsep.join(map(str, (home / "gone", written(home / "x", "x"))))
    monkeypatch.setenv("KUBECONFIG", files)

    assert kubeconfig.choose(SiteOptions(context="x")) == kubeconfig.Context(files, "x")


@pytest.mark.parametrize(
    ("file", "context", "complaint"),
    [
        pytest.param(
            "two", None, "the current context is never used: pass --context NAME; in ", id="several"
        ),
        pytest.param("two", "z", "has no context z: say another", id="unknown"),
        pytest.param("none", None, "there is none", id="empty"),
        pytest.param("gone", None, "No such file", id="not-there"),
        pytest.param("torn", None, "is not a kubeconfig", id="not-yaml"),
        pytest.param("list", None, "is not a kubeconfig", id="other-yaml"),
        pytest.param(None, None, "no context is named", id="nothing-said"),
    ],
)
def test_cluster_is_not_guessed(
    home: Path, file: str | None, context: str | None, complaint: str
) -> None:
    """One line that says what there is, and what to say."""
    (home / ".kube").mkdir()
    written(home / ".kube" / "config", "production")
    written(home / "two", "a", "b")
    written(home / "none")
    (home / "torn").write_text("{")
    (home / "list").write_text("[]")
    options = SiteOptions(kubeconfig=home / file if file else None, context=context)

    with pytest.raises(kubeconfig.KubeconfigError) as refused:
        kubeconfig.choose(options)

    assert complaint in str(refused.value)
    (finding,) = cluster.findings(options)
    assert (finding.name, finding.ok) == ("kubeconfig", False)
    assert finding.hint


def test_context_that_leads_nowhere_is_told(home: Path) -> None:
    """A context of a user that the file does not have."""
    path = written(home / "config", "a")
    path.write_text(path.read_text().replace("cluster: c", "cluster: other"))

    (finding,) = cluster.findings(SiteOptions(kubeconfig=path))

    assert "context a cannot be used" in finding.found
    assert "kubectl config view" in finding.hint


# -- cluster: what is permitted --------------------------------------------------------------------


@dataclass
class Api:
    """What stands in for an API server, and what it was asked.

    Attributes:
        address: where it listens.
        forbidden: what is not permitted, as `verb resource`; `*` is everything.
        status: what it answers everything with.
        reviews: what it answers access reviews with.
        page: what it says in place of JSON.
        labels: of the namespace; None if it is not there, an int for a refusal.
        asked: the access reviews, as `verb resource namespace`.
    """

    address: str = ""
    forbidden: set[str] = field(default_factory=set)
    status: int = 200
    reviews: int = 201
    page: str = ""
    labels: dict[str, str] | int | None = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """A status and what goes with it."""
        if self.status != 200:
            return self.status, refusal(self.status)
        if path == "/version":
            keys = (
                *("buildDate", "compiler", "gitCommit", "gitTreeState", "goVersion", "major"),
                *("minor", "platform"),
            )
            return 200, {**dict.fromkeys(keys, ""), "gitVersion": "v1.34.1"}
        if path.endswith("/selfsubjectaccessreviews"):
            return self.reviews, self.review(body) if self.reviews == 201 else refusal(403)
        if isinstance(self.labels, dict):
            return 200, {"metadata": {"name": "mine", "labels": self.labels}}
        return (self.labels or 404), refusal(self.labels or 404)

    def review(self, body: dict[str, Any]) -> dict[str, Any]:
        """Whether something is permitted."""
        request = body["spec"]["resourceAttributes"]
        resource = "/".join(filter(None, (request["resource"], request.get("subresource"))))
        what = f"{request['verb']} {resource}"
        self.asked.append(f"{what} {request.get('namespace', '')}".strip())
        allowed = not {"*", what} & self.forbidden
        return {**body, "status": {"allowed": allowed}}


def refusal(status: int) -> dict[str, Any]:
    """What an API server says when it does not do it."""
    return {"kind": "Status", "status": "Failure", "message": f"no: {status}", "code": status}


@pytest.fixture
def api(home: Path) -> Iterator[Api]:
    """A stand-in on loopback, and a kubeconfig for it at `home / "config"`."""
    state = Api()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size) or "{}")
            status, content = state.answer(self.path.rstrip("/"), body)
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if state.page else "application/json")
            self.end_headers()
            self.wfile.write(state.page.encode() or json.dumps(content).encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.address = f"http://127.0.0.1:{server.server_port}"
        written(home / "config", "mine", server=state.address)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield state
        server.shutdown()
        thread.join()


@pytest.fixture
def api_client(api: Api) -> Iterator[client.ApiClient]:
    """A client of the stand-in."""
    with client.ApiClient(client.Configuration(host=api.address)) as made:
        yield made


def everything(needs: tuple[permissions.Need, ...]) -> set[str]:
    """What a table asks for, as `verb resource`."""
    return {f"{verb} {need.resource}" for need in needs for verb in need.verbs}


def examined(home: Path, **options: Any) -> dict[str, Finding]:  # noqa: ANN401  fields of SiteOptions
    """What the doctor finds of the stand-in, by name."""
    found = cluster.findings(SiteOptions(kubeconfig=home / "config", **options))
    return {finding.name: finding for finding in found}


def test_everything_is_asked_for_and_nothing_is_missing(
    api: Api, api_client: client.ApiClient
) -> None:
    """In the namespace, and in the whole cluster."""
    assert permissions.missing_permissions(api_client, "mine") == []

    inside = {f"{what} mine" for what in everything(permissions.IN_NAMESPACE)}
    outside = everything((*permissions.TO_DEPLOY_SPIRE, *permissions.GRANTED_TO_SPIRE))
    assert set(api.asked) == inside | outside


def test_tenant_is_asked_for_nothing_outside_the_namespace(
    api: Api, api_client: client.ApiClient
) -> None:
    """Where SPIRE is already nothing of the cluster's is touched, and little of SPIRE's."""
    api.forbidden = everything((*permissions.TO_DEPLOY_SPIRE, *permissions.GRANTED_TO_SPIRE))
    api.forbidden -= everything(permissions.IN_NAMESPACE)

    assert permissions.missing_permissions(api_client, "mine", spire_namespace="s") == []
    inside = everything((*permissions.IN_NAMESPACE, *permissions.TO_LEAVE_NAMESPACE))
    there = everything(permissions.IN_SPIRE_NAMESPACE)
    assert set(api.asked) == {f"{what} mine" for what in inside} | {f"{what} s" for what in there}


@pytest.mark.parametrize(
    ("forbidden", "says", "hint"),
    [
        (
            "create pods/exec",
            "cannot create pods/exec in namespace mine: spire-server's own command makes",
            "ask for it in namespace mine",
        ),
        (
            "delete namespaces",
            "cannot delete namespaces in the whole cluster",
            "use --spire-namespace NAMESPACE",
        ),
    ],
)
def test_what_is_not_permitted_is_told_with_reason_and_way_out(
    api: Api, api_client: client.ApiClient, forbidden: str, says: str, hint: str
) -> None:
    """What, where, why; and what works without it."""
    api.forbidden = {forbidden}

    (denied,) = permissions.missing_permissions(api_client, "mine")

    assert str(denied).startswith(says)
    assert hint in denied.hint


@pytest.mark.parametrize(
    ("also", "number"),
    [pytest.param("", 0, id="may"), pytest.param("bind clusterroles", 1, id="may-not")],
)
def test_grant_of_what_one_has_not_needs_escalate_and_bind(
    api: Api, api_client: client.ApiClient, also: str, number: int
) -> None:
    """Then alone RBAC lets a cluster role be made that says more."""
    api.forbidden = {"get nodes/proxy", also}

    denied = permissions.missing_permissions(api_client, "mine")

    assert [str(d)[:22] for d in denied] == ["cannot get nodes/proxy"] * number


def test_all_that_spire_is_granted_is_asked_for() -> None:
    """The table keeps up with the cluster roles that are deployed."""
    text = render("kubernetes/spire-access.yaml.j2", namespace="spire", run="1", machine="1")
    roles = [d for d in yaml.safe_load_all(text) if d and d["kind"] == "ClusterRole"]

    granted = {
        (group, resource, verb)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }

    asked = {(n.group, n.resource, v) for n in permissions.GRANTED_TO_SPIRE for v in n.verbs}
    assert granted
    assert granted == asked


def test_every_need_has_its_reason() -> None:
    """Nobody grants what nobody explains."""
    needs = (
        *permissions.IN_NAMESPACE,
        *permissions.TO_DEPLOY_SPIRE,
        *permissions.GRANTED_TO_SPIRE,
    )

    assert [n for n in needs if not n.reason or not n.verbs] == []


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        pytest.param({"status": 401}, permissions.CredentialsError, "expired", id="unauthorized"),
        pytest.param({"status": 500}, PlatformError, "no: 500", id="broken"),
        pytest.param({"reviews": 403}, PlatformError, "no: 403", id="may-not-ask"),
        pytest.param(
            {"page": "<html>"}, PlatformError, "is not a Kubernetes API", id="not-kubernetes"
        ),
    ],
)
def test_trouble_with_the_server_is_one_line(
    api: Api,
    api_client: client.ApiClient,
    answer: dict[str, Any],
    kind: type[PlatformError],
    says: str,
) -> None:
    """It is not taken for a permission, nor for the lack of one."""
    vars(api).update(answer)

    with pytest.raises(PlatformError, match=says) as raised:
        permissions.missing_permissions(api_client, "mine")

    assert type(raised.value) is kind
    assert "\n" not in str(raised.value)


# -- cluster: what the doctor makes of it ----------------------------------------------------------


@pytest.mark.usefixtures("api")
def test_cluster_that_permits_all_is_well(home: Path) -> None:
    """Which one, its version, the credentials, the permissions, the namespace."""
    found = examined(home, namespace="mine")

    assert [f.ok for f in found.values()] == [True] * 5
    assert list(found) == ["kubeconfig", "server", "credentials", "permissions", "hostPath pods"]
    assert "Kubernetes v1.34.1 at http://127.0.0.1" in found["server"].found
    assert found["kubeconfig"].found.startswith("context mine of ")


def test_expired_credentials_are_called_so(api: Api, home: Path) -> None:
    """401 is not a server that is gone."""
    api.status = 401

    found = examined(home, namespace="mine")

    assert [f for f in found if found[f].ok is not True] == ["credentials"]
    assert found["credentials"].ok is False
    assert "credentials are expired" in found["credentials"].found
    assert "log in again" in found["credentials"].hint


def test_context_without_credentials_is_told_so(api: Api, home: Path) -> None:
    """Without credentials a cluster does not even say what is permitted."""
    api.reviews = 403

    found = examined(home, namespace="mine")

    assert list(found) == ["kubeconfig", "server", "credentials"]
    assert found["credentials"].ok is False
    assert "add credentials to the context" in found["credentials"].hint


def test_server_that_is_gone_is_told_with_its_address(home: Path) -> None:
    """Nobody listens there: at once, without a traceback."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        written(home / "config", "mine", server=f"http://127.0.0.1:{port}")

        found = examined(home)

    assert list(found) == ["kubeconfig", "server"]
    assert found["server"].ok is False
    assert "Connection refused" in found["server"].found
    assert "object at 0x" not in found["server"].found
    assert "VPN" in found["server"].hint


def test_each_permission_that_lacks_is_a_finding(api: Api, home: Path) -> None:
    """With its own hint."""
    api.forbidden = {"get pods/log", "create clusterroles", "delete clusterroles"}

    found = list(cluster.findings(SiteOptions(kubeconfig=home / "config", namespace="mine")))

    lacking = [f for f in found if f.name == "permission"]
    assert [(f.ok, f.found.partition(" in ")[0]) for f in lacking] == [
        (False, "cannot get pods/log"),
        (False, "cannot create, delete clusterroles"),
    ]
    assert all(f.hint for f in lacking)
    assert "permissions" not in [f.name for f in found]


@pytest.fixture
def spire_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found, wherever it is looked for."""
    monkeypatch.setattr(tenancies, "look", lambda *_: TENANCY)


@pytest.mark.usefixtures("spire_is_there")
def test_tenant_is_well_by_less(api: Api, home: Path) -> None:
    """With a SPIRE that is there, and a namespace that is there."""
    api.forbidden = everything(permissions.TO_DEPLOY_SPIRE)

    assert doctor.is_well(list(examined(home, namespace="mine", spire_namespace="s").values()))
    assert examined(home, spire_namespace="s")["namespace"].ok is False, "none is named"
    assert not doctor.is_well(list(examined(home, namespace="mine").values()))


@pytest.mark.usefixtures("spire_is_there")
def test_what_a_tenant_can_do_without_is_no_failure(api: Api, home: Path) -> None:
    """Without SPIRE's logs there is less to check; without its command there is nothing."""
    options = SiteOptions(kubeconfig=home / "config", namespace="mine", spire_namespace="s")
    api.forbidden = {"get configmaps", "list events"}

    found = list(cluster.findings(options))

    assert doctor.is_well(found)
    assert [f.found.partition(" in ")[0] for f in found if f.name == "permission"] == [
        "cannot list events",
        "cannot get configmaps",
    ]
    assert [f.ok for f in found if f.name == "SPIRE"] == [True, None]
    api.forbidden = {"list pods"}
    assert "SPIRE" not in [f.name for f in cluster.findings(options)]


@pytest.mark.parametrize("said", ["nothing there: look elsewhere", "not permitted"])
@pytest.mark.usefixtures("api")
def test_spire_that_is_not_found_is_told(
    home: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    """With what to do, where the discovery says it."""
    found, colon, hint = said.partition(": ")
    error = DiscoveryError(found, hint) if colon else PlatformError(found)
    monkeypatch.setattr(tenancies, "look", mock.Mock(side_effect=error))

    finding = examined(home, namespace="mine", spire_namespace="s")["SPIRE"]

    assert (finding.ok, finding.found, finding.hint) == (False, found, hint)


@pytest.mark.parametrize(
    ("labels", "spire", "name", "ok"),
    [
        pytest.param({}, None, "hostPath pods", True, id="no-label"),
        pytest.param({cluster.ENFORCE: "privileged"}, None, "hostPath pods", True, id="privileged"),
        pytest.param({cluster.ENFORCE: "baseline"}, None, "hostPath pods", False, id="baseline"),
        pytest.param({cluster.ENFORCE: "restricted"}, "s", "hostPath pods", None, id="tenant"),
        pytest.param(403, None, "hostPath pods", None, id="not-readable"),
        pytest.param(None, None, "namespace", None, id="will-be-made"),
        pytest.param(None, "s", "namespace", False, id="tenant-without"),
    ],
)
@pytest.mark.usefixtures("spire_is_there")
def test_whether_host_paths_are_admitted_is_told(
    api: Api,
    home: Path,
    labels: dict[str, str] | int | None,
    spire: str | None,
    name: str,
    *,
    ok: bool | None,
) -> None:
    """By the namespace's label, if it can be read."""
    api.labels = labels

    finding = examined(home, namespace="mine", spire_namespace=spire)[name]

    assert finding.ok is ok
    assert finding.ok or finding.hint


# -- the command -----------------------------------------------------------------------------------


def test_command_takes_the_cluster_and_tells_programs(
    svidproof: Command, api: Api, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 3 for what lacks, 2 for options of another platform."""
    monkeypatch.setattr(registry, "check", lambda _name: None)
    there = ("--kubeconfig", str(home / "config"), "--namespace", "mine")

    run = partial(svidproof, "doctor")

    code, out, _ = run("--platform", "cluster", *there, "--format", "json")
    well = json.loads(out)
    api.forbidden = {"*"}
    sick, shown, _ = run("--platform", "cluster", *there)

    assert {f["name"]: f["ok"] for f in well["findings"]}["permissions"] is True
    assert code == (0 if well["well"] else 3)
    assert sick == 3
    assert "cannot create, patch, delete, deletecollection, get, list, watch pods in " in shown
    assert "not ready: see above" in shown
    assert run(*there)[::2] == (
        2,
        "svidproof: --kubeconfig, --context and the namespaces are for --platform cluster\n",
    )
