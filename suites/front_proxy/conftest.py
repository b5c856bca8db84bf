"""What checks at the edge have in common: silence, controls, and the window of an ending."""

from collections.abc import Iterator

import pytest

from svidproof import Capability, Progress, Testbed, experiment
from svidproof.checks import assert_echoed, assert_forbidden
from svidproof.watch.ending import Ending, observe_ending


@pytest.fixture
def quiet(front_proxy: Testbed) -> Iterator[None]:
    """The watch sends nothing, so that counters move only for what the check does."""
    with front_proxy.quiet():
        yield


@pytest.fixture
def genuine_client_is_accepted(
    front_proxy: Testbed,
    quiet: None,  # noqa: ARG001  it is the order
) -> Iterator[None]:
    """Control: a client with nothing wrong is answered by the backend just before and after."""

    def control() -> None:
        credential = front_proxy.genuine_client()
        assert_echoed(front_proxy.outside.get("proxy", credential=credential))

    control()
    yield
    control()


@pytest.fixture
def proxy_reaches_the_backend(
    front_proxy: Testbed,
    quiet: None,  # noqa: ARG001  it is the order
) -> Iterator[None]:
    """Control: the backend's sidecar answers the proxy just before and after, if only with 403."""

    def control() -> None:
        assert_forbidden(front_proxy.workload("proxy").envoy.request("backend"))

    control()
    yield
    control()


@experiment("front-proxy", beside="ending", changes=True, seconds=20, needs=[Capability.OUTSIDE])
def ending(testbed: Testbed, progress: Progress) -> Ending:
    """What was seen once the generator's entry was deleted."""
    return observe_ending(testbed, progress)
