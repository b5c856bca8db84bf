"""A scenario names its trust domains, servers and agents, and mistakes in them are one line."""

from __future__ import annotations

import re
from typing import Any, cast

import pytest

from svidproof.model.capabilities import Capability
from svidproof.model.datafile import DataError, DataFile
from svidproof.model.errors import PlatformError
from svidproof.model.scenario import Scenario, load_scenario, read_scenario, scenario_names
from svidproof.model.scenario.topology import upstream_first
from svidproof.platforms.protocol import SiteOptions
from svidproof.run.request.options import RunRequest
from svidproof.run.request.selection import Selection
from svidproof.supply import tools
from svidproof.testbed.domains import needed_by
from svidproof.testbed.testbed import Testbed

HEAD = """
name = "x"
title = "several"
trust_domain = "example.org"
svid_ttl = 30
forgery = { client = "a", server = "a", other = "a" }
workloads.a = { app = "api", domain = "partner.example", agent = "second" }
"""
DOMAINS = """
[domains."example.org"]
datastore = "postgresql"
bundle_endpoint = true
federates_with = ["partner.example"]
[domains."example.org".servers]
first = {}
second = { version = "1.15.2" }

[domains."partner.example"]
bundle_endpoint = true
[domains."partner.example".agents]
first = {}
second = { server = "server" }

[domains.nested]
upstream = "example.org"
upstream_agent = "agent"

[domains.deeper]
upstream = "nested"
"""


def read(text: str = HEAD + DOMAINS) -> Scenario:
    """The scenario in a file."""
    return read_scenario(DataFile("x.toml", text).root)


def test_scenario_without_domains_has_one_with_one_server() -> None:
    """The scenarios of one trust domain say nothing but its name."""
    for name in scenario_names():
        scenario = load_scenario(name)
        [home] = scenario.topology
        assert (home.name, home.trust_domain) == (scenario.trust_domain, scenario.trust_domain)
        assert [home.server_place(server) for server in home.servers] == ["spire-server"]
        assert [home.agent_place(agent) for agent in home.agents] == ["spire-agent"]
        assert scenario.of_domain(home) is scenario
        assert needed_by(scenario) == frozenset()


def test_places_tell_domains_servers_and_agents_apart() -> None:
    """Only the first server and agent of the first trust domain are called like the program."""
    topology = read().topology

    places = [domain.server_place(name) for domain in topology for name in domain.servers]
    places += [domain.agent_place(name) for domain in topology for name in domain.agents]

    assert places == [
        "spire-server",
        "spire-server.second",
        "partner.example.spire-server",
        "nested.spire-server",
        "deeper.spire-server",
        "spire-agent",
        "partner.example.spire-agent",
        "partner.example.spire-agent.second",
        "nested.spire-agent",
        "deeper.spire-agent",
    ]


def test_nested_server_is_in_the_trust_domain_above() -> None:
    """However deep it is, and it starts after the one above it."""
    topology = read().topology

    assert {domain.name: domain.trust_domain for domain in topology} == {
        "example.org": "example.org",
        "partner.example": "partner.example",
        "nested": "example.org",
        "deeper": "example.org",
    }
    started = [domain.name for domain in upstream_first(topology[::-1])]
    assert started.index("example.org") < started.index("nested") < started.index("deeper")


def test_workload_has_an_id_of_its_own_domain() -> None:
    """And is registered there, and nowhere else."""
    scenario = read()

    assert scenario.spiffe_id("a") == "spiffe://partner.example/a"
    parts = {domain.name: scenario.of_domain(domain) for domain in scenario.topology}
    assert {name: [*part.workloads] for name, part in parts.items()} == {
        "example.org": [],
        "partner.example": ["a"],
        "nested": [],
        "deeper": [],
    }


def test_scenario_needs_the_tools_and_capabilities_of_its_domains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A database is got for those that use it; a version of a place is the pinned one."""
    scenario, got = read(), dict[str, tuple[str | None, bool]]()

    def resolve(name: str, **options: Any) -> object:  # noqa: ANN401
        got[name] = (options["version"], True)
        return name

    def pinned(name: str, version: str, **_: object) -> object:
        got[f"{name}@{version}"] = (version, False)
        return name

    monkeypatch.setattr(tools, "resolve", resolve)
    monkeypatch.setattr(tools, "resolve_pinned", pinned)
    chosen = Selection(RunRequest(spire="1.15.3"), (), (), frozenset(), narrowed=False)
    found = chosen.resolve_tools(SiteOptions(further=scenario.tools))

    assert needed_by(scenario) == {Capability.TOPOLOGIES, Capability.POSTGRESQL}
    assert scenario.tools == ("postgres", "spire-server@1.15.2")
    assert list(found) == [*tools.UNDER_TEST, *scenario.tools]
    assert got["postgres"] == (None, True)
    assert got["spire-server@1.15.2"] == ("1.15.2", False)
    assert got["spire-agent"] == ("1.15.3", True)


def test_platform_without_several_servers_is_refused() -> None:
    """Nothing starts on a platform that cannot have what a scenario names."""

    class Bare:
        name, capabilities, id_prefix = "bare", frozenset[Capability](), "spiffe://example.org"

        def close(self) -> None:
            """Nothing is there."""

    with pytest.raises(PlatformError, match="platform bare does not support postgresql, topologi"):
        Testbed(cast("Any", Bare()), read())


MISTAKES = [
    pytest.param('["partner.example"]', '["partner.exampel"]',
                 ":12: there is no trust domain partner.exampel: .*partner.example",
                 id="unknown-trust-domain"),
    pytest.param('{ server = "server" }', '{ server = "serve" }',
                 ":21: there is no server serve: .*there are server", id="unknown-server"),
    pytest.param('upstream = "example.org"', 'upstream = "example.com"',
                 ":24: there is no upstream example.com: .*own-root, self-signed, example",
                 id="unknown-upstream"),
    pytest.param('upstream_agent = "agent"', 'upstream_agent = "agnet"',
                 ":25: there is no agent agnet: .*there are agent", id="unknown-upstream-agent"),
    pytest.param('upstream = "example.org"', 'upstream = "deeper"',
                 ":28: the upstreams form a circle: nested -> deeper -> nested", id="circle"),
    pytest.param('upstream = "nested"', 'upstream = "deeper"',
                 ":28: the upstreams form a circle: deeper -> deeper", id="circle-of-one"),
    pytest.param("[domains.nested]", '[domains."partner.example"]',
                 ":23: the file is not TOML: Cannot declare .'domains', 'partner.example'. twice",
                 id="two-of-one-name"),
    pytest.param("[domains.nested]", '[domains."Partner"]\n[domains.nested]',
                 ":23: Partner is no trust domain: use lower-case letters", id="no-trust-domain"),
    pytest.param('"postgresql"', '"postgres"',
                 ":10: domains.example.org.datastore must be one of sqlite", id="datastore"),
    pytest.param('datastore = "postgresql"', 'datastore = "sqlite"',
                 ":13: the servers of example.org cannot share sqlite: use datastore postgresql or",
                 id="several-on-a-file"),
    pytest.param('bundle_endpoint = true\n[domains."partner', '[domains."partner',
                 ":12: partner.example has no bundle endpoint: it needs", id="no-bundle-endpoint"),
    pytest.param('["partner.example"]', '["nested"]',
                 ":12: example.org and nested are one trust domain", id="federates-with-itself"),
    pytest.param('upstream = "example.org"\n', "",
                 ":24: nested is not nested: leave upstream_agent out", id="not-nested"),
    pytest.param("bundle_endpoint = true\nfed", "bundel_endpoint = true\nfed",
                 ":11: unknown key bundel_endpoint: .*bundle_endpoint",
                 id="unknown-key"),
    pytest.param('domain = "partner.example"', 'domain = "partner"',
                 ":7: there is no trust domain partner: .*there are example.org, partner.example",
                 id="unknown-domain-of-a-workload"),
    pytest.param('agent = "second" }', 'agent = "third" }',
                 ":7: there is no agent third: .*there are first, second",
                 id="unknown-agent-of-a-workload"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "complaint"), MISTAKES)
def test_mistake_is_one_line(old: str, new: str, complaint: str) -> None:
    """It says the file, the line, and the nearest name."""
    text = HEAD + DOMAINS
    assert old in text

    with pytest.raises(DataError) as raised:
        read(text.replace(old, new, 1))

    assert re.match(f"x.toml{complaint}", str(raised.value)), str(raised.value)
    assert "\n" not in str(raised.value)
