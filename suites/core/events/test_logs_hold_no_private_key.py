"""A log is read by more people, and kept for longer, than a private key may be."""

from svidproof import Capability, needs, requirement
from svidproof.checks import Observation, assert_no_secret_logged


@requirement("EVENTS-6")
@needs(Capability.SPIRE_LOGS, Capability.OWN_SPIRE)
def test_no_component_logs_a_private_key(rotations: Observation) -> None:
    """No line of a log holds a private key or a usable token, at level DEBUG either."""
    testbed = rotations.testbed
    logs = {c: rotations.timeline.logs(c) for c in testbed.components}

    silent = sorted(c for c in (testbed.spire.component, *testbed.agents) if not logs[c])
    assert not silent, f"no log line of {silent} was read"
    for component, records in logs.items():
        assert_no_secret_logged(component, records)
