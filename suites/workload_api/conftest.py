"""The greeters, a background conversation between two of them, and a control of refusals."""

from collections.abc import Iterator

import pytest

from svidproof import Progress, Testbed, experiment
from svidproof.checks import Conversation, DemoPage, Greeters


@experiment("greeter", seconds=20)
def conversation_over(testbed: Testbed, progress: Progress) -> Conversation:
    """The client's calls to the server while both sides rotated often enough."""
    conversation = Conversation(testbed, "greeter-client", "server")
    conversation.hear_out(progress)
    return conversation


@pytest.fixture(scope="session")
def greeters(greeter: Testbed) -> Greeters:
    """The greeters by their roles."""
    return Greeters.of(greeter)


@pytest.fixture(scope="session")
def page(greeter: Testbed) -> DemoPage:
    """The demo page."""
    return DemoPage(greeter.programs["demo-page"])


@pytest.fixture
def genuine_client_is_answered(greeters: Greeters) -> Iterator[None]:
    """Control: the same server answers the genuine client just before and just after."""

    def control() -> None:
        hello = greeters.client.hello("server", "Control")
        assert hello.message, f"the genuine client got {hello}"

    control()
    yield
    control()
