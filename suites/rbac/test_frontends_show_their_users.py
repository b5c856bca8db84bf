"""Without a policy, each frontend fetches and shows its user's account over mTLS."""

import uuid

import pytest

from svidproof import Saw, Testbed, requirement
from svidproof.checks import assert_counted, assert_shows_account

USERS = [
    pytest.param("frontend", "alice", id="frontend"),
    pytest.param("frontend-2", "bob", id="frontend-2"),
]
KINDS = ("profiles", "balances", "transactions")


@requirement("RBAC-1")
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(("name", "user"), USERS)
def test_page_shows_the_account_of_its_user(
    two_frontends: Testbed, name: str, user: str, saw: Saw
) -> None:
    """A frontend's page shows its own user's name, balance and transactions only."""
    exchange = two_frontends.workload(name).app.get()

    assert_shows_account(exchange, user)
    saw(f"{name} shows only {user}'s account")


@requirement("RBAC-1")
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(("name", "user"), USERS)
def test_backend_sees_the_frontends_spiffe_id(
    two_frontends: Testbed, name: str, user: str, saw: Saw
) -> None:
    """The page's data comes over mTLS, and the backend sees the frontend's SPIFFE ID."""
    frontend, backend = two_frontends.workload(name), two_frontends.workload("backend")
    tag, before, outbound = uuid.uuid4().hex, backend.tally(), frontend.tally()

    frontend.app.get(tag=tag)

    seen = [(s.tag, s.path, s.client_id) for s in backend.app.seen(before.requests)]
    expected = [(tag, f"/{kind}/{user}", frontend.spiffe_id) for kind in KINDS]
    assert seen == expected, f"the backend saw {seen}"
    assert_counted(backend, before, {"listener.inbound.ssl.handshake": len(KINDS)})
    assert_counted(frontend, outbound, {"cluster.backend.ssl.handshake": len(KINDS)})
    saw(f"the backend saw {len(seen)} requests from {frontend.spiffe_id}, each over mTLS")
