"""Regenerates reports/examples: a conformant run, one on an agent with a defect, and their picture.

Paths, user and host get into logs, and so into the timeline: run it where these may be read by
everybody, such as an ordinary user's /srv/demo.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from svidproof.report import publish
from svidproof.supply import tools
from svidproof.supply.tools import pins, process
from svidproof.supply.tools.cache import Cache, delete
from svidproof.supply.tools.pins import GoModule
from svidproof.supply.tools.sources import go_module
from svidproof.supply.tools.sources.making import Workshop

if TYPE_CHECKING:
    from collections.abc import Mapping

    from svidproof.supply.tools.sources.making import Made

PATCH = Path("fewer-pushes.patch")
AGENT, MODULE = "spire-agent", "github.com/spiffe/spire"
# An untagged build calls itself <version>-dev-<this>.
_FLAGS = f"-s -w -X {MODULE}/pkg/common/version.githash=fewer-pushes"
# Of one check the whole evidence is kept, of the others what one reads first: 24 MB are too many.
_READ_FIRST = ("rerun.txt", "traceback.txt")
_SIZE = "1200,750"
_CONFORMANT, _NOT_CONFORMANT = 0, 1


def build(patch: Path, work: Path) -> Path:
    """Build the agent from its pinned Go module, with a patch."""
    sources = (s for s in pins.current().tool(AGENT).sources if isinstance(s, GoModule))
    source, version = next(sources), tools.default_version(AGENT)
    folder = work / "tools"
    shutil.copytree(pins.current().directory, folder)
    module = folder / pins.host().fill(source.directory, version)
    # With what is fetched writable, and gone with the rest.
    kept = {"GOPATH": str(work / "path"), "GOMODCACHE": str(work / "mod")}
    env = go_module.quiet_go(work) | kept | {"GOFLAGS": "-modcacherw"}
    fetch = ["go", "mod", "download", "-json", f"{MODULE}@v{version}"]
    patched = folder / "spire" / "patched"
    Path(json.loads(_output(fetch, module, env))["Dir"]).rename(patched)
    _output(["patch", "--strip=1", f"--input={patch}"], patched)
    edit = [f"-replace={MODULE}=../patched", f"-droptool={MODULE}/cmd/spire-server"]
    _output(["go", "mod", "edit", *edit], module)
    changed = replace(
        source,
        local_modules=(*source.local_modules, "spire/patched"),
        binaries={AGENT: AGENT},
        ldflags=_FLAGS,
    )
    cache, label = Cache.default(), f"{AGENT}-patched"
    with cache.exclusive(label, progress := tools.Progress()) as holder, cache.staging(label) as at:
        changed_pins = replace(pins.current(), directory=folder)
        shop = Workshop(AGENT, changed_pins, pins.host(), cache, at, holder, progress)
        made: Made = go_module.make(changed, version, shop)
        shutil.copy(made.binaries[AGENT], work / AGENT)
        if made.scrap is not None:
            delete(made.scrap)
    return work / AGENT


def prune(sample: Path) -> None:
    """Drop most evidence, as a run does after many failures, and render the page again."""
    whole = sorted(p for p in sample.glob(f"{publish.ARTIFACTS}/*") if (p / "envoy").is_dir())
    for folder in whole[1:]:
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in _READ_FIRST:
                path.unlink()
    argv = ["svidproof", "report", str(sample)]
    subprocess.run(argv, check=True)


def picture(page: Path, target: Path, work: Path) -> None:
    """Take a picture of the top of a page, as a browser shows it."""
    names = ("chromium", "google-chrome", "chromium-browser")
    found = os.environ.get("SVIDPROOF_BROWSER") or next(filter(None, map(shutil.which, names)))
    _output(
        [
            found, "--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={_SIZE}",
            "--virtual-time-budget=4000", f"--user-data-dir={work / 'browser'}",
            f"--screenshot={target}", page.absolute().as_uri(),
        ],
        work,
    )  # fmt: skip


def main(target: Path, agent: Path | None = None) -> int:
    """Make all of it, and put it where the examples are.

    Args:
        target: there.
        agent: one that was built with the patch before.
    """
    target = target.absolute()
    with tempfile.TemporaryDirectory(prefix="svidproof-examples-", dir=Path.cwd()) as name:
        work = Path(name)
        if agent is None:
            build(target / PATCH, work)
        else:
            shutil.copy(agent, work / AGENT)
        for sample, options, expected in (
            ("conformant", [], _CONFORMANT),
            ("not-conformant", [f"--tool={AGENT}={AGENT}"], _NOT_CONFORMANT),
        ):
            argv = ["svidproof", "run", *options, "--report-dir", sample]
            code = subprocess.run(argv, cwd=work, check=False).returncode
            if code != expected:
                raise SystemExit(f"{sample}: exit code {code} instead of {expected}")
            prune(work / sample)
            shutil.rmtree(target / sample, ignore_errors=True)
            shutil.move(work / sample, target / sample)
        picture(target / "conformant" / "report.html", target / "report.png", work)
    return 0


def _output(argv: list[str], where: Path, env: Mapping[str, str] | None = None) -> str:
    """Run a program; what it says if it fails is the reason."""
    answer = process.ask(argv, seconds=600, cwd=where, env=env)
    if answer.code:
        raise SystemExit(f"{' '.join(argv[:3])} failed: {answer.stderr or answer.stdout}")
    return answer.stdout


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
