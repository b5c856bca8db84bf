"""Checks all shell by shellcheck: scripts, and the steps of action.yml, which actionlint skips."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

# What a runner gives to each step; the rest of a step's variables is in its `env`.
RUNNER = ("GITHUB_ACTION_PATH", "GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "RUNNER_TEMP")


def scripts(path: Path) -> dict[str, str]:
    """The shell in a file, by what to call it."""
    if path.suffix not in (".yml", ".yaml"):
        return {str(path): path.read_text("utf-8")}
    steps = yaml.safe_load(path.read_text("utf-8"))["runs"]["steps"]
    return {f"{path}, step {s['id']}": _script(s) for s in steps if "run" in s}


def _script(step: dict[str, Any]) -> str:
    """A step as a runner starts it: bash -e -o pipefail, with these variables and no others."""
    names = " ".join(f"{name}=''" for name in (*RUNNER, *step.get("env", ())))
    run: str = step["run"]
    return f"#!/usr/bin/env bash\nset -e -o pipefail\nexport {names}\n{run}"


def main(names: list[str]) -> int:
    """Check each file; the exit status is 1 if any has a finding, or none was found."""
    found = {name: text for file in names for name, text in scripts(Path(file)).items()}
    failed = not found
    for name, text in found.items():
        command = ["shellcheck", "--enable=check-unassigned-uppercase", "-"]
        if subprocess.run(command, input=text, text=True, check=False).returncode:
            sys.stderr.write(f"{name}: see above; lines count from its first\n")
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
