"""A pod gets an identity only if label, namespace and service account all match."""

import contextlib
import json
from collections.abc import Iterator

import pytest

from svidproof import Capability, NotYet, Saw, Testbed, budgets, eventually, needs, requirement
from svidproof.clock import Moment
from svidproof.faults import reading
from svidproof.guests import Guest

pytestmark = needs(Capability.K8S_PSAT, Capability.OWN_SPIRE, Capability.SPIRE_LOGS)
TWIN = "twin"
# In what each of those that come is not like the API.
DIFFERS = {
    TWIN: {},
    "label": {"label": "another"},
    "namespace": {"namespace": "another"},
    "service-account": {"service_account": "another"},
}
DENIED = r"No identity issued"


@pytest.fixture(scope="module")
def guests(api: Testbed) -> Iterator[dict[str, Guest]]:
    """A twin of the API, and for each thing one that is like it but for that."""
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(api.guest(f"api-{name}", like="api", but=but))
            for name, but in DIFFERS.items()
        }


@requirement("K8S-2")
@pytest.mark.parametrize("thing", [name for name in DIFFERS if name != TWIN])
def test_stranger_is_refused(api: Testbed, guests: dict[str, Guest], thing: str, saw: Saw) -> None:
    """A pod that differs from the API in one selector is attested and denied; its twin is not."""
    twin, stranger = guests[TWIN], guests[thing]
    own = api.scenario.spiffe_id("api")
    since = Moment.now()

    with api.provoking(stranger.agent.component, DENIED):
        twin.await_svid(own)
        stranger.assert_refused()
        twin.await_svid(own)

    # It was not refused because nobody could tell what it is.
    eventually(lambda: _assert_attested(api, stranger, since), budgets.LOG_LINE)
    alike = set(stranger.selectors) & set(twin.selectors)
    assert len(alike) == len(stranger.selectors) - 1, f"it differs in more: {stranger.selectors}"
    saw(f"another {thing}: PermissionDenied")


def _assert_attested(api: Testbed, guest: Guest, since: Moment) -> None:
    logs = api.logs(guest.agent.component, since)
    with reading("selectors in the agent's log"):
        told = [
            {f"{s['type']}:{s['value']}" for s in json.loads(r.fields["selectors"])}
            for r in logs
            if r.message == api.messages.process_attested
        ]
    if not any(found >= set(guest.selectors) for found in told):
        raise NotYet(f"{guest.name} was not attested among {len(told)}")
