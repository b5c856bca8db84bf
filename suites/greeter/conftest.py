"""The greeters, a background conversation between two of them, and a control of refusals."""

from collections.abc import Iterator

import pytest

from svidproof import Progress, Testbed
from svidproof.demo_page import DemoPage
from svidproof.greeters import Conversation, Greeters


@pytest.fixture(scope="session")
def conversation(greeter: Testbed) -> Conversation:
    """What the client goes on asking the server, from the first check to the last."""
    return Conversation(greeter, "greeter-client", "server")


@pytest.fixture(scope="session")
def greeters(conversation: Conversation) -> Greeters:
    """The greeters by their roles; the conversation of two of them has started."""
    return Greeters.of(conversation.testbed)


@pytest.fixture(scope="session")
def conversation_over(conversation: Conversation, progress: Progress) -> Conversation:
    """The conversation, once both sides have rotated often enough; checks that ask go last."""
    conversation.hear_out(progress)
    return conversation


@pytest.fixture(scope="session")
def page(conversation: Conversation) -> DemoPage:
    """The demo page; the greeters' conversation has started."""
    return DemoPage(conversation.testbed.programs["demo-page"])


@pytest.fixture
def genuine_client_is_answered(greeters: Greeters) -> Iterator[None]:
    """Control: the same server answers the genuine client just before and just after."""

    def control() -> None:
        hello = greeters.client.hello("server", "Control")
        assert hello.message, f"the genuine client got {hello}"

    control()
    yield
    control()
