"""Authorities that change, by hand and by themselves, under load."""

from svidproof import Capability, Progress, Testbed, experiment
from svidproof.checks import (
    AuthorityChange,
    AuthorityTurn,
    observe_authority_change,
    observe_authority_turn,
)


@experiment(
    "authority",
    testbed="changing",
    changes=True,
    seconds=15,
    needs=[Capability.OWN_SPIRE, Capability.SPIRE_LOGS],
)
def authority_change(testbed: Testbed, progress: Progress) -> AuthorityChange:
    """An authority is prepared and activated, and the one before it tainted and revoked."""
    return observe_authority_change(testbed, progress)


@experiment(
    "short-authority",
    testbed="turning",
    changes=True,
    seconds=95,
    needs=[Capability.OWN_SPIRE, Capability.SPIRE_LOGS],
)
def authority_turn(testbed: Testbed, progress: Progress) -> AuthorityTurn:
    """The server's CA nears its end, and the server prepares and activates the next one."""
    return observe_authority_turn(testbed, progress)
