"""What the Workload API must do for processes with several identities, and must never do."""

import time
from collections.abc import Callable, Iterator

import grpc
import pytest
from cryptography import x509

from svidproof import (
    Capability,
    NotYet,
    Saw,
    Testbed,
    budgets,
    eventually,
    needs,
    requirement,
    spiffe_ids,
)
from svidproof.checks import Accepted, tokens
from svidproof.probes import (
    ABSENT,
    TokenIssuer,
    X509Answer,
    X509Stream,
    call_method,
    extensions_of,
    fetch_bundles,
    fetch_x509,
    jwt,
    last_of,
    reflection,
)

pytestmark = needs(Capability.UNREGISTERED_PROCESS, Capability.OWN_SPIRE)
SERVICE = "SpiffeWorkloadAPI"
METHODS = {
    "FetchX509SVID", "FetchX509Bundles", "FetchJWTSVID", "FetchJWTBundles", "ValidateJWTSVID",
}  # fmt: skip
# Of the incubating WIT-SVID profile, which SPIRE before 1.15 does not know.
WIT_METHODS = {"FetchWITSVID", "FetchWITBundles"}
AT_ONCE = 1.0  # seconds for an answer from the agent's cache
# Bytes of the longest SPIFFE ID that must be supported (SPIFFE-ID 2.3).
LONGEST_ID = 2048
SEGMENT = 200


@requirement("SPEC-6")
def test_service_has_exactly_its_methods(verifier: tokens.Verifier, saw: Saw) -> None:
    """The Workload API has exactly the methods of the standard, as gRPC's reflection shows."""
    found = reflection.methods_of(verifier.target, SERVICE)

    known = METHODS | (set(found) & WIT_METHODS)
    assert set(found) == known, f"the service has the methods {sorted(found)}"
    saw(f"{len(found)} methods")


@requirement("SPEC-6")
@pytest.mark.parametrize("method", sorted(WIT_METHODS))
def test_unsupported_profile_is_unimplemented(verifier: tokens.Verifier, method: str) -> None:
    """A call of the WIT-SVID profile, which is not supported, gets Unimplemented."""
    answer = call_method(verifier.target, method)

    assert answer.code is grpc.StatusCode.UNIMPLEMENTED, f"expected Unimplemented: {answer}"


@pytest.fixture
def colleague(spec: Testbed, verifier: tokens.Verifier) -> Iterator[str]:
    """A second identity of the same process; yields its entry's ID."""
    with spec.registered("colleague", spec.prober.selectors) as entry:
        ids = {verifier.spiffe_id, spec.scenario.spiffe_id("colleague")}
        eventually(lambda: _assert_ids(fetch_x509(verifier.target), ids), budgets.REGISTRATION)
        yield entry


def _assert_ids(answer: X509Answer, ids: set[str]) -> None:
    if set(answer.ids) != ids:
        raise NotYet(f"SVIDs of {sorted(answer.ids)}, not of {sorted(ids)}")


@requirement("SPEC-7")
def test_message_after_a_change_is_complete(
    spec: Testbed, verifier: tokens.Verifier, colleague: str
) -> None:
    """After one identity changes, the next message has every SVID and every bundle."""
    answers = list[X509Answer]()
    stream = X509Stream(verifier.target, answers.append)
    try:
        before = eventually(lambda: last_of(answers), budgets.WORKLOAD_API)
        spec.registration.change(colleague, dns_names=["colleague.example.org"])

        def renewed() -> X509Answer:
            answer = last_of(answers)
            if answer is before:
                raise NotYet("no further message has come")
            return answer

        after = eventually(renewed, budgets.REGISTRATION)
    finally:
        stream.close()

    assert sorted(after.ids) == sorted(before.ids), f"SVIDs of {after.ids}, not of {before.ids}"
    assert set(after.federated) == verifier.federated, f"federated bundles of {after.federated}"
    for svid in after.svids:
        assert spiffe_ids(svid.chain[0]) == [svid.spiffe_id], f"the leaf of {svid.spiffe_id}"
        assert not svid.flaws(), svid.flaws()[0]


@requirement("SPEC-7")
def test_bundle_streams_answer_at_once(verifier: tokens.Verifier, saw: Saw) -> None:
    """The first message of each bundle stream comes immediately, with every trust domain."""
    wanted = {verifier.trust_domain, *verifier.federated}
    took = {}
    calls: dict[str, Callable[[], set[str]]] = {
        "FetchX509Bundles": lambda: set(fetch_bundles(verifier.target).authorities),
        "FetchJWTBundles": lambda: set(jwt.bundles(verifier.target).bundles),
    }
    for name, fetch in calls.items():
        begin = time.monotonic()
        found = fetch()
        took[name] = time.monotonic() - begin
        assert found == wanted, f"{name} has bundles of {sorted(found)}"

    late = [name for name, seconds in took.items() if seconds > AT_ONCE]
    assert not late, f"{late[0]} took {took[late[0]]:.2f} s"
    saw(f"at most {max(took.values()) * 1000:.0f} ms")


@requirement("SPEC-8")
def test_longest_spiffe_id_is_served(spec: Testbed, verifier: tokens.Verifier, saw: Saw) -> None:
    """A SPIFFE ID of 2048 bytes is registered, and gets an X.509-SVID and a JWT-SVID."""
    start = spec.scenario.spiffe_id("long")
    path = "long"
    while (left := LONGEST_ID - len(start) - len(path) + len("long")) > 0:
        path += f"/{'x' * min(SEGMENT, left - 1)}" if left > 1 else "x"
    wanted, audience = spec.scenario.spiffe_id(path), tokens.new_audience()
    assert len(wanted) == LONGEST_ID, f"the ID has {len(wanted)} bytes"

    with spec.registered(path, spec.prober.selectors):
        served = {verifier.spiffe_id, wanted}
        eventually(lambda: _assert_ids(fetch_x509(verifier.target), served), budgets.REGISTRATION)
        svid = fetch_x509(verifier.target).of(wanted)
        token = verifier.token(audience, spiffe_id=wanted)
        validated = jwt.validate(verifier.target, token, audience)

    assert svid is not None, "there is no SVID"
    assert spiffe_ids(svid.chain[0]) == [wanted], "the certificate has another ID"
    tokens.assert_validated(validated, wanted)
    saw(f"{LONGEST_ID} bytes")


@requirement("SPEC-9")
def test_token_without_key_id_is_accepted(verifier: tokens.Verifier) -> None:
    """A valid token without a key ID is accepted: the key ID is optional."""
    wanted = verifier.wanted()
    token = wanted.token(header={"kid": ABSENT})
    control = jwt.validate(verifier.target, wanted.token(), wanted.audience)
    tokens.assert_validated(control, wanted.subject)

    answer = jwt.validate(verifier.target, token, wanted.audience)

    tokens.assert_validated(answer, wanted.subject)


@requirement("SPEC-10")
@pytest.mark.parametrize("missing", ["audience", "svid"])
def test_incomplete_validation_request_is_invalid(verifier: tokens.Verifier, missing: str) -> None:
    """A ValidateJWTSVID request without an audience or without a token gets InvalidArgument."""
    wanted = verifier.wanted()
    token, audience = wanted.token(), wanted.audience
    control = jwt.validate(verifier.target, token, audience)

    asked = {"audience": (token, ""), "svid": ("", audience)}[missing]
    answer = jwt.validate(verifier.target, *asked)

    tokens.assert_validated(control, wanted.subject)
    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT, f"expected InvalidArgument: {answer}"


@requirement("SPEC-11")
def test_signing_certificates_only_sign(verifier: tokens.Verifier) -> None:
    """A signing certificate has none of the key usages that are for leaf certificates."""
    svid = tokens.own_x509_svid(verifier)
    signers = {*svid.chain[1:], *svid.bundle}

    assert signers, "there is no signing certificate"
    for signer in signers:
        usage = next(e.value for e in extensions_of(signer) if isinstance(e.value, x509.KeyUsage))
        leafs = {
            "digitalSignature": usage.digital_signature,
            "keyEncipherment": usage.key_encipherment,
            "keyAgreement": usage.key_agreement,
        }
        found = [name for name, is_set in leafs.items() if is_set]
        assert not found, f"{signer.subject.rfc4514_string()} sets {', '.join(found)}"


@requirement("SPEC-11")
def test_signing_certificates_have_the_trust_domains_id(
    spec: Testbed, verifier: tokens.Verifier
) -> None:
    """A signing certificate of SPIRE carries the SPIFFE ID of its trust domain."""
    svid = tokens.own_x509_svid(verifier)

    for signer in (*svid.chain[1:], *svid.bundle):
        found = spiffe_ids(signer)
        assert found == [f"spiffe://{spec.scenario.trust_domain}"], f"a signer is {found}"


@requirement("SPEC-12")
def test_deleted_bundle_ends_trust(spec: Testbed, verifier: tokens.Verifier, saw: Saw) -> None:
    """When the bundle of a federated trust domain is deleted, its tokens are no longer accepted."""
    former = TokenIssuer("former.example")
    domain, audience = f"spiffe://{former.trust_domain}", tokens.new_audience()
    token = former.token(former.spiffe_id("workload"), [audience])
    spec.spire.set_federated_document(former.trust_domain, former.bundle())
    selectors, partners = spec.prober.selectors, [former.trust_domain]
    with spec.registered("partner", selectors, federates_with=partners):

        def has(*, wanted: bool) -> None:
            held = set(jwt.bundles(verifier.target).bundles)
            roots = set(fetch_bundles(verifier.target).authorities)
            if (domain in held, domain in roots) != (wanted, wanted):
                raise NotYet(f"bundles of {sorted(held)} and {sorted(roots)}")

        eventually(lambda: has(wanted=True), budgets.REGISTRATION)
        control = jwt.validate(verifier.target, token, audience)

        spec.spire.delete_federated_bundle(former.trust_domain)

        eventually(lambda: has(wanted=False), budgets.REGISTRATION)
        answer = jwt.validate(verifier.target, token, audience)
    tokens.assert_validated(control, former.spiffe_id("workload"))
    if answer.code is grpc.StatusCode.OK:
        raise Accepted(f"a token of a former partner was accepted, of {answer.spiffe_id}")
    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT, f"expected InvalidArgument: {answer}"
    saw(answer.details)
