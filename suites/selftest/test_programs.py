"""Programs that ask the Workload API themselves: what they are told, and whom they let in."""

from __future__ import annotations

import json
import socket
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest
from cryptography.hazmat.primitives import serialization
from spiffe import X509Svid

from svidproof.checks.greeters import Hello
from svidproof.checks.pages.browser import VARIABLE, find
from svidproof.components.program import Native
from svidproof.model.scenario import APP, APP_CONTROL, INBOUND, load_scenario
from svidproof.probes.credentials import Authority, Credential, Template
from svidproof.probes.flaws import Flaw, Forge
from svidproof.workloads.native.identity import Held
from svidproof.workloads.native.mtls import RefusedError, Seen, Terms, Tunnel, spiffe_id_of
from svidproof.workloads.native.program import Peer, ProgramConfig

if TYPE_CHECKING:
    from pathlib import Path

    from svidproof.platforms.protocol import Platform

DOMAIN = "example.org"
SERVER, CLIENT, OTHER = (f"spiffe://{DOMAIN}/{name}" for name in ("server", "client", "other"))


class Paper:
    """A platform on which nothing runs."""

    def host(self, place: str) -> str:
        """An address."""
        return f"host-of-{place}"

    bind_host = host
    local_host = host

    def private_endpoint(self, place: str, name: str) -> str:
        """A path."""
        return f"/{place}/{name}"


@pytest.fixture
def root() -> Authority:
    """A root of the test's own."""
    return Authority.create("root", DOMAIN)


def held(root: Authority, credential: Credential) -> Held:
    """A credential as py-spiffe would hold it."""
    key = serialization.load_pem_private_key(credential.key_pem, None)
    der = key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    chain = b"".join(c.public_bytes(serialization.Encoding.DER) for c in credential.chain)
    return Held((X509Svid.parse_raw(chain, der),), {DOMAIN: (root.certificate,)})


def terms(root: Authority, spiffe_id: str, accepts: str) -> Terms:
    """One side of a connection."""
    own = held(root, root.issue("own", Template(uris=(spiffe_id,))))
    return Terms(lambda: own, (accepts,))


def meet(server: Terms, client: Terms) -> tuple[Any, Any]:
    """Do one handshake; what each side made of it, the client after it has been answered."""
    listener = socket.create_server(("127.0.0.1", 0))
    results: list[Any] = []

    def serve() -> None:
        sock, _ = listener.accept()
        tunnel = Tunnel(sock, server, server=True)
        try:
            results.append(tunnel.handshake())
            near, far = socket.socketpair()
            with near, far:
                far.sendall(b"hello")
                far.shutdown(socket.SHUT_WR)
                tunnel.splice(near)
        except (RefusedError, OSError) as error:
            results.append(error)
        tunnel.part()

    thread = threading.Thread(target=serve)
    thread.start()
    sock = socket.create_connection(listener.getsockname())
    tunnel = Tunnel(sock, client, server=False)
    near, far = socket.socketpair()
    with near, far:
        try:
            seen: Any = tunnel.handshake()
            tunnel.splice(near)
            assert far.recv(100) == b"hello"
        except RefusedError as error:
            seen = error
    tunnel.part()
    thread.join()
    listener.close()
    return results[0], seen


def test_both_sides_see_each_other(root: Authority) -> None:
    """Where each accepts the other, each knows the other's ID and certificate."""
    server, client = terms(root, SERVER, CLIENT), terms(root, CLIENT, SERVER)

    by_server, by_client = meet(server, client)

    assert isinstance(by_server, Seen)
    assert isinstance(by_client, Seen)
    assert (by_server.peer_id, by_client.peer_id) == (CLIENT, SERVER)
    assert by_server.peer_serial == by_client.own_serial
    assert by_client.peer_serial == by_server.own_serial


@pytest.mark.parametrize("refuser", ["server", "client"])
def test_another_id_is_refused_with_a_reason(root: Authority, refuser: str) -> None:
    """Whoever refuses says whom; the other side gets the alert for a certificate."""
    server, client = terms(root, SERVER, CLIENT), terms(root, CLIENT, SERVER)
    if refuser == "server":
        server = replace(server, accepts=(OTHER,))
    else:
        client = replace(client, accepts=(OTHER,))

    by_server, by_client = meet(server, client)

    by, other = (by_server, by_client) if refuser == "server" else (by_client, by_server)
    refused = CLIENT if refuser == "server" else SERVER
    assert (str(by), by.by_us, by.peer_id) == (f"{refused} is not accepted", True, refused)
    assert (str(other), other.by_us) == ("tls alert bad certificate", False)


def test_server_can_be_made_to_let_anybody_in(root: Authority) -> None:
    """What a sabotage switches off is what refuses: nothing else stands behind it."""
    server = replace(terms(root, SERVER, OTHER), authorise=False)

    by_server, _ = meet(server, terms(root, CLIENT, SERVER))

    assert by_server.peer_id == CLIENT


@pytest.mark.parametrize(
    "flaw",
    [Flaw.TWO_URI_SANS, Flaw.NO_SAN, Flaw.OTHER_SCHEME, Flaw.CA_AS_LEAF, Flaw.KEY_CERT_SIGN],
)
def test_what_is_no_svid_has_no_id(root: Authority, flaw: Flaw) -> None:
    """A certificate that breaks the standard is nobody's."""
    credential = Forge(root, DOMAIN).client(CLIENT, flaw, other_id=OTHER)
    assert credential is not None

    with pytest.raises(ValueError, match=r"certificate|SPIFFE ID"):
        spiffe_id_of(credential.leaf)


def test_program_is_told_all_that_it_needs(tmp_path: Path) -> None:
    """What a program is told by its component is what the program reads."""
    scenario = load_scenario("greeter")
    spec = scenario.workloads["greeter-client"]
    native = Native(cast("Platform", Paper()), scenario, spec, "/agent.sock")
    file = tmp_path / "program.json"
    file.write_text(json.dumps(native.configuration()))

    told = ProgramConfig.read(str(file))

    server = (scenario.spiffe_id("greeter-server"),)
    assert told.workload_api == "unix:/agent.sock"
    assert told.lends == "/greeter-client/lent.sock"
    assert (told.page_port, told.control_port) == (APP, APP_CONTROL)
    assert told.peers["server"] == Peer("host-of-greeter-server", INBOUND, server)
    assert told.peers["impostor"] == Peer("host-of-greeter-stranger", INBOUND, server)
    assert told.settings == {"greets": {"server": "Joe"}}
    assert native.ports == (), "nobody is accepted, so it does not listen"


def test_call_without_identity_is_told() -> None:
    """A greeter without an SVID calls nobody, and says so."""
    hello = Hello.read({"status": "NO_IDENTITY", "message": "", "reason": "none yet"})

    assert str(hello) == "NO_IDENTITY"
    assert Hello.read(None).status == "NO_CHANNEL"


def test_missing_browser_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no browser, the check is skipped with what to install."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(BaseException, match="apt install chromium") as raised:
        find()

    assert type(raised.value).__name__ == "Skipped"
