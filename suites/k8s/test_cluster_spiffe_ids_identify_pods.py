"""SPIRE Controller Manager reconciles ClusterSPIFFEIDs and pods to entries."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from svidproof import (
    Budget,
    Capability,
    Measure,
    NotYet,
    Overdue,
    Testbed,
    budgets,
    consistently,
    eventually,
    needs,
    requirement,
)
from svidproof.clock import Moment
from svidproof.components.controller_manager import GC_INTERVAL_S, RECONCILED
from svidproof.faults import only
from svidproof.guests import Guest
from svidproof.scenario import as_uri
from svidproof.workload_api import X509Svid

pytestmark = needs(
    Capability.K8S_PSAT,
    Capability.OWN_SPIRE,
    Capability.SPIRE_LOGS,
    Capability.CONTROLLER_MANAGER,
)
GREETER = "greeter"
TTL = 12  # seconds
RECONCILES = 3
ELSEWHERE = "spiffe://{{ .TrustDomain }}/elsewhere/{{ .PodSpec.ServiceAccountName }}"
LOOKED = Budget(f"{RECONCILES} looks of the controller manager", 10 * RECONCILES * GC_INTERVAL_S)
A_WHILE = Budget("stays refused", 2 * GC_INTERVAL_S, 0.2)
# Who comes asks before it has an entry; who has lost its own may be renewed at that moment.
CROSSED = r"No identity issued|[Ee]ntry not found|[Ff]ailed to (sign|fetch|renew)"
# What is deleted while it is looked over cannot be told how it stands.
DELETED = r"Failed to update status"


@pytest.fixture(autouse=True)
def _refusals_are_provoked(api: Testbed) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for component in (api.spire.component, *api.agents):
            stack.enter_context(api.provoking(component, CROSSED))
        stack.enter_context(api.provoking(api.controller.component, DELETED))
        yield
        # The look that was under way, and the next one, belong to it.
        end = Moment.now()
        with contextlib.suppress(Overdue):
            eventually(lambda: _assert_looked(api, end, 1), LOOKED)


@requirement("CSPIFFEID-1")
def test_new_pod_is_identified(api: Testbed, measure: Measure) -> None:
    """A new pod gets one entry, bound to the pod and its node, and that entry's SVID."""
    own = api.controller.spiffe_id(GREETER)

    with api.controller.identify(GREETER, like=GREETER, ttl=TTL):
        begin = Moment.now()
        with _greeter(api) as pod:
            svid = pod.await_svid(own)
            passed = Moment.now().at - begin.at
            entries = _entries(api)

    assert len(entries) == 1, f"there are {len(entries)} entries: {_told(entries)}"
    _assert_bound(api, entries[0], pod)
    leaf = svid.chain[0]
    lasts = (leaf.not_valid_after_utc - begin.wall).total_seconds()
    assert 0 < lasts <= TTL + passed + 1, f"its SVID lasts {lasts:.0f} s with a TTL of {TTL} s"
    measure("a new pod's first SVID by a ClusterSPIFFEID", passed, "s")


@requirement("CSPIFFEID-2")
def test_changed_template_changes_the_id(api: Testbed, measure: Measure) -> None:
    """After its template changes, the pod gets the new SPIFFE ID and not the old one."""
    own = api.controller.spiffe_id(GREETER)
    other = f"spiffe://{api.scenario.trust_domain}/elsewhere/{GREETER}"

    with api.controller.identify(GREETER, like=GREETER) as ids, _greeter(api) as pod:
        before = pod.await_svid(own)
        begin = Moment.now()
        ids.change(spiffeIDTemplate=ELSEWHERE)
        after = pod.await_svid(other)
        passed = Moment.now().at - begin.at
        left = [_id(entry) for entry in _entries(api)]

    assert left == [other], f"the entries are now for {left}"
    assert _serial(after) != _serial(before), "it is the same certificate"
    measure("a changed template's new ID", passed, "s")


@requirement("CSPIFFEID-3")
def test_deleted_identity_is_taken_away(api: Testbed, measure: Measure) -> None:
    """After deletion the entry is removed, the pod is denied, and no SVID is signed for it.

    Then the pod has nothing left that anybody would accept.
    """
    own = api.controller.spiffe_id(GREETER)

    with api.controller.identify(GREETER, like=GREETER, ttl=TTL) as ids, _greeter(api) as pod:
        pod.await_svid(own)
        begin = Moment.now()
        ids.delete()
        eventually(lambda: _assert_none(api), budgets.IDENTIFIED)
        pod.await_refusal()
        over = Moment.now()
        rest = Budget("until its last SVID has ended", TTL, 0.25)
        consistently(lambda: _assert_refused_and_unsigned(api, pod, own, over), rest)

    measure("a deleted ClusterSPIFFEID's refusal", over.at - begin.at, "s")


@requirement("CSPIFFEID-4")
def test_idle_entries_stay_as_they_are(api: Testbed) -> None:
    """Without changes, entries stay the same at each reconciliation and streams stay open."""
    own, other = (api.controller.spiffe_id(name) for name in (GREETER, f"{GREETER}-2"))
    ends: list[str] = []

    with api.controller.identify(GREETER, like=GREETER), contextlib.ExitStack() as stack:
        pods = [
            stack.enter_context(_greeter(api)),
            stack.enter_context(_greeter(api, f"{GREETER}-2", service_account=f"{GREETER}-2")),
        ]
        for pod, spiffe_id in zip(pods, (own, other), strict=True):
            pod.await_svid(spiffe_id)
            stack.enter_context(pod.streaming(lambda answer: ends.append(str(answer))))
        before, since = _by_id(api), Moment.now()
        eventually(lambda: _assert_looked(api, since, RECONCILES), LOOKED)
        after = _by_id(api)
        closed = list(ends)

    ids = sorted(map(_id, before.values()))
    assert ids == sorted((own, other)), f"not two entries, but {_told(before.values())}"
    assert after.keys() == before.keys(), f"entries {list(before)} have become {list(after)}"
    assert after == before, f"entries were changed: {_told(after.values())}"
    assert not closed, f"a Workload API stream was closed: {closed[0]}"


@requirement("CSPIFFEID-5")
def test_replaced_pod_is_identified_anew(api: Testbed, measure: Measure) -> None:
    """A pod of the same name gets its own entry and SVID, and the old pod loses both."""
    own = api.controller.spiffe_id(GREETER)

    with api.controller.identify(GREETER, like=GREETER), contextlib.ExitStack() as stack:
        pod = stack.enter_context(_greeter(api))
        first = pod.await_svid(own)
        before = only(_entries(api), "entry")
        pod.leave()
        begin = Moment.now()
        pod = stack.enter_context(_greeter(api))
        second = pod.await_svid(own)
        passed = Moment.now().at - begin.at
        eventually(lambda: _assert_gone(api, before["id"]), budgets.IDENTIFIED)
        entries = _entries(api)

    assert len(entries) == 1, f"there are {len(entries)} entries: {_told(entries)}"
    _assert_bound(api, entries[0], pod)
    assert _serial(second) != _serial(first), "it is the same certificate"
    measure("a replaced pod's first SVID by a ClusterSPIFFEID", passed, "s")


@requirement("CSPIFFEID-6")
@pytest.mark.parametrize("thing", ["label", "namespace"])
def test_pod_that_is_not_selected_gets_nothing(api: Testbed, thing: str) -> None:
    """A pod with another label or namespace gets no entry and is denied; its twin is not."""
    own = api.controller.spiffe_id(GREETER)

    with (
        api.controller.identify(GREETER, like=GREETER),
        _greeter(api, f"{GREETER}-{thing}", **{thing: "another"}) as stranger,
        _greeter(api) as twin,
    ):
        stranger.assert_refused()
        since = Moment.now()
        twin.await_svid(own)
        # It has looked at both since they run.
        eventually(lambda: _assert_looked(api, since, 2), LOOKED)
        consistently(stranger.assert_refused, A_WHILE)
        entries = _entries(api)

    assert len(entries) == 1, f"there are {len(entries)} entries: {_told(entries)}"
    _assert_bound(api, entries[0], twin)


def _greeter(
    api: Testbed, name: str = GREETER, **but: str
) -> contextlib.AbstractContextManager[Guest]:
    return api.guest(name, like=GREETER, agent=api.agent_of("api"), but=but)


def _entries(api: Testbed) -> list[dict[str, Any]]:
    return [entry for entry in api.spire.entries() if api.controller.owns(entry)]


def _by_id(api: Testbed) -> dict[str, dict[str, Any]]:
    return {entry["id"]: entry for entry in _entries(api)}


def _id(entry: dict[str, Any]) -> str:
    return as_uri(entry["spiffe_id"])


def _told(entries: Any) -> str:  # noqa: ANN401  any collection
    return ", ".join(f"{entry['id']} for {_id(entry)}" for entry in entries) or "none"


def _serial(svid: X509Svid) -> int:
    return svid.chain[0].serial_number


def _assert_bound(api: Testbed, entry: dict[str, Any], pod: Guest) -> None:
    """Only this pod, on its own node, is served by an entry."""
    parent = as_uri(entry["parent_id"])
    wanted = api.agent_ids[pod.agent.component]
    assert parent == wanted, f"the entry's parent is {parent}, not {wanted}"
    selectors = {f"{s['type']}:{s['value']}" for s in entry["selectors"]}
    assert selectors == {f"k8s:pod-uid:{pod.uid}"}, f"the entry asks for {sorted(selectors)}"


def _assert_none(api: Testbed) -> None:
    if entries := _entries(api):
        raise NotYet(f"entries are still there: {_told(entries)}")


def _assert_gone(api: Testbed, entry_id: str) -> None:
    if entry_id in _by_id(api):
        raise NotYet(f"entry {entry_id} of the pod that is gone is still there")


def _assert_looked(api: Testbed, since: Moment, times: int) -> None:
    told = api.logs(api.controller.component, since)
    looks = [record for record in told if record.message == RECONCILED]
    if len(looks) < times:
        raise NotYet(f"the controller manager tells of {len(looks)} looks")


def _assert_refused_and_unsigned(api: Testbed, pod: Guest, own: str, since: Moment) -> None:
    pod.assert_refused()
    late = [
        record
        for record in api.logs(api.spire.component, since)
        if record.message == api.messages.signed and record.fields.get("spiffe_id") == own
    ]
    assert not late, f"{len(late)} SVIDs were signed for {own} after that"
