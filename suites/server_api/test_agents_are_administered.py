"""SPIRE server knows of its agents what they have reported, and lists those that are asked for."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from svidproof import Capability, Testbed, as_parts, as_uri, needs, requirement
from svidproof.probes import server_api as api

pytestmark = needs(Capability.OWN_SPIRE)
Attest = Callable[..., api.PlayedAgent]
Callers = Mapping[str, api.ServerCaller]
PAGE_SIZES = (0, 1, 2)  # 0: all in one answer
MOST_PAGES = 200
VERSION = "1.2.3-played"
WARN = 4  # of spire-api-sdk's log levels
FILTERS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "all": ({}, {"serving", "banned"}),
    "banned": ({"by_banned": {"value": True}}, {"banned"}),
    "not-banned": ({"by_banned": {"value": False}}, {"serving"}),
    "attestation-type": ({"by_attestation_type": "join_token"}, {"serving", "banned"}),
    "another-attestation-type": ({"by_attestation_type": "x509pop"}, set()),
    "can-reattest": ({"by_can_reattest": {"value": True}}, set()),
    "cannot-reattest": ({"by_can_reattest": {"value": False}}, {"serving", "banned"}),
}


@dataclass(frozen=True)
class Agents:
    """Two agents that the suite plays, by what has become of them, with their paths.

    Attributes:
        paths: the names of the agents by the paths of their SPIFFE IDs.
    """

    paths: Mapping[str, str]

    def among(self, found: Counter[str]) -> Counter[str]:
        """How often each of the two agents is among others."""
        return Counter({self.paths[p]: times for p, times in found.items() if p in self.paths})


@pytest.fixture(scope="module")
def agents(server_api: Testbed, attest: Attest) -> Iterator[Agents]:
    """One agent that serves, and one that is banned."""
    serving, banned = attest(), attest()
    server_api.spire.ban_agent(banned.spiffe_id)
    named = {"serving": serving, "banned": banned}
    yield Agents({as_parts(agent.spiffe_id)["path"]: name for name, agent in named.items()})
    server_api.spire.evict_agent(banned.spiffe_id)


@requirement("SERVER-15")
@pytest.mark.parametrize("name", FILTERS)
def test_agents_of_a_filter_are_listed(agents: Agents, callers: Callers, name: str) -> None:
    """A list of agents has each one that its filter names, once, whatever the page size."""
    wanted, names = FILTERS[name]
    for size in PAGE_SIZES:
        found = agents.among(_listed(callers["local"], wanted, size))
        assert found == Counter(names), f"filter {name}, pages of {size or 'any size'}: {found}"
    count = callers["local"].answer("agent", "CountAgents", filter=wanted).count
    listed = sum(_listed(callers["local"], wanted, 0).values())
    assert count == listed, f"filter {name}: {count} agents are counted, {listed} listed"


@requirement("SERVER-15")
def test_version_of_an_agent_is_kept(attest: Attest, callers: Callers) -> None:
    """The server has the version that an agent has reported, also after its SVID is renewed."""
    first = attest()
    with first.calling() as caller:
        caller.answer("agent", "PostStatus", agent_version=VERSION)
    reported = _version(callers["local"], first)
    renewed = first.renewed()
    # The server takes the next SVID for the agent's own once the agent has used it.
    renewed.entries()
    kept = _version(callers["local"], renewed)

    assert reported == VERSION, f"the server has version {reported!r} of the agent"
    assert kept == VERSION, f"after a renewal, the server has version {kept!r} of the agent"


@requirement("SERVER-15")
def test_alias_of_a_join_token_goes_with_its_agent(server_api: Testbed, attest: Attest) -> None:
    """The entry that names an agent of a join token is deleted when the agent is evicted."""
    agent = attest("leaving-agent")
    before = _entries_below(server_api, agent)
    server_api.spire.evict_agent(agent.spiffe_id)
    after = _entries_below(server_api, agent)

    assert before == [server_api.scenario.spiffe_id("leaving-agent")], f"entries: {before}"
    assert not after, f"the entries of the evicted agent are still there: {after}"


@requirement("SERVER-16")
def test_log_level_is_changed_and_reset(callers: Callers) -> None:
    """A log level that is set is in force until it is reset to that of the configuration."""
    local = callers["local"]

    def level(name: str, **fields: object) -> tuple[int, int]:
        answer = local.answer("logger", name, **fields)
        return answer.current_level, answer.launch_level

    current, launch = level("GetLogger")
    changed = level("SetLogLevel", new_level=WARN)
    between = level("GetLogger")
    reset = level("ResetLogLevel")
    after = level("GetLogger")

    assert current == launch != WARN, f"the server begins with level {current} of {launch}"
    assert changed == between == (WARN, launch), f"after SetLogLevel: {changed}, {between}"
    assert reset == after == (launch, launch), f"after ResetLogLevel: {reset}, {after}"


def _listed(caller: api.ServerCaller, wanted: dict[str, Any], size: int) -> Counter[str]:
    pages = caller.pages("agent", "ListAgents", size=size, most=MOST_PAGES, filter=wanted)
    return Counter(agent.id.path for page in pages for agent in page.agents)


def _version(caller: api.ServerCaller, agent: api.PlayedAgent) -> str:
    return str(caller.answer("agent", "GetAgent", id=as_parts(agent.spiffe_id)).agent_version)


def _entries_below(testbed: Testbed, agent: api.PlayedAgent) -> list[str]:
    """The SPIFFE IDs of the entries whose parent is an agent."""
    entries, parent = testbed.spire.entries(), as_parts(agent.spiffe_id)
    return [as_uri(entry["spiffe_id"]) for entry in entries if entry["parent_id"] == parent]
