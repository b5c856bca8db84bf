"""A TLS session cannot be resumed after the client's certificate expires."""

import http
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from svidproof import (
    Capability,
    NotYet,
    Saw,
    Testbed,
    Workload,
    budgets,
    eventually,
    needs,
    requirement,
)
from svidproof.checks import Accepted, assert_allowed, refusals
from svidproof.probes import Alert, Exchange, SessionClient, Version

LISTENER = "resuming"
PATH = "/balances/alice"
LIFETIME = timedelta(seconds=2)
# The times in a certificate are whole seconds.
TRUNCATION = timedelta(seconds=1)


@dataclass(frozen=True)
class Attempt:
    """One attempt to resume a session after its certificate expired.

    Attributes:
        late: seconds since the expiry.
        exchange: what the client saw.
        served: how many requests reached the app.
    """

    late: float
    exchange: Exchange
    served: int


@dataclass(frozen=True)
class Expired:
    """Clients whose sessions were created with a certificate that has expired since.

    Attributes:
        attempts: their attempts to resume, by TLS version.
        created: the exchanges in which the sessions were created.
        full_handshake: what a client with the expired certificate and without a session saw.
    """

    attempts: Mapping[Version, Attempt]
    created: tuple[Exchange, ...]
    full_handshake: Exchange


@pytest.fixture(scope="module")
def expired(two_frontends: Testbed) -> Expired:
    """Sessions are created with a certificate that is valid for two seconds, and it expires.

    The sidecar drops all sessions when its own SVID is renewed. Clients with a certificate that
    stays valid show, before the attempts and after them, whether it has; then all is repeated.
    """

    def wait_for_expiry() -> Expired:
        backend = two_frontends.workload("backend")
        spiffe_id = two_frontends.scenario.spiffe_id("frontend")
        short = two_frontends.forge.valid(spiffe_id, lives=LIFETIME)
        long = two_frontends.forge.valid(spiffe_id)
        versions = (Version.TLS1_2, Version.TLS1_3)
        clients = {v: SessionClient(backend.listener(LISTENER), short, v) for v in versions}
        others = [SessionClient(backend.listener(LISTENER), long, v) for v in versions]
        created = tuple(client.get(PATH) for client in (*clients.values(), *others))
        end = short.leaf.not_valid_after_utc
        eventually(lambda: _assert_expired(end), budgets.CERTIFICATE_ENDED)
        _assert_sessions_kept(others)
        full = two_frontends.prober.get(backend, PATH, listener=LISTENER, credential=short)
        attempts = {v: _resume(backend, client, end) for v, client in clients.items()}
        _assert_sessions_kept(others)
        return Expired(attempts, created, full)

    with two_frontends.quiet():
        return eventually(wait_for_expiry, budgets.SESSIONS_KEPT)


@requirement("RBAC-11")
@needs(Capability.OWN_TRUST_ROOT)
@pytest.mark.parametrize("version", refusals.VERSIONS)
def test_session_is_not_resumed_after_expiry(expired: Expired, version: Version, saw: Saw) -> None:
    """A session is not resumed after the certificate that created it has expired."""
    attempt, full = expired.attempts[version], expired.full_handshake

    for exchange in expired.created:
        assert_allowed(exchange)
    reasons = {Alert.CERTIFICATE_UNKNOWN, Alert.CERTIFICATE_EXPIRED}
    assert full.alert in reasons, f"in a full handshake the certificate is not rejected: {full}"
    if attempt.exchange.status == http.HTTPStatus.OK:
        when = f"{attempt.late:.1f} s after its certificate expired"
        raise Accepted(f"accepted {when}: {attempt.exchange}")
    assert not attempt.served, "the app received a request of a client that was rejected"
    saw(f"{attempt.late:.1f} s after the certificate expired: {attempt.exchange}")


def _resume(backend: Workload, client: SessionClient, end: datetime) -> Attempt:
    before = backend.app.count()
    exchange = client.get(PATH)
    late = (datetime.now(UTC) - end).total_seconds()
    return Attempt(late, exchange, backend.app.count() - before)


def _assert_sessions_kept(clients: Iterable[SessionClient]) -> None:
    """Clients with a valid certificate resume, so that a failure is due to the expired one."""
    if not all(client.get(PATH).resumed for client in clients):
        raise NotYet("sessions of a valid certificate are not resumed")


def _assert_expired(end: datetime) -> None:
    left = end + TRUNCATION - datetime.now(UTC)
    if left > timedelta():
        raise NotYet(f"{left.total_seconds():.1f} s are left")
