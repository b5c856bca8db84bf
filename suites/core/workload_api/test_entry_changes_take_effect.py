"""Unusual entries take effect: two for one process, changed ones, one with a TTL of ten years."""

from collections.abc import Callable
from typing import Any

import pytest
from cryptography.x509 import DNSName, SubjectAlternativeName

from svidproof import (
    PROBER,
    Capability,
    Testbed,
    budgets,
    eventually,
    needs,
    only,
    requirement,
    spiffe_ids,
)
from svidproof.checks import NO_IDENTITY_LOGGED, assert_none_of_ours, assert_own
from svidproof.probes import (
    X509Answer,
    X509Stream,
    X509Svid,
    extensions_of,
    fetch_secrets,
    fetch_x509,
    last_of,
    signer_in,
)

FOREIGN = {"type": "unix", "value": "gid:4294967294"}
DNS_NAME = "named.example.org"
TEN_YEARS = 10 * 365 * 24 * 3600


@pytest.fixture
def api(unwatched_api: Testbed) -> Testbed:
    """A second testbed: nothing in an agent's log distinguishes these requests from Envoy's."""
    return unwatched_api


@requirement("WLAPI-5")
# On a shared server, the hint of all entries is the mark of the run.
@needs(Capability.UNREGISTERED_PROCESS, Capability.OWN_SPIRE)
def test_two_entries_are_two_svids(api: Testbed) -> None:
    """A process that matches two entries gets two SVIDs, each with its own key and hint."""
    target, selectors = api.prober.workload_api(), api.prober.selectors
    wanted = {api.scenario.spiffe_id(name): name for name in ("inside", "outside")}

    with (
        api.provoking(api.prober.agent.component, NO_IDENTITY_LOGGED),
        api.registered("inside", selectors, hint="inside"),
        api.registered("outside", selectors, hint="outside"),
    ):
        answer = _await(
            target, f"SVIDs {wanted}", lambda a: {s.spiffe_id: s.hint for s in a.svids} == wanted
        )
        by_sds = {name: fetch_secrets(target, name) for name in wanted}

    assert len(answer.svids) == len(wanted), f"expected {len(wanted)} SVIDs, got {answer}"
    for svid in answer.svids:
        assert not svid.flaws(), svid.flaws()[0]
        assert spiffe_ids(svid.chain[0]) == [svid.spiffe_id], (
            f"{svid.spiffe_id}: the SVID is for {spiffe_ids(svid.chain[0])}"
        )
    assert len({svid.key_der for svid in answer.svids}) == len(wanted), (
        "two SVIDs have the same key"
    )
    for name, secret in by_sds.items():
        assert secret.names == (name,), f"expected the secret {name} by SDS, got {secret}"


@requirement("WLAPI-4")
def test_added_selector_removes_identity(api: Testbed) -> None:
    """A process loses its identity and its stream when its entry gets a selector that it lacks."""
    target, foreign = api.prober.workload_api(), api.foreign(PROBER)
    late, limit, answers = api.scenario.spiffe_id("late"), budgets.REGISTRATION, list[X509Answer]()
    parts = (selector.split(":", 1) for selector in api.prober.selectors)
    own = [{"type": kind, "value": value} for kind, value in parts]

    with (
        api.provoking(api.prober.agent.component, NO_IDENTITY_LOGGED),
        api.registered("late", api.prober.selectors) as entry,
    ):
        eventually(lambda: assert_own(fetch_x509(target), late, foreign), limit)
        stream = X509Stream(target, answers.append)
        api.registration.change(entry, selectors=[*own, FOREIGN])
        eventually(lambda: assert_none_of_ours(fetch_x509(target), foreign), limit)
        eventually(lambda: assert_none_of_ours(last_of(answers), foreign), limit)
        stream.close()
        api.registration.change(entry, selectors=own)
        eventually(lambda: assert_own(fetch_x509(target), late, foreign), limit)


@requirement("IDENTITY-101")
def test_no_svid_outlives_its_signer(api: Testbed) -> None:
    """An SVID with a TTL of ten years expires no later than the certificates that signed it."""
    svid = _issued(api, "long-lived", ttl=TEN_YEARS)

    leaf, *above = svid.chain
    root = signer_in(svid.bundle, svid.chain[-1])
    assert root is not None, "the chain does not verify up to the bundle"
    expiry = min(c.not_valid_after_utc for c in (*above, root))
    assert leaf.not_valid_after_utc <= expiry, (
        f"the SVID expires {leaf.not_valid_after_utc}, its signer {expiry}"
    )


@requirement("IDENTITY-20")
def test_svid_with_dns_name_has_one_uri_san(api: Testbed) -> None:
    """An SVID with a DNS name has exactly one URI SAN too."""
    svid = _issued(api, "named", dns_names=[DNS_NAME])

    san = extensions_of(svid.chain[0]).get_extension_for_class(SubjectAlternativeName).value
    names = san.get_values_for_type(DNSName)
    assert names == [DNS_NAME], f"the SVID has the DNS names {names}, not {DNS_NAME}"
    uris = spiffe_ids(svid.chain[0])
    assert uris == [svid.spiffe_id], f"the SVID has the URI SANs {uris}, not one"


def _issued(api: Testbed, name: str, **fields: Any) -> X509Svid:  # noqa: ANN401  as in an entry
    """The SVID that the prober gets from an entry with these fields."""
    target, foreign = api.prober.workload_api(), api.foreign(PROBER)
    wanted = api.scenario.spiffe_id(name)
    with (
        api.provoking(api.prober.agent.component, NO_IDENTITY_LOGGED),
        api.registered(name, api.prober.selectors, **fields),
    ):
        answer = _await(target, wanted, lambda a: foreign.apart_from(a.ids) == [wanted])
    return only((svid for svid in answer.svids if svid.spiffe_id == wanted), "SVID")


def _await(target: str, wanted: str, complete: Callable[[X509Answer], bool]) -> X509Answer:
    """Fetch SVIDs until the answer is complete; raises TimedOut with the last answer."""

    def answered() -> X509Answer:
        answer = fetch_x509(target)
        got = {s.spiffe_id: s.hint for s in answer.svids} or answer
        assert complete(answer), f"expected {wanted}; got {got}"
        return answer

    return eventually(answered, budgets.REGISTRATION)
