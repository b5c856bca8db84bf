"""A server with keys and datastore on disk keeps its state across a restart."""

from http import HTTPStatus

import pytest

from svidproof import requirement
from svidproof.checks import ServerRestart

pytestmark = requirement("RESILIENCE-19")


@pytest.mark.parametrize(
    "what", ["authority", "jwt_authority", "jwt_keys", "bundle", "entries", "agents"]
)
def test_state_is_the_same(server_restart: ServerRestart, what: str) -> None:
    """Signing authorities, JWT keys, trust bundle, entries and agents do not change."""
    before, after = getattr(server_restart.before, what), getattr(server_restart.after, what)

    assert before, f"the server had no {what} before its restart: this proves nothing"
    assert after == before, f"the server's {what} changed over its restart"


def test_no_request_fails(server_restart: ServerRestart) -> None:
    """Every request succeeds during the restart and after it."""
    requests = server_restart.requests()

    assert requests, "no request was sent during the restart"
    failed = [r for r in requests if r.status != HTTPStatus.OK]
    assert not failed, f"{len(failed)} of {len(requests)} failed; the first: {failed[0].note}"
