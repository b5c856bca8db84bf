"""The testbeds that checks share, one fixture for each scenario and named like it."""

import pytest

from svidproof import Testbed
from svidproof.testbeds import Testbeds


@pytest.fixture(scope="session")
def api(testbeds: Testbeds) -> Testbed:
    """A server, a client that it accepts, and one that it does not."""
    return testbeds.get("api")
