"""What several reports say together: the verdict, what differs, and what is not there."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from svidproof.model.catalogue import Catalogue
from svidproof.model.verdict import Result, Verdict
from svidproof.report import build, publish, read
from svidproof.report.compare import matrix as matrices
from svidproof.report.compare.matrix import Cell, Matrix, MatrixError, arrange
from svidproof.report.model import Component, Evidence

Spoil = Callable[..., Evidence]
Put = Callable[..., Cell]


def versions(evidence: Evidence, spire: str, envoy: str) -> Evidence:
    """The same evidence of other versions."""
    return replace(
        evidence,
        components=(
            Component("spire-server", spire, "release", "a" * 64),
            Component("spire-agent", spire, "release", "b" * 64),
            Component("envoy", envoy, "wheel", "c" * 64),
        ),
    )


@pytest.fixture
def put(tmp_path: Path, evidence: Evidence, catalogue: Catalogue) -> Put:
    """Leaves a report of some versions, and gives its cell."""

    def leave(spire: str, envoy: str, changed: Evidence | None = None, name: str = "") -> Cell:
        report = build.build(versions(changed or evidence, spire, envoy), catalogue)
        directory = tmp_path / (name or f"spire-{spire}-envoy-{envoy}")
        directory.mkdir()
        publish.publish(report, directory)
        return Cell.of(report, directory, tmp_path)

    return leave


def test_cells_stand_in_the_order_of_their_versions(put: Put) -> None:
    """By their numbers, not by their letters; and a label says what distinguishes a cell."""
    cells = [put("1.15.3", "1.10.0"), put("1.15.3", "1.9.1"), put("1.15.2", "1.9.1"),
             put("1.15.2", "1.10.0")]  # fmt: skip

    matrix = arrange(cells, whole=True)

    assert [matrix.label(c) for c in matrix.cells] == [
        "SPIRE 1.15.2, Envoy 1.9.1", "SPIRE 1.15.2, Envoy 1.10.0",
        "SPIRE 1.15.3, Envoy 1.9.1", "SPIRE 1.15.3, Envoy 1.10.0",
    ]  # fmt: skip
    alone = arrange(cells[:2], whole=True)
    assert [alone.label(c) for c in alone.cells] == ["Envoy 1.9.1", "Envoy 1.10.0"]


def test_parts_of_several_versions_are_told(put: Put, evidence: Evidence) -> None:
    """Such as an agent of somebody's own beside a released server."""
    mixed = versions(evidence, "1.15.3", "1.40.0")
    own = replace(mixed.components[1], version="1.15.3-dev-x")
    parts = (mixed.components[0], own, *mixed.components[2:])

    cell = replace(put("1.15.3", "1.40.0"), report=None)
    place = matrices.Place.of(
        {
            "run": {"platform": "local", "profiles": ["core"], "timing": "brisk"},
            "components": [{"name": c.name, "version": c.version} for c in parts],
        }
    )

    assert place.spire == "1.15.3 (spire-server), 1.15.3-dev-x (spire-agent)"
    assert replace(place, spire="1.15.3") == cell.place


@pytest.mark.parametrize(
    ("results", "verdict", "reason"),
    [
        pytest.param(
            (Result.PASS, Result.PASS), Verdict.CONFORMANT,
            "both combinations meet the 3 selected requirements, "
            "1 with a known deviation", id="good",
        ),
        pytest.param(
            (Result.FAIL, Result.PASS), Verdict.NOT_CONFORMANT,
            "1 of 2 combinations is not conformant: Envoy 1.39.3 (ONE-1 does not hold)", id="fails",
        ),
        pytest.param(
            (Result.PASS, Result.MISSING), Verdict.INCONCLUSIVE,
            "1 of 2 combinations is inconclusive: Envoy 1.40.0 "
            "(ONE-1 of the core level were not (fully) checked)", id="open",
        ),
        pytest.param(
            (Result.MISSING, Result.FAIL), Verdict.NOT_CONFORMANT,
            "1 of 2 combinations is not conformant: Envoy 1.40.0 (ONE-1 does not hold); "
            "1 of 2 combinations is inconclusive: Envoy 1.39.3 "
            "(ONE-1 of the core level were not (fully) checked)", id="both",
        ),
    ],
)  # fmt: skip
def test_verdict_is_that_of_the_worst(
    put: Put, spoil: Spoil, results: tuple[Result, ...], verdict: Verdict, reason: str
) -> None:
    """A refutation before what could not be judged, before what holds; and which it is."""
    cells = [
        put("1.15.3", envoy, spoil("test_a", result))
        for envoy, result in zip(("1.39.3", "1.40.0"), results, strict=True)
    ]

    judgement = arrange(cells, whole=True).judgement

    assert (judgement.verdict, judgement.reason) == (verdict, reason)


def test_lost_report_is_not_taken_for_one_never_meant(put: Put) -> None:
    """A combination of what is there that left no report makes the matrix inconclusive."""
    cells = [put("1.15.2", "1.39.3"), put("1.15.3", "1.39.3"), put("1.15.3", "1.40.0")]

    matrix = arrange(cells, whole=True)

    assert len(matrix.cells) == 4
    assert matrix.judgement.verdict is Verdict.INCONCLUSIVE
    assert "SPIRE 1.15.2, Envoy 1.40.0 (there is no report of it)" in matrix.judgement.reason
    assert arrange(cells, whole=False).judgement.verdict is Verdict.CONFORMANT


def test_combination_is_one_of_those_alike_in_all_else(put: Put, spoil: Spoil) -> None:
    """What ran on another platform leaves no hole here."""
    cells = [put("1.15.3", "1.40.0"), put("1.15.2", "1.39.3", spoil(platform="kind"), "kind")]

    matrix = arrange(cells, whole=True)

    assert [matrix.label(c) for c in matrix.cells] == [
        "SPIRE 1.15.2, Envoy 1.39.3, platform kind", "SPIRE 1.15.3, Envoy 1.40.0, platform local",
    ]  # fmt: skip


def test_two_reports_of_one_place_are_refused(put: Put) -> None:
    """Which of the two counts cannot be guessed."""
    cells = [put("1.15.3", "1.40.0"), put("1.15.3", "1.40.0", name="again")]

    with pytest.raises(MatrixError, match=r"^spire-1.15.3-envoy-1.40.0 and again are both of"):
        arrange(cells, whole=True)


def test_differences_are_told_by_cell(put: Put, spoil: Spoil) -> None:
    """Which requirement, its result in each cell, and what the checks saw where it is so."""
    cells = [put("1.15.3", "1.39.3", spoil("test_c")), put("1.15.3", "1.40.0")]
    cells.append(Cell.absent(replace(cells[0].place, envoy="1.41.0"), "it left no report"))

    found = matrices.differences(Matrix(tuple(cells)))

    assert [(d.id, d.results) for d in found] == [
        ("ONE-1", ("fail", "pass", "no report")), ("TWO-1", ("fail", "pass", "no report")),
    ]  # fmt: skip
    assert found[0].told == (("fail", "spoiled", (0,)),)


def test_failure_is_told_before_what_is_known(put: Put, spoil: Spoil) -> None:
    """Though it is met in a later cell, by a later check."""
    cells = [put("1.15.3", "1.39.3"), put("1.15.3", "1.40.0", spoil("test_b[lax]"))]

    (difference,) = matrices.differences(arrange(cells, whole=True))

    assert difference.told == (("fail", "spoiled", (1,)), ("known-deviation", "let in", (0,)))


def test_what_is_asked_of_some_only_is_a_difference(
    put: Put, evidence: Evidence, catalogue: Catalogue
) -> None:
    """A requirement that one cell does not have is not passed over."""
    fewer = replace(
        evidence, requirements=("ONE-1", "ONE-2"), checks=evidence.checks[:3]
    )  # TWO-1 is not asked for
    matrix = arrange([put("1.15.3", "1.39.3", fewer), put("1.15.3", "1.40.0")], whole=True)

    assert [(d.id, d.results) for d in matrices.differences(matrix)] == [
        ("TWO-1", ("not selected", "pass")),
    ]
    assert catalogue["TWO-1"].title


def test_same_results_are_no_difference(put: Put) -> None:
    """Though times and versions differ."""
    matrix = arrange([put("1.15.3", "1.39.3"), put("1.15.3", "1.40.0")], whole=True)

    assert matrices.differences(matrix) == []


def test_deviations_are_told_with_the_cells_that_met_them(put: Put, spoil: Spoil) -> None:
    """And with the versions for which they are known."""
    cells = [put("1.15.3", "1.39.3", spoil("test_b[lax]", Result.PASS)), put("1.15.3", "1.40.0")]

    (met,) = matrices.deviations(arrange(cells, whole=True))

    assert (met.component, met.versions, met.requirements) == ("envoy", ">=1.36", ("ONE-2",))
    assert met.cells == (1,)


def test_reports_are_gathered_from_below_a_directory(put: Put, tmp_path: Path) -> None:
    """However deep a CI has put them; one that was changed is refused, and so is none at all."""
    with pytest.raises(read.ReportError, match=r"^there is no report\.json below"):
        matrices.gather(tmp_path)
    (tmp_path / "artifacts").mkdir()
    first, second = put("1.15.3", "1.39.3"), put("1.15.3", "1.40.0", name="artifacts/newest")

    assert matrices.gather(tmp_path) == [second, first]
    assert second.folder == "artifacts/newest"
    assert second.page == "report.json"

    path = tmp_path / first.folder / "report.json"
    path.write_text(path.read_text().replace('"conformant"', '"inconclusive"'))
    with pytest.raises(read.ReportError, match="its digest does not match"):
        matrices.gather(tmp_path)


def test_cell_leads_to_the_page_of_its_run(put: Put, tmp_path: Path) -> None:
    """To report.html if it is there."""
    cell: Any = put("1.15.3", "1.40.0")
    (tmp_path / cell.folder / "report.html").touch()

    (again,) = matrices.gather(tmp_path)

    assert again.page == "report.html"
