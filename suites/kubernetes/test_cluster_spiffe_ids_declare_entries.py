"""SPIRE Controller Manager gives pods exactly the entries that ClusterSPIFFEIDs declare.

The entries are for the pod of `api`, with a selector that no process has, so that its sidecar keeps
its SVID.
"""

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import pytest

from svidproof import (
    GC_INTERVAL_S,
    Budget,
    Capability,
    Declared,
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
    reconcile_bound,
    requirement,
)
from svidproof.checks import await_reconciliations, within

pytestmark = needs(
    Capability.K8S_PSAT,
    Capability.OWN_SPIRE,
    Capability.SPIRE_LOGS,
    Capability.CONTROLLER_MANAGER,
)
POD = "api"
GREETER = "greeter"
NOBODY = "k8s:sa:nobody"
OTHER = "spiffe://{{ .TrustDomain }}/other/{{ .PodMeta.Name }}"
RECONCILES = 3
AT_SERVER_S = reconcile_bound(GC_INTERVAL_S)
IGNORED = "ignored"
STAYS_DENIED = Budget("stays denied", 2 * GC_INTERVAL_S, 0.2)
# A pod asks before its entry exists.
CROSSED = r"No identity issued|[Ee]ntry not found|[Ff]ailed to (sign|fetch|renew)"
# What the controller manager logs about invalid objects, and about those that are deleted.
REFUSED = r"[Ff]ailed to (parse|render|update|create|delete)|[Ii]nvalid|not found"
# Defaults of the fields of an entry.
PLAIN: Mapping[str, Any] = {
    "x509_svid_ttl": 0,
    "jwt_svid_ttl": 0,
    "dns_names": [],
    "hint": "",
    "admin": False,
    "downstream": False,
}
# Fields of a ClusterSPIFFEID, and the fields that its entry must then have.
DECLARED = [
    pytest.param({}, {}, id="required-fields-only"),
    pytest.param(
        {
            "ttl": "90s",
            "jwtTtl": "1m",
            "dnsNameTemplates": ["{{ .PodMeta.Name }}.example", "other.example"],
            "hint": "inside",
        },
        {
            "x509_svid_ttl": 90,
            "jwt_svid_ttl": 60,
            "dns_names": [f"{POD}.example", "other.example"],
            "hint": "inside",
        },
        id="lifetimes-names-and-hint",
    ),
    pytest.param({"admin": True}, {"admin": True}, id="admin"),
    pytest.param({"downstream": True}, {"downstream": True}, id="downstream"),
]
# One change after another, each of one field.
CHANGES: Mapping[str, tuple[object, str, object]] = {
    "ttl": ("80s", "x509_svid_ttl", 80),
    "jwtTtl": ("2m", "jwt_svid_ttl", 120),
    "dnsNameTemplates": (["changed.example"], "dns_names", ["changed.example"]),
    "hint": ("changed", "hint", "changed"),
    "admin": (True, "admin", True),
    "downstream": (True, "downstream", True),
}
# Invalid fields of a ClusterSPIFFEID.
BROKEN = [
    pytest.param({"spiffeIDTemplate": "{{"}, id="template"),
    pytest.param({"spiffeIDTemplate": "spiffe://{{ .Nothing }}/x"}, id="unknown-field"),
    pytest.param({"spiffeIDTemplate": "spiffe://elsewhere.example/x"}, id="another-trust-domain"),
    pytest.param({"workloadSelectorTemplates": ["nobody"]}, id="selector"),
]
# Fields of a ClusterSPIFFEID, and numbers in its status.
COUNTED = [
    pytest.param({}, {"entriesToSet": 1, "podEntryRenderFailures": 0}, id="entry"),
    pytest.param(
        {"workloadSelectorTemplates": ["nobody"]},
        {"entriesToSet": 0, "podEntryRenderFailures": 1},
        id="failure",
    ),
]
# What a pod is no longer selected by.
UNSELECTING = [
    pytest.param({"podSelector": {"matchLabels": {"app": "nobody"}}}, id="label"),
    pytest.param({"namespaceSelector": {"matchLabels": {"app": "nobody"}}}, id="namespace"),
]


@pytest.fixture(autouse=True)
def _expected_errors(api: Testbed) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for component in (api.spire.component, *api.agents, api.controller.component):
            stack.enter_context(api.provoking(component, rf"{CROSSED}|{REFUSED}"))
        yield
        # Errors of the current reconciliation and of the next one are expected too.
        end = Timestamp.now()
        with contextlib.suppress(TimedOut):
            await_reconciliations(api, end, 1)


@requirement("CSPIFFEID-8")
@pytest.mark.parametrize(("spec", "differs"), DECLARED)
def test_entry_is_what_is_declared(
    api: Testbed, spec: Mapping[str, Any], differs: Mapping[str, Any]
) -> None:
    """The pod has one entry, with the declared fields and defaults for all others."""
    with _identified(api, **spec):
        entry = _await_entry(api, _id(api))
        entries = _entries(api)

    assert len(entries) == 1, f"there are {len(entries)} entries: {_described(entries)}"
    _assert_fields(api, entry, differs)


@requirement("CSPIFFEID-8")
def test_entry_has_the_names_of_the_services(api: Testbed) -> None:
    """With autoPopulateDNSNames, the entry has the DNS names of the pod's Service."""
    # The Service of a place has its name.
    api.platform.host(POD)
    namespace = api.controller.spiffe_id(POD).split("/")[4]
    names = [POD, f"{POD}.{namespace}", f"{POD}.{namespace}.svc"]

    with _identified(api, autoPopulateDNSNames=True):
        wanted = {"dns_names": [*names, f"{names[-1]}.cluster.local"]}
        entry = _await_entry(api, _id(api))

    _assert_fields(api, entry, wanted)


@requirement("CSPIFFEID-9")
def test_change_of_each_field_changes_the_entry(api: Testbed) -> None:
    """A change of one field changes this field of the entry, which keeps its entry ID."""
    wanted: dict[str, Any] = {}

    with _identified(api) as identified:
        before = _await_entry(api, _id(api))
        for field, (value, name, changed) in CHANGES.items():
            wanted[name] = changed
            identified.change(**{field: value})
            late = within(api, f"a changed {field}", lambda: _assert_has(api, wanted), AT_SERVER_S)
            assert not late, late
        after = only(_entries(api), "entry")

    _assert_fields(api, after, wanted)
    assert after["id"] == before["id"], f"entry {before['id']} has become {after['id']}"


@requirement("CSPIFFEID-9")
@pytest.mark.parametrize("spec", UNSELECTING)
def test_pod_that_is_no_longer_selected_loses_its_entry(
    api: Testbed, spec: Mapping[str, Any]
) -> None:
    """After a selector changes, the entry is removed; once it is changed back, it is there."""
    with _identified(api) as identified:
        _await_entry(api, _id(api))
        selected = {name: identified.body["spec"][name] for name in spec}
        identified.change(**spec)
        late = within(api, "the end of the entry", lambda: _assert_none(api), AT_SERVER_S)
        assert not late, late
        identified.change(**selected)
        _await_entry(api, _id(api))


@requirement("CSPIFFEID-10")
@pytest.mark.parametrize("spec", BROKEN)
def test_broken_object_harms_no_other(api: Testbed, spec: Mapping[str, Any]) -> None:
    """An invalid object does not block another, and gets its entry once it is corrected."""
    good = {"spiffeIDTemplate": OTHER, "workloadSelectorTemplates": [NOBODY]}

    with _identified(api, "broken", **{**good, **spec}) as broken:
        with _identified(api):
            before = _await_entry(api, _id(api))
            # The order in which it sees the objects differs from one time to the next.
            await_reconciliations(api, Timestamp.now(), RECONCILES)
            entries = _entries(api)
        broken.change(**good)
        _await_entry(api, _other(api))

    assert [e["id"] for e in entries] == [before["id"]], (
        f"with an invalid object, {before['id']} has become {_described(entries)}"
    )


@requirement("CSPIFFEID-11")
@pytest.mark.parametrize("class_name", [pytest.param("another", id="another-class"), None])
def test_object_of_another_class_is_left_alone(api: Testbed, class_name: str | None) -> None:
    """A ClusterSPIFFEID of another class, or of none, gives no entry; one of its class does."""
    since = Timestamp.now()

    with (
        _identified(api, "another", className=class_name, spiffeIDTemplate=OTHER),
        _identified(api),
    ):
        _await_entry(api, _id(api))
        await_reconciliations(api, since, RECONCILES)
        # Another controller manager's, too.
        entries = [e for e in api.spire.entries() if as_uri(e["spiffe_id"]) == _other(api)]

    assert not entries, f"class {class_name}: there are entries: {_described(entries)}"


@requirement("CSPIFFEID-12")
def test_fallback_gives_way(api: Testbed) -> None:
    """A fallback gives the pod its entry only while no other ClusterSPIFFEID selects the pod."""
    with _identified(api, "fallback", fallback=True, spiffeIDTemplate=OTHER):
        _await_entry(api, _other(api))
        with _identified(api):
            late = within(api, "no entry of the fallback", lambda: _assert_only(api), AT_SERVER_S)
            assert not late, late
        _await_entry(api, _other(api))


@requirement("CSPIFFEID-13")
def test_pod_of_an_ignored_namespace_is_denied(api: Testbed) -> None:
    """A pod in a namespace of ignoreNamespaces gets no entry and is denied; its twin is not."""
    own, but = api.controller.spiffe_id(GREETER), {"namespace": IGNORED}
    agent, home = api.agent_of(POD), own.split("/")[4]
    both = {
        "key": "kubernetes.io/metadata.name",
        "operator": "In",
        "values": [home, f"{home}-{IGNORED}"],
    }
    fields = {"namespaceSelector": {"matchExpressions": [both]}}

    with (
        api.extra_workload(f"{GREETER}-{IGNORED}", like=GREETER, agent=agent, but=but) as ignored,
        api.controller.identify(GREETER, like=GREETER, fields=fields),
        api.extra_workload(GREETER, agent=agent) as twin,
    ):
        twin.await_svid(own)
        # The controller manager has reconciled both pods.
        await_reconciliations(api, Timestamp.now(), RECONCILES)
        consistently(ignored.assert_refused, STAYS_DENIED)
        entries = _entries(api)

    assert len(entries) == 1, f"there are {len(entries)} entries: {_described(entries)}"


@requirement("CSPIFFEID-14")
def test_changes_meanwhile_are_applied(api: Testbed, measure: Measure) -> None:
    """What is created and deleted while the controller manager is away is applied afterwards.

    The entry of an object that is not changed stays the same.
    """
    staying = "spiffe://{{ .TrustDomain }}/staying/{{ .PodMeta.Name }}"

    with contextlib.ExitStack() as stack:
        leaving = stack.enter_context(_identified(api, "leaving"))
        stack.enter_context(_identified(api, "staying", spiffeIDTemplate=staying))
        _await_entry(api, _id(api))
        before = _await_entry(api, _other(api, "staying"))
        with api.controller.away():
            leaving.delete()
            stack.enter_context(_identified(api, "coming", spiffeIDTemplate=OTHER))
        back = Timestamp.now()
        wanted = sorted((_other(api), _other(api, "staying")))
        eventually(lambda: _assert_ids(api, wanted), budgets.CONTROLLER_READY)
        passed = Timestamp.now().at - back.at
        entries = _entries(api)

    assert before in entries, f"entry {before['id']} has become {_described(entries)}"
    measure("from the controller manager's restart until all changes are applied", passed, "s")


@requirement("CSPIFFEID-16")
@pytest.mark.parametrize(("spec", "stats"), COUNTED)
def test_status_counts_pods_entries_and_failures(
    api: Testbed, spec: Mapping[str, Any], stats: Mapping[str, int]
) -> None:
    """The status has the numbers of selected namespaces and pods, of entries and of failures."""
    wanted = {"namespacesSelected": 1, "podsSelected": 1, **stats}

    with _identified(api, **spec) as identified:
        late = within(api, "the status", lambda: _assert_counts(identified, wanted), AT_SERVER_S)

    assert not late, late


def _identified(
    api: Testbed, name: str = "declared", **spec: object
) -> AbstractContextManager[Declared]:
    """A ClusterSPIFFEID for the pod; `spec` are fields that differ."""
    fields = {"workloadSelectorTemplates": [NOBODY], **spec}
    return api.controller.identify(name, like=POD, fields=fields)


def _id(api: Testbed) -> str:
    return api.controller.spiffe_id(POD)


def _other(api: Testbed, path: str = "other") -> str:
    return f"spiffe://{api.scenario.trust_domain}/{path}/{POD}"


def _entries(api: Testbed) -> list[dict[str, Any]]:
    return [entry for entry in api.spire.entries() if api.controller.owns(entry)]


def _described(entries: list[dict[str, Any]]) -> str:
    return ", ".join(f"{e['id']} for {as_uri(e['spiffe_id'])}" for e in entries) or "none"


def _await_entry(api: Testbed, spiffe_id: str) -> dict[str, Any]:
    """Return the pod's entry of a SPIFFE ID, which the server must have within the bound."""

    def there() -> None:
        entries = _entries(api)
        if spiffe_id not in [as_uri(entry["spiffe_id"]) for entry in entries]:
            raise NotYet(f"no entry is for {spiffe_id}: {_described(entries)}")

    late = within(api, "the entry", there, AT_SERVER_S)
    assert not late, late
    found = [entry for entry in _entries(api) if as_uri(entry["spiffe_id"]) == spiffe_id]
    return only(found, f"entry of {spiffe_id}")


def _assert_counts(identified: Declared, wanted: Mapping[str, int]) -> None:
    stats = identified.status().get("stats", {})
    if wrong := {name: stats.get(name) for name in wanted if stats.get(name) != wanted[name]}:
        raise NotYet(f"the status has {wrong}, not { ({name: wanted[name] for name in wrong}) }")


def _assert_none(api: Testbed) -> None:
    if entries := _entries(api):
        raise NotYet(f"entries are still there: {_described(entries)}")


def _assert_only(api: Testbed) -> None:
    _assert_ids(api, [_id(api)])


def _assert_ids(api: Testbed, wanted: list[str]) -> None:
    found = sorted(as_uri(entry["spiffe_id"]) for entry in _entries(api))
    if found != wanted:
        raise NotYet(f"the entries are for {found}, not for {wanted}")


def _assert_has(api: Testbed, wanted: Mapping[str, Any]) -> None:
    if len(entries := _entries(api)) != 1:
        raise NotYet(f"the entries are {_described(entries)}")
    [entry] = entries
    wrong = {name: entry[name] for name, value in wanted.items() if entry[name] != value}
    if wrong:
        raise NotYet(f"the entry has {wrong}, not { ({name: wanted[name] for name in wrong}) }")


def _assert_fields(api: Testbed, entry: Mapping[str, Any], differs: Mapping[str, Any]) -> None:
    """Assert the fields of an entry that a ClusterSPIFFEID decides."""
    uid = api.at_need.scheduler.uid(POD)
    wanted = {
        **PLAIN,
        "parent_id": api.agent_ids[api.agent_of(POD).component],
        "selectors": sorted((f"k8s:pod-uid:{uid}", NOBODY)),
        **differs,
    }
    found = {
        **{name: entry[name] for name in PLAIN},
        "parent_id": as_uri(entry["parent_id"]),
        "selectors": sorted(f"{s['type']}:{s['value']}" for s in entry["selectors"]),
    }
    wrong = {name: value for name, value in found.items() if value != wanted[name]}
    assert not wrong, f"the entry has {wrong}, not { ({name: wanted[name] for name in wrong}) }"
