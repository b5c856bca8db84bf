"""A request of the valid client reaches the app through both sidecars."""

import uuid

import pytest

from svidproof import Saw, Testbed, requirement
from svidproof.checks import assert_accepted, assert_counted

CALLS = [
    pytest.param("api", "api", id="spiffe-tls13", marks=requirement("HANDSHAKE-2")),
    pytest.param("api-tls12", "api", id="spiffe-tls12", marks=requirement("HANDSHAKE-2")),
    pytest.param(
        "api-trusted-ca", "api-trusted-ca", id="trusted-ca", marks=requirement("HANDSHAKE-8")
    ),
]


@pytest.mark.usefixtures("quiet_api")
@pytest.mark.parametrize(("call", "server"), CALLS)
def test_valid_client_is_served(api: Testbed, call: str, server: str, saw: Saw) -> None:
    """The valid client's request gets 200 `ok`, and the app receives exactly that request."""
    client, workload, tag = api.workload("valid-api-client"), api.workload(server), uuid.uuid4().hex
    before = workload.tally()

    exchange = client.envoy.request(call, "/orders", tag=tag)

    assert_accepted(exchange)
    seen = [(s.tag, s.path, s.client_id) for s in workload.app.seen(before.requests)]
    assert seen == [(tag, "/orders", client.spiffe_id)], f"the app saw {seen}"
    assert_counted(workload, before, {"listener.inbound.ssl.handshake": 1})
    saw(f"{exchange}; the app saw one request, from {client.spiffe_id}")
