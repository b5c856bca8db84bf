"""Policies change under load without a restart or a wrong answer.

All of this is asked of one row of changes, while three clients ask without a pause, and the watch
beside them: the two frontends over a new connection each time, and the one that is refused by and
by over one connection that stays open.
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
    Exchange,
    Measure,
    NotYet,
    Saw,
    Testbed,
    budgets,
    eventually,
    policy,
    requirement,
)
from svidproof.clock import Moment
from svidproof.sessions import Client
from svidproof.watch.timeline import Request

NAMED, OTHER, KEPT = "frontend", "frontend-2", "frontend-2 on an open connection"
PATH = "/balances/alice"
TURNS = 5  # a policy comes and goes
PAUSE = 0.002  # seconds between two requests of a client
LEAST = 3  # answers that each client must get under each policy


@dataclass(frozen=True)
class Answer:
    """What a client was answered, and when: seconds that never go back."""

    sent: float
    came: float
    status: int | None
    text: str


@dataclass(frozen=True)
class Change:
    """One change of policy.

    Attributes:
        status: what the other frontend is answered from then on.
        began: when its file was about to be replaced.
        known: when the sidecar had said that it is in force.
        ended: when the next was about to come.
    """

    status: int
    began: float
    known: float
    ended: float


@dataclass(frozen=True)
class Standing:
    """What a restart would change: configuration, with its times, and what the app remembers."""

    foundation: Mapping[str, Any]
    listeners: Mapping[str, int]
    requests: int
    marked: bool

    @classmethod
    def of(cls, two_frontends: Testbed, tag: str) -> "Standing":
        """What it is now; a request with this tag was sent before."""
        backend = two_frontends.workload("backend")
        return cls(
            backend.envoy.foundation(),
            backend.envoy.stats(r"^listener_manager\.(listener|total_listeners)_"),
            backend.app.count(),
            any(request.tag == tag for request in backend.app.seen()),
        )


@dataclass(frozen=True)
class Changes:
    """All that was seen."""

    changes: tuple[Change, ...]
    answers: Mapping[str, Sequence[Answer]]
    watched: Mapping[str, Sequence[Request]]
    before: Standing
    after: Standing


@pytest.fixture(scope="module")
def changes(two_frontends: Testbed) -> Changes:
    """A policy that names one frontend comes and goes, again and again, under load."""
    named, other, backend = map(two_frontends.workload, (NAMED, OTHER, "backend"))
    rules = policy.allow(policy.exactly(named.spiffe_id))
    tag, start, marks = uuid.uuid4().hex, Moment.now(), list[tuple[int, float, float]]()
    named.envoy.request("backend", PATH, tag=tag)
    before = Standing.of(two_frontends, tag)
    client = Client(backend.door("inbound"), other.svid())
    with client.connected() as connection:
        clients = {
            NAMED: lambda: named.envoy.request("backend", PATH),
            OTHER: lambda: other.envoy.request("backend", PATH),
            KEPT: lambda: connection.get(PATH),
        }
        with _asking(clients) as answers:
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
        tuple(Change(*mark, end) for mark, end in zip(marks, ends, strict=True)),
        answers,
        {name: _watched(two_frontends, name, start) for name in (NAMED, OTHER)},
        before,
        Standing.of(two_frontends, tag),
    )


@requirement("RBAC-4")
def test_nothing_is_restarted(changes: Changes) -> None:
    """The sidecar keeps its start time and listeners, and the app keeps its state."""
    before, after = changes.before, changes.after

    other = [name for name, part in before.foundation.items() if after.foundation[name] != part]
    assert not other, f"the sidecar was restarted or has other listeners: {', '.join(other)}"
    assert after.listeners == before.listeners, f"the sidecar's listeners: {after.listeners}"
    assert before.marked, "the app had not seen the first request"
    assert after.marked, "the app has forgotten what it had seen: it was restarted"
    assert after.requests > before.requests, f"the app's count: {after.requests}"


@requirement("RBAC-4")
def test_no_request_fails_meanwhile(changes: Changes, saw: Saw) -> None:
    """Every answer during policy changes is 200 or 403, and 200 for a client always allowed."""
    for name, answers in changes.answers.items():
        right = {200} if name == NAMED else {200, 403}
        wrong = [answer.text for answer in answers if answer.status not in right]
        assert not wrong, f"{len(wrong)} of {len(answers)} of {name} failed; the first: {wrong[0]}"
    for name, requests in changes.watched.items():
        right = {200} if name == NAMED else {200, 403}
        notes = [request.note for request in requests if request.status not in right]
        assert not notes, f"{len(notes)} of the watch's requests by {name} failed: {notes[0]}"
    total = sum(len(answers) for answers in changes.answers.values())
    saw(f"{total} requests during {len(changes.changes)} changes, all answered 200 or 403")


@requirement("RBAC-4")
@pytest.mark.parametrize("name", [OTHER, KEPT], ids=["new-connections", "open-connection"])
def test_each_policy_decides_while_it_is_in_force(changes: Changes, name: str, saw: Saw) -> None:
    """Every answer under a policy follows that policy, also on a connection that stays open."""
    count = 0
    for number, change in enumerate(changes.changes, 1):
        answers = [a for a in changes.answers[name] if change.known <= a.sent]
        under = [a for a in answers if a.came < change.ended]
        wrong = [a.text for a in under if a.status != change.status]
        assert len(under) >= LEAST, f"{name} got {len(under)} answers under policy {number}"
        assert not wrong, f"policy {number}: {name} was to get {change.status}, not {wrong[0]}"
        count += len(under)
    saw(f"{count} answers under {len(changes.changes)} policies, each by the one in force")


@requirement("RBAC-4")
def test_a_change_takes_effect_in_time(changes: Changes, measure: Measure, saw: Saw) -> None:
    """A replaced policy file decides the next answers within a named budget."""
    effects = []
    for number, change in enumerate(changes.changes, 1):
        came = [
            answer.came
            for name in (OTHER, KEPT)
            for answer in changes.answers[name]
            if change.began <= answer.came < change.ended and answer.status == change.status
        ]
        assert came, f"policy {number} was never in effect"
        effects.append(min(came) - change.began)

    limit = budgets.POLICY_EFFECT.seconds
    longest, typical = max(effects), statistics.median(effects)
    assert longest <= limit, f"{budgets.POLICY_EFFECT.name}: took {longest:.1f} s, not {limit:g} s"
    measure("effect of a change of policy, typical", typical * 1000, "ms")
    measure("effect of a change of policy, longest", longest * 1000, "ms")
    saw(f"{len(effects)} changes took effect in {typical * 1000:.1f} ms (median)")


@contextlib.contextmanager
def _asking(clients: Mapping[str, Callable[[], Exchange]]) -> Iterator[dict[str, list[Answer]]]:
    """Have each client ask again and again while the block runs; yields what they are answered."""
    answers: dict[str, list[Answer]] = {name: [] for name in clients}
    stop = threading.Event()

    def go_on(name: str) -> None:
        while not stop.wait(PAUSE):
            sent = time.monotonic()
            exchange = clients[name]()
            answers[name].append(Answer(sent, time.monotonic(), exchange.status, str(exchange)))

    with ThreadPoolExecutor(len(clients)) as pool:
        running = [pool.submit(go_on, name) for name in clients]
        try:
            yield answers
        finally:
            stop.set()
    for run in running:
        run.result()


def _await_answers(
    two_frontends: Testbed, answers: Mapping[str, Sequence[Answer]], since: float
) -> None:
    """Each client has asked, and was answered, some times since a moment."""

    def answered() -> None:
        for name, all_of_it in answers.items():
            count = sum(answer.sent >= since for answer in all_of_it)
            if count <= LEAST:
                raise NotYet(f"{count} answers to {name}")

    eventually(answered, budgets.UNDER_CHANGES, alive=two_frontends.assert_alive)


def _await_watch(two_frontends: Testbed, since: Moment) -> None:
    def seen() -> None:
        for name in (NAMED, OTHER):
            if (count := len(_watched(two_frontends, name, since))) < LEAST:
                raise NotYet(f"the watch has sent {count} requests by {name}")

    eventually(seen, budgets.UNDER_CHANGES, alive=two_frontends.assert_alive)


def _watched(two_frontends: Testbed, name: str, since: Moment) -> list[Request]:
    requests = two_frontends.watch.timeline.requests(name)
    return [request for request in requests if request.sent.at >= since.at]
