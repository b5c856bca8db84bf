"""What is deployed is found, rendered whole, and sound YAML or HCL for every workload."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any, cast

import jinja2
import pytest
import yaml
from packaging.version import Version

from svidproof.components.envoy import BUNDLE, Envoy
from svidproof.model import manifests
from svidproof.model.logs.messages import Messages, messages_for
from svidproof.model.scenario import (
    APP,
    INBOUND,
    OUTBOUND,
    Call,
    Door,
    Scenario,
    WorkloadSpec,
    load_scenario,
)

if TYPE_CHECKING:
    from svidproof.platforms.protocol import Platform

WORKLOADS = ["api", "valid-api-client", "invalid-api-client", "api-trusted-ca"]
SPIFFE_ID = "spiffe://example.org/{}"
each_workload = pytest.mark.parametrize("name", WORKLOADS)


class Paper:
    """A platform on which nothing runs, with an address for each purpose."""

    def host(self, place: str) -> str:
        """Where others reach a place."""
        return f"{place}.test"

    def bind_host(self, place: str) -> str:
        """Where a place listens for others."""
        return f"{place}.bind"

    def local_host(self, place: str) -> str:
        """Where a place reaches itself."""
        return f"{place}.local"

    def private_endpoint(self, place: str, name: str) -> str:
        """A socket."""
        return f"/run/{place}/{name}"


def configuration(spec: WorkloadSpec, scenario: Scenario | None = None) -> dict[str, Any]:
    """The rendered configuration of one sidecar."""
    scenario = scenario or load_scenario("api")
    return Envoy(cast("Platform", Paper()), scenario, spec).configuration("/run/agent.sock")


@pytest.fixture(scope="module")
def rendered() -> dict[str, dict[str, Any]]:
    """The rendered configuration of each sidecar of the scenario."""
    return {name: configuration(spec) for name, spec in load_scenario("api").workloads.items()}


def find(whole: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The one of these that has this name."""
    return next(part for part in whole if part["name"] == name)


def contexts(configured: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Each TLS context of a sidecar, by listener or cluster."""
    resources = configured["static_resources"]
    sockets = {
        part["name"]: holder["transport_socket"]
        for part in (*resources["listeners"], *resources["clusters"])
        for holder in (part, *part.get("filter_chains", ()))
        if "transport_socket" in holder
    }
    return {name: socket["typed_config"] for name, socket in sockets.items()}


def accepted(context: dict[str, Any]) -> list[str]:
    """The IDs that a TLS context accepts."""
    validation = context["common_tls_context"]["combined_validation_context"]
    matchers = validation["default_validation_context"]["match_typed_subject_alt_names"]
    assert all(matcher["san_type"] == "URI" for matcher in matchers)
    return [matcher["matcher"]["exact"] for matcher in matchers]


@each_workload
def test_every_tls_context_gets_its_secrets_by_sds(
    rendered: dict[str, dict[str, Any]], name: str
) -> None:
    """Each TLS context presents the workload's own SVID and trusts the agent's bundle."""
    found = contexts(rendered[name])

    assert found
    for context in found.values():
        common = context["common_tls_context"]
        [own] = common["tls_certificate_sds_secret_configs"]
        validation = common["combined_validation_context"]
        bundle = validation["validation_context_sds_secret_config"]
        assert (own["name"], bundle["name"]) == (SPIFFE_ID.format(name), BUNDLE)


@pytest.mark.parametrize(
    ("name", "at", "ids"),
    [
        pytest.param("api", "inbound", ["valid-api-client"], id="api"),
        pytest.param("api-trusted-ca", "inbound", ["valid-api-client"], id="trusted-ca"),
        pytest.param("valid-api-client", "api", ["api"], id="valid-to-api"),
        pytest.param("valid-api-client", "api-trusted-ca", ["api-trusted-ca"],
                     id="valid-to-trusted-ca"),
        pytest.param("invalid-api-client", "api", ["api"], id="invalid-to-api"),
        pytest.param("valid-api-client", "impostor", ["api"], id="valid-to-impostor"),
    ],
)  # fmt: skip
def test_sidecar_accepts_just_who_the_scenario_says(
    rendered: dict[str, dict[str, Any]], name: str, at: str, ids: list[str]
) -> None:
    """A sidecar accepts exactly the IDs that the scenario names, each as a whole URI."""
    assert accepted(contexts(rendered[name])[at]) == [SPIFFE_ID.format(i) for i in ids]


@each_workload
def test_only_what_serves_listens(rendered: dict[str, dict[str, Any]], name: str) -> None:
    """A workload with an app has an mTLS listener that demands a certificate; a client has none."""
    listeners = rendered[name]["static_resources"]["listeners"]
    serves = load_scenario("api").workloads[name].serves

    assert ("inbound" in {listener["name"] for listener in listeners}) is serves
    if serves:
        context = contexts(rendered[name])["inbound"]
        assert context["require_client_certificate"] is True
        assert context["disable_stateless_session_resumption"] is True


@each_workload
def test_addresses_are_the_platforms(rendered: dict[str, dict[str, Any]], name: str) -> None:
    """App and calls are on the inner address of a place, mTLS on its outer one, admin at a path."""
    text = yaml.safe_dump(rendered[name])
    resources = rendered[name]["static_resources"]

    def address(part: dict[str, Any]) -> tuple[str, int]:
        at = part["address"]["socket_address"]
        return at["address"], at["port_value"]

    assert rendered[name]["admin"]["address"] == {
        "pipe": {"path": f"/run/{name}/admin.sock", "mode": 0o600}
    }
    if load_scenario("api").workloads[name].app:
        assert address(find(resources["listeners"], "inbound")) == (f"{name}.bind", INBOUND)
        endpoint = find(resources["clusters"], "app")["load_assignment"]["endpoints"][0]
        assert address(endpoint["lb_endpoints"][0]["endpoint"]) == (f"{name}.local", APP)
    for number, call in enumerate(load_scenario("api").workloads[name].calls):
        listener = find(resources["listeners"], f"outbound-{call.name}")
        assert address(listener) == (f"{name}.local", OUTBOUND + number)
        endpoint = find(resources["clusters"], call.name)["load_assignment"]["endpoints"][0]
        there = address(endpoint["lb_endpoints"][0]["endpoint"])
        assert there == (f"{call.to}.test", INBOUND)
    assert "0.0.0.0" not in text  # noqa: S104  that is the point
    assert f"/run/{name}/workload-api.sock" in text


@pytest.mark.parametrize(
    ("call", "maximum"), [("api", "TLSv1_3"), ("api-tls12", "TLSv1_2")], ids=["1.3", "1.2"]
)
def test_tls_versions_of_calls(
    rendered: dict[str, dict[str, Any]], call: str, maximum: str
) -> None:
    """A call speaks up to the version that the scenario says."""
    context = contexts(rendered["valid-api-client"])[call]

    assert context["common_tls_context"]["tls_params"] == {
        "tls_minimum_protocol_version": "TLSv1_2",
        "tls_maximum_protocol_version": maximum,
    }


@each_workload
def test_validator_is_asked_for_by_metadata(rendered: dict[str, dict[str, Any]], name: str) -> None:
    """Only the workload with the plain validator asks the agent for it."""
    metadata = rendered[name]["node"].get("metadata", {})

    assert metadata == ({"disable_spiffe_cert_validation": True} if "trusted" in name else {})


def test_any_topology_renders() -> None:
    """A sidecar that accepts several, calls several, or does neither renders as well."""
    scenario = load_scenario("api")
    calls = tuple(Call(f"call-{n}", f"to-{n}", ("a", "b"), OUTBOUND + n) for n in range(3))
    busy = configuration(WorkloadSpec("busy", app="api", accepts=("a", "b"), calls=calls), scenario)
    idle = configuration(WorkloadSpec("idle"), scenario)

    both = [SPIFFE_ID.format("a"), SPIFFE_ID.format("b")]
    assert {name: accepted(c) for name, c in contexts(busy).items()} == dict.fromkeys(
        ("inbound", "call-0", "call-1", "call-2"), both
    )
    assert contexts(idle) == {}


def test_doors_differ_from_the_first_listener_in_what_they_are_for() -> None:
    """One door resumes sessions, one accepts every ID; else they are as strict as the first."""
    two = WorkloadSpec(
        "a",
        app="echo",
        accepts=("b",),
        doors=(Door("resuming", 8444, resumes=True), Door("anyone", 8445, anyone=True)),
    )

    found = contexts(configuration(two))

    offs = "disable_stateless_session_resumption", "disable_stateful_session_resumption"
    allowed = {name: [context.get(off) for off in offs] for name, context in found.items()}
    assert allowed == {"inbound": [True] * 2, "resuming": [None] * 2, "anyone": [True] * 2}
    assert accepted(found["inbound"]) == accepted(found["resuming"]) == [SPIFFE_ID.format("b")]
    validation = found["anyone"]["common_tls_context"]["combined_validation_context"]
    assert validation["default_validation_context"] == {}
    assert "validation_context_sds_secret_config" in validation
    assert {context["require_client_certificate"] for context in found.values()} == {True}


@pytest.mark.parametrize("missing", ["spiffe_id", "calls", "ports", "doors"])
def test_undefined_name_is_an_error(missing: str) -> None:
    """A template that lacks a value raises instead of rendering an empty one."""
    values = {
        "name": "x", "spiffe_id": "spiffe://x/x", "bundle_name": BUNDLE, "validator": "spiffe",
        "app": "api", "doors": [Door("inbound", 2)], "accepts": [], "calls": [], "host": "h",
        "local_host": "h", "admin_socket": "/s", "agent_socket": "/a", "workload_api_socket": "/w",
        "ports": {"app": 3}, "edge": False, "forwards": None, "policy_file": None,
        "forwarded_client": "SANITIZE_SET", "connection_s": 5,
    }  # fmt: skip
    manifests.render("envoy/sidecar.yaml.j2", **values)
    values.pop(missing)

    with pytest.raises(jinja2.UndefinedError, match=missing):
        manifests.render("envoy/sidecar.yaml.j2", **values)


def test_unknown_template_is_an_error() -> None:
    """A template that is not there raises with its name."""
    with pytest.raises(jinja2.TemplateNotFound, match=r"no/such\.j2"):
        manifests.render("no/such.j2")


@pytest.mark.parametrize(
    ("template", "values"),
    [
        pytest.param("spire/x509pop-server.hcl.j2", {"ca": "/ca.pem"}, id="x509pop-server"),
        pytest.param("spire/x509pop-agent.hcl.j2", {"certificate": "/c.pem", "key": "/k.pem"},
                     id="x509pop-agent"),
        pytest.param("spire/unix.hcl.j2", {}, id="unix"),
        pytest.param("spire/k8s-psat-server.hcl.j2", {"cluster": "c", "namespace": "n"},
                     id="k8s-psat-server"),
        pytest.param("spire/k8s-psat-agent.hcl.j2", {"cluster": "c"}, id="k8s-psat-agent"),
        pytest.param("spire/k8s.hcl.j2", {}, id="k8s"),
        pytest.param("spire/agent.conf.j2", {
            "trust_domain": "example.org", "server_host": "s", "server_port": 1, "health_host": "h",
            "health_port": 2, "socket": "/a.sock", "directory": "/d", "sync_interval": "500ms",
            "join_token": "",
            "log_level": "DEBUG", "bootstrap_bundle": "/b.pem", "node_attestor": "NODE {}",
            "workload_attestor": "WORKLOAD {}"}, id="agent"),
    ],
)  # fmt: skip
def test_spire_configuration_uses_what_it_is_given(template: str, values: dict[str, Any]) -> None:
    """Each value stands in SPIRE's configuration, and its braces match."""
    text = manifests.render(template, **values)

    missing = [value for value in values.values() if str(value) not in text]
    assert missing == []
    code = re.sub(r"#.*", "", text)
    assert code.count("{") == code.count("}") > 0
    assert "{{" not in code


def test_stock_timing_leaves_spires_default() -> None:
    """Without an interval of ours, SPIRE's configuration has none: its default counts."""
    names = (
        "trust_domain", "server_host", "server_port", "health_host", "health_port", "socket",
        "directory", "log_level", "bootstrap_bundle", "node_attestor", "workload_attestor",
    )  # fmt: skip
    values = dict.fromkeys(names, "x")

    text = manifests.render("spire/agent.conf.j2", sync_interval="", join_token="", **values)

    assert not re.search(r"^\s*sync_interval", text, re.MULTILINE)


@pytest.mark.parametrize("version", ["1.9.0", "1.9.6", "1.12.6", "1.15.3", "1.15.3-dev-abc", "2.0"])
def test_messages_cover_every_version(version: str) -> None:
    """Each SPIRE version since 1.9 has its log messages, release or not."""
    messages = messages_for(version)

    assert messages.renewing == "Renewing X509-SVID"
    assert all(vars(messages).values())


def test_version_that_no_table_covers_is_told() -> None:
    """A SPIRE that is too old is one line that names its version and the table."""
    with pytest.raises(LookupError, match=r"SPIRE 1\.8\.11 is in no range of .*messages\.toml"):
        messages_for("1.8.11")


def test_first_matching_range_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several ranges the first that holds a version counts, so a change is a table on top."""
    names = [field.name for field in fields(Messages)]
    tables = [
        {"versions": ">=1.14", **dict.fromkeys(names, "new")},
        {"versions": ">=1.9", **dict.fromkeys(names, "old")},
    ]
    monkeypatch.setattr("svidproof.model.logs.messages.load", lambda _: {"messages": tables})

    texts = {version: messages_for(version).signed for version in ("1.13.9", "1.14.0", "1.15.3")}

    assert texts == {"1.13.9": "old", "1.14.0": "new", "1.15.3": "new"}
    assert Version("1.14.0") > Version("1.13.9")
