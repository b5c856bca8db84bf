"""Restarts of agent and server under load do not affect workloads that have SVIDs.

All checks read one window, in which agent and server are restarted one after the other.
"""

import contextlib
import http
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import pytest

from svidproof import (
    Capability,
    Measure,
    NotYet,
    Progress,
    Source,
    Testbed,
    TimedOut,
    Timestamp,
    as_uri,
    budgets,
    eventually,
    needs,
    requirement,
    runs_last,
)
from svidproof.checks import assert_sent

pytestmark = [
    needs(Capability.K8S_PSAT, Capability.OWN_SPIRE, Capability.SPIRE_LOGS),
    runs_last(2),
]
CLIENT, POD = "valid-api-client", "api"
RATE = 10.0  # requests a second that the watch sends through the valid client
ENOUGH = 0.3  # of these requests: starting containers delays some
# What the components log about a server or a client that is not there for a moment.
LOST = r"[Ff]ailed|Could not|[Ee]rror|closed"


@dataclass(frozen=True)
class Restarts:
    """The record of both restarts.

    Attributes:
        testbed: the testbed.
        served: the workloads on the node whose agent was restarted.
        agent: from the agent's stop until these workloads had new SVIDs, or were late.
        server: from the server's stop until all workloads had new SVIDs, or were late.
        back: when the server ran again.
        late: what was late; empty if nothing was.
        entries: before and after the server's restart, by ID.
        bundles: the trust bundles before and after the server's restart.
    """

    testbed: Testbed
    served: tuple[str, ...]
    agent: tuple[Timestamp, Timestamp]
    server: tuple[Timestamp, Timestamp]
    back: Timestamp
    late: str
    entries: tuple[dict[str, object], dict[str, object]]
    bundles: tuple[Collection[object], Collection[object]]


@pytest.fixture(scope="session")
def restarts(api: Testbed, progress: Progress) -> Restarts:
    """One node's agent is restarted, then the server; each time the workloads get new SVIDs."""
    agent, late = api.agent_of("api"), list[str]()
    served = tuple(name for name in api.workloads if api.agent_of(name) is agent)

    def renewed(names: Collection[str], since: Timestamp) -> Timestamp:
        try:
            eventually(lambda: _assert_renewed(api, names, since), budgets.RENEWED)
        except TimedOut as error:
            late.append(str(error))
        return Timestamp.now()

    with _provoking_all(api):
        progress(f"restarting {agent.component}")
        agent_stopped = Timestamp.now()
        agent.stop()
        agent.restart()
        agent.wait_ready()
        recovered = renewed(served, agent_stopped)
        entries, bundle = _entries(api), set(api.spire.bundle())
        progress(f"restarting {api.spire.component}")
        server_stopped = Timestamp.now()
        api.spire.stop()
        api.spire.restart()
        back = Timestamp.now()
        entries_after, bundle_after = _entries(api), set(api.spire.bundle())
        end = renewed(api.workloads, back)
    return Restarts(
        testbed=api,
        served=served,
        agent=(agent_stopped, recovered),
        server=(server_stopped, end),
        back=back,
        late="; ".join(late),
        entries=(entries, entries_after),
        bundles=(bundle, bundle_after),
    )


@requirement("K8S-5")
def test_sidecars_get_new_svids_after_the_restart(restarts: Restarts, measure: Measure) -> None:
    """Each sidecar of the node shows an SVID issued after the agent's restart."""
    stopped, recovered = restarts.agent

    for name in restarts.served:
        assert _new(restarts.testbed, name, stopped), f"{name} shows no new SVID; {restarts.late}"
    measure("recovery from an agent's restart", recovered.at - stopped.at, "s")


@requirement("K8S-5")
def test_rotation_resumes(restarts: Restarts) -> None:
    """The restarted agent renews the SVIDs of its node, and sidecars show them."""
    testbed, (_, recovered) = restarts.testbed, restarts.agent
    agent = testbed.agent_of("api").component
    renewals = testbed.watch.timeline.logs(agent, testbed.messages.renewing)

    for name in restarts.served:
        own = testbed.scenario.spiffe_id(name)
        logged = [r for r in renewals if r.wall > recovered.wall and _is_about(r.fields, own)]
        assert logged, f"{agent} logged no renewal for {name}; {restarts.late}"
        assert _new(testbed, name, recovered), f"{name} shows no new SVID; {restarts.late}"


@requirement("K8S-5")
def test_no_expired_svid_is_shown(restarts: Restarts) -> None:
    """No sidecar of the node shows an expired SVID after the restart."""
    _assert_none_expired(restarts.testbed, restarts.served, since=restarts.agent[0])


@requirement("K8S-5")
def test_no_request_fails_without_the_agent(restarts: Restarts) -> None:
    """Every request of the valid client succeeds while an agent restarts."""
    _assert_all_answered(restarts.testbed, *restarts.agent)


@requirement("K8S-6")
def test_server_keeps_entries_and_bundle(restarts: Restarts) -> None:
    """The server has the same entries and trust bundle before and after its restart."""
    before, after = restarts.entries
    lost = before.keys() - after.keys()

    assert before, "there were no entries"
    assert not lost, f"{len(lost)} of {len(before)} entries were lost"
    assert after == before, "entries have changed"
    assert restarts.bundles[1] == restarts.bundles[0], "the trust bundle has changed"


@requirement("K8S-6")
def test_every_sidecar_gets_a_new_svid(restarts: Restarts, measure: Measure) -> None:
    """Every sidecar shows an SVID that the server signed after its restart."""
    stopped, end = restarts.server

    for name in restarts.testbed.workloads:
        found = _new(restarts.testbed, name, restarts.back)
        assert found, f"{name} shows no new SVID; {restarts.late}"
    _assert_none_expired(restarts.testbed, restarts.testbed.workloads, since=stopped)
    measure("new SVIDs after the server's restart", end.at - stopped.at, "s")


@requirement("K8S-6")
def test_no_request_fails_without_the_server(restarts: Restarts) -> None:
    """Every request of the valid client succeeds while the server restarts."""
    _assert_all_answered(restarts.testbed, *restarts.server)


@needs(Capability.CONTROLLER_MANAGER)
@requirement("CSPIFFEID-15")
def test_entries_are_made_and_removed_again(restarts: Restarts, measure: Measure) -> None:
    """After the server's restart, a ClusterSPIFFEID gives a pod its entry, until it is deleted."""
    api = restarts.testbed
    own = api.controller.spiffe_id(POD)
    begin = Timestamp.now()

    with (
        _provoking_all(api),
        # Nobody has this selector: the pod's sidecar keeps its SVID.
        api.controller.identify(
            "afterwards", like=POD, fields={"workloadSelectorTemplates": ["k8s:sa:nobody"]}
        ) as identified,
    ):
        eventually(lambda: _assert_entry(api, own), budgets.IDENTIFIED)
        passed = Timestamp.now().at - begin.at
        identified.delete()
        eventually(lambda: _assert_no_entry(api, own), budgets.IDENTIFIED)

    measure("from a new ClusterSPIFFEID to its entry after the server's restart", passed, "s")


@contextlib.contextmanager
def _provoking_all(api: Testbed) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for component in api.spire_components:
            stack.enter_context(api.provoking(component, LOST))
        yield


def _entries(api: Testbed) -> dict[str, object]:
    return {entry["id"]: entry for entry in api.spire.entries()}


def _of_controller(api: Testbed) -> list[str]:
    return [as_uri(e["spiffe_id"]) for e in api.spire.entries() if api.controller.owns(e)]


def _assert_entry(api: Testbed, own: str) -> None:
    if own not in (found := _of_controller(api)):
        raise NotYet(f"no entry is for {own}: {', '.join(found) or 'none'}")


def _assert_no_entry(api: Testbed, own: str) -> None:
    if own in (found := _of_controller(api)):
        raise NotYet(f"entries are still there: {', '.join(found)}")


def _new(api: Testbed, name: str, since: Timestamp) -> set[str]:
    """Return the serials of certificates that were signed since a moment and shown by a sidecar."""
    timeline = api.watch.timeline
    signed = {
        r.fields.get("serial_num", "")
        for r in timeline.logs(api.spire.component, api.messages.signed)
        if r.wall > since.wall and r.fields.get("caller_id") == api.agent_id(name)
    }
    return signed & {str(s.serial) for s in timeline.sightings(Source.CERTS, name)}


def _assert_renewed(api: Testbed, names: Collection[str], since: Timestamp) -> None:
    api.watch.catch_up()
    for name in names:
        if not _new(api, name, since):
            raise NotYet(f"{name} shows no new SVID")


def _is_about(fields: dict[str, str], spiffe_id: str) -> bool:
    return fields.get("spiffe_id") == spiffe_id


def _assert_none_expired(api: Testbed, names: Collection[str], *, since: Timestamp) -> None:
    for name in names:
        shown = api.watch.timeline.sightings(Source.CERTS, name)
        samples = [sighting for sighting in shown if sighting.last.at >= since.at]
        assert samples, f"no certificate was sampled for {name}: the observation window was empty"
        for sighting in samples:
            late = (sighting.last.wall - sighting.not_after).total_seconds()
            assert late <= 0, f"{name} showed {sighting.serial:x} {late:.1f} s after its expiry"


def _assert_all_answered(api: Testbed, start: Timestamp, end: Timestamp) -> None:
    asked = api.watch.timeline.requests(CLIENT)
    requests = [r for r in asked if start.at <= r.sent.at <= end.at]
    failed = [r for r in requests if r.status != http.HTTPStatus.OK]
    assert not failed, f"{len(failed)} of {len(requests)} failed; the first: {failed[0].note}"
    enough = RATE * ENOUGH * (end.at - start.at)
    assert_sent(api.watch.timeline, CLIENT, requests, enough, since=start.at, until=end.at)
