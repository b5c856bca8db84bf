"""A report's directory as a small run leaves it, hostile words included, for tests of the page."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from svidproof.model.catalogue import Catalogue
from svidproof.model.verdict import Result
from svidproof.report import build, publish
from svidproof.report.model import Check, Evidence

START = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
# What a component could log to take a page over, to fetch something, or to break its data.
HOSTILE = (
    "</script><script>document.title='taken'</script><img src=http://127.0.0.1:9/x> \"'&`$$x$$"
)
FOLDER = "artifacts/a-a"
COMMAND = "svidproof run --requirement ONE-1 -- 'a/test_a.py::test_a'"


def event(kind: str, at: float, **facts: Any) -> dict[str, Any]:  # noqa: ANN401  JSON
    """One event of a timeline."""
    return {"kind": kind, "at": at, "wall": _wall(at), **facts}


def events() -> list[dict[str, Any]]:
    """Two workloads, three SVIDs each, a push, trouble, requests and refusals."""
    found = []
    for workload in ("api", "client"):
        own = f"spiffe://example.org/{workload}"
        found.append(event("delivery", 1.0, workload=workload, ids=[own], flaws=[]))
        for number in range(3):
            came = 1.0 + 10 * number
            for lag, source in ((0.0, "workload-api"), (0.2, "certs"), (0.3, "config-dump")):
                found.append(_sighting(source, workload, number, came + lag))
    found.append(_sighting("wire", "api", 1, 11.5))
    found += [
        event("handshake", 1.0 + n, workload="api", seconds=0.002 + n / 1e4) for n in range(9)
    ]
    pid = {"pid": "7"}
    found += [
        _log("spire-agent", 2.0, "debug", "Received StreamSecrets request",
             resource_names='["spiffe://example.org/api"]', **pid),
        _log("spire-agent", 2.1, "debug", "Sending StreamSecrets response", version_info="1",
             **pid),
        _log("spire-agent", 11.0, "info", "Renewing X509-SVID", spiffe_id="spiffe://example.org/api"),
        _log("spire-server", 3.0, "error", HOSTILE, error=HOSTILE),
        _log("api.envoy", 4.0, "access", "NotSet", tls_failure=HOSTILE, peer_id="-"),
    ]  # fmt: skip
    for number in range(100):
        refused = number == 50
        status, note = (503, HOSTILE) if refused else (200, "")
        at = 1.0 + number / 4
        found.append(
            event("request", at, client="client", call="api", tag="t", status=status, note=note)
        )
    return found


def lines(found: list[dict[str, Any]]) -> list[str]:
    """As they stand in the file."""
    return [json.dumps(e) + "\n" for e in found]


def write(directory: Path, evidence: Evidence, catalogue: Catalogue) -> dict[str, Any]:
    """Leave report.json, a timeline, and the evidence of what failed; returns the report."""
    report = build.build(evidence, catalogue)
    publish.publish(report, directory)
    (directory / publish.TIMELINE).write_text("".join(lines(events())))
    folder = directory / FOLDER
    folder.mkdir(parents=True)
    (folder / "rerun.txt").write_text(f"{COMMAND}\n")
    (folder / "traceback.txt").write_text(f"E  {HOSTILE}\x00\x1b[31m\n")
    (folder / "config_dump.json").write_text("{}\n" * 20_000)
    (folder / "log").mkdir()
    (folder / "log" / "api.envoy.tail.log").write_text("old\n" * 9_000 + "the end\n")
    return report


def broken(evidence: Evidence) -> Evidence:
    """The same run, in which one check failed in the worst words."""
    first, *others = evidence.checks
    failed = replace(first, result=Result.FAIL, message=f"saw {HOSTILE}", artifacts=FOLDER)
    hostile = Check("a/test_h.py::test_h[<b>]", ("ONE-2",), HOSTILE, Result.PASS, 0.1, HOSTILE)
    return replace(evidence, checks=(failed, *others, hostile))


def _sighting(source: str, workload: str, number: int, at: float) -> dict[str, Any]:
    begin = -9.0 + 10 * number
    return event("certificate", at, source=source, workload=workload, serial=f"{number + 10:x}",
                 not_before=_wall(begin), not_after=_wall(begin + 40))  # fmt: skip


def _log(component: str, at: float, level: str, message: str, **fields: str) -> dict[str, Any]:
    return event("log", at + 0.05, component=component, level=level, written=_wall(at),
                 message=message, fields=fields)  # fmt: skip


def _wall(at: float) -> str:
    return (START + timedelta(seconds=at)).isoformat()
