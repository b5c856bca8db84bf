"""RBAC counters count each request once, as enforced and as a shadow result."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from svidproof import Saw, Testbed, policy, requirement
from svidproof.checks import assert_decided, assert_forbidden, assert_let_in

NAMED, OTHER = "frontend", "frontend-2"
# Thirty-five requests, so mixed that no count of one kind is that of another.
ORDER = (NAMED, OTHER, NAMED) * 10 + (OTHER,) * 5
ALLOWED, DENIED = "allowed", "denied"
SHADOW_ALLOWED, SHADOW_DENIED = "shadow_allowed", "shadow_denied"
pytestmark = pytest.mark.usefixtures("both_are_let_in_without")


@requirement("RBAC-3")
@pytest.mark.parametrize("kind", ["allow", "deny"])
def test_each_request_counts_once(two_frontends: Testbed, kind: str, saw: Saw) -> None:
    """Each request of a mixed series increments `allowed` or `denied` by one."""
    rules = policy.allow(_id(two_frontends, NAMED))
    if kind == "deny":
        rules = policy.deny(_id(two_frontends, OTHER))

    counted = _assert_counts(
        two_frontends, rules, refused={OTHER}, counters={NAMED: {ALLOWED: 1}, OTHER: {DENIED: 1}}
    )

    saw(f"{len(ORDER)} requests, counted one by one: {counted}")


@requirement("RBAC-3", "RBAC-7")
def test_enforced_and_shadow_rules_count_apart(two_frontends: Testbed, saw: Saw) -> None:
    """Shadow rules that contradict the enforced rules deny nothing and count separately."""
    enforced = policy.allow(_id(two_frontends, NAMED))
    rules = {**enforced, **policy.shadow(_id(two_frontends, OTHER))}

    counted = _assert_counts(
        two_frontends,
        rules,
        refused={OTHER},
        counters={
            NAMED: {ALLOWED: 1, SHADOW_DENIED: 1},
            OTHER: {DENIED: 1, SHADOW_ALLOWED: 1},
        },
    )

    saw(f"{len(ORDER)} requests, counted one by one: {counted}")


@requirement("RBAC-7")
def test_shadow_rules_refuse_nobody(two_frontends: Testbed, saw: Saw) -> None:
    """Shadow rules alone allow every request, and count those that they would deny."""
    counted = _assert_counts(
        two_frontends,
        policy.shadow(_id(two_frontends, NAMED)),
        refused=set(),
        counters={NAMED: {SHADOW_ALLOWED: 1}, OTHER: {SHADOW_DENIED: 1}},
    )

    saw(f"{len(ORDER)} requests, counted one by one: {counted}")


def _assert_counts(
    two_frontends: Testbed,
    rules: Mapping[str, Any],
    *,
    refused: set[str],
    counters: Mapping[str, Mapping[str, int]],
) -> dict[str, int]:
    """Send all requests, look at answer and counters after each, and return the sums."""
    backend, sums = two_frontends.workload("backend"), Counter[str]()
    with two_frontends.enforcing("backend", rules):
        seen, decided = backend.app.count(), backend.decisions()
        for name in ORDER:
            exchange = two_frontends.workload(name).envoy.request("backend", "/balances/bob")

            (assert_forbidden if name in refused else assert_let_in)(exchange)
            sums.update(counters[name])
            assert_decided(backend, decided, sums)
        reached = backend.app.count() - seen
    passed = sum(name not in refused for name in ORDER)
    assert reached == passed, f"{reached} requests reached the app, not {passed}"
    return dict(sums)


def _id(two_frontends: Testbed, name: str) -> policy.Principal:
    return policy.exactly(two_frontends.scenario.spiffe_id(name))
