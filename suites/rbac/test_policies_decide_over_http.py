"""A policy on the backend's sidecar allows and denies over HTTP, not in the handshake."""

import uuid
from collections.abc import Callable, Iterator

import pytest

from svidproof import Saw, Testbed, rbac, requirement
from svidproof.checks import (
    account_page,
    assert_allowed,
    assert_counted,
    assert_decided,
    assert_forbidden,
    assert_shows_account,
    assert_unseen,
    refusals,
)
from svidproof.probes import Exchange, Version

FRONTEND, OTHER = "frontend", "frontend-2"
PATH = "/balances/bob"
HANDSHAKE = "listener.inbound.ssl.handshake"
ALLOWED, DENIED = "allowed", "denied"


@pytest.fixture
def only_frontend_allowed(both_allowed_without_policy: Testbed) -> Iterator[None]:
    """A policy that allows only `frontend` is in force."""
    testbed = both_allowed_without_policy
    with testbed.enforcing("backend", rbac.allow(_id(testbed, FRONTEND))):
        yield


@requirement("RBAC-2")
@pytest.mark.usefixtures("only_frontend_allowed")
def test_allowed_frontend_is_served(two_frontends: Testbed, saw: Saw) -> None:
    """The frontend that the policy allows shows its user's account as before."""
    exchange = two_frontends.workload(FRONTEND).app.get()

    assert_shows_account(exchange, "alice")
    saw(f"{FRONTEND} shows alice's account under a policy that allows it")


@requirement("RBAC-2")
@pytest.mark.usefixtures("only_frontend_allowed")
def test_other_frontend_gets_403_by_its_sidecar(two_frontends: Testbed, saw: Saw) -> None:
    """The other frontend's sidecar completes the TLS handshake and gets 403."""
    frontend, backend = two_frontends.workload(OTHER), two_frontends.workload("backend")
    before, outbound = backend.tally(), frontend.tally()

    exchange = frontend.envoy.request("backend", PATH)

    assert_forbidden(exchange)
    assert_counted(backend, before, {HANDSHAKE: 1})
    assert_counted(frontend, outbound, {"cluster.backend.ssl.handshake": 1})
    assert_unseen(backend, before)
    saw(f"{exchange}; one handshake and no TLS error on both sides; the app saw no request")


@requirement("RBAC-2")
@pytest.mark.usefixtures("only_frontend_allowed")
@pytest.mark.parametrize("version", refusals.VERSIONS)
def test_other_frontends_svid_gets_403(two_frontends: Testbed, version: Version, saw: Saw) -> None:
    """The other frontend's SVID completes the TLS handshake, and the request gets 403."""
    backend, credential = two_frontends.workload("backend"), two_frontends.workload(OTHER).svid()
    before = backend.tally()

    exchange = two_frontends.prober.get(
        backend, PATH, credential=credential, versions=(version, version)
    )

    assert_forbidden(exchange)
    assert_counted(backend, before, {HANDSHAKE: 1})
    assert_unseen(backend, before)
    saw(f"{exchange}; one handshake, no alert; the app saw no request")


@requirement("RBAC-2")
@pytest.mark.usefixtures("only_frontend_allowed")
def test_other_frontends_page_shows_the_reason(two_frontends: Testbed, saw: Saw) -> None:
    """The other frontend's page shows 403 with the reason, and no account data."""
    backend = two_frontends.workload("backend")
    before = backend.tally()

    exchange = two_frontends.workload(OTHER).app.get()

    text = account_page.text_of(exchange.body.decode())
    assert exchange.status == 403, f"expected a page with HTTP 403, got {exchange}"
    assert "403 RBAC: access denied" in text, f"the page says {text!r}"
    assert account_page.shown_of("bob", text) == (), f"the page shows {text!r}"
    assert_unseen(backend, before)
    saw(f"the page says {text!r}")


@requirement("RBAC-5")
@pytest.mark.usefixtures("quiet")
def test_removed_policy_allows_both_again(
    two_frontends: Testbed, assert_both_allowed: Callable[[], None], saw: Saw
) -> None:
    """After the policy is removed, both frontends show their users' accounts again."""
    backend, other = two_frontends.workload("backend"), two_frontends.workload(OTHER)
    assert_both_allowed()
    with two_frontends.enforcing("backend", rbac.allow(_id(two_frontends, FRONTEND))):
        assert_forbidden(other.envoy.request("backend", PATH))
    before, tag = backend.app.count(), uuid.uuid4().hex

    exchanges = [two_frontends.workload(name).app.get(tag=tag) for name in (FRONTEND, OTHER)]

    assert_shows_account(exchanges[0], "alice")
    assert_shows_account(exchanges[1], "bob")
    seen = {s.client_id for s in backend.app.seen(before) if s.tag == tag}
    assert seen == {two_frontends.scenario.spiffe_id(name) for name in (FRONTEND, OTHER)}
    assert_both_allowed()
    saw("denied under the policy; both accounts are shown after its removal")


@requirement("RBAC-6")
@pytest.mark.usefixtures("both_allowed_without_policy")
def test_deny_policy_denies_only_its_principal(two_frontends: Testbed, saw: Saw) -> None:
    """A DENY policy for one frontend denies only that frontend."""
    backend, rules = two_frontends.workload("backend"), rbac.deny(_id(two_frontends, OTHER))

    with two_frontends.enforcing("backend", rules):
        before, decided = backend.tally(), backend.decisions()
        answers = {name: _ask(two_frontends, name) for name in (FRONTEND, OTHER)}

        assert_allowed(answers[FRONTEND])
        assert_forbidden(answers[OTHER])
        seen = [s.client_id for s in backend.app.seen(before.requests)]
        assert seen == [two_frontends.scenario.spiffe_id(FRONTEND)], f"the app saw {seen}"
        assert_decided(backend, decided, {ALLOWED: 1, DENIED: 1})
    saw(f"{FRONTEND}: {answers[FRONTEND]}; {OTHER}: {answers[OTHER]}")


def _id(two_frontends: Testbed, name: str) -> rbac.Principal:
    return rbac.exactly(two_frontends.scenario.spiffe_id(name))


def _ask(two_frontends: Testbed, name: str) -> Exchange:
    return two_frontends.workload(name).envoy.request("backend", PATH)
