"""Log lines of every kind become records, and none is lost, split or read twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, cast

import pytest

from svidproof.model.clock import Moment
from svidproof.model.logs.line import parse_line, parse_time
from svidproof.testbed.watch.logs import LogFollower
from svidproof.testbed.watch.timeline import Timeline

if TYPE_CHECKING:
    from svidproof.platforms.protocol import Platform

SEEN = Moment(10.0, datetime(2026, 5, 1, 12, 0, tzinfo=UTC))

TIMES = [
    pytest.param("2026-05-01T11:59:58Z", 0, id="seconds"),
    pytest.param("2026-05-01T11:59:58.5Z", 500_000, id="tenths"),
    pytest.param("2026-05-01T11:59:58.123456789Z", 123_456, id="nanoseconds"),
    pytest.param("2026-05-01T11:59:58.1234567Z", 123_456, id="trailing-zeros-cut"),
    pytest.param("2026-05-01T13:59:58.123456789+02:00", 123_456, id="east"),
    pytest.param("2026-05-01T06:29:58.123-05:30", 123_000, id="west-by-half-an-hour"),
    pytest.param("2026-05-01T11:59:58+00:00", 0, id="zero-offset"),
]


@pytest.mark.parametrize(("text", "microsecond"), TIMES)
def test_go_times_are_read(text: str, microsecond: int) -> None:
    """A time as Go writes it is read in every precision and zone."""
    expected = datetime(2026, 5, 1, 11, 59, 58, microsecond, tzinfo=UTC)
    assert parse_time(text) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01T00:00:00Z", "1746100798"])
def test_other_times_are_refused(text: str) -> None:
    """What is no time raises ValueError."""
    with pytest.raises(ValueError, match=r"."):
        parse_time(text)


def test_spire_line_is_read() -> None:
    """A JSON line of SPIRE becomes a record with level, message, time and fields."""
    line = (
        '{"entry_id":"e1","expires_at":"2026-05-01T12:00:20Z","level":"info",'
        '"msg":"Renewing X509-SVID","spiffe_id":"spiffe://example.org/api",'
        '"time":"2026-05-01T13:59:58.123456789+02:00"}'
    )

    record = parse_line("spire-agent", line, SEEN)

    assert record.component == "spire-agent"
    assert (record.level, record.message) == ("info", "Renewing X509-SVID")
    assert record.wall == datetime(2026, 5, 1, 11, 59, 58, 123_456, tzinfo=UTC)
    assert record.seen == SEEN
    assert record.fields == {
        "entry_id": "e1",
        "expires_at": "2026-05-01T12:00:20Z",
        "spiffe_id": "spiffe://example.org/api",
    }


def test_fields_are_text() -> None:
    """Fields that are no text are written as JSON, so that checks compare one kind of thing."""
    line = (
        '{"msg":"m","level":"debug","pid":7,"ok":false,"names":["a","b"],"none":null,"f":{"g":1}}'
    )

    assert parse_line("c", line, SEEN).fields == {
        "pid": "7",
        "ok": "false",
        "names": '["a", "b"]',
        "none": "null",
        "f": '{"g": 1}',
    }


@pytest.mark.parametrize(
    ("level", "expected"),
    [("warning", "warn"), ("warn", "warn"), ("error", "error"), ("panic", "panic")],
)
def test_levels_have_one_name(level: str, expected: str) -> None:
    """A level of SPIRE has one name, however logrus spells it."""
    assert parse_line("c", f'{{"level":"{level}","msg":"m"}}', SEEN).level == expected


def test_spire_text_line_is_read_like_json() -> None:
    """The same line in either of SPIRE's formats becomes the same record."""
    told = {
        "entry_id": "e1",
        "expires_at": "2026-05-01T12:00:20Z",
        "spiffe_id": "spiffe://example.org/api",
        "resource_names": '["spiffe://example.org/api", "ROOTCA"]',
        "nonce": "",
        "pid": "7",
    }
    text = (
        'time="2026-05-01T13:59:58.123456789+02:00" level=info msg="Renewing X509-SVID" '
        'entry_id=e1 expires_at="2026-05-01T12:00:20Z" nonce= pid=7 '
        'resource_names="[spiffe://example.org/api ROOTCA]" spiffe_id="spiffe://example.org/api"'
    )
    as_json = (
        '{"entry_id":"e1","expires_at":"2026-05-01T12:00:20Z","level":"info","nonce":"","pid":7,'
        '"msg":"Renewing X509-SVID","resource_names":["spiffe://example.org/api","ROOTCA"],'
        '"spiffe_id":"spiffe://example.org/api","time":"2026-05-01T13:59:58.123456789+02:00"}'
    )

    record = parse_line("spire-agent", text, SEEN)

    assert record == parse_line("spire-agent", as_json, SEEN)
    assert record.fields == told
    assert record.wall == datetime(2026, 5, 1, 11, 59, 58, 123_456, tzinfo=UTC)


TEXT = 'time="2026-05-01T11:59:58Z" level=debug msg=m '


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        pytest.param("k=v", "v", id="bare"),
        pytest.param("k=", "", id="empty"),
        pytest.param('k=""', "", id="empty-in-quotes"),
        pytest.param('k="a b=c"', "a b=c", id="space-and-equals"),
        pytest.param(r'k="say \"no\""', 'say "no"', id="quotes"),
        pytest.param(r'k="C:\\new"', r"C:\new", id="backslash"),
        pytest.param(r'k="a\nb\tc"', "a\nb\tc", id="line-break-and-tab"),
        pytest.param(r'k="\x1b[31m \u202e \U0001f600"', "\x1b[31m \u202e \U0001f600", id="codes"),
        pytest.param('k="[a b]"', "[a b]", id="no-known-list"),
        pytest.param("k=ü", "ü", id="beyond-ascii"),
    ],
)
def test_value_of_a_text_line_is_read(pair: str, value: str) -> None:
    """A value is bare, or quoted as Go quotes strings; others stand before and after it."""
    record = parse_line("c", f"{TEXT}a=1 {pair} z=2", SEEN)

    assert (record.level, record.message) == ("debug", "m")
    assert record.fields == {"a": "1", "k": value, "z": "2"}


@pytest.mark.parametrize(
    "line",
    [
        'time="2026-05-01T11:59:58Z" level=info msg="cut',
        'time="2026-05-01T11:59:58Z" level=info msg="m" and more',
        'time="2026-05-01T11:59:58Z" level=info msg="m" k="a"b',
        'before time="2026-05-01T11:59:58Z" level=info msg="m"',
        "level=info msg=m",
    ],
)
def test_line_in_no_format_stays_text(line: str) -> None:
    """What only looks like a line of SPIRE's is kept as it is."""
    record = parse_line("c", line, SEEN)

    assert (record.level, record.message, record.fields) == ("text", line, {})


@pytest.mark.parametrize("name", ["time", "ts"])
def test_line_is_dated_by_what_it_says(name: str) -> None:
    """A JSON line has been written when it says so, by whichever logger: not when it was read."""
    record = parse_line(
        "c", f'{{"level":"info","msg":"m","{name}":"2026-05-01T11:59:58.5Z"}}', SEEN
    )

    assert record.wall == datetime(2026, 5, 1, 11, 59, 58, 500_000, tzinfo=UTC)
    assert not record.fields


@pytest.mark.parametrize("time", ["", "soon", None])
def test_line_without_a_time_is_dated_by_its_reading(time: str | None) -> None:
    """A JSON line whose time is missing or unreadable gets the moment at which it was read."""
    stamp = "" if time is None else f',"time":"{time}"'
    assert parse_line("c", f'{{"level":"info","msg":"m"{stamp}}}', SEEN).wall == SEEN.wall


ENVOY = [
    pytest.param("[source/server/server.cc:1] it starts", "it starts", id="source"),
    pytest.param("it starts", "it starts", id="bare"),
    pytest.param('[Tags: "ConnectionId":"5"] closing', "closing", id="tags"),
    pytest.param("[C12][S34] closing", "closing", id="connection-and-stream"),
    pytest.param('[source/a.cc:1] [Tags: "ConnectionId":"5"] TLS_error:|1:SSL routines',
                 "TLS_error:|1:SSL routines", id="source-and-tags"),
    pytest.param("[source/a.cc:1] value [x] stays", "value [x] stays", id="brackets-in-the-text"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), ENVOY)
def test_envoy_line_is_read(text: str, message: str) -> None:
    """A text line of Envoy becomes a record whose message has none of the logger's prefixes."""
    line = f"[2026-05-01 11:59:58.123][7][warning][config.secret_x] {text}"

    record = parse_line("api.envoy", line, SEEN)

    assert (record.level, record.message) == ("warning", message)
    assert record.wall == datetime(2026, 5, 1, 11, 59, 58, 123_000, tzinfo=UTC)
    assert record.fields == {"logger": "config.secret_x"}


def test_access_log_is_told_apart() -> None:
    """An access log line becomes a record of level `access` with its fields."""
    line = '{"access":"DownstreamEnd","status":200,"tag":"t1","tls_failure":null}'

    record = parse_line("api.envoy", line, SEEN)

    assert (record.level, record.message) == ("access", "DownstreamEnd")
    assert (record.fields["status"], record.fields["tag"]) == ("200", "t1")
    assert record.wall == SEEN.wall


GARBAGE = [
    pytest.param("", id="empty"),
    pytest.param("panic: runtime error", id="panic"),
    pytest.param('{"level":"error","msg":"half a li', id="half-json"),
    pytest.param("{", id="brace"),
    pytest.param("[1, 2]", id="json-but-no-object"),
    pytest.param("[2026-05-01 11:59:58.1][7][error", id="half-envoy"),
    pytest.param("[2026-05-01T11:59:58][7][error][x] y", id="other-envoy-format"),
    pytest.param("\x00\x1b[31m\ufffd", id="binary"),
]


@pytest.mark.parametrize("line", GARBAGE)
def test_garbage_is_kept_as_it_is(line: str) -> None:
    """A line of no known form is kept word for word, as level `text`."""
    record = parse_line("c", line, SEEN)

    assert (record.level, record.message, record.fields) == ("text", line, {})
    assert record.wall == SEEN.wall


class Logs:
    """A platform's logs: bytes that grow, read to the last whole line as a platform does."""

    def __init__(self) -> None:
        """Nothing has been written."""
        self.written: dict[str, bytes] = {}
        self.asked: list[tuple[str, int]] = []

    def read_log(self, component: str, offset: int) -> bytes:
        """What was written since `offset`, to the last whole line."""
        self.asked.append((component, offset))
        data = self.written.get(component, b"")[offset:]
        return data[: data.rfind(b"\n") + 1]


@pytest.fixture
def logs() -> Logs:
    """Logs to write into."""
    return Logs()


@pytest.fixture
def timeline() -> Timeline:
    """Where records go."""
    return Timeline()


def follower(logs: Logs, timeline: Timeline) -> LogFollower:
    """Follow the logs of `a` and `b`."""
    return LogFollower(cast("Platform", logs), timeline, ("a", "b"), lambda _, error: str(error))


def test_follower_reads_each_line_once(logs: Logs, timeline: Timeline) -> None:
    """Each look reads on where the last one ended, in every log."""
    following = follower(logs, timeline)

    logs.written = {"a": b"one\ntwo\n", "b": b"uno\n"}
    following.look()
    following.look()
    logs.written["a"] += b"three\n"
    following.look()

    assert [(r.component, r.message) for r in timeline.logs()] == [
        ("a", "one"),
        ("a", "two"),
        ("b", "uno"),
        ("a", "three"),
    ]
    assert logs.asked[-2:] == [("a", 8), ("b", 4)]


def test_half_a_line_waits_for_its_rest(logs: Logs, timeline: Timeline) -> None:
    """A line that is still being written is read when it is whole."""
    following = follower(logs, timeline)

    logs.written = {"a": b'{"level":"info",'}
    following.look()
    assert timeline.logs() == []
    logs.written["a"] += b'"msg":"whole"}\nnext'
    following.look()

    assert [r.message for r in timeline.logs("a")] == ["whole"]
    assert logs.asked[-2] == ("a", 0)


def test_missing_log_is_an_empty_one(logs: Logs, timeline: Timeline) -> None:
    """A component that has written nothing yet has no records."""
    follower(logs, timeline).look()

    assert timeline.logs() == []


def test_offset_counts_bytes(logs: Logs, timeline: Timeline) -> None:
    """Bytes that are no UTF-8, and characters of several bytes, do not shift what follows."""
    following = follower(logs, timeline)

    logs.written = {"a": "grün → \n".encode() + b"\xff\xfe\n"}
    following.look()
    logs.written["a"] += b"next\n"
    following.look()

    assert [r.message for r in timeline.logs("a")] == ["grün → ", "\ufffd\ufffd", "next"]


@pytest.mark.parametrize("separator", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028"], ids=ascii)
def test_only_a_newline_ends_a_line(logs: Logs, timeline: Timeline, separator: str) -> None:
    """Other separators that Python knows are part of a line: they may stand in a JSON text."""
    logs.written = {"a": f"one{separator}still one\n".encode()}
    follower(logs, timeline).look()

    assert [r.message for r in timeline.logs("a")] == [f"one{separator}still one"]


def test_records_of_one_look_are_dated_now(logs: Logs, timeline: Timeline) -> None:
    """What was read just now is dated just now, on both clocks."""
    before = Moment.now()
    logs.written = {"a": b"one\n"}
    follower(logs, timeline).look()

    [record] = timeline.logs()
    assert before.at <= record.seen.at <= Moment.now().at
    assert abs(record.seen.wall - before.wall) < timedelta(seconds=5)
