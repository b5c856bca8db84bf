"""Agents attest their own node, and serve only the workloads of that node."""

import json

import pytest

from svidproof import (
    Capability,
    LogRecord,
    NotYet,
    Source,
    Testbed,
    as_uri,
    budgets,
    eventually,
    load_scenario,
    needs,
    reading,
    requirement,
)

pytestmark = needs(Capability.K8S_PSAT, Capability.OWN_SPIRE, Capability.SPIRE_LOGS)
WORKLOADS = list(load_scenario("api").workloads)
ATTESTOR = "k8s_psat"


@requirement("K8S-1")
def test_agents_and_server_log_each_attestation(api: Testbed) -> None:
    """Each agent logs one attestation with its node's ID, and the server logs no other."""
    texts, ids = api.messages, api.agent_ids

    for agent, own in ids.items():
        logged = [r.fields.get("spiffe_id") for r in _lines(api, agent, texts.attested)]
        assert logged == [own], f"{agent} was attested as {logged}, not as {own}"
    # A set, because an agent attests again to renew its own SVID.
    admitted = {
        (r.fields.get("node_attestor_type"), r.fields.get("agent_id"))
        for r in _lines(api, api.spire.component, texts.admitted)
    }
    wanted = {(ATTESTOR, own) for own in ids.values()}
    assert admitted == wanted, f"the server admitted {sorted(admitted, key=str)}"


@requirement("K8S-1")
def test_server_lists_each_agents_node(api: Testbed) -> None:
    """The server lists exactly these agents, each with its cluster, account and node."""
    expected = api.agent_selectors

    listed = {as_uri(agent["id"]): agent for agent in api.spire.agents()}

    assert set(listed) == set(api.agent_ids.values()), f"the server lists {sorted(listed)}"
    for agent, own in api.agent_ids.items():
        attestor = listed[own]["attestation_type"]
        assert attestor == ATTESTOR, f"{agent} was attested with {attestor}"
        selectors = {f"{s['type']}:{s['value']}" for s in listed[own]["selectors"]}
        missing = expected[agent] - selectors
        assert not missing, f"{agent} is listed without {sorted(missing)}"
        others = frozenset[str]().union(*(s for name, s in expected.items() if name != agent))
        foreign = selectors & (others - expected[agent])
        assert not foreign, f"{agent} is listed with selectors of another: {sorted(foreign)}"


@requirement("K8S-1")
@pytest.mark.parametrize("name", WORKLOADS)
def test_svid_is_signed_for_the_agent_of_its_node(api: Testbed, name: str) -> None:
    """Every SVID of a workload was signed for the agent of the workload's own node."""
    own, texts = api.agent_id(name), api.messages
    delivered = [s.serial for s in api.watch.timeline.sightings(Source.WORKLOAD_API, name)]

    def callers() -> dict[int, list[str | None]]:
        lines = _lines(api, api.spire.component, texts.signed)
        signed = {
            serial: [r.fields.get("caller_id") for r in lines if _serial(r) == serial]
            for serial in delivered
        }
        if missing := [f"{serial:x}" for serial, found in signed.items() if not found]:
            raise NotYet(f"the server has not logged the signatures of {missing}")
        return signed

    assert delivered, f"no SVID was delivered to {name}"
    for serial, found in eventually(callers, budgets.LOG_LINE).items():
        assert found == [own], f"{serial:x} of {name} was signed for {found}, not for {own}"


@requirement("K8S-1")
@pytest.mark.parametrize("name", WORKLOADS)
def test_sidecar_streams_from_the_agent_of_its_node(api: Testbed, name: str) -> None:
    """A sidecar streams its SVID from the agent of its own node, and from no other."""
    wanted = json.dumps([api.scenario.spiffe_id(name)])

    requested = {
        agent
        for agent in api.agents
        for request in _lines(api, agent, api.messages.sds_request)
        if request.fields["resource_names"] == wanted
    }

    assert requested == {api.agent_of(name).component}, f"{name} streams from {sorted(requested)}"


def _lines(api: Testbed, component: str, message: str) -> list[LogRecord]:
    api.watch.catch_up()
    return api.watch.timeline.logs(component, message)


def _serial(line: LogRecord) -> int:
    with reading("a serial in the server's log"):
        return int(line.fields.get("serial_num", "0"))
