"""spiffe-helper survives a restart of the agent."""

import http

import pytest

from svidproof import Capability, Measure, needs, requirement
from svidproof.checks import Recovery

pytestmark = [
    requirement("HELPER-8"),
    needs(Capability.OWN_SPIRE),
]
CLIENT = "manifest-client"
each_side = pytest.mark.parametrize("name", ["manifest-server", CLIENT])


@each_side
def test_renewals_resume(reconnection: Recovery, name: str, measure: Measure) -> None:
    """spiffe-helper reconnects, renews its files and signals its program."""
    first = reconnection.renewals(name)[0]

    reconnection.assert_signalled(name)

    measure(
        f"from the agent's stop to new files, {name}", first.first.at - reconnection.gone.at, "s"
    )


@each_side
def test_program_is_not_restarted(reconnection: Recovery, name: str) -> None:
    """The program's process does not change."""
    before, after = reconnection.before[name].pid, reconnection.state(name).pid

    assert after == before, f"{name}'s program was process {before}, and is {after} now"


def test_no_request_fails(reconnection: Recovery) -> None:
    """Every request succeeds, with and without the agent."""
    requests = reconnection.requests(CLIENT, since=reconnection.gone)

    failed = [r for r in requests if r.status != http.HTTPStatus.OK]
    assert not failed, f"{len(failed)} of {len(requests)} failed; the first: {failed[0].note}"
