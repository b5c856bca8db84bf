"""A broker gets the SVIDs and bundles of the workload that it references, and every change."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from cryptography.x509 import DNSName, SubjectAlternativeName

from svidproof import Capability, NotYet, Saw, Testbed, budgets, eventually, needs, requirement
from svidproof.checks import Accepted
from svidproof.probes import (
    Partner,
    TokenIssuer,
    X509Answer,
    X509Svid,
    broker,
    extensions_of,
    jwt,
    last_of,
)

pytestmark = needs(Capability.OWN_SPIRE, Capability.OWN_MACHINE, Capability.UNREGISTERED_PROCESS)
Start = Callable[[str], Any]
SHORT_S = 20
INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
# A process ID that Linux never assigns (PID_MAX_LIMIT in include/linux/threads.h).
NOBODY = 1 << 22
# References that name no workload, and the status that each must get.
WRONG: dict[str, tuple[broker.Reference | None, grpc.StatusCode]] = {
    "missing": (None, INVALID),
    "without-type": (broker.Reference("", b"\x08\x01"), INVALID),
    "unknown-type": (broker.Reference("type.googleapis.com/svidproof.Workload"), INVALID),
    "malformed": (broker.Reference(broker.PID_REFERENCE, b"\xff"), INVALID),
    "pid-0": (broker.Reference.process(0), INVALID),
    "negative-pid": (broker.Reference.process(-1), INVALID),
    "no-process": (broker.Reference.process(NOBODY), NOT_FOUND),
}


def _await_ids(target: str, reference: broker.Reference, ids: Iterable[str]) -> X509Answer:
    """Wait until a broker gets one SVID of each SPIFFE ID, and no other."""

    def has() -> X509Answer:
        answer = broker.brokered_svids(target, reference)
        if answer.code is not grpc.StatusCode.OK or sorted(answer.ids) != sorted(ids):
            raise NotYet(f"{answer}, not {sorted(ids)}")
        return answer

    return eventually(has, budgets.REGISTRATION)


@requirement("BROKER-5")
def test_broker_gets_svids_of_the_process(
    incubating: Testbed, target: str, start: Start, saw: Saw
) -> None:
    """A broker gets a valid SVID of each identity of the process it references, and no other."""
    one, other, spiffe_id = start("one"), start("other"), incubating.scenario.spiffe_id
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        enter(incubating.registered("one", one.selectors))
        enter(incubating.registered("second", one.selectors, hint="second"))
        enter(incubating.registered("other", other.selectors))
        found = _await_ids(target, other.reference, [spiffe_id("other")])
        both = _await_ids(target, one.reference, [spiffe_id("one"), spiffe_id("second")])

    hints = {svid.spiffe_id: svid.hint for svid in both.svids}
    assert hints == {spiffe_id("one"): "", spiffe_id("second"): "second"}, f"the hints are {hints}"
    for svid in (*found.svids, *both.svids):
        flaws = svid.flaws()
        assert not flaws, flaws[0]
        assert frozenset(svid.bundle) == incubating.trust_bundle, "it comes with another bundle"
    saw(f"{len(both.svids)} SVIDs of one process, {len(found.svids)} of the other")


@requirement("BROKER-5")
@pytest.mark.parametrize("power", ["admin", "downstream"])
def test_broker_gets_no_powers_over_the_server(
    incubating: Testbed, target: str, start: Start, power: str
) -> None:
    """A broker gets no X.509-SVID with which its holder could administer or extend SPIRE server."""
    process, spiffe_id = start("mighty"), incubating.scenario.spiffe_id
    fields: dict[str, Any] = {power: True}
    with (
        incubating.registered("mighty", process.selectors, **fields),
        # Once the agent serves this entry, it knows the one that was created before.
        incubating.registered("ordinary-too", process.selectors),
    ):
        svids = eventually(
            lambda: _with(target, process.reference, spiffe_id("ordinary-too")),
            budgets.REGISTRATION,
        )

    if svids.of(spiffe_id("mighty")) is not None:
        raise Accepted(f"a broker got the X.509-SVID of an entry with {power}")


@requirement("BROKER-5", "BROKER-11")
def test_hints_are_unique(incubating: Testbed, target: str, start: Start) -> None:
    """A broker gets no hint twice, where two entries of a process have the same."""
    process, plain = start("hinted"), incubating.scenario.spiffe_id("plain")
    with contextlib.ExitStack() as stack:
        for name in ("hinted", "hinted-too"):
            stack.enter_context(incubating.registered(name, process.selectors, hint="same"))
        # Once the agent serves this entry, it knows the one that was created before.
        stack.enter_context(incubating.registered("plain", process.selectors))
        svids = eventually(lambda: _with(target, process.reference, plain), budgets.REGISTRATION)
        tokens = broker.brokered_tokens(target, process.reference)

    for what, hints in (
        ("X.509-SVIDs", [svid.hint for svid in svids.svids]),
        ("JWT-SVIDs", [*tokens.hints]),
    ):
        given = [hint for hint in hints if hint]
        assert given, f"the {what} have no hint: {hints}"
        assert len({*given}) == len(given), f"the {what} have the hints {hints}"


def _with(target: str, reference: broker.Reference, spiffe_id: str) -> X509Answer:
    answer = broker.brokered_svids(target, reference)
    if answer.of(spiffe_id) is None:
        raise NotYet(f"no SVID of {spiffe_id}: {answer}")
    return answer


@requirement("BROKER-6")
@pytest.mark.parametrize("method", broker.BROKER_METHODS)
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.usefixtures("provoked")
def test_wrong_reference_is_refused(
    target: str, served: Callable[[str, bytes], X509Answer], method: str, wrong: str
) -> None:
    """A reference that is none, or of no process, gets the status that the standard has for it."""
    reference, wanted = WRONG[wrong]
    control = served(method, broker.request_of(broker.Reference.process(os.getpid())))
    answer = broker.call_broker(target, method, broker.request_of(reference))

    assert control.code is grpc.StatusCode.OK, f"with a right reference: {control}"
    if answer.code is grpc.StatusCode.OK:
        raise Accepted(f"{method} was answered for a reference that is {wrong}")
    if answer.code is not wanted:
        raise WrongStatus(f"{method}: {answer}, not {wanted.name}")


class WrongStatus(AssertionError):  # noqa: N818  a verdict, not a programming error
    """Raised if a request is refused with another status than the standard requires."""


@requirement("BROKER-7")
@pytest.mark.parametrize("method", ["SubscribeToX509SVID", "FetchJWTSVID"])
@pytest.mark.usefixtures("provoked")
def test_workload_without_identity_gets_nothing(target: str, start: Start, method: str) -> None:
    """A process without an entry gets PermissionDenied, and no message."""
    answer = broker.call_broker(target, method, broker.request_of(start("nobody").reference))

    if answer.code is grpc.StatusCode.OK:
        raise Accepted(f"{method} was answered for a process without an entry")
    assert answer.code is grpc.StatusCode.PERMISSION_DENIED, str(answer)


@requirement("BROKER-8")
def test_stream_follows_changes(incubating: Testbed, target: str, start: Start) -> None:
    """A stream begins at once, and delivers a new entry, a change of it, and its loss."""
    process, answers = start("followed"), list[X509Answer]()
    kept, late = map(incubating.scenario.spiffe_id, ("kept", "late"))

    def await_names(ids: list[str], *names: str) -> None:
        def has() -> None:
            answer = last_of(answers)
            assert sorted(answer.ids) == ids, f"{answer}, not {ids}"
            found = [name for svid in answer.svids for name in _dns_names(svid)]
            assert found == [*names], f"the SVIDs have the DNS names {found}, not {names}"

        eventually(has, budgets.REGISTRATION)

    with incubating.registered("kept", process.selectors):
        _await_ids(target, process.reference, [kept])
        stream = broker.BrokerStream(target, process.reference, answers.append)
        with contextlib.closing(stream):
            first = eventually(lambda: last_of(answers), budgets.WORKLOAD_API)
            assert first.ids == [kept], f"the first message has {first}"
            with incubating.registered("late", process.selectors) as entry:
                await_names([kept, late])
                incubating.registration.change(entry, dns_names=["late.example.org"])
                await_names([kept, late], "late.example.org")
            await_names([kept])


@requirement("BROKER-8")
def test_stream_follows_the_loss_of_the_last(
    incubating: Testbed, target: str, start: Start
) -> None:
    """When the only SVID is removed, the stream delivers a message without it, or ends."""
    process, answers = start("last"), list[X509Answer]()
    own = incubating.scenario.spiffe_id("last")

    def lost() -> None:
        if last_of(answers).of(own) is not None:
            raise NotYet(f"the stream has delivered no loss of {own}")

    with contextlib.ExitStack() as registered:
        registered.enter_context(incubating.registered("last", process.selectors))
        _await_ids(target, process.reference, [own])
        stream = broker.BrokerStream(target, process.reference, answers.append)
        with contextlib.closing(stream):
            eventually(lambda: _svid_of(answers, own), budgets.WORKLOAD_API)
            registered.close()
            eventually(lost, budgets.REGISTRATION)


def _dns_names(svid: X509Svid) -> list[str]:
    san = extensions_of(svid.chain[0]).get_extension_for_class(SubjectAlternativeName).value
    return san.get_values_for_type(DNSName)


@requirement("BROKER-9")
def test_stream_follows_renewals(incubating: Testbed, target: str, start: Start, saw: Saw) -> None:
    """A stream delivers the next SVID, with another key, before the last one expires."""
    process, answers = start("short"), list[X509Answer]()
    own = incubating.scenario.spiffe_id("short")
    with (
        incubating.registered("short", process.selectors, ttl=SHORT_S),
        contextlib.closing(broker.BrokerStream(target, process.reference, answers.append)),
    ):
        first = eventually(lambda: _svid_of(answers, own), budgets.REGISTRATION)
        following = eventually(lambda: _other_than(first, answers, own), budgets.FRESH)
        left = first.chain[0].not_valid_after_utc - datetime.now(UTC)

    before, after = first.chain[0], following.chain[0]
    assert left > timedelta(0), f"the SVID was replaced {-left} after its expiry"
    assert after.not_valid_after_utc > before.not_valid_after_utc, "the next SVID ends no later"
    assert following.key_der != first.key_der, "the next SVID has the same key"
    assert not following.flaws(), following.flaws()[0]
    saw(f"{left.total_seconds():.0f} s before the expiry")


def _svid_of(answers: list[X509Answer], spiffe_id: str) -> X509Svid:
    answer = last_of(answers)
    svid = answer.of(spiffe_id)
    if svid is None:
        raise NotYet(f"no SVID of {spiffe_id}: {answer}")
    return svid


def _other_than(first: X509Svid, answers: list[X509Answer], spiffe_id: str) -> X509Svid:
    svid = _svid_of(answers, spiffe_id)
    if svid.chain[0].serial_number == first.chain[0].serial_number:
        raise NotYet("the stream has delivered no further SVID")
    return svid


@requirement("BROKER-10")
@pytest.mark.usefixtures("provoked")
def test_ended_process_gets_nothing(incubating: Testbed, target: str, start: Start) -> None:
    """After a process has ended, a broker gets nothing more for its process ID."""
    process, methods = start("ended"), broker.BROKER_METHODS
    request = broker.request_of(process.reference)
    with incubating.registered("ended", process.selectors):
        _await_ids(target, process.reference, [incubating.scenario.spiffe_id("ended")])
        before = {name: broker.call_broker(target, name, request) for name in methods}
        process.end()
        after = {name: broker.call_broker(target, name, request) for name in methods}

    for name in methods:
        assert before[name].code is grpc.StatusCode.OK, f"{name}: {before[name]}"
        if after[name].code is grpc.StatusCode.OK:
            raise Accepted(f"{name} was answered for a process that has ended")


@requirement("BROKER-10")
@pytest.mark.usefixtures("provoked")
def test_stream_ends_with_the_process(incubating: Testbed, target: str, start: Start) -> None:
    """After a process has ended, an open stream delivers no further SVID of it."""
    process, answers = start("streaming"), list[X509Answer]()
    own = incubating.scenario.spiffe_id("streaming")
    with (
        incubating.registered("streaming", process.selectors) as entry,
        contextlib.closing(broker.BrokerStream(target, process.reference, answers.append)),
    ):
        first = eventually(lambda: _svid_of(answers, own), budgets.REGISTRATION)
        process.end()
        # A control: it would get another SVID now.
        incubating.registration.change(entry, dns_names=["streaming.example.org"])
        last = eventually(lambda: _after(first, answers, own), budgets.REGISTRATION)

    if last.svids:
        raise Accepted("an open stream delivered the next SVID of a process that has ended")


def _after(first: X509Svid, answers: list[X509Answer], spiffe_id: str) -> X509Answer:
    """The last answer, once it is another SVID, none, or the end of the stream."""
    answer = last_of(answers)
    svid = answer.of(spiffe_id)
    if svid is not None and svid.chain == first.chain:
        raise NotYet("the stream is open, and has delivered nothing more")
    return answer


@pytest.fixture
def two(incubating: Testbed, target: str, start: Start) -> Iterator[Any]:
    """A process with two identities."""
    process, spiffe_id = start("two"), incubating.scenario.spiffe_id
    with (
        incubating.registered("token", process.selectors),
        incubating.registered("second-token", process.selectors, hint="second"),
    ):
        _await_ids(target, process.reference, [spiffe_id("token"), spiffe_id("second-token")])
        yield process


@requirement("BROKER-11")
def test_broker_gets_tokens_of_the_process(incubating: Testbed, target: str, two: Any) -> None:  # noqa: ANN401  of a fixture
    """A broker gets a valid JWT-SVID of each identity of the process, for its audiences."""
    audience = ["bank.example", "shop.example"]
    answer = broker.brokered_tokens(target, two.reference, audience)

    ids = [incubating.scenario.spiffe_id(name) for name in ("token", "second-token")]
    assert answer.code is grpc.StatusCode.OK, str(answer)
    assert sorted(i for i, _ in answer.svids) == sorted(ids), f"{answer}, not {sorted(ids)}"
    hints = {
        spiffe_id: hint for (spiffe_id, _), hint in zip(answer.svids, answer.hints, strict=True)
    }
    assert hints == dict(zip(ids, ("", "second"), strict=True)), f"the hints are {hints}"
    keys = broker.brokered_keys(target, two.reference)
    [bundle] = [keys.bundles[name] for name in keys.bundles]
    by_id = {str(key["kid"]): key for key in bundle["keys"]}
    for spiffe_id, token in answer.svids:
        read = jwt.Token.read(token)
        assert read.claims["sub"] == spiffe_id, (
            f"the token of {spiffe_id} is {read.claims['sub']}'s"
        )
        assert read.claims["aud"] == audience, f"it is for {read.claims['aud']}"
        jwt.verify(token, by_id[str(read.header["kid"])], audience[0])


@requirement("BROKER-11")
def test_broker_gets_the_token_that_it_names(incubating: Testbed, target: str, two: Any) -> None:  # noqa: ANN401  of a fixture
    """A broker that names a SPIFFE ID gets the JWT-SVID of that identity, and no other."""
    own = incubating.scenario.spiffe_id("token")
    answer = broker.brokered_tokens(target, two.reference, spiffe_id=own)

    assert answer.code is grpc.StatusCode.OK, str(answer)
    found = [spiffe_id for spiffe_id, _ in answer.svids]
    assert own in found, f"no JWT-SVID of {own}: {answer}"
    if found != [own]:
        raise Accepted(f"JWT-SVIDs of {found} came for {own}")


@requirement("BROKER-11")
@pytest.mark.usefixtures("provoked")
def test_token_needs_an_audience(target: str, two: Any) -> None:  # noqa: ANN401  of a fixture
    """A request for JWT-SVIDs without an audience gets InvalidArgument."""
    answer = broker.brokered_tokens(target, two.reference, ())

    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT, str(answer)


@requirement("BROKER-12")
def test_broker_gets_bundles(incubating: Testbed, target: str, start: Start) -> None:
    """A broker gets the X.509 and JWT bundles of the process, with those of federated domains."""
    partner, process = TokenIssuer("partner.example"), start("federated")
    alone = start("unfederated")
    incubating.spire.set_federated_document(partner.trust_domain, partner.bundle())
    own, other = f"spiffe://{incubating.scenario.trust_domain}", f"spiffe://{partner.trust_domain}"
    federates = [partner.trust_domain]
    with incubating.registered("federated", process.selectors, federates_with=federates):
        spiffe_id = incubating.scenario.spiffe_id("federated")
        answer = _await_ids(target, process.reference, [spiffe_id])
        with incubating.registered("unfederated", alone.selectors):
            unfederated = incubating.scenario.spiffe_id("unfederated")
            without = _await_ids(target, alone.reference, [unfederated])
        bundles = broker.brokered_bundles(target, process.reference)
        keys = broker.brokered_keys(target, process.reference)

    assert answer.federated == (other,), f"the SVID federates with {answer.federated}"
    assert without.federated == (), f"an entry without federation gets {without.federated}"
    assert {*bundles.authorities} == {own, other}, f"X.509 bundles of {sorted(bundles.authorities)}"
    assert frozenset(bundles.authorities[own]) == incubating.trust_bundle
    assert {*keys.bundles} == {own, other}, f"JWT bundles of {sorted(keys.bundles)}"
    assert _public(keys.bundles[own]["keys"]) == incubating.spire.jwt_keys()
    assert _public(keys.bundles[other]["keys"]) == _public(partner.jwks)


@requirement("BROKER-12")
@pytest.mark.parametrize("method", broker.BUNDLE_METHODS)
def test_bundle_streams_follow_changes(
    incubating: Testbed, target: str, start: Start, method: str
) -> None:
    """A stream delivers the bundle of a federated trust domain, its next one, and its loss."""
    partner, process = Partner("changing.example"), start("bundled")
    own, other = f"spiffe://{incubating.scenario.trust_domain}", f"spiffe://{partner.trust_domain}"

    def publish() -> None:
        incubating.spire.set_federated_document(partner.trust_domain, partner.bundle())

    publish()
    federates = [partner.trust_domain]
    with contextlib.closing(broker.bundles_stream(target, process.reference, method)) as stream:

        def await_bundles(names: set[str]) -> None:
            def has() -> None:
                stream.assert_open()
                if {*stream.held} != names:
                    raise NotYet(f"bundles of {sorted(stream.held)}, not of {sorted(names)}")

            eventually(has, budgets.REGISTRATION)

        def changed() -> None:
            stream.assert_open()
            if stream.held[other] == first:
                raise NotYet(f"the stream has delivered no other bundle of {other}")

        with incubating.registered("bundled", process.selectors, federates_with=federates):
            await_bundles({own, other})
            first = stream.held[other]
            partner.renew_authority()
            partner.add_jwt_key()
            publish()
            eventually(changed, budgets.REGISTRATION)
        await_bundles({own})


def _public(keys: Iterable[Mapping[str, object]]) -> dict[str, bytes]:
    return {str(key["kid"]): jwt.public_key(key) for key in keys}
