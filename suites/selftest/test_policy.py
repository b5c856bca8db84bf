"""Policies are what Envoy's RBAC filter takes, and pages show what they say they show."""

from __future__ import annotations

from typing import Any

import pytest

from svidproof import Exchange
from svidproof.checks.assertions import (
    Accepted,
    Denied,
    assert_forbidden,
    assert_let_in,
    assert_shows_account,
)
from svidproof.checks.pages import account_page as pages
from svidproof.components.envoy import rbac
from svidproof.workloads.apps import account_page
from svidproof.workloads.apps.accounts import ACCOUNTS

ID = "spiffe://example.org/frontend"
DENIED = b"RBAC: access denied"


def page_of(user: str) -> str:
    """The page that a frontend renders for a user."""
    return account_page.render({kind: ACCOUNTS[kind][user] for kind in account_page.KINDS})


@pytest.mark.parametrize(
    ("made", "kind", "action"),
    [
        pytest.param(rbac.allow(rbac.exactly(ID)), "rules", "ALLOW", id="allow"),
        pytest.param(rbac.deny(rbac.exactly(ID)), "rules", "DENY", id="deny"),
        pytest.param(rbac.shadow(rbac.exactly(ID)), "shadow_rules", "ALLOW", id="shadow"),
    ],
)
def test_policy_names_whom_it_means(made: dict[str, Any], kind: str, action: str) -> None:
    """A policy has one set of rules, with one action, for any request of its principals."""
    assert set(made) == {kind}
    assert made[kind]["action"] == action
    [rule] = made[kind]["policies"].values()
    assert rule["permissions"] == [{"any": True}]
    assert rule["principals"] == [{"authenticated": {"principal_name": {"exact": ID}}}]


def test_file_holds_one_policy_under_its_name_and_version() -> None:
    """Envoy takes over what has the filter's name, and shows the version that it has."""
    made = rbac.resource("policy", rbac.NONE, "7")

    assert made["version_info"] == "7"
    [resource] = made["resources"]
    assert resource["name"] == "policy"
    assert resource["typed_config"] == {"@type": rbac.RBAC}


@pytest.mark.parametrize("user", pages.USERS)
def test_page_shows_all_facts_of_its_user_and_no_other(user: str) -> None:
    """A rendered page is read as a person reads it: name, town, balance and transactions."""
    page = page_of(user)

    shown = {name: pages.shown_of(name, page) for name in pages.USERS}

    assert shown.pop(user) == pages.facts(user)
    assert len(pages.facts(user)) >= 4
    assert set(shown.values()) == {()}
    assert "font" not in pages.text_of(page)


def test_account_is_asserted_from_the_page() -> None:
    """The page of another user is not enough, and a page that shows another user is too much."""
    alice, bob = page_of("alice").encode(), page_of("bob").encode()

    assert_shows_account(Exchange(status=200, body=alice), "alice")

    with pytest.raises(AssertionError, match="the page of alice shows only"):
        assert_shows_account(Exchange(status=200, body=bob), "alice")
    with pytest.raises(AssertionError, match=r"shows also .*Bob"):
        assert_shows_account(Exchange(status=200, body=alice + bob), "alice")
    with pytest.raises(Denied):
        assert_shows_account(Exchange(status=403, body=DENIED), "alice")


@pytest.mark.parametrize(
    ("exchange", "error"),
    [
        pytest.param(Exchange(status=200, body=b"ok"), Accepted, id="let-in"),
        pytest.param(Exchange(status=403, body=b"no"), AssertionError, id="other-words"),
        pytest.param(Exchange(status=503, body=DENIED), AssertionError, id="other-status"),
        pytest.param(Exchange(status=403, body=DENIED, error="reset"), AssertionError, id="reset"),
        pytest.param(Exchange(error="reset"), AssertionError, id="no-answer"),
    ],
)
def test_only_envoys_own_403_is_a_policys_no(exchange: Exchange, error: type[Exception]) -> None:
    """Nothing but 403 in Envoy's words, over a connection that ended well, will do."""
    assert_forbidden(Exchange(status=403, body=DENIED))

    with pytest.raises(AssertionError) as raised:
        assert_forbidden(exchange)

    assert raised.type is error


@pytest.mark.parametrize(
    ("status", "error"),
    [pytest.param(403, Denied, id="denied"), pytest.param(503, AssertionError, id="failed")],
)
def test_whoever_is_denied_was_not_let_in(status: int, error: type[Exception]) -> None:
    """A 403 where somebody had to get through is told from every other failure."""
    assert_let_in(Exchange(status=200))

    with pytest.raises(AssertionError) as raised:
        assert_let_in(Exchange(status=status))

    assert raised.type is error
