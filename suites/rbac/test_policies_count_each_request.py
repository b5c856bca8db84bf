"""RBAC counters count each request once, by the enforced and by the shadow rules."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from svidproof import Saw, Testbed, rbac, requirement
from svidproof.checks import assert_allowed, assert_decided, assert_forbidden

FRONTEND, OTHER = "frontend", "frontend-2"
# 20 requests of one frontend and 15 of the other, so that no two counters end with equal values.
ORDER = (FRONTEND, OTHER, FRONTEND) * 10 + (OTHER,) * 5
ALLOWED, DENIED = "allowed", "denied"
SHADOW_ALLOWED, SHADOW_DENIED = "shadow_allowed", "shadow_denied"
pytestmark = pytest.mark.usefixtures("both_allowed_without_policy")


@requirement("RBAC-3")
@pytest.mark.parametrize("kind", ["allow", "deny"])
def test_each_request_counts_once(two_frontends: Testbed, kind: str, saw: Saw) -> None:
    """Each request of a mixed series increments `allowed` or `denied` by one."""
    rules = rbac.allow(_id(two_frontends, FRONTEND))
    if kind == "deny":
        rules = rbac.deny(_id(two_frontends, OTHER))

    counted = _assert_counts(
        two_frontends, rules, denied={OTHER}, counters={FRONTEND: {ALLOWED: 1}, OTHER: {DENIED: 1}}
    )

    saw(f"{len(ORDER)} requests, each counted: {counted}")


@requirement("RBAC-3", "RBAC-7")
def test_enforced_and_shadow_rules_count_separately(two_frontends: Testbed, saw: Saw) -> None:
    """Shadow rules that contradict the enforced rules deny nothing and count separately."""
    enforced = rbac.allow(_id(two_frontends, FRONTEND))
    rules = {**enforced, **rbac.shadow(_id(two_frontends, OTHER))}

    counted = _assert_counts(
        two_frontends,
        rules,
        denied={OTHER},
        counters={
            FRONTEND: {ALLOWED: 1, SHADOW_DENIED: 1},
            OTHER: {DENIED: 1, SHADOW_ALLOWED: 1},
        },
    )

    saw(f"{len(ORDER)} requests, each counted: {counted}")


@requirement("RBAC-7")
def test_shadow_rules_deny_no_request(two_frontends: Testbed, saw: Saw) -> None:
    """Shadow rules alone allow every request, and count those that they would deny."""
    counted = _assert_counts(
        two_frontends,
        rbac.shadow(_id(two_frontends, FRONTEND)),
        denied=set(),
        counters={FRONTEND: {SHADOW_ALLOWED: 1}, OTHER: {SHADOW_DENIED: 1}},
    )

    saw(f"{len(ORDER)} requests, each counted: {counted}")


def _assert_counts(
    two_frontends: Testbed,
    rules: Mapping[str, Any],
    *,
    denied: set[str],
    counters: Mapping[str, Mapping[str, int]],
) -> dict[str, int]:
    """Send all requests, check answer and counters after each, and return the sums."""
    backend, sums = two_frontends.workload("backend"), Counter[str]()
    with two_frontends.enforcing("backend", rules):
        received, decided = backend.app.count(), backend.decisions()
        for name in ORDER:
            exchange = two_frontends.workload(name).envoy.request("backend", "/balances/bob")

            (assert_forbidden if name in denied else assert_allowed)(exchange)
            sums.update(counters[name])
            assert_decided(backend, decided, sums)
        reached = backend.app.count() - received
    allowed = sum(name not in denied for name in ORDER)
    assert reached == allowed, f"{reached} requests reached the app, not {allowed}"
    return dict(sums)


def _id(two_frontends: Testbed, name: str) -> rbac.Principal:
    return rbac.exactly(two_frontends.scenario.spiffe_id(name))
