"""SPIRE server federates only with bundle endpoints that are configured and verified."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from svidproof import (
    Capability,
    OwnPartner,
    PlatformError,
    Relationship,
    Saw,
    Testbed,
    needs,
    requirement,
)
from svidproof.checks import Accepted
from svidproof.probes import Version, tls_settings

pytestmark = needs(Capability.OWN_SPIRE, Capability.TOPOLOGIES)
WEB, SPIFFE = "https_web", "https_spiffe"
Change = Callable[[Relationship], Relationship]


class NotFetched(AssertionError):  # noqa: N818  a verdict, not a programming error
    """Raised if SPIRE server does not fetch a bundle that it must fetch."""


@pytest.fixture
def partner(spec: Testbed, request: pytest.FixtureRequest) -> Iterator[OwnPartner]:
    """A trust domain of the suite's own, which nothing else federates with."""
    profile = getattr(request, "param", WEB)
    made = spec.partners.make(f"{_label(request.node.name)}.example", profile)
    yield made
    _forget(spec, made)


@pytest.fixture
def host(spec: Testbed, request: pytest.FixtureRequest) -> Iterator[OwnPartner]:
    """Another one, whose SPIFFE ID the first one's endpoint can have."""
    made = spec.partners.make(f"{_label(request.node.name)}-host.example", SPIFFE)
    yield made
    _forget(spec, made)


def _label(name: str) -> str:
    """The name of a check as a part of a trust domain."""
    return re.sub(r"[^a-z0-9]+", "-", name.removeprefix("test_")).strip("-")[:50]


def _forget(spec: Testbed, partner: OwnPartner) -> None:
    name = partner.trust_domain
    if name in spec.spire.relationships():
        spec.spire.delete_relationship(name)
    if name in spec.spire.federated_bundles():
        spec.spire.delete_federated_bundle(name)
    partner.server.close()


def _refresh(spec: Testbed, partner: OwnPartner) -> str:
    """Have the server fetch a bundle; returns why it did not, empty if it did."""
    try:
        spec.spire.refresh_federated_bundle(partner.trust_domain)
    except PlatformError as error:
        return str(error)
    return ""


def _has(spec: Testbed, partner: OwnPartner) -> bool:
    """Whether the server stores the partner's newest JWT key, which only its endpoint serves."""
    held = spec.spire.federated_bundles().get(partner.trust_domain)
    return held is not None and partner.key_ids[-1] in held.jwt_key_ids


def _assert_fetched(spec: Testbed, partner: OwnPartner, what: str) -> None:
    if problem := _refresh(spec, partner):
        raise NotFetched(f"{what}: {problem}")
    assert _has(spec, partner), f"{what}: the server does not store the bundle"


def _assert_not_fetched(spec: Testbed, partner: OwnPartner, what: str) -> str:
    """Require that the server rejects the endpoint; returns the reason that it gives."""
    problem = _refresh(spec, partner)
    if not problem or _has(spec, partner):
        raise Accepted(f"a bundle was fetched {what}")
    return problem


@requirement("SPEC-17")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(lambda r: replace(r, trust_domain=""), "trust domain", id="no-trust-domain"),
        pytest.param(lambda r: replace(r, url=""), "(?i)URL", id="no-url"),
        pytest.param(lambda r: replace(r, profile=""), "(?i)profile", id="no-profile"),
        pytest.param(
            lambda r: replace(r, profile=SPIFFE), "(?i)SPIFFE ID", id="https-spiffe-without-id"
        ),
        pytest.param(
            lambda r: replace(r, url=r.url.replace("https", "http")), "https", id="http-url"
        ),
        pytest.param(
            lambda r: replace(r, url=r.url.replace("//", "//user@")), "(?i)user", id="user-info"
        ),
    ],
)
def test_incomplete_relationship_is_refused(
    spec: Testbed, partner: OwnPartner, change: Change, reason: str, saw: Saw
) -> None:
    """A relationship that lacks a part, or has a wrong URL, is rejected for that reason."""
    complete = partner.relationship
    before = spec.spire.relationships()

    try:
        spec.spire.create_relationships([change(complete)])
    except PlatformError as error:
        refusal = str(error)
    else:
        raise Accepted(f"the relationship {change(complete)} was accepted")

    assert re.search(reason, refusal), f"the reason is {refusal!r}"
    assert spec.spire.relationships() == before, "the refused relationship is listed"
    assert not partner.server.requests, "the server requested the bundle"
    # Control: URL, trust domain and profile are all that https_web needs.
    spec.spire.create_relationships([complete])
    _assert_fetched(spec, partner, "with URL, trust domain and https_web")
    saw(refusal)


@requirement("SPEC-18")
@pytest.mark.parametrize("partner", [SPIFFE], indirect=True)
def test_https_spiffe_needs_the_bundle(spec: Testbed, partner: OwnPartner, saw: Saw) -> None:
    """Without the bundle of its trust domain, an https_spiffe endpoint is rejected."""
    spec.spire.create_relationships([replace(partner.relationship, bundle=b"")])

    saw(_assert_not_fetched(spec, partner, "without the bundle of the endpoint's trust domain"))

    spec.spire.set_federated_bundle(partner.trust_domain, [partner.root])
    _assert_fetched(spec, partner, "with the bundle of the endpoint's trust domain")


def _hosted(partner: OwnPartner, host: OwnPartner) -> Relationship:
    """Serve the bundle at an endpoint with a SPIFFE ID of another trust domain."""
    partner.serve_instead(credential=host.svid("bundle-endpoint"))
    return Relationship(partner.trust_domain, partner.server.url, SPIFFE, host.endpoint_id)


@requirement("SPEC-18")
@pytest.mark.parametrize("partner", [SPIFFE], indirect=True)
def test_endpoint_elsewhere_needs_that_bundle(
    spec: Testbed, partner: OwnPartner, host: OwnPartner, saw: Saw
) -> None:
    """An endpoint in another trust domain is verified with the bundle of that trust domain only."""
    spec.spire.create_relationships([_hosted(partner, host)])
    spec.spire.set_federated_bundle(partner.trust_domain, [partner.root])

    saw(_assert_not_fetched(spec, partner, "without the bundle of the endpoint's trust domain"))

    spec.spire.set_federated_bundle(host.trust_domain, [host.root])
    _assert_fetched(spec, partner, "with the bundle of the endpoint's trust domain")


@requirement("SPEC-19")
@pytest.mark.parametrize("partner", [SPIFFE], indirect=True)
def test_newest_bundle_verifies_the_endpoint(spec: Testbed, partner: OwnPartner, saw: Saw) -> None:
    """After a change of its authority, an endpoint is verified with the newest bundle only."""
    spec.spire.create_relationships([partner.relationship])
    _assert_fetched(spec, partner, "with the first authority")
    first = partner.presented()
    partner.renew_authority()
    partner.add_jwt_key()
    partner.serve_instead(credential=first)
    _assert_fetched(spec, partner, "below the first authority")

    partner.add_jwt_key()
    partner.publish()
    _assert_fetched(spec, partner, "below the newest authority")
    partner.add_jwt_key()
    partner.serve_instead(credential=first)
    saw(_assert_not_fetched(spec, partner, "from an endpoint below a former authority"))

    partner.publish()
    _assert_fetched(spec, partner, "below the newest authority once more")


@requirement("SPEC-19")
@pytest.mark.parametrize("partner", [SPIFFE], indirect=True)
def test_newest_bundle_verifies_an_endpoint_elsewhere(
    spec: Testbed, partner: OwnPartner, host: OwnPartner, saw: Saw
) -> None:
    """An endpoint in another trust domain is verified with that one's newest bundle only."""
    spec.spire.set_federated_bundle(host.trust_domain, [host.root])
    spec.spire.create_relationships([_hosted(partner, host)])
    _assert_fetched(spec, partner, "below the first authority")
    first = host.svid("bundle-endpoint")
    host.renew_authority()
    spec.spire.set_federated_bundle(host.trust_domain, [host.root])

    partner.add_jwt_key()
    _hosted(partner, host)
    _assert_fetched(spec, partner, "below the newest authority")
    partner.add_jwt_key()
    partner.serve_instead(credential=first)
    saw(_assert_not_fetched(spec, partner, "from an endpoint below a former authority"))

    _hosted(partner, host)
    _assert_fetched(spec, partner, "below the newest authority once more")


@requirement("SPEC-20")
@pytest.mark.parametrize("version", ["TLS1_0", "TLS1_1"])
def test_former_tls_versions_are_refused(spec: Testbed, version: str) -> None:
    """The bundle endpoint refuses TLS 1.0 and 1.1, and accepts 1.2."""
    address = spec.spire.reached_endpoint
    control = tls_settings.negotiate(address, Version.TLS1_2, tls_settings.INTERMEDIATE)

    found = tls_settings.negotiate(address, Version[version])

    assert control, "the endpoint refuses TLS 1.2 with the suites that Mozilla recommends"
    if found:
        raise Accepted(f"the endpoint accepts {' '.join(found)}")


@requirement("SPEC-20")
def test_recommended_settings_are_accepted(spec: Testbed, saw: Saw) -> None:
    """The bundle endpoint accepts TLS 1.2 with suites that Mozilla recommends, and TLS 1.3."""
    address, found = spec.spire.reached_endpoint, []
    offers = {Version.TLS1_2: tls_settings.INTERMEDIATE, Version.TLS1_3: ()}
    for version, suites in offers.items():
        agreed = tls_settings.negotiate(address, version, suites)
        assert agreed, f"the endpoint refuses {version.name}"
        found.append(" ".join(agreed))
    saw(", ".join(found))


@requirement("SPEC-20")
def test_other_cipher_suites_are_refused(spec: Testbed) -> None:
    """The bundle endpoint refuses TLS 1.2 with any other cipher suite."""
    address = spec.spire.reached_endpoint
    others = tls_settings.suites() - tls_settings.INTERMEDIATE
    assert others, "this machine's OpenSSL offers no other cipher suite"

    found = tls_settings.negotiate(address, Version.TLS1_2, others)

    if found:
        raise Accepted(f"the endpoint accepts {' '.join(found)}")
