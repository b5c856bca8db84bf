"""What happens to programs that spiffe-helper runs: each once, and asked of many times."""

import pytest

from svidproof import Progress, Testbed
from svidproof.credentials import Authority
from svidproof.watch.recovery import Recovery, Retirement, Succession, recover, retire, succeed
from svidproof.watch.renewals import Renewals, observe_renewals

SERVER, CLIENT = "manifest-server", "manifest-client"
BOTH = (SERVER, CLIENT)
ALL = (*BOTH, "manifest-other")


@pytest.fixture(scope="session")
def renewals(manifest: Testbed, progress: Progress) -> Renewals:
    """What was seen until the files of both sides had been renewed often enough."""
    return observe_renewals(manifest, BOTH, progress)


@pytest.fixture(scope="session")
def succession(manifest: Testbed, progress: Progress) -> Succession:
    """The server signs below another root, as soon as everybody has that in the bundle."""
    progress("changing the authority")
    return succeed(manifest, BOTH, ALL, Authority.create("next", manifest.scenario.trust_domain))


@pytest.fixture(scope="session")
def retirement(succession: Succession, progress: Progress) -> Retirement:
    """The root before that is revoked."""
    progress("revoking the former authority")
    return retire(succession, ALL)


@pytest.fixture(scope="session")
def crashes(manifest: Testbed, progress: Progress) -> Recovery:
    """The client's program crashes; the server's spiffe-helper does, and is started again."""

    def crash() -> None:
        manifest.helped[CLIENT].crash_program()
        manifest.helped[SERVER].crash()
        manifest.helped[SERVER].restart()

    progress("crashing a program and a spiffe-helper")
    return recover(manifest, BOTH, crash)


@pytest.fixture(scope="session")
def reconnection(manifest: Testbed, progress: Progress) -> Recovery:
    """The agent is restarted."""
    agent = manifest.agent_of(SERVER)

    def restart() -> None:
        agent.stop()
        agent.restart()
        agent.wait_ready()

    progress(f"restarting {agent.component}")
    return recover(manifest, BOTH, restart)
