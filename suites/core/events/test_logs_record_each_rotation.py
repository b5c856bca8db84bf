"""The logs of agent and server record each rotation, and nothing that did not happen."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from svidproof import (
    BUNDLE,
    LAG,
    Capability,
    LogRecord,
    Rotation,
    Sighting,
    Source,
    needs,
    parse_time,
    reading,
    requirement,
)
from svidproof.checks import API_WORKLOADS, ROTATIONS, Observation, each_workload

pytestmark = needs(Capability.SPIRE_LOGS)


@dataclass(frozen=True)
class Acknowledged:
    """One SDS response and the request that acknowledged it."""

    response: LogRecord
    request: LogRecord


@requirement("EVENTS-1")
@each_workload
def test_agent_logs_each_renewal(rotations: Observation, name: str) -> None:
    """The agent logs each renewal once, with SPIFFE ID, entry ID and the old SVID's expiry."""
    lines, entry = _renewals(rotations, name), rotations.testbed.entry_id(name)

    for rotation in rotations.rotations(name):
        expiry = rotation.before.not_after
        found = [line for line in lines if _has_expiry(line, expiry)]
        assert len(found) == 1, (
            f"expected 1 renewal line for {_name(rotation)}, found {len(found)} of {len(lines)}: "
            f"the old SVID expires at {expiry:%X}, logged were {[_expiry(line) for line in lines]}"
        )
        logged = found[0].level, found[0].fields.get("entry_id")
        assert logged == ("info", entry), f"logged level and entry {logged}, not info and {entry}"
        _assert_logged_in_time(found[0], rotation)


@requirement("EVENTS-2")
@each_workload
def test_server_logs_each_signature(rotations: Observation, name: str) -> None:
    """The server logs each signed SVID once, with its serial number, SPIFFE ID and expiry."""
    lines, entry = _signatures(rotations, name), rotations.testbed.entry_id(name)

    for rotation in rotations.rotations(name):
        serial, expiry = str(rotation.after.serial), rotation.after.not_after
        found = [line for line in lines if line.fields.get("serial_num") == serial]
        assert len(found) == 1, (
            f"expected 1 signing line for {_name(rotation)}, found {len(found)} of {len(lines)}"
        )
        logged = _time(found[0], "expiration"), found[0].fields.get("entry_id")
        assert logged == (expiry, entry), (
            f"logged expiry {logged[0]} and entry {logged[1]}, not {expiry} and {entry}"
        )
        _assert_logged_in_time(found[0], rotation)


@requirement("EVENTS-3")
@each_workload
@pytest.mark.parametrize("kind", ["svid", "bundle"])
def test_each_push_is_acknowledged(rotations: Observation, name: str, kind: str) -> None:
    """SDS pushes each SVID once, and the sidecar acknowledges its nonce, name and version."""
    own = rotations.testbed.scenario.spiffe_id(name)
    pushed = list(_pushes(rotations, name, own if kind == "svid" else BUNDLE))

    for rotation in rotations.lasting(name):
        near = [p for p in pushed if _is_near(p, rotation, rotations)]
        assert near, f"no acknowledged push of the {kind} for {_name(rotation)}"
    with reading("a version in the agent's log"):
        versions = [int(p.response.fields["version_info"]) for p in pushed]
    assert versions == sorted(set(versions)), f"versions of one stream do not grow: {versions}"
    # By the end of the window, each SVID that can have been pushed has been delivered as well.
    known = rotations.timeline.sightings(Source.WORKLOAD_API, name)
    messages = rotations.timeline.deliveries(name)
    alone = all(set(message.ids) <= {own} for message in messages)
    if alone or Capability.OWN_SPIRE in rotations.testbed.capabilities:
        most, updates, begin = len(known), "SVIDs", _begin(rotations, name)
    else:
        # Entries of others give it a second identity, whose renewals are pushed as well.
        most, updates, begin = len(messages), "updates", messages[0].seen.wall
    since = [p for p in pushed if p.response.wall >= begin]
    assert len(since) <= most, f"the {kind} was pushed {len(since)} times for {most} {updates}"
    for push in pushed:
        sent, acknowledged = (r.fields["version_info"] for r in (push.response, push.request))
        assert acknowledged == sent, f"version {sent} was acknowledged as {acknowledged}"
        assert push.response.wall <= push.request.wall, "acknowledged before it was sent"


@requirement("EVENTS-4")
@each_workload
def test_no_spurious_event_is_logged(rotations: Observation, name: str) -> None:
    """Every renewal and every signature in the logs belongs to an SVID that was delivered."""
    seen, known = rotations.rotations(name), rotations.seen(Source.WORKLOAD_API, name)
    begin, last = _begin(rotations, name), seen[-1].after
    serials = {str(sighting.serial) for sighting in rotations.delivered(name)}
    # What was delivered after the window may have been logged in it.
    later = {str(serial) for serial in known} - serials

    renewals = [
        line
        for line in _renewals(rotations, name)
        if begin <= line.wall <= last.first.wall
        and not (later and _has_expiry(line, last.not_after))
    ]
    signatures = [
        line
        for line in _signatures(rotations, name)
        if begin <= line.wall <= last.first.wall and line.fields.get("serial_num") not in later
    ]

    assert len(renewals) == len(seen), f"{len(renewals)} renewals logged, {len(seen)} seen"
    signed = {line.fields.get("serial_num") for line in signatures}
    assert signed == serials, f"signed and delivered serial numbers differ by {signed ^ serials}"


@requirement("EVENTS-4")
@each_workload
def test_agent_logs_each_cache_update(rotations: Observation, name: str) -> None:
    """The agent logs the update of its cache with each new SVID, once."""
    begin, last = _begin(rotations, name), rotations.rotations(name)[-1].after
    own = rotations.testbed.scenario.spiffe_id(name)
    texts, agent = rotations.testbed.messages, rotations.testbed.agent_of(name).component

    lines = rotations.logs(agent, texts.updated)

    end = min(last.first.wall, _signed_after(rotations, name, last))
    updates = [r for r in lines if r.fields.get("spiffe_id") == own and begin <= r.wall <= end]
    svids = rotations.delivered(name)
    assert len(updates) == len(svids), (
        f"{len(updates)} updates logged, {len(svids)} SVIDs delivered"
    )


@requirement("EVENTS-3")
@needs(Capability.OWN_SPIRE)
def test_each_sidecar_has_one_stream_for_each_secret(rotations: Observation) -> None:
    """Each sidecar opens one SDS stream for its SVID and one for the bundle, and keeps both."""
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
        for name in API_WORKLOADS
        for secret in (testbed.scenario.spiffe_id(name), BUNDLE)
    )
    assert opened == wanted, f"streams were opened for {opened}, not {wanted}"


@requirement("EVENTS-3")
@needs(Capability.OWN_SPIRE)
def test_no_push_is_left_unacknowledged(rotations: Observation) -> None:
    """Every SDS response has a unique nonce, and a request acknowledges it."""
    texts, agents = rotations.testbed.messages, rotations.testbed.agents
    responses = [r for agent in agents for r in rotations.logs(agent, texts.sds_response)]
    settled = [r for r in responses if r.wall <= rotations.cutoff.wall]

    nonces = [_exchange(r) for r in responses]
    requests = [r for agent in agents for r in rotations.logs(agent, texts.sds_request)]
    acknowledged = {_exchange(r) for r in requests}

    streams = 2 * len(API_WORKLOADS)
    assert len(settled) >= streams * ROTATIONS, (
        f"only {len(settled)} responses on {streams} streams"
    )
    assert len(set(nonces)) == len(nonces), "a nonce was used twice"
    left = {_exchange(r) for r in settled} - acknowledged
    assert not left, f"{len(left)} of {len(settled)} responses were not acknowledged"


def _exchange(record: LogRecord) -> tuple[str, str, str]:
    """The fields that a response and its acknowledgement share: agent, process and nonce."""
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


def _has_expiry(line: LogRecord, expiry: datetime) -> bool:
    return _time(line, "expires_at") == expiry


def _time(line: LogRecord, field: str) -> datetime | None:
    text = line.fields.get(field)
    return None if text is None else parse_time(text)


def _assert_logged_in_time(line: LogRecord, rotation: Rotation) -> None:
    assert line.wall <= rotation.after.first.wall, (
        f"logged at {line.wall:%X}, after the delivery at {rotation.after.first.wall:%X}"
    )


def _signed(rotations: Observation, name: str) -> dict[str, datetime]:
    """The time at which the server first logged each serial number."""
    found = {r.fields.get("serial_num", ""): r.wall for r in reversed(_signatures(rotations, name))}
    return dict(reversed(found.items()))


def _begin(rotations: Observation, name: str) -> datetime:
    """The time at which the first SVID that the watch received was signed.

    The watch opens its stream when the sidecars are up. On a slow machine an SVID may have been
    renewed by then, and only the logs show it.
    """
    first = rotations.delivered(name)[0]
    signed = _signed(rotations, name).get(str(first.serial))
    return signed if signed is not None else datetime.min.replace(tzinfo=UTC)


def _signed_after(rotations: Observation, name: str, last: Sighting) -> datetime:
    """The time at which the first SVID delivered after the window was signed, if there is one."""
    known = list(rotations.seen(Source.WORKLOAD_API, name))
    after, signed = known[known.index(last.serial) + 1 :], _signed(rotations, name)
    walls = [signed[str(serial)] for serial in after if str(serial) in signed]
    return min(walls, default=datetime.max.replace(tzinfo=UTC))


def _expiry(line: LogRecord) -> str:
    """The time of day of the logged expiry."""
    return line.fields.get("expires_at", "nothing").rpartition("T")[2]


def _name(rotation: Rotation) -> str:
    return f"{rotation.workload} {rotation.before.serial:x} → {rotation.after.serial:x}"


def _is_near(push: Acknowledged, rotation: Rotation, rotations: Observation) -> bool:
    """Whether the push came with the delivery to the watch, which may have been late itself."""
    delay = (push.response.wall - rotation.after.first.wall).total_seconds()
    end = rotation.after.first.at + max(delay, 0.0)
    return abs(delay) - rotations.timeline.attention.stalled(end - abs(delay), end) <= LAG


def _pushes(rotations: Observation, of: str, secret: str) -> Iterator[Acknowledged]:
    """The acknowledged pushes of one secret to one sidecar.

    Responses carry no resource names: a response belongs to the request with its nonce. A sidecar's
    process is the one that requested the sidecar's own SVID.
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
