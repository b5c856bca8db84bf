"""What happens to programs that spiffe-helper runs: each once, and asked of many times."""

import pytest

from svidproof import Progress, Testbed
from svidproof.watch import Renewals, observe_renewals


@pytest.fixture(scope="session")
def renewals(manifest: Testbed, progress: Progress) -> Renewals:
    """What was seen until the files of both sides had been renewed often enough."""
    return observe_renewals(manifest, ("manifest-server", "manifest-client"), progress)
