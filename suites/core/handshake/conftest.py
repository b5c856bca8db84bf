"""Controls: the client that must be accepted before and after each rejection."""

from collections.abc import Iterator

import pytest

from svidproof import Testbed
from svidproof.checks import assert_accepted


@pytest.fixture
def genuine_client_is_accepted(
    request: pytest.FixtureRequest, quiet_api: Testbed
) -> Iterator[None]:
    """Control: the server accepts the same client without the flaw, just before and just after."""
    callspec = getattr(request.node, "callspec", None)
    server = callspec.params.get("server", "api") if callspec else "api"

    def control() -> None:
        credential = quiet_api.genuine_client()
        assert_accepted(quiet_api.prober.get(quiet_api.workload(server), credential=credential))

    control()
    yield
    control()


@pytest.fixture
def quiet_api(api: Testbed) -> Iterator[Testbed]:
    """The testbed without the watch's requests: counters count only what the check does."""
    with api.quiet():
        yield api
