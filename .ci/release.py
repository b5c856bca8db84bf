"""The steps of a release that need no GitHub, with what was built; `tox run -e release`.

It compares the versions of tag, project, changelog and citation, installs the wheel with the locked
versions of its dependencies into a new environment, and asks the command for its version there. The
output directory then has wheel and sdist, an SBOM of that environment (CycloneDX), their checksums,
and the notes.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
NOTES, SUMS = "notes.md", "SHA256SUMS"
_HEADING = re.compile(r"(?m)^## \[(?P<version>[^]]+)\](?: - (?P<date>\S+))?.*$")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def version(checkout: Path) -> str:
    """The version of the project."""
    project = tomllib.loads((checkout / "pyproject.toml").read_text("utf-8"))
    found: str = project["project"]["version"]
    return found


def notes(changelog: str, wanted: str) -> tuple[str, str]:
    """Return the date and text of a version's section; raises ValueError if there is none."""
    headings = list(_HEADING.finditer(changelog))
    for at, heading in enumerate(headings):
        if heading["version"] == wanted:
            end = headings[at + 1].start() if at + 1 < len(headings) else len(changelog)
            text = changelog[heading.end() : end].strip()
            if not text:
                break
            return heading["date"] or "", f"{text}\n"
    raise ValueError(f"CHANGELOG.md has no section [{wanted}] with text")


def complaints(checkout: Path, tag: str | None) -> list[str]:
    """What keeps a release from being cut, one a line.

    Args:
        checkout: the repository.
        tag: the tag that cuts it; None for a dry run, which needs no date.
    """
    wanted = version(checkout)
    found = []
    if tag is not None and tag != f"v{wanted}":
        found.append(f"the tag is {tag}, the version in pyproject.toml {wanted}")
    citation = yaml.safe_load((checkout / "CITATION.cff").read_text("utf-8"))
    if citation["version"] != wanted:
        found.append(f"the version in CITATION.cff is {citation['version']}, not {wanted}")
    try:
        date, _ = notes((checkout / "CHANGELOG.md").read_text("utf-8"), wanted)
    except ValueError as error:
        return [*found, str(error)]
    if tag is not None and not _DATE.fullmatch(date):
        found.append(f"CHANGELOG.md: [{wanted}] has no date")
    return found


def install(wheel: Path, home: Path) -> Path:
    """Install the wheel with the locked versions of its dependencies; returns the Python."""
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-deps"]
    lock = str(ROOT / ".github" / "requirements.txt")
    subprocess.run([*pip, "--require-hashes", "--only-binary=:all:", "-r", lock], check=True)
    subprocess.run([*pip, "--no-index", str(wheel)], check=True)
    return python


def main(words: list[str]) -> int:
    """Do the steps; exit status 1 if something keeps the release from being cut."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tag", nargs="?", help="the tag that cuts the release; none for a dry run")
    parser.add_argument("--dist", type=Path, required=True, help="where wheel and sdist are")
    parser.add_argument("--output", type=Path, required=True, help="directory of the release")
    options = parser.parse_args(words)
    if found := complaints(ROOT, options.tag or None):
        sys.stderr.writelines(f"{line}\n" for line in found)
        return 1
    wanted = version(ROOT)
    [wheel], [sdist] = options.dist.glob("*.whl"), options.dist.glob("*.tar.gz")
    shutil.rmtree(options.output, ignore_errors=True)
    (options.output / "dist").mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="svidproof-release-") as name:
        elsewhere = Path(name) / "elsewhere"
        elsewhere.mkdir()
        python = install(wheel.resolve(), Path(name) / "environment")
        command = [str(python.with_name("svidproof")), "--version"]
        said = subprocess.check_output(command, cwd=elsewhere, text=True).strip()
        if said != f"svidproof {wanted}":
            raise SystemExit(f"the wheel says {said}, and not svidproof {wanted}")
        bill = options.output / f"svidproof-{wanted}.cdx.json"
        # Without pip, only svidproof and its dependencies are listed.
        subprocess.run(
            [str(python), "-m", "pip", "uninstall", "--quiet", "--yes", "pip"], check=True
        )
        lister = str(Path(sys.executable).with_name("cyclonedx-py"))
        of = ["environment", "--pyproject", str(ROOT / "pyproject.toml"), "--output-reproducible"]
        subprocess.run([lister, *of, "--output-file", str(bill), str(python)], check=True)
    files = [Path(shutil.copy(f, options.output / "dist")) for f in (wheel, sdist)] + [bill]
    sums = (f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n" for f in files)
    (options.output / SUMS).write_text("".join(sums), "utf-8")
    _, text = notes((ROOT / "CHANGELOG.md").read_text("utf-8"), wanted)
    (options.output / NOTES).write_text(text, "utf-8")
    sys.stdout.write(f"{said}: {', '.join(f.name for f in files)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
