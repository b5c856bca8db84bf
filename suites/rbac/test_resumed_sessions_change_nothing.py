"""TLS session resumption does not change the result of a policy.

Envoy has been known to know a resumed client by one kind of principal and not by another, which
shows as answers that are wrong by and by. So there are many requests, each over a connection of its
own, and proof on both sides of which of them resumed a session and which shook hands in full.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from svidproof import Exchange, Saw, Testbed, Version, policy, requirement
from svidproof.checks import Accepted, Denied, assert_forbidden, assert_let_in
from svidproof.sessions import Client

NAMED, OTHER = "frontend", "frontend-2"
PATH = "/balances/alice"
ROTATIONS = 2  # of the sidecar's SVID in a row of requests; each makes a session worthless
# What Envoy gets wrong by the newer extension it gets wrong every time: fewer tries show it.
PRINCIPALS = [
    pytest.param(policy.exactly, 200, id="name", marks=requirement("RBAC-9")),
    pytest.param(policy.validated, 50, id="validated", marks=requirement("RBAC-10")),
]
# The same policy said in two ways: the one frontend is let in, and the other is not.
KINDS = ["allow", "deny"]
CLIENTS = [pytest.param(NAMED, id="let-in"), pytest.param(OTHER, id="refused")]
# The door, the version, and its share of the tries: sessions are another thing in each version.
SESSIONS = [
    pytest.param("inbound", Version.TLS1_3, 1, id="full"),
    pytest.param("resuming", Version.TLS1_2, 2, id="resumed-tls12"),
    pytest.param("resuming", Version.TLS1_3, 2, id="resumed-tls13"),
]


@dataclass(frozen=True)
class Row:
    """Many requests of one client, each over a connection of its own.

    Attributes:
        asked: those that count.
        beside: the first, by which the session is made, and those by which it is made anew.
        counters: by how much the TLS counters of the listener have moved.
        reached: how many reached the app.
    """

    asked: tuple[Exchange, ...]
    beside: tuple[Exchange, ...]
    counters: dict[str, int]
    reached: int

    def __str__(self) -> str:
        """What they were answered, counted."""
        answers = Counter(str(e.status or e) for e in self.asked)
        counted = ", ".join(f"{status} {count} times" for status, count in answers.items())
        return f"{counted}; resumed {sum(e.resumed for e in self.asked)} of {len(self.asked)}"


@pytest.mark.usefixtures("both_are_let_in_without")
@pytest.mark.parametrize(("door", "version", "share"), SESSIONS)
@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("principal", "tries"), PRINCIPALS)
def test_no_answer_is_wrong(
    two_frontends: Testbed,
    *,
    principal: Callable[[str], policy.Principal],
    tries: int,
    kind: str,
    name: str,
    door: str,
    version: Version,
    share: int,
    saw: Saw,
) -> None:
    """Every request of a long series gets the policy's answer, resumed or not."""
    named, other = map(two_frontends.scenario.spiffe_id, (NAMED, OTHER))
    rules = policy.allow(principal(named)) if kind == "allow" else policy.deny(principal(other))
    backend = two_frontends.workload("backend")
    client = Client(backend.door(door), two_frontends.workload(name).svid(), version)

    with two_frontends.enforcing("backend", rules):
        row = _ask(two_frontends, client, door, tries // share)

    _assert_sessions(row, resumed=door == "resuming", tries=tries // share)
    _assert_right(row, name)
    saw(f"{row}")


def _ask(two_frontends: Testbed, client: Client, door: str, tries: int) -> Row:
    backend = two_frontends.workload("backend")
    before = backend.tally()
    beside, asked = [client.get(PATH)], list[Exchange]()
    for _ in range(tries + ROTATIONS):
        exchange = client.get(PATH)
        # The sidecar gives up its sessions when its own SVID is renewed.
        renewed = exchange.peer_chain != beside[-1].peer_chain
        (beside if renewed and not exchange.resumed else asked).append(exchange)
        if len(asked) == tries:
            break
    now = backend.tally()
    prefix = f"listener.{door}.ssl."
    moved = {
        name.removeprefix(prefix): value - before.counters.get(name, 0)
        for name, value in now.counters.items()
        if name.startswith(prefix)
    }
    moved = {name: steps for name, steps in moved.items() if steps}
    return Row(tuple(asked), tuple(beside), moved, now.requests - before.requests)


def _assert_sessions(row: Row, *, resumed: bool, tries: int) -> None:
    """Client and sidecar agree on how many sessions were resumed: all of them, or none."""
    assert len(row.asked) == tries, f"only {len(row.asked)} requests in a row: {row.beside[-1]}"
    wanted = tries if resumed else 0
    count = sum(exchange.resumed for exchange in row.asked)
    assert count == wanted, f"the client resumed {count} sessions of {tries}, not {wanted}"
    assert not any(exchange.resumed for exchange in row.beside)
    expected = {"handshake": len(row.asked) + len(row.beside), "session_reused": wanted}
    expected = {name: steps for name, steps in expected.items() if steps}
    assert row.counters == expected, f"the sidecar counted {row.counters}, not {expected}"


def _assert_right(row: Row, name: str) -> None:
    """Every answer is the one that the client must get; and what was refused reached nobody."""
    right = {NAMED: 200, OTHER: 403}[name]
    for exchange in row.beside:
        assert exchange.status == right, f"without resumption {name} got {exchange}"
    if wrong := [exchange for exchange in row.asked if exchange.status != right]:
        text = f"{len(wrong)} of {len(row.asked)} requests of {name} were answered wrongly: {row}"
        statuses = {exchange.status for exchange in wrong}
        assert statuses <= {200, 403}, f"{text}; the first: {wrong[0]}"
        raise (Denied if right == 200 else Accepted)(text)
    for exchange in row.asked:
        (assert_let_in if right == 200 else assert_forbidden)(exchange)
    passed = len(row.asked) + len(row.beside) if right == 200 else 0
    assert row.reached == passed, f"{row.reached} requests reached the app, not {passed}"
