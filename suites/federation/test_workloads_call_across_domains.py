"""Workloads of two federated trust domains call each other over mTLS, both ways."""

import uuid

import pytest

from svidproof import Saw, Testbed, requirement
from svidproof.checks import Greeter, assert_accepted

SIDECARS = [
    pytest.param("bank", "shop", id="to-partner"),
    pytest.param("shop", "bank", id="from-partner"),
]
PROGRAMS = [
    pytest.param("greeter", "pen-friend", id="to-partner"),
    pytest.param("pen-friend", "greeter", id="from-partner"),
]


@requirement("FEDERATION-1")
@pytest.mark.parametrize(("client", "server"), SIDECARS)
def test_sidecars_accept_each_other(
    federation: Testbed, client: str, server: str, saw: Saw
) -> None:
    """A request to the other trust domain gets 200, and the app sees who called."""
    caller, called, tag = federation.workload(client), federation.workload(server), uuid.uuid4().hex

    exchange = caller.envoy.request(server, "/orders", tag=tag)

    assert_accepted(exchange)
    seen = [s.client_id for s in called.app.seen() if s.tag == tag]
    assert seen == [caller.spiffe_id], f"the app behind {server} saw {seen}"
    saw(f"{exchange}; the app saw one request, from {caller.spiffe_id}")


@requirement("FEDERATION-2")
@pytest.mark.parametrize(("client", "server"), PROGRAMS)
def test_programs_accept_each_other(
    greeters: dict[str, Greeter], client: str, server: str, saw: Saw
) -> None:
    """A call to the other trust domain is answered, and each side knows the other's SPIFFE ID."""
    caller, called = greeters[client], greeters[server]

    hello = caller.hello(server, "Fed")

    assert hello.message, f"{client} got no greeting of {server}: {hello}"
    assert hello.server_id == called.spiffe_id, f"{client} met {hello.server_id}"
    assert (caller.spiffe_id, "Fed") in called.asked(), f"{server} was asked by {called.asked()}"
    saw(f"{hello.message!r} from {hello.server_id}")
