"""Callers of SPIRE server's API, and agents that the suite plays."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from svidproof import Testbed, budgets, eventually
from svidproof.probes import server_api as api

PARENT = "played-agent"


@pytest.fixture(scope="session")
def attest(server_api: Testbed) -> Callable[..., api.PlayedAgent]:
    """Attests one more agent by join token, with an alias for the parent of its entries."""

    def attest(alias: str = "") -> api.PlayedAgent:
        named = server_api.scenario.spiffe_id(alias) if alias else ""
        token = server_api.spire.create_join_token(named)
        return api.PlayedAgent.attested(server_api.spire.api, token)

    return attest


@pytest.fixture(scope="session")
def agent(attest: Callable[..., api.PlayedAgent]) -> api.PlayedAgent:
    """An agent that the suite plays; its alias is the parent of entries."""
    return attest(PARENT)


@pytest.fixture(scope="session")
def entry(server_api: Testbed) -> Callable[..., dict[str, Any]]:
    """Makes an entry below an agent that the suite plays."""

    def entry(name: str, parent: str = PARENT, **fields: object) -> dict[str, Any]:
        above = server_api.scenario.spiffe_id(parent)
        made = server_api.registration.entry(name, (f"unix:path:/{name}",), above)
        return {**made, **fields}

    return entry


@pytest.fixture(scope="session")
def callers(
    server_api: Testbed, agent: api.PlayedAgent, entry: Callable[..., dict[str, Any]]
) -> Mapping[str, api.ServerCaller]:
    """A caller of each kind; `anonymous` has no X.509-SVID."""
    address = server_api.spire.api
    kinds: dict[str, dict[str, Any]] = {
        "workload": {},
        "admin": {"admin": True},
        "downstream": {"downstream": True},
    }
    # Until the testbed is closed, which may be before the end of the session.
    enter = server_api.had.enter_context
    ids = {
        kind: enter(server_api.registration.registered(entry(kind, **fields)))
        for kind, fields in kinds.items()
    }
    eventually(lambda: agent.require_listed(*ids.values()), budgets.ENTRY_LISTED)
    found = {kind: enter(api.calling(address, agent.sign(i))) for kind, i in ids.items()}
    found["anonymous"] = enter(api.calling(address))
    found["agent"] = enter(agent.calling())
    found["local"] = enter(api.calling_locally(server_api.spire.local_api))
    return found
