"""A policy affects only its own workload, and its owner needs no further rights.

Three policies come and go, one after the other. All that is not the backend's policy was looked at
before, under the first of them, and after the last.
"""

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from svidproof import Saw, Testbed, policy, requirement
from svidproof.checks import assert_forbidden
from svidproof.components.envoy import FILE, POLICY_FILE
from svidproof.scenario import as_uri

OWNER, OTHERS = "backend", ("frontend", "frontend-2")
FILES = (FILE, POLICY_FILE)


@dataclass(frozen=True)
class Surroundings:
    """What a policy of the backend must not touch, part by part.

    Attributes:
        spire: what SPIRE's server knows.
        sidecars: how each sidecar is configured, and since when it runs.
        apps: the first request that each frontend's app remembers.
        files: what the programs of each place read, or nothing if it is not there.
    """

    spire: Mapping[str, Any]
    sidecars: Mapping[str, Any]
    apps: Mapping[str, Any]
    files: Mapping[str, str | None]

    @classmethod
    def of(cls, two_frontends: Testbed) -> "Surroundings":
        """What they are now."""
        spire, own_agents = two_frontends.spire, set(two_frontends.agent_ids.values())
        agents = {as_uri(a["id"]): a["x509svid_serial_number"] for a in spire.agents()}
        return cls(
            {
                "entries": {entry["id"]: entry for entry in spire.entries()},
                "agents": {name: agents.get(name) for name in own_agents},
                "bundle": {c.serial_number: c for c in spire.bundle()},
            },
            {name: w.envoy.foundation() for name, w in two_frontends.workloads.items()},
            {name: two_frontends.workload(name).app.seen()[:1] for name in OTHERS},
            {
                f"{name}/{file}": _digest(two_frontends, name, file)
                for name, file in ((OWNER, FILE), *itertools.product(OTHERS, FILES))
            },
        )


Seen = tuple[Surroundings, Surroundings, Surroundings]


@pytest.fixture(scope="module")
def surroundings(two_frontends: Testbed) -> Seen:
    """Before, under, and after three policies that each refuse somebody."""
    named, other = (policy.exactly(two_frontends.workload(name).spiffe_id) for name in OTHERS)
    for name in OTHERS:
        two_frontends.workload(name).app.get()
    before, under = Surroundings.of(two_frontends), None
    for rules in (policy.allow(named), policy.deny(other), policy.allow(policy.below("none"))):
        with two_frontends.enforcing(OWNER, rules):
            refused = two_frontends.workload(OTHERS[1]).envoy.request("backend")
            assert_forbidden(refused)
            under = under or Surroundings.of(two_frontends)
    assert under is not None
    return before, under, Surroundings.of(two_frontends)


@requirement("RBAC-12")
@pytest.mark.parametrize("part", ["entries", "agents", "bundle"])
def test_spire_stays_as_it_is(surroundings: Seen, part: str, saw: Saw) -> None:
    """Policy changes do not change SPIRE's entries, agents or trust bundle."""
    before, under, after = (seen.spire[part] for seen in surroundings)

    assert before, f"SPIRE has no {part}"
    assert None not in before.values(), f"SPIRE does not know {before}"
    for when, now in (("under the policy", under), ("after it", after)):
        other = _difference(before, now)
        assert not other, f"{when} SPIRE's {part} are other ones: {other}"
    saw(f"{len(before)} {part}, the same before, under and after three policies")


@requirement("RBAC-12")
@pytest.mark.parametrize("name", [OWNER, *OTHERS])
def test_sidecars_go_on_as_they_are(surroundings: Seen, name: str, saw: Saw) -> None:
    """Each sidecar keeps its process and, except for the policy, its configuration."""
    before, under, after = (seen.sidecars[name] for seen in surroundings)

    for when, now in (("under the policy", under), ("after it", after)):
        other = _difference(before, now)
        assert not other, f"{when} {name}'s sidecar is another one, or has another: {other}"
    saw(f"the same {', '.join(before)} before, under and after three policies")


@requirement("RBAC-12")
@pytest.mark.parametrize("name", OTHERS)
def test_other_apps_go_on_as_they_are(surroundings: Seen, name: str) -> None:
    """The apps of the other workloads are not restarted: they keep their state."""
    before, under, after = (seen.apps[name] for seen in surroundings)

    assert before, f"{name}'s app had seen nothing"
    assert under == before, f"under the policy {name}'s app has begun anew"
    assert after == before, f"after the policy {name}'s app has begun anew"


@requirement("RBAC-12")
def test_nothing_is_written_at_others(surroundings: Seen, saw: Saw) -> None:
    """Only the policy itself is written: no configuration and no other workload's policy."""
    before, under, after = (seen.files for seen in surroundings)

    assert [n for n, digest in before.items() if digest], "no file was found at all"
    for when, now in (("under the policy", under), ("after it", after)):
        other = _difference(before, now)
        assert not other, f"{when} other files have changed: {other}"
    saw(f"{', '.join(n for n, digest in before.items() if digest)}: not written")


def _difference(before: Mapping[Any, Any], now: Mapping[Any, Any]) -> list[Any]:
    """The keys whose values differ, or that are only on one side."""
    absent = object()
    keys = {**before, **now}
    return [k for k in keys if before.get(k, absent) != now.get(k, absent)]


def _digest(two_frontends: Testbed, place: str, name: str) -> str | None:
    try:
        content = two_frontends.platform.get(place, name)
    except FileNotFoundError:
        return None
    return hashlib.sha256(content).hexdigest()
