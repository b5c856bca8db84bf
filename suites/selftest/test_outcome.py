"""Verdict rules: nothing that failed, was left out or never ran looks like a success."""

from collections.abc import Sequence
from typing import Any

import pytest

from svidproof.model import verdict as outcome
from svidproof.model.catalogue import Requirement
from svidproof.model.verdict import Fault, ProfileResult, Raised, Result, Verdict

P, F, D = Result.PASS, Result.FAIL, Result.KNOWN_DEVIATION
U, M, E, N = Result.UNSUPPORTED, Result.MISSING, Result.ERROR, Result.NOT_RUN
CLAIM = Raised(Fault.CLAIM, "AssertionError", "wrong")
ACCEPTED = Raised(Fault.CLAIM, "Accepted", "let in")
BROKEN = Raised(Fault.ENVIRONMENT, "BootError", "no testbed")
ABSENT = Raised(Fault.ABSENT, "Skipped", "no helper")


def requirement(name: str, level: str = "core") -> Requirement:
    """A requirement of the profile core."""
    return Requirement(name, "It holds", ("core",), ("test",), level)


def judged(
    results: Sequence[tuple[Requirement, Result]],
    *,
    executed: int,
    stopped: str | None,
    components: int = 3,
    duration_s: float = 40.0,
    environment: str | None = None,
) -> outcome.Judgement:
    """The verdict of a run that named its components and took its time."""
    return outcome.verdict(
        results,
        executed=executed,
        components=components,
        duration_s=duration_s,
        stopped=stopped,
        environment=environment,
    )


@pytest.mark.parametrize(
    ("raised", "deviation", "result", "message"),
    [
        pytest.param([], None, P, "", id="pass"),
        pytest.param([CLAIM], None, F, "wrong", id="fail"),
        pytest.param([BROKEN], None, E, "no testbed", id="error"),
        pytest.param([ABSENT], None, M, "no helper", id="missing"),
        pytest.param([BROKEN, CLAIM], None, F, "wrong", id="a-failure-is-a-fact"),
        pytest.param([ABSENT, BROKEN], None, E, "no testbed", id="error-before-missing"),
        pytest.param([ACCEPTED], "lax", D, "let in", id="deviation"),
        pytest.param([CLAIM], "lax", F, "wrong", id="fails-otherwise"),
        pytest.param([ACCEPTED, CLAIM], "lax", F, "let in", id="deviation-and-more"),
        pytest.param([BROKEN], "lax", E, "no testbed", id="deviation-not-judged"),
        pytest.param(
            [Raised(Fault.ENVIRONMENT, "Accepted", "x")], "lax", E, "x", id="only-the-name-is-alike"
        ),
        pytest.param(
            [],
            "lax",
            F,
            "unexpected pass of known deviation lax: remove it from the catalogue",
            id="unexpected-pass",
        ),
    ],
)
def test_check_is_judged_by_what_it_raised(
    raised: list[Raised], deviation: str | None, result: Result, message: str
) -> None:
    """A deviation counts only if it shows exactly as known."""
    judged = outcome.judge(raised, deviation, "Accepted" if deviation else None)

    assert (judged.result, judged.message) == (result, message)


@pytest.mark.parametrize(
    ("checks", "result"),
    [
        pytest.param([], N, id="none"),
        pytest.param([P, P], P, id="all-pass"),
        pytest.param([P, F, E], F, id="any-fail"),
        pytest.param([P, E, N], E, id="any-error"),
        pytest.param([P, N], N, id="any-not-run"),
        pytest.param([P, U], U, id="partly-unsupported"),
        pytest.param([P, M, U], M, id="partly-missing"),
        pytest.param([P, D], D, id="deviation"),
        pytest.param([D, F], F, id="deviation-and-fail"),
        pytest.param([D, U], U, id="deviation-and-unsupported"),
    ],
)
def test_requirement_is_no_better_than_its_checks(checks: list[Result], result: Result) -> None:
    """The worst that was seen counts, and what was not seen counts too."""
    assert outcome.of_requirement(checks) is result


@pytest.mark.parametrize(
    ("core", "extended", "result"),
    [
        pytest.param([P, D], [P], ProfileResult.PASS, id="pass"),
        pytest.param([P, F], [P], ProfileResult.FAIL, id="core-fails"),
        pytest.param([P, P], [F], ProfileResult.FAIL, id="extended-fails"),
        pytest.param([P, P], [U], ProfileResult.PARTIAL, id="extended-unsupported"),
        pytest.param([P, P], [E], ProfileResult.INCONCLUSIVE, id="extended-error"),
        pytest.param([P, U], [P], ProfileResult.INCONCLUSIVE, id="core-unsupported"),
        pytest.param([P, N], [P], ProfileResult.INCONCLUSIVE, id="core-not-run"),
        pytest.param([P, None], [P], ProfileResult.PARTIAL, id="core-left-out"),
        pytest.param([P, P], [None], ProfileResult.PARTIAL, id="extended-left-out"),
        pytest.param([None, None], [None], ProfileResult.INCONCLUSIVE, id="nothing"),
        pytest.param([], [], ProfileResult.INCONCLUSIVE, id="empty"),
        pytest.param([], [P], ProfileResult.PASS, id="extended-only"),
    ],
)
def test_profile_needs_its_whole_core(
    core: list[Result | None], extended: list[Result | None], result: ProfileResult
) -> None:
    """Core is all or nothing; extended may be absent, not broken; left out is partial."""
    both = []
    for level, results in (("core", core), ("extended", extended)):
        members = [requirement(f"X-{n}", level) for n in range(len(results))]
        known = {m.id: r for m, r in zip(members, results, strict=True) if r is not None}
        both.append(outcome.count(members, known))

    assert outcome.of_profile(*both) is result
    assert both[0].total == len(core)
    assert both[0].left_out == core.count(None)


@pytest.mark.parametrize(
    ("core", "extended", "executed", "stopped", "verdict"),
    [
        pytest.param([P, P], [P], 3, None, Verdict.CONFORMANT, id="all-hold"),
        pytest.param([P, D], [], 2, None, Verdict.CONFORMANT, id="known-deviation"),
        pytest.param([P, P], [U], 2, None, Verdict.CONFORMANT, id="extended-unsupported"),
        pytest.param([P, F], [], 2, None, Verdict.NOT_CONFORMANT, id="core-fails"),
        pytest.param([P, P], [F], 3, None, Verdict.NOT_CONFORMANT, id="extended-fails"),
        pytest.param([E, F], [], 1, None, Verdict.NOT_CONFORMANT, id="fail-before-error"),
        pytest.param([P, E], [], 1, None, Verdict.INCONCLUSIVE, id="error"),
        pytest.param([P], [E], 1, None, Verdict.INCONCLUSIVE, id="extended-error"),
        pytest.param([P, U], [], 1, None, Verdict.INCONCLUSIVE, id="core-unsupported"),
        pytest.param([P, M], [], 1, None, Verdict.INCONCLUSIVE, id="core-missing"),
        pytest.param([P, N], [], 1, None, Verdict.INCONCLUSIVE, id="core-not-run"),
        pytest.param([], [], 0, None, Verdict.INCONCLUSIVE, id="nothing-ran"),
        pytest.param([], [U], 0, None, Verdict.INCONCLUSIVE, id="nothing-executed"),
        pytest.param([P, P], [], 2, "interrupted", Verdict.INCONCLUSIVE, id="interrupted"),
        pytest.param([P, F], [], 2, "interrupted", Verdict.INCONCLUSIVE, id="stopped-and-failed"),
    ],
)
def test_verdict_is_never_green_by_omission(
    core: list[Result],
    extended: list[Result],
    executed: int,
    stopped: str | None,
    verdict: Verdict,
) -> None:
    """Conformant needs every core requirement to hold and nothing to have failed."""
    results = [(requirement(f"C-{n}"), r) for n, r in enumerate(core)]
    results += [(requirement(f"E-{n}", "extended"), r) for n, r in enumerate(extended)]

    judgement = judged(results, executed=executed, stopped=stopped)

    assert judgement.verdict is verdict
    assert judgement.reason
    assert "\n" not in judgement.reason


@pytest.mark.parametrize(
    ("circumstances", "found", "reason"),
    [
        pytest.param({}, Verdict.CONFORMANT, "all 2 requirements hold", id="as-it-should-be"),
        pytest.param(
            {"environment": "no disk"}, Verdict.INCONCLUSIVE, "no disk", id="environment-failed"
        ),
        pytest.param(
            {"components": 0},
            Verdict.INCONCLUSIVE,
            "the run names no component under test",
            id="no-components",
        ),
        pytest.param({"executed": 0}, Verdict.INCONCLUSIVE, "nothing ran", id="nothing-executed"),
        *(
            pytest.param(
                {"duration_s": seconds},
                Verdict.INCONCLUSIVE,
                "the run took no time, so nothing can have run",
                id=f"duration-{seconds}",
            )
            for seconds in (0, 0.0, -1.0, float("nan"), float("inf"))
        ),
    ],
)
def test_good_results_of_a_run_that_cannot_have_had_them_prove_nothing(
    circumstances: dict[str, Any], found: Verdict, reason: str
) -> None:
    """All requirements hold, and still there is no verdict without a run behind it."""
    results = [(requirement("C-1"), P), (requirement("C-2"), P)]

    judgement = judged(results, **{"executed": 2, "stopped": None, **circumstances})

    assert (judgement.verdict, judgement.reason) == (found, reason)


@pytest.mark.parametrize(
    "circumstances",
    [{"environment": "no disk"}, {"components": 0}, {"executed": 0}, {"duration_s": 0.0}],
)
def test_refuted_requirement_stays_refuted(circumstances: dict[str, Any]) -> None:
    """What is missing beside a failure takes nothing from it."""
    results = [(requirement("C-1"), F), (requirement("C-2"), P)]

    judgement = judged(results, **{"executed": 2, "stopped": None, **circumstances})

    assert judgement == outcome.Judgement(Verdict.NOT_CONFORMANT, "C-1 does not hold")


def test_reason_names_who_and_why() -> None:
    """The sentence names the requirements, a few of many, and the environment's failure."""
    failed = [(requirement(f"C-{n}"), F) for n in range(6)]
    broken = [(requirement("C-1"), E)]

    assert judged(failed, executed=6, stopped=None).reason == (
        "C-0, C-1, C-2, C-3 and 2 more do not hold"
    )
    assert judged(broken, executed=0, stopped=None, environment="disk full").reason == (
        "C-1 could not be judged: disk full"
    )
    assert judged([*failed[:1], *broken], executed=1, stopped=None).reason == (
        "C-0 does not hold; C-1 could not be judged"
    )
    assert judged(failed[:1], executed=1, stopped="interrupted").reason == (
        "interrupted; by then C-0 had failed"
    )


def test_exit_codes_are_the_documented_ones() -> None:
    """0 conformant, 1 not conformant, 3 inconclusive."""
    assert outcome.EXIT_CODES == {
        Verdict.CONFORMANT: 0,
        Verdict.NOT_CONFORMANT: 1,
        Verdict.INCONCLUSIVE: 3,
    }
