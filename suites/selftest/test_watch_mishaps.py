"""A watcher that fails goes on, what it missed is an error of those who ask, and never red."""

from __future__ import annotations

import contextlib
import io
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import grpc
import pytest

from svidproof import Budget, NotYet, eventually, tls, workload_api
from svidproof.components.envoy import BUNDLE, Certs, Secret
from svidproof.credentials import Authority, Template
from svidproof.faults import Malformed, Unreadable, Unseen
from svidproof.mishaps import Mishaps
from svidproof.outcome import Result
from svidproof.scenario import load_scenario
from svidproof.tls import Exchange
from svidproof.watch import Moment, Source, Watch
from svidproof.watch.attention import LOGS, OWN_LAG, REQUESTS, Attention
from svidproof.watch.logs import parse_line
from svidproof.watch.observation import LAG
from svidproof.watch.timeline import Timeline
from svidproof.workload_api import Answer, X509Svid

from .claims import failures, results
from .synthetic import AGENT, INVALID, VALID, World, mint, moment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SOON = Budget("the watch looks again", 10, 0.01)
ROOT = Authority.create("root", "example.org")
SVID = ROOT.issue("api", Template(uris=("spiffe://example.org/ns/default/sa/api",)))


class Broken:
    """Fails once, when it is told to, and works otherwise."""

    def __init__(self, work: Callable[..., Any]) -> None:
        """It works."""
        self._work = work
        self.error: Exception | None = None
        self.calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Work, or fail."""
        self.calls += 1
        error, self.error = self.error, None
        if error is not None:
            raise error
        return self._work(*args, **kwargs)


class Streams:
    """Streams of the Workload API that a test speaks on."""

    opened: list[Streams]

    def __init__(
        self, _: str, on_answer: Callable[[Answer], None], *, name: str,
        on_failure: Callable[[Exception], None],
    ) -> None:  # fmt: skip
        """Deliver at once, as an agent does."""
        self.name, self.on_answer, self.on_failure, self.ended = name, on_answer, on_failure, False
        type(self).opened.append(self)
        self.say()

    def say(self) -> None:
        """Deliver an SVID."""
        uri = SCENARIO.spiffe_id("api")
        svid = X509Svid(uri, SVID.chain, b"", (ROOT.certificate,), "")
        try:
            self.on_answer(Answer(grpc.StatusCode.OK, "", (svid,), messages=1))
        except Exception as error:  # noqa: BLE001  as X509Stream does
            self.ended = True
            self.on_failure(error)

    def close(self) -> None:
        """Nothing runs."""


SCENARIO = load_scenario("api")


class Ground:
    """A watch of one sidecar, each of whose sources a test can break."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, artifacts: Path) -> None:
        """Everything works."""
        self.mishaps = Mishaps()
        self.mishaps.open(artifacts)
        secrets = {
            SCENARIO.spiffe_id("api"): Secret("svid", "1", SVID.chain),
            BUNDLE: Secret(BUNDLE, "1", (ROOT.certificate,)),
        }
        self.admin = Broken(lambda: (Certs((), ()),))
        self.logs = Broken(lambda _c, offset: b'{"msg": "one"}\n'[offset:])
        self.request = Broken(lambda *_, **__: Exchange(200))
        self.wire = Broken(lambda *_, **__: Exchange(200, peer_chain=SVID.chain))
        self.line = Broken(parse_line)
        Streams.opened = []
        monkeypatch.setattr(tls, "get", self.wire)
        monkeypatch.setattr(workload_api, "X509Stream", Streams)
        monkeypatch.setattr("svidproof.watch.logs.parse_line", self.line)
        envoy = SimpleNamespace(
            workload_api=lambda: "unix:nowhere", certs=self.admin, secrets=lambda: secrets
        )
        platform = SimpleNamespace(read_log=self.logs, reach=lambda *_: ("127.0.0.1", 1))
        self.file = io.StringIO()
        self.watch = Watch(
            cast("Any", platform), SCENARIO, ("spire-agent",), self.file, self.mishaps
        )
        self.watch.follow(cast("Any", {"api": envoy}), lambda: SVID, {})
        self.watch.follow_client("api", "call", self.request, 0.02)

    def breaks(self, source: Broken, error: Exception) -> None:
        """Have a source fail once, and wait until it has been looked at again since."""
        source.error = error
        calls = source.calls

        def again() -> None:
            if source.calls < calls + 3:
                raise NotYet(f"{source.calls} looks")

        eventually(again, SOON)


@pytest.fixture
def ground(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Ground]:
    """A watch at which everything works."""
    made = Ground(monkeypatch, tmp_path)
    with contextlib.closing(made.watch):
        yield made


WATCHERS = {
    "admin": {(Source.CERTS, "api"), (Source.SECRETS, "api")},
    "wire": {(Source.WIRE, "api")},
    "request": {(REQUESTS, "api")},
}
VIEWS = (*((s, "api") for s in Source if s is not Source.FILES), (REQUESTS, "api"))


def missed(watch: Watch) -> set[tuple[Source | str, str]]:
    """The views of which something was missed."""
    found: set[tuple[Source | str, str]] = set()
    for view in VIEWS:
        try:
            watch.attention.assert_seen([view])
        except Unseen:
            found.add(view)
    return found


@pytest.mark.parametrize("name", WATCHERS)
@pytest.mark.parametrize(
    "error",
    [TypeError("x"), KeyError("x"), UserWarning("x"), OSError(24, "x"), Unreadable("x", b"0")],
    ids=lambda error: type(error).__name__,
)
def test_watcher_that_fails_goes_on(
    ground: Ground, tmp_path: Path, name: str, error: Exception
) -> None:
    """It looks again; only what it missed is an error; line and traceback are kept."""
    ground.breaks(getattr(ground, name), error)

    assert missed(ground.watch) == WATCHERS[name]
    assert ground.watch.errors == []
    [line] = ground.mishaps.lines
    assert line.startswith("the suite itself failed at api ")
    assert type(error).__name__ in line
    [file] = (tmp_path / "watch").iterdir()
    assert line.endswith(f"see artifacts/watch/{file.name}")
    assert "Traceback" in file.read_text()


def test_gap_is_over_when_it_sees_again(ground: Ground) -> None:
    """What happens after the gap can be judged, and what happened before it."""
    before = Moment.now().at
    ground.breaks(ground.wire, TypeError("x"))
    view = [(Source.WIRE, "api")]

    ground.watch.attention.assert_seen(view, since=Moment.now().at)
    ground.watch.attention.assert_seen(view, until=before)
    with pytest.raises(Unseen, match=r"watch of wire failed from \d\d:.* to \d\d:.*: TypeError: x"):
        ground.watch.timeline.sightings(Source.WIRE, "api")
    assert ground.watch.timeline.sightings(Source.WIRE, "api", partial=True)


@pytest.mark.parametrize("error", [NotYet("HTTP 503"), Malformed("no JSON")], ids=["no", "bad"])
@pytest.mark.parametrize("name", WATCHERS)
def test_component_that_does_not_answer_is_to_blame(
    ground: Ground, name: str, error: Exception
) -> None:
    """What a component did is for checks to judge, and no mishap."""
    ground.breaks(getattr(ground, name), error)

    assert [text.rpartition(": ")[2] for text in ground.watch.errors] == [str(error)]
    assert ground.mishaps.lines == []
    assert missed(ground.watch) == set()


def test_stream_is_opened_again(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure in the thread of a stream costs that stream, and another is opened."""
    delivered = Broken(ground.watch.timeline.delivered)
    monkeypatch.setattr(ground.watch.timeline, "delivered", delivered)
    delivered.error = TypeError("x")

    Streams.opened[0].say()

    def reopened() -> None:
        if len(Streams.opened) < 2:
            raise NotYet("one stream")

    eventually(reopened, SOON)
    assert missed(ground.watch) == {(Source.WORKLOAD_API, "api")}
    assert ground.watch.errors == []
    ground.watch.attention.assert_seen([(Source.WORKLOAD_API, "api")], since=Moment.now().at)


def test_stream_that_brings_nonsense_is_not_opened_again(ground: Ground) -> None:
    """A malformed message is the agent's fault."""
    Streams.opened[0].on_failure(Malformed("this is not a certificate"))

    assert ground.watch.errors == ["workload-api of api: this is not a certificate"]
    assert missed(ground.watch) == set()
    assert len(Streams.opened) == 1


def test_log_that_cannot_be_read_for_a_while_is_read_later(ground: Ground) -> None:
    """Nothing of a log is lost by a failure to fetch it: it is a mishap, and no gap."""
    ground.breaks(ground.logs, OSError(5, "x"))

    ground.watch.catch_up()
    assert [r.message for r in ground.watch.timeline.logs("spire-agent")] == ["one"]
    assert len(ground.mishaps.lines) == 1


def test_line_that_the_parser_fails_at_is_an_error(ground: Ground) -> None:
    """Whoever asks about a log of which a line was lost gets no answer; others do."""
    ground.line.error = TypeError("x")
    ground.logs._work = lambda _c, offset: b'{"msg": "one"}\n{"msg": "two"}\n'[offset:]
    eventually(lambda: _assert_mishap(ground), SOON)

    with pytest.raises(Unseen, match=r"the log of spire-agent failed .*: TypeError: x"):
        ground.watch.timeline.logs("spire-agent")
    assert ground.watch.timeline.logs("spire-server") == []


def _assert_mishap(ground: Ground) -> None:
    if not ground.mishaps.lines:
        raise NotYet("nothing has gone wrong")


def test_full_disk_costs_the_timelines_file_only(ground: Ground) -> None:
    """A timeline that cannot be written is still asked, and its loss is told once."""
    ground.file.close()

    eventually(lambda: _assert_mishap(ground), SOON)
    ground.breaks(ground.wire, NotYet("nothing"))

    [line] = ground.mishaps.lines
    assert "timeline-jsonl.txt" in line
    assert ground.watch.timeline.requests("api")
    assert missed(ground.watch) == set()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("closed")])
def test_timeline_tells_once_that_it_cannot_be_written(error: Exception) -> None:
    """The first failure is told; then nothing is written any more."""
    told: list[Exception] = []
    write = Broken(lambda _: None)
    timeline = Timeline(cast("Any", SimpleNamespace(write=write)), told.append)

    for _ in range(3):
        write.error = error
        timeline.shook_hands("api", 0.1)

    assert (told, write.calls) == ([error], 1)


def test_closing_goes_on_after_a_failure(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that cannot be closed, or a log that cannot be read, keeps nothing open."""
    closed: list[str] = []

    def close(stream: Streams) -> None:
        closed.append(stream.name)
        raise RuntimeError("x")

    monkeypatch.setattr(Streams, "close", close)
    monkeypatch.setattr(ground.watch, "catch_up", Broken(lambda: None))
    cast("Broken", ground.watch.catch_up).error = OSError("y")

    ground.watch.close()

    assert closed == ["watch api"]
    assert not [thread for thread in ground.watch._threads if thread.is_alive()]


def test_tracebacks_hold_no_private_key(tmp_path: Path) -> None:
    """What is kept of a failure is redacted, in line and file."""
    mishaps = Mishaps()
    mishaps.open(tmp_path)
    secret = SVID.key_pem.decode()

    mishaps.record("somewhere", ValueError(secret))

    body = secret.splitlines()[1]
    assert body not in mishaps.lines[0]
    assert body not in (tmp_path / "watch" / "somewhere.txt").read_text()


def test_artifacts_that_cannot_be_written_are_done_without(tmp_path: Path) -> None:
    """A full disk under the artifacts leaves the line."""
    mishaps = Mishaps()
    (tmp_path / "file").touch()
    mishaps.open(tmp_path / "file")

    assert mishaps.record("somewhere", TypeError("x")) == "TypeError: x"
    mishaps.record("somewhere", TypeError("x"))

    assert "failed at somewhere (2 times): TypeError: x" in mishaps.lines[0]


# What the checks make of it.

ERRORS, PUSHED = "test_no_component_logs_an_unprovoked_error", "test_each_push_is_acknowledged"
FATAL = {
    (Source.WORKLOAD_API, "api"), (Source.CERTS, VALID), (Source.SECRETS, INVALID),
    (Source.WIRE, "api"), (REQUESTS, VALID), (REQUESTS, INVALID), (LOGS, AGENT),
}  # fmt: skip


@pytest.mark.parametrize("view", sorted(FATAL, key=str), ids=str)
@pytest.mark.parametrize("sound", [True, False], ids=["sound", "broken"])
def test_gap_makes_errors_of_those_who_ask(view: tuple[Any, str], *, sound: bool) -> None:
    """Checks that need the gap are errors, whatever they would have said; the others judge."""
    world, (kind, name) = World(), view
    if not sound:
        # All that would have been seen of it is missing, as if the component had done nothing.
        world.looks = [look for look in world.looks if (look.source, look.workload) != view]
        world.requests = [r for r in world.requests if (REQUESTS, r.client) != view]
        world.logs = [record for record in world.logs if (LOGS, record.component) != view]
        assert failures(world.observation()), "it would be red without the gap"
    observation = world.observation()
    observation.timeline.attention.failed("x", [view], moment(12), "TypeError: x")
    observation.timeline.attention.sees([view], moment(15))

    found = results(observation)

    assert {check for check, seen in found.items() if Result.FAIL in seen} == set()
    assert any(Result.ERROR in seen for seen in found.values())
    assert any(seen == {Result.PASS} for seen in found.values()), f"{kind} of {name} is not all"


@pytest.mark.parametrize("view", sorted(FATAL, key=str), ids=str)
def test_gap_after_the_window_does_not_matter(view: tuple[Any, str]) -> None:
    """A failure after the window's end is no error of what was asked about the window."""
    observation = World().observation()
    observation.timeline.attention.failed("x", [view], moment(99), "TypeError: x")

    found = results(observation)

    errors = {check for check, seen in found.items() if seen != {Result.PASS}}
    # These two ask the whole timeline.
    whole = {LOGS: {ERRORS}, Source.WORKLOAD_API: {PUSHED}}
    assert errors == whole.get(view[0], set())


def test_lateness_of_the_watch_is_taken_off() -> None:
    """What would have been seen in time, had the watch looked in time, is in time."""
    attention, view = Attention(), (Source.WIRE, "api")
    attention.begins([view], 0.5, 10.0)
    assert attention.own_delay(view, 10.2) == pytest.approx(0.2)
    attention.begins([view], 0.5, 14.0)

    # Due at 10.5, seen at 14.25.
    assert attention.own_delay(view, 14.25) == pytest.approx(3.75)
    assert attention.took(view, 14.25) == pytest.approx(0.25)
    attention.begins([view], 0.5, 14.5)
    assert attention.own_delay(view, 14.5) == pytest.approx(0.0)
    assert attention.own_delay((Source.CERTS, "api"), 99.0) == 0


def test_stalls_of_the_machine_are_measured() -> None:
    """Only the part of a stall that lies in the time that is asked about counts."""
    attention = Attention()
    attention.stalled_between(10.0, 12.0)
    attention.stalled_between(20.0, 20.01)

    assert attention.stalled(0, 99) == pytest.approx(2.0)
    assert attention.stalled(11.5, 99) == pytest.approx(0.5)
    assert attention.stalled(19, 99) == 0


@pytest.mark.parametrize(
    ("lag", "stall", "result"),
    [
        pytest.param(LAG + 1, 0.0, Result.FAIL, id="component-late"),
        pytest.param(LAG + 1, 0.5, Result.FAIL, id="stall-too-short-to-excuse"),
        pytest.param(LAG + 1, 2.0, Result.PASS, id="machine-late"),
        pytest.param(LAG + 4, OWN_LAG + 0.5, Result.ERROR, id="nobody-can-tell"),
        pytest.param(LAG + 4, 2.0, Result.FAIL, id="both-late"),
    ],
)
def test_stall_excuses_just_as_much(lag: float, stall: float, result: Result) -> None:
    """A view may lag by as much more as the machine stood still in that time, and no more."""
    world = World()
    came = world.came("api", 2)
    world.show(Source.CERTS, "api", came, came + lag, world.issues["api"][1])
    observation = world.observation()
    at = moment(came).at + 0.1
    observation.timeline.attention.stalled_between(at, at + stall)

    assert results(observation)["test_all_views_of_an_svid_agree"] - {Result.PASS} == (
        {result} - {Result.PASS}
    )


def test_renewal_before_the_stream_was_opened_is_at_the_edge() -> None:
    """An SVID that was renewed while the sidecars started is known to the logs only: no matter."""
    world = World()
    own, texts = world.scenario.spiffe_id("api"), world.messages
    # The first SVID that the watch is given is the second one that was made.
    first = mint("api", -8.0)
    facts = {"entry_id": world.entry("api"), "spiffe_id": own}
    ended = f"{first.leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
    world.log("spire-server", -8.0, "debug", texts.signed, **facts, expiration=ended,
              serial_num=str(first.serial))  # fmt: skip
    world.log(AGENT, -7.99, "debug", texts.updated, entry=world.entry("api"), spiffe_id=own)
    world.log(AGENT, -0.01, "info", texts.renewing, **facts, expires_at=ended)
    pushed = {"pid": 100, "method": "StreamSecrets", "nonce": "early", "version_info": "0"}
    world.log(AGENT, -6.0, "debug", texts.sds_response, **pushed, count=1)
    world.log(AGENT, -5.9, "debug", texts.sds_request, **pushed, resource_names=[own])
    world.logs.sort(key=lambda record: record.wall)

    assert failures(world.observation()) == {}


def test_renewal_at_the_end_of_the_window_is_at_the_edge() -> None:
    """What is told before the window's end, and delivered after it, is one too many for nobody."""
    world = World()
    cutoff = moment(world.cutoff)
    world.issues["api"].append(mint("api", 32.0))
    world.tell()
    # All its lines are from before 32.2, but the thread that gets it is not run until 33.
    world.looks = [
        replace(look, at=33.0)
        if (look.source, look.at) == (Source.WORKLOAD_API, world.came("api", 4))
        else look
        for look in world.looks
    ]
    late = replace(world.observation(), cutoff=cutoff, end=moment(32.2), shortfall=None)

    assert len(late.rotations("api")) == 3
    assert failures(late) == {}


def test_delivery_that_is_late_takes_the_next_lines_in() -> None:
    """A last SVID that the watch is given late does not count the lines of the next one as its."""
    world = World()
    cutoff = moment(33.5)
    world.issues["api"].append(mint("api", 32.0))
    world.tell()
    came = world.came("api", 3), world.came("api", 4)
    world.looks = [
        replace(look, at={came[0]: 32.3, came[1]: 34.0}[look.at])
        if (look.source, look.workload) == (Source.WORKLOAD_API, "api") and look.at in came
        else look
        for look in world.looks
    ]
    late = replace(world.observation(), cutoff=cutoff, end=moment(36), shortfall=None)

    told = failures(late)

    for check in ("test_no_renewal_is_told_that_did_not_happen", "test_cache_tells_each_update"):
        assert check not in told, told[check]


def test_lines_of_mishaps_are_single_lines() -> None:
    """A line has no line breaks, whatever was raised."""
    mishaps = Mishaps()

    mishaps.record("somewhere", ValueError("two\nlines"))

    [line] = mishaps.lines
    assert line.startswith("the suite itself failed at somewhere: ValueError: two lines; see ")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_crash_of_a_watch_concerns_the_checks_of_its_scenario() -> None:
    """Those whose evidence was gathered then, and else the next one; nobody else's."""
    mishaps = Mishaps()
    with mishaps.catching():
        before = Moment.now().at
        for scenario in ("api", None):
            thread = threading.Thread(target=lambda: 1 / 0, name=f"of {scenario}")
            if scenario:
                mishaps.owned(thread, scenario)
            thread.start()
            thread.join()
        after = Moment.now().at

    def told(spans: list[tuple[float, float]], scenario: str) -> list[str]:
        return [line.split("'")[-2] for line in mishaps.crashes(spans, {scenario})]

    assert told([], "greeter") == ["of None"]
    assert told([(after, after)], "api") == ["of api"]
    assert told([(after, after)], "api") == []
    assert told([(before, after)], "greeter") == ["of None"]
    assert told([(after, after), (before, after)], "api") == ["of api", "of None"]
