"""The admin APIs of an agent are on its admin socket only, and delegates must be authorized."""

import contextlib
from collections.abc import Callable

import grpc
import pytest

from svidproof import Capability, Saw, Testbed, budgets, eventually, needs, requirement
from svidproof.checks import Accepted
from svidproof.probes import X509Answer, delegated, fetch_x509, last_of

pytestmark = needs(Capability.OWN_SPIRE, Capability.OWN_MACHINE, Capability.UNREGISTERED_PROCESS)
DEBUG = "/spire.agent.debug.v1.Debug/GetInfo"


@requirement("AGENT-1")
def test_workload_socket_has_no_admin_methods(agent_api: Testbed, saw: Saw) -> None:
    """The Workload API's socket has no method of the debug, logger and delegated identity APIs."""
    target, admin = agent_api.prober.workload_api(), agent_api.prober.admin_api()
    control = delegated.call(admin, DEBUG)
    found = {method: delegated.call(target, method) for method in delegated.ADMIN_METHODS}

    assert control[0] is grpc.StatusCode.OK, f"the admin socket answers GetInfo with {control[:2]}"
    for method, (code, details, _) in found.items():
        if code is not grpc.StatusCode.UNIMPLEMENTED:
            raise Accepted(f"{method} on the Workload API's socket: {code.name} {details}".strip())
    saw(f"{len(found)} methods")


@requirement("AGENT-2")
@pytest.mark.parametrize("method", delegated.DELEGATED_METHODS, ids=delegated.name_of)
@pytest.mark.parametrize("identity", ["", "ordinary", "delegate-2"], ids=["none", "other", "near"])
@pytest.mark.usefixtures("provoked")
def test_others_are_refused(agent_api: Testbed, method: str, identity: str) -> None:
    """A process without an identity, or with one that is no delegate's, gets PermissionDenied."""
    target, on = agent_api.prober.admin_api(), delegated.On(agent_api.prober.selectors)
    with contextlib.ExitStack() as registered:
        if identity:
            selectors = agent_api.prober.selectors
            registered.enter_context(agent_api.registered(identity, selectors))
            own, api = agent_api.scenario.spiffe_id(identity), agent_api.prober.workload_api()
            eventually(lambda: _assert_has(fetch_x509(api), own), budgets.REGISTRATION)
        code, details, _ = delegated.call(target, method, delegated.request_of(method, on))

    if code is grpc.StatusCode.OK:
        raise Accepted(f"{method} answered a process with {identity or 'no identity'}")
    assert code is grpc.StatusCode.PERMISSION_DENIED, f"{method}: {code.name} {details}"


@requirement("AGENT-3")
@pytest.mark.usefixtures("provoked")
def test_former_delegate_is_refused(
    agent_api: Testbed,
    await_status: Callable[[grpc.StatusCode], None],
    marked: Callable[..., tuple[str, ...]],
) -> None:
    """A delegate whose entry is deleted is refused, and gets no further SVID on its open stream."""
    target, answers = agent_api.prober.admin_api(), list[X509Answer]()
    with (
        agent_api.registered("kept", marked("kept")) as kept,
        agent_api.registered("delegate", agent_api.prober.selectors) as own,
    ):
        await_status(grpc.StatusCode.OK)
        stream = delegated.DelegatedStream(target, delegated.On(marked("kept")), answers.append)
        with contextlib.closing(stream):
            first = eventually(lambda: _with_svid(last_of(answers)), budgets.REGISTRATION)
            agent_api.spire.delete_entry(own)
            await_status(grpc.StatusCode.PERMISSION_DENIED)
            # The agent looks at the delegate again when it has something to send.
            agent_api.registration.change(kept, dns_names=["next.example.org"])
            last = eventually(lambda: _next_of(answers, first), budgets.REGISTRATION)

    if last.svids:
        raise Accepted("a former delegate got another SVID on its open stream")
    assert last.code is grpc.StatusCode.PERMISSION_DENIED, str(last)


def _assert_has(answer: X509Answer, spiffe_id: str) -> None:
    assert answer.ids == [spiffe_id], str(answer)


def _with_svid(answer: X509Answer) -> X509Answer:
    assert answer.svids, str(answer)
    return answer


def _next_of(answers: list[X509Answer], first: X509Answer) -> X509Answer:
    """The last answer, once it is another SVID or the end of the stream."""
    last = last_of(answers)
    same = last.ids == first.ids and last.svids[0].chain == first.svids[0].chain
    assert not same, "the stream delivered nothing more"
    return last
