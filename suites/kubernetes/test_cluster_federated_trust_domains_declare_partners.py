"""ClusterFederatedTrustDomains declare the federation relationships of SPIRE server."""

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pytest

from svidproof import (
    GC_INTERVAL_S,
    Capability,
    Declared,
    ExtraWorkload,
    Measure,
    NotYet,
    OwnPartner,
    PlatformError,
    Relationship,
    Testbed,
    Timestamp,
    bundle_bound,
    needs,
    reconcile_bound,
    requirement,
)
from svidproof.checks import await_reconciliations, entry_bound, within

pytestmark = needs(
    Capability.K8S_PSAT,
    Capability.OWN_SPIRE,
    Capability.SPIRE_LOGS,
    Capability.TOPOLOGIES,
    Capability.CONTROLLER_MANAGER,
    Capability.FEDERATED_TRUST_DOMAINS,
)
PROFILES = WEB, SPIFFE = ("https_web", "https_spiffe")
POD = "federated"
AT_SERVER_S = reconcile_bound(GC_INTERVAL_S)
RECONCILES = 3
UNAVAILABLE = 503
CREATED = "Created federation relationship"
# What is logged about endpoints that do not answer, relationships that end, objects that are
# invalid, entries that wait for a bundle, and pods that ask before they have an entry.
EXPECTED = (
    r"Error updating bundle|[Ff]ailed to|Ignoring invalid|[Ii]nvalid|unable to find"
    r"|No identity issued|[Ee]ntry not found|not found"
)
# Invalid fields of a ClusterFederatedTrustDomain.
BROKEN = [
    pytest.param({"bundleEndpointURL": "http://broken.example/"}, id="http"),
    pytest.param({"bundleEndpointProfile": {"type": SPIFFE}}, id="no-endpoint-id"),
    pytest.param({"trustDomainBundle": "{"}, id="bundle"),
]


class Replaced(AssertionError):  # noqa: N818  a verdict, not a programming error
    """A bundle was replaced by an older one."""


class Ignored(AssertionError):  # noqa: N818  a verdict, not a programming error
    """What an object declares has no effect."""


@pytest.fixture(autouse=True)
def _expected_errors(declared_partners: Testbed) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for component in declared_partners.spire_components:
            stack.enter_context(declared_partners.provoking(component, EXPECTED))
        yield


@requirement("CTRUSTDOMAIN-1")
@pytest.mark.parametrize("profile", PROFILES)
def test_relationship_is_what_is_declared(
    declared_partners: Testbed, profile: str, measure: Measure
) -> None:
    """The server has the declared endpoint and initial bundle, and fetches the next bundle."""
    testbed, partner = declared_partners, _partner(declared_partners, "declared", profile)
    # Nothing but the object has the first bundle.
    partner.serve_instead(status=UNAVAILABLE, body=b"")
    begin = Timestamp.now()

    with _declared(testbed, partner):
        _await_relationship(testbed, partner.relationship)
        passed = Timestamp.now().at - begin.at
        _assert_stored(testbed, partner, "initial")
        partner.add_jwt_key()
        partner.publish()
        testbed.spire.refresh_federated_bundle(partner.trust_domain)
        _assert_stored(testbed, partner, "next")

    measure(f"from a ClusterFederatedTrustDomain to its relationship, {profile}", passed, "s")


@requirement("CTRUSTDOMAIN-2")
def test_changed_url_is_fetched_from(declared_partners: Testbed) -> None:
    """After the URL changes, the server fetches the partner's bundle from the new endpoint."""
    testbed, partner = declared_partners, _partner(declared_partners, "moving", WEB)

    with _declared(testbed, partner) as declared:
        _await_relationship(testbed, partner.relationship)
        partner.add_jwt_key()
        partner.sequence += 1
        with contextlib.closing(partner.second_server()) as second:
            wanted = replace(partner.relationship, url=second.url)
            declared.change(**testbed.controller.endpoint_of(wanted))
            _await_relationship(testbed, wanted)
            testbed.spire.refresh_federated_bundle(partner.trust_domain)
            _assert_stored(testbed, partner, "new endpoint's")


@requirement("CTRUSTDOMAIN-2")
def test_changed_profile_is_fetched_by(declared_partners: Testbed) -> None:
    """After the profile changes to https_spiffe, the server authenticates the endpoint by SVID."""
    testbed, partner = declared_partners, _partner(declared_partners, "changing", WEB)

    with _declared(testbed, partner) as declared:
        _await_relationship(testbed, partner.relationship)
        partner.profile = SPIFFE
        partner.add_jwt_key()
        partner.publish()
        declared.change(**testbed.controller.endpoint_of(partner.relationship))
        _await_relationship(testbed, partner.relationship)
        testbed.spire.refresh_federated_bundle(partner.trust_domain)
        _assert_stored(testbed, partner, "next")


@requirement("CTRUSTDOMAIN-2")
def test_changed_endpoint_id_is_required(declared_partners: Testbed) -> None:
    """After the endpoint's SPIFFE ID changes, the server accepts the endpoint by the new one."""
    testbed, partner = declared_partners, _partner(declared_partners, "renamed", SPIFFE)
    first = replace(partner.relationship, endpoint_id=f"{partner.endpoint_id}/former")

    with _declared(testbed, partner, **testbed.controller.endpoint_of(first)) as declared:
        _await_relationship(testbed, first)
        partner.add_jwt_key()
        partner.publish()
        with pytest.raises(PlatformError):
            testbed.spire.refresh_federated_bundle(partner.trust_domain)
        declared.change(**testbed.controller.endpoint_of(partner.relationship))
        _await_relationship(testbed, partner.relationship)
        testbed.spire.refresh_federated_bundle(partner.trust_domain)
        _assert_stored(testbed, partner, "next")


@requirement("CTRUSTDOMAIN-3")
def test_deleted_object_ends_the_relationship(declared_partners: Testbed, measure: Measure) -> None:
    """The server no longer has the relationship nor fetches the bundle; others stay."""
    testbed = declared_partners
    partner, other = (_partner(testbed, name, WEB) for name in ("leaving", "staying"))

    with _declared(testbed, other), _declared(testbed, partner) as declared:
        for each in (partner, other):
            _await_relationship(testbed, each.relationship)
        begin = Timestamp.now()
        declared.delete()
        _await_gone(testbed, partner)
        passed = Timestamp.now().at - begin.at
        left = testbed.spire.listed_relationships()
        partner.add_jwt_key()
        partner.publish()
        with pytest.raises(PlatformError):
            testbed.spire.refresh_federated_bundle(partner.trust_domain)
        stored = testbed.spire.federated_bundle(partner.trust_domain)

    held = stored.jwt_key_ids if stored else frozenset()
    assert partner.key_ids[-1] not in held, "the server fetched the bundle of a former partner"
    _assert_same(left.get(other.trust_domain), other.relationship)
    measure("from a deleted ClusterFederatedTrustDomain to the relationship's end", passed, "s")


@requirement("CTRUSTDOMAIN-4")
@pytest.mark.parametrize("first", ["trust-domain", "identity"])
def test_pod_gets_the_bundle(declared_partners: Testbed, first: str, measure: Measure) -> None:
    """A pod whose ClusterSPIFFEID federates with the partner gets its bundle and its next bundle.

    Either of the two objects can be created first.
    """
    testbed, partner = declared_partners, _partner(declared_partners, f"{first}-first", WEB)
    own = testbed.controller.spiffe_id(POD)
    objects = {
        "trust-domain": _declared(testbed, partner),
        "identity": testbed.controller.identify(
            POD, like=POD, federates_with=[partner.trust_domain]
        ),
    }
    # The entry is created by the first reconciliation after the bundle is stored.
    bound = 2 * AT_SERVER_S + entry_bound(testbed)

    with _pod(testbed) as pod, contextlib.ExitStack() as stack:
        pod.await_refusal()
        begin = Timestamp.now()
        for name in sorted(objects, key=lambda name: name != first):
            stack.enter_context(objects[name])
        late = within(testbed, "the bundle", lambda: _assert_given(pod, own, partner), bound)
        assert not late, late
        passed = Timestamp.now().at - begin.at
        partner.renew_authority()
        partner.publish()
        testbed.spire.refresh_federated_bundle(partner.trust_domain)
        next_bound = bundle_bound(testbed.settings.timing.sync_s)
        late = within(
            testbed, "the next bundle", lambda: _assert_given(pod, own, partner), next_bound
        )
        assert not late, late

    measure(f"from a declared partner to its bundle in a pod, {first} first", passed, "s")


@requirement("CTRUSTDOMAIN-5")
def test_deleted_relationship_is_made_again(declared_partners: Testbed) -> None:
    """A relationship that is deleted at the server is created again."""
    testbed, partner = declared_partners, _partner(declared_partners, "restored", WEB)

    with _declared(testbed, partner):
        _await_relationship(testbed, partner.relationship)
        since = Timestamp.now()
        testbed.spire.delete_relationship(partner.trust_domain)
        _await_relationship(testbed, partner.relationship)
        messages = [r.message for r in testbed.logs(testbed.controller.component, since)]

    assert CREATED in messages, "the controller manager created none: this proves nothing"


@requirement("CTRUSTDOMAIN-5")
def test_undeclared_relationship_is_removed(declared_partners: Testbed) -> None:
    """A relationship that no object declares is deleted, and a declared one stays."""
    testbed = declared_partners
    declared, undeclared = (_partner(testbed, name, WEB) for name in ("kept", "undeclared"))

    with _declared(testbed, declared):
        _await_relationship(testbed, declared.relationship)
        testbed.spire.create_relationships([undeclared.relationship])
        _await_gone(testbed, undeclared)
        left = testbed.spire.listed_relationships()

    _assert_same(left.get(declared.trust_domain), declared.relationship)


@requirement("CTRUSTDOMAIN-6")
@pytest.mark.parametrize("spec", BROKEN)
def test_broken_object_harms_no_other(
    declared_partners: Testbed, spec: Mapping[str, Any], request: pytest.FixtureRequest
) -> None:
    """An invalid object does not block another, and gets its relationship once it is corrected."""
    testbed, row = declared_partners, request.node.callspec.id
    broken, good = (_partner(testbed, f"{row}-{name}", WEB) for name in ("broken", "good"))

    with _declared(testbed, broken, **spec) as declared:
        with _declared(testbed, good):
            _await_relationship(testbed, good.relationship)
            relationships = testbed.spire.relationships()
        document = broken.document().decode()
        correct = testbed.controller.endpoint_of(broken.relationship)
        declared.change(trustDomainBundle=document, **correct)
        _await_relationship(testbed, broken.relationship)

    assert broken.trust_domain not in relationships, "an invalid object made a relationship"


@requirement("CTRUSTDOMAIN-7")
@pytest.mark.parametrize("class_name", [pytest.param("another", id="another-class"), None])
def test_object_of_another_class_is_left_alone(
    declared_partners: Testbed, class_name: str | None
) -> None:
    """A ClusterFederatedTrustDomain of another class, or of none, makes no relationship."""
    testbed = declared_partners
    row = class_name or "no"
    other, own = (_partner(testbed, f"{row}-class-{name}", WEB) for name in ("other", "own"))
    since = Timestamp.now()

    with _declared(testbed, other, className=class_name), _declared(testbed, own):
        _await_relationship(testbed, own.relationship)
        await_reconciliations(testbed, since, RECONCILES)
        relationships = testbed.spire.relationships()

    assert other.trust_domain not in relationships, f"class {class_name}: it made a relationship"


@requirement("CTRUSTDOMAIN-8")
def test_changed_endpoint_keeps_the_newer_bundle(declared_partners: Testbed) -> None:
    """After the URL changes, the server still stores the bundle that it fetched last."""
    testbed, partner = declared_partners, _partner(declared_partners, "ageing", WEB)
    initial = partner.key_ids[0]

    with _declared(testbed, partner) as declared:
        _await_relationship(testbed, partner.relationship)
        partner.add_jwt_key()
        partner.publish()
        testbed.spire.refresh_federated_bundle(partner.trust_domain)
        _assert_stored(testbed, partner, "next")
        with contextlib.closing(partner.second_server(status=UNAVAILABLE, body=b"")) as second:
            wanted = replace(partner.relationship, url=second.url)
            declared.change(**testbed.controller.endpoint_of(wanted))
            _await_relationship(testbed, wanted)
            held = testbed.spire.federated_bundle(partner.trust_domain)

    keys = held.jwt_key_ids if held else frozenset()
    if keys == {initial}:
        raise Replaced(f"the server stores {sorted(keys)}, the object's bundle, not a newer one")
    assert keys == frozenset(partner.key_ids), f"the server stores {sorted(keys)} of the partner"


@requirement("CTRUSTDOMAIN-9")
def test_changed_bundle_is_stored(declared_partners: Testbed) -> None:
    """After trustDomainBundle changes, the server stores it, though it can fetch none."""
    testbed, partner = declared_partners, _partner(declared_partners, "restarting", SPIFFE)

    with _declared(testbed, partner) as declared:
        _await_relationship(testbed, partner.relationship)
        _assert_stored(testbed, partner, "initial")
        # The partner lost its keys: its endpoint presents an SVID of a CA that nobody knows.
        partner.renew_authority()
        partner.publish()
        declared.change(trustDomainBundle=partner.document().decode())
        await_reconciliations(testbed, Timestamp.now(), RECONCILES)
        held = testbed.spire.federated_bundle(partner.trust_domain)

    roots = held.roots if held else frozenset()
    if partner.root not in roots:
        raise Ignored("the server does not store the new root of trustDomainBundle")


def _partner(testbed: Testbed, name: str, profile: str) -> OwnPartner:
    return testbed.partners.make(f"{name}-{profile.replace('_', '-')}.example", profile)


def _declared(
    testbed: Testbed, partner: OwnPartner, **spec: object
) -> AbstractContextManager[Declared]:
    """A ClusterFederatedTrustDomain with a partner's bundle; `spec` are fields that differ."""
    relationship = replace(partner.relationship, bundle=partner.document())
    return testbed.controller.declare_relationship(partner.trust_domain, relationship, **spec)


def _pod(testbed: Testbed) -> AbstractContextManager[ExtraWorkload]:
    return testbed.extra_workload(POD)


def _await_relationship(testbed: Testbed, wanted: Relationship) -> None:
    def there() -> None:
        listed = testbed.spire.listed_relationships()
        _assert_same(listed.get(wanted.trust_domain), wanted)

    late = within(testbed, "the declared relationship", there, AT_SERVER_S)
    assert not late, late


def _assert_same(found: Relationship | None, wanted: Relationship) -> None:
    if found != replace(wanted, bundle=b""):
        raise NotYet(f"the relationship with {wanted.trust_domain} is {found}")


def _await_gone(testbed: Testbed, partner: OwnPartner) -> None:
    def gone() -> None:
        if partner.trust_domain in testbed.spire.relationships():
            raise NotYet(f"the relationship with {partner.trust_domain} is still there")

    late = within(testbed, "the removal of the relationship", gone, AT_SERVER_S)
    assert not late, late


def _assert_stored(testbed: Testbed, partner: OwnPartner, which: str) -> None:
    held = testbed.spire.federated_bundle(partner.trust_domain)
    found = (held.roots, held.jwt_key_ids) if held else None
    wanted = frozenset({partner.root}), frozenset(partner.key_ids)
    keys = sorted(held.jwt_key_ids) if held else "nothing"
    assert found == wanted, f"the server stores {keys} of the partner, not the {which} bundle"


def _assert_given(pod: ExtraWorkload, own: str, partner: OwnPartner) -> None:
    """Raise NotYet unless a pod has its SVID and the bundle of exactly this partner."""
    answer = pod.ask()
    wanted = {f"spiffe://{partner.trust_domain}": (partner.root,)}
    if answer.ids != [own] or dict(answer.foreign) != wanted:
        got = {uri: [root.serial_number for root in roots] for uri, roots in answer.foreign.items()}
        raise NotYet(f"{pod.name} got {answer}, and of other trust domains {got}")
