"""Prints one line for each failure of `make test`, whose output is too long to search.

It reads what pytest and `svidproof selftest` leave behind; `svidproof run` ends with its failures.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

UNIT_TESTS = Path(".pytest_cache/v/cache/lastfailed")
SABOTAGES = Path("reports/selftest/selftest.json")
# More have one cause, and only the end of a log is read.
MOST = 12


def read(path: Path) -> dict[str, Any]:
    """A file of JSON; empty where the step that writes it was not reached."""
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    return content


def main() -> None:
    """Print unit tests that failed, and requirements that held on a wrong deployment."""
    failed = [f"unit test {name}" for name in read(UNIT_TESTS)]
    result = read(SABOTAGES)
    failed += [
        f"sabotage {f['sabotage']}: {f['requirement']}: {f['because']}"
        for f in result.get("findings", ())
        if not f["red"] and not f["unsupported"]
    ]
    failed += [
        f"sabotage {name}: finding {what}" for name, what in result.get("misled", {}).items()
    ]
    for line in failed[:MOST]:
        sys.stdout.write(f"failed: {line}\n")
    if len(failed) > MOST:
        sys.stdout.write(f"failed: and {len(failed) - MOST} more\n")


if __name__ == "__main__":
    main()
