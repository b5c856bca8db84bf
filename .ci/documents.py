"""Writes what is generated in the documents: requirements, clauses, fields, rules, options."""

from __future__ import annotations

import subprocess
from pathlib import Path

from svidproof.model.suite import catalogue
from svidproof.report import publish
from svidproof.report.diagnosis import document, findings
from svidproof.report.text import fields
from svidproof.run.request import options as request

LIST = ("svidproof", "list", "--format", "markdown")
CLAUSES = ("svidproof", "list", "--clauses", "--format", "markdown")


def main(checkout: Path) -> None:
    """Write all of them."""
    requirements = subprocess.run(LIST, check=True, capture_output=True, text=True).stdout
    (checkout / "suites" / "REQUIREMENTS.md").write_text(requirements, "utf-8")
    clauses = subprocess.run(CLAUSES, check=True, capture_output=True, text=True).stdout
    (checkout / "docs" / "clauses.md").write_text(clauses, "utf-8")
    readme = checkout / "reports" / "README.md"
    readme.write_text(fields.replaced(readme.read_text("utf-8"), publish.schema()), "utf-8")
    known = catalogue.read(checkout / "suites" / "catalogue.toml")
    explained = checkout / "docs" / "findings.md"
    rules = findings.rules_of(known)
    explained.write_text(document.replaced(explained.read_text("utf-8"), rules), "utf-8")
    options = checkout / "docs" / "options.md"
    options.write_text(request.replaced(options.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main(Path(__file__).parents[1])
