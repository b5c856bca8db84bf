"""The summary of a CI job: what a run found, in Markdown that GitHub shows by itself."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from svidproof.model.catalogue import Catalogue
from svidproof.model.verdict import Result
from svidproof.report import build, publish
from svidproof.report.model import Evidence
from svidproof.report.text import job_summary

Spoil = Callable[..., Evidence]
Command = Callable[..., tuple[int, str, str]]


def sight(at: int, serial: str, workload: str = "api") -> str:
    """A line of timeline.jsonl: an SVID of 30 seconds, seen by the Workload API."""
    wall = f"2026-05-01T12:00:{at:02}"
    return json.dumps(
        {
            "kind": "certificate",
            "at": at,
            "wall": f"{wall}+00:00",
            "source": "workload-api",
            "workload": workload,
            "serial": serial,
            "not_before": f"{wall}+00:00",
            "not_after": f"2026-05-01T12:00:{at + 30:02}+00:00",
        }
    )


def test_summary_begins_with_verdict_reason_and_what_was_tested(
    report: dict[str, Any], tmp_path: Path
) -> None:
    """Then each profile, and every requirement."""
    lines = job_summary.make(report, tmp_path).splitlines()

    assert lines[:5] == [
        "### svidproof: conformant",
        "",
        "**all 3 requirements hold, 1 with a known deviation**",
        "",
        "SPIRE 1.15.3 and Envoy 1.40.0 · platform local · 40 s",
    ]
    assert "| core | pass | 2 of 2 | 1 of 1 |" in lines
    assert "| **ONE-1** It holds | ✅ pass | 2 of 2 | 0.6 |" in lines
    assert "| **ONE-2** It nearly holds | 🟡 known-deviation | 2 of 2 | 0.5 |" in lines
    assert not any("does not hold" in line or "mermaid" in line for line in lines)


def test_what_failed_is_told_with_what_was_seen(
    spoil: Spoil, catalogue: Catalogue, tmp_path: Path
) -> None:
    """And that the deployment was wrong on purpose, and only a part was asked for."""
    evidence = spoil("test_a", Result.FAIL, sabotage="lax", selection="partial")

    lines = job_summary.make(build.build(evidence, catalogue), tmp_path).splitlines()

    assert lines[0] == "### svidproof: not conformant (sabotaged: lax) (partial)"
    assert "| **ONE-1** It holds | ❌ fail | spoiled |" in lines


def test_svids_are_drawn_below_their_workload(report: dict[str, Any], tmp_path: Path) -> None:
    """From the first sight of each to its expiration, in milliseconds; a name means no Mermaid."""
    sights = [sight(0, "a"), sight(10, "b"), sight(5, "c", "cl:ie;nt")]
    (tmp_path / publish.TIMELINE).write_text("\n".join([*sights, "torn"]))
    start = 1777636800000

    text = job_summary.make(report, tmp_path)

    _, _, picture = text.partition("```mermaid\n")
    assert picture.partition("```")[0].splitlines() == [
        "---",
        "displayMode: compact",
        "---",
        "gantt",
        "  dateFormat x",
        "  axisFormat %H:%M:%S",
        "  section api",
        f"  1 :{start}, {start + 30_000}",
        f"  2 :{start + 10_000}, {start + 40_000}",
        "  section cl?ie?nt",
        f"  1 :{start + 5_000}, {start + 35_000}",
    ]


def test_a_long_run_is_drawn_in_part(report: dict[str, Any], tmp_path: Path) -> None:
    """More bars than can be told apart help nobody."""
    (tmp_path / publish.TIMELINE).write_text(
        "\n".join(sight(n % 30, f"{n}", who) for n in range(90) for who in ("a", "b"))
    )

    text = job_summary.make(report, tmp_path)

    assert sum(line.split(" :")[0].strip().isdigit() for line in text.splitlines()) == 60


def test_command_prints_it(svidproof: Command, report: dict[str, Any], tmp_path: Path) -> None:
    """And writes nothing; the page is written without the option."""
    publish.publish(report, tmp_path)

    code, out, _ = svidproof("report", tmp_path, "--format=markdown")

    assert code == 0
    assert out == job_summary.make(report, tmp_path) + "\n"
    assert [path.name for path in tmp_path.iterdir()] == [publish.REPORT]
