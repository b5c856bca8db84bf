"""A TLS session cannot be resumed after the client's certificate expires."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from svidproof import (
    Alert,
    Capability,
    Exchange,
    NotYet,
    Saw,
    Testbed,
    Version,
    budgets,
    eventually,
    needs,
    requirement,
)
from svidproof.checks import Accepted, assert_let_in
from svidproof.sessions import Client
from svidproof.workload import Workload

DOOR = "resuming"
PATH = "/balances/alice"
LIFE = timedelta(seconds=2)
# Certificates know whole seconds.
TRUNCATION = timedelta(seconds=1)
VERSIONS = [
    pytest.param(Version.TLS1_2, id="tls12"),
    pytest.param(Version.TLS1_3, id="tls13"),
]


@dataclass(frozen=True)
class Try:
    """What a client with a session saw, so many seconds after its certificate's end.

    Attributes:
        late: these seconds.
        exchange: what it saw.
        served: how many requests the app saw then.
    """

    late: float
    exchange: Exchange
    served: int


@dataclass(frozen=True)
class Ended:
    """Clients with a session that was made while their certificate was valid, and it is no more.

    Attributes:
        tries: what they saw, by the version that they speak.
        made: what they were answered when they made their sessions.
        anew: what a client with the same certificate saw that shook hands anew after its end.
    """

    tries: Mapping[Version, Try]
    made: tuple[Exchange, ...]
    anew: Exchange


@pytest.fixture(scope="module")
def ended(two_frontends: Testbed) -> Ended:
    """Sessions are made by a certificate of two seconds, and its end is awaited.

    The sidecar gives up all sessions when its own SVID is renewed. Clients with a certificate that
    goes on tell, before the tries and after them, whether that has happened meanwhile; then all is
    begun again.
    """

    def wait_out() -> Ended:
        backend = two_frontends.workload("backend")
        spiffe_id = two_frontends.scenario.spiffe_id("frontend")
        ending = two_frontends.forge.valid(spiffe_id, lives=LIFE)
        lasting = two_frontends.forge.valid(spiffe_id)
        versions = (Version.TLS1_2, Version.TLS1_3)
        clients = {v: Client(backend.door(DOOR), ending, v) for v in versions}
        others = [Client(backend.door(DOOR), lasting, v) for v in versions]
        made = tuple(client.get(PATH) for client in (*clients.values(), *others))
        end = ending.leaf.not_valid_after_utc
        eventually(lambda: _assert_over(end), budgets.CERTIFICATE_ENDED)
        _assert_kept(others)
        anew = two_frontends.prober.get(backend, PATH, door=DOOR, credential=ending)
        tries = {v: _try(backend, client, end) for v, client in clients.items()}
        _assert_kept(others)
        return Ended(tries, made, anew)

    with two_frontends.quiet():
        return eventually(wait_out, budgets.SESSIONS_KEPT)


@requirement("RBAC-11")
@needs(Capability.OWN_TRUST_ROOT)
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("version", VERSIONS)
def test_ended_certificate_is_not_resumed(ended: Ended, version: Version, saw: Saw) -> None:
    """A session is not resumed after the certificate that created it has expired."""
    for exchange in ended.made:
        assert_let_in(exchange)
    reasons = {Alert.CERTIFICATE_UNKNOWN, Alert.CERTIFICATE_EXPIRED}
    assert ended.anew.alert in reasons, f"anew the certificate is not refused: {ended.anew}"

    found = ended.tries[version]

    if found.exchange.status == 200:
        told = f"let in {found.late:.1f} s after the end of its certificate"
        raise Accepted(f"{told}: {found.exchange}")
    assert not found.served, "the app saw a request of a client that was refused"
    saw(f"{found.late:.1f} s after the certificate's end: {found.exchange}")


def _try(backend: Workload, client: Client, end: datetime) -> Try:
    before = backend.app.count()
    exchange = client.get(PATH)
    late = (datetime.now(UTC) - end).total_seconds()
    return Try(late, exchange, backend.app.count() - before)


def _assert_kept(others: Iterable[Client]) -> None:
    """Clients whose certificate goes on resume, so that who does not is refused for its own."""
    if not all(other.get(PATH).resumed for other in others):
        raise NotYet("sessions of a certificate that goes on are not resumed")


def _assert_over(end: datetime) -> None:
    left = end + TRUNCATION - datetime.now(UTC)
    if left > timedelta():
        raise NotYet(f"{left.total_seconds():.1f} s are left")
