"""A nested server issues SVIDs of its upstream server's trust domain."""

import grpc
import pytest

from svidproof import Saw, Testbed, budgets, eventually, requirement
from svidproof.checks import assert_accepted, tokens
from svidproof.probes import authority_id, fetch_bundles, fetch_x509, jwt, leads_to

NESTED = "nested"
each_workload = pytest.mark.parametrize("name", ["front", "back"])


@requirement("TOPOLOGY-1")
def test_chain_leads_to_the_upstream_root(nested: Testbed, saw: Saw) -> None:
    """The nested server signed the SVID, the upstream server its CA, and the root that one's."""
    workload, below = nested.workload("back"), nested.domain(NESTED)

    svid = fetch_x509(workload.envoy.workload_api()).of(workload.spiffe_id)

    assert svid is not None, "the Workload API gives the workload no SVID"
    flaws = svid.flaws()
    assert not flaws, flaws[0]
    signers = [authority_id(certificate) for certificate in svid.chain[1:]]
    wanted = [below.spire.authority(), nested.spire.authority()]
    assert signers == wanted, f"signed by {signers}, and not by {wanted}"
    assert leads_to(svid.chain, [nested.root.certificate]), "it does not lead to the upstream root"
    saw(f"{len(svid.chain)} certificates below the root")


@requirement("TOPOLOGY-2")
@each_workload
def test_bundle_is_that_of_the_upstream_server(nested: Testbed, name: str) -> None:
    """The Workload API delivers the upstream root to every workload, and nothing else."""
    answer = fetch_bundles(nested.workload(name).envoy.workload_api())

    held = {*answer.authorities.get(f"spiffe://{nested.scenario.trust_domain}", ())}
    also = ", as has its server" if held == {*nested.domain_of(name).spire.bundle()} else ""
    assert held == {nested.root.certificate}, f"{name} has {len(held)} X.509 authorities{also}"


@requirement("TOPOLOGY-2")
@pytest.mark.parametrize(("client", "server"), [("front", "back"), ("back", "front")])
def test_workloads_accept_each_other(nested: Testbed, client: str, server: str) -> None:
    """A workload below one of the servers is accepted by one below the other."""
    credential = nested.workload(client).svid()

    assert_accepted(nested.prober.get(nested.workload(server), credential=credential))


@requirement("TOPOLOGY-3")
@pytest.mark.parametrize(("subject", "validator"), [("front", "back"), ("back", "front")])
def test_tokens_are_valid_at_both(nested: Testbed, subject: str, validator: str) -> None:
    """ValidateJWTSVID of one server's agent accepts a JWT-SVID that the other server signed."""
    audience = tokens.new_audience()
    token = tokens.token_of(nested, subject, audience)

    def validated() -> str:
        answer = jwt.validate(nested.workload(validator).envoy.workload_api(), token, audience)
        assert answer.code is grpc.StatusCode.OK, f"{validator}: {answer}"
        return answer.spiffe_id

    # Their servers learn each other's keys one after the other.
    found = eventually(validated, budgets.KEYS_SHARED)

    assert found == nested.workload(subject).spiffe_id, f"it is {found}'s"
