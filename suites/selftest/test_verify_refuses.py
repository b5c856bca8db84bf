"""`svidproof verify` accepts a sound report, and refuses each way in which one can be unsound."""

import copy
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from svidproof.catalogue import Catalogue, parse
from svidproof.outcome import Result
from svidproof.report import build
from svidproof.report.model import Component, Evidence
from svidproof.report.verify import Policy, parse_age, parse_expectation, refusals

Spoil = Callable[..., Evidence]
Edit = Callable[[dict[str, Any]], object]
NOW = datetime(2026, 5, 1, 13, 0, tzinfo=UTC)
CORE = Policy("core", NOW)


def first(report: dict[str, Any]) -> dict[str, Any]:
    """The report's first requirement."""
    entry: dict[str, Any] = report["requirements"][0]
    return entry


def sealed(report: dict[str, Any], edit: Edit) -> dict[str, Any]:
    """A report edited by somebody who knows how to compute the digest."""
    edited = copy.deepcopy(report)
    edit(edited)
    edited["digest"] = build.digest(edited)
    return edited


def test_sound_report_is_accepted(report: dict[str, Any], catalogue: Catalogue) -> None:
    """Nothing speaks against the good run."""
    expect = {"spire": "1.15.3", "spire-agent": "1.15.3", "envoy": "1.40.0"}

    assert refusals(report, catalogue, replace(CORE, expect=expect)) == []


@pytest.mark.parametrize(
    ("content", "because"),
    [
        pytest.param([], "schema", id="not-an-object"),
        pytest.param({}, "schema", id="empty"),
        pytest.param(None, "schema", id="null"),
    ],
)
def test_what_is_no_report_is_refused(content: object, because: str, catalogue: Catalogue) -> None:
    """JSON of any other kind."""
    assert [because in problem for problem in refusals(content, catalogue, CORE)] == [True]


def test_edited_report_is_refused(report: dict[str, Any], catalogue: Catalogue) -> None:
    """Whoever edits a report by hand changes its digest."""
    report["reason"] = "it is good"

    assert refusals(report, catalogue, CORE) == [
        "its digest does not match: it was changed after it was written"
    ]


@pytest.mark.parametrize(
    ("edit", "because"),
    [
        pytest.param(
            lambda r: first(r).update(result="fail"), "ONE-1 is not fail by its own", id="result"
        ),
        pytest.param(
            lambda r: first(r)["checks"][0].update(outcome="fail"),
            "ONE-1 is not pass by its own checks",
            id="failed-check-hidden",
        ),
        pytest.param(
            lambda r: [c.update(outcome="not-run") for c in first(r)["checks"]],
            "ONE-1 was not checked",
            id="nothing-executed",
        ),
        pytest.param(lambda r: first(r).update(checks=[]), "ONE-1 was not checked", id="no-check"),
        pytest.param(lambda r: r["requirements"].pop(0), "ONE-1 is not in it", id="missing"),
        pytest.param(
            lambda r: r.update(requirements=[]), "it has no check that ran", id="zero-checks"
        ),
        pytest.param(
            lambda r: first(r).update(level="extended"), "told otherwise", id="level-lowered"
        ),
        pytest.param(
            lambda r: first(r).update(id="ONE-9"), "not in the catalogue: ONE-9", id="invented"
        ),
        pytest.param(
            lambda r: r["run"].update(profiles=["core", "gold"]),
            "profiles that are not in the catalogue: gold",
            id="invented-profile",
        ),
        pytest.param(
            lambda r: r["profiles"]["core"].update(result="partial"),
            "its profiles is not what its checks come to",
            id="profile",
        ),
        pytest.param(
            lambda r: r.update(verdict="inconclusive"),
            "its verdict is not what its checks come to",
            id="verdict",
        ),
        pytest.param(
            lambda r: r["requirements"][1]["checks"][1].update(deviation="made-up"),
            "a deviation that the catalogue does not know",
            id="invented-deviation",
        ),
        pytest.param(
            lambda r: first(r)["checks"][0].update(
                outcome="known-deviation", deviation="envoy-lax"
            ),
            "a deviation that the catalogue does not know",
            id="deviation-of-another-check",
        ),
        pytest.param(lambda r: r.update(components=[]), "under test", id="no-components"),
        pytest.param(
            lambda r: r["run"].update(started=build.stamp(NOW)),
            "its run ended before it began",
            id="backwards",
        ),
        pytest.param(
            lambda r: r["suite"].update(catalogue_sha256="0" * 64),
            "another catalogue: 000000000000",
            id="foreign",
        ),
    ],
)
def test_forged_report_contradicts_itself(
    report: dict[str, Any], catalogue: Catalogue, edit: Edit, because: str
) -> None:
    """Even with a digest that matches: sums are computed again, and compared with the catalogue."""
    problems = refusals(sealed(report, edit), catalogue, CORE)

    assert any(because in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("changes", "because"),
    [
        pytest.param({"sabotage": "lax"}, "sabotaged on purpose (lax)", id="sabotaged"),
        pytest.param({"selection": "partial"}, "it is partial", id="partial"),
        pytest.param({"stopped": "interrupted"}, "did not come to its end", id="interrupted"),
        pytest.param({"profiles": ("more",)}, "not about profile core", id="other-profile"),
        pytest.param({"started": NOW - timedelta(hours=25)}, "it is too old", id="stale"),
        pytest.param(
            {"started": NOW + timedelta(days=1), "finished": NOW + timedelta(days=1)},
            "in the future",
            id="future",
        ),
    ],
)
def test_run_under_other_circumstances_is_refused(
    spoil: Spoil, catalogue: Catalogue, changes: dict[str, Any], because: str
) -> None:
    """Honest reports of runs that are no evidence for this gate."""
    problems = refusals(build.build(spoil(**changes), catalogue), catalogue, CORE)

    assert any(because in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("check", "result", "because"),
    [
        pytest.param("test_a", Result.FAIL, "ONE-1 is fail", id="core-fails"),
        pytest.param("test_a", Result.ERROR, "ONE-1 is error", id="core-error"),
        pytest.param("test_a", Result.UNSUPPORTED, "ONE-1 is unsupported", id="core-unsupported"),
        pytest.param("test_a", Result.MISSING, "ONE-1 is missing", id="core-missing"),
        pytest.param("test_c", Result.FAIL, "TWO-1 is fail", id="extended-fails"),
    ],
)
def test_report_of_a_bad_run_is_refused(
    spoil: Spoil, catalogue: Catalogue, check: str, result: Result, because: str
) -> None:
    """What does not hold is named."""
    problems = refusals(build.build(spoil(check, result), catalogue), catalogue, CORE)

    assert because in problems


@pytest.mark.parametrize(
    ("expect", "because"),
    [
        pytest.param({"envoy": "1.39.0"}, "envoy 1.40.0 was under test", id="other-version"),
        pytest.param({"spire": "1.15"}, "spire-server 1.15.3 was under test", id="not-a-prefix"),
        pytest.param({"istio": "1"}, "no component istio", id="unknown"),
    ],
)
def test_other_components_are_refused(
    report: dict[str, Any], catalogue: Catalogue, expect: dict[str, str], because: str
) -> None:
    """A gate for one release does not open for another."""
    problems = refusals(report, catalogue, replace(CORE, expect=expect))

    assert any(because in problem for problem in problems), problems


def test_deviation_of_another_version_is_refused(evidence: Evidence, catalogue: Catalogue) -> None:
    """A deviation is excused for the versions that are known to have it."""
    older = (*evidence.components[:2], Component("envoy", "1.35.0", "wheel", "c" * 64))
    report = build.build(replace(evidence, components=older), catalogue)

    assert "ONE-2: deviation envoy-lax is not one of the version under test" in refusals(
        report, catalogue, CORE
    )


def test_report_of_another_catalogue_is_refused(report: dict[str, Any]) -> None:
    """The same ids may mean something else there: nothing more is asked."""
    other = parse('[[requirement]]\nid = "ONE-1"\ntitle = "x"\nlevel = "core"\n'
                  'profiles = ["core"]\nsource = "x"\n')  # fmt: skip

    problems = refusals(report, other, CORE)

    assert "it answers another catalogue" in problems[0]
    assert not any("verdict" in problem for problem in problems)


@pytest.mark.parametrize(
    ("text", "age"),
    [("90s", timedelta(seconds=90)), ("24h", timedelta(days=1)), ("7d", timedelta(days=7))],
)
def test_ages_are_written_with_a_unit(text: str, age: timedelta) -> None:
    """A number and one letter."""
    assert parse_age(text) == age


@pytest.mark.parametrize("text", ["", "24", "h", "1w", "-1h", "1.5h"])
def test_other_ages_are_refused(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match="is not an age like"):
        parse_age(text)


def test_expectations_name_component_and_version() -> None:
    """`v` before a version does not matter; the rest does."""
    assert parse_expectation("spire=v1.15.3") == ("spire", "1.15.3")
    with pytest.raises(ValueError, match="is not like"):
        parse_expectation("spire")
