"""SPIRE server stores, lists and changes exactly the entries that its administrators name."""

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from svidproof import Capability, PlatformError, Testbed, needs, requirement
from svidproof.probes import server_api as api

pytestmark = needs(Capability.OWN_SPIRE)
OWN = "example.org"
PARTNERS = ("first-partner.example", "second-partner.example")
PAGE_SIZES = (0, 1, 2)  # 0: all in one answer
MOST_PAGES = 20
# How a filter compares a list: google.protobuf's enums of spire-api-sdk.
EXACT, SUBSET, SUPERSET, ANY = range(4)
OK, ALREADY_EXISTS = 0, 6
Fields = dict[str, Any]


def _id(name: str) -> Fields:
    return {"trust_domain": OWN, "path": f"/{name}"}


def _selectors(*names: str) -> list[Fields]:
    return [{"type": "listed", "value": name} for name in names]


# Entries that differ in what filters ask for; all are below one parent.
LISTED: dict[str, Fields] = {
    "a": {"selectors": _selectors("1"), "hint": "same"},
    "b": {"selectors": _selectors("1", "2"), "downstream": True},
    "c": {"selectors": _selectors("1", "2", "3"), "federates_with": [PARTNERS[0]], "hint": "same"},
    "d": {"selectors": _selectors("3"), "federates_with": list(PARTNERS)},
}


def _by_selectors(match: int, *names: str) -> Fields:
    return {"by_selectors": {"selectors": _selectors(*names), "match": match}}


def _by_partners(match: int, *partners: str) -> Fields:
    return {"by_federates_with": {"trust_domains": list(partners), "match": match}}


FILTERS: dict[str, tuple[Fields, str]] = {
    "parent": ({}, "abcd"),
    "spiffe-id": ({"by_spiffe_id": _id("listed-b")}, "b"),
    "exact-selectors": (_by_selectors(EXACT, "1", "2"), "b"),
    "subset-of-selectors": (_by_selectors(SUBSET, "1", "2"), "ab"),
    "superset-of-selectors": (_by_selectors(SUPERSET, "1", "2"), "bc"),
    "any-selector": (_by_selectors(ANY, "2", "3"), "bcd"),
    "exact-partners": (_by_partners(EXACT, PARTNERS[0]), "c"),
    "subset-of-partners": (_by_partners(SUBSET, *PARTNERS), "cd"),
    "superset-of-partners": (_by_partners(SUPERSET, *PARTNERS), "d"),
    "any-partner": (_by_partners(ANY, PARTNERS[1]), "d"),
    "hint": ({"by_hint": {"value": "same"}}, "ac"),
    "downstream": ({"by_downstream": {"value": True}}, "b"),
    "not-downstream": ({"by_downstream": {"value": False}}, "acd"),
}
# Each field of an entry that an update can name, before and after.
CHANGES: dict[str, tuple[object, object]] = {
    "spiffe_id": (_id("changed-before"), _id("changed-after")),
    "parent_id": (_id("parent-before"), _id("parent-after")),
    "selectors": (_selectors("before"), _selectors("after", "after-2")),
    "x509_svid_ttl": (600, 700),
    "jwt_svid_ttl": (300, 400),
    "federates_with": ([PARTNERS[0]], [PARTNERS[1]]),
    "admin": (False, True),
    "downstream": (False, True),
    "dns_names": (["before.example.org"], ["after.example.org"]),
    "hint": ("before", "after"),
    "expires_at": (3600, 7200),  # from now on
    "store_svid": (False, True),
    "additional_attributes": (
        {"disable_x509_svid_prefetch": True},
        {"jwt_svid_include_jti": True},
    ),
}


@dataclass(frozen=True)
class Entries:
    """Entries of a SPIRE server, as a local caller administers them.

    Attributes:
        caller: the local caller.
    """

    caller: api.ServerCaller

    def ask(self, name: str, **fields: object) -> Any:  # noqa: ANN401  a message
        """Call a method that must succeed, and return its answer."""
        return self.caller.answer("entry", name, **fields)

    def create(self, entry: Fields) -> Any:  # noqa: ANN401  a message
        """The result of the creation of one entry."""
        [result] = self.ask("BatchCreateEntry", entries=[entry]).results
        return result

    @contextlib.contextmanager
    def created(self, *entries: Fields) -> Iterator[list[str]]:
        """Entries that exist for a time; yields their IDs."""
        ids: list[str] = []
        try:
            for entry in entries:
                result = self.create(entry)
                assert result.status.code == OK, f"BatchCreateEntry: {result.status.message}"
                ids.append(result.entry.id)
            yield ids
        finally:
            self.ask("BatchDeleteEntry", ids=ids)

    def listed(self, wanted: Fields, page_size: int) -> Counter[str]:
        """The paths of the entries of a filter, with how often each was listed."""
        pages = self.caller.pages(
            "entry", "ListEntries", size=page_size, most=MOST_PAGES, filter=wanted
        )
        return Counter(entry.spiffe_id.path for page in pages for entry in page.entries)


@pytest.fixture(scope="module")
def entries(callers: Mapping[str, api.ServerCaller]) -> Entries:
    """The server's entries, as a local caller administers them."""
    return Entries(callers["local"])


@pytest.fixture(scope="module")
def partners(server_api: Testbed) -> Iterator[tuple[str, ...]]:
    """Trust domains whose bundles the server has."""
    for partner in PARTNERS:
        server_api.spire.set_federated_bundle(partner, server_api.spire.bundle())
    yield PARTNERS
    for partner in PARTNERS:
        server_api.spire.delete_federated_bundle(partner)


@pytest.fixture(scope="module")
def listed(entries: Entries, partners: tuple[str, ...]) -> Iterator[None]:  # noqa: ARG001  needed by them
    """The entries that filters ask for."""
    made = [
        {"spiffe_id": _id(f"listed-{name}"), "parent_id": _id("listed-parent"), **fields}
        for name, fields in LISTED.items()
    ]
    with entries.created(*made):
        yield


@requirement("SERVER-13")
@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.usefixtures("listed")
def test_entries_of_a_filter_are_listed(entries: Entries, name: str) -> None:
    """A list of entries has each one that its filter names, once, whatever the page size."""
    fields, letters = FILTERS[name]
    wanted = {"by_parent_id": _id("listed-parent"), **fields}
    expected = Counter(f"/listed-{letter}" for letter in letters)

    for size in PAGE_SIZES:
        found = entries.listed(wanted, size)
        assert found == expected, f"filter {name}, pages of {size or 'any size'}: {dict(found)}"
    count = entries.ask("CountEntries", filter=wanted).count
    assert count == len(letters), f"filter {name}: {count} entries are counted"


@requirement("SERVER-14")
@pytest.mark.parametrize("field", [*CHANGES, "all"])
@pytest.mark.usefixtures("partners")
def test_update_changes_what_it_names(entries: Entries, field: str) -> None:
    """An update changes the field that its mask names, and no other; without a mask, every one."""
    now = int(time.time())
    before, after = (_content(now, side) for side in (0, 1))
    mask = {} if field == "all" else {"input_mask": {field: True}}
    with entries.created(before) as [entry_id]:
        first = entries.ask("GetEntry", id=entry_id)
        update = {"id": entry_id, **after}
        [result] = entries.ask("BatchUpdateEntry", entries=[update], **mask).results
        assert result.status.code == OK, f"BatchUpdateEntry of {field}: {result.status.message}"
        second = entries.ask("GetEntry", id=entry_id)

    changed = set(CHANGES) if field == "all" else {field}
    stored, updated = _read(first, before), _read(second, after)
    wrong = sorted(name for name, is_it in stored.items() if not is_it)
    assert not wrong, f"a new entry is stored otherwise: {wrong}"
    done = {name for name, is_it in updated.items() if is_it}
    assert done == changed, f"the update of {field} changed {sorted(done)}"
    kept = {name for name, is_it in _read(second, before).items() if is_it}
    lost = set(CHANGES) - changed - kept
    assert not lost, f"the update of {field} changed {sorted(lost)}, too"
    # By this number alone, agents see that an entry has changed.
    raised = second.revision_number - first.revision_number
    assert raised > 0, f"the update of {field} raised the revision number by {raised}"
    assert second.created_at == first.created_at, f"the update of {field} changed created_at"


@requirement("SERVER-14")
def test_similar_entry_is_not_created(entries: Entries) -> None:
    """A second entry with the SPIFFE ID, parent and selectors of another is not created."""
    entry = {
        "spiffe_id": _id("similar"),
        "parent_id": _id("similar-parent"),
        "selectors": _selectors("similar-1", "similar-2"),
    }
    with entries.created(entry) as [entry_id]:
        again = entries.create({**entry, "hint": "another"})
        more = {**entry, "selectors": [*entry["selectors"], *_selectors("similar-3")]}
        with entries.created(more):
            found = entries.listed({"by_spiffe_id": entry["spiffe_id"]}, 0)
        if again.status.code == OK:
            entries.ask("BatchDeleteEntry", ids=[again.entry.id])

    assert again.status.code == ALREADY_EXISTS, f"the second entry gets {again.status.code}"
    assert again.entry.id == entry_id, f"the second entry gets the ID {again.entry.id}"
    # A control: one with further selectors is another entry.
    assert found == Counter({"/similar": 2}), f"the server lists {dict(found)}"


@requirement("SERVER-14")
def test_entry_of_an_unknown_partner_is_refused(entries: Entries) -> None:
    """An entry that federates with a trust domain without a bundle is not created."""
    entry = {
        "spiffe_id": _id("federates-with-an-unknown-domain"),
        "parent_id": _id("listed-parent"),
        "selectors": _selectors("unknown-partner"),
        "federates_with": ["unknown-partner.example"],
    }
    result = entries.create(entry)
    found = entries.listed({"by_spiffe_id": entry["spiffe_id"]}, 0)
    if result.status.code == OK:
        entries.ask("BatchDeleteEntry", ids=[result.entry.id])
    with entries.created({**entry, "federates_with": []}):
        control = entries.listed({"by_spiffe_id": entry["spiffe_id"]}, 0)

    assert result.status.code != OK, "an entry that federates with an unknown domain is created"
    assert not found, f"the server lists the refused entry: {dict(found)}"
    assert control, "the same entry without a partner is not listed"


@requirement("SERVER-14")
def test_bundle_in_use_is_not_deleted(
    server_api: Testbed, entries: Entries, partners: tuple[str, ...]
) -> None:
    """A bundle with which an entry federates is not deleted in mode restrict."""
    used = partners[0]
    entry = {
        "spiffe_id": _id("uses-a-bundle"),
        "parent_id": _id("listed-parent"),
        "selectors": _selectors("uses-a-bundle"),
        "federates_with": [used],
    }
    with entries.created(entry) as [entry_id]:
        refused = _is_refused(server_api, used)
        federates = list(entries.ask("GetEntry", id=entry_id).federates_with)
        stored = set(server_api.spire.federated_bundles())
        if used not in stored:
            server_api.spire.set_federated_bundle(used, server_api.spire.bundle())

    assert used in stored, "the bundle with which an entry federates is deleted"
    assert federates == [used], f"the entry federates with {federates} afterwards"
    assert refused, "the deletion of a bundle in use is not refused"


def _is_refused(testbed: Testbed, partner: str) -> bool:
    with contextlib.suppress(PlatformError):
        testbed.spire.delete_federated_bundle(partner, "restrict")
        return False
    return True


def _content(now: int, side: int) -> Fields:
    """The entry before (0) or after (1) all changes."""
    fields: Fields = {name: sides[side] for name, sides in CHANGES.items()}
    return {**fields, "expires_at": now + fields["expires_at"]}


def _read(entry: Any, wanted: Fields) -> dict[str, bool]:  # noqa: ANN401  a message
    """Whether each field of a stored entry is as in another."""
    asked = type(entry)(**wanted)
    return {name: _plain(entry, name) == _plain(asked, name) for name in CHANGES}


def _plain(entry: Any, name: str) -> object:  # noqa: ANN401  a message
    value = getattr(entry, name)
    if name == "selectors":  # in any order
        return sorted((selector.type, selector.value) for selector in value)
    return list(value) if name in {"federates_with", "dns_names"} else value
