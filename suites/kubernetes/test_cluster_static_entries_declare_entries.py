"""SPIRE Controller Manager creates exactly the entries that ClusterStaticEntries declare."""

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import pytest
from cryptography import x509

from svidproof import (
    GC_INTERVAL_S,
    Budget,
    Capability,
    Declared,
    ExtraWorkload,
    Measure,
    NotYet,
    Testbed,
    TimedOut,
    Timestamp,
    as_uri,
    consistently,
    needs,
    only,
    reconcile_bound,
    requirement,
)
from svidproof.checks import await_reconciliations, entry_bound, within
from svidproof.probes import Partner, X509Svid

pytestmark = needs(
    Capability.K8S_PSAT,
    Capability.OWN_SPIRE,
    Capability.SPIRE_LOGS,
    Capability.CONTROLLER_MANAGER,
    Capability.STATIC_ENTRIES,
)
STATIC = "static"
TTL = 12  # seconds
RECONCILES = 3
NOBODY = "k8s:sa:nobody"
OLDER = Budget("is the older one", 1.5, 0.25)
AT_SERVER_S = reconcile_bound(GC_INTERVAL_S)
FOREIGN = "declared.example"
# A pod requests an SVID before its entry exists; that of a deleted entry may be due for renewal.
CROSSED = r"No identity issued|[Ee]ntry not found|[Ff]ailed to (sign|fetch|renew)"
# What the controller manager and the server log about an invalid or duplicate entry.
REFUSED = r"Failed to (render|create|update|delete)|[Ii]nvalid|already exists"
# Defaults of the fields of an entry.
PLAIN: Mapping[str, Any] = {
    "x509_svid_ttl": 0,
    "jwt_svid_ttl": 0,
    "dns_names": [],
    "hint": "",
    "federates_with": [],
    "admin": False,
    "downstream": False,
    "store_svid": False,
}
# Fields of a ClusterStaticEntry, and the fields that its entry must then have.
DECLARED = [
    pytest.param({}, {}, id="required-fields-only"),
    pytest.param(
        {
            "x509SVIDTTL": "90s",
            "jwtSVIDTTL": "1m",
            "dnsNames": ["static.example", "other.example"],
            "hint": "outside",
            "federatesWith": [FOREIGN],
        },
        {
            "x509_svid_ttl": 90,
            "jwt_svid_ttl": 60,
            "dns_names": ["static.example", "other.example"],
            "hint": "outside",
            "federates_with": [FOREIGN],
        },
        id="lifetimes-names-and-bundles",
    ),
    pytest.param(
        {"admin": True, "downstream": True},
        {"admin": True, "downstream": True},
        id="admin-and-downstream",
    ),
    pytest.param({"storeSVID": True}, {"store_svid": True}, id="stored"),
]
# One change after another, each of one field.
CHANGES: Mapping[str, tuple[object, str, object]] = {
    "x509SVIDTTL": ("80s", "x509_svid_ttl", 80),
    "jwtSVIDTTL": ("2m", "jwt_svid_ttl", 120),
    "dnsNames": (["other.example"], "dns_names", ["other.example"]),
    "hint": ("second", "hint", "second"),
    "federatesWith": ([FOREIGN], "federates_with", [FOREIGN]),
    "admin": (True, "admin", True),
    "downstream": (True, "downstream", True),
}
# Invalid fields of a ClusterStaticEntry.
BROKEN = [
    pytest.param({"spiffeID": "static"}, id="spiffe-id"),
    pytest.param({"selectors": ["static"]}, id="selector"),
    pytest.param({"parentID": "spiffe://elsewhere.example/agent"}, id="parent-of-another-domain"),
    pytest.param({"federatesWith": ["unknown.example"]}, id="trust-domain-without-bundle"),
]


class Unset(AssertionError):  # noqa: N818  a verdict, not a programming error
    """An object does not say that its entry is set."""


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


@pytest.fixture
def foreign_bundle(api: Testbed) -> Iterator[None]:
    """SPIRE server has the bundle of another trust domain."""
    partner = Partner(FOREIGN)
    api.spire.set_federated_document(FOREIGN, partner.bundle())
    yield
    api.spire.delete_federated_bundle(FOREIGN)


@requirement("CSTATICENTRY-1")
@pytest.mark.usefixtures("foreign_bundle")
@pytest.mark.parametrize(("spec", "differs"), DECLARED)
def test_entry_is_what_is_declared(
    api: Testbed, spec: Mapping[str, Any], differs: Mapping[str, Any]
) -> None:
    """The server has one entry, with the declared fields and defaults for all others."""
    with _declared(api, **spec):
        entry = _await_entry(api)
        entries = _entries(api)

    assert len(entries) == 1, f"there are {len(entries)} entries: {_described(entries)}"
    wanted = {
        **PLAIN,
        "spiffe_id": _id(api),
        "parent_id": _parent(api),
        "selectors": sorted(_selectors(api)),
        **differs,
    }
    wrong = {name: value for name, value in _fields(entry).items() if value != wanted[name]}
    assert not wrong, f"the entry has {wrong}, not { ({name: wanted[name] for name in wrong}) }"


@requirement("CSTATICENTRY-1")
def test_pod_gets_the_declared_svid(api: Testbed, measure: Measure) -> None:
    """A running pod with the selectors gets an SVID with the declared names, TTL and hint."""
    with _pod(api) as pod:
        pod.await_refusal()
        begin = Timestamp.now()
        spec: dict[str, Any] = {
            "x509SVIDTTL": f"{TTL}s",
            "dnsNames": ["static.example"],
            "hint": "declared",
        }
        with _declared(api, **spec):
            svid = _await_svid(api, pod, _id(api), AT_SERVER_S + entry_bound(api))
            passed = Timestamp.now().at - begin.at

    leaf = svid.chain[0]
    lasts = (leaf.not_valid_after_utc - begin.wall).total_seconds()
    assert 0 < lasts <= TTL + passed + 1, f"its SVID is valid for {lasts:.0f} s, TTL {TTL} s"
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    found = names.get_values_for_type(x509.DNSName)
    assert found == ["static.example"], f"its DNS names are {found}"
    assert svid.hint == "declared", f"its hint is {svid.hint!r}"
    measure("from a ClusterStaticEntry to the SVID of a running pod", passed, "s")


@requirement("CSTATICENTRY-2")
@pytest.mark.usefixtures("foreign_bundle")
def test_change_of_each_field_updates_the_entry(api: Testbed) -> None:
    """A change of one field changes this field of the entry, which keeps its entry ID."""
    with _declared(api, x509SVIDTTL="90s", dnsNames=["static.example"], hint="first") as declared:
        before = _await_entry(api)
        wanted = _fields(before)
        for field, (value, name, changed) in CHANGES.items():
            wanted[name] = changed
            declared.change(**{field: value})
            late = within(
                api, f"a changed {field}", lambda: _assert_fields(api, wanted), AT_SERVER_S
            )
            assert not late, late
        after = only(_entries(api), "entry")

    assert after["id"] == before["id"], f"entry {before['id']} has become {after['id']}"


@requirement("CSTATICENTRY-2")
@pytest.mark.parametrize("field", ["parentID", "selectors"])
def test_changed_parent_or_selectors_replace_the_entry(api: Testbed, field: str) -> None:
    """After the parent or the selectors change, the server has the new entry and no other."""
    spec = {"parentID": f"spiffe://{api.scenario.trust_domain}/other", "selectors": [NOBODY]}
    name = {"parentID": "parent_id", "selectors": "selectors"}[field]

    with _declared(api) as declared:
        before = _await_entry(api)
        wanted = {**_fields(before), name: spec[field]}
        declared.change(**{field: spec[field]})
        late = within(api, f"a changed {field}", lambda: _assert_fields(api, wanted), AT_SERVER_S)
        assert not late, late


@requirement("CSTATICENTRY-2")
def test_changed_id_replaces_the_entry(api: Testbed, measure: Measure) -> None:
    """After the SPIFFE ID changes, the pod gets the new SPIFFE ID and not the old one."""
    other = _id(api, "other")

    with _declared(api) as declared, _pod(api) as pod:
        before = pod.await_svid(_id(api))
        begin = Timestamp.now()
        declared.change(spiffeID=other)
        after = _await_svid(api, pod, other, AT_SERVER_S + entry_bound(api))
        passed = Timestamp.now().at - begin.at
        left = [as_uri(entry["spiffe_id"]) for entry in _entries(api)]

    assert left == [other], f"the entries are now for {left}"
    assert _serial(after) != _serial(before), "it is the same certificate"
    measure("from a changed ClusterStaticEntry to an SVID of the new ID", passed, "s")


@requirement("CSTATICENTRY-3")
def test_deleted_static_entry_ends_access(api: Testbed, measure: Measure) -> None:
    """After deletion its entry is removed, the pod is denied, and no SVID is signed for it.

    The entry of another ClusterStaticEntry stays.
    """
    with (
        _declared(api, "other", selectors=["k8s:sa:nobody"]),
        _declared(api, x509SVIDTTL=f"{TTL}s") as declared,
        _pod(api) as pod,
    ):
        pod.await_svid(_id(api))
        other = _await_entry(api, "other")
        begin = Timestamp.now()
        declared.delete()
        late = within(api, "the removal of the entry", lambda: _assert_none(api), AT_SERVER_S)
        assert not late, late
        late = within(api, "the denial of the pod", pod.assert_refused, entry_bound(api))
        assert not late, late
        denied = Timestamp.now()
        rest = Budget("until its last SVID has expired", TTL, 0.25)
        consistently(lambda: _assert_denied_and_unsigned(api, pod, denied), rest)
        left = _entries(api)

    assert left == [other], f"of the other entry is left: {_described(left)}"
    measure("from a deleted ClusterStaticEntry to the pod's denial", denied.at - begin.at, "s")


@requirement("CSTATICENTRY-4")
@pytest.mark.parametrize("class_name", [pytest.param("another", id="another-class"), None])
def test_object_of_another_class_is_left_alone(api: Testbed, class_name: str | None) -> None:
    """A ClusterStaticEntry of another class, or of none, gets no entry; one of its class does."""
    since = Timestamp.now()

    with _declared(api, "other", className=class_name), _declared(api):
        _await_entry(api)
        await_reconciliations(api, since, RECONCILES)
        entries = [e for e in api.spire.entries() if as_uri(e["spiffe_id"]) == _id(api, "other")]

    assert not entries, f"class {class_name}: there are entries: {_described(entries)}"


@requirement("CSTATICENTRY-4")
def test_entry_of_others_is_left_alone(api: Testbed) -> None:
    """An entry that was created with spire-server is kept, although an object declares the same.

    Once it is deleted, the controller manager creates the declared entry.
    """
    agent, own = api.agent_of("api"), api.scenario.spiffe_id(STATIC)
    by_hand = api.registered(STATIC, _selectors(api), agent=agent, hint="by-hand")

    with by_hand as entry_id:
        before = _of_id(api)
        with _declared(api, spiffeID=own, hint="declared"):
            since = Timestamp.now()
            await_reconciliations(api, since, RECONCILES)
            after = _of_id(api)
            api.spire.delete_entry(entry_id)
            late = within(api, "its own entry", lambda: _assert_hint(api, "declared"), AT_SERVER_S)

    # spire-server has said that it created the entry.
    assert [entry["id"] for entry in before] == [entry_id], (
        f"the entry of spire-server has become {_described(before)}"
    )
    assert after == before, f"the entry of spire-server has become {_described(after)}"
    assert not late, late


@requirement("CSTATICENTRY-5")
def test_deleted_entry_is_made_again(api: Testbed, measure: Measure) -> None:
    """An entry that is deleted at the server is created again, and the pod gets its SVID."""
    with _declared(api) as _, _pod(api) as pod:
        pod.await_svid(_id(api))
        before = only(_entries(api), "entry")
        begin = Timestamp.now()
        api.spire.delete_entry(before["id"])
        late = within(api, "a new entry", lambda: _assert_entry(api), AT_SERVER_S)
        assert not late, late
        passed = Timestamp.now().at - begin.at
        after = only(_entries(api), "entry")
        _await_svid(api, pod, _id(api), entry_bound(api))

    assert after["id"] != before["id"], "it was not deleted: this proves nothing"
    assert _fields(after) == _fields(before), f"it is there again as {_fields(after)}"
    measure("from a deleted entry until the controller manager makes it again", passed, "s")


@requirement("CSTATICENTRY-5")
def test_changed_entry_is_changed_back(api: Testbed) -> None:
    """An entry that is changed at the server is restored to what is declared."""
    with _declared(api, hint="declared"):
        before = _await_entry(api)
        api.spire.update_entry(before["id"], {**_as_given(api), "hint": "by-hand"})
        late = within(api, "the declared entry", lambda: _assert_hint(api, "declared"), AT_SERVER_S)
        assert not late, late
        after = only(_entries(api), "entry")

    assert after["revision_number"] != before["revision_number"], "nothing changed it"
    assert _fields(after) == _fields(before), f"it has become {_fields(after)}"
    assert after["id"] == before["id"], f"entry {before['id']} has become {after['id']}"


@requirement("CSTATICENTRY-6")
@pytest.mark.parametrize("spec", BROKEN)
def test_broken_object_harms_no_other(api: Testbed, spec: Mapping[str, Any]) -> None:
    """An invalid object does not block another, and gets its entry once it is corrected."""
    good = {
        "spiffeID": _id(api, "other"),
        "parentID": _parent(api),
        "selectors": list(_selectors(api)),
        "federatesWith": [],
    }

    with _declared(api, "other", **spec) as broken:
        with _declared(api):
            before = _await_entry(api)
            # The order in which it sees the objects differs from one time to the next.
            await_reconciliations(api, Timestamp.now(), RECONCILES)
            entries = _entries(api)
        broken.change(**good)
        _await_entry(api, "other")

    assert entries == [before], f"with an invalid object, the entries are {_described(entries)}"


@requirement("CSTATICENTRY-7")
def test_older_of_two_objects_decides(api: Testbed) -> None:
    """Of two objects for one entry the older decides; once it is deleted, the younger does.

    The entry keeps its ID.
    """
    with contextlib.ExitStack() as stack:
        older = stack.enter_context(_declared(api, "older", spiffeID=_id(api), hint="older"))
        before = _await_entry(api)
        # Kubernetes notes the creation of an object in whole seconds.
        consistently(lambda: _assert_hint(api, "older"), OLDER)
        stack.enter_context(_declared(api, "younger", spiffeID=_id(api), hint="younger"))
        await_reconciliations(api, Timestamp.now(), RECONCILES)
        both = _entries(api)
        older.delete()
        late = within(api, "the younger's", lambda: _assert_hint(api, "younger"), AT_SERVER_S)
        assert not late, late
        after = only(_entries(api), "entry")

    assert both == [before], (
        f"the entry has become {[_fields(entry) for entry in both]} by a younger object"
    )
    assert after["id"] == before["id"], f"entry {before['id']} has become {after['id']}"


@requirement("CSTATICENTRY-8")
def test_status_says_whether_it_is_rendered(api: Testbed) -> None:
    """The status of a valid object is rendered, that of an invalid one is not."""
    with _declared(api) as valid, _declared(api, "other", selectors=["static"]) as invalid:
        _await_status(api, valid, {"rendered": True, "masked": False})
        # One of which nothing is true may have no status.
        await_reconciliations(api, Timestamp.now(), RECONCILES)
        _assert_status(invalid, {"rendered": False, "masked": False, "set": False})


@requirement("CSTATICENTRY-8")
def test_status_says_that_it_is_masked(api: Testbed) -> None:
    """The status of the younger of two objects for one entry is masked, the other's is not."""
    with _declared(api) as older:
        _await_entry(api)
        # Kubernetes notes the creation of an object in whole seconds.
        consistently(lambda: _assert_entry(api), OLDER)
        with _declared(api, "younger", spiffeID=_id(api)) as younger:
            _await_status(api, younger, {"rendered": True, "masked": True})
            _assert_status(older, {"rendered": True, "masked": False})


@requirement("CSTATICENTRY-8")
def test_status_says_that_it_is_set(api: Testbed) -> None:
    """The status of an object whose entry the server has is set, and stays so."""
    with _declared(api) as declared:
        _await_entry(api)
        await_reconciliations(api, Timestamp.now(), RECONCILES)
        status = declared.status()

    if status.get("rendered") and not status.get("set"):
        raise Unset(f"its entry is at the server, and its status is {status}")
    assert status == {"rendered": True, "masked": False, "set": True}, f"its status is {status}"


def _pod(api: Testbed) -> AbstractContextManager[ExtraWorkload]:
    return api.extra_workload(STATIC, agent=api.agent_of("api"))


def _declared(api: Testbed, name: str = STATIC, **spec: object) -> AbstractContextManager[Declared]:
    """A ClusterStaticEntry for the pod; `spec` are fields that differ."""
    entry: dict[str, Any] = {
        "spiffe_id": _id(api, name),
        "parent_id": _parent(api),
        "selectors": _selectors(api),
    }
    renamed = {"spiffeID": "spiffe_id", "parentID": "parent_id"}
    entry |= {renamed.get(field, field): value for field, value in spec.items()}
    return api.controller.declare_entry(name, **entry)


def _selectors(api: Testbed) -> tuple[str, ...]:
    return api.platform.selectors(STATIC)


def _id(api: Testbed, name: str = STATIC) -> str:
    return f"spiffe://{api.scenario.trust_domain}/declared/{name}"


def _parent(api: Testbed) -> str:
    return api.agent_ids[api.agent_of("api").component]


def _as_given(api: Testbed) -> dict[str, Any]:
    """The entry as spire-server takes it."""
    pairs = [selector.split(":", 1) for selector in _selectors(api)]
    return {
        "spiffe_id": _id(api),
        "parent_id": _parent(api),
        "selectors": [{"type": kind, "value": value} for kind, value in pairs],
        "x509_svid_ttl": 0,
    }


def _entries(api: Testbed) -> list[dict[str, Any]]:
    return [entry for entry in api.spire.entries() if api.controller.owns(entry)]


def _of_id(api: Testbed) -> list[dict[str, Any]]:
    own = api.scenario.spiffe_id(STATIC)
    return [entry for entry in api.spire.entries() if as_uri(entry["spiffe_id"]) == own]


def _fields(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an entry that a ClusterStaticEntry decides."""
    return {
        **{name: entry[name] for name in PLAIN},
        "spiffe_id": as_uri(entry["spiffe_id"]),
        "parent_id": as_uri(entry["parent_id"]),
        "selectors": sorted(f"{s['type']}:{s['value']}" for s in entry["selectors"]),
    }


def _described(entries: list[dict[str, Any]]) -> str:
    return ", ".join(f"{e['id']} for {as_uri(e['spiffe_id'])}" for e in entries) or "none"


def _serial(svid: X509Svid) -> int:
    return svid.chain[0].serial_number


def _await_entry(api: Testbed, name: str = STATIC) -> dict[str, Any]:
    """Return the entry of a ClusterStaticEntry, which the server must have within the bound."""
    late = within(api, "the entry", lambda: _assert_entry(api, name), AT_SERVER_S)
    assert not late, late
    own = _id(api, name)
    return only([e for e in _entries(api) if as_uri(e["spiffe_id"]) == own], f"entry of {own}")


def _await_svid(api: Testbed, pod: ExtraWorkload, spiffe_id: str, bound: float) -> X509Svid:
    def served() -> None:
        answer = pod.ask()
        if answer.ids != [spiffe_id]:
            raise NotYet(f"{pod.name} got {answer}")

    late = within(api, f"an SVID of {spiffe_id}", served, bound)
    assert not late, late
    return pod.await_svid(spiffe_id)


def _assert_entry(api: Testbed, name: str = STATIC) -> None:
    own, entries = _id(api, name), _entries(api)
    if own not in [as_uri(entry["spiffe_id"]) for entry in entries]:
        raise NotYet(f"no entry is for {own}: {_described(entries)}")


def _assert_hint(api: Testbed, hint: str) -> None:
    hints = [entry["hint"] for entry in _entries(api)]
    if hints != [hint]:
        raise NotYet(f"the hints of its entries are {hints}, not {[hint]}")


def _assert_fields(api: Testbed, wanted: Mapping[str, Any]) -> None:
    found = [_fields(entry) for entry in _entries(api)]
    if found != [wanted]:
        wrong = [{k: v for k, v in each.items() if v != wanted[k]} for each in found]
        raise NotYet(f"the entries have {wrong}, which is not declared")


def _await_status(api: Testbed, declared: Declared, wanted: Mapping[str, bool]) -> None:
    late = within(api, "the status", lambda: _assert_status(declared, wanted), AT_SERVER_S)
    assert not late, late


def _assert_status(declared: Declared, wanted: Mapping[str, bool]) -> None:
    status = declared.status()
    said = {name: status.get(name, False) for name in wanted}
    if wrong := {name: value for name, value in said.items() if value != wanted[name]}:
        raise NotYet(f"the status of {declared.body['metadata']['name']} has {wrong}")


def _assert_none(api: Testbed) -> None:
    entries = [e for e in _entries(api) if as_uri(e["spiffe_id"]) == _id(api)]
    if entries:
        raise NotYet(f"entries are still there: {_described(entries)}")


def _assert_denied_and_unsigned(api: Testbed, pod: ExtraWorkload, since: Timestamp) -> None:
    pod.assert_refused()
    late = [
        record
        for record in api.logs(api.spire.component, since)
        if record.message == api.messages.signed and record.fields.get("spiffe_id") == _id(api)
    ]
    assert not late, f"{len(late)} SVIDs were signed for {_id(api)} after the denial"
