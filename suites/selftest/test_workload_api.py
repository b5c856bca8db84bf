"""The bare client of the Workload API sends and shows exactly what is on the wire."""

from __future__ import annotations

import contextlib
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from svidproof.probes import x509 as certificates
from svidproof.probes.credentials import Authority, Credential, Template
from svidproof.probes.workload_api.x509 import (
    METHODS,
    Answer,
    X509Stream,
    call,
    fetch_bundles,
    fetch_x509,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from cryptography.x509 import Certificate

DER = serialization.Encoding.DER
ID = "spiffe://example.org/api"


def field(number: int, value: bytes) -> bytes:
    """One length-delimited field, by hand: the client's own messages must not judge themselves."""
    length, size = b"", len(value)
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + value


def der(*certificates: Certificate) -> bytes:
    """Certificates as the Workload API has them: one after the other."""
    return b"".join(certificate.public_bytes(DER) for certificate in certificates)


def key_der(credential: Credential) -> bytes:
    """A private key as the Workload API has it: PKCS#8."""
    key = serialization.load_pem_private_key(credential.key_pem, password=None)
    return key.private_bytes(DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def svid(credential: Credential, bundle: Sequence[Certificate], hint: str = "") -> bytes:
    """An X509SVID message (workload.proto)."""
    fields = [ID.encode(), der(*credential.chain), key_der(credential), der(*bundle)]
    fields += [hint.encode()] if hint else []
    return b"".join(field(number, value) for number, value in enumerate(fields, start=1))


def response(*svids: bytes, **federated: bytes) -> bytes:
    """An X509SVIDResponse message."""
    entries = [
        field(1, domain.replace("_", ".").encode()) + field(2, bundle)
        for domain, bundle in federated.items()
    ]
    return b"".join([*(field(1, s) for s in svids), *(field(3, entry) for entry in entries)])


class Agent:
    """The agent's end of the Workload API: says what it is told to, and remembers its calls."""

    def __init__(self, path: Path) -> None:
        """Listen on a socket at `path`."""
        self.target = f"unix:{path}"
        self.headers: list[dict[str, str]] = []
        self.messages: list[bytes] = []
        self.status: tuple[grpc.StatusCode, str] | None = None
        self.more: queue.SimpleQueue[bytes | None] | None = None
        self.ended = threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(4))
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            method: grpc.unary_stream_rpc_method_handler(self._fetch) for method in METHODS
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("SpiffeWorkloadAPI", handlers),)
        )
        self._server.add_insecure_port(self.target)
        self._server.start()

    def close(self) -> None:
        """Hang up on everybody."""
        if self.more is not None:
            self.more.put(None)
        self._server.stop(None).wait()

    def _fetch(self, _request: bytes, context: Any) -> Iterator[bytes]:  # noqa: ANN401  grpc's own
        self.headers.append({key: str(value) for key, value in context.invocation_metadata()})
        context.add_callback(self.ended.set)
        yield from self.messages
        while self.more is not None and (message := self.more.get()) is not None:
            yield message
        if self.status is not None:
            context.abort(*self.status)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    """An agent that ends every call at once, unless told otherwise."""
    with contextlib.closing(Agent(tmp_path / "agent.sock")) as served:
        yield served


@pytest.fixture(scope="module")
def root() -> Authority:
    """A root for all."""
    return Authority.create("root", "example.org")


@pytest.fixture(scope="module")
def credential(root: Authority) -> Credential:
    """An SVID below an intermediate."""
    return root.intermediate("below", "spiffe://example.org").issue("api", Template(uris=(ID,)))


def test_answer_is_read_whole(agent: Agent, root: Authority, credential: Credential) -> None:
    """An SVID comes with its ID, its chain, its key, its bundle and its hint."""
    agent.messages = [response(svid(credential, [root.certificate], "internal"))]

    answer = fetch_x509(agent.target)

    [delivered] = answer.svids
    assert (answer.code, answer.messages) == (grpc.StatusCode.OK, 1)
    assert (delivered.spiffe_id, delivered.hint) == (ID, "internal")
    assert delivered.chain == credential.chain
    assert delivered.bundle == (root.certificate,)
    assert delivered.key_der == key_der(credential)


def test_svid_becomes_a_credential(agent: Agent, root: Authority, credential: Credential) -> None:
    """What was delivered can be presented as it is."""
    agent.messages = [response(svid(credential, [root.certificate]))]

    made = fetch_x509(agent.target).svids[0].credential()

    assert (made.name, made.chain, made.key_pem) == (ID, credential.chain, credential.key_pem)


@pytest.mark.parametrize("number", [1, 2, 5])
def test_certificates_are_split(agent: Agent, credential: Credential, number: int) -> None:
    """Certificates that follow each other without a mark are told apart, however many there are."""
    bundle = [Authority.create(f"root {n}", "example.org").certificate for n in range(number)]
    agent.messages = [response(svid(credential, bundle))]

    assert fetch_x509(agent.target).svids[0].bundle == tuple(bundle)


def test_long_certificates_are_split(agent: Agent, root: Authority) -> None:
    """The split reads each length: RSA keys and long names make certificates of many sizes."""
    key = rsa.generate_private_key(65537, 2048)
    uris = tuple(f"{ID}/{'x' * 400}/{n}" for n in range(4))
    long = root.issue("long", Template(uris=uris), key=key)
    short = root.issue("short", Template(uris=(), extended=(), key_usage=False, subject=None))
    agent.messages = [response(svid(long, [long.leaf, short.leaf, long.leaf]))]

    delivered = fetch_x509(agent.target).svids[0]

    assert delivered.bundle == (long.leaf, short.leaf, long.leaf)
    assert len(long.leaf.public_bytes(DER)) > 2000


def test_several_svids_keep_their_order(
    agent: Agent, root: Authority, credential: Credential
) -> None:
    """Several identities come in the agent's order: the first is the default."""
    other = root.issue("other", Template(uris=(f"{ID}-too",)))
    agent.messages = [
        response(svid(credential, [root.certificate], "a"), svid(other, [root.certificate], "b"))
    ]

    answer = fetch_x509(agent.target)

    assert [s.hint for s in answer.svids] == ["a", "b"]
    assert answer.svids[1].chain == other.chain


def test_federated_bundles_are_named(agent: Agent, root: Authority, credential: Credential) -> None:
    """The trust domains of federated bundles are told."""
    bundle = der(root.certificate)
    message = response(svid(credential, []), other_example=bundle, third_example=bundle)
    agent.messages = [message]

    assert sorted(fetch_x509(agent.target).federated) == ["other.example", "third.example"]


def test_empty_message_is_a_message_without_svids(agent: Agent) -> None:
    """A message with nothing in it is told from no message at all."""
    agent.messages = [b""]

    answer = fetch_x509(agent.target)

    assert (answer.code, answer.svids, answer.messages) == (grpc.StatusCode.OK, (), 1)


def test_no_message_is_no_answer(agent: Agent) -> None:
    """A call that ends well without a message has status OK and no message."""
    assert fetch_x509(agent.target) == Answer(grpc.StatusCode.OK, "")


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.INTERNAL,
    ],
    ids=lambda code: code.name,
)
def test_status_is_shown_as_it_is(agent: Agent, code: grpc.StatusCode) -> None:
    """A refusal is shown with its code and text, at once and without being retried."""
    agent.status = code, "no identity issued"

    answer = fetch_x509(agent.target)

    assert answer == Answer(code, "no identity issued")
    assert len(agent.headers) == 1


def test_first_message_counts(agent: Agent, root: Authority, credential: Credential) -> None:
    """What comes before the end of a call is what the call brought, whatever ends it."""
    agent.messages = [response(svid(credential, [root.certificate]))]
    agent.status = grpc.StatusCode.UNAVAILABLE, "gone"

    assert len(fetch_x509(agent.target).svids) == 1


def test_mandatory_header_is_sent_and_can_be_left_out(agent: Agent) -> None:
    """The security header is sent by default, and just that is sent which a check asks for."""
    fetch_x509(agent.target)
    fetch_x509(agent.target, metadata=())
    fetch_x509(agent.target, metadata=(("workload.spiffe.io", "false"),))

    values = [headers.get("workload.spiffe.io") for headers in agent.headers]
    assert values == ["true", None, "false"]


@pytest.mark.parametrize("method", METHODS)
def test_each_method_can_be_called(agent: Agent, method: str) -> None:
    """A call shows its status and whether a message came before it, with the headers given."""
    agent.messages = [b""]
    answered = call(agent.target, method)
    agent.messages, agent.status = [], (grpc.StatusCode.PERMISSION_DENIED, "no")
    refused = call(agent.target, method, metadata=())

    assert answered == Answer(grpc.StatusCode.OK, "", messages=1)
    assert refused == Answer(grpc.StatusCode.PERMISSION_DENIED, "no")
    assert [h.get("workload.spiffe.io") for h in agent.headers] == ["true", None]


def test_bundles_are_read_whole(agent: Agent, root: Authority, credential: Credential) -> None:
    """FetchX509Bundles gives the authorities of each trust domain, or a status."""
    both = der(root.certificate, credential.leaf)
    agent.messages = [field(2, field(1, b"spiffe://example.org") + field(2, both))]
    answer = fetch_bundles(agent.target)
    agent.messages, agent.status = [], (grpc.StatusCode.PERMISSION_DENIED, "no")
    refused = fetch_bundles(agent.target)

    assert answer.authorities == {"spiffe://example.org": (root.certificate, credential.leaf)}
    assert (refused.code, refused.details) == (grpc.StatusCode.PERMISSION_DENIED, "no")
    assert not refused.authorities


def test_silence_ends_with_the_deadline(agent: Agent) -> None:
    """An agent that does not answer is DEADLINE_EXCEEDED, and the call is given up."""
    agent.more = queue.SimpleQueue()

    answer = fetch_x509(agent.target, timeout=0.1)

    assert answer.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert agent.ended.wait(5)


def test_call_is_ended_once_it_has_answered(
    agent: Agent, root: Authority, credential: Credential
) -> None:
    """A call that goes on is given up after its first message: no stream is left behind."""
    agent.messages = [response(svid(credential, [root.certificate]))]
    agent.more = queue.SimpleQueue()

    assert fetch_x509(agent.target).messages == 1
    assert agent.ended.wait(5)


def test_missing_socket_is_unavailable(tmp_path: Path) -> None:
    """Where there is no socket, the call is UNAVAILABLE, which is no refusal."""
    answer = fetch_x509(f"unix:{tmp_path / 'none.sock'}", timeout=5)

    assert answer.code is grpc.StatusCode.UNAVAILABLE


class Heard:
    """What a stream has said, to be waited for."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()

    def __call__(self, answer: Answer) -> None:
        """Hear."""
        self._answers.put(answer)

    def next(self) -> Answer:
        """The next answer, which must come within five seconds."""
        return self._answers.get(timeout=5)

    @property
    def quiet(self) -> bool:
        """Whether there is nothing more."""
        return self._answers.empty()


@pytest.fixture
def follow(agent: Agent) -> Iterator[Callable[[], Heard]]:
    """Opens a stream that is closed after the test."""
    with contextlib.ExitStack() as stack:

        def open_stream() -> Heard:
            heard = Heard()
            stack.callback(X509Stream(agent.target, heard).close)
            return heard

        yield open_stream


def test_stream_tells_each_message(
    agent: Agent, root: Authority, credential: Credential, follow: Callable[[], Heard]
) -> None:
    """A stream tells each SVID as it comes."""
    agent.more = queue.SimpleQueue()
    heard = follow()

    for hint in ("first", "second"):
        agent.more.put(response(svid(credential, [root.certificate], hint)))
        assert heard.next().svids[0].hint == hint

    assert heard.quiet


def test_stream_tells_how_it_was_ended(agent: Agent, follow: Callable[[], Heard]) -> None:
    """A stream that the agent ends tells its status once."""
    agent.status = grpc.StatusCode.PERMISSION_DENIED, "no identity issued"

    heard = follow()

    assert heard.next() == Answer(grpc.StatusCode.PERMISSION_DENIED, "no identity issued")
    assert heard.quiet


def test_closing_a_stream_is_no_event(agent: Agent) -> None:
    """A stream that is closed from this side says nothing, and leaves no thread."""
    agent.more = queue.SimpleQueue()
    heard = Heard()
    stream = X509Stream(agent.target, heard, name="stream to close")

    stream.close()

    assert heard.quiet
    assert "stream to close" not in {thread.name for thread in threading.enumerate()}


def test_certificates_of_nothing_are_none() -> None:
    """An empty field has no certificates."""
    assert certificates.load_concatenated(b"") == ()
