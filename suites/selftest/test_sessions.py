"""Clients that keep a session or a connection say which, and never do what they were not told."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from svidproof.checks.assertions import Accepted, Denied, assert_all_answered, assert_sessions
from svidproof.checks.series import RequestSeries
from svidproof.probes.credentials import Authority
from svidproof.probes.flaws import Forge
from svidproof.probes.tls import Exchange, Version
from svidproof.probes.tls.sessions import Client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from svidproof.probes.credentials import Credential
    from svidproof.probes.tls import Address

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
LAST = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno"
each_version = pytest.mark.parametrize(
    "version", [Version.TLS1_2, Version.TLS1_3], ids=lambda version: version.name
)


class Server:
    """A TLS server that answers `ok` to each request but the third on a connection."""

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        """Answer at a free port."""
        self._context = context
        self._listener = socket.create_server((host, 0))
        self._listener.settimeout(0.02)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()
        self.connections = 0

    @property
    def address(self) -> Address:
        """Where it listens."""
        host, port = self._listener.getsockname()
        return host, port

    def close(self) -> None:
        """Stop."""
        self._stop.set()
        self._thread.join()
        self._listener.close()

    def _loop(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(OSError):
                sock, _ = self._listener.accept()
                sock.settimeout(2)
                self.connections += 1
                with sock, self._context.wrap_socket(sock, server_side=True) as tls:
                    self._answer(tls)

    @staticmethod
    def _answer(tls: ssl.SSLSocket) -> None:
        for answer in (ANSWER, ANSWER, LAST):
            if not tls.recv(4096):
                break
            tls.sendall(answer)
        tls.unwrap()


@pytest.fixture(scope="module")
def forge() -> Forge:
    """Mints credentials of one root."""
    return Forge(Authority.create("root", "example.org"), "example.org")


@pytest.fixture(scope="module")
def credential(forge: Forge) -> Credential:
    """What client and server present."""
    return forge.valid("spiffe://example.org/api")


@pytest.fixture
def context(tmp_path: Path, forge: Forge, credential: Credential) -> ssl.SSLContext:
    """A server's, which asks for a certificate below the root."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    chain, root = tmp_path / "chain.pem", tmp_path / "root.pem"
    chain.write_bytes(credential.chain_pem + credential.key_pem)
    root.write_bytes(forge.root.certificate_pem)
    context.load_cert_chain(chain)
    context.load_verify_locations(root)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.fixture
def server(context: ssl.SSLContext) -> Iterator[Server]:
    """A server that resumes sessions."""
    host = f"127.{os.getpid() % 200 + 20}.{os.getpid() // 200 % 250 + 1}.2"
    with contextlib.closing(Server(context, host)) as server:
        yield server


@each_version
def test_session_is_resumed_by_the_next_connection(
    server: Server, credential: Credential, version: Version
) -> None:
    """The first connection makes a session, and each later one resumes it and says so."""
    client = Client(server.address, credential, version)

    exchanges = [client.get() for _ in range(4)]

    assert [e.status for e in exchanges] == [200] * 4, str(exchanges[0])
    assert [e.resumed for e in exchanges] == [False, True, True, True]
    assert {e.version for e in exchanges} == {version.name.replace("1_", "v1.")}
    assert {e.peer_chain for e in exchanges} == {credential.chain[:1]}
    assert server.connections == 4


def test_nothing_is_resumed_where_there_are_no_sessions(
    context: ssl.SSLContext, server: Server, credential: Credential
) -> None:
    """A server without tickets and sessions has every connection shake hands in full."""
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    client = Client(server.address, credential, Version.TLS1_3)

    exchanges = [client.get() for _ in range(3)]

    assert [(e.status, e.resumed) for e in exchanges] == [(200, False)] * 3


@each_version
def test_connection_is_kept_and_never_made_anew(
    server: Server, credential: Credential, version: Version
) -> None:
    """All requests go over one connection; once the server has closed it, the next one fails."""
    with Client(server.address, credential, version).connected() as connection:
        exchanges = [connection.get() for _ in range(4)]

    assert [(e.status, e.body) for e in exchanges[:3]] == [(200, b"ok"), (200, b"ok"), (403, b"no")]
    assert exchanges[3].status is None
    assert exchanges[3].error
    assert server.connections == 1


@each_version
def test_refusal_is_no_answer(server: Server, version: Version) -> None:
    """A client that the server does not trust gets no answer, and nothing raises."""
    other = Forge(Authority.create("other", "example.org"), "example.org")
    client = Client(server.address, other.valid("spiffe://example.org/api"), version)

    exchange = client.get()

    assert exchange.status is None
    assert exchange.error
    assert not exchange.resumed


def test_nobody_there_is_an_error() -> None:
    """Where nobody listens there is no answer, and it is said why."""
    host = f"127.{os.getpid() % 200 + 20}.{os.getpid() // 200 % 250 + 1}.3"
    with socket.create_server((host, 0)) as free:
        port = free.getsockname()[1]
    forge = Forge(Authority.create("root", "example.org"), "example.org")

    exchange = Client((host, port), forge.valid("spiffe://example.org/api")).get()

    assert exchange.status is None
    assert "refused" in str(exchange)


RESUMED = Exchange(status=200, body=b"ok", resumed=True)
FIRST = Exchange(status=200, body=b"ok")
FORBIDDEN = Exchange(status=403, body=b"RBAC: access denied", resumed=True)
SERIES = RequestSeries((RESUMED,) * 3, (FIRST,), {"handshake": 4, "session_reused": 3}, 4)


def test_right_series_passes() -> None:
    """A series in which every request resumed a session and was allowed passes."""
    assert_sessions(SERIES, count=3, resumed=True)
    assert_all_answered(SERIES, 200, client="frontend")
    assert str(SERIES) == "200 3 times; resumed 3 of 3"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"requests": (RESUMED,) * 2}, "only 2 requests", id="too-few"),
        pytest.param({"requests": (RESUMED, RESUMED, FIRST)}, "resumed 2 sessions", id="full"),
        pytest.param({"handshakes": (RESUMED,)}, "first handshake", id="resumed-at-first"),
        pytest.param({"counters": {"handshake": 4}}, "the sidecar counted", id="not-counted"),
    ],
)
def test_other_sessions_are_noticed(changes: dict[str, Any], says: str) -> None:
    """A series fails when client or sidecar did not see every session resumed."""
    with pytest.raises(AssertionError, match=says):
        assert_sessions(replace(SERIES, **changes), count=3, resumed=True)


@pytest.mark.parametrize(
    ("changes", "status", "error", "says"),
    [
        pytest.param(
            {"requests": (RESUMED, FORBIDDEN, RESUMED)}, 200, Denied, "1 of 3", id="denied-once"
        ),
        pytest.param({"handshakes": (FIRST,)}, 403, AssertionError, "without", id="first-allowed"),
        pytest.param(
            {"handshakes": (FORBIDDEN,), "requests": (FORBIDDEN, RESUMED)},
            403,
            Accepted,
            "1 of 2",
            id="allowed-once",
        ),
        pytest.param(
            {"requests": (RESUMED, Exchange(error="reset"))},
            200,
            AssertionError,
            "reset",
            id="reset",
        ),
        pytest.param({"reached": 3}, 200, AssertionError, "3 requests reached", id="missing"),
    ],
)
def test_wrong_answers_are_noticed(
    changes: dict[str, Any], status: int, error: type[AssertionError], says: str
) -> None:
    """A series fails when one answer is wrong, or another number of requests reached the app."""
    with pytest.raises(error, match=says) as raised:
        assert_all_answered(replace(SERIES, **changes), status, client="frontend")
    assert raised.type is error
