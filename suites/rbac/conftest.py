"""Controls: both frontends are allowed while no policy is in force."""

from collections.abc import Callable, Iterator

import pytest

from svidproof import Testbed
from svidproof.checks import assert_allowed


@pytest.fixture
def quiet(two_frontends: Testbed) -> Iterator[Testbed]:
    """The testbed without the watch's requests, so that only the check moves counters."""
    with two_frontends.quiet():
        yield two_frontends


@pytest.fixture(scope="session")
def assert_both_allowed(two_frontends: Testbed) -> Callable[[], None]:
    """Asserts that the backend allows both frontends, by their sidecars and by their SVIDs."""

    def control() -> None:
        backend = two_frontends.workload("backend")
        for name in ("frontend", "frontend-2"):
            frontend = two_frontends.workload(name)
            # The prober shows the alert of a failed handshake, which a sidecar does not.
            credential = frontend.svid()
            assert_allowed(
                two_frontends.prober.get(backend, "/balances/alice", credential=credential)
            )
            assert_allowed(frontend.envoy.request("backend", "/balances/alice"))

    return control


@pytest.fixture
def both_allowed_without_policy(
    assert_both_allowed: Callable[[], None], quiet: Testbed
) -> Iterator[Testbed]:
    """Control: both frontends are allowed before and after the check; yields the quiet testbed."""
    assert_both_allowed()
    yield quiet
    assert_both_allowed()
