"""What goes through a pod's relay is what would have happened without it."""

from __future__ import annotations

import ast
import contextlib
import queue
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Self

import grpc
import pytest

from svidproof.model.errors import PlatformError
from svidproof.platforms.kubernetes.network.listener import Acceptor, listen
from svidproof.platforms.kubernetes.network.relay import (
    Forward,
    RelayClient,
    Reverse,
    access_file,
    new_secret,
)
from svidproof.probes import tls
from svidproof.probes.credentials import Authority
from svidproof.probes.flaws import Flaw, Forge
from svidproof.waiting import NotYet, eventually
from svidproof.waiting.budgets import Budget
from svidproof.workloads import relay as program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from svidproof.probes.tls import Address

    Programs = Iterable[Sequence[str]]

SOON = Budget("the relay does it", 10, 0.01)
MEGABYTES = bytes(range(256)) * 4096 * 10
RESET = (1).to_bytes(4, sys.byteorder) + bytes(4)
SECRET = new_secret()
WAITS = "import signal; print('ready', flush=True); signal.pause()"


MINE = [sys.executable, "-I", "-c", WAITS, "mine", ""]
OTHER = [*MINE[:-1], "more"]
# What the shared relay may signal.
PROGRAMS = (MINE, OTHER)


class Relay:
    """The relay, as a process of its own."""

    def __init__(
        self, *options: str, port: int = 0, secret: str = SECRET, programs: Programs = ()
    ) -> None:
        """Start it and wait until it listens."""
        with tempfile.NamedTemporaryFile() as access:
            access.write(access_file(secret, programs))
            access.flush()
            # Isolated: in a pod there is no svidproof but this file.
            argv = [sys.executable, "-I", program.__file__, "--access", access.name]
            argv += ["--port", str(port), *options]
            self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
            assert self._process.stdout is not None
            line = self._process.stdout.readline()
        self.pid = self._process.pid
        self.port = int(line.rpartition(":")[2])
        self.target = f"127.0.0.1:{self.port}"

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send it a signal and return its status."""
        self._process.send_signal(number)
        return self._process.wait(5)

    def __enter__(self) -> Self:
        """Nothing; it runs already."""
        return self

    def __exit__(self, *error: object) -> None:
        """Leave no process behind."""
        self._process.kill()
        with self._process:
            pass


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose sockets have short paths."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that the relay serves."""
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def pod(root: Path) -> Iterator[Relay]:
    """A relay for all tests that leave it alone."""
    with Relay("--root", str(root), programs=PROGRAMS) as relay:
        yield relay
        assert relay.end() == 0


@pytest.fixture
def relay(pod: Relay) -> Iterator[RelayClient]:
    """A client of it, which must leave no thread."""
    with client_of(pod.target) as client:
        yield client


@contextlib.contextmanager
def client_of(target: str, secret: str = SECRET) -> Iterator[RelayClient]:
    """A client, and a look at what it leaves."""
    before = set(threading.enumerate())
    relay = RelayClient(target, secret)
    yield relay
    relay.close()
    relay.close()

    def ended() -> None:
        left = set(threading.enumerate()) - before
        assert not left

    eventually(ended, SOON)


@contextlib.contextmanager
def server(
    serve: Callable[[socket.socket], object], at: Address | str = ("127.0.0.1", 0)
) -> Iterator[str]:
    """A server that gives each connection to `serve` and then closes it; yields its address."""

    def answer(sock: socket.socket) -> None:
        with sock, contextlib.suppress(ConnectionError):
            sock.settimeout(10)
            serve(sock)

    listener = listen(at)
    name = listener.getsockname()
    acceptor = Acceptor(listener, answer, name="target")
    try:
        yield f"unix:{name}" if isinstance(name, str) else f"tcp:{name[0]}:{name[1]}"
    finally:
        acceptor.refuse()
        acceptor.join()


def address_of(target: str) -> Address:
    """The address in `tcp:HOST:PORT`."""
    _, host, port = target.split(":")
    return host, int(port)


def free_address() -> Address:
    """An address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
    return host, port


def echo(sock: socket.socket) -> None:
    """Send everything back once the other side has ended."""
    sock.sendall(read(sock))


def shout(sock: socket.socket) -> None:
    """Send each piece back at once, in capitals."""
    while data := sock.recv(65536):
        sock.sendall(data.upper())


def connect(address: Address) -> socket.socket:
    """Connect, with a limit."""
    return socket.create_connection(address, 10)


def read(sock: socket.socket) -> bytes:
    """Read to the end."""
    data = bytearray()
    while part := sock.recv(65536):
        data += part
    return bytes(data)


def ask(address: Address, question: bytes) -> bytes:
    """Send, half-close, and read to the end."""
    with connect(address) as sock, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(read, sock)
        sock.sendall(question)
        sock.shutdown(socket.SHUT_WR)
        return answer.result()


def reset(sock: socket.socket) -> None:
    """Close with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_every_byte_arrives_in_order(relay: RelayClient, short: Path, kind: str) -> None:
    """Ten megabytes there and back are the same bytes, and a half-close is one."""
    at = ("127.0.0.1", 0) if kind == "tcp" else str(short / "target.sock")
    with server(echo, at) as target:
        forward = Forward(relay, target)

        answer = ask(forward.address, MEGABYTES)

        assert answer == MEGABYTES
        assert relay.failures == []


def test_server_may_end_first(relay: RelayClient) -> None:
    """What a server says before it closes arrives, and then the end."""
    with server(lambda sock: sock.sendall(b"bye")) as target:
        forward = Forward(relay, target)

        with connect(forward.address) as sock:
            answer = read(sock)

    assert answer == b"bye"


def test_conversation_goes_on(relay: RelayClient) -> None:
    """Each side hears the other at once, not only at the end."""
    with server(shout) as target:
        forward = Forward(relay, target)

        with connect(forward.address) as sock:
            for word in (b"one", b"two", b"three"):
                sock.sendall(word)

                assert sock.recv(100) == word.upper()


def test_pings_are_no_abuse(pod: Relay) -> None:
    """A relay answers every ping of a client that says nothing else, and does not hang up."""
    settings, ping, goaway = 4, 6, 7  # types of frames (RFC 9113)
    with connect(("127.0.0.1", pod.port)) as sock, sock.makefile("rb") as stream:
        sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + h2_frame(settings))
        seen: list[int] = []
        for number in range(1, 11):
            sock.sendall(h2_frame(ping, bytes(8)))
            while seen.count(ping) < number:
                head = stream.read(9)
                assert head, f"the relay has hung up after {seen}"
                stream.read(int.from_bytes(head[:3], "big"))
                seen.append(head[3])

    assert goaway not in seen


def h2_frame(kind: int, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2, on no stream."""
    return len(payload).to_bytes(3, "big") + bytes([kind, 0, 0, 0, 0, 0]) + payload


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_refused_connection_is_reset(relay: RelayClient, short: Path, kind: str) -> None:
    """A port or socket where nobody listens is a reset, and no failure of the relay."""
    host, port = free_address()
    forward = Forward(relay, f"tcp:{host}:{port}" if kind == "tcp" else f"unix:{short}/none")

    with connect(forward.address) as sock, pytest.raises(ConnectionResetError):
        sock.recv(1)

    assert relay.failures == []


def test_reset_by_the_server_is_one(relay: RelayClient) -> None:
    """What a server sent before it reset the connection arrives, then the reset."""

    def last_words(sock: socket.socket) -> None:
        sock.recv(100)
        sock.sendall(b"last words")
        reset(sock)

    with server(last_words) as target:
        forward = Forward(relay, target)
        with connect(forward.address) as sock:
            sock.sendall(b"any?")

            assert sock.recv(100) == b"last words"
            with pytest.raises(ConnectionResetError):
                sock.recv(100)

    assert relay.failures == []


def test_reset_while_the_client_sends_is_one(relay: RelayClient) -> None:
    """A server that resets before it has read everything is no server that has ended."""
    sent = threading.Event()

    def have_enough(sock: socket.socket) -> None:
        sock.recv(100)
        sent.wait(10)
        reset(sock)

    with server(have_enough) as target:
        forward = Forward(relay, target)
        for _ in range(10):
            sent.clear()
            with connect(forward.address) as sock:
                sock.sendall(MEGABYTES[:3_000_000])
                sent.set()

                with pytest.raises(ConnectionResetError):
                    sock.recv(100)


def test_reset_by_the_client_is_one(relay: RelayClient) -> None:
    """A server does not take a client's reset for an end in good order."""
    heard: queue.SimpleQueue[object] = queue.SimpleQueue()

    def hear(sock: socket.socket) -> None:
        try:
            heard.put(sock.recv(100))
            heard.put(sock.recv(100))
        except ConnectionResetError:
            heard.put("reset")

    with server(hear) as target:
        forward = Forward(relay, target)
        sock = connect(forward.address)
        sock.sendall(b"begun")
        assert heard.get(timeout=10) == b"begun"

        reset(sock)

        assert heard.get(timeout=10) == "reset"


def test_many_connections_at_once(relay: RelayClient) -> None:
    """A hundred connections are open at the same time, and each has its own bytes."""
    with server(shout) as target, contextlib.ExitStack() as stack:
        forward = Forward(relay, target)
        socks = [stack.enter_context(connect(forward.address)) for _ in range(100)]
        for number, sock in enumerate(socks):
            sock.sendall(f"n{number}".encode())

        answers = [sock.recv(100) for sock in socks]

    assert answers == [f"N{number}".encode() for number in range(100)]


def test_who_does_not_read_holds_up_nobody(relay: RelayClient) -> None:
    """A connection that is full in both directions leaves the others alone, and can be closed."""

    def flood(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            sock.sendall(MEGABYTES * 5)

    with server(flood) as full, server(shout) as target:
        stuck = Forward(relay, full)
        forward = Forward(relay, target)
        with connect(stuck.address) as sock:
            sock.settimeout(0.2)
            with pytest.raises(TimeoutError):
                sock.sendall(MEGABYTES * 5)

            answer = ask(forward.address, b"still here?")

            assert answer == b"STILL HERE?"
            stuck.close()


def test_path_is_private(relay: RelayClient, short: Path) -> None:
    """A forward at a path is only this user's, and gone when it is closed."""
    path = short / "private" / "forward.sock"
    with server(echo) as target:
        forward = Forward(relay, target, path=str(path))
        modes = [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent)]
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(b"hello")
            sock.shutdown(socket.SHUT_WR)
            answer = read(sock)
        forward.close()

    assert modes == [0o600, 0o700]
    assert answer == b"hello"
    assert not path.exists()


def test_address_may_be_chosen(relay: RelayClient) -> None:
    """A forward listens where it is told to; a second one there says that it cannot."""
    address = free_address()
    forward = Forward(relay, "tcp:127.0.0.1:1", address=address)

    with pytest.raises(PlatformError, match=r"cannot listen on .*: Address already in use"):
        Forward(relay, "tcp:127.0.0.1:1", address=address)

    assert forward.address == address


def test_closing_breaks_what_is_open(relay: RelayClient) -> None:
    """A closed forward resets its connections and accepts no more."""
    with server(shout) as target:
        forward = Forward(relay, target)
        with connect(forward.address) as sock:
            sock.sendall(b"a")
            sock.recv(1)

            forward.close()
            forward.close()

            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            connect(forward.address)


def test_reach_is_asserted(relay: RelayClient) -> None:
    """It can be asked whether something listens."""
    host, port = free_address()
    with server(echo) as target:
        relay.assert_reaches(target)

    with pytest.raises(NotYet, match=": ECONNREFUSED"):
        relay.assert_reaches(f"tcp:{host}:{port}")


def test_what_comes_in_is_served_here(relay: RelayClient) -> None:
    """Connections to the pod's port, many at once, reach the local server with every byte."""
    inside = free_address()
    with server(echo) as target:
        Reverse(relay, f"tcp:127.0.0.1:{inside[1]}", address_of(target))
        questions = [MEGABYTES, *(f"n{number}".encode() for number in range(20))]

        with ThreadPoolExecutor(len(questions)) as pool:
            answers = list(pool.map(lambda question: ask(inside, question), questions))

    assert answers == questions
    assert relay.failures == []


def test_nobody_hangs_on_a_port_that_nobody_serves(relay: RelayClient) -> None:
    """Without a local server a connection is reset at once; without a reverse it is refused."""
    inside = free_address()
    reverse = Reverse(relay, f"tcp:127.0.0.1:{inside[1]}", free_address())

    with connect(inside) as sock, pytest.raises(ConnectionResetError):
        sock.recv(1)
    reverse.close()

    def refused() -> None:
        with contextlib.suppress(ConnectionRefusedError), connect(inside) as sock:
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""
            raise NotYet("it still listens")

    eventually(refused, SOON)


def test_taken_port_is_told(relay: RelayClient) -> None:
    """A port of the pod that somebody has already is an error with the kernel's name for it."""
    with server(echo) as target, pytest.raises(PlatformError, match=f"{target}: EADDRINUSE"):
        Reverse(relay, target, free_address())


def test_tls_passes_through(relay: RelayClient) -> None:
    """An impostor behind the pod's port and a client before a forward see each other's TLS."""
    forge = Forge(Authority.create("root", "example.org"), "example.org")
    credential = forge.client("spiffe://example.org/api", Flaw.NONE, other_id="spiffe://x.org/x")
    assert credential is not None
    inside = free_address()
    with contextlib.closing(tls.Impostor(("127.0.0.1", 0))) as impostor:
        Reverse(relay, f"tcp:127.0.0.1:{inside[1]}", impostor._listener.getsockname())
        forward = Forward(relay, f"tcp:127.0.0.1:{inside[1]}")
        with impostor.serve(credential) as attempts:
            exchanges = [tls.get(forward.address, credential=credential) for _ in range(3)]

    assert [exchange.status for exchange in exchanges] == [200, 200, 200]
    assert exchanges[0].peer_chain == attempts[0].peer_chain == credential.chain


def test_broken_relay_is_not_the_servers_fault() -> None:
    """When the relay dies its connections are reset and it says why; a new one takes over."""
    inside = free_address()
    with Relay() as first, client_of(first.target) as relay, server(shout) as target:
        forward = Forward(relay, target)
        Reverse(relay, f"tcp:127.0.0.1:{inside[1]}", address_of(target))
        with connect(forward.address) as sock:
            sock.sendall(b"a")
            sock.recv(1)
            first.end(signal.SIGKILL)
            with pytest.raises(ConnectionResetError):
                sock.recv(1)

        def told() -> None:
            assert relay.failures

        eventually(told, SOON)
        assert all(failure.startswith("UNAVAILABLE") for failure in relay.failures)
        with Relay(port=first.port):
            assert ask(forward.address, b"back?") == b"BACK?"
            eventually(lambda: assert_serves(inside), SOON)


def assert_serves(address: Address) -> None:
    """Raise NotYet while nobody listens."""
    try:
        assert ask(address, b"you?") == b"YOU?"
    except ConnectionRefusedError as error:
        raise NotYet(error) from None


def test_signal_finds_its_process(relay: RelayClient) -> None:
    """A signal goes to the process with exactly this argument list, and to no other."""
    with waiting(MINE) as process, waiting(OTHER):
        relay.signal(MINE, signal.SIGKILL)

        assert process.wait(5) == -signal.SIGKILL
        with pytest.raises(ProcessLookupError, match="no process has this argument list"):
            relay.signal(MINE, signal.SIGKILL)
        with waiting(OTHER), pytest.raises(PlatformError, match="have this argument list"):
            relay.signal(OTHER, signal.SIGKILL)


@pytest.mark.parametrize(
    "argv",
    [
        pytest.param([*MINE, "unknown"], id="more"),
        pytest.param(MINE[:-1], id="less"),
        pytest.param([], id="none"),
    ],
)
def test_unknown_program_is_not_signalled(relay: RelayClient, argv: list[str]) -> None:
    """A process that is not one of the pod's programs gets no signal, whether or not it runs."""
    with waiting([*MINE, "unknown"]) as process:
        with pytest.raises(PermissionError, match="not a program of the pod"):
            relay.signal(argv, signal.SIGKILL)

        assert process.poll() is None


@contextlib.contextmanager
def waiting(argv: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits."""
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def test_files_are_put_got_and_removed(relay: RelayClient, root: Path) -> None:
    """A file is replaced whole, is only its owner's, and goes with its directory."""
    path = root / "place" / "file.pem"
    relay.put("place/file.pem", b"first, which is longer")

    relay.put("place/file.pem", b"second\n\0\xff")

    assert relay.get("place/file.pem") == path.read_bytes() == b"second\n\0\xff"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["file.pem"]
    relay.remove("place")
    assert not path.parent.exists()
    with pytest.raises(FileNotFoundError):
        relay.get("place/file.pem")
    with pytest.raises(FileNotFoundError):
        relay.remove("place")


@pytest.mark.parametrize(
    "path", ["../outside", "/etc/hostname", "a/../../outside", "link/outside", "", "."]
)
def test_files_stay_below_the_root(relay: RelayClient, root: Path, path: str) -> None:
    """No path and no link leads out of the relay's directory."""
    link = root / "link"
    link.unlink(missing_ok=True)
    link.symlink_to(root.parent)

    for use in (relay.get, relay.remove, lambda path: relay.put(path, b"")):
        with pytest.raises(PermissionError, match="not below"):
            use(path)

    assert not (root.parent / "outside").exists()


def test_one_name_of_the_root_may_be_served_alone(tmp_path: Path) -> None:
    """With --only, the relay serves one name in its root and what is below it, and nothing else."""
    for name in ("mine", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    with (
        Relay("--root", str(tmp_path), "--only", "mine") as relay,
        client_of(relay.target) as client,
    ):
        assert client.get("mine/file") == b"mine"
        for path in ("other/file", "other", "mine/../other/file", "minelike", "mine/.."):
            with pytest.raises(PermissionError, match=f"not below {tmp_path}/mine"):
                client.remove(path)
        client.remove("mine")

    assert [path.name for path in tmp_path.iterdir()] == ["other"]


METHODS = ("Dial", "Accept", "Ping", "Signal", "Put", "Get", "Remove", "Run", "NoSuchMethod")
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED


def ask_plainly(target: str, method: str, *metadata: tuple[str, str]) -> grpc.StatusCode:
    """Call a method as any gRPC client can; returns the status."""
    address = ((program.ADDRESS, b"tcp:127.0.0.1:1"),)
    with grpc.insecure_channel(target) as channel:
        path = f"/{program.SERVICE}/{method}"
        try:
            if method in ("Dial", "Accept"):
                stream: grpc.StreamStreamMultiCallable[bytes, bytes]
                stream = channel.stream_stream(path)
                list(stream(iter([b""]), metadata=(*address, *metadata), timeout=10))
            else:
                unary: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
                unary(b'{"path": "x"}\n', metadata=metadata, timeout=10)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param((), id="none"),
        pytest.param((("svidproof-secret", ""),), id="empty"),
        pytest.param((("svidproof-secret", "0" * 64),), id="wrong"),
        pytest.param((("svidproof-secret", SECRET[:-1]),), id="shorter"),
        pytest.param((("svidproof-secret", f"{SECRET}0"),), id="longer"),
        pytest.param((("svidproof-secret", SECRET.upper() + "x"),), id="upper-case"),
        pytest.param((("svidproof-secret", SECRET), ("svidproof-secret", "x")), id="twice"),
        pytest.param((("authorization", SECRET),), id="elsewhere"),
    ],
)
def test_call_without_the_secret_is_unauthenticated(
    pod: Relay, root: Path, method: str, metadata: tuple[tuple[str, str], ...]
) -> None:
    """No method answers a caller without the secret, not even by saying that it does not exist."""
    assert ask_plainly(pod.target, method, *metadata) is UNAUTHENTICATED
    assert not (root / "x").exists()


@pytest.mark.parametrize(
    ("method", "status"),
    [
        ("Ping", grpc.StatusCode.OK),
        ("Dial", grpc.StatusCode.UNAVAILABLE),  # nobody listens there
        ("Get", grpc.StatusCode.NOT_FOUND),
        ("Run", grpc.StatusCode.UNIMPLEMENTED),
    ],
)
def test_call_with_the_secret_is_answered(pod: Relay, method: str, status: grpc.StatusCode) -> None:
    """The same calls reach their methods with the secret; there is none that runs programs."""
    assert ask_plainly(pod.target, method, ("svidproof-secret", SECRET)) is status


def test_secret_of_another_relay_opens_nothing() -> None:
    """Each relay has a secret of its own."""
    with (
        Relay(secret=new_secret()) as relay,
        client_of(relay.target) as client,
        pytest.raises(PlatformError, match="the call lacks the relay's secret"),
    ):
        client.ping()


def test_refused_connection_does_not_reach_its_target(pod: Relay) -> None:
    """Without the secret, nobody is connected to anything, and the caller's way is a failure."""
    reached = threading.Event()
    with (
        client_of(pod.target, new_secret()) as client,
        server(lambda _: reached.set()) as target,
    ):
        with connect(Forward(client, target).address) as sock, pytest.raises(ConnectionError):
            sock.recv(1)
        client.close()

        assert client.failures == ["UNAUTHENTICATED: the call lacks the relay's secret"]
    assert not reached.is_set()


def test_secret_is_not_on_the_command_line(pod: Relay) -> None:
    """Whoever lists processes does not see the secret."""
    assert SECRET.encode() not in Path(f"/proc/{pod.pid}/cmdline").read_bytes()
    # Only root may read the environment of a process that hides its memory.
    with contextlib.suppress(PermissionError):
        assert SECRET.encode() not in Path(f"/proc/{pod.pid}/environ").read_bytes()


def test_secrets_are_random() -> None:
    """Two are not the same, and each has 256 bits."""
    made = {new_secret() for _ in range(20)}

    assert len(made) == 20
    assert {len(bytes.fromhex(secret)) for secret in made} == {32}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        pytest.param(None, "No such file or directory", id="missing"),
        pytest.param("{}", "has no secret of 32 characters or more", id="empty"),
        pytest.param('{"secret": "short"}', "has no secret of 32 characters or more", id="short"),
        pytest.param("not JSON", "Expecting value", id="text"),
    ],
)
def test_relay_does_not_start_without_a_secret(
    tmp_path: Path, content: str | None, why: str
) -> None:
    """An access file that is missing, or holds no secret worth the name, ends the relay."""
    path = tmp_path / "access.json"
    if content is not None:
        path.write_text(content)
    argv = [sys.executable, "-I", program.__file__, "--port", "0", "--access", str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=10)

    assert done.returncode == 1
    assert done.stderr.startswith("relay: cannot use --access: ")
    assert why in done.stderr


def test_no_files_without_a_root() -> None:
    """A relay that was given no directory serves none."""
    with (
        Relay() as relay,
        client_of(relay.target) as client,
        pytest.raises(PermissionError, match="pass --root"),
    ):
        client.get("file")


def test_relay_ends_at_once() -> None:
    """A relay that is told to end does not wait for its connections."""
    with (
        Relay() as relay,
        client_of(relay.target) as client,
        server(shout) as target,
        connect(Forward(client, target).address) as sock,
    ):
        sock.sendall(b"a")
        sock.recv(1)

        assert relay.end() == 0


def test_taken_port_ends_the_relay(tmp_path: Path) -> None:
    """A relay that cannot listen ends with one line."""
    access = tmp_path / "access.json"
    access.write_bytes(access_file(SECRET))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        argv = [sys.executable, "-I", program.__file__, "--port", str(port)]
        argv += ["--access", str(access)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=10)

    assert done.returncode == 1
    assert done.stderr == f"relay: cannot listen on 127.0.0.1:{port}: Address already in use\n"


def test_relay_needs_no_more_than_its_image_has() -> None:
    """The relay imports the standard library and grpc, nothing else."""
    imported = set()
    for node in ast.walk(ast.parse(Path(program.__file__).read_bytes())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])

    assert imported - sys.stdlib_module_names == {"grpc"}
