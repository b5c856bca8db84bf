"""A scenario is one file of data, and what it says is checked when it is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from svidproof import manifests
from svidproof.platforms.base import Attestation
from svidproof.scenario import (
    APP,
    APP_CONTROL,
    INBOUND,
    OUTBOUND,
    PROBER,
    WORKLOAD_API,
    load_scenario,
    scenario_names,
)

if TYPE_CHECKING:
    from pathlib import Path

    from svidproof.scenario import Scenario


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
    with pytest.raises(FileNotFoundError, match=r"scenarios/nonsense\.toml"):
        load_scenario("nonsense")


BROKEN = [
    pytest.param('name = "x"', KeyError, "title", id="missing-key"),
    pytest.param("name = ", ValueError, "value", id="no-toml"),
    pytest.param(
        'name="x"\ntitle="x"\ntrust_domain="x"\nsvid_ttl=1\n'
        'forgery={client="a",server="a",other="a"}\n[workloads.a]\ncolour="red"',
        TypeError,
        "colour",
        id="unknown-key",
    ),
    pytest.param(
        'name="x"\ntitle="x"\ntrust_domain="x"\nsvid_ttl=1\n'
        'forgery={client="a",server="a",other="a"}\n[workloads.a]\n'
        'calls=[{name="c",to="b",accepts=[],port=1}]',
        TypeError,
        "port",
        id="unknown-key-of-a-call",
    ),
]


@pytest.mark.parametrize(("text", "error", "names"), BROKEN)
def test_broken_scenario_is_an_error(
    text: str,
    error: type[Exception],
    names: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A scenario with a key too few or too many raises with the key's name."""
    directory = tmp_path / "manifests" / "scenarios"
    directory.mkdir(parents=True)
    (directory / "x.toml").write_text(text)
    monkeypatch.setattr(manifests, "data_root", lambda: tmp_path)

    with pytest.raises(error, match=names):
        load_scenario("x")


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
