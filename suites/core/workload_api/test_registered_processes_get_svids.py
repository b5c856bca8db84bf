"""The Workload API gives registered processes their SVIDs, and others nothing."""

import time

import grpc
import pytest

from svidproof import (
    LAG,
    PROBER,
    Capability,
    Foreign,
    Saw,
    Source,
    Testbed,
    Workload,
    budgets,
    eventually,
    needs,
    requirement,
    spiffe_ids,
)
from svidproof.checks import (
    NO_IDENTITY_LOGGED,
    ROTATIONS,
    Observation,
    assert_none_of_ours,
    assert_own,
    each_workload,
)
from svidproof.probes import (
    ALL_METHODS,
    IDENTITY_METHODS,
    SECURITY_HEADER,
    X509Answer,
    X509Stream,
    call_method,
    fetch_bundles,
    fetch_x509,
    jwt,
    last_of,
)

IMMEDIATE = 2.0  # seconds for an answer from the agent's cache
AUDIENCE = "bank.example"
# Optional profiles of the Workload API: an agent without them answers UNIMPLEMENTED. An agent
# before 1.15 does not know their methods: gRPC answers in its place, before a header is read.
OPTIONAL = {"FetchWITSVID", "FetchWITBundles"}
UNKNOWN_METHOD = "unknown method"


@requirement("WLAPI-1", "DEPLOYMENT-5")
@each_workload
def test_registered_process_gets_its_svid(api: Testbed, name: str, saw: Saw) -> None:
    """A registered process immediately gets its own SVID, key and bundle, and no other.

    A SPIRE that serves others may have more entries that match the process.
    """
    workload = api.workload(name)
    start = time.monotonic()

    answer = fetch_x509(workload.envoy.workload_api())

    took = time.monotonic() - start
    foreign = api.foreign(name)
    assert foreign.apart_from(answer.ids) == [workload.spiffe_id], (
        f"{name} got {answer}, not {workload.spiffe_id} only"
    )
    for svid in answer.svids:
        assert spiffe_ids(svid.chain[0]) == [svid.spiffe_id], (
            f"the leaf of {svid.spiffe_id} is not first"
        )
        assert not svid.flaws(), svid.flaws()[0]
        assert set(svid.bundle) == api.trust_bundle, _different(len(svid.bundle), api)
    assert set(answer.federated) <= foreign.federated, (
        f"{name} got federated bundles of {answer.federated}"
    )
    assert took <= IMMEDIATE, f"the answer took {took:.2f} s, not at most {IMMEDIATE:g} s"
    eventually(lambda: _assert_served(workload, foreign), budgets.REGISTRATION)
    saw(f"{answer} after {took * 1000:.0f} ms")


@requirement("WLAPI-1", "DEPLOYMENT-5")
@each_workload
def test_every_message_is_complete(rotations: Observation, name: str) -> None:
    """Every message of a process's stream has its own SVID, key and bundle, not only the first."""
    own = rotations.testbed.scenario.spiffe_id(name)
    bundle = {certificate.serial_number for certificate in rotations.testbed.trust_bundle}
    foreign = rotations.testbed.foreign(name)

    deliveries = rotations.timeline.deliveries(name)

    assert len(deliveries) > ROTATIONS, (
        f"{name} got only {len(deliveries)} messages for {ROTATIONS} rotations"
    )
    for number, delivery in enumerate(deliveries, 1):
        mine = foreign.apart_from(delivery.ids)
        assert mine == [own], f"message {number} has SVIDs for {delivery.ids}, not for {own}"
        assert not delivery.flaws, f"message {number}: {delivery.flaws[0]}"
    ended = [e for e in rotations.timeline.streams_ended() if e.workload == name]
    assert not ended, f"the agent ended the stream: {ended[0].code} {ended[0].details}"
    for trust in rotations.timeline.trusts(Source.WORKLOAD_API, name):
        assert trust.serials == bundle, (
            f"a message has a bundle of {len(trust.serials)} CAs, expected {len(bundle)}"
        )


@requirement("WLAPI-1")
@needs(Capability.OWN_SPIRE)
@each_workload
def test_each_message_brings_something_new(rotations: Observation, name: str) -> None:
    """A process's stream has one message for each new SVID or bundle, and no other."""
    svids = rotations.timeline.sightings(Source.WORKLOAD_API, name)
    bundles = rotations.timeline.trusts(Source.WORKLOAD_API, name)

    messages = [d for d in rotations.timeline.deliveries(name) if d.seen.at <= rotations.end.at]
    assert messages, f"{name}: no message was delivered"

    changes = len([s for s in svids if s.first.at <= rotations.end.at + LAG]) + len(bundles) - 1
    assert len(messages) <= changes, f"{len(messages)} messages for {changes} new SVIDs or bundles"


@requirement("WLAPI-1", "DEPLOYMENT-5")
@each_workload
def test_registered_process_gets_the_bundle_alone(api: Testbed, name: str) -> None:
    """FetchX509Bundles gives a registered process the bundle of its trust domain, and no other."""
    domain = f"spiffe://{api.scenario.trust_domain}"

    answer = fetch_bundles(api.workload(name).envoy.workload_api())

    domains = list(answer.authorities)
    mine = [found for found in domains if found not in api.foreign(name).federated]
    assert mine == [domain], (
        f"got bundles of {domains}, not of {domain}: {answer.code.name} {answer.details}"
    )
    held = answer.authorities[domain]
    assert set(held) == api.trust_bundle, _different(len(held), api)


@requirement("WLAPI-2")
@needs(Capability.UNREGISTERED_PROCESS)
@pytest.mark.parametrize("method", IDENTITY_METHODS)
def test_unregistered_process_is_denied(api: Testbed, method: str) -> None:
    """A process without an entry gets PermissionDenied and no message."""
    with api.provoking(api.prober.agent.component, NO_IDENTITY_LOGGED):
        answer = call_method(api.prober.workload_api(), method)

    assert answer.code is grpc.StatusCode.PERMISSION_DENIED, (
        f"expected PermissionDenied from {method}, got {answer}"
    )
    assert answer.messages == 0, f"{method} gave a message before {answer}"


@requirement("WLAPI-3")
@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param((), id="absent"),
        pytest.param(((SECURITY_HEADER[0][0], "false"),), id="false"),
        pytest.param(((SECURITY_HEADER[0][0], "True"),), id="capital"),
        pytest.param(((SECURITY_HEADER[0][0], ""),), id="empty"),
    ],
)
@pytest.mark.parametrize("method", ALL_METHODS)
def test_call_without_header_is_rejected(
    api: Testbed, method: str, metadata: tuple[tuple[str, str], ...]
) -> None:
    """A call without the header `workload.spiffe.io: true` gets InvalidArgument, with it OK.

    With the header, a method of an optional profile may be unimplemented instead; one that the
    agent does not know is unimplemented without the header, too.
    """
    target = api.workload("api").envoy.workload_api()
    fields = {"svid": _token(target)} if method == "ValidateJWTSVID" else {}
    accepted = {grpc.StatusCode.OK}
    accepted |= {grpc.StatusCode.UNIMPLEMENTED} if method in OPTIONAL else set()

    control = call_method(target, method, fields=fields)
    answer = call_method(target, method, metadata=metadata, fields=fields)

    assert control.code in accepted, f"with the header {method} gave {control}"
    rejected = {grpc.StatusCode.INVALID_ARGUMENT}
    if control.code is grpc.StatusCode.UNIMPLEMENTED and UNKNOWN_METHOD in control.details:
        rejected.add(control.code)
    assert answer.code in rejected, f"expected InvalidArgument from {method}, got {answer}"
    assert answer.messages == 0, f"{method} gave a message before {answer}"


@requirement("WLAPI-4")
def test_identity_follows_the_entry(api: Testbed) -> None:
    """A process gets an SVID when its entry is created, and loses it when the entry is deleted."""
    target, foreign = api.prober.workload_api(), api.foreign(PROBER)
    wanted = api.scenario.spiffe_id("late")
    limit, answers = budgets.REGISTRATION, list[X509Answer]()

    with api.provoking(api.prober.agent.component, NO_IDENTITY_LOGGED):
        with api.registered("late", api.prober.selectors) as entry:
            eventually(lambda: assert_own(fetch_x509(target), wanted, foreign), limit)
            stream = X509Stream(target, answers.append)
            api.spire.delete_entry(entry)
            eventually(lambda: assert_none_of_ours(fetch_x509(target), foreign), limit)
        eventually(lambda: assert_none_of_ours(last_of(answers), foreign), limit)
        stream.close()


def _assert_served(workload: Workload, foreign: Foreign) -> None:
    """Require all SVIDs that entries give to a process, those of others included."""
    answer = fetch_x509(workload.envoy.workload_api())
    missing = (foreign.certain | {workload.spiffe_id}).difference(answer.ids)
    assert not missing, f"{workload.name} got {answer}, which lacks {sorted(missing)}"


def _token(target: str) -> str:
    """A JWT-SVID of the process, which ValidateJWTSVID accepts."""
    answer = jwt.fetch(target, [AUDIENCE])
    assert answer.svids, f"expected a JWT-SVID, got {answer}"
    return answer.svids[0][1]


def _different(held: int, api: Testbed) -> str:
    return f"a bundle of {held} CAs, which are not the {len(api.trust_bundle)} of the trust bundle"
