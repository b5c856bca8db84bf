"""Partners that change, end and fail: each record is made once."""

from collections.abc import Iterator

import pytest

from svidproof import Capability, Progress, Testbed, budgets, eventually, experiment
from svidproof.checks import (
    ENDPOINT_FAILURES,
    End,
    EndpointFailures,
    Greeter,
    Harm,
    Move,
    PartnerChange,
    Polls,
    observe_bulk,
    observe_end,
    observe_endpoint_failure,
    observe_endpoint_failures,
    observe_move,
    observe_partner_change,
    observe_polls,
    observe_silence,
    observe_silent_end,
)

NEEDS = [Capability.OWN_SPIRE, Capability.OWN_TRUST_ROOT, Capability.TOPOLOGIES]


@pytest.fixture
def quiet(federation: Testbed) -> Iterator[None]:
    """Counters move only for what the check does."""
    with federation.quiet():
        yield


@pytest.fixture(scope="session")
def greeters(federation: Testbed) -> dict[str, Greeter]:
    """The programs by name, once each has its SVID."""
    programs = {name: Greeter(program) for name, program in federation.programs.items()}

    def served() -> None:
        assert all(greeter.identity().svid for greeter in programs.values()), "one has no SVID"

    eventually(served, budgets.GUEST_ANSWERED)
    return programs


@experiment("partners", testbed="failing", changes=True, seconds=20, needs=NEEDS)
def failures(testbed: Testbed, progress: Progress) -> EndpointFailures:
    """All partners but one have a bundle endpoint that fails."""
    return observe_endpoint_failures(testbed, progress)


@experiment("federation", testbed="changing", changes=True, seconds=30, needs=NEEDS)
def partner_change(testbed: Testbed, progress: Progress) -> PartnerChange:
    """The partner rotates its CA."""
    return observe_partner_change(testbed, progress)


@experiment("partners", testbed="harmed", changes=True, seconds=6, needs=NEEDS)
def silence(testbed: Testbed, progress: Progress) -> Harm:
    """A bundle endpoint does not answer."""
    return observe_silence(testbed, progress)


@experiment("partners", testbed="harmed", changes=True, seconds=16, needs=NEEDS)
def failures_alone(testbed: Testbed, progress: Progress) -> dict[str, Harm]:
    """Bundle endpoints fail in those ways that affect other partners, one after the other."""
    alone = [failure for failure in ENDPOINT_FAILURES if failure.alone]
    return {failure.name: observe_endpoint_failure(testbed, failure, progress) for failure in alone}


@experiment("partners", testbed="swamped", changes=True, seconds=20, needs=NEEDS)
def bulk(testbed: Testbed, progress: Progress) -> Harm:
    """A bundle endpoint serves a huge bundle."""
    return observe_bulk(testbed, progress)


@experiment("partners", testbed="ending", changes=True, seconds=12, needs=NEEDS)
def ended(testbed: Testbed, progress: Progress) -> End:
    """A federation relationship ends."""
    return observe_end(testbed, progress)


@experiment("partners", testbed="ending", changes=True, seconds=10, needs=NEEDS)
def silent_end(testbed: Testbed, progress: Progress) -> Harm:
    """A relationship ends while its bundle endpoint does not answer."""
    return observe_silent_end(testbed, progress)


@experiment("partners", testbed="ending", changes=True, seconds=4, needs=NEEDS)
def moved(testbed: Testbed, progress: Progress) -> Move:
    """A partner serves its bundle at another URL."""
    return observe_move(testbed, progress)


@experiment("partners", testbed="polled", changes=True, seconds=50, needs=NEEDS)
def polls(testbed: Testbed, progress: Progress) -> Polls:
    """A partner's bundle changes, and no command refreshes it."""
    return observe_polls(testbed, progress)
