"""An unprovoked error in a log is a defect, even if every request succeeds."""

import re

from svidproof import Capability, LogRecord, Testbed, needs, requirement
from svidproof.checks import Observation

ERRORS = {"error", "fatal", "panic", "critical", "off"}
# Crash output, which bypasses a program's logger.
CRASH = re.compile(r"panic:|Traceback|goroutine \d+ \[|Caught \w+|assert failure|fatal error")


@requirement("EVENTS-5")
@needs(Capability.SPIRE_LOGS, Capability.OWN_SPIRE)
def test_no_component_logs_an_unprovoked_error(rotations: Observation) -> None:
    """No component logs an error that no check provoked."""
    testbed = rotations.testbed
    records = [r for c in testbed.components for r in rotations.timeline.logs(c)]

    errors = [r for r in records if r.level in ERRORS or CRASH.search(r.message)]

    silent = {testbed.spire.component, *testbed.agents} - {r.component for r in records}
    assert not silent, f"no log line of {sorted(silent)} was read"
    unprovoked = [r for r in errors if not _is_provoked(testbed, r)]
    assert not unprovoked, "; ".join(_line(r) for r in unprovoked[:3])


def _is_provoked(testbed: Testbed, record: LogRecord) -> bool:
    return any(
        p.component == record.component
        and re.search(p.pattern, record.message)
        and p.start.wall <= record.wall <= p.end.wall
        for p in testbed.provoked
    )


def _line(record: LogRecord) -> str:
    fields = ", ".join(f"{k}={v}" for k, v in record.fields.items() if k in {"error", "cause"})
    return f"{record.component}: {record.message} {fields}".rstrip()
