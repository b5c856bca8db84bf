"""Envoy's admin interface is asked over a Unix socket, by connections that are kept."""

from __future__ import annotations

import contextlib
import socketserver
import stat
import tempfile
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from svidproof.components.envoy import Envoy
from svidproof.components.unix_http import UnixHttp
from svidproof.model.scenario import load_scenario
from svidproof.platforms.kubernetes.network.listener import listen
from svidproof.waiting import NotYet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from svidproof.platforms.protocol import Platform


class Handler(BaseHTTPRequestHandler):
    """Answers with the path; with 503 for `/ready`, and with its end after `/bye`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer."""
        self.server.requests.append((self.command, self.path, self.headers["Host"]))  # type: ignore[attr-defined]
        body = self.path.encode()
        self.send_response(503 if self.path == "/ready" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = self.path == "/bye"

    do_POST = do_GET  # noqa: N815  as http.server calls it

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def address_string(self) -> str:
        """A Unix socket's peer has none."""
        return ""


class Server(socketserver.ThreadingUnixStreamServer):
    """An HTTP server at a path, which counts connections."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        """Serve in a thread."""
        super().__init__(str(path), Handler)
        self.requests: list[tuple[str, str, str]] = []
        self.connections = 0
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def process_request(self, request: object, client_address: object) -> None:
        """Count."""
        self.connections += 1
        super().process_request(request, client_address)  # type: ignore[arg-type]


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose sockets have short paths."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


@contextlib.contextmanager
def serving(path: Path) -> Iterator[Server]:
    """Serve at a path."""
    with Server(path) as server:
        yield server
        server.shutdown()
    path.unlink()


def envoy_at(path: Path) -> Envoy:
    """A sidecar whose admin interface is at this path."""
    platform = SimpleNamespace(
        private_endpoint=lambda _place, name: str(path.parent / name),
        reach_socket=lambda _place, socket: f"unix:{socket}",
    )
    scenario = load_scenario("api")
    return Envoy(cast("Platform", platform), scenario, scenario.workloads["api"])


def test_requests_share_a_connection(short: Path) -> None:
    """A second request goes over the connection of the first."""
    with serving(short / "admin.sock") as server:
        envoy = envoy_at(short / "admin.sock")
        answers = [envoy.admin(f"/certs?{number}") for number in range(5)]
        envoy.admin("/logging?connection=debug", method="POST")
        envoy._http.close()

        assert answers == [f"/certs?{number}".encode() for number in range(5)]
        assert server.connections == 1
        assert server.requests[-1] == ("POST", "/logging?connection=debug", "localhost")


def test_other_status_is_not_yet(short: Path) -> None:
    """An answer other than 200 names the component, the path and the status."""
    with serving(short / "admin.sock"):
        envoy = envoy_at(short / "admin.sock")
        with pytest.raises(NotYet, match=r"^api\.envoy admin /ready: HTTP 503$"):
            envoy.admin("/ready")
        envoy._http.close()


def test_nobody_there_is_not_yet(short: Path) -> None:
    """Without a socket, or with one where nobody listens, the interface does not answer yet."""
    envoy = envoy_at(short / "admin.sock")
    with pytest.raises(NotYet, match=r"^api\.envoy admin /certs: MaxRetryError$"):
        envoy.admin("/certs")

    listen(str(short / "admin.sock")).close()

    with pytest.raises(NotYet, match=r"^api\.envoy admin /certs: MaxRetryError$"):
        envoy.admin("/certs")


def test_silent_server_is_not_yet(short: Path) -> None:
    """A server that accepts and says nothing is given up after the timeout."""
    with listen(str(short / "admin.sock")):
        http = UnixHttp(lambda: str(short / "admin.sock"), timeout=0.1, retries=0)
        envoy = envoy_at(short / "admin.sock")
        envoy._http = http

        with pytest.raises(NotYet, match="MaxRetryError"):
            envoy.admin("/certs")


def test_restarted_server_is_found_again(short: Path) -> None:
    """A kept connection that the server has closed is replaced; so is a way that has changed."""
    paths = [short / "one.sock"]
    http = UnixHttp(lambda: str(paths[-1]), timeout=5, retries=2)
    with serving(paths[-1]):
        answers = [http.request("GET", "/bye").data]
    paths.append(short / "two.sock")
    with serving(paths[-1]) as second:
        answers += [http.request("GET", path).data for path in ("/bye", "/again")]
        http.close()

        assert answers == [b"/bye", b"/bye", b"/again"]
        assert second.connections == 2


def test_socket_of_a_listener_is_private(short: Path) -> None:
    """A Unix socket of the suite's own is its user's only, whatever the umask."""
    with listen(str(short / "own" / "listener.sock")):
        modes = [stat.S_IMODE(p.stat().st_mode) for p in (short / "own").iterdir()]

    assert modes == [0o600]
