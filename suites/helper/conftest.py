"""The experiments with programs that spiffe-helper runs: each runs once, for many checks."""

from svidproof import Capability, Progress, Testbed, experiment
from svidproof.checks import (
    Recovery,
    Renewals,
    Retirement,
    Succession,
    observe_renewals,
    recover,
    retire,
    succeed,
)
from svidproof.probes import Authority

SERVER, CLIENT = "manifest-server", "manifest-client"
BOTH = (SERVER, CLIENT)
ALL = (*BOTH, "manifest-other")
CA = [Capability.OWN_SPIRE, Capability.OWN_TRUST_ROOT]


@experiment("manifest", seconds=15)
def renewals(testbed: Testbed, progress: Progress) -> Renewals:
    """The observation until the files of both sides were renewed often enough."""
    return observe_renewals(testbed, BOTH, progress)


@experiment("manifest", testbed="faults", changes=True, seconds=7, needs=CA)
def succession(testbed: Testbed, progress: Progress) -> Succession:
    """The server switches to a CA below another root, once every bundle has that root."""
    progress("changing the authority")
    return succeed(testbed, BOTH, ALL, Authority.create("next", testbed.scenario.trust_domain))


@experiment("manifest", testbed="faults", changes=True, seconds=7, needs=CA)
def retirement(_testbed: Testbed, progress: Progress, succession: Succession) -> Retirement:
    """The former root is revoked."""
    progress("revoking the former authority")
    return retire(succession, ALL)


@experiment("manifest", testbed="faults", changes=True, seconds=7)
def crashes(testbed: Testbed, progress: Progress) -> Recovery:
    """The client's program crashes; so does the server's spiffe-helper, which is restarted."""

    def crash() -> None:
        testbed.helped[CLIENT].crash_program()
        testbed.helped[SERVER].crash()
        testbed.helped[SERVER].restart()

    progress("crashing a program and a spiffe-helper")
    return recover(testbed, BOTH, crash)


@experiment("manifest", testbed="faults", changes=True, seconds=7, needs=[Capability.OWN_SPIRE])
def reconnection(testbed: Testbed, progress: Progress) -> Recovery:
    """The agent is restarted."""
    agent = testbed.agent_of(SERVER)

    def restart() -> None:
        agent.stop()
        agent.restart()
        agent.wait_ready()

    progress(f"restarting {agent.component}")
    return recover(testbed, BOTH, restart)
