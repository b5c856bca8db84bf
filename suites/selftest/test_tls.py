"""The TLS client and its opposite see each other's alerts, bytes, versions and certificates."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from OpenSSL import SSL

from svidproof.probes import tls
from svidproof.probes.credentials import Authority, Credential
from svidproof.probes.flaws import Flaw, Forge
from svidproof.probes.tls import Alert, Exchange, Impostor, Version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from svidproof.probes.tls import Address

OWN = "spiffe://example.org/api"
MODERN = (Version.TLS1_2, Version.TLS1_3)
each_version = pytest.mark.parametrize(
    "version", [Version.TLS1_2, Version.TLS1_3], ids=lambda version: version.name
)


@pytest.fixture(scope="module")
def forge() -> Forge:
    """Mints credentials of one root."""
    return Forge(Authority.create("root", "example.org"), "example.org")


@pytest.fixture(scope="module")
def server_credential(forge: Forge) -> Credential:
    """What the server presents."""
    return credential(forge, Flaw.NONE)


@pytest.fixture(scope="module")
def host() -> str:
    """A loopback address that no two runs share."""
    return f"127.{os.getpid() % 200 + 20}.{os.getpid() // 200 % 250 + 1}.1"


@pytest.fixture
def impostor(host: str) -> Iterator[Impostor]:
    """A server at a free port."""
    with contextlib.closing(Impostor((host, 0))) as server:
        yield server


def credential(forge: Forge, flaw: Flaw) -> Credential:
    """A credential, which must be one."""
    made = forge.client(OWN, flaw, other_id=f"{OWN}-too")
    assert made is not None
    return made


def address_of(impostor: Impostor) -> Address:
    """Where an impostor listens."""
    host, port = impostor._listener.getsockname()
    return host, port


@contextlib.contextmanager
def server(host: str, *answers: bytes, reset: bool = False) -> Iterator[Address]:
    """A TCP server that takes one connection, reads, answers with these bytes and closes it."""
    with socket.create_server((host, 0)) as listener:
        listener.settimeout(5)

        def answer() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.settimeout(5)
                sock.recv(65536)
                for data in answers:
                    sock.sendall(data)
                if reset:
                    linger = (1).to_bytes(4, "little") + bytes(4)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

        thread = threading.Thread(target=answer)
        thread.start()
        yield listener.getsockname()
        thread.join()


@each_version
def test_genuine_exchange_shows_everything(
    impostor: Impostor, forge: Forge, server_credential: Credential, version: Version
) -> None:
    """An accepted exchange has status, body, version, the peer's chain, bytes and times."""
    client = credential(forge, Flaw.NONE)
    with impostor.serve(server_credential) as attempts:
        exchange = tls.get(
            address_of(impostor),
            "/path",
            credential=client,
            versions=(version, version),
            headers=(("X-Tag", "t1"),),
        )

    assert (exchange.status, exchange.body, exchange.alert) == (200, b"ok", None)
    assert exchange.version == f"TLSv1.{version - Version.TLS1_0}"
    assert exchange.peer_chain == server_credential.chain
    assert exchange.http_bytes > len(b"HTTP/1.1 200 OK\r\n\r\nok")
    assert exchange.header("Content-Length") == "2"
    assert exchange.handshake_s is not None
    assert 0 < exchange.handshake_s < exchange.total_s < 5
    [attempt] = attempts
    assert attempt.request.startswith(b"GET /path HTTP/1.1\r\n")
    assert b"X-Tag: t1\r\n" in attempt.request
    assert (attempt.peer_chain, attempt.alert) == (client.chain, None)


def test_chain_is_sent_whole(
    impostor: Impostor, forge: Forge, server_credential: Credential
) -> None:
    """A credential below an intermediate is presented with it, leaf first."""
    client = credential(forge, Flaw.LEAF_AS_CA)
    with impostor.serve(server_credential) as attempts:
        tls.get(address_of(impostor), credential=client)

    assert attempts[0].peer_chain == client.chain
    assert len(client.chain) == 2


@each_version
@pytest.mark.parametrize("flaw", list(Flaw), ids=lambda flaw: flaw.value)
def test_flaws_are_for_the_peer_to_judge(
    impostor: Impostor, forge: Forge, server_credential: Credential, flaw: Flaw, version: Version
) -> None:
    """Each flawed credential is really presented; only the wrong key fails of itself."""
    client = forge.client(OWN, flaw, other_id=f"{OWN}-too")
    with impostor.serve(server_credential) as attempts:
        exchange = tls.get(
            address_of(impostor), credential=client, versions=(version, version), timeout=2
        )

    [attempt] = attempts
    if flaw is Flaw.WRONG_KEY:
        assert exchange.status is None
        assert exchange.alert is Alert.DECRYPT_ERROR, str(exchange)
        assert (attempt.request, exchange.http_bytes) == (b"", 0)
    else:
        assert exchange.status == 200, str(exchange)
        assert attempt.peer_chain == (client.chain if client else ())


@pytest.mark.parametrize(
    ("code", "alert"),
    [
        (40, Alert.HANDSHAKE_FAILURE),
        (42, Alert.BAD_CERTIFICATE),
        (45, Alert.CERTIFICATE_EXPIRED),
        (46, Alert.CERTIFICATE_UNKNOWN),
        (47, Alert.ILLEGAL_PARAMETER),
        (48, Alert.UNKNOWN_CA),
        (50, Alert.DECODE_ERROR),
        (51, Alert.DECRYPT_ERROR),
        (70, Alert.PROTOCOL_VERSION),
        (80, Alert.INTERNAL_ERROR),
        (116, Alert.CERTIFICATE_REQUIRED),
    ],
    ids=str,
)
def test_alert_is_read_off_the_wire(host: str, code: int, alert: Alert) -> None:
    """A fatal alert is known by its number in RFC 8446, before any HTTP byte."""
    with server(host, bytes([21, 3, 3, 0, 2, 2, code])) as address:
        exchange = tls.get(address)

    assert (exchange.alert, exchange.status, exchange.http_bytes) == (alert, None, 0)
    assert exchange.error
    assert exchange.handshake_s is None
    assert alert.value in str(exchange)


def test_alert_after_the_handshake_is_seen(
    impostor: Impostor, server_credential: Credential, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In TLS 1.3 a refusal comes after the client's handshake is over, and is seen all the same."""
    made = tls._context

    def strict(*arguments: Any) -> SSL.Context:  # noqa: ANN401  those of the original
        context = made(*arguments)
        mode = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
        # The server's context asks for a certificate in its own way afterwards.
        monkeypatch.setattr(context, "set_verify", lambda *_: None, raising=False)
        SSL.Context.set_verify(context, mode, lambda *_: True)
        return context

    monkeypatch.setattr(tls, "_context", strict)
    with impostor.serve(server_credential) as attempts:
        monkeypatch.undo()
        only = (Version.TLS1_3, Version.TLS1_3)
        exchange = tls.get(address_of(impostor), versions=only)

    assert exchange.handshake_s is not None, "the client's own handshake was over"
    assert exchange.version == "TLSv1.3"
    assert (exchange.alert, exchange.http_bytes) == (Alert.CERTIFICATE_REQUIRED, 0)
    assert attempts[0].request == b""


@pytest.mark.parametrize(
    "versions",
    [
        pytest.param((Version.TLS1_0, Version.TLS1_0), id="1.0"),
        pytest.param((Version.TLS1_0, Version.TLS1_1), id="up-to-1.1"),
    ],
)
def test_old_versions_are_really_offered(
    impostor: Impostor, server_credential: Credential, versions: tuple[Version, Version]
) -> None:
    """An old version reaches the server, which refuses it with the alert for that."""
    with impostor.serve(server_credential) as attempts:
        exchange = tls.get(address_of(impostor), versions=versions)

    assert exchange.alert is Alert.PROTOCOL_VERSION, str(exchange)
    assert (exchange.version, exchange.http_bytes) == (None, 0)
    assert len(attempts) == 1


def test_highest_common_version_is_spoken(
    impostor: Impostor, server_credential: Credential
) -> None:
    """A range of versions ends in the highest that both sides know."""
    with impostor.serve(server_credential):
        exchange = tls.get(address_of(impostor), versions=MODERN)

    assert exchange.version == "TLSv1.3"


def test_sessions_are_never_resumed(impostor: Impostor, server_credential: Credential) -> None:
    """Each exchange is a full handshake that presents both certificates anew."""
    with impostor.serve(server_credential) as attempts:
        for _ in range(3):
            client = tls.get(address_of(impostor), credential=server_credential)
            assert client.peer_chain == server_credential.chain

    assert [a.peer_chain for a in attempts] == [server_credential.chain] * 3


def test_impostor_hears_the_client_refuse(
    impostor: Impostor, server_credential: Credential
) -> None:
    """The impostor tells which alert a client sent, and that there was no request."""
    strict = ssl.create_default_context()
    with (
        impostor.serve(server_credential) as attempts,
        socket.create_connection(address_of(impostor), timeout=5) as sock,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        strict.wrap_socket(sock, server_hostname="api")

    [attempt] = attempts
    assert (attempt.alert, attempt.request, attempt.peer_chain) == (Alert.UNKNOWN_CA, b"", ())


def test_impostor_survives_whoever_hangs_up(
    impostor: Impostor, server_credential: Credential
) -> None:
    """A client that hangs up without a word is an attempt without alert, and the next is served."""
    with impostor.serve(server_credential) as attempts:
        socket.create_connection(address_of(impostor), timeout=5).close()
        exchange = tls.get(address_of(impostor))

    assert exchange.status == 200
    assert (attempts[0].alert, attempts[0].request) == (None, b"")


def test_impostor_changes_its_credential(impostor: Impostor, forge: Forge) -> None:
    """One after the other, an impostor presents what it is told to, on the same port."""
    for flaw in (Flaw.EXPIRED, Flaw.OTHER_CA):
        presented = credential(forge, flaw)
        with impostor.serve(presented):
            assert tls.get(address_of(impostor)).peer_chain == presented.chain


def test_closed_port_is_no_refusal(host: str) -> None:
    """Where nobody listens there is no answer and no alert: that must never pass for a refusal."""
    with socket.create_server((host, 0)) as listener:
        address = listener.getsockname()
    for exchange in (tls.get(address), tls.get_plain(address)):
        assert (exchange.status, exchange.alert, exchange.http_bytes) == (None, None, 0)
        assert exchange.error
        assert "refused" in exchange.error


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_hanging_up_is_no_alert(host: str, *, reset: bool) -> None:
    """A server that hangs up during the handshake has sent no alert."""
    with server(host, reset=reset) as address:
        exchange = tls.get(address)

    assert (exchange.status, exchange.alert, exchange.handshake_s) == (None, None, None)
    assert exchange.error
    assert str(exchange).startswith("no answer (")


def test_plaintext_answer_to_tls_is_no_answer(host: str) -> None:
    """HTTP that comes back to a TLS client is an error and not a status."""
    with server(host, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok") as address:
        exchange = tls.get(address)

    assert (exchange.status, exchange.alert) == (None, None)
    assert exchange.error


def test_plain_request_to_a_tls_port(impostor: Impostor, server_credential: Credential) -> None:
    """Plain HTTP gets no HTTP from a TLS port."""
    with impostor.serve(server_credential) as attempts:
        exchange = tls.get_plain(address_of(impostor))

    assert exchange.status is None
    assert attempts[0].request == b""


def test_plain_exchange(host: str) -> None:
    """Without TLS, the same exchange has status, headers, body and no version."""
    answer = b"HTTP/1.1 503 Service Unavailable\r\nX-Why: no\r\ncontent-length: 4\r\n\r\nnone"
    with server(host, answer) as address:
        exchange = tls.get_plain(address, headers=(("x-tag", "t"),))

    assert (exchange.status, exchange.body, exchange.http_bytes) == (503, b"none", len(answer))
    assert exchange.header("x-why") == "no"
    assert exchange.header("missing") is None
    assert str(exchange) == "HTTP 503 over plaintext: b'none'"


@pytest.mark.parametrize(
    ("answers", "body"),
    [
        pytest.param((b"HTTP/1.1 200 OK\r\ncontent-le", b"ngth: 2\r\n\r\no", b"k"), b"ok",
                     id="in-pieces"),
        pytest.param((b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
                      b"2\r\nok\r\n0\r\n\r\n"), b"ok", id="chunked"),
        pytest.param((b"HTTP/1.0 200 OK\r\n\r\nok",), b"ok", id="until-closed"),
        pytest.param((b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",), b"", id="empty"),
    ],
)  # fmt: skip
def test_http_is_read_in_every_form(host: str, answers: tuple[bytes, ...], body: bytes) -> None:
    """An answer is read whole, however it is cut and however its length is told."""
    with server(host, *answers) as address:
        exchange = tls.get_plain(address)

    assert (exchange.status, exchange.body) == (200, body)
    assert exchange.http_bytes == sum(map(len, answers))
    assert exchange.error is None


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"SSH-2.0-OpenSSH\r\n\r\n", id="no-http"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nhalf", id="cut-short"),
    ],
)
def test_broken_http_is_an_error(host: str, answer: bytes) -> None:
    """What is no HTTP, or half of it, is an error, and its bytes are counted."""
    with server(host, answer) as address:
        exchange = tls.get_plain(address)

    assert exchange.error, str(exchange)
    assert exchange.http_bytes == len(answer)


def test_exchange_is_a_value_without_certificates_in_its_text(
    server_credential: Credential,
) -> None:
    """Exchanges compare, and none prints a certificate."""
    exchange = Exchange(status=200, peer_chain=server_credential.chain)

    assert exchange == replace(exchange)
    assert "Certificate" not in repr(exchange)


KEPT_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@contextlib.contextmanager
def patient(host: str, credential: Credential, answers: int) -> Iterator[Address]:
    """A TLS server that answers so many requests on one connection, then ends it."""
    context = tls._context(SSL.TLS_SERVER_METHOD, credential, MODERN)
    with socket.create_server((host, 0)) as listener:
        listener.settimeout(5)

        def answer() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.settimeout(5)
                pump = tls._Pump(context, sock)
                pump.tls.set_accept_state()
                pump.handshake()
                for _ in range(answers):
                    assert b"onnection: close" not in pump.read()
                    pump.write(KEPT_ANSWER)
                pump.tls.shutdown()
                pump.flush()

        thread = threading.Thread(target=answer)
        thread.start()
        yield listener.getsockname()
        thread.join()


def test_kept_connection_serves_until_it_is_ended(
    host: str, forge: Forge, server_credential: Credential
) -> None:
    """Several requests go over one connection; its end is noticed, and no request follows it."""
    with (
        patient(host, server_credential, 2) as address,
        contextlib.closing(tls.Kept(address, credential(forge, Flaw.NONE))) as kept,
    ):
        answers = [kept.get("/a"), kept.get("/b")]
        ended = kept.await_end(5)
        late = kept.get("/c")

    assert [(a.status, a.body) for a in answers] == [(200, b"ok")] * 2
    assert ended
    assert late.status is None
    assert late.error


def test_kept_connection_that_goes_on_has_not_ended(
    host: str, forge: Forge, server_credential: Credential
) -> None:
    """A connection on which nothing happens is not taken for one that has ended."""
    with (
        patient(host, server_credential, 1) as address,
        contextlib.closing(tls.Kept(address, credential(forge, Flaw.NONE))) as kept,
    ):
        ended = kept.await_end(0.05)
        answer = kept.get()

    assert not ended
    assert answer.status == 200


@pytest.mark.parametrize("alert", [pytest.param(b"\x28", id="handshake-failure")])
def test_kept_connection_that_is_refused_is_not_opened(
    host: str, forge: Forge, alert: bytes
) -> None:
    """A server's alert in the handshake is an error of the connection, and leaves none open."""
    with (
        server(host, b"\x15\x03\x03\x00\x02\x02" + alert) as address,
        pytest.raises(ConnectionRefusedError, match="handshake failure"),
    ):
        tls.Kept(address, credential(forge, Flaw.NONE))
