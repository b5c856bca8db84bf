"""A port-forward carries every byte both ways, says why it cannot, and leaves nothing behind."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import select
import socket
import ssl
import stat
import struct
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from kubernetes.client import ApiClient, Configuration

from svidproof.model.errors import PlatformError
from svidproof.platforms.kubernetes.network import port_forward
from svidproof.platforms.kubernetes.network.listener import Acceptor, listen
from svidproof.platforms.kubernetes.network.port_forward import PortForward
from svidproof.platforms.kubernetes.network.relay import (
    Forward,
    RelayClient,
    access_file,
    new_secret,
)
from svidproof.probes.credentials import Authority, Template
from svidproof.waiting import consistently, eventually
from svidproof.waiting.budgets import Budget
from svidproof.workloads import relay as program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from svidproof.probes.tls import Address

SOON = Budget("the port-forward does it", 10, 0.01)
A_WHILE = Budget("the port-forward does not do it", 0.2, 0.02)
MEGABYTES = bytes(range(256)) * 4096 * 10
DATA, ERROR = 0, 1
CONTINUED, BINARY, CLOSE, PING, PONG = 0, 2, 8, 9, 10


class WebSocket:
    """The API server's end of a WebSocket."""

    def __init__(self, sock: socket.socket) -> None:
        """Read the request; the answer is `accept` or `refuse`."""
        self.sock = sock
        lines = self._head().decode().split("\r\n")
        self.path = lines[0].split()[1]
        self.headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}

    def accept(self) -> None:
        """Speak the protocol of port-forwards."""
        key = self.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        digest = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()  # noqa: S324  RFC 6455
        self.sock.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n"
            b"Sec-WebSocket-Accept: " + digest.encode() + b"\r\n\r\n"
        )

    def refuse(self, message: str) -> None:
        """Say 404 as the API server does."""
        body = json.dumps({"kind": "Status", "message": message}).encode()
        head = f"HTTP/1.1 404 Not Found\r\nContent-Length: {len(body)}\r\n\r\n"
        self.sock.sendall(head.encode() + body)

    def begin(self, port: int) -> None:
        """Send each channel's number of the port."""
        for channel in (DATA, ERROR):
            self.send(channel, struct.pack("<H", port))

    def send(self, channel: int, data: bytes) -> None:
        """Send one message."""
        self.sock.sendall(frame(BINARY, bytes([channel]) + data))

    def receive(self) -> tuple[int, bytes]:
        """One frame of the client's: opcode and payload."""
        first, second = self._exactly(2)
        assert second & 0x80, "clients must mask"
        length = second & 0x7F
        if length == 126:
            [length] = struct.unpack("!H", self._exactly(2))
        elif length == 127:
            [length] = struct.unpack("!Q", self._exactly(8))
        mask = self._exactly(4)
        data = self._exactly(length)
        mask = (mask * (length // 4 + 1))[:length]
        number = int.from_bytes(data, "big") ^ int.from_bytes(mask, "big")
        return first & 0x0F, number.to_bytes(length, "big")

    def _head(self) -> bytes:
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            data += self._exactly(1)
        return data

    def _exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = self.sock.recv(length - len(data))
            if not part:
                raise ConnectionResetError("the client is gone")
            data += part
        return data


def frame(opcode: int, data: bytes, *, final: bool = True) -> bytes:
    """A frame of a server's: without a mask."""
    first = opcode | (0x80 if final else 0)
    if len(data) < 126:
        return bytes([first, len(data)]) + data
    if len(data) < 65536:
        return bytes([first, 126]) + struct.pack("!H", len(data)) + data
    return bytes([first, 127]) + struct.pack("!Q", len(data)) + data


def serve_pod(ws: WebSocket) -> None:
    """What the cluster does: pass on to the port that is asked for."""
    port = int(ws.path.rpartition("=")[2])
    ws.accept()
    ws.begin(port)
    try:
        target = socket.create_connection(("127.0.0.1", port), 5)
    except ConnectionRefusedError:
        ws.send(ERROR, f"error forwarding port {port} to pod: connection refused".encode())
        ws.sock.sendall(frame(CLOSE, b"\x03\xe8"))
        return
    with target:
        target.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            ready, _, _ = select.select([ws.sock, target], [], [])
            pending = isinstance(ws.sock, ssl.SSLSocket) and ws.sock.pending()
            if ws.sock in ready or pending:
                opcode, data = ws.receive()
                if opcode == CLOSE:
                    return
                target.sendall(data[1:])
            if target in ready:
                data = target.recv(65536)
                if not data:
                    ws.sock.sendall(frame(CLOSE, b"\x03\xe8"))
                    return
                ws.send(DATA, data)


class Cluster:
    """An API server that knows one thing."""

    def __init__(self, directory: Path, context: ssl.SSLContext | None = None) -> None:
        """Listen; sockets go to `directory`."""
        self.serve: Callable[[WebSocket], None] = serve_pod
        self.requests: list[WebSocket] = []
        self._directory = directory
        self._context = context
        self._listener = listen(("127.0.0.1", 0))
        self._acceptor = Acceptor(self._listener, self._answer, name="api-server")
        scheme = "https" if context else "http"
        self.configuration = Configuration()
        self.configuration.host = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"

    def forward(self, port: int = 15000) -> PortForward:
        """A port-forward to the pod."""
        client = ApiClient(self.configuration)
        path = str(self._directory / "private" / "forward.sock")
        return PortForward(client, "space", "pod", port, path)

    def require_certificate(self, ca: Path) -> None:
        """Let in only clients that this authority has signed."""
        assert self._context is not None
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._context.load_verify_locations(ca)

    def close(self) -> None:
        """Answer nobody any more."""
        self._acceptor.refuse()
        self._acceptor.join()

    def _answer(self, sock: socket.socket) -> None:
        sock.settimeout(10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.enter_context(sock)
            if self._context:
                sock = stack.enter_context(self._context.wrap_socket(sock, server_side=True))
            ws = WebSocket(sock)
            self.requests.append(ws)
            self.serve(ws)


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory whose sockets have short paths."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Who signs the API server's certificate."""
    return Authority.create("cluster", "example.org")


@pytest.fixture
def plain(directory: Path) -> Iterator[Cluster]:
    """An API server without TLS."""
    with contextlib.closing(Cluster(directory)) as cluster:
        yield cluster


@pytest.fixture
def secure(directory: Path, authority: Authority) -> Iterator[Cluster]:
    """An API server with TLS, which its client trusts."""
    credential = authority.issue("api-server", Template(uris=(), dns=("api.test",)))
    (directory / "server.pem").write_bytes(credential.chain_pem + credential.key_pem)
    (directory / "ca.pem").write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem")
    with contextlib.closing(Cluster(directory, context)) as cluster:
        cluster.configuration.ssl_ca_cert = str(directory / "ca.pem")
        cluster.configuration.tls_server_name = "api.test"
        yield cluster


@contextlib.contextmanager
def shouting() -> Iterator[int]:
    """A server that sends back what it gets, in capitals; yields its port."""

    def shout(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            while data := sock.recv(65536):
                sock.sendall(data.upper())

    listener = listen(("127.0.0.1", 0))
    acceptor = Acceptor(listener, shout, name="target")
    try:
        yield listener.getsockname()[1]
    finally:
        acceptor.refuse()
        acceptor.join()


@contextlib.contextmanager
def connected(forward: PortForward) -> Iterator[socket.socket]:
    """A connection to a port-forward, which is closed in the end."""
    with contextlib.closing(forward), socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(forward._path)
        yield sock


def exactly(sock: socket.socket, length: int) -> bytes:
    """Read so many bytes, or to the end."""
    data = bytearray()
    while len(data) < length and (part := sock.recv(65536)):
        data += part
    return bytes(data)


@pytest.mark.parametrize("kind", ["plain", "secure"])
def test_every_byte_arrives_in_order(request: pytest.FixtureRequest, kind: str) -> None:
    """Ten megabytes there and back are the same bytes, with and without TLS."""
    cluster: Cluster = request.getfixturevalue(kind)
    with (
        shouting() as port,
        connected(cluster.forward(port)) as sock,
        ThreadPoolExecutor(1) as pool,
    ):
        answer = pool.submit(exactly, sock, len(MEGABYTES))
        sock.sendall(MEGABYTES)

        assert answer.result() == MEGABYTES.upper()


def test_request_is_the_kubernetes_clients(secure: Cluster, directory: Path) -> None:
    """The pod, the port, the protocol and the credentials are those that were given."""
    secure.require_certificate(directory / "ca.pem")
    secure.configuration.cert_file = secure.configuration.key_file = str(directory / "server.pem")
    secure.configuration.api_key = {"authorization": "Bearer token"}
    with shouting() as port, connected(secure.forward(port)) as sock:
        sock.sendall(b"hello")
        sock.recv(100)

    [seen] = secure.requests
    assert seen.path == f"/api/v1/namespaces/space/pods/pod/portforward?ports={port}"
    assert seen.headers["authorization"] == "Bearer token"
    assert seen.headers["sec-websocket-protocol"] == "v4.channel.k8s.io"


def test_pod_that_does_not_listen(plain: Cluster) -> None:
    """A refusal inside the pod ends the connection, and the reason is the cluster's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    forward = plain.forward(port)

    with connected(forward) as sock:
        assert sock.recv(1) == b""

    assert forward.reason == f"error forwarding port {port} to pod: connection refused"


def test_pod_that_does_not_exist(plain: Cluster) -> None:
    """The API server's refusal is the reason, in its own words."""
    plain.serve = lambda ws: ws.refuse('pods "pod" not found')
    forward = plain.forward()

    with connected(forward) as sock:
        assert sock.recv(1) == b""

    assert forward.reason == '404 pods "pod" not found'


def test_api_server_that_is_away(plain: Cluster) -> None:
    """Without an API server the connection ends, and the reason is the kernel's."""
    plain.close()
    forward = plain.forward()

    with connected(forward) as sock:
        assert sock.recv(1) == b""

    assert "Connection refused" in str(forward.reason)


def test_api_server_that_is_another(secure: Cluster, directory: Path) -> None:
    """An API server that the configuration's authority has not signed is not spoken to."""
    other = Authority.create("other", "example.org")
    (directory / "ca.pem").write_bytes(other.certificate.public_bytes(Encoding.PEM))
    forward = secure.forward()

    with connected(forward) as sock:
        assert sock.recv(1) == b""

    assert "certificate verify failed" in str(forward.reason)
    assert secure.requests == []


def test_api_server_need_not_be_verified(secure: Cluster) -> None:
    """A configuration that verifies nothing is obeyed as well."""
    secure.configuration.verify_ssl = False
    secure.configuration.ssl_ca_cert = secure.configuration.tls_server_name = None

    with shouting() as port, connected(secure.forward(port)) as sock:
        sock.sendall(b"hello")

        assert sock.recv(100) == b"HELLO"


def test_framing_is_the_servers_business(plain: Cluster) -> None:
    """Bytes arrive however they are cut into frames and packets, and pings are answered."""
    answers: list[tuple[int, bytes]] = []
    stream = (
        frame(BINARY, b"\0\x98")
        + frame(BINARY, b"\0\x3aon", final=False)
        + frame(PING, b"there?")
        + frame(CONTINUED, b"e ")
        + frame(BINARY, b"\1\x98\x3a")
        + frame(BINARY, b"\0")
        + frame(BINARY, b"\0two")
    )

    def dribble(ws: WebSocket) -> None:
        ws.accept()
        for number in stream:
            ws.sock.sendall(bytes([number]))
        answers.append(ws.receive())

    plain.serve = dribble
    with connected(plain.forward()) as sock:
        assert exactly(sock, 100) == b"one two"

    assert answers == [(PONG, b"there?")]


def test_messages_in_one_record_arrive(secure: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages that OpenSSL has read, but a full tunnel has not, do not wait for more to come."""
    monkeypatch.setattr(port_forward, "_ENOUGH", 1)

    def say_at_once(ws: WebSocket) -> None:
        ws.accept()
        numbers = frame(BINARY, b"\0\x98\x3a") + frame(BINARY, b"\1\x98\x3a")
        ws.sock.sendall(numbers + frame(BINARY, b"\0word") * 10)
        ws.receive()

    secure.serve = say_at_once
    with connected(secure.forward()) as sock:
        sock.settimeout(5)  # less than the server's patience

        assert exactly(sock, 40) == b"word" * 10


def test_last_bytes_arrive(secure: Cluster) -> None:
    """What a pod sent before it closed arrives, also where nobody reads for a while."""

    def say_all(ws: WebSocket) -> None:
        ws.accept()
        ws.begin(15000)
        for start in range(0, len(MEGABYTES), 60000):
            ws.send(DATA, MEGABYTES[start : start + 60000])
        ws.sock.sendall(frame(CLOSE, b"\x03\xe8"))

    secure.serve = say_all
    forward = secure.forward()
    with connected(forward) as sock:

        def full() -> None:
            assert held(forward) >= port_forward._ENOUGH

        def bounded() -> None:
            assert held(forward) <= 2 * port_forward._ENOUGH

        eventually(full, SOON)
        consistently(bounded, A_WHILE)

        assert exactly(sock, len(MEGABYTES) + 1) == MEGABYTES


def held(forward: PortForward) -> int:
    """How many bytes it holds for those who do not read."""
    return sum(len(tunnel._to_local) for tunnel in list(forward._open))


def test_closing_breaks_what_is_open(plain: Cluster) -> None:
    """A closed port-forward ends its connections, refuses others, and takes its socket away."""
    before = set(threading.enumerate())
    forward = plain.forward()
    path = Path(forward._path)
    modes = [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent)]

    def wait(ws: WebSocket) -> None:
        ws.accept()
        ws.receive()

    def is_open() -> None:
        assert forward._open

    plain.serve = wait
    with connected(forward) as sock:
        eventually(is_open, SOON)

        forward.close()

        assert sock.recv(1) == b""
    assert modes == [0o600, 0o700]
    assert not path.exists()
    assert {t for t in set(threading.enumerate()) - before if "port-forward" in t.name} == set()


def test_taken_path_is_told(plain: Cluster) -> None:
    """A path that somebody has already is an error of one line."""
    with contextlib.closing(plain.forward()), pytest.raises(PlatformError, match="cannot listen"):
        plain.forward()


def test_relay_is_reached_through_it(secure: Cluster, tmp_path: Path) -> None:
    """Many connections at once go through one port-forward to a relay, half-closes and all."""
    secret, access = new_secret(), tmp_path / "access.json"
    access.write_bytes(access_file(secret))
    argv = [sys.executable, "-I", program.__file__, "--port", "0", "--access", str(access)]
    with shouting() as port, subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as pod:
        assert pod.stdout is not None
        forward = secure.forward(int(pod.stdout.readline().rpartition(":")[2]))
        with contextlib.closing(forward):
            relay = RelayClient(f"unix:{forward._path}", secret)
            with contextlib.closing(relay), ThreadPoolExecutor(20) as pool:
                address = Forward(relay, f"tcp:127.0.0.1:{port}").address
                questions = [f"n{number}".encode() * 10000 for number in range(100)]

                answers = list(pool.map(lambda question: ask(address, question), questions))
        pod.terminate()

    assert answers == [question.upper() for question in questions]
    assert relay.failures == []
    assert len(secure.requests) == 1


def ask(address: Address, question: bytes) -> bytes:
    """Send, half-close, and read to the end."""
    with socket.create_connection(address, 10) as sock:
        sock.sendall(question)
        sock.shutdown(socket.SHUT_WR)
        return exactly(sock, len(question) + 1)
