"""Controls: who must get through, before and after each refusal."""

from collections.abc import Iterator

import pytest

from svidproof import Testbed
from svidproof.checks import assert_accepted


@pytest.fixture
def genuine_client_is_accepted(
    request: pytest.FixtureRequest,
    api: Testbed,
    quiet: None,  # noqa: ARG001  it is the order
) -> Iterator[None]:
    """Control: the same client without the flaw is accepted there just before and just after."""
    callspec = getattr(request.node, "callspec", None)
    server = callspec.params.get("server", "api") if callspec else "api"

    def control() -> None:
        credential = api.genuine_client()
        assert_accepted(api.prober.get(api.workload(server), credential=credential))

    control()
    yield
    control()


@pytest.fixture
def quiet(api: Testbed) -> Iterator[None]:
    """The watch sends nothing, so that counters move only for what the check does."""
    with api.quiet():
        yield
