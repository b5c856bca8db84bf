"""Writes what is generated in the documents: requirements, the fields of a report, options."""

from __future__ import annotations

import subprocess
from pathlib import Path

from svidproof.report import fields, publish
from svidproof.run.request import options as request

LIST = ("svidproof", "list", "--format", "markdown")


def main(checkout: Path) -> None:
    """Write all of them."""
    requirements = subprocess.run(LIST, check=True, capture_output=True, text=True).stdout
    (checkout / "suites" / "REQUIREMENTS.md").write_text(requirements, "utf-8")
    readme = checkout / "reports" / "README.md"
    readme.write_text(fields.replaced(readme.read_text("utf-8"), publish.schema()), "utf-8")
    options = checkout / "docs" / "options.md"
    options.write_text(request.replaced(options.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main(Path(__file__).parents[1])
