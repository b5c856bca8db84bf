"""The lifetime of JWT-SVIDs, and when the agent replaces them.

All checks read one series of requests for the same audience.
"""

import functools
import time
import uuid
from dataclasses import dataclass, field

import grpc
import pytest

from svidproof import (
    JITTER,
    TRUNCATION,
    Budget,
    Capability,
    Measure,
    Testbed,
    TimedOut,
    budgets,
    eventually,
    needs,
    only,
    requirement,
)
from svidproof.probes import jwt

pytestmark = [requirement("GREETER-10"), needs(Capability.UNREGISTERED_PROCESS)]
JWT_TTL = 6  # seconds
HALF = JWT_TTL / 2
SLACK = 2.0  # seconds for a busy machine
# The prober asks before its entry exists.
DENIED = r"No identity issued|Workload attestation failed"
REPLACED = Budget("another JWT-SVID", HALF * (1 + JITTER) + SLACK, 0.1)


@dataclass(frozen=True)
class Fetched:
    """One answer of FetchJWTSVID.

    Attributes:
        token: the JWT-SVID.
        lifetime: from its `iat` to its `exp`, in seconds.
        expires: its `exp`, in seconds since the epoch.
        requested: just before the request, in seconds since the epoch.
    """

    token: str = field(repr=False)
    lifetime: float
    expires: float
    requested: float

    @property
    def left(self) -> float:
        """Seconds that the JWT-SVID was still valid when it was requested."""
        return self.expires - self.requested


@dataclass(frozen=True)
class Series:
    """Requests for one audience until the agent replaced the first JWT-SVID.

    Attributes:
        fetched: every answer, in order.
        shortfall: why the series ended without another JWT-SVID; empty otherwise.
    """

    fetched: tuple[Fetched, ...]
    shortfall: str


@pytest.fixture(scope="module")
def series(greeter: Testbed) -> Series:
    """The prober fetches a JWT-SVID again and again, until the agent gives it another one."""
    agent, audience = greeter.prober.agent.component, f"bank-{uuid.uuid4().hex}.example"
    fetch = functools.partial(_fetch, greeter.prober.workload_api(), audience)
    shortfall = ""
    with (
        greeter.provoking(agent, DENIED),
        greeter.registered("late", greeter.prober.selectors, jwt_svid_ttl=JWT_TTL),
    ):
        fetched = [eventually(fetch, budgets.REGISTRATION)]

        def replaced() -> None:
            fetched.append(fetch())
            now = fetched[-1]
            assert now.token != fetched[0].token, f"{now.left:.1f} of {JWT_TTL} s are left of it"

        try:
            eventually(replaced, REPLACED)
        except TimedOut as error:
            shortfall = str(error)
    return Series(tuple(fetched), shortfall)


def test_token_has_its_entrys_ttl(series: Series) -> None:
    """A JWT-SVID is valid for the TTL of its entry."""
    lifetime = series.fetched[0].lifetime

    assert abs(lifetime - JWT_TTL) <= TRUNCATION, f"it lives for {lifetime} s, not {JWT_TTL} s"


def test_token_is_replaced_at_half_its_lifetime(series: Series, measure: Measure) -> None:
    """The agent issues another JWT-SVID when half of the lifetime is left; until then, the same."""
    first, *later = series.fetched
    least = min(fetched.left for fetched in later)
    left = first.expires - later[-1].requested

    assert not series.shortfall, series.shortfall
    measure("least that was left of a JWT-SVID", round(least, 1), "s")
    # The times in a token are whole seconds.
    assert least >= HALF * (1 - JITTER) - TRUNCATION, f"{least:.1f} of {JWT_TTL} s were left"
    assert left <= HALF * (1 + JITTER) + TRUNCATION, f"another was issued with {left:.1f} s left"


def _fetch(target: str, audience: str) -> Fetched:
    requested = time.time()
    answer = jwt.fetch(target, [audience])
    assert answer.code is grpc.StatusCode.OK, str(answer)
    _, token = only(answer.svids, "JWT-SVID")
    claims = jwt.Token.read(token).claims
    return Fetched(token, claims["exp"] - claims["iat"], claims["exp"], requested)
