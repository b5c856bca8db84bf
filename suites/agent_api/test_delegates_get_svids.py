"""What a delegate gets: the SVIDs of the workloads that it names, and every change of them."""

import contextlib
import secrets
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509 import DNSName, SubjectAlternativeName

from svidproof import Capability, NotYet, Saw, Testbed, budgets, eventually, needs, requirement
from svidproof.probes import (
    BundlesStream,
    Partner,
    TokenIssuer,
    X509Answer,
    X509Svid,
    delegated,
    extensions_of,
    jwt,
    last_of,
)

pytestmark = needs(Capability.OWN_SPIRE, Capability.OWN_MACHINE, Capability.UNREGISTERED_PROCESS)
Marked = Callable[..., tuple[str, ...]]
AwaitSvids = Callable[..., X509Answer]
# The entries below one agent: the names of their selectors, and further fields.
ENTRIES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "one": (("a",), {}),
    "both": (("a", "b"), {"hint": "both"}),
    "other": (("c",), {}),
    "administrator": (("a",), {"admin": True}),
    "server-below": (("a",), {"downstream": True}),
}
# Which of them a delegate gets for the names of selectors: those that it names all selectors of.
GETS = {"a": {"one"}, "a b": {"one", "both"}, "b": set(), "c a": {"one", "other"}, "d": set()}
WRONG = {
    "both": delegated.On(("svidproof:mark:a",), pid=1),
    "neither": delegated.On(),
}


@pytest.fixture(scope="module")
def target(
    agent_api: Testbed, admin: str, marked: Marked, await_svids: AwaitSvids
) -> Iterator[str]:
    """The admin socket, while the entries exist; all of them have reached the agent."""
    with contextlib.ExitStack() as registered:
        for name, (marks, fields) in ENTRIES.items():
            registered.enter_context(agent_api.registered(name, marked(*marks), **fields))
        # Once the last entry is served, the agent has all of them.
        registered.enter_context(agent_api.registered("after", marked("after")))
        await_svids(admin, delegated.On(marked("after")), [agent_api.scenario.spiffe_id("after")])
        yield admin


@requirement("AGENT-2")
@pytest.mark.parametrize("method", delegated.DELEGATED_METHODS, ids=delegated.name_of)
def test_delegate_is_served(target: str, method: str, marked: Marked) -> None:
    """Every method answers a process with the SPIFFE ID of a delegate."""
    request = delegated.request_of(method, delegated.On(marked("a")))

    code, details, _ = delegated.call(target, method, request)

    assert code is grpc.StatusCode.OK, f"{code.name} {details}"


@requirement("AGENT-4")
@pytest.mark.parametrize("marks", GETS)
def test_delegate_gets_matching_svids(
    agent_api: Testbed,
    target: str,
    marked: Marked,
    *,
    await_svids: AwaitSvids,
    marks: str,
    saw: Saw,
) -> None:
    """A delegate gets one valid SVID for each entry whose selectors it names, and no other."""
    wanted = sorted(agent_api.scenario.spiffe_id(name) for name in GETS[marks])

    answer = await_svids(target, delegated.On(marked(*marks.split())), wanted)

    roots = delegated.delegated_bundles(target)[f"spiffe://{agent_api.scenario.trust_domain}"]
    assert sorted(answer.ids) == wanted, f"expected one SVID each of {wanted}, got {answer}"
    for svid in answer.svids:
        name = svid.spiffe_id.rpartition("/")[2]
        assert svid.hint == ENTRIES[name][1].get("hint", ""), f"{name} has the hint {svid.hint}"
        flaws = replace(svid, bundle=roots).flaws()
        assert not flaws, flaws[0]
    saw(f"{len(answer.svids)} SVIDs")


@requirement("AGENT-20")
def test_keys_have_the_configured_type(
    agent_api: Testbed, target: str, marked: Marked, await_svids: AwaitSvids
) -> None:
    """The key of an X.509-SVID is of the type in `workload_x509_svid_key_type`."""
    wanted = agent_api.scenario.signing.workload_key_type
    one = agent_api.scenario.spiffe_id("one")

    [svid] = await_svids(target, delegated.On(marked("a")), [one]).svids

    key = svid.chain[0].public_key()
    kind = "RSA" if isinstance(key, RSAPublicKey) else "EC"
    size = key.key_size if isinstance(key, (RSAPublicKey, EllipticCurvePublicKey)) else 0
    assert f"{kind.lower()}-{size}" == wanted, f"the key of the SVID is {kind} of {size} bits"


@requirement("AGENT-4")
def test_delegate_gets_svids_by_process(
    agent_api: Testbed, target: str, await_svids: AwaitSvids
) -> None:
    """For the ID of a process, a delegate gets the SVIDs of that process, and of no other."""
    with contextlib.ExitStack() as ended:
        process = ended.enter_context(subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE))
        on = delegated.On(pid=process.pid)
        path = f"unix:path:{Path(f'/proc/{process.pid}/exe').readlink()}"
        before = delegated.delegated_svids(target, on)
        ended.enter_context(agent_api.registered("by-process", (path,)))
        answer = await_svids(target, on, [agent_api.scenario.spiffe_id("by-process")])

    assert before.code is grpc.StatusCode.OK, str(before)
    assert not before.svids, f"a process without an identity has {before}"
    assert answer.ids == [agent_api.scenario.spiffe_id("by-process")]


@requirement("AGENT-5")
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.usefixtures("provoked")
def test_ambiguous_requests_are_refused(target: str, wrong: str) -> None:
    """A request with both selectors and a process, or with neither, gets InvalidArgument."""
    answers = (
        delegated.delegated_svids(target, WRONG[wrong]),
        delegated.delegated_tokens(target, WRONG[wrong]),
    )

    for answer in answers:
        assert answer.code is grpc.StatusCode.INVALID_ARGUMENT, str(answer)


@requirement("AGENT-5")
@pytest.mark.usefixtures("provoked")
def test_request_without_audience_is_refused(target: str, marked: Marked) -> None:
    """A request for JWT-SVIDs without an audience gets InvalidArgument."""
    answer = delegated.delegated_tokens(target, delegated.On(marked("a")), ())

    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT, str(answer)


@requirement("AGENT-6")
def test_delegate_follows_changes(agent_api: Testbed, target: str, marked: Marked) -> None:
    """A stream delivers the SVID of a new entry, the next one of a changed entry, and its loss."""
    answers, late = list[X509Answer](), agent_api.scenario.spiffe_id("late")

    def await_names(ids: list[str], *names: str) -> None:
        def has() -> None:
            answer = last_of(answers)
            assert answer.code is grpc.StatusCode.OK, str(answer)
            assert answer.ids == ids, f"{answer}, not {ids}"
            found = [name for svid in answer.svids for name in _dns_names(svid)]
            assert found == [*names], f"the SVID has the DNS names {found}, not {names}"

        eventually(has, budgets.REGISTRATION)

    stream = delegated.DelegatedStream(target, delegated.On(marked("late")), answers.append)
    with contextlib.closing(stream):
        await_names([])
        with agent_api.registered("late", marked("late")) as entry:
            await_names([late])
            agent_api.registration.change(entry, dns_names=["late.example.org"])
            await_names([late], "late.example.org")
        await_names([])


def _dns_names(svid: X509Svid) -> list[str]:
    san = extensions_of(svid.chain[0]).get_extension_for_class(SubjectAlternativeName).value
    return san.get_values_for_type(DNSName)


@requirement("AGENT-7")
@pytest.mark.parametrize("marks", [marks for marks, names in GETS.items() if names])
def test_delegate_gets_matching_tokens(
    agent_api: Testbed, target: str, marked: Marked, marks: str
) -> None:
    """A delegate gets one valid JWT-SVID for each entry whose selectors it names, and no other."""
    answer = delegated.delegated_tokens(target, delegated.On(marked(*marks.split())))

    wanted = {agent_api.scenario.spiffe_id(name) for name in GETS[marks]}
    assert answer.code is grpc.StatusCode.OK, str(answer)
    assert set(answer.tokens) == wanted, f"expected JWT-SVIDs of {sorted(wanted)}, got {answer}"
    api = agent_api.prober.workload_api()
    for spiffe_id, token in answer.tokens.items():
        validated = jwt.validate(api, token, delegated.AUDIENCE)
        assert validated.spiffe_id == spiffe_id, f"the JWT-SVID of {spiffe_id}: {validated}"


@requirement("AGENT-7")
@pytest.mark.usefixtures("provoked")
def test_no_token_without_a_match(target: str, marked: Marked) -> None:
    """Selectors that no entry matches get PermissionDenied in place of JWT-SVIDs."""
    answer = delegated.delegated_tokens(target, delegated.On(marked("d")))

    assert answer.code is grpc.StatusCode.PERMISSION_DENIED, str(answer)


@requirement("AGENT-8")
def test_delegate_gets_bundles(
    agent_api: Testbed, target: str, marked: Marked, await_svids: AwaitSvids
) -> None:
    """A delegate gets the X.509 and JWT bundles of its trust domain and of each federated one."""
    partner = TokenIssuer("partner.example")
    agent_api.spire.set_federated_document(partner.trust_domain, partner.bundle())
    own, other = f"spiffe://{agent_api.scenario.trust_domain}", f"spiffe://{partner.trust_domain}"
    with agent_api.registered(
        "federated", marked("federated"), federates_with=[partner.trust_domain]
    ):
        answer = await_svids(
            target, delegated.On(marked("federated")), [agent_api.scenario.spiffe_id("federated")]
        )
        authorities = delegated.delegated_bundles(target)
        keys = delegated.delegated_jwt_keys(target)

    assert answer.federated == (other,), f"the SVID federates with {answer.federated}"
    assert set(authorities) == {own, other}, f"X.509 bundles of {sorted(authorities)}"
    assert frozenset(authorities[own]) == agent_api.trust_bundle
    assert set(keys) == {own, other}, f"JWT bundles of {sorted(keys)}"
    assert _public(keys[own]) == agent_api.spire.jwt_keys()
    assert _public(keys[other]) == _public(partner.jwks)


@pytest.fixture
def partner(agent_api: Testbed) -> Partner:
    """Another trust domain, whose bundle the server has and no other check has used.

    An agent keeps the bundle of a former entry until it synchronises again: of a trust domain that
    has been used, the first bundle on a stream says nothing about the entry of this check.
    """
    partner = Partner(f"changing-{secrets.token_hex(4)}.example")
    _publish(agent_api, partner)
    return partner


def _publish(agent_api: Testbed, partner: Partner) -> None:
    agent_api.spire.set_federated_document(partner.trust_domain, partner.bundle())


def _await_other(stream: BundlesStream, name: str, former: object = None) -> object:
    """Wait until a stream has another bundle of a trust domain than the former one, or one."""

    def has() -> object:
        stream.assert_open()
        found = stream.held.get(name)
        if found in (None, former):
            raise NotYet(f"the stream has delivered no other bundle of {name}")
        return found

    return eventually(has, budgets.REGISTRATION)


@requirement("AGENT-8")
@pytest.mark.parametrize("method", delegated.BUNDLE_METHODS, ids=delegated.name_of)
def test_bundle_streams_follow_changes(
    agent_api: Testbed, target: str, marked: Marked, partner: Partner, *, method: str
) -> None:
    """A stream delivers the bundle of a federated trust domain, and its next one."""
    name, federates = f"spiffe://{partner.trust_domain}", [partner.trust_domain]
    with (
        contextlib.closing(delegated.bundles_stream(target, method)) as stream,
        agent_api.registered("bundled", marked("bundled"), federates_with=federates),
    ):
        first = _await_other(stream, name)
        partner.renew_authority()
        partner.add_jwt_key()
        _publish(agent_api, partner)
        _await_other(stream, name, first)


@requirement("AGENT-8")
@pytest.mark.parametrize("method", delegated.BUNDLE_METHODS, ids=delegated.name_of)
def test_bundle_streams_follow_the_end_of_federation(
    agent_api: Testbed, target: str, marked: Marked, partner: Partner, *, method: str
) -> None:
    """A stream delivers the loss of the bundle of a trust domain that is no longer federated."""
    name, federates = f"spiffe://{partner.trust_domain}", [partner.trust_domain]
    with contextlib.closing(delegated.bundles_stream(target, method)) as stream:
        with agent_api.registered("bundled", marked("bundled"), federates_with=federates):
            _await_other(stream, name)
            before = len(stream.answers)

        def more() -> None:
            if len(stream.answers) == before:
                raise NotYet("the stream has delivered nothing more")

        eventually(more, budgets.REGISTRATION)
        stream.assert_open()
        if name in stream.held:
            raise Kept(f"the stream still has the bundle of {name}")


class Kept(AssertionError):  # noqa: N818  a verdict, not a programming error
    """Raised if a delegate still gets the bundle of a trust domain that is no longer federated."""


def _public(keys: Iterable[Mapping[str, object]]) -> dict[str, bytes]:
    return {str(key["kid"]): jwt.public_key(key) for key in keys}
