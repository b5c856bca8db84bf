"""The experiments with programs that spiffe-helper runs: each runs once, for many checks."""

from svidproof import Capability, Progress, Testbed, experiment
from svidproof.checks import (
    JwtSuccession,
    Recovery,
    Renewals,
    Retirement,
    Succession,
    TokenRenewals,
    observe_renewals,
    observe_token_renewals,
    recover,
    retire,
    succeed,
    succeed_jwt_key,
)
from svidproof.probes import Authority

SERVER, CLIENT = "manifest-server", "manifest-client"
OTHER = "manifest-other"
BOTH = (SERVER, CLIENT)
ALL = (*BOTH, OTHER)
CA = [Capability.OWN_SPIRE, Capability.OWN_TRUST_ROOT]


@experiment("manifest", seconds=15)
def renewals(testbed: Testbed, progress: Progress) -> Renewals:
    """The observation until the files of both sides were renewed often enough."""
    return observe_renewals(testbed, BOTH, progress)


@experiment("manifest", seconds=13)
def tokens_in_files(testbed: Testbed, progress: Progress) -> TokenRenewals:
    """The JWT-SVID in the file of a workload, and those that replace it."""
    return observe_token_renewals(testbed, OTHER, progress)


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


# The stream of the JWT bundle must have been opened again then.
@experiment("manifest", testbed="faults", changes=True, seconds=2, needs=[Capability.OWN_SPIRE])
def jwt_succession(testbed: Testbed, progress: Progress) -> JwtSuccession:
    """The server switches to another JWT key, and revokes the first one."""
    return succeed_jwt_key(testbed, OTHER, progress)
