"""A sidecar rejects an invalid policy and keeps enforcing the previous one.

Each invalid policy is written once, over a valid one, and is then replaced by another valid one.
The checks only read what was recorded.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from svidproof import POLICY_FILTER, NotYet, Saw, Testbed, budgets, eventually, rbac, requirement
from svidproof.checks import assert_allowed, assert_forbidden
from svidproof.probes import Exchange

pytestmark = requirement("RBAC-13")
FRONTEND, OTHER = "frontend", "frontend-2"
PATH = "/balances/alice"
Resource = dict[str, Any]
# A sidecar that applied the invalid policy would allow every request.
ALLOW_ALL = rbac.allow({"any": True})


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
    """Misspell `rules`: a policy without rules would allow every request."""
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


@dataclass(frozen=True)
class Invalid:
    """An invalid policy.

    Attributes:
        make: makes its file from the resource of a valid policy.
        counter: the counter that must show the rejection.
    """

    make: Callable[[Resource], bytes]
    counter: str


UNREADABLE, REJECTED = "update_failure", "update_rejected"
INVALID = [
    pytest.param(Invalid(_cut_off, UNREADABLE), id="broken-json"),
    pytest.param(Invalid(_of_another_type, REJECTED), id="other-type"),
    pytest.param(Invalid(_with_unknown_principal, REJECTED), id="unknown-principal"),
    pytest.param(Invalid(_with_no_principal, REJECTED), id="no-principal"),
    pytest.param(Invalid(_misspelt, REJECTED), id="unknown-field"),
    pytest.param(Invalid(_of_another_name, REJECTED), id="other-name"),
    pytest.param(Invalid(_without_policy, REJECTED), id="no-policy"),
]


@dataclass(frozen=True)
class Answers:
    """What the backend answered under one policy.

    Attributes:
        frontend: the answer to the first frontend.
        other: the answer to the second frontend.
        reached: how many of the two requests reached the app.
    """

    frontend: Exchange
    other: Exchange
    reached: int


@dataclass(frozen=True)
class Attempt:
    """One invalid policy, written over one that allows the first frontend only.

    Attributes:
        invalid: the invalid policy.
        versions: the version of the policy in force, before and after.
        moved: by how much the sidecar's counters of policy updates moved.
        after: the answers after the invalid policy.
        later: the answers under the next valid policy, which allows the second frontend only.
    """

    invalid: Invalid
    versions: tuple[str, str]
    moved: Mapping[str, int]
    after: Answers
    later: Answers


@pytest.fixture(scope="module", params=INVALID)
def attempt(
    request: pytest.FixtureRequest,
    two_frontends: Testbed,
    assert_both_allowed: Callable[[], None],
) -> Attempt:
    """An invalid policy is written; both frontends are allowed before and afterwards."""
    invalid: Invalid = request.param
    envoy = two_frontends.workload("backend").envoy
    first, second = (_exactly(two_frontends, name) for name in (FRONTEND, OTHER))
    with two_frontends.quiet():
        assert_both_allowed()
        with two_frontends.enforcing("backend", rbac.allow(first)):
            version, before = envoy.policy_version(), _updates(two_frontends)
            envoy.put_policy(invalid.make(rbac.resource(POLICY_FILTER, ALLOW_ALL, "invalid")))
            eventually(lambda: _assert_counted(two_frontends, before), budgets.POLICY_REFUSED)
            moved = _moved(two_frontends, before)
            versions, after = (version, envoy.policy_version()), _ask(two_frontends)
            with two_frontends.enforcing("backend", rbac.allow(second)):
                later = _ask(two_frontends)
        assert_both_allowed()
    return Attempt(invalid, versions, moved, after, later)


def test_invalid_policy_is_counted_as_rejected(attempt: Attempt, saw: Saw) -> None:
    """An invalid policy file is counted once, as rejected or unreadable."""
    counter = attempt.invalid.counter

    assert attempt.moved == {counter: 1}, f"counted {attempt.moved}, not {counter}"
    saw(f"{counter} +1")


def test_previous_policy_stays_in_force(attempt: Attempt) -> None:
    """After an invalid policy, the previous policy decides every request."""
    before, after = attempt.versions

    assert after == before, f"an invalid policy is in force: {attempt.moved}"
    assert_allowed(attempt.after.frontend)
    assert_forbidden(attempt.after.other)
    assert attempt.after.reached == 1, f"{attempt.after.reached} requests reached the app"


def test_next_valid_policy_is_enforced(attempt: Attempt) -> None:
    """After an invalid policy, the next valid policy is enforced."""
    assert_forbidden(attempt.later.frontend)
    assert_allowed(attempt.later.other)
    assert attempt.later.reached == 1, f"{attempt.later.reached} requests reached the app"


def _exactly(two_frontends: Testbed, name: str) -> rbac.Principal:
    return rbac.exactly(two_frontends.scenario.spiffe_id(name))


def _ask(two_frontends: Testbed) -> Answers:
    app = two_frontends.workload("backend").app
    before = app.count()
    frontend, other = (
        two_frontends.workload(name).envoy.request("backend", PATH) for name in (FRONTEND, OTHER)
    )
    return Answers(frontend, other, app.count() - before)


def _updates(two_frontends: Testbed) -> dict[str, int]:
    """Return the backend's counters of policy updates."""
    pattern = r"^extension_config_discovery\..*\.update_(failure|rejected|success)$"
    found = two_frontends.workload("backend").envoy.stats(pattern)
    return {name.rpartition(".")[2]: value for name, value in found.items()}


def _moved(two_frontends: Testbed, before: dict[str, int]) -> dict[str, int]:
    now = _updates(two_frontends)
    return {name: now[name] - before[name] for name in now if now[name] != before[name]}


def _assert_counted(two_frontends: Testbed, before: dict[str, int]) -> None:
    if not _moved(two_frontends, before):
        raise NotYet("the sidecar has counted no policy update")
