"""Who gets an identity from the Workload API, who does not, and how both change."""

import time

import grpc
import pytest

from svidproof import Capability, Saw, Testbed, budgets, eventually, needs, requirement
from svidproof.checks import assert_none_of_ours, assert_own
from svidproof.components.foreign import Foreign
from svidproof.scenario import PROBER
from svidproof.watch import Observation, Source
from svidproof.watch.observation import LAG, WANTED
from svidproof.watch.timeline import spiffe_ids
from svidproof.workload import Workload
from svidproof.workload_api import (
    HEADER,
    METHODS,
    Answer,
    X509Stream,
    call,
    fetch_bundles,
    fetch_x509,
    last_of,
)

WORKLOADS = ["api", "valid-api-client", "invalid-api-client", "api-trusted-ca"]
AT_ONCE = 2.0  # seconds for an answer that lies ready in the agent's cache
DENIED = r"No identity issued|Workload attestation failed"


@requirement("WLAPI-1")
@pytest.mark.parametrize("name", WORKLOADS)
def test_registered_process_gets_its_svid(api: Testbed, name: str, saw: Saw) -> None:
    """A registered process gets its own SVID, key and bundle, nobody else's, and at once.

    By entries of others it may have more than one, where SPIRE serves others too.
    """
    workload = api.workload(name)
    start = time.monotonic()

    answer = fetch_x509(workload.envoy.workload_api())

    took = time.monotonic() - start
    foreign = api.foreign(name)
    assert foreign.apart_from(answer.ids) == [workload.spiffe_id], f"{name} got: {answer}"
    for svid in answer.svids:
        assert spiffe_ids(svid.chain[0]) == [svid.spiffe_id], "the leaf does not come first"
        assert not svid.flaws(), svid.flaws()[0]
        assert set(svid.bundle) == api.trust_bundle, f"{len(svid.bundle)} authorities in the bundle"
    assert set(answer.federated) <= foreign.federated, f"bundles of {answer.federated}"
    assert took <= AT_ONCE, f"took {took:.2f} s"
    eventually(lambda: _assert_served(workload, foreign), budgets.REGISTRATION)
    saw(f"{answer} after {took * 1000:.0f} ms")


@requirement("WLAPI-1")
@pytest.mark.parametrize("name", WORKLOADS)
def test_every_message_is_sound(rotations: Observation, name: str) -> None:
    """Every message of a process's stream, not only the first, has its own SVID, key and bundle."""
    own = rotations.testbed.scenario.spiffe_id(name)
    bundle = {certificate.serial_number for certificate in rotations.testbed.trust_bundle}
    foreign = rotations.testbed.foreign(name)

    deliveries = rotations.timeline.deliveries(name)

    assert len(deliveries) > WANTED, f"only {len(deliveries)} messages in the window"
    for number, delivery in enumerate(deliveries, 1):
        mine = foreign.apart_from(delivery.ids)
        assert mine == [own], f"message {number} has SVIDs of {delivery.ids}"
        assert not delivery.flaws, f"message {number}: {delivery.flaws[0]}"
    ended = [e for e in rotations.timeline.streams_ended() if e.workload == name]
    assert not ended, f"the stream was ended: {ended[0].code} {ended[0].details}"
    for trust in rotations.timeline.trusts(Source.WORKLOAD_API, name):
        assert trust.serials == bundle, f"a message's bundle has {len(trust.serials)} authorities"


@requirement("WLAPI-1")
@needs(Capability.OWN_SPIRE)
@pytest.mark.parametrize("name", WORKLOADS)
def test_each_message_brings_something_new(rotations: Observation, name: str) -> None:
    """A process's stream has a message for each new SVID or bundle, and no other."""
    svids = rotations.timeline.sightings(Source.WORKLOAD_API, name)
    bundles = rotations.timeline.trusts(Source.WORKLOAD_API, name)

    messages = [d for d in rotations.timeline.deliveries(name) if d.seen.at <= rotations.end.at]

    news = len([s for s in svids if s.first.at <= rotations.end.at + LAG]) + len(bundles) - 1
    assert len(messages) <= news, f"{len(messages)} messages with {len(svids)} SVIDs"


@requirement("WLAPI-1")
@pytest.mark.parametrize("name", WORKLOADS)
def test_registered_process_gets_the_bundle_alone(api: Testbed, name: str) -> None:
    """FetchX509Bundles gives a registered process its trust domain's bundle, and no other."""
    domain = f"spiffe://{api.scenario.trust_domain}"

    answer = fetch_bundles(api.workload(name).envoy.workload_api())

    domains = list(answer.authorities)
    mine = [found for found in domains if found not in api.foreign(name).federated]
    assert mine == [domain], f"bundles of {domains}: {answer.code.name} {answer.details}"
    held = answer.authorities[domain]
    assert set(held) == api.trust_bundle, f"{len(held)} authorities in the bundle"


@requirement("WLAPI-2")
@needs(Capability.UNREGISTERED_PROCESS)
@pytest.mark.parametrize("method", METHODS)
def test_unregistered_process_is_denied(api: Testbed, method: str) -> None:
    """A process without an entry gets PermissionDenied, and no message before it."""
    with api.provoking(api.prober.agent.component, DENIED):
        answer = call(api.prober.workload_api(), method)

    assert answer.code is grpc.StatusCode.PERMISSION_DENIED, (
        f"expected PermissionDenied: {method} {answer}"
    )
    assert answer.messages == 0, f"{method} gave a message before {answer}"


@requirement("WLAPI-3")
@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param((), id="absent"),
        pytest.param(((HEADER[0][0], "false"),), id="false"),
        pytest.param(((HEADER[0][0], "True"),), id="capital"),
        pytest.param(((HEADER[0][0], ""),), id="empty"),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_call_without_header_is_refused(
    api: Testbed, method: str, metadata: tuple[tuple[str, str], ...]
) -> None:
    """A registered process that does not send `workload.spiffe.io: true` gets InvalidArgument."""
    target = api.workload("api").envoy.workload_api()

    control = call(target, method)
    answer = call(target, method, metadata=metadata)

    assert control.code is grpc.StatusCode.OK, str(control)
    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT, (
        f"expected InvalidArgument: {method} {answer}"
    )
    assert answer.messages == 0, f"{method} gave a message before {answer}"


@requirement("WLAPI-4")
def test_registration_gives_and_takes_identity(api: Testbed) -> None:
    """A process gets an SVID once it is registered, and loses it once its entry is deleted."""
    target, foreign = api.prober.workload_api(), api.foreign(PROBER)
    wanted = api.scenario.spiffe_id("late")
    limit, answers = budgets.REGISTRATION, list[Answer]()

    with api.provoking(api.prober.agent.component, DENIED):
        with api.registered("late", api.prober.selectors) as entry:
            eventually(lambda: assert_own(fetch_x509(target), wanted, foreign), limit)
            stream = X509Stream(target, answers.append)
            api.spire.delete_entry(entry)
            eventually(lambda: assert_none_of_ours(fetch_x509(target), foreign), limit)
        eventually(lambda: assert_none_of_ours(last_of(answers), foreign), limit)
        stream.close()


def _assert_served(workload: Workload, foreign: Foreign) -> None:
    """All is served that entries give to a process, those of others included."""
    answer = fetch_x509(workload.envoy.workload_api())
    missing = (foreign.certain | {workload.spiffe_id}).difference(answer.ids)
    assert not missing, f"{workload.name} got {answer}, without {sorted(missing)}"
