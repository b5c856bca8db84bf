"""The live page is sent the timeline as it grows: all of what is new, and never all of the past."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from svidproof.cli.up.live.stream import WINDOW_S, Drawn, Feed
from svidproof.model.clock import Moment
from svidproof.model.logs.line import LogRecord
from svidproof.model.logs.messages import messages_for
from svidproof.report.html.timeline import story
from svidproof.testbed.watch.timeline import Request, Source, Timeline

MESSAGES = messages_for("1.15.3")
WORKLOADS = ("api", "client")


@pytest.fixture
def feed() -> Feed:
    """A feed of two workloads."""
    return Feed(WORKLOADS, MESSAGES, sync_s=0.5)


@pytest.fixture
def timeline(feed: Feed) -> Timeline:
    """The timeline that fills it."""
    return Timeline(feed)


def see(timeline: Timeline, serial: int, workload: str = "api", *, age: float = 10.0) -> None:
    """See an SVID of 40 s that was signed so long ago."""
    begin = datetime.now(UTC) - timedelta(seconds=age)
    validity = (begin, begin + timedelta(seconds=40))
    timeline.sighted(Source.WORKLOAD_API, workload, serial=serial, validity=validity)


def log(timeline: Timeline, message: str, *, age: float = 0.0) -> None:
    """Have SPIRE log an error, so long ago."""
    moment = Moment.now()
    wall = moment.wall - timedelta(seconds=age)
    timeline.logged(LogRecord("spire-server", moment, wall, "error", message, {}))


def ask(timeline: Timeline, status: int = 200) -> None:
    """Have the client ask."""
    timeline.requested(Request("client", "api", "tag", Moment.now(), status, ""))


class Page:
    """What a page makes of what it is sent."""

    def __init__(self) -> None:
        """Nothing is drawn."""
        self.drawn = Drawn()
        self.rows: dict[str, dict[int, tuple[Any, ...]]] = {}

    def follow(self, feed: Feed) -> dict[str, Any]:
        """Take in what a frame changes, after its way through JSON."""
        frame = feed._draw()
        changes = self.drawn.changes(frame)
        assert json.loads(json.dumps(changes))["height"] == frame.height
        for kind, numbers in changes["gone"].items():
            for number in numbers:
                del self.rows[kind][number]
        for kind, found in changes["new"].items():
            self.rows.setdefault(kind, {}).update(found)
        for kind, columns in frame.marks.items():
            assert set(self.rows.get(kind, {}).values()) == set(
                zip(*columns.values(), strict=True)
            ), kind
        return changes


def test_a_page_has_what_a_frame_shows_whenever_it_looks(feed: Feed, timeline: Timeline) -> None:
    """Two pages, one that looks often and one that comes late, end with the same rows."""
    early, late = Page(), Page()
    early.follow(feed)
    for number in range(5):
        see(timeline, number, age=10.0 - number)
        see(timeline, 100 + number, "client", age=10.0 - number)
        log(timeline, f"trouble {number}")
        ask(timeline, 200 if number else 503)
        early.follow(feed)

    late.follow(feed)

    assert {k: sorted(v.values()) for k, v in early.rows.items() if v} == {
        k: sorted(v.values()) for k, v in late.rows.items() if v
    }
    assert len(early.rows["svid"]) == 10


def test_only_what_is_new_is_sent(feed: Feed, timeline: Timeline) -> None:
    """One more SVID is one more bar with its mark and a title, whatever was sent before."""
    page = Page()
    for number in range(9):
        see(timeline, number, age=30.0 - number)
    page.follow(feed)
    see(timeline, 99, "client")

    changes = page.follow(feed)

    assert {kind: len(rows) for kind, rows in changes["new"].items() if kind != "titles"} == {
        "svid": 1,
        "workload-api": 1,
    } | {kind: len(changes["new"][kind]) for kind in ("push", "log") if kind in changes["new"]}


def test_a_bar_stays_where_it_is_when_older_ones_are_forgotten(
    feed: Feed, timeline: Timeline
) -> None:
    """What was there first makes room without anything jumping, and lanes do not shrink."""
    see(timeline, 1, age=WINDOW_S + 39.0)
    see(timeline, 2, age=WINDOW_S + 30.0)
    see(timeline, 3, age=WINDOW_S + 20.0)
    before = feed._draw()
    assert feed._reader is not None
    feed._reader.forget(5.0 - WINDOW_S)

    after = feed._draw()

    kept = {row[4]: row[2] for row in zip(*after.marks["svid"].values(), strict=True)}
    were = {row[4]: row[2] for row in zip(*before.marks["svid"].values(), strict=True)}
    assert (len(were), len(kept)) == (3, 2)
    assert kept.items() <= were.items()
    assert after.height == before.height
    feed._reader.forget(WINDOW_S)
    assert feed._draw().height == before.height


def test_what_is_over_is_forgotten(feed: Feed, timeline: Timeline) -> None:
    """However long it runs, and whether or not anybody looks."""
    for number in range(50):
        see(timeline, number, age=WINDOW_S + 100.0)
        log(timeline, f"long ago {number}", age=WINDOW_S + 5.0)
    log(timeline, "just now")

    feed.forget()
    frame = feed.frame()

    assert frame.marks["svid"]["what"] == []
    assert [what for what in frame.marks["trouble"]["what"] if "long ago" in what] == []
    assert len(frame.marks["trouble"]["what"]) == 1


def test_a_flood_of_log_lines_is_cut(feed: Feed, timeline: Timeline) -> None:
    """A component that logs without end costs no more than a bounded number of marks."""
    for number in range(story.MOST_TICKS + 500):
        log(timeline, f"again {number}")

    feed.forget()

    assert len(feed.frame().marks["trouble"]["what"]) == story.MOST_TICKS


def test_next_rotation_follows_spires_rule(feed: Feed, timeline: Timeline) -> None:
    """An SVID of 30 s, back-dated by 10, is due with less than half of its 40 s left."""
    see(timeline, 1)

    [life] = feed.frame().lives

    assert (life.workload, life.serial) == ("api", "1")
    assert life.end - life.begin == pytest.approx(40.0)
    assert 14.0 < life.end - life.due < 23.0


def test_secrets_in_logs_are_not_drawn(feed: Feed, timeline: Timeline) -> None:
    """What a component should not have logged is left out."""
    begin, end = (f"-----{word} PRIVATE KEY-----" for word in ("BEGIN", "END"))
    log(timeline, f"{begin}\nMIIabc\n{end}")

    text = json.dumps(Drawn().changes(feed.frame()))

    assert "private key removed" in text
    assert "MIIabc" not in text


def test_timeline_of_days_is_forgotten_but_for_the_last(timeline: Timeline) -> None:
    """What was over is dropped; what each source showed last of a workload stays."""
    see(timeline, 1)
    see(timeline, 2)
    see(timeline, 3, "client")
    log(timeline, "old")
    ask(timeline)
    timeline.trusted(Source.CERTS, "api", frozenset({1}))
    timeline.trusted(Source.CERTS, "api", frozenset({2}))
    moment = Moment.now().at
    log(timeline, "new")

    timeline.forget(moment)

    assert [s.serial for s in timeline.sightings()] == [2, 3]
    assert [t.serials for t in timeline.trusts(Source.CERTS, "api")] == [frozenset({2})]
    assert [r.message for r in timeline.logs()] == ["new"]
    assert timeline.requests() == []
