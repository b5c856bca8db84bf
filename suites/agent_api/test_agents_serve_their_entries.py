"""Which entries an agent is responsible for: those below it, its aliases and its other entries."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from svidproof import Capability, Saw, Testbed, needs, only, requirement
from svidproof.probes import X509Answer, delegated

pytestmark = needs(Capability.OWN_SPIRE, Capability.OWN_MACHINE, Capability.UNREGISTERED_PROCESS)
Marked = Callable[..., tuple[str, ...]]
AwaitSvids = Callable[..., X509Answer]
MARK = "below"
# Node aliases: the agent's selectors, those that it has not among them.
ALIASES = {"alias": (), "alias-of-others": ("x509pop:subject:cn:another",)}
# The entries with their parents; `agent` is the agent, `stranger` an agent that does not exist.
# Those of others come first: once the last entry is served, the agent has all of them.
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


@dataclass(frozen=True)
class Served:
    """The entries that an agent serves, as a delegate of it sees them.

    Attributes:
        testbed: the testbed of the agent.
        admin: the agent's admin socket.
        marked: makes selectors that no process has.
        await_svids: waits until a delegate gets exactly these SVIDs.
        selectors: those with which the agent was attested.
    """

    testbed: Testbed
    admin: str
    marked: Marked
    await_svids: AwaitSvids
    selectors: tuple[str, ...]

    def entry(self, name: str, parent: str) -> dict[str, Any]:
        """An entry with a selector of its own name; it is not created."""
        return self.testbed.registration.entry(name, self.marked(name), parent)

    def alias(self, name: str, *others: str) -> dict[str, Any]:
        """A node alias of agents with this agent's selectors and others; it is not created."""
        registration = self.testbed.registration
        return registration.entry(name, (*self.selectors, *others), registration.server_id)

    def await_served(self, mark: str, *names: str) -> None:
        """Wait until a delegate gets exactly the SVIDs of these entries for a selector."""
        ids = [self.testbed.scenario.spiffe_id(name) for name in names]
        self.await_svids(self.admin, delegated.On(self.marked(mark)), ids)


def _served(testbed: Testbed, admin: str, marked: Marked, await_svids: AwaitSvids) -> Served:
    attested = only(testbed.spire.agents(), "agent")["selectors"]
    selectors = tuple(f"{selector['type']}:{selector['value']}" for selector in attested)
    return Served(testbed, admin, marked, await_svids, selectors)


@pytest.fixture(scope="module")
def served(agent_api: Testbed, admin: str, marked: Marked, await_svids: AwaitSvids) -> Served:
    """An agent of a server that rereads all entries periodically."""
    return _served(agent_api, admin, marked, await_svids)


@pytest.fixture(scope="module")
def served_by_events(
    events_based_cache: Testbed, marked: Marked, await_svids: AwaitSvids
) -> Iterator[Served]:
    """An agent of a server that rereads only the entries named by events."""
    prober = events_based_cache.prober
    with events_based_cache.registered("delegate", prober.selectors):
        yield _served(events_based_cache, prober.admin_api(), marked, await_svids)


@requirement("AGENT-12")
def test_entries_below_are_served(served: Served) -> None:
    """An agent serves the entries below it, its aliases and its entries, and those of no other."""
    _assert_entries_below_are_served(served)


@requirement("AGENT-12")
def test_moved_entry_is_lost(served: Served) -> None:
    """An entry that gets another agent as its parent is lost, and served again once it is back."""
    _assert_moved_entry_is_lost(served)


@requirement("AGENT-12")
def test_entries_of_deleted_alias_are_lost(served: Served) -> None:
    """Once an alias of the agent is deleted, or needs another selector, its entries are lost."""
    _assert_entries_of_deleted_alias_are_lost(served)


@requirement("AGENT-13")
def test_entries_below_are_served_by_events(served_by_events: Served) -> None:
    """With events_based_cache, an agent serves the entries below it, and those of no other."""
    _assert_entries_below_are_served(served_by_events)


@requirement("AGENT-13")
def test_changed_entry_is_lost_by_events(served_by_events: Served) -> None:
    """With events_based_cache, an entry that gets other selectors or another parent is lost."""
    changed = served_by_events.entry("changed", served_by_events.testbed.agent_id("prober"))
    with served_by_events.testbed.registration.registered(changed) as entry:
        served_by_events.await_served("changed", "changed")
        other = [{"type": "svidproof", "value": "mark:changed-since"}]
        served_by_events.testbed.registration.change(entry, selectors=other)
        served_by_events.await_served("changed")
        served_by_events.await_served("changed-since", "changed")
    served_by_events.await_served("changed-since")
    _assert_moved_entry_is_lost(served_by_events)


@requirement("AGENT-13")
def test_entries_of_deleted_alias_are_lost_by_events(served_by_events: Served) -> None:
    """With events_based_cache, the entries of an alias that no longer matches are lost."""
    _assert_entries_of_deleted_alias_are_lost(served_by_events)


@requirement("AGENT-18")
def test_agent_reports_its_version(agent_api: Testbed, saw: Saw) -> None:
    """SPIRE server lists its agent with the version that the agent has reported."""
    version = only(agent_api.spire.agents(), "agent").get("agent_version")

    assert version, "SPIRE server does not know the version of its agent"
    saw(str(version))


def _assert_entries_below_are_served(served: Served) -> None:
    registration, agent = served.testbed.registration, served.testbed.agent_id("prober")
    stranger = f"spiffe://{served.testbed.scenario.trust_domain}/spire/agent/stranger"
    ids = {"agent": agent, "stranger": stranger}
    made = [served.alias(name, *others) for name, others in ALIASES.items()]
    for name, parent in PARENTS.items():
        above = ids.get(parent) or served.testbed.scenario.spiffe_id(parent)
        made.append(registration.entry(name, served.marked(MARK), above))
    with contextlib.ExitStack() as registered:
        for entry in made:
            registered.enter_context(registration.registered(entry))
        served.await_served(MARK, *SERVED)


def _assert_moved_entry_is_lost(served: Served) -> None:
    registration, agent = served.testbed.registration, served.testbed.agent_id("prober")
    with registration.registered(served.entry("moved", agent)) as entry:
        served.await_served("moved", "moved")
        registration.change(entry, parent_id=f"{agent}-2")
        served.await_served("moved")
        registration.change(entry, parent_id=agent)
        served.await_served("moved", "moved")


def _assert_entries_of_deleted_alias_are_lost(served: Served) -> None:
    registration, alias = served.testbed.registration, served.alias("passing")
    with registration.registered(served.entry("passing-by", alias["spiffe_id"])):
        with registration.registered(alias) as entry:
            served.await_served("passing-by", "passing-by")
            other = {"type": "x509pop", "value": "subject:cn:another"}
            registration.change(entry, selectors=[*alias["selectors"], other])
            served.await_served("passing-by")
            registration.change(entry, selectors=alias["selectors"])
            served.await_served("passing-by", "passing-by")
        served.await_served("passing-by")
