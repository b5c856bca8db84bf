"""SDS gives a process its own secrets and no others."""

import grpc
import pytest

from svidproof import BUNDLE, Testbed, requirement
from svidproof.probes import fetch_in_turn, fetch_secrets

# SPIRE's default names, in addition to BUNDLE: doc/spire_agent.md.
DEFAULT_SVID, ALL_BUNDLES = "default", "ALL"
# What the agent logs when a process requests a secret that is not its own.
REJECTED = r"Error building stream secrets response|No identity issued|attest"


@pytest.fixture
def api(unwatched_api: Testbed) -> Testbed:
    """A second testbed: nothing in an agent's log distinguishes these requests from Envoy's."""
    return unwatched_api


@requirement("SDS-1")
def test_registered_process_gets_its_own_secret(api: Testbed) -> None:
    """A registered process gets its own SVID and the bundle under each of their names."""
    workload = api.workload("valid-api-client")
    target = workload.envoy.workload_api()
    domain = f"spiffe://{api.scenario.trust_domain}"

    for name in (workload.spiffe_id, DEFAULT_SVID, BUNDLE, ALL_BUNDLES, domain):
        answer = fetch_secrets(target, name)
        assert answer.names == (name,), f"expected the secret {name}, got {answer}"


@requirement("SDS-1")
def test_open_stream_gets_what_it_requests(api: Testbed) -> None:
    """Each request on an open stream gets its secrets, in the form that the first asks for."""
    target = api.workload("valid-api-client").envoy.workload_api()
    lists = [BUNDLE], [DEFAULT_SVID, BUNDLE], [DEFAULT_SVID]
    forms = {plain: {"disable_spiffe_cert_validation": plain} for plain in (True, False)}

    found = {plain: fetch_in_turn(target, *lists, node=node) for plain, node in forms.items()}

    for plain, answers in found.items():
        for names, answer in zip(lists, answers, strict=False):
            assert sorted(answer.names) == sorted(names), f"expected {names}, got {answer}"
            wanted = (BUNDLE,) if plain and BUNDLE in names else ()
            form = "CA certificates" if wanted else "no CA certificates"
            assert answer.plain == wanted, f"expected {form} in {names}, got {answer.plain}"
        assert len(answers) == len(lists), f"{len(answers)} of {len(lists)} requests: {answers}"


@requirement("SDS-1")
@pytest.mark.parametrize("wanted", ["api", "invalid-api-client", "nobody"])
def test_registered_process_gets_no_other_secret(api: Testbed, wanted: str) -> None:
    """A registered process that requests another's SVID gets InvalidArgument."""
    target = api.workload("valid-api-client").envoy.workload_api()

    with api.provoking(api.agent_of("valid-api-client").component, REJECTED):
        answer = fetch_secrets(target, api.scenario.spiffe_id(wanted))

    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT, f"{wanted}: {answer}"
    assert answer.secrets == 0, f"{wanted}: {answer}"


@requirement("SDS-1")
@pytest.mark.parametrize("wanted", ["api", "valid-api-client"])
def test_unregistered_process_gets_no_secret(api: Testbed, wanted: str) -> None:
    """A process without an entry gets no SVID of any workload."""
    with api.provoking(api.prober.agent.component, REJECTED):
        answer = fetch_secrets(api.prober.workload_api(), api.scenario.spiffe_id(wanted))

    rejections = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT)
    assert answer.code in rejections, f"{wanted}: {answer}"
    assert answer.secrets == 0, f"{wanted}: {answer}"
