"""SPIRE is upgraded from the previous minor version while workloads run: server, then agent."""

from http import HTTPStatus

import pytest

from svidproof import Request, Saw, requirement
from svidproof.checks import AgentUpgrade, Served, ServerUpgrade

# What an agent logs at its start of an attestation, and of an SVID that it has kept.
ATTESTS, LOADED = "Starting node attestation", "SVID loaded"


@requirement("RESILIENCE-39")
@pytest.mark.parametrize("what", ["authority", "jwt_keys", "bundle", "entries", "agents"])
def test_state_is_the_same(server_upgrade: ServerUpgrade, what: str, saw: Saw) -> None:
    """Signing authority, JWT keys, trust bundle, entries and agents do not change."""
    before, after = getattr(server_upgrade.before, what), getattr(server_upgrade.after, what)

    assert before, f"the server had no {what} before its upgrade: this proves nothing"
    assert after == before, f"the server's {what} changed over its upgrade"
    old, new, _ = server_upgrade.versions
    saw(f"SPIRE server {old} was replaced by {new}")


@requirement("RESILIENCE-39")
def test_no_request_fails_while_the_server_is_upgraded(server_upgrade: ServerUpgrade) -> None:
    """Every request succeeds while the server is replaced, and afterwards."""
    _assert_answered(server_upgrade.requests())


@requirement("RESILIENCE-40")
def test_older_agent_serves_new_entries(server_upgrade: ServerUpgrade) -> None:
    """An agent of the previous version gets X.509-SVIDs and JWT-SVIDs from the upgraded server."""
    _assert_served(server_upgrade.served)


@requirement("RESILIENCE-40")
def test_older_agent_renews_its_own_svid(server_upgrade: ServerUpgrade) -> None:
    """An agent of the previous version renews its own SVID at the upgraded server."""
    _, server, agent = server_upgrade.versions

    assert server_upgrade.renewed, f"agent {agent} did not renew its own SVID at server {server}"


@requirement("RESILIENCE-41")
def test_upgraded_agent_keeps_its_svid(agent_upgrade: AgentUpgrade, saw: Saw) -> None:
    """An upgraded agent loads the SVID that the older one stored, and does not attest again."""
    attested = [m for m in agent_upgrade.messages if ATTESTS in m]
    assert not attested, f"the upgraded agent attested again: {attested[0]}"
    assert any(LOADED in m for m in agent_upgrade.messages), "the upgraded agent loaded no SVID"
    old, new = agent_upgrade.versions
    saw(f"SPIRE agent {old} was replaced by {new}")


@requirement("RESILIENCE-41")
def test_upgraded_agent_serves_new_entries(agent_upgrade: AgentUpgrade) -> None:
    """An upgraded agent serves X.509-SVIDs and JWT-SVIDs."""
    _assert_served(agent_upgrade.served)


@requirement("RESILIENCE-41")
def test_no_request_fails_while_the_agent_is_upgraded(agent_upgrade: AgentUpgrade) -> None:
    """Every request succeeds while the agent is replaced, and afterwards."""
    _assert_answered(agent_upgrade.requests())


def _assert_served(served: Served) -> None:
    assert not served.late, f"a new entry was not served; {served.late}"
    flaws = [flaw for svid in served.svids.svids for flaw in svid.flaws()]
    assert not flaws, f"its SVID is malformed: {flaws[0]}"


def _assert_answered(requests: list[Request]) -> None:
    assert requests, "no request was sent meanwhile"
    failed = [r for r in requests if r.status != HTTPStatus.OK]
    assert not failed, f"{len(failed)} of {len(requests)} failed; the first: {failed[0].note}"
