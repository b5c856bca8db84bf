"""Policies change under load without a restart or a wrong answer.

All checks read one series of policy changes. During it three clients send requests without a pause,
in addition to the watch: both frontends over a new connection each time, and the second frontend
over one connection that stays open.
"""

import contextlib
import statistics
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from svidproof import (
    Measure,
    NotYet,
    Request,
    Saw,
    Testbed,
    Timestamp,
    budgets,
    eventually,
    rbac,
    requirement,
)
from svidproof.probes import Exchange, SessionClient

FRONTEND, OTHER, KEPT = "frontend", "frontend-2", "frontend-2 on an open connection"
PATH = "/balances/alice"
TURNS = 5  # times that the policy is enforced and removed
PAUSE = 0.002  # seconds between two requests of a client
LEAST = 3  # answers that each client must get under each policy


@dataclass(frozen=True)
class Answer:
    """One answer to a client; times are seconds on the monotonic clock."""

    sent: float
    came: float
    status: int | None
    text: str


@dataclass(frozen=True)
class Change:
    """One change of policy.

    Attributes:
        status: the HTTP status of the second frontend's requests from then on.
        began: just before the policy file was replaced.
        known: when the sidecar reported that the policy was in force.
        ended: just before the next change.
    """

    status: int
    began: float
    known: float
    ended: float


@dataclass(frozen=True)
class Uptime:
    """What a restart would change: static configuration and its times, and the app's memory."""

    static_config: Mapping[str, Any]
    listeners: Mapping[str, int]
    requests: int
    marked: bool

    @classmethod
    def of(cls, two_frontends: Testbed, tag: str) -> "Uptime":
        """Record the present state; a request with this tag was sent before."""
        backend = two_frontends.workload("backend")
        return cls(
            backend.envoy.static_config(),
            backend.envoy.stats(r"^listener_manager\.(listener|total_listeners)_"),
            backend.app.count(),
            any(request.tag == tag for request in backend.app.seen()),
        )


@dataclass(frozen=True)
class Changes:
    """The record of all policy changes and of all answers."""

    testbed: Testbed
    changes: tuple[Change, ...]
    answers: Mapping[str, Sequence[Answer]]
    watched: Mapping[str, Sequence[Request]]
    before: Uptime
    after: Uptime


@pytest.fixture(scope="module")
def changes(two_frontends: Testbed) -> Changes:
    """A policy that allows only the first frontend is enforced and removed several times."""
    frontend, other, backend = map(two_frontends.workload, (FRONTEND, OTHER, "backend"))
    rules = rbac.allow(rbac.exactly(frontend.spiffe_id))
    tag, start, marks = uuid.uuid4().hex, Timestamp.now(), list[tuple[int, float, float]]()
    frontend.envoy.request("backend", PATH, tag=tag)
    before = Uptime.of(two_frontends, tag)
    client = SessionClient(backend.listener("inbound"), other.svid())
    with client.connected() as connection:
        clients = {
            FRONTEND: lambda: frontend.envoy.request("backend", PATH),
            OTHER: lambda: other.envoy.request("backend", PATH),
            KEPT: lambda: connection.get(PATH),
        }
        with _requesting(clients) as answers:
            _await_answers(two_frontends, answers, time.monotonic())
            for _ in range(TURNS):
                began = time.monotonic()
                with two_frontends.enforcing("backend", rules):
                    marks.append((403, began, time.monotonic()))
                    _await_answers(two_frontends, answers, time.monotonic())
                    began = time.monotonic()
                marks.append((200, began, time.monotonic()))
                _await_answers(two_frontends, answers, time.monotonic())
            _await_watch(two_frontends, start)
    ends = [*(began for _, began, _ in marks[1:]), time.monotonic()]
    return Changes(
        two_frontends,
        tuple(Change(*mark, end) for mark, end in zip(marks, ends, strict=True)),
        answers,
        {name: _watched(two_frontends, name, start) for name in (FRONTEND, OTHER)},
        before,
        Uptime.of(two_frontends, tag),
    )


@requirement("RBAC-4")
def test_sidecar_and_app_are_not_restarted(changes: Changes) -> None:
    """The sidecar keeps its start time and listeners, and the app keeps its state."""
    before, after = changes.before, changes.after

    changed = [
        name for name, part in before.static_config.items() if after.static_config[name] != part
    ]
    assert not changed, f"the sidecar was restarted or has other listeners: {', '.join(changed)}"
    assert after.listeners == before.listeners, f"the sidecar's listeners: {after.listeners}"
    assert before.marked, "the app did not receive the first request"
    assert after.marked, "the app no longer remembers the first request: it was restarted"
    assert after.requests > before.requests, f"the app's count: {after.requests}"


@requirement("RBAC-4")
def test_no_request_fails_during_changes(changes: Changes, saw: Saw) -> None:
    """Every answer during policy changes is 200 or 403, and 200 for a client always allowed."""
    for name, answers in changes.answers.items():
        right = {200} if name == FRONTEND else {200, 403}
        wrong = [answer.text for answer in answers if answer.status not in right]
        assert not wrong, f"{len(wrong)} of {len(answers)} of {name} failed; the first: {wrong[0]}"
    for name, requests in changes.watched.items():
        right = {200} if name == FRONTEND else {200, 403}
        notes = [request.note for request in requests if request.status not in right]
        assert not notes, f"{len(notes)} of the watch's requests by {name} failed: {notes[0]}"
    total = sum(len(answers) for answers in changes.answers.values())
    saw(f"{total} requests during {len(changes.changes)} changes, all answered 200 or 403")


@requirement("RBAC-4")
@pytest.mark.parametrize("name", [OTHER, KEPT], ids=["new-connections", "open-connection"])
def test_policy_in_force_decides_every_request(changes: Changes, name: str, saw: Saw) -> None:
    """Every answer under a policy follows that policy, also on a connection that stays open."""
    count = 0
    for number, change in enumerate(changes.changes, 1):
        answers = [a for a in changes.answers[name] if change.known <= a.sent]
        under = [a for a in answers if a.came < change.ended]
        wrong = [a.text for a in under if a.status != change.status]
        assert len(under) >= LEAST, f"{name} got {len(under)} answers under policy {number}"
        assert not wrong, f"policy {number}: expected {change.status} for {name}, got {wrong[0]}"
        count += len(under)
    saw(f"{count} answers under {len(changes.changes)} policies, each by the one in force")


@requirement("RBAC-4")
def test_change_takes_effect_in_time(changes: Changes, measure: Measure, saw: Saw) -> None:
    """A replaced policy file decides the next answers within a named budget."""
    attention, limit = changes.testbed.watch.attention, budgets.POLICY_EFFECT.seconds
    effects = []
    for number, change in enumerate(changes.changes, 1):
        came = [
            answer.came
            for name in (OTHER, KEPT)
            for answer in changes.answers[name]
            if change.began <= answer.came < change.ended and answer.status == change.status
        ]
        assert came, f"policy {number} was never in effect"
        effects.append(attention.lag(change.began, min(came), bound=limit))

    longest, typical = max(effects), statistics.median(effects)
    assert longest <= limit, f"{budgets.POLICY_EFFECT.name}: took {longest:.1f} s, not {limit:g} s"
    measure("effect of a change of policy, typical", typical * 1000, "ms")
    measure("effect of a change of policy, longest", longest * 1000, "ms")
    saw(f"{len(effects)} changes took effect in {typical * 1000:.1f} ms (median)")


@contextlib.contextmanager
def _requesting(clients: Mapping[str, Callable[[], Exchange]]) -> Iterator[dict[str, list[Answer]]]:
    """Have each client send requests while the block runs; yields their answers."""
    answers: dict[str, list[Answer]] = {name: [] for name in clients}
    stop = threading.Event()

    def request_on(name: str) -> None:
        while not stop.wait(PAUSE):
            sent = time.monotonic()
            exchange = clients[name]()
            answers[name].append(Answer(sent, time.monotonic(), exchange.status, str(exchange)))

    with ThreadPoolExecutor(len(clients)) as pool:
        running = [pool.submit(request_on, name) for name in clients]
        try:
            yield answers
        finally:
            stop.set()
    for run in running:
        run.result()


def _await_answers(
    two_frontends: Testbed, answers: Mapping[str, Sequence[Answer]], since: float
) -> None:
    """Wait until each client got some answers to requests that it sent since a moment."""

    def answered() -> None:
        for name, received in answers.items():
            count = sum(answer.sent >= since for answer in received)
            if count <= LEAST:
                raise NotYet(f"{count} answers to {name}")

    eventually(answered, budgets.UNDER_CHANGES, alive=two_frontends.assert_alive)


def _await_watch(two_frontends: Testbed, since: Timestamp) -> None:
    def seen() -> None:
        for name in (FRONTEND, OTHER):
            if (count := len(_watched(two_frontends, name, since))) < LEAST:
                raise NotYet(f"the watch has sent {count} requests by {name}")

    eventually(seen, budgets.UNDER_CHANGES, alive=two_frontends.assert_alive)


def _watched(two_frontends: Testbed, name: str, since: Timestamp) -> list[Request]:
    requests = two_frontends.watch.timeline.requests(name)
    return [request for request in requests if request.sent.at >= since.at]
