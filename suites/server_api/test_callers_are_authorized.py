"""Each kind of caller can call the methods that it is authorized for, and no others."""

from collections.abc import Mapping

import grpc
import pytest

from svidproof import Capability, Saw, needs, requirement
from svidproof.checks import Accepted
from svidproof.probes import server_api as api

pytestmark = needs(Capability.OWN_SPIRE)
# Without fields, these would change the server. What a caller may call is seen from the others.
CHANGING = {"PrepareJWTAuthority", "PrepareX509Authority", "SetLogLevel", "ResetLogLevel"}
REQUIREMENTS = {
    "anonymous": "SERVER-1",
    "agent": "SERVER-2",
    "workload": "SERVER-3",
    "admin": "SERVER-4",
    "downstream": "SERVER-5",
    "local": "SERVER-6",
}


def _rows(*, allowed: bool) -> list[object]:
    """Each caller with the services that have methods it may call, or may not."""
    found = {
        (kind, method.service): None
        for kind in REQUIREMENTS
        for method in api.methods()
        if method.allows(kind) is allowed and not (allowed and method.name in CHANGING)
    }
    return [
        pytest.param(kind, service, id=f"{kind}-{service}", marks=requirement(REQUIREMENTS[kind]))
        for kind, service in found
    ]


@pytest.mark.parametrize(("kind", "service"), _rows(allowed=False))
def test_methods_for_others_are_refused(
    callers: Mapping[str, api.ServerCaller], kind: str, service: str, saw: Saw
) -> None:
    """The server refuses each method of the service that the caller is not authorized for."""
    refused = [m for m in api.methods() if m.service == service and not m.allows(kind)]
    answers = {m.name: callers[kind].call(m.service, m.name) for m in refused}

    for name, answer in answers.items():
        assert not answer.silent, f"SPIRE server did not answer {name} of caller {kind}: {answer}"
        # In a version that lacks the method, no caller can call it.
        if not answer.refused and answer.code is not grpc.StatusCode.UNIMPLEMENTED:
            raise Accepted(f"caller {kind} can call {name}: {answer}")
    saw(f"{len(answers)} methods")


@pytest.mark.parametrize(("kind", "service"), _rows(allowed=True))
def test_own_methods_can_be_called(
    callers: Mapping[str, api.ServerCaller], kind: str, service: str, saw: Saw
) -> None:
    """The server lets the caller call each method of the service that it is authorized for."""
    own = [m for m in api.methods() if m.service == service and _callable(m, kind)]
    answers = {m.name: callers[kind].call(m.service, m.name) for m in own}

    for name, answer in answers.items():
        # An empty request may well be invalid: only the authorization is asked about.
        gone = answer.code is grpc.StatusCode.UNIMPLEMENTED
        assert not gone, f"SPIRE server does not have {name}, which caller {kind} can call"
        assert not answer.refused, f"caller {kind} cannot call {name}: {answer}"
        assert not answer.silent, f"SPIRE server did not answer {name} of caller {kind}: {answer}"
    saw(f"{len(answers)} methods")


def _callable(method: api.Method, kind: str) -> bool:
    return method.allows(kind) and method.name not in CHANGING
