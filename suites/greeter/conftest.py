"""Greeters, what they go on saying to each other, and the control of refusals."""

from collections.abc import Iterator

import pytest

from svidproof import Progress, Testbed
from svidproof.demo_page import DemoPage
from svidproof.greeters import Cast, Conversation


@pytest.fixture(scope="session")
def conversation(greeter: Testbed) -> Conversation:
    """What the client goes on asking the server, from the first check to the last."""
    return Conversation(greeter, "greeter-client", "server")


@pytest.fixture(scope="session")
def cast(conversation: Conversation) -> Cast:
    """The greeters; from here on two of them talk while other checks are made."""
    return Cast.of(conversation.testbed)


@pytest.fixture(scope="session")
def conversation_over(conversation: Conversation, progress: Progress) -> Conversation:
    """The conversation, once both sides have rotated often enough; checks that ask go last."""
    conversation.hear_out(progress)
    return conversation


@pytest.fixture(scope="session")
def page(conversation: Conversation) -> DemoPage:
    """The demo page; the greeters talk meanwhile."""
    return DemoPage(conversation.testbed.programs["demo-page"])


@pytest.fixture
def genuine_client_is_answered(cast: Cast) -> Iterator[None]:
    """Control: the genuine client is answered by the same server, just before and just after."""

    def control() -> None:
        hello = cast.client.hello("server", "Control")
        assert hello.message, f"the genuine client got {hello}"

    control()
    yield
    control()
