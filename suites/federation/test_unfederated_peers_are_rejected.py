"""Peers of a trust domain with which a workload does not federate are rejected in the handshake."""

import pytest

from svidproof import Capability, Saw, Testbed, Timestamp, budgets, eventually, needs, requirement
from svidproof.checks import (
    Accepted,
    Greeter,
    Refusal,
    assert_accepted,
    assert_not_answered,
    assert_refused,
    assert_unavailable,
    assert_unseen,
)
from svidproof.probes import Alert, Credential, Partner, tls

pytestmark = pytest.mark.usefixtures("quiet")
UNKNOWN = {Alert.CERTIFICATE_UNKNOWN}
UNVERIFIED = "fail_verify_error"
STRANGER = "stranger.example"


@pytest.fixture(scope="module")
def stranger() -> Credential:
    """A genuine SVID of a trust domain that no workload here federates with."""
    return Partner(STRANGER).svid("client")


@requirement("FEDERATION-5")
def test_server_without_federation_rejects(federation: Testbed, saw: Saw) -> None:
    """A sidecar whose entry does not federate rejects the SVID that a federated one accepts."""
    credential, place = federation.workload("shop").svid(), federation.workload("loner")
    before = place.tally()

    control = federation.prober.get(federation.workload("bank"), credential=credential)
    exchange = federation.prober.get(place, credential=credential)

    assert_accepted(control)
    assert_refused(exchange, UNKNOWN, at=place, since=before, counter=UNVERIFIED)
    saw(f"{exchange}; {UNVERIFIED}")


@requirement("FEDERATION-5")
def test_call_to_server_without_federation_fails(federation: Testbed) -> None:
    """A call through both sidecars to a workload that does not federate gets 503."""
    caller, place = federation.workload("shop"), federation.workload("loner")
    before = place.tally()

    control = caller.envoy.request("bank")
    exchange = caller.envoy.request("loner")

    assert_accepted(control)
    assert_unavailable(exchange)
    assert_unseen(place, before)


@requirement("FEDERATION-5")
def test_client_without_federation_rejects(federation: Testbed) -> None:
    """A client whose entry does not federate rejects the server of the other trust domain."""
    caller, place = federation.workload("loner"), federation.workload("shop")
    counter = "cluster.shop.ssl.fail_verify_error"
    before, counted = place.tally(), caller.tls_counters().get(counter, 0)

    control = federation.workload("bank").envoy.request("shop")
    between = place.tally()
    exchange = caller.envoy.request("shop")

    assert_accepted(control)
    assert between.requests > before.requests, "the control was not seen by the app"
    assert_unavailable(exchange)
    assert_unseen(place, between)

    def is_counted() -> None:
        grown = caller.tls_counters().get(counter, 0) - counted
        assert grown == 1, f"{counter} of loner grew by {grown}"

    eventually(is_counted, budgets.COUNTERS, alive=caller.envoy.assert_alive)


@requirement("FEDERATION-5")
@pytest.mark.parametrize(
    ("client", "server"),
    [
        pytest.param("pen-friend", "hermit", id="server"),
        pytest.param("hermit", "pen-friend", id="client"),
    ],
)
def test_program_without_federation_rejects(
    federation: Testbed, greeters: dict[str, Greeter], client: str, server: str, saw: Saw
) -> None:
    """A program whose entry does not federate rejects the peer, as server and as client."""
    caller, called = greeters[client], greeters[server]
    since, by_server = Timestamp.now(), len(called.refused())

    hello = caller.hello(server, "Eve")

    if hello.message:
        raise Accepted(f"expected a rejection in the handshake, got {hello}")
    assert (caller.spiffe_id, "Eve") not in called.asked(), f"{server} was asked"

    def refusals() -> list[Refusal]:
        found = [r for r in (*hello.refused, *called.refused()[by_server:]) if r.by_us]
        assert len(found) == 1, f"{len(found)} refusals by {client} or {server}"
        return found

    [refusal] = eventually(refusals, budgets.LOG_LINE)
    by_client = refusal in hello.refused
    assert by_client == (client == "hermit"), f"the wrong side rejected: {refusal.reason}"
    assert refusal.reason == "unable to get local issuer certificate", refusal.reason
    assert federation.logs(called.program.component, since), f"{server} logged nothing"
    saw(refusal.reason)


@requirement("FEDERATION-7")
@pytest.mark.parametrize("name", ["bank", "shop"])
@pytest.mark.parametrize("listener", ["inbound", "any-id"])
def test_sidecar_rejects_strangers(
    federation: Testbed, stranger: Credential, name: str, listener: str, saw: Saw
) -> None:
    """A sidecar rejects a genuine SVID of a trust domain that it does not federate with."""
    place, other = federation.workload(name), "shop" if name == "bank" else "bank"
    genuine = federation.workload(other).svid()
    control = federation.prober.get(place, listener=listener, credential=genuine)
    before = place.tally()

    exchange = federation.prober.get(place, listener=listener, credential=stranger)

    assert_accepted(control)
    assert_refused(exchange, UNKNOWN, at=place, since=before, counter=UNVERIFIED, listener=listener)
    saw(f"{exchange}; {UNVERIFIED}")


@requirement("FEDERATION-7")
@pytest.mark.parametrize("name", ["greeter", "pen-friend"])
def test_program_rejects_strangers(
    greeters: dict[str, Greeter], stranger: Credential, name: str, saw: Saw
) -> None:
    """A program rejects the genuine SVID of a trust domain that it does not federate with."""
    exchange = tls.get(greeters[name].program.address, credential=stranger)

    assert_not_answered(exchange)
    assert exchange.alert is Alert.UNKNOWN_CA, f"expected the alert “unknown ca”, got {exchange}"
    saw(str(exchange))


@requirement("FEDERATION-7")
@needs(Capability.IMPOSTOR)
def test_client_rejects_a_strange_server(federation: Testbed, stranger: Credential) -> None:
    """A client's sidecar rejects a server of a trust domain that it does not federate with."""
    impostor, caller = federation.prober.impostor, federation.workload("bank")

    with impostor.serve(stranger) as attempts:
        exchange = caller.envoy.request("impostor")

    assert_unavailable(exchange)
    assert [a.alert for a in attempts] == [Alert.CERTIFICATE_UNKNOWN], f"{attempts}"
    assert not attempts[0].request, "the request was sent"
