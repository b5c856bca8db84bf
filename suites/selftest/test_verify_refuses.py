"""`svidproof verify` accepts a sound report, and refuses each way in which one can be unsound."""

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from svidproof.model.catalogue import Catalogue, parse
from svidproof.model.verdict import Result
from svidproof.report import build, read
from svidproof.report.gate.expectation import (
    Expectation,
    parse_all,
    parse_expectation,
    parse_matrices,
    parse_matrix,
    unmet,
)
from svidproof.report.gate.verify import Policy, parse_age, refusals
from svidproof.report.model import Component, Evidence

from .conftest import CATALOGUE

Spoil = Callable[..., Evidence]
Edit = Callable[[dict[str, Any]], object]
NOW = datetime(2026, 5, 1, 13, 0, tzinfo=UTC)
CHECKS = {
    "ONE-1": {"a/test_a.py::test_a": "It does", "a/test_c.py::test_c": "It does"},
    "ONE-2": {"a/test_b.py::test_b[x]": "It does", "a/test_b.py::test_b[lax]": "It does"},
    "TWO-1": {"a/test_c.py::test_c": "It does"},
}
CORE = Policy(("core",), NOW, CHECKS)


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
    words = ("spire=1.15.3", "spire-agent=v1.15.3", "envoy=1.40.0", "platform=local")
    expect = tuple(map(parse_expectation, words))

    assert refusals(report, catalogue, replace(CORE, expect=expect)) == []


def test_a_tool_beside_spire_has_a_version_of_its_own(
    evidence: Evidence, catalogue: Catalogue
) -> None:
    """SPIRE's controller manager is not of SPIRE's release."""
    beside = Component("spire-controller-manager", "0.6.2", "go-module", "d" * 64)
    more = replace(evidence, components=(*evidence.components, beside))
    expect = (Expectation("spire", "1.15.3"), Expectation("spire-controller-manager", "0.6.2"))

    policy = replace(CORE, expect=expect)

    assert refusals(build.build(more, catalogue), catalogue, policy) == []


@pytest.mark.parametrize(
    "content",
    [
        pytest.param([], id="not-an-object"),
        pytest.param({}, id="empty"),
        pytest.param(None, id="null"),
    ],
)
def test_what_is_no_report_is_refused(content: object) -> None:
    """JSON of any other kind."""
    assert "it violates the schema" in str(read.unsoundness(content))


def test_edited_report_is_refused(report: dict[str, Any]) -> None:
    """Whoever edits a report by hand changes its digest."""
    report["reason"] = "it is good"

    assert (
        read.unsoundness(report) == "its digest does not match: it was changed after it was written"
    )


@pytest.mark.parametrize(
    ("edit", "because"),
    [
        pytest.param(
            lambda r: first(r).update(result="fail"),
            "ONE-1 is not fail according to its own",
            id="result",
        ),
        pytest.param(
            lambda r: first(r)["checks"][0].update(outcome="fail"),
            "ONE-1 is not pass according to its own checks",
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
            lambda r: r["requirements"].pop(2), "TWO-1 is not in it", id="missing-extended"
        ),
        pytest.param(
            lambda r: r["requirements"].append(first(r)),
            "ONE-1 is in it more than once",
            id="repeated",
        ),
        pytest.param(
            lambda r: first(r)["checks"].pop(0),
            "ONE-1 lacks 1 of its 2 checks: a/test_a.py::test_a",
            id="check-left-out",
        ),
        pytest.param(
            lambda r: first(r)["checks"][0].update(id="a/test_a.py::test_easy"),
            "ONE-1 has checks that this svidproof does not know: a/test_a.py::test_easy",
            id="check-of-others",
        ),
        pytest.param(
            lambda r: first(r)["checks"].append(first(r)["checks"][0]),
            "ONE-1 has checks that are listed more than once",
            id="check-repeated",
        ),
        pytest.param(
            lambda r: first(r)["checks"][0].update(duration_s=0),
            "ONE-1 has checks that took no time, so they did not run: a/test_a.py::test_a",
            id="zero-duration",
        ),
        pytest.param(
            lambda r: r["requirements"][2]["checks"][0].update(outcome="known-deviation"),
            "it has different results for one check: a/test_c.py::test_c",
            id="two-ends",
        ),
        pytest.param(
            lambda r: r["deviations"].clear(),
            "its deviations are not those that its checks met",
            id="deviation-hidden",
        ),
        pytest.param(
            lambda r: r.update(requirements=[]), "it has no check that ran", id="zero-checks"
        ),
        pytest.param(
            lambda r: first(r).update(level="extended"),
            "differs from the catalogue",
            id="level-lowered",
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
            "its profiles does not follow from its checks",
            id="profile",
        ),
        pytest.param(
            lambda r: r["profiles"]["core"]["core"].update(total=1),
            "its profiles does not follow from its checks",
            id="counts",
        ),
        pytest.param(
            lambda r: r.update(verdict="inconclusive"),
            "its verdict does not follow from its checks",
            id="verdict",
        ),
        pytest.param(
            lambda r: r["requirements"][1]["checks"][1].update(deviation="made-up"),
            "a deviation that is not in the catalogue",
            id="invented-deviation",
        ),
        pytest.param(
            lambda r: first(r)["checks"][0].update(
                outcome="known-deviation", deviation="envoy-lax"
            ),
            "a deviation that is not in the catalogue",
            id="deviation-of-another-check",
        ),
        pytest.param(
            lambda r: r.update(components=[]),
            "does not name any component under test",
            id="no-components",
        ),
        pytest.param(
            lambda r: r["components"].pop(2),
            "deviation envoy-lax does not apply to the version under test",
            id="deviation-of-nothing",
        ),
        pytest.param(
            lambda r: r["run"].update(started=build.stamp(NOW)),
            "its run ended before it started",
            id="backwards",
        ),
        pytest.param(
            lambda r: r["run"].update(finished="2026-13-01T00:00:00.000Z"),
            "not valid times",
            id="no-time",
        ),
        pytest.param(
            lambda r: r["suite"].update(version="99.0"),
            "svidproof 99.0 made it, here is",
            id="another-svidproof",
        ),
        pytest.param(
            lambda r: r["suite"].update(catalogue_sha256="0" * 64),
            "another catalogue: 000000000000",
            id="foreign",
        ),
        pytest.param(
            lambda r: r["suite"].update(files_sha256="0" * 64),
            "another svidproof made it: its files are 000000000000, here are ",
            id="other-files",
        ),
        pytest.param(
            lambda r: r["suite"].pop("files_sha256"),
            "it does not name the files of svidproof that made it",
            id="no-files",
        ),
        pytest.param(
            lambda r: r["run"].update(environment="no disk"),
            "its environment prevented checks: no disk",
            id="environment",
        ),
        pytest.param(
            lambda r: r["run"].update(platform="mars"), "its platform is mars", id="no-platform"
        ),
        pytest.param(
            lambda r: r["run"].update(timing="lunar"), "its timing is lunar", id="no-timing"
        ),
        pytest.param(
            lambda r: r["run"].update(finished=r["run"]["started"], duration_s=0),
            "its run took no time, so nothing ran",
            id="no-time-at-all",
        ),
        pytest.param(
            lambda r: r["run"].update(duration_s=41.0),
            "its run took 41.0 s, but 40.000 s lie between its start and its end",
            id="other-duration",
        ),
        pytest.param(
            lambda r: first(r)["checks"][0].update(duration_s=1e9),
            "its checks took 1000000000.600 s together, its run only 40.0 s",
            id="checks-longer-than-the-run",
        ),
        pytest.param(
            lambda r: first(r)["checks"][0].update(duration_s=1e308),
            "its run only 40.0 s",
            id="checks-for-ever",
        ),
        pytest.param(
            lambda r: first(r)["checks"][0].update(duration_s=5e-324),
            "ONE-1 has checks that took no time, so they did not run: a/test_a.py::test_a",
            id="denormal-duration",
        ),
        pytest.param(
            lambda r: first(r)["checks"][0].update(claim="It may"),
            "ONE-1 has checks with another claim in this svidproof: a/test_a.py::test_a",
            id="claim",
        ),
        pytest.param(
            lambda r: first(r).update(source="hearsay"),
            "ONE-1 differs from the catalogue: source",
            id="source",
        ),
        pytest.param(
            lambda r: r["requirements"][2].update(profile="more"),
            "TWO-1 differs from the catalogue: profile",
            id="home-profile",
        ),
        pytest.param(
            lambda r: r["requirements"].reverse(),
            "its requirements are not in the order of the catalogue",
            id="order",
        ),
        pytest.param(
            lambda r: first(r)["checks"][0].update(deviation="envoy-lax"),
            "ONE-1: a/test_a.py::test_a is pass, so it cannot show deviation envoy-lax",
            id="deviation-of-a-pass",
        ),
        pytest.param(
            lambda r: (
                r["requirements"][1]["checks"][1].update(outcome="pass", deviation=None),
                r["requirements"][1].update(result="pass"),
                r["deviations"].clear(),
            ),
            "ONE-2: a/test_b.py::test_b[lax] passes, but deviation envoy-lax is known for the",
            id="unexpected-pass",
        ),
        pytest.param(
            lambda r: r["requirements"][1]["checks"][1].update(deviation=None),
            "ONE-2: a/test_b.py::test_b[lax] does not name the deviation that it shows",
            id="deviation-unnamed",
        ),
        pytest.param(
            lambda r: r["deviations"][0].update(reason="it is tolerable"),
            "its deviations are not those that its checks met",
            id="deviation-told-otherwise",
        ),
        pytest.param(
            lambda r: r["deviations"].append({**r["deviations"][0], "id": "envoy-worse"}),
            "its deviations are not those that its checks met",
            id="deviation-added",
        ),
        pytest.param(
            lambda r: first(r)["checks"][0].update(artifacts="artifacts/a"),
            "ONE-1 has checks that passed and have evidence of a failure",
            id="evidence-of-a-pass",
        ),
        pytest.param(
            lambda r: r["components"][2].update(name="istio"),
            "components that this svidproof does not test: istio",
            id="strange-component",
        ),
        pytest.param(
            lambda r: r["components"].pop(1),
            "it does not name the spire-agent under test",
            id="no-agent",
        ),
        pytest.param(
            lambda r: r["components"].append(r["components"][0]),
            "it lists spire-server more than once",
            id="component-repeated",
        ),
        pytest.param(
            lambda r: r["components"][0].update(sha256=""),
            "it has no sha256 of the spire-server under test",
            id="no-digest",
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
        pytest.param({"sabotage": "lax"}, "active sabotage (lax)", id="sabotaged"),
        pytest.param({"selection": "partial"}, "it is partial", id="partial"),
        pytest.param({"stopped": "interrupted"}, "stopped early", id="interrupted"),
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


def test_deviation_of_an_extended_requirement_is_the_catalogues(
    evidence: Evidence, catalogue: Catalogue
) -> None:
    """It need not hold; but what it is excused with must be true, whatever profile is asked for."""
    invented = replace(catalogue.deviations[0], id="envoy-tired", requirements=("TWO-1",), when={})
    checks = tuple(
        replace(c, result=Result.KNOWN_DEVIATION, deviation=invented)
        if c.requirements[0] == "TWO-1"
        else c
        for c in evidence.checks
    )
    more = replace(catalogue, deviations=(*catalogue.deviations, invented))
    run = replace(evidence.run, profiles=("core", "more"))
    forged = build.build(replace(evidence, checks=checks, run=run), more)

    problems = refusals(forged, catalogue, CORE)

    assert forged["verdict"] == "conformant"
    assert problems == [
        "ONE-1: a/test_c.py::test_c names a deviation that is not in the catalogue",
        "TWO-1: a/test_c.py::test_c names a deviation that is not in the catalogue",
        "its deviations are not those that its checks met",
    ]


def test_check_that_did_not_run_is_no_smaller_matter(spoil: Spoil) -> None:
    """In a complete run all that was asked for runs, or says why not."""
    lone = parse(CATALOGUE.replace('profiles = ["core", "more"]', 'profiles = ["more"]'))
    evidence = spoil("test_c", Result.NOT_RUN, profiles=("core", "more"))
    checks = tuple(replace(c, requirements=c.requirements[:1]) for c in evidence.checks)
    report = build.build(replace(evidence, checks=checks), lone)
    known = {**CHECKS, "ONE-1": {"a/test_a.py::test_a": "It does"}}

    problems = refusals(report, lone, replace(CORE, checks=known))

    assert report["verdict"] == "conformant"
    assert problems == ["TWO-1 has checks that were selected and did not run: a/test_c.py::test_c"]


@pytest.mark.parametrize(
    ("platform", "source", "accepted"),
    [
        pytest.param("cluster", "image", True, id="pulled-by-a-cluster"),
        pytest.param("cluster", "existing", True, id="there-before"),
        pytest.param("cluster", "given", False, id="given-to-a-cluster"),
        pytest.param("kind", "image", False, id="pulled-by-kind"),
    ],
)
def test_digest_may_be_unknown_only_where_nobody_tells_it(
    evidence: Evidence, catalogue: Catalogue, platform: str, source: str, *, accepted: bool
) -> None:
    """A cluster of the user's own pulls its images itself."""
    run = replace(evidence.run, platform=platform)
    envoy = replace(evidence.components[2], source=source, sha256="")
    changed = replace(evidence, run=run, components=(*evidence.components[:2], envoy))

    problems = refusals(build.build(changed, catalogue), catalogue, CORE)

    lacking = "it has no sha256 of the envoy under test"
    assert problems == ([] if accepted else [lacking])


@pytest.mark.parametrize(
    ("expect", "because"),
    [
        pytest.param("envoy=1.39.0", "envoy 1.40.0 was under test", id="other-version"),
        pytest.param("spire=1.15", "spire-server 1.15.3 was under test", id="not-a-prefix"),
        pytest.param("registry=1", "no component registry", id="not-there"),
        pytest.param("platform=kind", "its platform is local, kind is expected", id="platform"),
        pytest.param("timing=stock", "its timing is brisk, stock is expected", id="timing"),
        pytest.param("subject=abc", "it has no subject, abc is expected", id="no-subject"),
        pytest.param(
            f"envoy.sha256={'d' * 64}",
            f"the sha256 of envoy is {'c' * 64}, {'d' * 64} is expected",
            id="another-binary",
        ),
        pytest.param(
            "envoy.source=release",
            "the source of envoy is wheel, release is expected",
            id="another-source",
        ),
        pytest.param(
            "envoy.toolchain=go1.25.3",
            "the toolchain of envoy is not stated, go1.25.3 is expected",
            id="no-toolchain",
        ),
    ],
)
def test_other_components_are_refused(
    report: dict[str, Any], catalogue: Catalogue, expect: str, because: str
) -> None:
    """A gate for one release does not open for another."""
    policy = replace(CORE, expect=(parse_expectation(expect),))

    problems = refusals(report, catalogue, policy)

    assert len(problems) == (2 if expect == "spire=1.15" else 1)
    assert because in problems[0]


def test_all_of_spire_must_be_there(report: dict[str, Any]) -> None:
    """A server alone is not the release."""
    del report["components"][1]

    assert unmet(report, Expectation("spire", "1.15.3")) == [
        "it has no component spire-agent, only spire-server, envoy"
    ]
    assert unmet(report, Expectation("spire.source", "release")) == [
        "it has no component spire-agent, only spire-server, envoy"
    ]


def test_report_is_about_its_subject(spoil: Spoil, catalogue: Catalogue) -> None:
    """What was tested for one commit says nothing of another."""
    report = build.build(spoil(subject="commit 1a2b"), catalogue)

    assert refusals(report, catalogue, replace(CORE, expect=parse_all((), "commit 1a2b"))) == []
    assert refusals(report, catalogue, replace(CORE, expect=parse_all((), "commit 1a2c"))) == [
        "its subject is commit 1a2b, commit 1a2c is expected"
    ]
    with pytest.raises(ValueError, match="--subject must be one line of text"):
        parse_all((), " ")


def test_every_profile_must_hold(
    spoil: Spoil, report: dict[str, Any], catalogue: Catalogue
) -> None:
    """Of several; one that was not asked for in the run does not."""
    both = replace(CORE, profiles=("core", "more"))

    assert refusals(report, catalogue, both) == ["it is about core, not about profile more"]
    assert refusals(build.build(spoil(profiles=("core", "more")), catalogue), catalogue, both) == []


def test_profile_that_there_is_not_does_not_hold(
    report: dict[str, Any], catalogue: Catalogue
) -> None:
    """Whoever asks."""
    policy = replace(CORE, profiles=("gold",))

    assert refusals(report, catalogue, policy) == ["it is about core, not about profile gold"]


def test_failure_in_another_profile_is_one(spoil: Spoil, catalogue: Catalogue) -> None:
    """What else was asked for in the same run must hold, too."""
    report = build.build(spoil("test_a", profiles=("core", "more")), catalogue)

    problems = refusals(report, catalogue, replace(CORE, profiles=("more",)))

    assert problems == ["its verdict is not-conformant: ONE-1 does not hold"]


def test_deviation_of_another_version_is_refused(evidence: Evidence, catalogue: Catalogue) -> None:
    """A deviation is excused for the versions that are known to have it."""
    older = (*evidence.components[:2], Component("envoy", "1.35.0", "wheel", "c" * 64))
    report = build.build(replace(evidence, components=older), catalogue)

    assert "ONE-2: deviation envoy-lax does not apply to the version under test" in refusals(
        report, catalogue, CORE
    )


def test_report_of_another_catalogue_is_refused(report: dict[str, Any]) -> None:
    """The same ids may mean something else there: nothing more is asked."""
    other = parse('[[requirement]]\nid = "ONE-1"\ntitle = "x"\nlevel = "core"\n'
                  'profiles = ["core"]\nsource = ["x"]\n')  # fmt: skip

    problems = refusals(report, other, CORE)

    assert "it uses another catalogue" in problems[0]
    assert not any("verdict" in problem for problem in problems)


@pytest.mark.parametrize(
    ("text", "age"),
    [("90s", timedelta(seconds=90)), ("24h", timedelta(days=1)), ("7d", timedelta(days=7))],
)
def test_ages_are_written_with_a_unit(text: str, age: timedelta) -> None:
    """A number and one letter."""
    assert parse_age(text) == age


@pytest.mark.parametrize("text", ["", "24", "h", "1w", "-1h", "1.5h", "9999999999d"])
def test_other_ages_are_refused(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match="is not an age such as"):
        parse_age(text)


def test_expectations_name_component_and_version() -> None:
    """`v` before a version does not matter; the rest does."""
    assert parse_expectation("spire=v1.15.3") == ("spire", "1.15.3")


@pytest.mark.parametrize(
    ("text", "because"),
    [
        ("istio=1", "unknown component istio: there are "),
        ("envoi.source=wheel", "unknown component envoi: did you mean envoy?"),
        (
            "envoy.colour=red",
            "envoy.colour: unknown attribute colour: there are version, source, sha256, ",
        ),
        ("envoy.=red", "envoy.: unknown attribute : there are version, "),
        ("platform.name=kind", "unknown component platform: "),
        ("envoy.sha256=abc", "envoy.sha256=abc is not a sha256, which has 64 hexadecimal digits"),
    ],
)
def test_expectation_that_no_report_meets_is_a_mistake(text: str, because: str) -> None:
    """It says what there is."""
    with pytest.raises(ValueError, match=re.escape(because)):
        parse_expectation(text)


def test_digests_are_written_in_several_ways() -> None:
    """As sha256sum does, and as registries do."""
    written = (f"envoy.sha256={'AB' * 32}", f"envoy.sha256=sha256:{'ab' * 32}")

    assert [parse_expectation(text).value for text in written] == ["ab" * 32, "ab" * 32]


@pytest.mark.parametrize("text", ["spire", "=1", "spire=", "spire=1,envoy=2", "spire=1/2"])
def test_other_expectations_are_refused(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match=r"is not like spire=1\.15\.3"):
        parse_expectation(text)


def test_a_matrix_is_all_its_combinations() -> None:
    """In order; what two lines say twice counts once."""
    cells = parse_matrices(["platform=local,spire=1/2", "spire=2,platform=kind", "spire=2"])
    again = parse_matrices(["spire=1", "spire=1/2"])

    assert [", ".join(map(str, cell)) for cell in cells] == [
        "platform=local, spire=1",
        "platform=local, spire=2",
        "spire=2, platform=kind",
        "spire=2",
    ]
    assert [str(cell[0]) for cell in again] == ["spire=1", "spire=2"]


@pytest.mark.parametrize(
    "text", ["", "spire", "spire=", "spire=1/", "spire=1,", "=1", "spire=1,spire=2"]
)
def test_other_matrices_are_refused(text: str) -> None:
    """A gap in what was asked for would be a hole in the gate."""
    with pytest.raises(ValueError, match=r"is not like|twice"):
        parse_matrix(text)
