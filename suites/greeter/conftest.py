"""Greeters, what they go on saying to each other, and the control of refusals."""

from collections.abc import Iterator

import pytest

from svidproof import Progress, Testbed, experiment
from svidproof.demo_page import DemoPage
from svidproof.greeters import Cast, Conversation


@experiment("greeter", seconds=20)
def conversation_over(testbed: Testbed, progress: Progress) -> Conversation:
    """What the client has asked the server while both sides rotated often enough."""
    conversation = Conversation(testbed, "greeter-client", "server")
    conversation.hear_out(progress)
    return conversation


@pytest.fixture(scope="session")
def cast(greeter: Testbed) -> Cast:
    """The greeters."""
    return Cast.of(greeter)


@pytest.fixture(scope="session")
def page(greeter: Testbed) -> DemoPage:
    """The demo page."""
    return DemoPage(greeter.programs["demo-page"])


@pytest.fixture
def genuine_client_is_answered(cast: Cast) -> Iterator[None]:
    """Control: the genuine client is answered by the same server, just before and just after."""

    def control() -> None:
        hello = cast.client.hello("server", "Control")
        assert hello.message, f"the genuine client got {hello}"

    control()
    yield
    control()
