"""Errors in a log that nobody caused are defects, even when every request succeeds."""

import re

from svidproof import Capability, Testbed, needs, requirement
from svidproof.log_line import LogRecord
from svidproof.watch.observation import Observation

ERRORS = {"error", "fatal", "panic", "critical", "off"}
# What a program prints when it does not go through its logger any more.
CRASH = re.compile(r"panic:|Traceback|goroutine \d+ \[|Caught \w+|assert failure|fatal error")


@requirement("EVENTS-5")
@needs(Capability.SPIRE_LOGS, Capability.OWN_SPIRE)
def test_no_component_logs_an_unprovoked_error(rotations: Observation) -> None:
    """No component logs an error that a check did not provoke."""
    testbed = rotations.testbed
    records = [r for c in testbed.components for r in rotations.timeline.logs(c)]

    errors = [r for r in records if r.level in ERRORS or CRASH.search(r.message)]

    silent = {testbed.spire.component, *testbed.agents} - {r.component for r in records}
    assert not silent, f"no log of {silent} was read"
    surprises = [r for r in errors if not _provoked(testbed, r)]
    assert not surprises, "; ".join(_line(r) for r in surprises[:3])


def _provoked(testbed: Testbed, record: LogRecord) -> bool:
    return any(
        p.component == record.component
        and re.search(p.pattern, record.message)
        and p.start.wall <= record.wall <= p.end.wall
        for p in testbed.provoked
    )


def _line(record: LogRecord) -> str:
    facts = ", ".join(f"{k}={v}" for k, v in record.fields.items() if k in {"error", "cause"})
    return f"{record.component}: {record.message} {facts}".rstrip()
