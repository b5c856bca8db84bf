"""An authority of one trust domain cannot sign for another, though both are trusted."""

import pytest

from svidproof import Capability, Saw, Testbed, budgets, eventually, needs, requirement
from svidproof.checks import (
    Greeter,
    assert_accepted,
    assert_not_answered,
    assert_refused,
    assert_unavailable,
)
from svidproof.probes import Alert, Credential, Template, tls

pytestmark = [pytest.mark.usefixtures("quiet"), requirement("FEDERATION-6")]
HOME, PARTNER = "example.org", "partner.example"
OTHER = {HOME: PARTNER, PARTNER: HOME}
each_signer = pytest.mark.parametrize(
    "signer", [pytest.param(HOME, id="by-home"), pytest.param(PARTNER, id="by-partner")]
)


def signed(testbed: Testbed, spiffe_id: str, by: str) -> Credential:
    """A certificate for a SPIFFE ID that the root of a trust domain signs."""
    return testbed.domain(by).root.issue(by, Template(uris=(spiffe_id,)))


@each_signer
@pytest.mark.parametrize("name", ["bank", "shop"])
@pytest.mark.parametrize("listener", ["inbound", "any-id"])
def test_sidecar_rejects_certificates_of_another_domains_root(
    federation: Testbed, name: str, listener: str, signer: str, saw: Saw
) -> None:
    """A sidecar that trusts both rejects an accepted SPIFFE ID if the other's root signed it."""
    place, domain = federation.workload(name), OTHER[signer]
    # An ID of the domain that did not sign it, which each of the two accepts.
    accepted = {HOME: {"bank": "loner", "shop": "bank"}, PARTNER: {"bank": "shop"}}
    client = accepted[domain].get(name, "shop")
    spiffe_id = federation.scenario.spiffe_id(client)
    control = federation.prober.get(
        place, listener=listener, credential=signed(federation, spiffe_id, domain)
    )
    before = place.tally()

    exchange = federation.prober.get(
        place, listener=listener, credential=signed(federation, spiffe_id, signer)
    )

    if (name, listener, client) != ("shop", "inbound", "shop"):
        assert_accepted(control)
    assert_refused(
        exchange,
        {Alert.CERTIFICATE_UNKNOWN},
        at=place,
        since=before,
        counter="fail_verify_error",
        listener=listener,
    )
    saw(f"{spiffe_id} signed by the root of {signer}: {exchange}")


@needs(Capability.IMPOSTOR)
def test_client_rejects_a_server_of_another_domains_root(federation: Testbed) -> None:
    """A client's sidecar rejects the server's SPIFFE ID if the client's own root signed it."""
    impostor, caller = federation.prober.impostor, federation.workload("bank")
    spiffe_id = federation.scenario.spiffe_id("shop")

    with impostor.serve(signed(federation, spiffe_id, PARTNER)):
        control = caller.envoy.request("impostor")
    with impostor.serve(signed(federation, spiffe_id, HOME)) as attempts:
        exchange = caller.envoy.request("impostor")

    assert_accepted(control)
    assert_unavailable(exchange)
    assert [a.alert for a in attempts] == [Alert.CERTIFICATE_UNKNOWN], f"{attempts}"
    assert not attempts[0].request, "the request was sent"


@pytest.mark.parametrize(
    ("name", "client"),
    [
        pytest.param("greeter", "pen-friend", id="greeter"),
        pytest.param("pen-friend", "greeter", id="pen-friend"),
    ],
)
def test_program_rejects_certificates_of_another_domains_root(
    federation: Testbed, greeters: dict[str, Greeter], name: str, client: str, saw: Saw
) -> None:
    """A program that trusts both rejects the other's SPIFFE ID if its own root signed it."""
    greeter, spiffe_id = greeters[name], federation.scenario.spiffe_id(client)
    address = greeter.program.address
    own = federation.domain_of(name).trust_domain
    refused = len(greeter.refused())
    control = tls.get(address, credential=signed(federation, spiffe_id, OTHER[own]))

    exchange = tls.get(address, credential=signed(federation, spiffe_id, own))

    assert control.alert is None, f"the genuine certificate was rejected: {control}"
    assert_not_answered(exchange)
    assert exchange.alert is Alert.BAD_CERTIFICATE, f"expected “bad certificate”, got {exchange}"

    def reason() -> str:
        found = [r for r in greeter.refused()[refused:] if r.by_us]
        assert len(found) == 1, f"{len(found)} refusals by {name}"
        return found[0].reason

    why = eventually(reason, budgets.LOG_LINE)
    assert why == f"{spiffe_id} is signed by no authority of {OTHER[own]}", why
    saw(why)
