"""Only authorized brokers can use the Broker API, as the standards have it."""

import os
from collections.abc import Callable, Mapping

import grpc
import pytest

from svidproof import (
    Capability,
    NotYet,
    Saw,
    Testbed,
    budgets,
    eventually,
    needs,
    requirement,
)
from svidproof.checks import Accepted
from svidproof.probes import (
    Credential,
    Flaw,
    Partner,
    X509Answer,
    broker,
    fetch_x509,
    leads_to,
    reflection,
    tls,
    uri_of,
)

pytestmark = needs(Capability.OWN_TRUST_ROOT, Capability.OWN_MACHINE)
Served = Callable[[str, bytes], X509Answer]
# Headers that differ from the mandatory one.
HEADERS: dict[str, broker.Metadata] = {
    "none": (),
    "another-value": (("broker.spiffe.io", "false"),),
    "another-case": (("broker.spiffe.io", "True"),),
    "empty": (("broker.spiffe.io", ""),),
    "twice": (("broker.spiffe.io", "true"), ("broker.spiffe.io", "true")),
    "of-the-workload-api": (("workload.spiffe.io", "true"),),
}
FLAWS = [flaw for flaw in Flaw if flaw is not Flaw.NONE]


@requirement("BROKER-1")
def test_endpoint_presents_an_svid(
    incubating: Testbed, credentials: Mapping[str, Credential], saw: Saw
) -> None:
    """The endpoint presents the X.509-SVID of the agent, which leads to the trust bundle."""
    seen = tls.get(incubating.prober.agent.broker_address, credential=credentials["broker"])

    assert seen.peer_chain, f"the endpoint presents nothing: {seen}"
    own = uri_of(seen.peer_chain[0])
    assert own == incubating.agent_id("prober"), f"the endpoint is {own}"
    assert leads_to(seen.peer_chain, tuple(incubating.trust_bundle)), "its chain does not verify"
    saw(f"{own} over {seen.version}")


@requirement("BROKER-1")
@pytest.mark.parametrize("flaw", FLAWS, ids=lambda flaw: flaw.value)
def test_flawed_broker_is_refused(
    incubating: Testbed, credentials: Mapping[str, Credential], flaw: Flaw, saw: Saw
) -> None:
    """A caller with a flawed certificate of a broker, or with none, gets a TLS alert."""
    spiffe_id, address = incubating.scenario.spiffe_id, incubating.prober.agent.broker_address
    forged = incubating.forge.client(spiffe_id("broker"), flaw, other_id=spiffe_id("ordinary"))
    control = tls.get(address, credential=credentials["broker"])
    seen = tls.get(address, credential=forged)

    assert control.alert is None, f"a broker is refused: {control}"
    if seen.alert is None:
        raise Accepted(f"a broker with the flaw {flaw.value} got no TLS alert: {seen}")
    saw(seen.alert.value)


@requirement("BROKER-1")
def test_namesake_of_another_trust_domain_is_refused(
    incubating: Testbed, credentials: Mapping[str, Credential], saw: Saw
) -> None:
    """A caller of a federated trust domain with the path of a broker's ID gets a TLS alert."""
    partner, prober = Partner("namesake.example"), incubating.prober
    address, domain = prober.agent.broker_address, partner.trust_domain
    foreign = f"spiffe://{domain}"

    def trusted() -> None:
        held = fetch_x509(prober.workload_api()).foreign.get(foreign, ())
        if partner.root not in held:
            raise NotYet(f"the agent does not have the bundle of {foreign}")

    incubating.spire.set_federated_document(domain, partner.bundle())
    with incubating.registered("federates", prober.selectors, federates_with=[domain]):
        eventually(trusted, budgets.REGISTRATION)
        control = tls.get(address, credential=credentials["broker"])
        seen = tls.get(address, credential=partner.svid("broker"))

    assert control.alert is None, f"a broker is refused: {control}"
    if seen.alert is None:
        raise Accepted(f"{partner.spiffe_id('broker')} got no TLS alert: {seen}")
    saw(seen.alert.value)


@requirement("BROKER-1")
@pytest.mark.parametrize("identity", [None, "ordinary"], ids=["none", "ordinary"])
@pytest.mark.parametrize("over_tcp", [False, True], ids=["socket", "tcp"])
def test_others_are_not_served(
    incubating: Testbed,
    credentials: Mapping[str, Credential],
    identity: str | None,
    *,
    over_tcp: bool,
) -> None:
    """A workload that is no broker, and a caller without a certificate, get no answer at all."""
    prober = incubating.prober
    with prober.broker_api(credentials["broker"], over_tcp=over_tcp) as target:
        control = _call(target)
    own = credentials[identity] if identity else None
    with prober.broker_api(own, over_tcp=over_tcp) as target:
        answer = _call(target)

    served = control.code is not grpc.StatusCode.UNAVAILABLE
    assert served, f"a broker is not served: {control}"
    if answer.code is not grpc.StatusCode.UNAVAILABLE:
        raise Accepted(f"a caller with {identity or 'no certificate'} was served: {answer}")


@requirement("BROKER-2")
@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("method", broker.BROKER_METHODS)
def test_header_is_required(target: str, served: Served, method: str, header: str) -> None:
    """A request without the broker's security header gets InvalidArgument, and no message."""
    request = broker.request_of(broker.Reference.process(os.getpid()))
    control = served(method, request)
    answer = broker.call_broker(target, method, request, metadata=HEADERS[header])

    assert control.code is grpc.StatusCode.OK, f"with the header: {control}"
    if answer.code is grpc.StatusCode.OK:
        raise Accepted(f"{method} was answered with the header {header}")
    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT, str(answer)


@requirement("BROKER-3")
def test_service_has_exactly_its_methods(target: str, saw: Saw) -> None:
    """The Broker API has exactly the methods of the standard, as gRPC's reflection shows."""
    found = reflection.methods_of(target, broker.BROKER_SERVICE, metadata=broker.BROKER_HEADER)

    assert {*found} == {*broker.BROKER_METHODS}, f"the service has the methods {sorted(found)}"
    saw(f"{len(found)} methods")


@requirement("BROKER-4")
@pytest.mark.parametrize("method", broker.BROKER_METHODS)
@pytest.mark.usefixtures("provoked")
def test_broker_uses_its_references_only(
    incubating: Testbed, credentials: Mapping[str, Credential], served: Served, method: str
) -> None:
    """A broker that may reference objects of Kubernetes only gets nothing of a process."""
    request = broker.request_of(broker.Reference.process(os.getpid()))
    control = served(method, request)
    with incubating.prober.broker_api(credentials["object-broker"]) as limited:
        answer = broker.call_broker(limited, method, request)

    assert control.code is grpc.StatusCode.OK, f"a broker that may use all references: {control}"
    if answer.code is grpc.StatusCode.OK:
        raise Accepted(f"{method} served a broker that may not reference a process")
    assert answer.code is grpc.StatusCode.PERMISSION_DENIED, str(answer)


@requirement("BROKER-4")
@pytest.mark.parametrize("method", broker.BROKER_METHODS)
@pytest.mark.usefixtures("provoked")
def test_process_is_not_referenced_over_tcp(
    incubating: Testbed, credentials: Mapping[str, Credential], served: Served, method: str
) -> None:
    """A process ID, which is of one machine only, is refused on the TCP port."""
    request = broker.request_of(broker.Reference.process(os.getpid()))
    control = served(method, request)
    with incubating.prober.broker_api(credentials["broker"], over_tcp=True) as over_tcp:
        answer = broker.call_broker(over_tcp, method, request)

    assert control.code is grpc.StatusCode.OK, f"on the socket: {control}"
    if answer.code is grpc.StatusCode.OK:
        raise Accepted(f"{method} resolved a process ID that came over TCP")
    assert answer.code is grpc.StatusCode.PERMISSION_DENIED, str(answer)


def _call(target: str) -> X509Answer:
    """Call a method for the suite's own process."""
    request = broker.request_of(broker.Reference.process(os.getpid()))
    return broker.call_broker(target, "SubscribeToX509SVID", request)
