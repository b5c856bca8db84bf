"""Which entries an agent is responsible for: those below it, its aliases and its other entries."""

import contextlib
from collections.abc import Callable, Iterator

import grpc
import pytest

from svidproof import Capability, NotYet, Testbed, budgets, eventually, needs, only, requirement
from svidproof.probes import delegated

pytestmark = needs(Capability.OWN_SPIRE, Capability.TOPOLOGIES, Capability.UNREGISTERED_PROCESS)
MARK = "below"
# Node aliases: the agent's selectors, those that it has not among them.
ALIASES = {"alias": (), "alias-of-others": ("x509pop:subject:cn:another",)}
# The entries with their parents; `agent` is the agent, `stranger` an agent that does not exist.
PARENTS = {
    "own": "agent",
    "below-alias": "alias",
    "below-workload": "own",
    "below-both": "below-workload",
    "of-others": "alias-of-others",
    "of-stranger": "stranger",
    "below-stranger": "of-stranger",
}
SERVED = ["below-alias", "below-both", "below-workload", "own"]


@pytest.fixture(scope="module")
def entries(agent_api: Testbed, marked: Callable[..., tuple[str, ...]]) -> Iterator[None]:
    """The aliases and the entries; all of them have the same selector."""
    registration, agent = agent_api.registration, agent_api.agent_id("prober")
    attested = only(agent_api.spire.agents(), "agent")["selectors"]
    own = tuple(f"{selector['type']}:{selector['value']}" for selector in attested)
    server = f"spiffe://{agent_api.scenario.trust_domain}/spire/server"
    stranger = f"spiffe://{agent_api.scenario.trust_domain}/spire/agent/stranger"
    ids = {"agent": agent, "stranger": stranger}
    made = [registration.entry(name, (*own, *others), server) for name, others in ALIASES.items()]
    for name, parent in PARENTS.items():
        above = ids.get(parent) or agent_api.scenario.spiffe_id(parent)
        made.append(registration.entry(name, marked(MARK), above))
    with contextlib.ExitStack() as registered:
        for entry in made:
            registered.enter_context(registration.registered(entry))
        yield


@requirement("AGENT-12")
@pytest.mark.usefixtures("entries")
def test_entries_below_are_served(
    agent_api: Testbed, admin: str, marked: Callable[..., tuple[str, ...]]
) -> None:
    """An agent serves the entries below it, its aliases and its entries, and those of no other."""
    wanted = [agent_api.scenario.spiffe_id(name) for name in SERVED]

    def has() -> None:
        answer = delegated.delegated_svids(admin, delegated.On(marked(MARK)))
        if answer.code is not grpc.StatusCode.OK or sorted(answer.ids) != wanted:
            raise NotYet(f"{answer}, not SVIDs of {wanted}")

    eventually(has, budgets.REGISTRATION)
