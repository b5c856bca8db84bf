"""The agent is restarted under a spiffe-helper that is connected to it."""

import pytest

from svidproof import Capability, Measure, needs, requirement
from svidproof.watch.recovery import Recovery

pytestmark = [
    requirement("HELPER-8"),
    needs(Capability.OWN_SPIRE),
    pytest.mark.usefixtures("after_everything"),
]
CLIENT = "manifest-client"
each_side = pytest.mark.parametrize("name", ["manifest-server", CLIENT])


@each_side
def test_renewals_go_on(reconnection: Recovery, name: str, measure: Measure) -> None:
    """spiffe-helper connects again by itself: its files are renewed, and its program signalled."""
    first = reconnection.renewals(name)[0]

    reconnection.assert_signalled(name)

    measure(
        f"from the agent's end to new files, {name}", first.first.at - reconnection.gone.at, "s"
    )


@each_side
def test_program_is_not_touched(reconnection: Recovery, name: str) -> None:
    """The program stays the same process all the while."""
    before, after = reconnection.before[name].pid, reconnection.state(name).pid

    assert after == before, f"{name}'s program was process {before}, and is {after} now"


def test_no_request_fails(reconnection: Recovery) -> None:
    """Every request is answered, with the agent and without."""
    requests = reconnection.requests(CLIENT, since=reconnection.gone)

    failed = [r for r in requests if r.status != 200]
    assert not failed, f"{len(failed)} of {len(requests)} failed; the first: {failed[0].note}"
