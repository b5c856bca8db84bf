"""A pod gets an identity only if label, namespace and service account all match."""

import contextlib
import json
from collections.abc import Iterator

import pytest

from svidproof import (
    Capability,
    ExtraWorkload,
    NotYet,
    Saw,
    Testbed,
    Timestamp,
    budgets,
    eventually,
    needs,
    reading,
    requirement,
)

pytestmark = needs(Capability.K8S_PSAT, Capability.OWN_SPIRE, Capability.SPIRE_LOGS)
TWIN = "twin"
# By pod: in what it differs from the API's pod.
DIFFERS = {
    TWIN: {},
    "label": {"label": "another"},
    "namespace": {"namespace": "another"},
    "service-account": {"service_account": "another"},
}
DENIED = r"No identity issued"


@pytest.fixture(scope="module")
def pods(api: Testbed) -> Iterator[dict[str, ExtraWorkload]]:
    """A twin of the API's pod, and for each selector a pod that differs only in it."""
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(api.extra_workload(f"api-{name}", like="api", but=but))
            for name, but in DIFFERS.items()
        }


@requirement("K8S-2")
@pytest.mark.parametrize("differs", [name for name in DIFFERS if name != TWIN])
def test_lookalike_pod_is_denied(
    api: Testbed, pods: dict[str, ExtraWorkload], differs: str, saw: Saw
) -> None:
    """A pod that differs from the API in one selector is attested and denied; its twin is not."""
    twin, lookalike = pods[TWIN], pods[differs]
    own = api.scenario.spiffe_id("api")
    since = Timestamp.now()

    with api.provoking(lookalike.agent.component, DENIED):
        twin.await_svid(own)
        lookalike.assert_refused()
        twin.await_svid(own)

    # It was attested, so it was not denied because its selectors were unknown.
    eventually(lambda: _assert_attested(api, lookalike, since), budgets.LOG_LINE)
    common = set(lookalike.selectors) & set(twin.selectors)
    assert len(common) == len(lookalike.selectors) - 1, f"it differs in more: {lookalike.selectors}"
    saw(f"another {differs}: PermissionDenied")


def _assert_attested(api: Testbed, pod: ExtraWorkload, since: Timestamp) -> None:
    logs = api.logs(pod.agent.component, since)
    with reading("selectors in the agent's log"):
        attested = [
            {f"{s['type']}:{s['value']}" for s in json.loads(r.fields["selectors"])}
            for r in logs
            if r.message == api.messages.process_attested
        ]
    if not any(found >= set(pod.selectors) for found in attested):
        raise NotYet(f"{pod.name} is not among {len(attested)} attested processes")
