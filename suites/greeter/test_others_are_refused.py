"""Greeters reject unauthorized peers in the handshake, before any call, and both log it.

Their programs ask OpenSSL and py-spiffe, not Envoy: every flaw that a credential can have is tried
on them as well.
"""

import pytest

from svidproof import (
    Alert,
    Capability,
    Flaw,
    Saw,
    Testbed,
    budgets,
    eventually,
    needs,
    requirement,
    tls,
)
from svidproof.checks import Accepted, assert_not_answered
from svidproof.clock import Moment
from svidproof.faults import only
from svidproof.greeters import Cast, Greeter, Hello, Refusal
from svidproof.log_line import LogRecord

pytestmark = pytest.mark.usefixtures("genuine_client_is_answered")
REFUSED, WAS_REFUSED = "refused the other side in the handshake", "was refused in the handshake"
ALERT = "tls alert bad certificate"


def assert_refused_over(
    testbed: Testbed, hello: Hello, *, client: Greeter, server: Greeter, since: Moment
) -> tuple[LogRecord, LogRecord]:
    """A call came to nothing in the handshake; returns what client and server logged of it."""
    if hello.message:
        raise Accepted(f"expected a refusal in the handshake, got {hello}")
    assert len(hello.refused) == 1, f"expected one refused handshake: {hello}"
    asked = [row for row in server.asked() if row[0] == client.spiffe_id and row[1] == "Eve"]
    assert not asked, f"the call has reached {server.program.name}"
    by_client = hello.refused[0].by_us
    messages = (REFUSED, WAS_REFUSED) if by_client else (WAS_REFUSED, REFUSED)
    pairs = zip((client, server), messages, strict=True)
    own, other = (_logged(testbed, greeter, message, since) for greeter, message in pairs)
    return own, other


def _logged(testbed: Testbed, greeter: Greeter, message: str, since: Moment) -> LogRecord:
    def told() -> LogRecord:
        records = testbed.logs(greeter.program.component, since)
        found = [r for r in records if r.message == message]
        assert found, f"{greeter.program.component} did not log “{message}”"
        return found[-1]

    return eventually(told, budgets.LOG_LINE)


@requirement("GREETER-3")
def test_client_with_another_id_is_refused(greeter: Testbed, cast: Cast, saw: Saw) -> None:
    """The server rejects a client with a genuine SVID of another service account."""
    since, before = Moment.now(), len(cast.server.refused())

    hello = cast.stranger.hello("server", "Eve")

    own, other = assert_refused_over(
        greeter, hello, client=cast.stranger, server=cast.server, since=since
    )
    refusal = only(cast.server.refused()[before:], "refusal")
    stranger = cast.stranger.spiffe_id
    assert refusal == Refusal(f"{stranger} is not accepted", by_us=True, peer_id=stranger)
    assert other.fields["reason"] == refusal.reason
    assert own.fields["reason"] == ALERT, f"the client was told {own.fields['reason']}"
    saw(f"server: {refusal.reason}; client: {ALERT}; no call has reached the server")


@requirement("GREETER-3")
def test_server_with_another_id_is_refused(greeter: Testbed, cast: Cast, saw: Saw) -> None:
    """The client rejects a server with a genuine SVID of another service account."""
    since, stranger = Moment.now(), cast.stranger.spiffe_id

    hello = cast.client.hello("impostor", "Eve")

    own, other = assert_refused_over(
        greeter, hello, client=cast.client, server=cast.stranger, since=since
    )
    reason = f"{stranger} is not accepted"
    assert hello.refused[0] == Refusal(reason, by_us=True, peer_id=stranger), str(hello)
    assert own.fields["reason"] == reason
    assert other.fields["reason"] == ALERT, f"the server was told {other.fields['reason']}"
    saw(f"client: {reason}; server: {ALERT}; no call has reached the server")


@requirement("GREETER-3")
@needs(Capability.OWN_TRUST_ROOT)
@pytest.mark.parametrize("flaw", [pytest.param(f, id=f.value) for f in Flaw if f is not Flaw.NONE])
def test_flawed_client_is_refused(greeter: Testbed, cast: Cast, flaw: Flaw, saw: Saw) -> None:
    """A client with the authorized SPIFFE ID and one flaw is rejected in the handshake."""
    address, credential = cast.server.program.address, greeter.forged_client(flaw)
    met, refused = len(cast.server.met()), len(cast.server.refused())

    exchange = tls.get(address, credential=credential)

    assert_not_answered(exchange)
    assert isinstance(exchange.alert, Alert), f"expected an alert, got {exchange}"

    def told() -> Refusal:
        found = [r for r in cast.server.refused()[refused:] if r.by_us]
        assert len(found) == 1, f"{len(found)} refusals by the server"
        return found[0]

    refusal = eventually(told, budgets.LOG_LINE)
    strangers = [met for met in cast.server.met()[met:] if met[0] != cast.client.spiffe_id]
    assert not strangers, f"the server has met {strangers}"
    saw(f"{refusal.reason}; alert “{exchange.alert.value}”")
