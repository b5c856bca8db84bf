"""A SPIRE server publishes its trust bundle at an endpoint that anybody can read and verify."""

import pytest

from svidproof import Saw, Testbed, requirement
from svidproof.probes import BundleDocument, bundle_endpoint, uri_of

HOME, PARTNER = "example.org", "partner.example"
# The profile of each server's own endpoint.
PROFILES = {HOME: "https_spiffe", PARTNER: "https_web"}
each_endpoint = pytest.mark.parametrize(
    "domain", [pytest.param(d, id=profile) for d, profile in PROFILES.items()]
)


def read(testbed: Testbed, domain: str) -> BundleDocument:
    """What the endpoint of a trust domain serves to a client without a certificate."""
    there = testbed.domain(domain)
    endpoint, by = there.spire.bundle_endpoint, there.spire.reached_endpoint
    if PROFILES[domain] == "https_spiffe":
        roots, spiffe_id = [there.root.certificate], endpoint.spiffe_id
        return bundle_endpoint.read(endpoint.url, roots=roots, spiffe_id=spiffe_id, by=by)
    return bundle_endpoint.read(endpoint.url, roots=[testbed.web_ca.certificate], by=by)


@requirement("FEDERATION-9")
@each_endpoint
def test_endpoint_is_verifiable(federation: Testbed, domain: str, saw: Saw) -> None:
    """It presents the server's SPIFFE ID (https_spiffe) or a web server's name (https_web)."""
    published = read(federation, domain)

    if PROFILES[domain] == "https_spiffe":
        assert uri_of(published.certificate) == f"spiffe://{domain}/spire/server"
    # Control: another CA does not verify it.
    server = federation.domain(domain).spire
    url, spiffe_id = server.bundle_endpoint.url, server.bundle_endpoint.spiffe_id
    roots, by = [federation.domain(PARTNER).root.certificate], server.reached_endpoint
    with pytest.raises(bundle_endpoint.UnverifiedError):
        bundle_endpoint.read(url, roots=roots, spiffe_id=spiffe_id, by=by)
    saw(f"{published.certificate.subject.rfc4514_string()}, {published.content_type}")


@requirement("FEDERATION-9")
@each_endpoint
def test_document_is_the_servers_bundle(federation: Testbed, domain: str, saw: Saw) -> None:
    """The document has exactly the server's keys, in the format of the standard."""
    server = federation.domain(domain).spire

    published = read(federation, domain)

    document = published.content
    by_use: dict[str, list[dict[str, object]]] = {}
    for entry in published.keys:
        by_use.setdefault(str(entry.get("use")), []).append(entry)
    assert set(by_use) == {"x509-svid", "jwt-svid"}, f"entries for {sorted(by_use)}"
    assert published.authorities == server.bundle(), "other X.509 authorities than the server's"
    with_kid = [entry for entry in by_use["x509-svid"] if "kid" in entry]
    assert not with_kid, f"an X.509 entry has the kid {with_kid[0]['kid']}"
    kids = {str(entry.get("kid")) for entry in by_use["jwt-svid"]}
    assert kids == set(server.jwt_keys()), f"the JWT keys {sorted(kids)}"
    assert isinstance(document["spiffe_sequence"], int), "spiffe_sequence is no integer"
    hint = document["spiffe_refresh_hint"]
    assert hint == server.refresh_hint_s, f"spiffe_refresh_hint is {hint!r}"
    saw(f"{len(document['keys'])} keys, sequence {document['spiffe_sequence']}, hint {hint} s")


@requirement("FEDERATION-10")
@pytest.mark.parametrize(
    ("domain", "other"),
    [pytest.param(HOME, PARTNER, id="https_web"), pytest.param(PARTNER, HOME, id="https_spiffe")],
)
def test_server_stores_what_the_partner_publishes(
    federation: Testbed, domain: str, other: str
) -> None:
    """A server stores exactly the keys and the refresh hint of its partner's endpoint."""
    partner = federation.domain(other)

    held = federation.domain(domain).spire.federated_bundles()

    assert set(held) == {other}, f"{domain} stores the bundles of {sorted(held)}"
    assert held[other].roots == {partner.root.certificate}, f"other authorities of {other}"
    kids = set(held[other].jwt_key_ids)
    assert kids == set(partner.spire.jwt_keys()), f"the JWT keys {sorted(kids)} of {other}"
    assert held[other].refresh_hint_s == partner.spire.refresh_hint_s, (
        f"the refresh hint of {other} is {held[other].refresh_hint_s} s"
    )
