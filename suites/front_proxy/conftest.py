"""Controls of the ingress proxy's checks, and the record of a deleted client."""

from collections.abc import Iterator

import pytest

from svidproof import Capability, Progress, Testbed, experiment
from svidproof.checks import Ending, assert_echoed, assert_forbidden, observe_ending


@pytest.fixture
def quiet(front_proxy: Testbed) -> Iterator[Testbed]:
    """The testbed without the watch's requests, so that only the check moves counters."""
    with front_proxy.quiet():
        yield front_proxy


@pytest.fixture
def genuine_client_is_accepted(quiet: Testbed) -> Iterator[None]:
    """Control: the backend answers a client without a flaw just before and just after."""

    def control() -> None:
        credential = quiet.genuine_client()
        assert_echoed(quiet.external_client.get("proxy", credential=credential))

    control()
    yield
    control()


@pytest.fixture
def proxy_reaches_the_backend(quiet: Testbed) -> Iterator[None]:
    """Control: the backend's sidecar answers the proxy with 403 just before and just after."""

    def control() -> None:
        assert_forbidden(quiet.workload("proxy").envoy.request("backend"))

    control()
    yield
    control()


@experiment("front-proxy", testbed="ending", changes=True, seconds=20, needs=[Capability.OUTSIDE])
def ending(testbed: Testbed, progress: Progress) -> Ending:
    """What was seen once the generator's entry was deleted."""
    return observe_ending(testbed, progress)
