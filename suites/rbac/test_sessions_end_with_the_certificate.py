"""A client whose certificate has ended cannot go on by a session that it made before."""

from collections.abc import Mapping
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
class Ended:
    """Clients with a session that was made while their certificate was valid, and it is no more.

    Attributes:
        end: of the certificate.
        clients: by the version that they speak.
        made: what they were answered when they made their sessions.
        anew: what a client with the same certificate saw that shook hands anew after its end.
    """

    end: datetime
    clients: Mapping[Version, Client]
    made: tuple[Exchange, ...]
    anew: Exchange


@pytest.fixture(scope="module")
def ended(two_frontends: Testbed) -> Ended:
    """Sessions are made by a certificate of two seconds, and its end is awaited.

    The sidecar gives up all sessions when its own SVID is renewed. Clients with a certificate that
    goes on tell whether that has happened meanwhile; then all is begun again.
    """

    def wait_out() -> Ended:
        backend = two_frontends.workload("backend")
        spiffe_id = two_frontends.scenario.spiffe_id("frontend")
        ending = two_frontends.forge.sound(spiffe_id, lives=LIFE)
        lasting = two_frontends.forge.sound(spiffe_id)
        versions = (Version.TLS1_2, Version.TLS1_3)
        clients = {v: Client(backend.door(DOOR), ending, v) for v in versions}
        others = [Client(backend.door(DOOR), lasting, v) for v in versions]
        made = tuple(client.get(PATH) for client in (*clients.values(), *others))
        end = ending.leaf.not_valid_after_utc
        eventually(lambda: _assert_over(end), budgets.CERTIFICATE_ENDED)
        if not all(other.get(PATH).resumed for other in others):
            raise NotYet("sessions of a certificate that goes on are not resumed")
        anew = two_frontends.prober.get(backend, PATH, door=DOOR, credential=ending)
        return Ended(end, clients, made, anew)

    with two_frontends.quiet():
        return eventually(wait_out, budgets.SESSIONS_KEPT)


@requirement("RBAC-11")
@needs(Capability.OWN_TRUST_ROOT)
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("version", VERSIONS)
def test_ended_certificate_is_not_resumed(
    two_frontends: Testbed, ended: Ended, version: Version, saw: Saw
) -> None:
    """Who resumes a session after the end of the certificate that it was made by is refused."""
    backend = two_frontends.workload("backend")
    for exchange in ended.made:
        assert_let_in(exchange)
    reasons = {Alert.CERTIFICATE_UNKNOWN, Alert.CERTIFICATE_EXPIRED}
    assert ended.anew.alert in reasons, f"anew the certificate is not refused: {ended.anew}"
    before = backend.app.count()

    exchange = ended.clients[version].get(PATH)

    late = (datetime.now(UTC) - ended.end).total_seconds()
    if exchange.status == 200:
        raise Accepted(f"let in {late:.1f} s after the end of its certificate: {exchange}")
    assert backend.app.count() == before, "the app saw a request of a client that was refused"
    saw(f"{late:.1f} s after the certificate's end: {exchange}")


def _assert_over(end: datetime) -> None:
    left = end + TRUNCATION - datetime.now(UTC)
    if left > timedelta():
        raise NotYet(f"{left.total_seconds():.1f} s are left")
