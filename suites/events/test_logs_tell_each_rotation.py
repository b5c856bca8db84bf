"""The logs of agent and server tell each rotation, and nothing that did not happen."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from svidproof import Capability, needs, requirement
from svidproof.components.envoy import BUNDLE
from svidproof.faults import reading
from svidproof.log_line import LogRecord, parse_time
from svidproof.renewal_rule import LAG
from svidproof.watch.observation import WANTED, Observation
from svidproof.watch.timeline import Rotation, Sighting, Source

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
        near = [p for p in pushed if _is_near(p, rotation, rotations)]
        assert near, f"no acknowledged push of the {kind} for {_name(rotation)}"
    with reading("a version in the agent's log"):
        versions = [int(p.response.fields["version_info"]) for p in pushed]
    assert versions == sorted(set(versions)), f"versions of one stream: {versions}"
    # Up to the window's end, each SVID that can have been pushed since has been delivered, too.
    known = rotations.timeline.sightings(Source.WORKLOAD_API, name)
    messages = rotations.timeline.deliveries(name)
    alone = all(set(message.ids) <= {own} for message in messages)
    if alone or Capability.OWN_SPIRE in rotations.testbed.capabilities:
        most, updates, begin = len(known), "SVIDs", _begin(rotations, name)
    else:
        # Entries of others give it a second identity, whose renewals are pushed, too.
        most, updates, begin = len(messages), "updates", messages[0].seen.wall
    since = [p for p in pushed if p.response.wall >= begin]
    assert len(since) <= most, f"{len(since)} pushes of the {kind} for {most} {updates}"
    for push in pushed:
        sent, acknowledged = (r.fields["version_info"] for r in (push.response, push.request))
        assert acknowledged == sent, f"version {sent} was acknowledged as {acknowledged}"
        assert push.response.wall <= push.request.wall, "acknowledged before it was sent"


@requirement("EVENTS-4")
@each_workload
def test_no_renewal_is_told_that_did_not_happen(rotations: Observation, name: str) -> None:
    """Every renewal and every signature in the logs belongs to an SVID that was delivered."""
    seen, known = rotations.rotations(name), rotations.seen(Source.WORKLOAD_API, name)
    begin, last = _begin(rotations, name), seen[-1].after
    serials = {str(sighting.serial) for sighting in rotations.delivered(name)}
    # What was delivered after the window may have been told in it.
    later = {str(serial) for serial in known} - serials

    renewals = [
        line
        for line in _renewals(rotations, name)
        if begin <= line.wall <= last.first.wall and not (later and _tells_end(line, last))
    ]
    signatures = [
        line
        for line in _signatures(rotations, name)
        if begin <= line.wall <= last.first.wall and line.fields.get("serial_num") not in later
    ]

    assert len(renewals) == len(seen), f"{len(renewals)} renewals told, {len(seen)} seen"
    told = {line.fields.get("serial_num") for line in signatures}
    assert told == serials, f"signed and delivered differ by {told ^ serials}"


@requirement("EVENTS-4")
@each_workload
def test_cache_tells_each_update(rotations: Observation, name: str) -> None:
    """The agent's cache tells each new SVID once."""
    begin, last = _begin(rotations, name), rotations.rotations(name)[-1].after
    own = rotations.testbed.scenario.spiffe_id(name)
    texts, agent = rotations.testbed.messages, rotations.testbed.agent_of(name).component

    lines = rotations.logs(agent, texts.updated)

    end = min(last.first.wall, _signed_after(rotations, name, last))
    told = [r for r in lines if r.fields.get("spiffe_id") == own and begin <= r.wall <= end]
    svids = rotations.delivered(name)
    assert len(told) == len(svids), f"{len(told)} updates told, {len(svids)} SVIDs delivered"


@requirement("EVENTS-3")
@needs(Capability.OWN_SPIRE)
def test_each_sidecar_has_one_stream_for_each_secret(rotations: Observation) -> None:
    """Each sidecar asks for its SVID and for the bundle once, and keeps these streams."""
    testbed = rotations.testbed

    asked = [r for a in testbed.agents for r in rotations.logs(a, testbed.messages.sds_request)]
    with reading("a request in the agent's log"):
        opened = sorted(
            (record.component, name)
            for record in asked
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
    return _tells_end(line, rotation.before)


def _tells_end(line: LogRecord, old: Sighting) -> bool:
    told = line.fields.get("expires_at")
    return told is not None and parse_time(told) == old.not_after


def _signed(rotations: Observation, name: str) -> dict[str, datetime]:
    """When the server has told of each serial first."""
    found = {r.fields.get("serial_num", ""): r.wall for r in reversed(_signatures(rotations, name))}
    return dict(reversed(found.items()))


def _begin(rotations: Observation, name: str) -> datetime:
    """When the first SVID was signed that the watch was given.

    Its stream is opened when the sidecars are up. By then, on a slow machine, an SVID may have been
    renewed of which only the logs know.
    """
    first = rotations.delivered(name)[0]
    signed = _signed(rotations, name).get(str(first.serial))
    return signed if signed is not None else datetime.min.replace(tzinfo=UTC)


def _signed_after(rotations: Observation, name: str, last: Sighting) -> datetime:
    """When the SVID was signed that was delivered after the last of the window, if there is one."""
    known = list(rotations.seen(Source.WORKLOAD_API, name))
    after, signed = known[known.index(last.serial) + 1 :], _signed(rotations, name)
    walls = [signed[str(serial)] for serial in after if str(serial) in signed]
    return min(walls, default=datetime.max.replace(tzinfo=UTC))


def _told_end(line: LogRecord) -> str:
    """The time of day of the end that a line tells."""
    return line.fields.get("expires_at", "nothing").rpartition("T")[2]


def _name(rotation: Rotation) -> str:
    return f"{rotation.workload} {rotation.before.serial:x} → {rotation.after.serial:x}"


def _is_near(push: Acknowledged, rotation: Rotation, rotations: Observation) -> bool:
    """The push was made when the watch was given the SVID: the watch may have been late itself."""
    delay = (push.response.wall - rotation.after.first.wall).total_seconds()
    end = rotation.after.first.at + max(delay, 0.0)
    return abs(delay) - rotations.timeline.attention.stalled(end - abs(delay), end) <= LAG


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
