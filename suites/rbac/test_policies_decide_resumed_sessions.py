"""TLS session resumption does not change the result of a policy.

Envoy reads the client's identity from the session for some kinds of principals and not for others,
which shows as single wrong answers. Hence each check sends many requests, each over a new
connection, and both sides must agree on which of them resumed a session.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import pytest

from svidproof import Saw, Testbed, rbac, requirement
from svidproof.checks import assert_all_answered, assert_sessions, send_series
from svidproof.probes import SessionClient, Version

FRONTEND, OTHER = "frontend", "frontend-2"
PATH = "/balances/alice"


@dataclass(frozen=True)
class Session:
    """How the clients connect.

    Attributes:
        listener: the listener of the backend.
        version: the version of TLS.
        share: by which the number of requests is divided.
        resumed: whether every connection must resume a session, or none.
    """

    listener: str
    version: Version
    share: int
    resumed: bool


# Envoy's newer extension gives the wrong answer every time, so fewer requests show it.
PRINCIPALS = [
    pytest.param(rbac.exactly, 200, id="name", marks=requirement("RBAC-9")),
    pytest.param(rbac.validated, 50, id="validated", marks=requirement("RBAC-10")),
]
# The same decision by two policies: the first frontend is allowed, the second is denied.
RULES = ["allow", "deny"]
CLIENTS = [pytest.param(FRONTEND, 200, id="allowed"), pytest.param(OTHER, 403, id="denied")]
# TLS 1.2 and 1.3 resume sessions in different ways.
SESSIONS = [
    pytest.param(Session("inbound", Version.TLS1_3, 1, resumed=False), id="full"),
    pytest.param(Session("resuming", Version.TLS1_2, 2, resumed=True), id="resumed-tls12"),
    pytest.param(Session("resuming", Version.TLS1_3, 2, resumed=True), id="resumed-tls13"),
]


@pytest.mark.usefixtures("both_allowed_without_policy")
@pytest.mark.parametrize("session", SESSIONS)
@pytest.mark.parametrize(("name", "status"), CLIENTS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("principal", "tries"), PRINCIPALS)
def test_no_answer_is_wrong(
    two_frontends: Testbed,
    *,
    principal: Callable[[str], rbac.Principal],
    tries: int,
    rule: str,
    name: str,
    status: int,
    session: Session,
    saw: Saw,
) -> None:
    """Every request of a long series gets the policy's answer, resumed or not."""
    first, second = map(two_frontends.scenario.spiffe_id, (FRONTEND, OTHER))
    rules = {"allow": rbac.allow(principal(first)), "deny": rbac.deny(principal(second))}
    backend, count = two_frontends.workload("backend"), tries // session.share

    def connect() -> tuple[SessionClient, datetime]:
        svid = two_frontends.workload(name).svid()
        client = SessionClient(backend.listener(session.listener), svid, session.version)
        return client, svid.leaf.not_valid_after_utc

    with two_frontends.enforcing("backend", rules[rule]):
        series = send_series(connect, PATH, count, at=backend, listener=session.listener)

    # A wrong answer counts even if the series was not finished in time.
    assert_all_answered(series, status, client=name)
    assert_sessions(series, count=count, resumed=session.resumed)
    saw(f"{series}")
