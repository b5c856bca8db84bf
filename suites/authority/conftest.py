"""X.509 authorities that are rotated, by hand and automatically, under load."""

from svidproof import Capability, Progress, Testbed, experiment
from svidproof.checks import (
    Attempt,
    AuthorityChange,
    AuthorityTurn,
    UpstreamChange,
    attempt_authority_steps,
    observe_authority_change,
    observe_authority_turn,
    observe_upstream_change,
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
    "authority",
    testbed="changing",
    changes=True,
    seconds=2,
    needs=[Capability.OWN_SPIRE, Capability.SPIRE_LOGS],
)
def authority_steps(
    testbed: Testbed,
    progress: Progress,
    authority_change: AuthorityChange,  # noqa: ARG001  it comes after it
) -> tuple[Attempt, ...]:
    """Authorities are asked to take steps that are not due, and others that are."""
    return attempt_authority_steps(testbed, progress)


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


@experiment(
    "upstream",
    testbed="replaced",
    changes=True,
    seconds=35,
    needs=[Capability.OWN_SPIRE, Capability.OWN_TRUST_ROOT, Capability.SPIRE_LOGS],
)
def upstream_change(testbed: Testbed, progress: Progress) -> UpstreamChange:
    """The upstream root is replaced by one that expires soon, and that by another."""
    return observe_upstream_change(testbed, progress)
