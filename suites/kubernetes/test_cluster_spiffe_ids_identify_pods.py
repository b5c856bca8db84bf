"""SPIRE Controller Manager reconciles ClusterSPIFFEIDs and pods to entries."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from svidproof import (
    GC_INTERVAL_S,
    Budget,
    Capability,
    ExtraWorkload,
    Measure,
    NotYet,
    Testbed,
    TimedOut,
    Timestamp,
    as_uri,
    budgets,
    consistently,
    eventually,
    needs,
    only,
    requirement,
)
from svidproof.checks import await_reconciliations
from svidproof.probes import Partner, X509Svid

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
STAYS_DENIED = Budget("stays denied", 2 * GC_INTERVAL_S, 0.2)
# A new pod asks before its entry exists; the SVID of a deleted one may be due for renewal.
CROSSED = r"No identity issued|[Ee]ntry not found|[Ff]ailed to (sign|fetch|renew)"
# The status of a ClusterSPIFFEID that is deleted during a reconciliation cannot be updated.
DELETED = r"Failed to update status"


@pytest.fixture(autouse=True)
def _expected_errors(api: Testbed) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for component in (api.spire.component, *api.agents):
            stack.enter_context(api.provoking(component, CROSSED))
        stack.enter_context(api.provoking(api.controller.component, DELETED))
        yield
        # Errors of the current reconciliation and of the next one are expected too.
        end = Timestamp.now()
        with contextlib.suppress(TimedOut):
            await_reconciliations(api, end, 1)


@requirement("CSPIFFEID-1")
def test_new_pod_is_identified(api: Testbed, measure: Measure) -> None:
    """A new pod gets one entry, bound to the pod and its node, and that entry's SVID."""
    own = api.controller.spiffe_id(GREETER)

    with api.controller.identify(GREETER, like=GREETER, ttl=TTL):
        begin = Timestamp.now()
        with _greeter(api) as pod:
            svid = pod.await_svid(own)
            passed = Timestamp.now().at - begin.at
            entries = _entries(api)

    assert len(entries) == 1, f"there are {len(entries)} entries: {_described(entries)}"
    _assert_bound(api, entries[0], pod)
    leaf = svid.chain[0]
    lasts = (leaf.not_valid_after_utc - begin.wall).total_seconds()
    assert 0 < lasts <= TTL + passed + 1, f"its SVID is valid for {lasts:.0f} s, TTL {TTL} s"
    measure("from a new pod to its SVID by a ClusterSPIFFEID", passed, "s")


@requirement("CSPIFFEID-2")
def test_changed_template_changes_the_id(api: Testbed, measure: Measure) -> None:
    """After its template changes, the pod gets the new SPIFFE ID and not the old one."""
    own = api.controller.spiffe_id(GREETER)
    other = f"spiffe://{api.scenario.trust_domain}/elsewhere/{GREETER}"

    with api.controller.identify(GREETER, like=GREETER) as ids, _greeter(api) as pod:
        before = pod.await_svid(own)
        begin = Timestamp.now()
        ids.change(spiffeIDTemplate=ELSEWHERE)
        after = pod.await_svid(other)
        passed = Timestamp.now().at - begin.at
        left = [_id(entry) for entry in _entries(api)]

    assert left == [other], f"the entries are now for {left}"
    assert _serial(after) != _serial(before), "it is the same certificate"
    measure("from a changed template to an SVID of the new ID", passed, "s")


@requirement("CSPIFFEID-3")
def test_deleted_cluster_spiffe_id_ends_access(api: Testbed, measure: Measure) -> None:
    """After deletion the entry is removed, the pod is denied, and no SVID is signed for it.

    It is denied until its last SVID has expired.
    """
    own = api.controller.spiffe_id(GREETER)

    with api.controller.identify(GREETER, like=GREETER, ttl=TTL) as ids, _greeter(api) as pod:
        pod.await_svid(own)
        begin = Timestamp.now()
        ids.delete()
        eventually(lambda: _assert_none(api), budgets.IDENTIFIED)
        pod.await_refusal()
        denied = Timestamp.now()
        rest = Budget("until its last SVID has expired", TTL, 0.25)
        consistently(lambda: _assert_denied_and_unsigned(api, pod, own, denied), rest)

    measure("from a deleted ClusterSPIFFEID to the pod's denial", denied.at - begin.at, "s")


@requirement("CSPIFFEID-4")
def test_entries_stay_the_same_without_changes(api: Testbed) -> None:
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
        before, since = _by_id(api), Timestamp.now()
        await_reconciliations(api, since, RECONCILES)
        after = _by_id(api)
        closed = list(ends)

    ids = sorted(map(_id, before.values()))
    assert ids == sorted((own, other)), f"not two entries, but {_described(before.values())}"
    assert after.keys() == before.keys(), f"entries {list(before)} have become {list(after)}"
    assert after == before, f"entries were changed: {_described(after.values())}"
    assert not closed, f"a Workload API stream was closed: {closed[0]}"


@requirement("CSPIFFEID-5")
def test_replacement_pod_gets_its_own_entry(api: Testbed, measure: Measure) -> None:
    """A pod of the same name gets its own entry and SVID, and the old pod loses both."""
    own = api.controller.spiffe_id(GREETER)

    with api.controller.identify(GREETER, like=GREETER), contextlib.ExitStack() as stack:
        pod = stack.enter_context(_greeter(api))
        first = pod.await_svid(own)
        before = only(_entries(api), "entry")
        pod.leave()
        begin = Timestamp.now()
        pod = stack.enter_context(_greeter(api))
        second = pod.await_svid(own)
        passed = Timestamp.now().at - begin.at
        eventually(lambda: _assert_gone(api, before["id"]), budgets.IDENTIFIED)
        entries = _entries(api)

    assert len(entries) == 1, f"there are {len(entries)} entries: {_described(entries)}"
    _assert_bound(api, entries[0], pod)
    assert _serial(second) != _serial(first), "it is the same certificate"
    measure("from a replacement pod to its SVID by a ClusterSPIFFEID", passed, "s")


@requirement("CSPIFFEID-6")
@pytest.mark.parametrize("thing", ["label", "namespace"])
def test_unselected_pod_is_denied(api: Testbed, thing: str) -> None:
    """A pod with another label or namespace gets no entry and is denied; its twin is not."""
    own = api.controller.spiffe_id(GREETER)

    with (
        api.controller.identify(GREETER, like=GREETER),
        _greeter(api, f"{GREETER}-{thing}", **{thing: "another"}) as unselected,
        _greeter(api) as twin,
    ):
        unselected.assert_refused()
        since = Timestamp.now()
        twin.await_svid(own)
        # The controller manager has reconciled both pods.
        await_reconciliations(api, since, 2)
        consistently(unselected.assert_refused, STAYS_DENIED)
        entries = _entries(api)

    assert len(entries) == 1, f"there are {len(entries)} entries: {_described(entries)}"
    _assert_bound(api, entries[0], twin)


@pytest.fixture
def partners(api: Testbed) -> Iterator[tuple[Partner, Partner]]:
    """Two trust domains of the suite's own, whose bundles SPIRE server stores."""
    made = Partner("declared.example"), Partner("undeclared.example")
    for partner in made:
        api.spire.set_federated_document(partner.trust_domain, partner.bundle())
    yield made
    for partner in made:
        api.spire.delete_federated_bundle(partner.trust_domain)


@requirement("CSPIFFEID-7")
def test_pod_gets_the_bundles_of_its_partners(
    api: Testbed, partners: tuple[Partner, Partner], measure: Measure
) -> None:
    """The pod gets the bundle of the partner in federatesWith only, and none once it is empty."""
    own, [declared, _] = api.controller.spiffe_id(GREETER), partners

    with (
        api.controller.identify(
            GREETER, like=GREETER, federates_with=[declared.trust_domain]
        ) as ids,
        _greeter(api) as pod,
    ):
        pod.await_svid(own)
        eventually(lambda: _assert_foreign(pod, declared), budgets.REGISTRATION)
        begin = Timestamp.now()
        ids.change(federatesWith=[])
        eventually(lambda: _assert_foreign(pod), budgets.REGISTRATION)
        passed = Timestamp.now().at - begin.at
        pod.await_svid(own)

    measure(
        "from an empty federatesWith of a ClusterSPIFFEID until the bundle is gone", passed, "s"
    )


def _assert_foreign(pod: ExtraWorkload, *partners: Partner) -> None:
    """Raise NotYet unless a pod has the bundles of exactly these other trust domains."""
    wanted = {f"spiffe://{partner.trust_domain}": (partner.root,) for partner in partners}
    foreign = pod.ask().foreign
    if dict(foreign) != wanted:
        raise NotYet(f"{pod.name} got the bundles of {sorted(foreign)}, not of {sorted(wanted)}")


def _greeter(
    api: Testbed, name: str = GREETER, **but: str
) -> contextlib.AbstractContextManager[ExtraWorkload]:
    return api.extra_workload(name, like=GREETER, agent=api.agent_of("api"), but=but)


def _entries(api: Testbed) -> list[dict[str, Any]]:
    return [entry for entry in api.spire.entries() if api.controller.owns(entry)]


def _by_id(api: Testbed) -> dict[str, dict[str, Any]]:
    return {entry["id"]: entry for entry in _entries(api)}


def _id(entry: dict[str, Any]) -> str:
    return as_uri(entry["spiffe_id"])


def _described(entries: Any) -> str:  # noqa: ANN401  any collection
    return ", ".join(f"{entry['id']} for {_id(entry)}" for entry in entries) or "none"


def _serial(svid: X509Svid) -> int:
    return svid.chain[0].serial_number


def _assert_bound(api: Testbed, entry: dict[str, Any], pod: ExtraWorkload) -> None:
    """Assert that an entry serves only this pod, on its own node."""
    parent = as_uri(entry["parent_id"])
    wanted = api.agent_ids[pod.agent.component]
    assert parent == wanted, f"the entry's parent is {parent}, not {wanted}"
    selectors = {f"{s['type']}:{s['value']}" for s in entry["selectors"]}
    assert selectors == {f"k8s:pod-uid:{pod.uid}"}, f"its selectors are {sorted(selectors)}"


def _assert_none(api: Testbed) -> None:
    if entries := _entries(api):
        raise NotYet(f"entries are still there: {_described(entries)}")


def _assert_gone(api: Testbed, entry_id: str) -> None:
    if entry_id in _by_id(api):
        raise NotYet(f"entry {entry_id} of the deleted pod is still there")


def _assert_denied_and_unsigned(
    api: Testbed, pod: ExtraWorkload, own: str, since: Timestamp
) -> None:
    pod.assert_refused()
    late = [
        record
        for record in api.logs(api.spire.component, since)
        if record.message == api.messages.signed and record.fields.get("spiffe_id") == own
    ]
    assert not late, f"{len(late)} SVIDs were signed for {own} after the denial"
