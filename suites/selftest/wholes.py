"""Reports of whole runs of the real catalogue, in which everything ended as it should."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from svidproof.model import catalogue as catalogues
from svidproof.model.verdict import Result
from svidproof.report.model import Check, Component, Evidence, Run
from svidproof.run.process import pytest_process

REAL = catalogues.read(pytest_process.suites() / "catalogue.toml")
VERSIONS = {"spire-server": "1.15.3", "spire-agent": "1.15.3", "envoy": "1.40.0"}
Checks = Mapping[str, Mapping[str, str]]


def sound(checks: Checks, *profiles: str) -> Evidence:
    """A run of everything in some profiles, made just now.

    Args:
        checks: the claims of all checks, by id, by requirement.
        profiles: the profiles; core by default.
    """
    profiles = profiles or ("core",)
    ids = tuple(r.id for r in REAL.of_profiles(profiles))
    proves: dict[str, tuple[str, ...]] = {}
    claims: dict[str, str] = {}
    for requirement in ids:
        for check, claim in checks.get(requirement, {}).items():
            proves[check] = (*proves.get(check, ()), requirement)
            claims[check] = claim
    now = datetime.now(UTC)
    run = Run(
        id="run-1",
        started=now - timedelta(minutes=2),
        finished=now - timedelta(minutes=1),
        platform="local",
        profiles=profiles,
        command="svidproof run",
        timing="brisk",
    )
    ended = (Check(c, proved, claims[c], Result.PASS, 0.001) for c, proved in proves.items())
    components = tuple(Component(n, v, "release", "a" * 64) for n, v in VERSIONS.items())
    return of_versions(Evidence(run, components, ids, tuple(ended)))


def of_versions(evidence: Evidence, **versions: str) -> Evidence:
    """The same with other versions under test, which show the deviations that they have."""
    components = tuple(
        replace(c, version=versions.get(c.name.partition("-")[0], c.version))
        for c in evidence.components
    )
    under_test = {c.name: c.version for c in components}
    checks = tuple(_ended(check, under_test) for check in evidence.checks)
    return replace(evidence, components=components, checks=checks)


def _ended(check: Check, under_test: Mapping[str, str]) -> Check:
    if check.result not in (Result.PASS, Result.KNOWN_DEVIATION):
        return check
    deviation = REAL.deviation_of(check.id, check.requirements, under_test)
    result = Result.KNOWN_DEVIATION if deviation else Result.PASS
    return replace(check, result=result, deviation=deviation)
