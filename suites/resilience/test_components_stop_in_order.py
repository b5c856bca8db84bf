"""Server and agent exit with status 0 on SIGTERM, and leave nothing behind."""

import re
from collections.abc import Mapping

from svidproof import Saw, requirement
from svidproof.checks import Outage

pytestmark = requirement("RESILIENCE-13")
# Crash output, which bypasses a program's logger, and what SPIRE logs when it ends by an error.
CRASH = re.compile(r"panic:|goroutine \d+ \[|fatal error|crashed")


def test_server_stops_in_order(server_away: Mapping[str, Outage], saw: Saw) -> None:
    """SPIRE server exits with status 0, logs no crash and removes its socket."""
    saw(_assert_in_order(server_away["stopped"]))


def test_agent_stops_in_order(agent_restarted: Mapping[str, Outage], saw: Saw) -> None:
    """SPIRE agent exits with status 0, logs no crash and removes its socket."""
    saw(_assert_in_order(agent_restarted["stopped"]))


def _assert_in_order(outage: Outage) -> str:
    [component] = outage.fault.components
    assert outage.statuses == {component: 0}, f"exit status: {dict(outage.statuses)}"
    lines = [r for r in outage.logs(component) if r.wall <= outage.back.wall]
    crashes = [r.message for r in lines if CRASH.search(r.message)]
    assert not crashes, f"{component} logged: {crashes[0][:200]}"
    assert not outage.sockets, f"{component} left its socket behind"
    return lines[-1].message if lines else f"{component} logged nothing more"
