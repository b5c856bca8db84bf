"""Entries that are out of the ordinary: two for one process, changed ones, a TTL of ten years."""

from collections.abc import Callable

import pytest

from svidproof import Capability, Testbed, budgets, eventually, needs, requirement
from svidproof.checks import assert_none_of_ours, assert_own
from svidproof.credentials import signer_in
from svidproof.faults import only
from svidproof.scenario import PROBER
from svidproof.sds import fetch_secrets
from svidproof.watch.timeline import spiffe_ids
from svidproof.workload_api import Answer, X509Stream, fetch_x509, last_of

# Their requests would be told from Envoy's by nothing in the agent's log.
pytestmark = pytest.mark.usefixtures("after_everything")
DENIED = r"No identity issued|Workload attestation failed"
FOREIGN = {"type": "unix", "value": "gid:4294967294"}
TEN_YEARS = 10 * 365 * 24 * 3600


@requirement("WLAPI-5")
# A server that is shared has the run's mark as the hint of all its entries.
@needs(Capability.UNREGISTERED_PROCESS, Capability.OWN_SPIRE)
def test_two_entries_are_two_svids(api: Testbed) -> None:
    """A process that two entries match gets two SVIDs, with a key and a hint each, by SDS too."""
    target, selectors = api.prober.workload_api(), api.prober.selectors
    wanted = {api.scenario.spiffe_id(name): name for name in ("inside", "outside")}

    with (
        api.provoking(api.prober.agent.component, DENIED),
        api.registered("inside", selectors, hint="inside"),
        api.registered("outside", selectors, hint="outside"),
    ):
        answer = _await(
            target, f"SVIDs {wanted}", lambda a: {s.spiffe_id: s.hint for s in a.svids} == wanted
        )
        by_sds = {name: fetch_secrets(target, name) for name in wanted}

    assert len(answer.svids) == len(wanted), f"got {answer}"
    for svid in answer.svids:
        assert not svid.flaws(), svid.flaws()[0]
        assert spiffe_ids(svid.chain[0]) == [svid.spiffe_id], f"{svid.spiffe_id}: another's SVID"
    assert len({svid.key_der for svid in answer.svids}) == len(wanted), "two SVIDs, one key"
    for name, secret in by_sds.items():
        assert secret.names == (name,), f"SDS answers {secret} when asked for {name}"


@requirement("WLAPI-4")
def test_changed_selectors_take_identity(api: Testbed) -> None:
    """A process loses its identity, and its stream, when its entry asks for one selector more."""
    target, foreign = api.prober.workload_api(), api.foreign(PROBER)
    late, limit, answers = api.scenario.spiffe_id("late"), budgets.REGISTRATION, list[Answer]()
    parts = (selector.split(":", 1) for selector in api.prober.selectors)
    own = [{"type": kind, "value": value} for kind, value in parts]

    with (
        api.provoking(api.prober.agent.component, DENIED),
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
    """An SVID of an entry with a TTL of ten years ends with the certificate that signed it."""
    target, foreign = api.prober.workload_api(), api.foreign(PROBER)
    wanted = api.scenario.spiffe_id("long-lived")

    with (
        api.provoking(api.prober.agent.component, DENIED),
        api.registered("long-lived", api.prober.selectors, ttl=TEN_YEARS),
    ):
        answer = _await(target, wanted, lambda a: foreign.apart_from(a.ids) == [wanted])

    svid = only((svid for svid in answer.svids if svid.spiffe_id == wanted), "SVID")
    leaf, *above = svid.chain
    root = signer_in(svid.bundle, svid.chain[-1])
    assert root is not None, "the chain does not lead to the bundle"
    ends = min(c.not_valid_after_utc for c in (*above, root))
    assert leaf.not_valid_after_utc <= ends, (
        f"the SVID ends {leaf.not_valid_after_utc}, its signer {ends}"
    )


def _await(target: str, wanted: str, sound: Callable[[Answer], bool]) -> Answer:
    """Ask until the answer is sound; raises Overdue with what was wanted and the last one."""

    def answered() -> Answer:
        answer = fetch_x509(target)
        got = {s.spiffe_id: s.hint for s in answer.svids} or answer
        assert sound(answer), f"expected {wanted}; got {got}"
        return answer

    return eventually(answered, budgets.REGISTRATION)
