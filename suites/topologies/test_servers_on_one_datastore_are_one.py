"""It does not matter to which of several servers on one datastore an agent is connected."""

import functools

import grpc
import pytest

from svidproof import Budget, Measure, Testbed, Timestamp, budgets, eventually, requirement
from svidproof.checks import assert_accepted, entry_bound, expect_served, tokens
from svidproof.probes import authority_id, fetch_bundles, fetch_x509, jwt, leads_to

PAIRS = [("west", "east"), ("east", "west")]
SERVERS = [("first", "second"), ("second", "first")]


@requirement("TOPOLOGY-8")
@pytest.mark.parametrize("name", ["west", "east"])
def test_bundle_has_the_cas_of_all_servers(replicas: Testbed, name: str) -> None:
    """The Workload API delivers the CA of each server to the workloads of every agent."""
    answer = fetch_bundles(replicas.workload(name).envoy.workload_api())

    held = {*answer.authorities.get(f"spiffe://{replicas.scenario.trust_domain}", ())}
    domain, agent = replicas.domain(), replicas.scenario.workloads[name].agent
    signers = {server.authority() for server in domain.servers.values()}
    assert len(signers) == 2, "the servers have one CA: this proves nothing"
    also = ", as has its server" if held == {*domain.server_of(agent).bundle()} else ""
    found = {authority_id(root) for root in held}
    assert found == signers, f"{name} has {len(held)} authorities{also}"


@requirement("TOPOLOGY-8")
@pytest.mark.parametrize(
    ("name", "server"), [pytest.param("west", "first"), pytest.param("east", "second")]
)
def test_each_server_signs_with_its_own_ca(replicas: Testbed, name: str, server: str) -> None:
    """The SVID of a workload is below the CA of the server to which its agent is connected."""
    workload = replicas.workload(name)
    answer = fetch_x509(workload.envoy.workload_api())

    svid = answer.of(workload.spiffe_id)

    assert svid is not None, f"the Workload API gives {name} no SVID: {answer}"
    assert svid.flaws() == (), f"{svid.flaws()}"
    own = replicas.domain().servers[server].authority()
    signers = [root for root in svid.bundle if leads_to(svid.chain, [root])]
    assert [authority_id(root) for root in signers] == [own], f"{name}'s SVID is of another CA"


@requirement("TOPOLOGY-8")
@pytest.mark.parametrize(("client", "server"), PAIRS)
def test_workloads_accept_each_other(replicas: Testbed, client: str, server: str) -> None:
    """A workload of one server's agent is accepted by one of the other's."""
    credential = replicas.workload(client).svid()

    assert_accepted(replicas.prober.get(replicas.workload(server), credential=credential))


@requirement("TOPOLOGY-9")
@pytest.mark.parametrize(("at", "other"), SERVERS)
def test_entries_reach_the_agents_of_both(
    replicas: Testbed, at: str, other: str, measure: Measure
) -> None:
    """An entry that is created at one server, and deleted at the other, is followed by all."""
    name, servers = f"of-{at}", replicas.domain().servers
    limit = Budget("every agent follows an entry", entry_bound(replicas), 0.1)

    def followed(*, served: bool) -> None:
        for agent in servers:
            expect_served(replicas, name, agent, served=served)

    with replicas.domain().registered(name, replicas.prober.selectors, at=at) as entry:
        created = Timestamp.now()
        eventually(functools.partial(followed, served=True), limit)
        took = Timestamp.now().at - created.at

        servers[other].delete_entry(entry)

        eventually(functools.partial(followed, served=False), limit)
    measure(f"from an entry at the {at} server to every agent", took, "s")


@requirement("TOPOLOGY-10")
@pytest.mark.parametrize(("subject", "validator"), PAIRS)
def test_tokens_are_valid_at_both(replicas: Testbed, subject: str, validator: str) -> None:
    """ValidateJWTSVID of one server's agent accepts a JWT-SVID that the other server signed."""
    audience = tokens.new_audience()
    token = tokens.token_of(replicas, subject, audience)

    def validated() -> str:
        answer = jwt.validate(replicas.workload(validator).envoy.workload_api(), token, audience)
        assert answer.code is grpc.StatusCode.OK, f"{validator}: {answer}"
        return answer.spiffe_id

    found = eventually(validated, budgets.KEYS_SHARED)

    assert found == replicas.workload(subject).spiffe_id, f"it is {found}'s"
