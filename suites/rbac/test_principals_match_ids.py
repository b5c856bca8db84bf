"""Exact and prefix principals match SPIFFE IDs.

All of this is asked at a listener that accepts every ID of the trust domain, so that a policy is
the only thing there that says no.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from svidproof import Capability, Exchange, Saw, Testbed, needs, policy, requirement
from svidproof.checks import assert_decided, assert_forbidden, assert_let_in

DOOR = "anyone"
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
class Row:
    """A principal by what it matches, and those of the IDs that it must let in."""

    kind: str
    name: str
    meant: frozenset[str]

    def principal(self, two_frontends: Testbed) -> policy.Principal:
        """In the words of a policy."""
        spiffe_id = two_frontends.scenario.spiffe_id(self.name)
        return policy.exactly(spiffe_id) if self.kind == "exact" else policy.below(spiffe_id)


EXACT = Row("exact", "frontend", frozenset({"frontend"}))
CHARACTERS = frozenset({"frontend", "frontend-2", "frontend/v1", "frontends/v1"})
ROWS = [
    pytest.param(EXACT, id="exact"),
    pytest.param(Row("prefix", "frontend", CHARACTERS), id="prefix-without-slash"),
    pytest.param(Row("prefix", "frontend/", frozenset({"frontend/v1"})), id="prefix-with-slash"),
]


@pytest.fixture(scope="session")
def _all_are_let_in_without(two_frontends: Testbed) -> None:
    """Control: without a policy that listener lets in every one of these IDs, even an odd one."""
    forged = two_frontends.capabilities & {Capability.OWN_TRUST_ROOT}
    names = [str(p.values[0]) for p in IDS if forged or not p.marks]
    with two_frontends.quiet():
        for name in names:
            assert_let_in(_ask(two_frontends, name))


@pytest.fixture
def _quietly(two_frontends: Testbed, _all_are_let_in_without: None) -> Iterator[None]:
    with two_frontends.quiet():
        yield


@requirement("RBAC-8")
@pytest.mark.usefixtures("_quietly")
@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("row", ROWS)
def test_principal_means_whom_it_says(
    two_frontends: Testbed, row: Row, name: str, saw: Saw
) -> None:
    """An exact principal matches one ID; a prefix matches every ID with that prefix."""
    backend = two_frontends.workload("backend")

    with two_frontends.enforcing("backend", policy.allow(row.principal(two_frontends))):
        before, decided = backend.app.count(), backend.decisions()
        exchange = _ask(two_frontends, name)

        if name in row.meant:
            assert_let_in(exchange)
        else:
            assert_forbidden(exchange)
        reached = backend.app.count() - before
        assert reached == (name in row.meant), f"{reached} requests reached the app"
        counter = "allowed" if name in row.meant else "denied"
        assert_decided(backend, decided, {counter: 1})
    saw(f"{row.kind} …/{row.name}, client …/{name}: {exchange}")


def _ask(two_frontends: Testbed, name: str) -> Exchange:
    """Ask as one of the frontends, or with a flawless credential for another ID."""
    if name in two_frontends.workloads:
        credential = two_frontends.workload(name).svid()
    else:
        credential = two_frontends.forge.valid(two_frontends.scenario.spiffe_id(name))
    backend = two_frontends.workload("backend")
    return two_frontends.prober.get(backend, PATH, door=DOOR, credential=credential)
