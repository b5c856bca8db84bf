"""The live page is for this machine's browsers and whoever has its address, and ends when told."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from typing import TYPE_CHECKING

import psutil
import pytest
import urllib3

from svidproof import Budget, NotYet, eventually
from svidproof.cli import main
from svidproof.cli.up.live.actions import Button, Desk, Sides, Verdict
from svidproof.cli.up.live.overview import about
from svidproof.cli.up.live.server import HOST, MOST_STREAMS, TOKEN, Server
from svidproof.cli.up.live.stream import Feed
from svidproof.model.clock import Moment
from svidproof.model.logs.line import LogRecord
from svidproof.model.logs.messages import messages_for
from svidproof.model.redact import holds_key
from svidproof.model.scenario import load_scenario
from svidproof.testbed.watch.timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SOON = Budget("the live page", 5, 0.01)
AT_ONCE = 2.0  # seconds in which all must be over, on a slow machine
KEY = "-----BEGIN PRIVATE KEY-----\nMIIabc\n-----END PRIVATE KEY-----"
FILES = ("/", "/live.css", "/bokeh.js", "/charts.js", "/live.js")


class Stream:
    """What an open page is sent."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        """Read nothing yet."""
        self.response = response
        self.status = response.status
        self._chunks = response.stream(amt=None)
        self._text = ""

    def until(self, kind: str) -> dict[str, str]:
        """Read until an event of this kind has come whole; the last of each kind so far."""
        end = time.monotonic() + SOON.seconds
        for chunk in self._chunks:
            self._text += chunk.decode()
            found = dict(re.findall(r"event: (\w+)\ndata: (.*)\n\n", self._text))
            if kind in found:
                return found
            if time.monotonic() > end:
                break
        raise AssertionError(f"no {kind} came: {self._text[-300:]}")

    def rest(self) -> None:
        """Read to its end."""
        for _ in self._chunks:
            pass

    def close(self) -> None:
        """Go away."""
        self.response.close()


class Live:
    """A page that is served, of a testbed that is none."""

    def __init__(self) -> None:
        """Serve it."""
        self.going = threading.Event()
        self.server = Server()
        messages = messages_for("1.15.3")
        feed = Feed(("api",), messages, sync_s=0.5)
        self.timeline = Timeline(feed)
        buttons = [self._button("quick", self._quick), self._button("slow", self._slow)]
        self.desk = Desk(buttons)
        said = about(
            load_scenario("api"), buttons, version="1", platform="local", tested="SPIRE 1.15.3"
        )
        self.server.serve(feed, self.desk, said)
        self.pool = urllib3.PoolManager(timeout=5.0, retries=False)
        self.streams: list[Stream] = []
        self.token = self.server.url.partition("#")[2]
        self.origin = "http://{}:{}".format(*self.server.address)

    @staticmethod
    def _button(name: str, act: Callable[[Sides, Callable[[str], None]], None]) -> Button:
        return Button(name, name, "SPIRE", "", "sent", "expected", Verdict.REFUSED, act)

    @staticmethod
    def _quick(sides: Sides, _: Callable[[str], None]) -> None:
        sides.client = [KEY]

    def _slow(self, _: Sides, tell: Callable[[str], None]) -> None:
        def goes_on() -> None:
            tell("at it")
            if not self.going.is_set():
                raise NotYet("not yet")

        eventually(goes_on, Budget("slow", 60, 0.01))

    def ask(self, method: str, path: str, **headers: str) -> urllib3.BaseHTTPResponse:
        """One answer; `_` stands for `-` in the headers' names."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        # A stream has no end to wait for, should it be granted.
        whole = path != "/events"
        return self.pool.request(
            method, f"{self.origin}{path}", headers=given, preload_content=whole
        )

    def press(self, name: str) -> int:
        """Press a button as the page does."""
        return self.ask("POST", f"/press/{name}", origin=self.origin, **self.known).status

    @property
    def known(self) -> dict[str, str]:
        """The header by which the page is known."""
        return {TOKEN: self.token}

    def follow(self) -> Stream:
        """Open a stream of events."""
        response = self.pool.request(
            "GET", f"{self.origin}/events", headers=self.known, preload_content=False
        )
        self.streams.append(stream := Stream(response))
        return stream

    def close(self) -> None:
        """End it all."""
        for stream in self.streams:
            stream.close()
        self.going.set()
        self.server.close()
        self.desk.close()
        self.pool.clear()


@pytest.fixture
def live() -> Iterator[Live]:
    """It."""
    made = Live()
    yield made
    made.close()


def test_it_listens_on_loopback_only(live: Live) -> None:
    """At the one address, and at no other of this machine."""
    host, port = live.server.address

    assert host == HOST == "127.0.0.1"
    assert live.server.url.startswith(f"http://127.0.0.1:{port}/#")
    listening = {
        c.laddr.ip
        for c in psutil.Process().net_connections("tcp")
        if c.status == psutil.CONN_LISTEN and c.laddr.port == port
    }
    assert listening == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        pytest.param("GET", "/", {"host": "evil.example"}, 400, id="rebound-name"),
        pytest.param("GET", "/", {"host": "127.0.0.1.evil.example"}, 400, id="name-like-ours"),
        pytest.param("GET", "/events", {"host": "evil.example"}, 400, id="rebound-events"),
        pytest.param("GET", "/events", {TOKEN: ""}, 403, id="without-token"),
        pytest.param("GET", "/events", {TOKEN: "x" * 32}, 403, id="wrong-token"),
        pytest.param("GET", "/events", {TOKEN: "é"}, 403, id="token-of-no-sense"),
        pytest.param("POST", "/press/quick", {TOKEN: ""}, 403, id="press-without-token"),
        pytest.param("POST", "/press/quick", {"origin": ""}, 403, id="press-without-origin"),
        pytest.param("POST", "/press/quick", {"origin": "null"}, 403, id="press-from-a-sandbox"),
        pytest.param(
            "POST", "/press/quick", {"origin": "https://evil.example"}, 403, id="press-from-afar"
        ),
        pytest.param("POST", "/press/quick", {"host": "evil.example"}, 400, id="press-rebound"),
        pytest.param("GET", "/press/quick", {}, 405, id="press-by-get"),
        pytest.param("OPTIONS", "/press/quick", {TOKEN: ""}, 403, id="may-i"),
        pytest.param("POST", "/", {}, 405, id="page-by-post"),
        pytest.param("POST", "/press/none", {}, 404, id="no-such-button"),
        pytest.param("GET", "/etc/passwd", {}, 404, id="no-such-page"),
        pytest.param("POST", "/press/quick", {}, 202, id="the-page-itself"),
    ],
)
def test_others_are_kept_out(
    live: Live, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    """One thing is otherwise than from the page itself, and nothing happens."""
    usual = {TOKEN: live.token, "origin": live.origin}

    answer = live.ask(method, path, **{**usual, **headers})

    assert answer.status == status
    assert not any(name.startswith("access-control") for name in map(str.lower, answer.headers))
    if status != 202:
        live.desk.stop()
        assert live.desk.cards() == []


def test_two_presses_at_once_are_one(live: Live) -> None:
    """The second is told what is at work."""
    assert live.press("slow") == 202
    answer = live.ask("POST", "/press/quick", origin=live.origin, **live.known)

    assert (answer.status, answer.data) == (409, b"busy: slow")


@pytest.mark.parametrize("path", FILES)
def test_page_needs_nothing_from_elsewhere(live: Live, path: str) -> None:
    """What the browser may load is said strictly, and nothing names another place."""
    answer = live.ask("GET", path)

    assert answer.status == 200
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "unsafe-eval" not in policy
    assert answer.headers["cache-control"] == "no-store"
    assert live.token not in answer.data.decode()
    if path == "/":
        sources = re.findall(r'(?:src|href|action)="([^"]*)"', answer.data.decode())
        assert sources
        assert [s for s in sources if ":" in s] == ["data:,"]


def test_no_answer_holds_a_secret(live: Live) -> None:
    """Neither what was logged nor what a press has seen brings a key out."""
    now = Moment.now()
    live.timeline.logged(LogRecord("spire-server", now, now.wall, "error", KEY, {"error": KEY}))
    stream = live.follow()
    stream.until("frame")
    live.press("quick")

    told = stream.until("card")

    texts = [live.ask("GET", path).data.decode() for path in FILES]
    for text in (*texts, *told.values()):
        assert not holds_key(text)
        assert "MIIabc" not in text
    assert "private key removed" in told["card"]


def test_every_page_gets_every_card(live: Live) -> None:
    """One that was open, and one that is opened later."""
    first = live.follow()
    live.press("quick")

    early = json.loads(first.until("card")["card"])
    late = json.loads(live.follow().until("card")["card"])

    assert early == late
    assert (early["verdict"], early["words"]) == ("refused", "Rejected, as expected")


def test_there_is_an_end_to_open_pages(live: Live) -> None:
    """Each costs memory: one too many is told so, and one that is closed makes room."""
    streams = [live.follow() for _ in range(MOST_STREAMS)]
    for stream in streams:
        stream.until("frame")

    assert live.follow().status == 503

    streams[0].close()
    eventually(lambda: live.follow().until("frame"), SOON)


def test_it_ends_at_once(live: Live) -> None:
    """With pages open and a press at work: streams, press, thread and port."""
    streams = [live.follow(), live.follow()]
    for stream in streams:
        stream.until("frame")
    live.press("slow")
    address, begin = live.server.address, time.monotonic()

    live.server.close()
    live.desk.stop()

    assert time.monotonic() - begin < AT_ONCE
    for stream in streams:
        stream.rest()
    assert not [t for t in threading.enumerate() if t.name == "live page"]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, 1)


def test_a_press_may_end_after_the_server(live: Live) -> None:
    """What it would tell the pages then is told to nobody, and hurts nobody."""
    live.follow().until("frame")
    live.press("slow")
    live.server.close()

    live.going.set()
    live.desk.close()

    assert [card.verdict for card in live.desk.cards()] in ([], [Verdict.REFUSED])


def test_port_that_is_taken_is_told(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is started, in one line."""
    with socket.create_server((HOST, 0)) as taken:
        port = str(taken.getsockname()[1])
        code = _main("up", "--ui", "--ui-port", port)

    err = capsys.readouterr().err
    assert code == 3
    assert err.count("\n") == 1
    assert f"port {port}" in err
    assert "--ui-port" in err
    assert not (cache / "runs").exists()


def test_port_is_for_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    """Without the page there is nothing to have it."""
    assert _main("up", "--ui-port", "8080") == 2
    assert "--ui-port is for --ui" in capsys.readouterr().err


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own."""
    monkeypatch.setenv("SVIDPROOF_CACHE", str(tmp_path))
    return tmp_path


def _main(*words: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["svidproof", *words])
        with pytest.raises(SystemExit) as ended:
            main.main()
    return int(ended.value.code or 0)
