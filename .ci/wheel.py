"""Proves that the wheel holds all that it needs: installs it elsewhere, and uses it there."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

_WHERE = "from svidproof.model.files.manifests import data_root; print(data_root())"
_WHICH = "from svidproof.report.provenance import files_sha256; print(files_sha256())"


def main(dist: Path) -> int:
    """Install the one wheel of `dist` into a new environment outside the checkout, and run it."""
    [wheel] = dist.glob("*.whl")
    with tempfile.TemporaryDirectory(prefix="svidproof-wheel-") as name:
        home, elsewhere = Path(name) / "environment", Path(name) / "elsewhere"
        elsewhere.mkdir()
        venv.create(home, with_pip=True)
        bin_ = home / "bin"

        def run(*argv: str) -> None:
            subprocess.run(argv, cwd=elsewhere, check=True)

        run(str(bin_ / "python"), "-m", "pip", "install", "--quiet", str(wheel.resolve()))
        where = subprocess.check_output([bin_ / "python", "-c", _WHERE], cwd=elsewhere, text=True)
        if not Path(where.strip()).is_relative_to(home):
            raise SystemExit(f"the wheel's svidproof takes its suites from {where.strip()}")
        package = Path(where.strip()).parent
        if not (package / "py.typed").is_file():
            raise SystemExit("the wheel does not say that it is typed: py.typed is missing")
        if (package.parent / "tests").exists() or (package / "tests").exists():
            raise SystemExit("the wheel holds the suite's own tests")
        which = [str(bin_ / "python"), "-c", _WHICH]
        theirs = subprocess.check_output(which, cwd=elsewhere, text=True)
        checkout = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "fixtures")}
        if theirs != subprocess.check_output(which, cwd=elsewhere, text=True, env=checkout):
            raise SystemExit("a report of the wheel and one of the checkout have two files_sha256")
        checks = subprocess.check_output([bin_ / "svidproof", "list"], cwd=elsewhere, text=True)
        sys.stdout.write(f"the wheel lists {checks.splitlines()[-1]}\n")
        sys.stdout.flush()
        run(str(bin_ / "svidproof"), "run", "--requirement", "HANDSHAKE-2")
        [_report] = elsewhere.glob("reports/*/report.json")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1])))
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(map(str, error.cmd[1:]))} ended with {error.returncode}")
