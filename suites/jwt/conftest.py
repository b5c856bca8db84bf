"""A process that fetches and validates JWT-SVIDs with the Workload API."""

import pytest

from svidproof import Capability, Progress, Testbed, experiment
from svidproof.checks import (
    JwtKeyChange,
    OidcKeyChange,
    OidcReturn,
    observe_jwt_key_change,
    observe_oidc_key_change,
    observe_oidc_return,
    tokens,
)

NEEDS = (Capability.UNREGISTERED_PROCESS, Capability.OWN_SPIRE)


@pytest.fixture(scope="session")
def verifier(bearer: Testbed) -> tokens.Verifier:
    """The prober, registered and federated with two trust domains whose keys the suite has."""
    # Until the testbed is closed, which may be before the end of the session.
    return bearer.had.enter_context(tokens.verifying(bearer))


@pytest.fixture
def audience() -> str:
    """An audience for which no token has been requested."""
    return tokens.new_audience()


# Its process has the same entry as the one of the shared testbed.
@experiment("bearer", testbed="keys", always_separate=True, changes=True, seconds=8, needs=NEEDS)
def jwt_key_change(testbed: Testbed, progress: Progress) -> JwtKeyChange:
    """A JWT key is prepared and activated, and the one before it tainted and revoked."""
    return observe_jwt_key_change(testbed, progress)


@experiment("oidc", testbed="keys", changes=True, seconds=8, needs=NEEDS)
def oidc_key_change(testbed: Testbed, progress: Progress) -> OidcKeyChange:
    """The change of the JWT key, as a client of the OIDC discovery provider sees it."""
    return observe_oidc_key_change(testbed, progress)


@experiment(
    "oidc",
    testbed="keys",
    changes=True,
    seconds=10,
    needs=(*NEEDS, Capability.FAULTS, Capability.KILL),
)
def oidc_return(testbed: Testbed, progress: Progress) -> OidcReturn:
    """The agent is away while a JWT key is prepared."""
    return observe_oidc_return(testbed, progress)


@pytest.fixture
def jwt_verifier_id(jwt_key_change: JwtKeyChange) -> str:
    """The SPIFFE ID of the process whose tokens are verified there."""
    return jwt_key_change.testbed.scenario.spiffe_id(tokens.VERIFIER)
