"""A sidecar rejects an invalid policy and keeps enforcing the previous one."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from svidproof import NotYet, Saw, Testbed, budgets, eventually, policy, requirement
from svidproof.checks import assert_forbidden, assert_let_in
from svidproof.components.envoy import POLICY

NAMED, OTHER = "frontend", "frontend-2"
PATH = "/balances/alice"
Resource = dict[str, Any]
# What a sidecar that took it over would do: let everybody in.
EVERYBODY = policy.allow({"any": True})


def _cut_off(resource: Resource) -> bytes:
    return json.dumps(resource).encode()[:-20]


def _of_another_type(resource: Resource) -> bytes:
    kind = "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer"
    resource["resources"][0]["typed_config"] = {"@type": kind, "max_request_bytes": 1000}
    return json.dumps(resource).encode()


def _with_unknown_principal(resource: Resource) -> bytes:
    kind = "type.googleapis.com/google.protobuf.Struct"
    custom = {"name": "svidproof.unknown", "typed_config": {"@type": kind}}
    _rules(resource)["policies"]["clients"]["principals"] = [{"custom": custom}]
    return json.dumps(resource).encode()


def _with_no_principal(resource: Resource) -> bytes:
    _rules(resource)["policies"]["clients"]["principals"] = []
    return json.dumps(resource).encode()


def _misspelt(resource: Resource) -> bytes:
    """A policy without `rules` is one without rules: it would let everybody in."""
    config = resource["resources"][0]["typed_config"]
    config["ruels"] = config.pop("rules")
    return json.dumps(resource).encode()


def _of_another_name(resource: Resource) -> bytes:
    resource["resources"][0]["name"] = "another"
    return json.dumps(resource).encode()


def _without_policy(resource: Resource) -> bytes:
    return json.dumps({**resource, "resources": []}).encode()


def _rules(resource: Resource) -> dict[str, Any]:
    rules: dict[str, Any] = resource["resources"][0]["typed_config"]["rules"]
    return rules


FAILURE, REJECTED = "update_failure", "update_rejected"
FLAWS = [
    pytest.param(_cut_off, FAILURE, id="broken-json"),
    pytest.param(_of_another_type, REJECTED, id="other-type"),
    pytest.param(_with_unknown_principal, REJECTED, id="unknown-principal"),
    pytest.param(_with_no_principal, REJECTED, id="no-principal"),
    pytest.param(_misspelt, REJECTED, id="unknown-field"),
    pytest.param(_of_another_name, REJECTED, id="other-name"),
    pytest.param(_without_policy, REJECTED, id="no-policy"),
]


@requirement("RBAC-13")
@pytest.mark.usefixtures("both_are_let_in_without")
@pytest.mark.parametrize(("spoil", "counter"), FLAWS)
def test_invalid_policy_is_refused(
    two_frontends: Testbed, spoil: Callable[[Resource], bytes], counter: str, saw: Saw
) -> None:
    """An invalid policy file is counted as rejected; the previous policy stays in force."""
    backend, envoy = two_frontends.workload("backend"), two_frontends.workload("backend").envoy
    named, other = (_exactly(two_frontends, name) for name in (NAMED, OTHER))
    content = spoil(policy.resource(POLICY, EVERYBODY, "invalid"))
    with two_frontends.enforcing("backend", policy.allow(named)):
        version, before = envoy.policy_version(), _updates(two_frontends)

        envoy.put_policy(content)

        eventually(lambda: _assert_counted(two_frontends, before), budgets.POLICY_REFUSED)
        moved = _moved(two_frontends, before)
        seen = backend.app.count()
        assert envoy.policy_version() == version, f"a policy that is not valid is in force: {moved}"
        assert moved == {counter: 1}, f"counted {moved}, not {counter}"
        assert_let_in(two_frontends.workload(NAMED).envoy.request("backend", PATH))
        assert_forbidden(two_frontends.workload(OTHER).envoy.request("backend", PATH))
        assert backend.app.count() == seen + 1, "the app saw the request that was refused"

        with two_frontends.enforcing("backend", policy.allow(other)):
            assert_forbidden(two_frontends.workload(NAMED).envoy.request("backend", PATH))
            assert_let_in(two_frontends.workload(OTHER).envoy.request("backend", PATH))
    saw(f"{counter} +1, the old policy stays, and the next good one is taken")


def _exactly(two_frontends: Testbed, name: str) -> policy.Principal:
    return policy.exactly(two_frontends.scenario.spiffe_id(name))


def _updates(two_frontends: Testbed) -> dict[str, int]:
    """What became of the policies so far."""
    pattern = r"^extension_config_discovery\..*\.update_(failure|rejected|success)$"
    found = two_frontends.workload("backend").envoy.stats(pattern)
    return {name.rpartition(".")[2]: value for name, value in found.items()}


def _moved(two_frontends: Testbed, before: dict[str, int]) -> dict[str, int]:
    now = _updates(two_frontends)
    return {name: now[name] - before[name] for name in now if now[name] != before[name]}


def _assert_counted(two_frontends: Testbed, before: dict[str, int]) -> None:
    if not _moved(two_frontends, before):
        raise NotYet("the sidecar has counted nothing")
