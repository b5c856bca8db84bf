"""The external client gets its identity from its own agent, which attests with a join token."""

import re

import grpc
import pytest

from svidproof import Capability, Saw, Testbed, Timestamp, budgets, eventually, needs, requirement
from svidproof.checks import assert_echoed
from svidproof.probes import fetch_x509

pytestmark = [requirement("PROXY-8"), needs(Capability.OUTSIDE)]
CLIENT = "outside/client"
DENIED = r"No identity issued|Workload attestation failed"
USED = r"join token .*(not exist|already been used)"


def test_external_agent_attests_with_a_join_token(front_proxy: Testbed, saw: Saw) -> None:
    """The server lists the external agent with type join_token, and the mesh's with another."""
    agents = {_path(agent): agent for agent in front_proxy.spire.agents()}
    own = front_proxy.external_client.agent_id
    mesh = [agents.get(_after_domain(i)) for i in front_proxy.agent_ids.values()]

    assert _after_domain(own) in agents, f"{own} is not among {sorted(agents)}"
    kind = agents[_after_domain(own)]["attestation_type"]
    assert kind == "join_token", f"{own} attested with {kind}"
    others = {agent["attestation_type"] for agent in mesh if agent}
    assert others, f"no agent of the mesh is among {sorted(agents)}"
    assert kind not in others, f"the mesh's agents attested with {sorted(others)} too"
    saw(f"{own}; the mesh's with {', '.join(sorted(others))}")


def test_client_gets_exactly_its_svids(front_proxy: Testbed, saw: Saw) -> None:
    """The external agent gives the client exactly the SVIDs registered for it, each valid."""
    expected = sorted(map(front_proxy.scenario.spiffe_id, front_proxy.scenario.outside))

    answer = fetch_x509(front_proxy.external_client.workload_api())

    assert sorted(svid.spiffe_id for svid in answer.svids) == expected, str(answer)
    flaws = [flaw for svid in answer.svids for flaw in svid.flaws()]
    assert not flaws, flaws[0]
    for svid in answer.svids:
        bundle = set(svid.bundle)
        assert bundle == front_proxy.trust_bundle, f"{len(bundle)} authorities in the bundle"
    saw(str(answer))


@pytest.mark.usefixtures("quiet")
def test_client_is_accepted_with_its_own_svid(front_proxy: Testbed, saw: Saw) -> None:
    """The client's own SVID is accepted, and the backend sees the client's SPIFFE ID."""
    spiffe_id = front_proxy.scenario.spiffe_id(CLIENT)

    exchange = front_proxy.external_client.get(
        "proxy", credential=front_proxy.own_credential(CLIENT)
    )

    clients = assert_echoed(exchange).clients
    assert [c.uris for c in clients[:1]] == [(spiffe_id,)], f"the backend sees {clients}"
    saw(f"{exchange.status} for {spiffe_id}")


@needs(Capability.UNREGISTERED_PROCESS)
def test_mesh_agent_denies_an_unregistered_process(front_proxy: Testbed, saw: Saw) -> None:
    """The mesh's agent denies an unregistered process, also the SVIDs of the external client."""
    agent = front_proxy.prober.agent

    with front_proxy.provoking(agent.component, DENIED):
        answer = fetch_x509(front_proxy.prober.workload_api())

    assert answer.code is grpc.StatusCode.PERMISSION_DENIED, f"{agent.component} answered {answer}"
    assert not answer.svids, str(answer)
    saw(f"{agent.component}: {answer}")


@needs(Capability.SPIRE_LOGS)
def test_agents_do_not_share_svids(front_proxy: Testbed, saw: Saw) -> None:
    """The external agent caches only the client's SVIDs; the mesh's agent caches none of them."""
    front_proxy.watch.catch_up()
    external = set(map(front_proxy.scenario.spiffe_id, front_proxy.scenario.outside))
    mesh = set(map(front_proxy.scenario.spiffe_id, front_proxy.scenario.workloads))

    by_external = _cached(front_proxy, front_proxy.external_client.agent.component)
    by_mesh = set[str]().union(*(_cached(front_proxy, agent) for agent in front_proxy.agents))

    assert by_external == external, f"the external agent caches {sorted(by_external)}"
    assert by_mesh >= mesh, f"the mesh's agents cache only {sorted(by_mesh)}"
    assert not by_mesh & external, f"the mesh's agents cache {sorted(by_mesh & external)}"
    saw(f"external: {len(by_external)} IDs; mesh: {len(by_mesh)}; none in both")


@needs(Capability.SPIRE_LOGS)
def test_join_token_works_once(front_proxy: Testbed, saw: Saw) -> None:
    """The server rejects a second agent that uses the same join token."""
    server, start = front_proxy.spire.component, Timestamp.now()
    before = sorted(_path(agent) for agent in front_proxy.spire.agents())

    with front_proxy.provoking(server, USED), front_proxy.external_client.attesting_again():
        reason = eventually(lambda: _rejection(front_proxy, start), budgets.TOKEN_REFUSED)

    after = sorted(_path(agent) for agent in front_proxy.spire.agents())
    assert after == before, f"the server now lists {after}"
    saw(f"{server}: {reason}")


def _rejection(front_proxy: Testbed, since: Timestamp) -> str:
    errors = [r for r in front_proxy.logs(front_proxy.spire.component, since) if r.level == "error"]
    reasons = [r.message for r in errors if re.search(USED, r.message)]
    assert reasons, f"the server logged only {[r.message for r in errors]}"
    return reasons[0]


def _cached(front_proxy: Testbed, agent: str) -> set[str]:
    lines = front_proxy.watch.timeline.logs(agent, front_proxy.messages.updated)
    return {r.fields["spiffe_id"] for r in lines}


def _path(agent: dict[str, dict[str, str]]) -> str:
    return agent["id"]["path"]


def _after_domain(spiffe_id: str) -> str:
    return f"/{spiffe_id.removeprefix('spiffe://').partition('/')[2]}"
