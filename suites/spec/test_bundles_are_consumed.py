"""SPIRE server as a consumer of bundles: what it must ignore, and what it must not trust."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from svidproof import (
    Capability,
    NotYet,
    PlatformError,
    Saw,
    Testbed,
    budgets,
    eventually,
    needs,
    requirement,
)
from svidproof.checks import Accepted, tokens
from svidproof.probes import TokenIssuer, jwt

pytestmark = needs(Capability.UNREGISTERED_PROCESS, Capability.OWN_SPIRE, Capability.TOPOLOGIES)
LONGEST_DOMAIN = 255  # bytes
Bundle = dict[str, Any]


class NotStored(AssertionError):  # noqa: N818  a verdict, not a programming error
    """Raised if SPIRE server rejects a bundle that it must accept."""


@pytest.fixture(scope="module")
def publisher() -> TokenIssuer:
    """A trust domain of the suite's own."""
    return TokenIssuer("publisher.example")


def _minimal(bundle: Bundle) -> Bundle:
    """Only the keys: all other parameters are optional."""
    return {"keys": bundle["keys"]}


def _further(bundle: Bundle) -> Bundle:
    return {**bundle, "further": {"a": 1}, "keys": [{**k, "further": 1} for k in bundle["keys"]]}


def _with(**changes: object) -> Callable[[Bundle], Bundle]:
    """A further key: a copy of the first JWT key with changes; None removes a parameter."""

    def change(bundle: Bundle) -> Bundle:
        key = {**_jwt_key(bundle), "kid": "additional", **changes}
        more = {name: value for name, value in key.items() if value is not None}
        return {**bundle, "keys": [*bundle["keys"], more]}

    return change


def _with_certificates(number: int) -> Callable[[Bundle], Bundle]:
    """A further X.509 authority with a number of certificates other than one."""

    def change(bundle: Bundle) -> Bundle:
        key = copy.deepcopy(next(k for k in bundle["keys"] if k["use"] == "x509-svid"))
        key["x5c"] *= number
        return {**bundle, "keys": [*bundle["keys"], key]}

    return change


def _jwt_key(bundle: Bundle) -> dict[str, Any]:
    return next(key for key in bundle["keys"] if key["use"] == "jwt-svid")


@requirement("SPEC-13")
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_minimal, id="only-keys"),
        pytest.param(_further, id="further-parameters"),
        pytest.param(_with(use="other-svid"), id="unknown-use"),
        pytest.param(_with(use="JWT-SVID"), id="use-in-other-case"),
        pytest.param(_with(use=None), id="no-use"),
        pytest.param(_with(kty="UNKNOWN"), id="unknown-type"),
        pytest.param(_with_certificates(0), id="no-certificate"),
    ],
)
def test_bundle_with_a_key_to_ignore_is_stored(
    spec: Testbed, publisher: TokenIssuer, change: Callable[[Bundle], Bundle], saw: Saw
) -> None:
    """A key that must be ignored is ignored, and the others are kept."""
    bundle = publisher.bundle()

    try:
        spec.spire.set_federated_document(publisher.trust_domain, change(bundle))
    except PlatformError as error:
        raise NotStored(str(error)) from None

    held = spec.spire.federated_bundles()[publisher.trust_domain]
    wanted = {str(key["kid"]) for key in publisher.jwks}
    assert held.jwt_key_ids == wanted, f"the JWT keys {sorted(held.jwt_key_ids)} are stored"
    root = publisher.authority.certificate
    assert held.roots == {root}, f"{len(held.roots)} X.509 authorities are stored"
    spec.spire.delete_federated_bundle(publisher.trust_domain)
    saw(f"{len(wanted)} JWT keys, {len(held.roots)} X.509 authority")


@requirement("SPEC-13")
def test_only_the_first_certificate_is_used(spec: Testbed, publisher: TokenIssuer) -> None:
    """Of an X.509 authority with several certificates, only the first is used."""
    try:
        changed = _with_certificates(2)(publisher.bundle())
        spec.spire.set_federated_document(publisher.trust_domain, changed)
    except PlatformError as error:
        raise NotStored(str(error)) from None

    held = spec.spire.federated_bundles()[publisher.trust_domain]
    assert held.roots == {publisher.authority.certificate}, f"{len(held.roots)} are stored"
    spec.spire.delete_federated_bundle(publisher.trust_domain)


@pytest.fixture
def partner(spec: Testbed, verifier: tokens.Verifier) -> Iterator[TokenIssuer]:
    """A trust domain that the process federates with, in addition to the others."""
    issuer = TokenIssuer("emptied.example")
    spec.spire.set_federated_document(issuer.trust_domain, issuer.bundle())
    domains = [issuer.trust_domain]
    with spec.registered("emptied", spec.prober.selectors, federates_with=domains):
        eventually(lambda: _assert_keys(verifier, issuer, len(issuer.jwks)), budgets.REGISTRATION)
        yield issuer


def _assert_keys(verifier: tokens.Verifier, issuer: TokenIssuer, number: int) -> None:
    bundle = jwt.bundles(verifier.target).bundles.get(f"spiffe://{issuer.trust_domain}")
    if bundle is None or len(bundle.get("keys") or ()) != number:
        raise NotYet(f"the bundle is {bundle if bundle is None else bundle.get('keys')}")


@requirement("SPEC-14")
def test_trust_domain_without_keys_is_untrusted(
    spec: Testbed, verifier: tokens.Verifier, partner: TokenIssuer, saw: Saw
) -> None:
    """When the bundle of a trust domain has no keys left, its tokens are rejected."""
    audience = tokens.new_audience()
    token = partner.token(partner.spiffe_id("workload"), [audience])
    control = jwt.validate(verifier.target, token, audience)
    tokens.assert_validated(control, partner.spiffe_id("workload"))

    spec.spire.set_federated_document(partner.trust_domain, {"keys": []})

    eventually(lambda: _assert_keys(verifier, partner, 0), budgets.REGISTRATION)
    answer = jwt.validate(verifier.target, token, audience)
    if answer.code is grpc.StatusCode.OK:
        raise Accepted(f"a token of a trust domain without keys was accepted: {answer}")
    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT, f"expected InvalidArgument: {answer}"
    saw(answer.details)


@requirement("SPEC-15")
@pytest.mark.parametrize("length", [LONGEST_DOMAIN, LONGEST_DOMAIN + 1])
def test_trust_domain_has_at_most_255_bytes(
    spec: Testbed, publisher: TokenIssuer, length: int
) -> None:
    """A trust domain of 255 bytes is accepted, and a longer one is rejected."""
    name = ("a" * 63 + ".") * 4
    name = name.ljust(length, "b")[:length]

    try:
        spec.spire.set_federated_document(name, publisher.bundle())
    except PlatformError as error:
        if length <= LONGEST_DOMAIN:
            raise NotStored(str(error)) from None
        return
    spec.spire.delete_federated_bundle(name)
    if length > LONGEST_DOMAIN:
        raise Accepted(f"a trust domain of {length} bytes was accepted")


@requirement("SPEC-16")
def test_trust_domain_like_an_ip_address_works(ip_domain: Testbed, saw: Saw) -> None:
    """A trust domain that looks like an IP address works like any other."""
    saw(_assert_works(ip_domain))


@requirement("SPEC-16")
def test_trust_domain_unlike_dns_works(plain_domain: Testbed, saw: Saw) -> None:
    """A trust domain that could not be a DNS name works like any other."""
    saw(_assert_works(plain_domain))


def _assert_works(named: Testbed) -> str:
    """Require SVIDs of both kinds and the right bundles; returns the SPIFFE ID."""
    with tokens.verifying(named) as verifier:
        audience = tokens.new_audience()

        token = verifier.token(audience)
        answer = jwt.validate(verifier.target, token, audience)
        keys = {str(key["kid"]): jwt.public_key(key) for key in verifier.jwt_keys()}

        tokens.assert_validated(answer, f"spiffe://{named.scenario.trust_domain}/verifier")
        assert keys == named.spire.jwt_keys(), f"the JWT keys are {sorted(keys)}"
        svid = tokens.own_x509_svid(verifier)
        assert not svid.flaws(), svid.flaws()[0]
        assert set(svid.bundle) == set(named.spire.bundle()), "the bundle is another"
    return verifier.spiffe_id
