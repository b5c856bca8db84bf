"""SPIRE is down for longer than the lifetime of SVIDs: expired SVIDs are rejected.

The control is a valid credential of the same client, which the same listener accepts at the same
moment.
"""

import re
from http import HTTPStatus

import pytest
from cryptography.x509 import Certificate
from grpc import StatusCode

from svidproof import Request, Saw, Timestamp, requirement
from svidproof.checks import Accepted, Outage, assert_accepted, refusals

CLIENT, SERVER = "client", "server"
# What Envoy logs about the peer's certificate, with `_` or blanks between the words.
EXPIRED = re.compile(r"certificate.has.expired")
REJECTED = "CERTIFICATE_VERIFY_FAILED"


class Unexplained(AssertionError):  # noqa: N818  a verdict, not a programming error
    """A sidecar rejects an expired SVID without logging that it has expired."""


class StillUsed(AssertionError):  # noqa: N818  a verdict, not a programming error
    """Raised if an expired SVID is delivered or presented."""


@requirement("RESILIENCE-3")
def test_expired_svid_is_rejected_without_the_server(server_gone: Outage, saw: Saw) -> None:
    """With the server down, the client's expired SVID is rejected, and a valid one is accepted."""
    saw(_assert_rejected(server_gone))


@requirement("RESILIENCE-3")
def test_expired_svid_is_rejected_without_the_agent(agent_gone: Outage, saw: Saw) -> None:
    """With the agent down, the client's expired SVID is rejected, and a valid one is accepted."""
    saw(_assert_rejected(agent_gone))


@requirement("RESILIENCE-3")
def test_no_request_succeeds_without_the_server(server_gone: Outage) -> None:
    """With the server down, every request fails once both SVIDs have expired."""
    _assert_none_served(server_gone)


@requirement("RESILIENCE-3")
def test_no_request_succeeds_without_the_agent(agent_gone: Outage) -> None:
    """With the agent down, every request fails once both SVIDs have expired."""
    _assert_none_served(agent_gone)


@requirement("RESILIENCE-3")
def test_sidecar_logs_the_reason(server_gone: Outage, saw: Saw) -> None:
    """The sidecar that rejects an expired SVID logs that the certificate has expired."""
    component = server_gone.testbed.workload(SERVER).envoy.component

    reasons = [line.fields.get("tls_failure", "") for line in server_gone.logs(component)]

    matching = [reason for reason in reasons if EXPIRED.search(reason)]
    if not matching and any(REJECTED in reason for reason in reasons):
        raise Unexplained(f"{component} logged only {REJECTED}")
    assert matching, f"{component} logged {sorted(set(reasons))}"
    saw(matching[0][:200])


@requirement("RESILIENCE-11")
@pytest.mark.parametrize("name", [SERVER, CLIENT])
def test_workload_api_delivers_no_expired_svid(server_gone: Outage, name: str) -> None:
    """The agent delivers no expired SVID on a new Workload API stream."""
    answer = server_gone.ending.delivered[name]

    answered = answer.svids or answer.code in {StatusCode.UNAVAILABLE, StatusCode.PERMISSION_DENIED}
    assert answered, f"the Workload API did not answer {name}: {answer}"
    for svid in answer.svids:
        _assert_not_expired(f"{name} was given", svid.chain[0], server_gone.ending.since)


@requirement("RESILIENCE-12")
def test_sidecar_presents_no_expired_svid(server_gone: Outage) -> None:
    """A sidecar presents no expired SVID to its clients."""
    ending = server_gone.ending
    chain = ending.control.peer_chain

    assert chain, f"{SERVER} presented nothing: {ending.control}"
    _assert_not_expired(f"{SERVER} presented", chain[0], ending.since)


def _assert_not_expired(what: str, leaf: Certificate, at: Timestamp) -> None:
    late = (at.wall - leaf.not_valid_after_utc).total_seconds()
    if late > 0:
        raise StillUsed(f"{what} an SVID {late:.1f} s after its expiry")


def _assert_rejected(outage: Outage) -> str:
    ending = outage.ending
    left = (ending.credential.leaf.not_valid_after_utc - ending.since.wall).total_seconds()
    assert left < 0, f"the SVID had {left:.1f} s left: this proves nothing"
    assert_accepted(ending.control)
    if ending.refused.status is not None:
        raise Accepted(f"an SVID was accepted {-left:.1f} s after its expiry: {ending.refused}")
    assert ending.refused.alert is refusals.UNKNOWN, f"it was rejected by {ending.refused}"
    return f"{-left:.1f} s after its expiry: {ending.refused}"


def _assert_none_served(outage: Outage) -> None:
    requests = _between(outage)
    served = [r for r in requests if r.status == HTTPStatus.OK]
    assert requests, f"no request was sent with expired SVIDs in {outage.fault.seconds:.0f} s"
    if served:
        raise Accepted(f"{len(served)} of {len(requests)} requests succeeded with expired SVIDs")


def _between(outage: Outage) -> list[Request]:
    """The requests sent after both SVIDs had expired, and before a sidecar had a new one."""
    return outage.requests_between_svids(CLIENT)
