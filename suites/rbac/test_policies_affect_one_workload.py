"""A policy affects only its own workload, and its owner needs no further rights.

Three policies are enforced and removed one after the other. Everything but the backend's policy is
recorded before them, under the first of them, and after the last.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from svidproof import POLICY_FILE, Saw, Testbed, as_uri, rbac, requirement
from svidproof.checks import assert_forbidden

OWNER, OTHERS = "backend", ("frontend", "frontend-2")


@dataclass(frozen=True)
class Surroundings:
    """Everything that a policy of the backend must not change.

    Attributes:
        spire: the entries, agents and trust bundle of the SPIRE server.
        sidecars: the static configuration and the start time of each sidecar.
        apps: the first request in the memory of each frontend's app.
        files: the digest of each sidecar file but the backend's policy; None if there is none.
    """

    spire: Mapping[str, Any]
    sidecars: Mapping[str, Any]
    apps: Mapping[str, Any]
    files: Mapping[str, str | None]

    @classmethod
    def of(cls, two_frontends: Testbed) -> "Surroundings":
        """Record the present state."""
        spire, own_agents = two_frontends.spire, set(two_frontends.agent_ids.values())
        agents = {as_uri(a["id"]): a["x509svid_serial_number"] for a in spire.agents()}
        return cls(
            {
                "entries": {entry["id"]: entry for entry in spire.entries()},
                "agents": {name: agents.get(name) for name in own_agents},
                "bundle": {c.serial_number: c for c in spire.bundle()},
            },
            {name: w.envoy.static_config() for name, w in two_frontends.workloads.items()},
            {name: two_frontends.workload(name).app.seen()[:1] for name in OTHERS},
            {
                f"{name}/{file}": None if content is None else hashlib.sha256(content).hexdigest()
                for name, workload in two_frontends.workloads.items()
                for file, content in workload.envoy.files().items()
                if (name, file) != (OWNER, POLICY_FILE)
            },
        )


Recorded = tuple[Surroundings, Surroundings, Surroundings]


@pytest.fixture(scope="module")
def surroundings(two_frontends: Testbed) -> Recorded:
    """Before, under, and after three policies that each deny the second frontend."""
    first, second = (rbac.exactly(two_frontends.workload(name).spiffe_id) for name in OTHERS)
    for name in OTHERS:
        two_frontends.workload(name).app.get()
    before, under = Surroundings.of(two_frontends), None
    for rules in (rbac.allow(first), rbac.deny(second), rbac.allow(rbac.below("none"))):
        with two_frontends.enforcing(OWNER, rules):
            assert_forbidden(two_frontends.workload(OTHERS[1]).envoy.request("backend"))
            under = under or Surroundings.of(two_frontends)
    assert under is not None
    return before, under, Surroundings.of(two_frontends)


@requirement("RBAC-12")
@pytest.mark.parametrize("part", ["entries", "agents", "bundle"])
def test_spire_does_not_change(surroundings: Recorded, part: str, saw: Saw) -> None:
    """Policy changes do not change SPIRE's entries, agents or trust bundle."""
    before, under, after = (recorded.spire[part] for recorded in surroundings)

    assert before, f"SPIRE has no {part}"
    assert None not in before.values(), f"the SPIRE server does not list all of {before}"
    for when, now in (("under the policy", under), ("after the policy", after)):
        other = _difference(before, now)
        assert not other, f"{when}, SPIRE's {part} changed: {other}"
    saw(f"{len(before)} {part}, the same before, under and after three policies")


@requirement("RBAC-12")
@pytest.mark.parametrize("name", [OWNER, *OTHERS])
def test_sidecars_keep_process_and_configuration(
    surroundings: Recorded, name: str, saw: Saw
) -> None:
    """Each sidecar keeps its process and, except for the policy, its configuration."""
    before, under, after = (recorded.sidecars[name] for recorded in surroundings)

    for when, now in (("under the policy", under), ("after the policy", after)):
        other = _difference(before, now)
        assert not other, f"{when}, {name}'s sidecar was restarted or reconfigured: {other}"
    saw(f"the same {', '.join(before)} before, under and after three policies")


@requirement("RBAC-12")
@pytest.mark.parametrize("name", OTHERS)
def test_other_apps_are_not_restarted(surroundings: Recorded, name: str) -> None:
    """The apps of the other workloads keep their state."""
    before, under, after = (recorded.apps[name] for recorded in surroundings)

    assert before, f"{name}'s app had received no request"
    assert under == before, f"{name}'s app restarted while the policy was active"
    assert after == before, f"{name}'s app restarted after the policy was removed"


@requirement("RBAC-12")
def test_no_other_file_is_written(surroundings: Recorded, saw: Saw) -> None:
    """Only the policy itself is written: no configuration, and no policy of another workload."""
    before, under, after = (recorded.files for recorded in surroundings)

    assert any(before.values()), "no file was found"
    for when, now in (("under the policy", under), ("after the policy", after)):
        other = _difference(before, now)
        assert not other, f"{when}, other files have changed: {other}"
    saw(f"{', '.join(n for n, digest in before.items() if digest)}: not written")


def _difference(before: Mapping[Any, Any], now: Mapping[Any, Any]) -> list[Any]:
    """Return the keys whose values differ, or that are only on one side."""
    absent = object()
    keys = {**before, **now}
    return [k for k in keys if before.get(k, absent) != now.get(k, absent)]
