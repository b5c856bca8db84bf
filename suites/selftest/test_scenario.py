"""A scenario is one file of data, and what it says is checked when it is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from svidproof.model import manifests
from svidproof.model.datafile import DataError, DataFile
from svidproof.model.scenario import (
    APP,
    APP_CONTROL,
    INBOUND,
    OUTBOUND,
    PROBER,
    WORKLOAD_API,
    load_scenario,
    read_scenario,
    scenario_names,
)
from svidproof.platforms.protocol import Attestation

if TYPE_CHECKING:
    from pathlib import Path

    from svidproof.model.scenario import Scenario


@pytest.fixture
def scenario() -> Scenario:
    """The scenario of the core profile."""
    return load_scenario("api")


@pytest.mark.parametrize("name", scenario_names())
def test_every_scenario_loads(name: str) -> None:
    """Each file of scenarios is one, and bears its own name."""
    loaded = load_scenario(name)

    assert loaded.name == name
    assert loaded.title
    assert loaded.svid_ttl > 0
    assert loaded.workloads


def test_scenario_can_be_below_a_path_of_another_trust_domain(scenario: Scenario) -> None:
    """Where a SPIRE serves others too, their IDs are elsewhere."""
    moved = scenario.below("spiffe://other.example/svidproof/mine")

    assert moved.trust_domain == "other.example"
    assert moved.spiffe_id("api") == "spiffe://other.example/svidproof/mine/api"
    assert scenario.below("spiffe://example.org") == scenario


@pytest.mark.parametrize("name", scenario_names())
def test_calls_lead_somewhere(name: str) -> None:
    """Each call leads to a workload that serves, or to the prober."""
    loaded = load_scenario(name)
    serving = {n for n, spec in loaded.workloads.items() if spec.app}

    targets = {call.to for spec in loaded.workloads.values() for call in spec.calls}

    assert targets <= {*serving, PROBER}


def test_behind_a_proxy_is_whom_it_forwards_to() -> None:
    """Requests end at an app: a workload's own, or that of whom it forwards to."""
    loaded = load_scenario("front-proxy")

    behind = {name: loaded.behind(name) for name in loaded.workloads}

    backend = loaded.workloads["backend"]
    assert behind == {"proxy": backend, "backend": backend, "generator": None}


@pytest.mark.parametrize("name", scenario_names())
def test_whoever_is_accepted_exists(name: str) -> None:
    """Each ID that is accepted somewhere is a workload's."""
    loaded = load_scenario(name)
    specs = loaded.workloads.values()

    accepted = {n for spec in specs for n in spec.accepts}
    accepted |= {n for spec in specs for call in spec.calls for n in call.accepts}

    assert accepted <= {*loaded.workloads, *loaded.outside}


@pytest.mark.parametrize("name", scenario_names())
def test_ports_of_one_workload_differ(name: str) -> None:
    """No two listeners of a workload have the same port."""
    fixed = [INBOUND, APP, APP_CONTROL, WORKLOAD_API]
    for spec in load_scenario(name).workloads.values():
        others = [call.listen for call in spec.calls] + [door.port for door in spec.doors]
        ports = [*fixed, *others]
        assert len(set(ports)) == len(ports), spec.name


@pytest.mark.parametrize("name", scenario_names())
def test_decoys_nearly_match(name: str) -> None:
    """Each decoy is like a workload but for a selector or a parent, and has an ID of its own."""
    loaded = load_scenario(name)
    for decoy in loaded.decoys:
        assert decoy.like in loaded.workloads
        assert decoy.id not in loaded.workloads
        assert bool(decoy.extra_selector) != bool(decoy.parent)


def test_api_is_the_topology_that_was_asked_for(scenario: Scenario) -> None:
    """The core scenario has a server, a client that it accepts, and one that it does not."""
    assert scenario.svid_ttl == 30
    assert scenario.trust_domain == "example.org"
    assert list(scenario.workloads) == [
        "api",
        "valid-api-client",
        "invalid-api-client",
        "api-trusted-ca",
    ]
    assert scenario.workloads["api"].accepts == ("valid-api-client",)
    validators = {n: spec.validator for n, spec in scenario.workloads.items()}
    assert validators.pop("api-trusted-ca") == "trusted-ca"
    assert set(validators.values()) == {"spiffe"}


def test_calls_listen_one_after_the_other(scenario: Scenario) -> None:
    """A workload's calls have ports of their own, in their order."""
    calls = scenario.workloads["valid-api-client"].calls

    assert [call.listen for call in calls] == [OUTBOUND + n for n in range(len(calls))]
    assert {call.name: call.tls_maximum for call in calls}["api-tls12"] == "TLSv1_2"


def test_ids_are_of_the_trust_domain(scenario: Scenario) -> None:
    """A workload's SPIFFE ID is its name below the trust domain."""
    assert scenario.spiffe_id("api") == "spiffe://example.org/api"


def test_unknown_scenario_is_an_error() -> None:
    """A scenario that is not there raises with the path where it was sought."""
    with pytest.raises(DataError, match=r"cannot read .*scenarios/nonsense\.toml: No such file"):
        load_scenario("nonsense")


SMALL = """
name = "x"
title = "two workloads"
trust_domain = "example.org"
svid_ttl = 30
forgery = { client = "a", server = "b", other = "a" }

[workloads.a]
calls = [
  { name = "b", to = "b", accepts = ["b"] },
]

[workloads.b]
app = "api"
accepts = ["a"]

[[decoys]]
id = "decoy"
like = "a"
"""


def test_small_scenario_is_read() -> None:
    """The scenario that the next test breaks is correct."""
    assert [*read_scenario(DataFile("x.toml", SMALL).root).workloads] == ["a", "b"]


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        pytest.param('title = "two workloads"\n', "", ":1: the file lacks title", id="missing-key"),
        pytest.param('"x"', "", ":2: the file is not TOML", id="no-toml"),
        pytest.param("svid_ttl", "svid_tll", ":5: unknown key svid_tll: did you mean svid_ttl",
                     id="unknown-key"),
        pytest.param("app =", "ap =", ":14: unknown key ap: did you mean app", id="of-a-workload"),
        pytest.param("to =", "too =", ":10: unknown key too: there are name, to", id="of-a-call"),
        pytest.param("like =", "lik =", ":19: unknown key lik: there are", id="of-a-decoy"),
        pytest.param("30", '"30"', ":5: svid_ttl must be a whole number", id="type"),
        pytest.param('["a"]', '"a"', ":15: workloads.b.accepts must be a list", id="list"),
        pytest.param("[workloads.b]", "[[workloads.b]]", ":13: workloads.b must be a table",
                     id="table"),
        pytest.param("app =", 'kind = "side"\napp =', ":14: workloads.b.kind must be one of side",
                     id="choice"),
        pytest.param('to = "b"', 'to = "c"', ":10: there is no workload c: there are a, b, prober",
                     id="call"),
        pytest.param('["a"]', '["c"]', ":15: there is no workload c: there are a, b", id="accepts"),
        pytest.param("app =", 'forwards = "c"\napp =', ":14: there is no call c", id="forwards"),
        pytest.param('like = "a"', 'like = "c"', ":19: there is no workload c", id="decoy"),
        pytest.param('server = "b"', 'server = "c"', ":6: there is no workload c", id="forgery"),
    ],
)  # fmt: skip
def test_mistake_in_a_scenario_is_one_line(old: str, new: str, complaint: str) -> None:
    """The line has the file, its line, what is wrong, and the nearest names."""
    assert SMALL.count(old) == 1

    with pytest.raises(DataError, match=f"^x.toml{complaint}") as raised:
        read_scenario(DataFile("x.toml", SMALL.replace(old, new)).root)

    assert "\n" not in str(raised.value)


def test_file_of_a_scenario_is_named_like_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the scenario that is asked for is another one."""
    directory = tmp_path / "manifests" / "scenarios"
    directory.mkdir(parents=True)
    (directory / "y.toml").write_text(SMALL)
    monkeypatch.setattr("svidproof.model.scenario.data_root", lambda: tmp_path)

    with pytest.raises(DataError, match=r"y\.toml:2: the file of scenario x must be named like it"):
        load_scenario("y")


def test_attestation_is_a_value() -> None:
    """What a platform contributes to SPIRE's configuration compares as a value."""
    assert Attestation("s", "a", "w", {}, "id") == Attestation("s", "a", "w", {}, "id")


def test_data_is_found_in_a_checkout() -> None:
    """In a checkout, what is deployed is found beside the package."""
    assert (manifests.data_root() / "suites" / "catalogue.toml").is_file()
    assert (manifests.data_root() / "manifests" / "scenarios" / "api.toml").is_file()


def test_data_is_found_in_a_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no checkout, what is deployed is found in the package itself."""
    monkeypatch.setattr(manifests, "_PACKAGE", tmp_path / "site-packages" / "svidproof")

    found = manifests.data_root.__wrapped__()

    assert found == tmp_path / "site-packages" / "svidproof" / "_data"
