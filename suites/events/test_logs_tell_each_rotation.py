"""The logs of agent and server tell each rotation, and nothing that did not happen."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from svidproof import Capability, needs, requirement
from svidproof.components.envoy import BUNDLE
from svidproof.watch import LogRecord, Observation, Rotation, Source
from svidproof.watch.logs import parse_time
from svidproof.watch.observation import LAG, WANTED

pytestmark = needs(Capability.SPIRE_LOGS)
WORKLOADS = ["api", "valid-api-client", "invalid-api-client", "api-trusted-ca"]
each_workload = pytest.mark.parametrize("name", WORKLOADS)


@dataclass(frozen=True)
class Acknowledged:
    """One SDS response and the request that acknowledged it."""

    response: LogRecord
    request: LogRecord


@requirement("EVENTS-1")
@each_workload
def test_agent_tells_each_renewal(rotations: Observation, name: str) -> None:
    """Each rotation has the agent's line with the ID, the entry and the old SVID's end."""
    lines = _renewals(rotations, name)

    for rotation in rotations.rotations(name):
        found = [line for line in lines if _tells(line, rotation)]
        ends = rotation.before.not_after
        assert len(found) == 1, (
            f"{len(found)} lines for {_name(rotation)} among {len(lines)}: "
            f"the old SVID ends at {ends:%X}, told were {[_told_end(line) for line in lines]}"
        )
        assert found[0].level == "info", f"told at level {found[0].level}"
        entry = found[0].fields.get("entry_id")
        assert entry == rotations.testbed.entry_id(name), f"told of entry {entry}"
        assert found[0].wall <= rotation.after.first.wall, "told after it had happened"


@requirement("EVENTS-2")
@each_workload
def test_server_tells_each_signature(rotations: Observation, name: str) -> None:
    """Each rotation has the server's signing line with the new serial, the ID and the end."""
    signed = _signatures(rotations, name)

    for rotation in rotations.rotations(name):
        wanted = str(rotation.after.serial)
        found = [line for line in signed if line.fields.get("serial_num") == wanted]
        assert found, f"no signing line for {_name(rotation)} among {len(signed)}"
        assert len(found) == 1, f"{len(found)} signing lines for {_name(rotation)}"
        [line] = found
        assert "expiration" in line.fields, f"no expiration for {_name(rotation)}"
        end = parse_time(line.fields["expiration"])
        assert end == rotation.after.not_after, f"told {end}, signed {rotation.after.not_after}"
        entry = line.fields.get("entry_id")
        assert entry == rotations.testbed.entry_id(name), f"told of entry {entry}"
        assert line.wall <= rotation.after.first.wall, "told after it had happened"


@requirement("EVENTS-3")
@each_workload
@pytest.mark.parametrize("kind", ["svid", "bundle"])
def test_each_push_is_acknowledged(rotations: Observation, name: str, kind: str) -> None:
    """Each SVID is pushed by SDS once, and acknowledged with its nonce, name and version."""
    own = rotations.testbed.scenario.spiffe_id(name)
    pushed = list(_pushes(rotations, name, own if kind == "svid" else BUNDLE))

    for rotation in rotations.rotations(name):
        near = [p for p in pushed if abs(_delay(p, rotation)) <= LAG]
        assert near, f"no acknowledged push of the {kind} for {_name(rotation)}"
    versions = [int(p.response.fields["version_info"]) for p in pushed]
    assert versions == sorted(set(versions)), f"versions of one stream: {versions}"
    known = rotations.timeline.sightings(Source.WORKLOAD_API, name)
    assert len(pushed) <= len(known), f"{len(pushed)} pushes of the {kind} for {len(known)} SVIDs"
    for push in pushed:
        sent, acknowledged = (r.fields["version_info"] for r in (push.response, push.request))
        assert acknowledged == sent, f"version {sent} was acknowledged as {acknowledged}"
        assert push.response.wall <= push.request.wall, "acknowledged before it was sent"


@requirement("EVENTS-4")
@each_workload
def test_no_renewal_is_told_that_did_not_happen(rotations: Observation, name: str) -> None:
    """Every renewal and every signature in the logs belongs to an SVID that was delivered."""
    seen = rotations.rotations(name)
    last = seen[-1].after.first.wall
    serials = {str(sighting.serial) for sighting in rotations.delivered(name)}

    renewals = [line for line in _renewals(rotations, name) if line.wall <= last]
    signatures = [line for line in _signatures(rotations, name) if line.wall <= last]

    assert len(renewals) == len(seen), f"{len(renewals)} renewals told, {len(seen)} seen"
    told = {line.fields.get("serial_num") for line in signatures}
    assert told == serials, f"signed and delivered differ by {told ^ serials}"


@requirement("EVENTS-4")
@each_workload
def test_cache_tells_each_update(rotations: Observation, name: str) -> None:
    """The agent's cache tells each new SVID once."""
    last = rotations.rotations(name)[-1].after.first.wall
    own = rotations.testbed.scenario.spiffe_id(name)
    texts, agent = rotations.testbed.messages, rotations.testbed.agent_of(name).component

    lines = rotations.logs(agent, texts.updated)

    told = [r for r in lines if r.fields.get("spiffe_id") == own and r.wall <= last]
    svids = rotations.delivered(name)
    assert len(told) == len(svids), f"{len(told)} updates told, {len(svids)} SVIDs delivered"


@requirement("EVENTS-3")
@needs(Capability.OWN_SPIRE)
def test_each_sidecar_has_one_stream_for_each_secret(rotations: Observation) -> None:
    """Each sidecar asks for its SVID and for the bundle once, and keeps these streams."""
    testbed = rotations.testbed

    opened = sorted(
        (agent, name)
        for agent in testbed.agents
        for record in rotations.logs(agent, testbed.messages.sds_request)
        if not record.fields["nonce"]
        for name in json.loads(record.fields["resource_names"])
    )

    wanted = sorted(
        (testbed.agent_of(name).component, secret)
        for name in WORKLOADS
        for secret in (testbed.scenario.spiffe_id(name), BUNDLE)
    )
    assert opened == wanted, f"streams were opened for {opened}"


@requirement("EVENTS-3")
@needs(Capability.OWN_SPIRE)
def test_no_push_is_left_unacknowledged(rotations: Observation) -> None:
    """Every SDS response has a nonce of its own, and a request acknowledges it."""
    texts, agents = rotations.testbed.messages, rotations.testbed.agents
    responses = [r for agent in agents for r in rotations.logs(agent, texts.sds_response)]
    settled = [r for r in responses if r.wall <= rotations.cutoff.wall]

    nonces = [_exchange(r) for r in responses]
    requests = [r for agent in agents for r in rotations.logs(agent, texts.sds_request)]
    acknowledged = {_exchange(r) for r in requests}

    streams = 2 * len(WORKLOADS)
    assert len(settled) >= streams * WANTED, f"only {len(settled)} responses on {streams} streams"
    assert len(set(nonces)) == len(nonces), "a nonce was used twice"
    left = {_exchange(r) for r in settled} - acknowledged
    assert not left, f"{len(left)} responses were not acknowledged"


def _exchange(record: LogRecord) -> tuple[str, str, str]:
    """What a response and its acknowledgement have in common: agent, process and nonce."""
    return record.component, record.fields["pid"], record.fields["nonce"]


def _renewals(rotations: Observation, name: str) -> list[LogRecord]:
    testbed = rotations.testbed
    lines = rotations.logs(testbed.agent_of(name).component, testbed.messages.renewing)
    own = testbed.scenario.spiffe_id(name)
    return [line for line in lines if line.fields.get("spiffe_id") == own]


def _signatures(rotations: Observation, name: str) -> list[LogRecord]:
    testbed = rotations.testbed
    lines = rotations.logs(testbed.spire.component, testbed.messages.signed)
    own = testbed.scenario.spiffe_id(name)
    others = testbed.other_agents(name)
    return [
        line
        for line in lines
        if line.fields.get("spiffe_id") == own and line.fields.get("caller_id") not in others
    ]


def _tells(line: LogRecord, rotation: Rotation) -> bool:
    told = line.fields.get("expires_at")
    return told is not None and parse_time(told) == rotation.before.not_after


def _told_end(line: LogRecord) -> str:
    """The time of day of the end that a line tells."""
    return line.fields.get("expires_at", "nothing").rpartition("T")[2]


def _name(rotation: Rotation) -> str:
    return f"{rotation.workload} {rotation.before.serial:x} → {rotation.after.serial:x}"


def _delay(push: Acknowledged, rotation: Rotation) -> float:
    return (push.response.wall - rotation.after.first.wall).total_seconds()


def _pushes(rotations: Observation, of: str, secret: str) -> Iterator[Acknowledged]:
    """The acknowledged pushes of one secret to one sidecar.

    Responses carry no names: a response belongs to the request that answers its nonce. A sidecar's
    process is known by its having asked for its own SVID.
    """
    texts, agent = rotations.testbed.messages, rotations.testbed.agent_of(of).component
    requests = rotations.logs(agent, texts.sds_request)
    responses = rotations.logs(agent, texts.sds_response)
    wanted = json.dumps([rotations.testbed.scenario.spiffe_id(of)])
    processes = {r.fields["pid"] for r in requests if r.fields["resource_names"] == wanted}
    answers = {r.fields["nonce"]: r for r in responses if r.fields["pid"] in processes}
    for request in requests:
        nonce = request.fields["nonce"]
        if nonce in answers and request.fields["resource_names"] == json.dumps([secret]):
            yield Acknowledged(answers[nonce], request)
