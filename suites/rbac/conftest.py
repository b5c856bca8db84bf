"""Controls: without a policy both frontends get through, before and after each policy."""

from collections.abc import Callable, Iterator

import pytest

from svidproof import Testbed
from svidproof.checks import assert_let_in


@pytest.fixture
def quiet(two_frontends: Testbed) -> Iterator[None]:
    """The watch sends nothing, so that counters move only for what the check does."""
    with two_frontends.quiet():
        yield


@pytest.fixture(scope="session")
def both_get_through(two_frontends: Testbed) -> Callable[[], None]:
    """Asserts that both are let in: by their sidecars, and straight at the backend's."""

    def control() -> None:
        backend = two_frontends.workload("backend")
        for name in ("frontend", "frontend-2"):
            frontend = two_frontends.workload(name)
            # A refusal in the handshake shows its alert here, but not through a sidecar.
            credential = frontend.svid()
            assert_let_in(
                two_frontends.prober.get(backend, "/balances/alice", credential=credential)
            )
            assert_let_in(frontend.envoy.request("backend", "/balances/alice"))

    return control


@pytest.fixture
def both_are_let_in_without(
    both_get_through: Callable[[], None],
    quiet: None,  # noqa: ARG001  it is the order
) -> Iterator[None]:
    """Control: where no policy is in force both are let in, before the check and after it."""
    both_get_through()
    yield
    both_get_through()
