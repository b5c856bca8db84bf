"""Several trust domains, servers on one datastore, and nested servers come up and answer."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from svidproof import budgets, tools, workload_api
from svidproof.credentials import leads_to
from svidproof.platforms.base import Capability, SiteOptions
from svidproof.platforms.local import LocalSite
from svidproof.scenario import load_scenario
from svidproof.selection import Selection, Wish
from svidproof.testbed import Testbed
from svidproof.tools import Progress
from svidproof.topology import SELF_SIGNED
from svidproof.waiting import NotYet, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from svidproof.domains import TrustDomain
    from svidproof.scenario import Scenario
    from svidproof.workload_api import X509Svid

pytestmark = pytest.mark.boots
HOME, PARTNER = "example.org", "partner.example"


@contextlib.contextmanager
def booted(scenario: Scenario, *, without: Sequence[str] = ()) -> Iterator[Testbed]:
    """A testbed of a scenario on this machine, with the tools that a run would get for it.

    Args:
        scenario: the scenario.
        without: tools that the testbed does not get.
    """
    chosen = Selection(Wish(), (), (), frozenset(), narrowed=False)
    options = SiteOptions(further=scenario.tools)
    found = chosen.resolve_tools(options, Progress.silent())
    found = {name: tool for name, tool in found.items() if name not in without}
    site = LocalSite(found, options, Progress.silent())
    site.open()
    testbed = Testbed(site.platform(scenario.trust_domain), scenario)
    try:
        testbed.start()
        yield testbed
    finally:
        testbed.close()


@pytest.fixture(scope="module")
def federated() -> Iterator[Testbed]:
    """Two trust domains that federate."""
    with booted(load_scenario("topologies/federated")) as testbed:
        yield testbed


@pytest.fixture(scope="module")
def shared() -> Iterator[Testbed]:
    """Two servers on one PostgreSQL."""
    with booted(load_scenario("topologies/shared-datastore")) as testbed:
        yield testbed


@pytest.fixture(scope="module")
def nested() -> Iterator[Testbed]:
    """A server below another one."""
    with booted(load_scenario("topologies/nested")) as testbed:
        yield testbed


def svid_of(domain: TrustDomain, name: str, agent: str | None = None) -> X509Svid:
    """The SVID with an ID that ends so, as an agent gives it to this process."""
    spiffe_id = f"spiffe://{domain.trust_domain}/{name}"

    def fetch() -> X509Svid:
        answer = workload_api.fetch_x509(domain.workload_api(agent))
        svid = answer.of(spiffe_id)
        if svid is None:
            raise NotYet(str(answer))
        return svid

    return eventually(fetch, budgets.REGISTRATION)


def key_ids(chain: Sequence[x509.Certificate]) -> list[str]:
    """The IDs of the authorities above the leaf, as SPIRE calls them."""
    kind = x509.SubjectKeyIdentifier
    return [c.extensions.get_extension_for_class(kind).value.digest.hex() for c in chain[1:]]


@pytest.mark.parametrize(("name", "other"), [(HOME, PARTNER), (PARTNER, HOME)])
def test_federated_domain_issues_svids_below_its_own_root(
    federated: Testbed, name: str, other: str
) -> None:
    """An SVID of a trust domain leads to the root of that domain, and not to the other's."""
    domain = federated.domain(name)
    with domain.registered("probe", federated.prober.selectors):
        svid = svid_of(domain, "probe")

    assert svid.flaws() == ()
    assert leads_to(svid.chain, [domain.root.certificate])
    assert not leads_to(svid.chain, [federated.domain(other).root.certificate])


@pytest.mark.parametrize(("name", "other"), [(HOME, PARTNER), (PARTNER, HOME)])
def test_federated_server_holds_the_bundle_of_the_other(
    federated: Testbed, name: str, other: str
) -> None:
    """It has the other's root and, only from the bundle endpoint, the keys for JWT-SVIDs."""
    partner = federated.domain(other)

    held = federated.domain(name).spire.federated_bundles()

    assert held.keys() == {partner.trust_domain}
    assert held[other].roots == {partner.root.certificate}
    assert held[other].jwt_key_ids == partner.spire.jwt_keys().keys()


def test_federated_workload_gets_both_bundles(federated: Testbed) -> None:
    """A workload whose entry federates with the other trust domain gets that domain's bundle."""
    home, partner = federated.domain(HOME), federated.domain(PARTNER)
    selectors = federated.prober.selectors
    with home.registered("federated", selectors, federates_with=[PARTNER]):
        svid_of(home, "federated")
        bundles = workload_api.fetch_bundles(home.workload_api())

    assert bundles.authorities[f"spiffe://{PARTNER}"] == (partner.root.certificate,)
    assert bundles.authorities[f"spiffe://{HOME}"] == (home.root.certificate,)


@pytest.mark.parametrize(("at", "agent"), [("first", "second"), ("second", "first")])
def test_entry_of_one_server_is_served_by_an_agent_of_the_other(
    shared: Testbed, at: str, agent: str
) -> None:
    """Servers on one datastore have one set of entries; each signs by an authority of its own."""
    domain = shared.domain()
    with domain.registered(f"of-{at}", shared.prober.selectors, at=at):
        svid = svid_of(domain, f"of-{at}", agent)

    signer = domain.servers[agent].authority()
    assert leads_to(svid.chain, [domain.root.certificate])
    assert key_ids(svid.chain) == [signer]
    assert domain.servers[at].authority() != signer


def test_servers_on_one_datastore_have_one_bundle(shared: Testbed) -> None:
    """Both have the same trust bundle, with the keys of both for JWT-SVIDs."""
    first, second = shared.domain().servers.values()

    assert set(first.bundle()) == set(second.bundle()) == {shared.domain().root.certificate}
    assert first.jwt_keys().keys() == second.jwt_keys().keys()
    assert len(first.jwt_keys()) == 2


def test_nested_svid_leads_to_the_upstream_root(nested: Testbed) -> None:
    """The nested server signs it, the upstream server that one's CA, and the root that server's."""
    home, below = nested.domain(), nested.domain("nested")
    with below.registered("probe", nested.prober.selectors):
        svid = svid_of(below, "probe")

    assert svid.flaws() == ()
    assert svid.spiffe_id == "spiffe://example.org/probe"
    assert key_ids(svid.chain) == [below.spire.authority(), home.spire.authority()]
    assert leads_to(svid.chain, [home.root.certificate])


def test_nested_server_shares_bundle_and_no_entries(nested: Testbed) -> None:
    """Its entries are its own; its trust bundle is that of the whole trust domain."""
    home, below = nested.domain(), nested.domain("nested")
    with home.registered("above", nested.prober.selectors):
        entries = below.spire.entries()

    assert entries == []
    assert set(below.spire.bundle()) == set(home.spire.bundle()) == {home.root.certificate}


def test_component_runs_in_the_version_of_its_place() -> None:
    """Server and agent are started from the binaries of the versions that the scenario names."""
    scenario = load_scenario("topologies/older-agent")
    assert scenario.tools == ("spire-server@1.15.3", "spire-agent@1.15.2")
    # The older version may not be installed, and takes minutes to build.
    [home], version = scenario.topology, tools.default_version("spire-agent")
    servers = {name: replace(spec, version=version) for name, spec in home.servers.items()}
    agents = {name: replace(spec, version=version) for name, spec in home.agents.items()}
    domain = replace(home, servers=servers, agents=agents)
    scenario = replace(scenario, domains=(domain,), tools=tuple(domain.tools))

    with booted(scenario, without=("spire-server", "spire-agent")) as testbed:
        home_domain = testbed.domain()
        with home_domain.registered("probe", testbed.prober.selectors):
            svid = svid_of(home_domain, "probe")

    assert svid.flaws() == ()


def test_self_signed_server_is_its_own_root() -> None:
    """Its agents bootstrap with its bundle, and the testbed does not claim to own the root."""
    scenario = load_scenario("topologies/nested")
    [home, _] = scenario.topology
    domain = replace(home, upstream=SELF_SIGNED, datastore="sqlite-memory")

    with booted(replace(scenario, domains=(domain,))) as testbed:
        home_domain = testbed.domain()
        with home_domain.registered("probe", testbed.prober.selectors):
            svid = svid_of(home_domain, "probe")
        bundle = home_domain.spire.bundle()
        capabilities = testbed.capabilities

    assert leads_to(svid.chain, bundle)
    assert testbed.root.certificate not in bundle
    assert Capability.OWN_TRUST_ROOT not in capabilities
