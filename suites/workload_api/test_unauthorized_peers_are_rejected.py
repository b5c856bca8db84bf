"""Greeters reject unauthorized peers in the handshake, before any call, and both sides log it.

The greeters use OpenSSL and py-spiffe, not Envoy, so every flaw of a credential is tried on them
too.
"""

import pytest

from svidproof import (
    Capability,
    LogRecord,
    Saw,
    Testbed,
    Timestamp,
    budgets,
    eventually,
    needs,
    only,
    requirement,
)
from svidproof.checks import Accepted, Greeter, Greeters, Hello, Refusal, assert_not_answered
from svidproof.probes import Alert, Flaw, tls

pytestmark = pytest.mark.usefixtures("genuine_client_is_answered")
REFUSED, WAS_REFUSED = "refused the other side in the handshake", "was refused in the handshake"
ALERT = "tls alert bad certificate"


def assert_rejected(
    testbed: Testbed, hello: Hello, *, client: Greeter, server: Greeter, since: Timestamp
) -> tuple[LogRecord, LogRecord]:
    """Assert that a handshake failed; return the log records of client and server about it."""
    if hello.message:
        raise Accepted(f"expected a rejection in the handshake, got {hello}")
    assert len(hello.refused) == 1, f"expected one refused handshake: {hello}"
    calls = [row for row in server.asked() if row[0] == client.spiffe_id and row[1] == "Eve"]
    assert not calls, f"the call reached {server.program.name}"
    by_client = hello.refused[0].by_us
    messages = (REFUSED, WAS_REFUSED) if by_client else (WAS_REFUSED, REFUSED)
    pairs = zip((client, server), messages, strict=True)
    own, other = (_logged(testbed, greeter, message, since) for greeter, message in pairs)
    return own, other


def _logged(testbed: Testbed, greeter: Greeter, message: str, since: Timestamp) -> LogRecord:
    def logged() -> LogRecord:
        records = testbed.logs(greeter.program.component, since)
        found = [r for r in records if r.message == message]
        assert found, f"{greeter.program.component} did not log “{message}”"
        return found[-1]

    return eventually(logged, budgets.LOG_LINE)


@requirement("GREETER-3")
def test_client_with_another_id_is_rejected(greeter: Testbed, greeters: Greeters, saw: Saw) -> None:
    """The server rejects a client with a genuine SVID of another service account."""
    since, before = Timestamp.now(), len(greeters.server.refused())

    hello = greeters.unauthorized.hello("server", "Eve")

    own, other = assert_rejected(
        greeter, hello, client=greeters.unauthorized, server=greeters.server, since=since
    )
    refusal = only(greeters.server.refused()[before:], "refusal")
    other_id = greeters.unauthorized.spiffe_id
    assert refusal == Refusal(f"{other_id} is not accepted", by_us=True, peer_id=other_id)
    assert other.fields["reason"] == refusal.reason
    assert own.fields["reason"] == ALERT, f"the client logged {own.fields['reason']}"
    saw(f"server: {refusal.reason}; client: {ALERT}; no call reached the server")


@requirement("GREETER-3")
def test_server_with_another_id_is_rejected(greeter: Testbed, greeters: Greeters, saw: Saw) -> None:
    """The client rejects a server with a genuine SVID of another service account."""
    since, other_id = Timestamp.now(), greeters.unauthorized.spiffe_id

    hello = greeters.client.hello("impostor", "Eve")

    own, other = assert_rejected(
        greeter, hello, client=greeters.client, server=greeters.unauthorized, since=since
    )
    reason = f"{other_id} is not accepted"
    assert hello.refused[0] == Refusal(reason, by_us=True, peer_id=other_id), str(hello)
    assert own.fields["reason"] == reason
    assert other.fields["reason"] == ALERT, f"the server logged {other.fields['reason']}"
    saw(f"client: {reason}; server: {ALERT}; no call reached the server")


@requirement("GREETER-3")
@needs(Capability.OWN_TRUST_ROOT)
@pytest.mark.parametrize("flaw", [pytest.param(f, id=f.value) for f in Flaw if f is not Flaw.NONE])
def test_flawed_client_is_rejected(
    greeter: Testbed, greeters: Greeters, flaw: Flaw, saw: Saw
) -> None:
    """A client with the authorized SPIFFE ID and one flaw is rejected in the handshake."""
    address, credential = greeters.server.program.address, greeter.forged_client(flaw)
    met, refused = len(greeters.server.met()), len(greeters.server.refused())

    exchange = tls.get(address, credential=credential)

    assert_not_answered(exchange)
    assert isinstance(exchange.alert, Alert), f"expected an alert, got {exchange}"

    def rejected() -> Refusal:
        found = [r for r in greeters.server.refused()[refused:] if r.by_us]
        assert len(found) == 1, f"{len(found)} refusals by the server"
        return found[0]

    refusal = eventually(rejected, budgets.LOG_LINE)
    others = [peer for peer in greeters.server.met()[met:] if peer[0] != greeters.client.spiffe_id]
    assert not others, f"the server completed handshakes with {others}"
    saw(f"{refusal.reason}; alert “{exchange.alert.value}”")
