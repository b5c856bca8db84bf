"""Exact and prefix principals match SPIFFE IDs.

The listener `anyone` accepts every SPIFFE ID of the trust domain, so that only a policy denies.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from svidproof import Capability, Saw, Testbed, needs, rbac, requirement
from svidproof.checks import assert_allowed, assert_decided, assert_forbidden
from svidproof.probes import Exchange

LISTENER = "anyone"
PATH = "/balances/alice"
FORGED = needs(Capability.OWN_TRUST_ROOT)
IDS = [
    pytest.param("frontend", id="itself"),
    pytest.param("frontend-2", id="longer"),
    pytest.param("frontend/v1", id="below", marks=FORGED),
    pytest.param("frontends/v1", id="below-a-longer", marks=FORGED),
    pytest.param("front", id="shorter", marks=FORGED),
    pytest.param("Frontend", id="other-case", marks=FORGED),
    pytest.param("v1/frontend", id="as-the-last-segment", marks=FORGED),
]


@dataclass(frozen=True)
class Rule:
    """A policy that allows one principal.

    Attributes:
        kind: `exact` or `prefix`.
        name: the path that the principal matches.
        allowed: the tested paths that it must allow.
    """

    kind: str
    name: str
    allowed: frozenset[str]

    def principal(self, two_frontends: Testbed) -> rbac.Principal:
        """Return the principal as Envoy reads it."""
        spiffe_id = two_frontends.scenario.spiffe_id(self.name)
        return rbac.exactly(spiffe_id) if self.kind == "exact" else rbac.below(spiffe_id)


EXACT = Rule("exact", "frontend", frozenset({"frontend"}))
CHARACTERS = frozenset({"frontend", "frontend-2", "frontend/v1", "frontends/v1"})
RULES = [
    pytest.param(EXACT, id="exact"),
    pytest.param(Rule("prefix", "frontend", CHARACTERS), id="prefix-without-slash"),
    pytest.param(Rule("prefix", "frontend/", frozenset({"frontend/v1"})), id="prefix-with-slash"),
]


@pytest.fixture(scope="session")
def _all_allowed_without_policy(two_frontends: Testbed) -> Testbed:
    """Control: without a policy the listener allows every one of these IDs, even an odd one."""
    forged = two_frontends.capabilities & {Capability.OWN_TRUST_ROOT}
    names = [str(p.values[0]) for p in IDS if forged or not p.marks]
    with two_frontends.quiet():
        for name in names:
            assert_allowed(_ask(two_frontends, name))
    return two_frontends


@pytest.fixture
def _controlled(_all_allowed_without_policy: Testbed) -> Iterator[None]:
    with _all_allowed_without_policy.quiet():
        yield


@requirement("RBAC-8")
@pytest.mark.usefixtures("_controlled")
@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("rule", RULES)
def test_principal_matches_exactly_its_ids(
    two_frontends: Testbed, rule: Rule, name: str, saw: Saw
) -> None:
    """An exact principal matches one ID; a prefix matches every ID with that prefix."""
    backend = two_frontends.workload("backend")

    with two_frontends.enforcing("backend", rbac.allow(rule.principal(two_frontends))):
        before, decided = backend.app.count(), backend.decisions()
        exchange = _ask(two_frontends, name)

        if name in rule.allowed:
            assert_allowed(exchange)
        else:
            assert_forbidden(exchange)
        reached = backend.app.count() - before
        assert reached == (name in rule.allowed), f"{reached} requests reached the app"
        counter = "allowed" if name in rule.allowed else "denied"
        assert_decided(backend, decided, {counter: 1})
    saw(f"{rule.kind} …/{rule.name}, client …/{name}: {exchange}")


def _ask(two_frontends: Testbed, name: str) -> Exchange:
    """Send a request as one of the frontends, or with a forged valid SVID for another ID."""
    if name in two_frontends.workloads:
        credential = two_frontends.workload(name).svid()
    else:
        credential = two_frontends.forge.valid(two_frontends.scenario.spiffe_id(name))
    backend = two_frontends.workload("backend")
    return two_frontends.prober.get(backend, PATH, listener=LISTENER, credential=credential)
