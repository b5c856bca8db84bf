"""Which entries an agent is responsible for: those below it, its aliases and its other entries."""

import contextlib
from collections.abc import Callable, Iterator

import pytest

from svidproof import Capability, Testbed, needs, only, requirement
from svidproof.probes import X509Answer, delegated

pytestmark = needs(Capability.OWN_SPIRE, Capability.OWN_MACHINE, Capability.UNREGISTERED_PROCESS)
Marked = Callable[..., tuple[str, ...]]
AwaitServed = Callable[[str, list[str]], None]
MARK = "below"
# Node aliases: the agent's selectors, those that it has not among them.
ALIASES = {"alias": (), "alias-of-others": ("x509pop:subject:cn:another",)}
# The entries with their parents; `agent` is the agent, `stranger` an agent that does not exist.
# Those of others come first: whoever has the last entry has heard of all.
PARENTS = {
    "of-others": "alias-of-others",
    "of-stranger": "stranger",
    "below-stranger": "of-stranger",
    "own": "agent",
    "below-alias": "alias",
    "below-workload": "own",
    "below-both": "below-workload",
}
SERVED = ["below-alias", "below-both", "below-workload", "own"]


@pytest.fixture(scope="module")
def agent_selectors(agent_api: Testbed) -> tuple[str, ...]:
    """The selectors with which the agent was attested."""
    attested = only(agent_api.spire.agents(), "agent")["selectors"]
    return tuple(f"{selector['type']}:{selector['value']}" for selector in attested)


@pytest.fixture(scope="module")
def entries(agent_api: Testbed, agent_selectors: tuple[str, ...], marked: Marked) -> Iterator[None]:
    """The aliases and the entries; all of them have the same selector."""
    registration, agent = agent_api.registration, agent_api.agent_id("prober")
    stranger = f"spiffe://{agent_api.scenario.trust_domain}/spire/agent/stranger"
    ids = {"agent": agent, "stranger": stranger}
    made = [
        registration.entry(name, (*agent_selectors, *others), registration.server_id)
        for name, others in ALIASES.items()
    ]
    for name, parent in PARENTS.items():
        above = ids.get(parent) or agent_api.scenario.spiffe_id(parent)
        made.append(registration.entry(name, marked(MARK), above))
    with contextlib.ExitStack() as registered:
        for entry in made:
            registered.enter_context(registration.registered(entry))
        yield


@pytest.fixture
def await_served(
    agent_api: Testbed, admin: str, marked: Marked, await_svids: Callable[..., X509Answer]
) -> AwaitServed:
    """Waits until a delegate gets the SVIDs of exactly these entries for a selector."""

    def wait(mark: str, names: list[str]) -> None:
        ids = [agent_api.scenario.spiffe_id(name) for name in names]
        await_svids(admin, delegated.On(marked(mark)), ids)

    return wait


@requirement("AGENT-12")
@pytest.mark.usefixtures("entries")
def test_entries_below_are_served(await_served: AwaitServed) -> None:
    """An agent serves the entries below it, its aliases and its entries, and those of no other."""
    await_served(MARK, SERVED)


@requirement("AGENT-12")
def test_moved_entry_is_lost(agent_api: Testbed, marked: Marked, await_served: AwaitServed) -> None:
    """An entry that gets another agent as its parent is lost, and served once it is back."""
    agent = agent_api.agent_id("prober")
    with agent_api.registered("moved", marked("moved"), agent=agent_api.prober.agent) as entry:
        await_served("moved", ["moved"])
        agent_api.registration.change(entry, parent_id=f"{agent}-2")
        await_served("moved", [])
        agent_api.registration.change(entry, parent_id=agent)
        await_served("moved", ["moved"])


@requirement("AGENT-12")
def test_entries_of_deleted_alias_are_lost(
    agent_api: Testbed,
    agent_selectors: tuple[str, ...],
    marked: Marked,
    await_served: AwaitServed,
) -> None:
    """Once an alias of the agent is deleted, or needs another selector, its entries are lost."""
    registration = agent_api.registration
    alias = registration.entry("passing", agent_selectors, registration.server_id)
    below = registration.entry("passing-by", marked("passing"), alias["spiffe_id"])
    with registration.registered(below):
        with registration.registered(alias) as entry:
            await_served("passing", ["passing-by"])
            other = {"type": "x509pop", "value": "subject:cn:another"}
            registration.change(entry, selectors=[*alias["selectors"], other])
            await_served("passing", [])
            registration.change(entry, selectors=alias["selectors"])
            await_served("passing", ["passing-by"])
        await_served("passing", [])
