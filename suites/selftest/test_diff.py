"""`svidproof diff` tells what changed between two reports, and calls worse what is worse."""

import copy
import io
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from svidproof.model.catalogue import Catalogue
from svidproof.model.verdict import Result
from svidproof.report import build, publish, read
from svidproof.report.compare import diff_text
from svidproof.report.compare.diff import SLOWER_BY_S, SLOWER_RATIO, Fact, Kind, Slower, compare
from svidproof.report.model import Check, Component, Evidence

Spoil = Callable[..., Evidence]
Report = dict[str, Any]
Command = Callable[..., tuple[int, str, str]]
REASON = "platform kind cannot pause"


@pytest.fixture
def command(svidproof: Command) -> Command:
    """Runs `svidproof diff`."""
    return partial(svidproof, "diff")


def ending(evidence: Evidence, ends: dict[str, tuple[Result, str]], **run: Any) -> Evidence:  # noqa: ANN401  fields of Run
    """The evidence with other ends of the checks named by how their ids end."""
    checks = tuple(
        next(
            (
                replace(c, result=result, message=message, deviation=None)
                for name, (result, message) in ends.items()
                if c.id.endswith(name)
            ),
            c,
        )
        for c in evidence.checks
    )
    return replace(evidence, run=replace(evidence.run, **run), checks=checks)


def shown(before: Report, after: Report) -> str:
    """The difference as it is shown in a log."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    diff_text.show(compare(before, after), stream)
    stream.seek(0)
    return stream.read()


def without(report: Report, requirement: str) -> Report:
    """A report that does not have a requirement."""
    changed = copy.deepcopy(report)
    changed["requirements"] = [r for r in report["requirements"] if r["id"] != requirement]
    return changed


def test_same_reports_are_told_in_one_line(
    report: Report, spoil: Spoil, catalogue: Catalogue
) -> None:
    """The number, and where."""
    elsewhere = build.build(spoil(platform="kind"), catalogue)

    assert shown(report, report) == "the same 3 requirements with the same results (local)\n"
    assert shown(report, elsewhere) == (
        "the same 3 requirements with the same results (local → kind)\n"
    )
    assert compare(report, elsewhere).regressions == ()


@pytest.mark.parametrize(
    ("then", "now", "kind", "worse"),
    [
        pytest.param(Result.PASS, Result.FAIL, Kind.FAILING, True, id="fails"),
        pytest.param(Result.PASS, Result.ERROR, Kind.FAILING, True, id="errs"),
        pytest.param(Result.PASS, Result.UNSUPPORTED, Kind.UNCHECKED, True, id="unsupported"),
        pytest.param(Result.PASS, Result.MISSING, Kind.UNCHECKED, True, id="missing"),
        pytest.param(Result.PASS, Result.NOT_RUN, Kind.UNCHECKED, True, id="not-run"),
        pytest.param(Result.PASS, Result.KNOWN_DEVIATION, Kind.CHANGED, True, id="deviates"),
        pytest.param(Result.KNOWN_DEVIATION, Result.FAIL, Kind.FAILING, True, id="otherwise"),
        pytest.param(Result.KNOWN_DEVIATION, Result.PASS, Kind.FIXED, False, id="mended"),
        pytest.param(Result.FAIL, Result.PASS, Kind.FIXED, False, id="passes"),
        pytest.param(Result.MISSING, Result.PASS, Kind.FIXED, False, id="there-now"),
        pytest.param(Result.FAIL, Result.ERROR, Kind.CHANGED, False, id="errs-instead"),
        pytest.param(Result.FAIL, Result.MISSING, Kind.UNCHECKED, False, id="unseen-instead"),
        pytest.param(Result.MISSING, Result.NOT_RUN, Kind.CHANGED, False, id="unseen-as-before"),
        # The requirement got no worse than unseen; the verdict did.
        pytest.param(Result.MISSING, Result.FAIL, Kind.FAILING, True, id="seen-to-fail"),
        pytest.param(Result.ERROR, Result.FAIL, Kind.FAILING, True, id="judged-now"),
    ],
)
def test_what_became_of_a_requirement(
    evidence: Evidence,
    catalogue: Catalogue,
    then: Result,
    now: Result,
    kind: Kind,
    *,
    worse: bool,
) -> None:
    """Worse is what held before and does not hold now, or a verdict that is."""
    before, after = (
        build.build(ending(evidence, {"test_a": (result, result.value)}), catalogue)
        for result in (then, now)
    )

    diff = compare(before, after)

    (change,) = diff.requirements
    assert (change.id, change.kind, change.before, change.after) == (
        *("ONE-1", kind, then.value),
        now.value,
    )
    assert bool(diff.regressions) is worse, diff.regressions


def test_failure_is_told_with_its_check_and_message(
    report: Report, spoil: Spoil, catalogue: Catalogue
) -> None:
    """Which check, how it ended, what it saw; and the requirements that it did not touch."""
    failed = build.build(spoil("test_b[x]"), catalogue)

    assert shown(report, failed).splitlines() == [
        "verdict        conformant → not-conformant",
        "",
        "newly failing",
        "✘ ONE-2         known-deviation → fail: It nearly holds",
        "    x: pass → fail: spoiled",
        "",
        "2 requirements with the same results",
        "regression: ONE-2 was known-deviation and is fail",
        "regression: the verdict was conformant and is not-conformant: ONE-2 does not hold",
    ]


def test_what_was_fixed_is_told_with_what_it_was(
    report: Report, spoil: Spoil, catalogue: Catalogue
) -> None:
    """A message of the past is not told as the present."""
    lines = shown(build.build(spoil("test_b[x]"), catalogue), report).splitlines()

    assert "fixed" in lines
    assert "    x: fail → pass, before: spoiled" in lines
    assert lines[-1] == "no regression"


class TestOtherPlatform:
    """What another platform cannot do is no regression; everything else is what it is."""

    @pytest.fixture
    def elsewhere(self, evidence: Evidence, catalogue: Catalogue) -> Report:
        """The good run on a platform that cannot do what one core requirement needs."""
        ends = {"test_b[x]": (Result.UNSUPPORTED, REASON)}
        return build.build(ending(evidence, ends, platform="kind"), catalogue)

    def test_unsupported_is_listed_with_its_reason(self, report: Report, elsewhere: Report) -> None:
        """Even though the verdict cannot be had there."""
        diff = compare(report, elsewhere)

        assert elsewhere["verdict"] == "inconclusive"
        assert [(c.kind, c.reasons) for c in diff.requirements] == [(Kind.IMPOSSIBLE, (REASON,))]
        assert diff.regressions == ()
        assert "not supported on platform kind\n○ ONE-2 " in shown(report, elsewhere)
        assert f"    {REASON}\n" in shown(report, elsewhere)

    def test_on_the_same_platform_it_is_worse(self, report: Report, elsewhere: Report) -> None:
        """What a platform could do, it must."""
        elsewhere["run"]["platform"] = "local"

        assert (
            "ONE-2 was known-deviation and is unsupported" in compare(report, elsewhere).regressions
        )

    def test_verdict_for_another_reason_is_worse(self, report: Report, elsewhere: Report) -> None:
        """A run that was interrupted there hides behind nothing."""
        elsewhere["run"]["stopped"] = elsewhere["reason"] = "interrupted"

        assert compare(report, elsewhere).regressions == (
            "the verdict was conformant and is inconclusive: interrupted",
        )

    def test_missing_is_worse(
        self, report: Report, evidence: Evidence, catalogue: Catalogue
    ) -> None:
        """The machine lacks something: not the platform's nature."""
        ends = {"test_b[x]": (Result.MISSING, "no tool")}
        after = build.build(ending(evidence, ends, platform="kind"), catalogue)

        assert compare(report, after).regressions[0] == "ONE-2 was known-deviation and is missing"


def test_requirement_that_went_is_worse_if_its_profile_was_asked_for(report: Report) -> None:
    """One that nobody asked for is only told."""
    fewer = without(report, "ONE-1")
    other = copy.deepcopy(fewer)
    other["run"]["profiles"] = ["more"]

    diff = compare(report, fewer)

    assert [(c.id, c.kind) for c in diff.requirements] == [("ONE-1", Kind.REMOVED)]
    assert diff.regressions == ("ONE-1 is missing now",)
    assert compare(report, other).regressions == ()
    assert Fact("profiles", "core", "more") in compare(report, other).facts
    assert [(c.id, c.kind) for c in compare(fewer, report).requirements] == [("ONE-1", Kind.ADDED)]
    assert compare(fewer, report).regressions == ()


def test_check_that_went_is_worse(report: Report, evidence: Evidence, catalogue: Catalogue) -> None:
    """The requirement still holds, by less."""
    fewer = replace(evidence, checks=tuple(c for c in evidence.checks if c.id[-3:] != "[x]"))
    after = build.build(fewer, catalogue)

    diff = compare(report, after)

    assert [(c.id, c.kind) for c in diff.requirements] == [("ONE-2", Kind.CHECKS)]
    assert diff.regressions == ("ONE-2: a/test_b.py::test_b[x] is missing now",)
    assert compare(after, report).regressions == ()


def test_check_that_fails_behind_a_failure_is_worse(
    evidence: Evidence, catalogue: Catalogue
) -> None:
    """A requirement that fails as before does not hide what fails only now."""
    more = Check("a/test_a.py::test_d", ("ONE-1",), "It does", Result.PASS)
    evidence = replace(evidence, checks=(*evidence.checks, more))
    before = build.build(ending(evidence, {"test_a": (Result.FAIL, "a")}), catalogue)
    after = build.build(ending(evidence, {"test_d": (Result.FAIL, "d")}), catalogue)

    assert compare(before, after).regressions == (
        "ONE-1: a/test_a.py::test_d held before and does not hold now",
    )


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ({}, {"sabotage": "lax"}, "the second run had an active sabotage (lax)"),
        ({"sabotage": "lax"}, {}, "the first run had an active sabotage (lax)"),
        (
            {},
            {"selection": "partial"},
            "the second run is partial: not every check of its profiles was selected",
        ),
        ({}, {"stopped": "interrupted"}, "the second run was stopped early: interrupted"),
        (
            {"profiles": ("core", "more")},
            {"profiles": ("core",)},
            "the second run does not include profile more",
        ),
    ],
)
def test_report_that_cannot_show_that_nothing_is_worse_is_not_comparable(
    evidence: Evidence,
    catalogue: Catalogue,
    before: dict[str, Any],
    after: dict[str, Any],
    complaint: str,
) -> None:
    """All results are the same, and still the second report is no evidence for that."""
    reports = [
        build.build(replace(evidence, run=replace(evidence.run, **run)), catalogue)
        for run in (before, after)
    ]

    diff = compare(*reports)

    assert (diff.incomparable, diff.worse) == ((complaint,), True)
    assert f"not comparable: {complaint}\n" in shown(*reports)
    assert diff_text.as_markdown(diff).startswith("### svidproof: regression\n")
    assert json.loads(diff_text.as_json(diff))["regression"] is True


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("version", "9.9", "they were made by different versions of svidproof: 0.1.0 and 9.9"),
        (
            "catalogue_sha256",
            "f" * 64,
            "they come from suites with different catalogues or checks",
        ),
    ],
)
def test_report_of_another_suite_is_not_comparable(
    report: Report, field: str, value: str, complaint: str
) -> None:
    """Other checks may have been weaker."""
    other = copy.deepcopy(report)
    other["suite"][field] = value
    report["suite"]["version"] = "0.1.0"

    assert compare(report, other).incomparable == (complaint,)


def test_reports_of_two_partial_runs_are_comparable(spoil: Spoil, catalogue: Catalogue) -> None:
    """Neither is evidence for the whole; and more than before is no fault."""
    part, whole = (
        build.build(spoil(selection=selection), catalogue) for selection in ("partial", "complete")
    )

    assert compare(part, part).incomparable == ()
    assert compare(part, whole).incomparable == ()
    assert not compare(part, part).worse


def test_pass_that_became_a_known_deviation_is_worse(
    report: Report, evidence: Evidence, catalogue: Catalogue
) -> None:
    """Also behind a requirement that deviated before."""
    lax = catalogue.deviations[0]
    checks = tuple(
        replace(c, result=Result.KNOWN_DEVIATION, deviation=lax) if c.id.endswith("[x]") else c
        for c in evidence.checks
    )
    after = build.build(replace(evidence, checks=checks), catalogue)

    assert compare(report, after).regressions == (
        "ONE-2: a/test_b.py::test_b[x] passed before and shows a known deviation now",
    )
    assert compare(after, report).regressions == ()


def test_empty_reports_are_no_agreement(evidence: Evidence, catalogue: Catalogue) -> None:
    """Nothing is fine for want of evidence."""
    nothing = build.build(replace(evidence, requirements=(), checks=()), catalogue)

    assert compare(nothing, nothing).regressions == (
        "there is nothing to compare: neither report has a requirement",
    )


def test_components_and_circumstances_are_told(
    report: Report, evidence: Evidence, catalogue: Catalogue
) -> None:
    """Versions, builds of one version, what came and went, and how it was run."""
    server, agent, envoy = evidence.components
    components = (
        replace(server, sha256="d" * 64),
        replace(envoy, version="1.41.0", source="given"),
        Component("proxy", "2", "image", "e" * 64),
    )
    run = replace(evidence.run, timing="stock", sabotage="lax", selection="partial")
    after = build.build(replace(evidence, run=run, components=components), catalogue)

    assert compare(report, after).facts == (
        Fact("spire-server", "1.15.3 (release) aaaaaaaaaaaa", "1.15.3 (release) dddddddddddd"),
        Fact("spire-agent", f"{agent.version} (release)", "absent"),
        Fact("envoy", "1.40.0 (wheel)", "1.41.0 (given)"),
        Fact("proxy", "absent", "2 (image)"),
        Fact("timing", "brisk", "stock"),
        Fact("selection", "complete", "partial"),
        Fact("sabotage", "none", "lax"),
    )


@pytest.mark.parametrize(
    ("then", "now", "told"),
    [
        pytest.param(SLOWER_BY_S, SLOWER_BY_S * SLOWER_RATIO, True, id="both"),
        pytest.param(10.0, 10.0 * SLOWER_RATIO - 0.1, False, id="ratio-too-small"),
        pytest.param(0.01, SLOWER_BY_S, False, id="difference-too-small"),
        pytest.param(9.0, 1.0, False, id="faster"),
    ],
)
def test_slower_checks_are_told_and_not_worse(
    evidence: Evidence, catalogue: Catalogue, then: float, now: float, *, told: bool
) -> None:
    """Both by ratio and by seconds; two machines are never the same."""
    first, *rest = evidence.checks
    before, after = (
        build.build(replace(evidence, checks=(replace(first, duration_s=s), *rest)), catalogue)
        for s in (then, now)
    )

    diff = compare(before, after)

    assert diff.slower == ((Slower(first.id, then, now),) if told else ())
    assert diff.regressions == ()
    assert ("slower, for information" in shown(before, after)) is told


def test_markdown_cannot_be_broken_out_of(
    report: Report, evidence: Evidence, catalogue: Catalogue
) -> None:
    """What a check saw is text, whatever it holds."""
    ends = {"test_a": (Result.FAIL, "a | b\n<img src=x> `c` [d](e)")}
    after = build.build(ending(evidence, ends), catalogue)

    text = diff_text.as_markdown(compare(report, after))

    assert text.startswith("### svidproof: regression\n")
    assert "| **ONE-1** It holds | pass → fail |" in text
    assert r"a: pass → fail: a \| b &lt;img src=x&gt; \`c\` \[d\](e) |" in text


def test_terminal_and_old_streams_are_not_upset(
    report: Report, evidence: Evidence, catalogue: Catalogue
) -> None:
    """No escape sequence of a report gets out; an arrow has another form in ASCII."""
    ends = {"test_a": (Result.FAIL, "\x1b[2Jgone")}
    diff = compare(report, build.build(ending(evidence, ends), catalogue))
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")

    diff_text.show(diff, stream)
    stream.seek(0)
    text = stream.read()

    assert "pass -> fail: ?[2Jgone" in text
    assert "\x1b" not in text


class TestCommand:
    """Exit codes: 0 nothing is worse, 1 something is, 2 wrong usage."""

    @pytest.fixture
    def reports(
        self, tmp_path: Path, report: Report, spoil: Spoil, catalogue: Catalogue
    ) -> tuple[Path, Path]:
        """A good report and a bad one, each in a directory of its own."""
        good, bad = tmp_path / "good", tmp_path / "bad"
        for directory, content in ((good, report), (bad, build.build(spoil("test_a"), catalogue))):
            directory.mkdir()
            publish.publish(content, directory)
        return good, bad

    def test_worse_is_1_and_better_is_0(self, command: Command, reports: tuple[Path, Path]) -> None:
        """Directories and files."""
        good, bad = reports

        assert command(good, bad / "report.json")[0] == 1
        assert command(bad, good)[0] == 0
        assert command(good, good) == (
            *(0, "the same 3 requirements with the same results (local)\n"),
            "",
        )

    def test_json_is_for_programs(self, command: Command, reports: tuple[Path, Path]) -> None:
        """Everything, by names that stay."""
        code, out, _ = command(*reports, "--format", "json")

        answer = json.loads(out)
        assert code == 1
        assert answer["regression"] is True
        assert answer["verdict"]["after"] == "not-conformant"
        assert answer["requirements"][0]["kind"] == "failing"
        assert answer["requirements"][0]["checks"][0]["after_message"] == "spoiled"

    def test_what_is_no_report_is_wrong_usage(
        self, command: Command, reports: tuple[Path, Path], tmp_path: Path
    ) -> None:
        """One line: not there, not JSON, another kind of JSON, or edited."""
        good, _ = reports
        edited = json.loads((good / "report.json").read_text())
        edited["reason"] = "it is good"
        for name, content in (("torn", "{"), ("other", "[]"), ("edited", json.dumps(edited))):
            (tmp_path / f"{name}.json").write_text(content)
        for name, complaint in (
            ("nowhere", "cannot read"),
            ("torn", "is not JSON"),
            ("other", "violates the schema"),
            ("edited", "it was changed after it was written"),
        ):
            code, out, err = command(good, tmp_path / f"{name}.json")

            assert (code, out, err.count("\n")) == (2, "", 1)
            assert err.startswith("svidproof: ")
            assert complaint in err
        assert command(good)[0] == 2, "two reports are compared"


def test_reading_and_verifying_agree_on_what_is_sound(report: Report, tmp_path: Path) -> None:
    """What was written is read; a directory stands for its report."""
    path = publish.publish(report, tmp_path)

    assert read.locate(str(tmp_path)) == path
    assert read.sound(path) == report
