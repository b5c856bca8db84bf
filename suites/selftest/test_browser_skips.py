"""The self-tests say in one line what a machine without a browser has not run."""

import os
import re
import subprocess
import sys
from pathlib import Path

from svidproof.checks.pages.browser import VARIABLE
from svidproof.model.manifests import data_root

LINE = re.compile(
    r"^(\d+) tests that need a browser were skipped: there is no browser: install chromium",
    re.MULTILINE,
)


def pages(tmp_path: Path, **environment: str) -> tuple[int, str]:
    """Run the self-tests of one page where PATH holds no browser; exit code and output."""
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "browser"]
    without = {name: value for name, value in os.environ.items() if name != VARIABLE}
    done = subprocess.run(
        [*argv, str(data_root() / "suites" / "selftest" / "test_report_browser.py")],
        env=without | {"PATH": str(tmp_path)} | environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=data_root(),
    )
    return done.returncode, done.stdout


def test_skipped_pages_are_told_in_one_line(tmp_path: Path) -> None:
    """With their number and what to install; the same line goes to the file that is asked for."""
    note = tmp_path / "skipped"

    code, output = pages(tmp_path, SVIDPROOF_SKIPPED=str(note))

    [count] = LINE.findall(output)
    assert code == 0
    assert int(count) > 1
    assert f"{count} skipped" in output
    assert LINE.findall(note.read_text()) == [count]


def test_named_browser_that_does_not_start_is_a_failure(tmp_path: Path) -> None:
    """A machine that is meant to have a browser does not skip for want of it."""
    code, output = pages(tmp_path, SVIDPROOF_BROWSER="/nowhere/chromium")

    assert code == 1
    # A bare Debian cannot even start the driver.
    assert re.search(r"SVIDPROOF_BROWSER is set, but \S.* cannot be started: ", output)
    assert not LINE.findall(output)
