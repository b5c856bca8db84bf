"""suites/REQUIREMENTS.md is what catalogue, checks and sabotages say, and nothing else."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from svidproof.cli.requirements import markdown
from svidproof.cli.requirements.listing import Row
from svidproof.model.catalogue import Catalogue
from svidproof.run.process import pytest_process
from svidproof.sabotage import Sabotage

Command = Callable[..., tuple[int, str, str]]
DOCUMENT = pytest_process.suites() / "REQUIREMENTS.md"


def check(name: str, claim: str, *needs: str) -> dict[str, Any]:
    """A check of ONE-2."""
    return {"id": name, "claim": claim, "requirements": ["ONE-2"], "needs": list(needs)}


@pytest.fixture
def told(catalogue: Catalogue) -> str:
    """A document of a small catalogue."""
    rows = [
        Row(
            catalogue["ONE-2"],
            (
                check("a/test_b.py::test_b[x]", "It `does_so` <well> [now]."),
                check("a/test_b.py::test_b[y]", "It `does_so` <well> [now]."),
                check("a/test_b.py::test_c", "It waits.", "pause"),
            ),
        ),
        Row(catalogue["TWO-1"], ()),
    ]
    wrong = [Sabotage("lax", "Envoy lets_in all", {"ONE-2": ()})]
    return markdown.document(rows, catalogue, wrong, catalogue.profiles)


def test_document_is_what_the_command_prints(svidproof: Command) -> None:
    """Else: svidproof list --format markdown > suites/REQUIREMENTS.md."""
    code, out, _ = svidproof("list", "--format", "markdown")

    assert code == 0
    assert out.splitlines() == DOCUMENT.read_text("utf-8").splitlines()


def test_links_lead_somewhere() -> None:
    """To files of the checkout, or to headings of the document."""
    text = DOCUMENT.read_text("utf-8")
    links = set(re.findall(r"\]\(([^)]+)\)", text))
    headings = {
        f"#{h.lower().replace(' ', '-')}" for h in re.findall(r"^## (.+)$", text, re.MULTILINE)
    }

    inside = {link for link in links if not link.startswith("https://")}
    lost = {
        link for link in inside - headings if not (Path(DOCUMENT.parent) / link).resolve().is_file()
    }

    assert len(inside) > 20
    assert not lost


def test_every_requirement_has_what_proves_it() -> None:
    """A check; and for those of the core a deployment that makes it fail."""
    sections = re.split(r"^### ", DOCUMENT.read_text("utf-8"), flags=re.MULTILINE)[1:]
    core = [s for s in sections if "\nLevel core;" in s]

    assert len(core) > 80
    assert not [s.split()[0] for s in sections if "no check yet" in s]
    assert not [s.split()[0] for s in core if "\n- Fails when " not in s]


def test_requirement_is_told_whole(told: str) -> None:
    """Rows of one check together; words that mean something to Markdown as they are."""
    assert "| [core](#profile-core) | 1 | 1 | 3 |" in told
    assert "**It nearly holds.**" in told
    assert "- It `does_so` \\<well\\> \\[now\\]. ([`test_b`](a/test_b.py), 2 rows)" in told
    assert "- It waits. ([`test_c`](a/test_b.py), needs pause)" in told
    assert (
        "- Known deviation `envoy-lax` of envoy >=1.36: Envoy is lax "
        "([described here](https://example.org/lax))."
    ) in told
    assert "- Fails when Envoy lets\\_in all (`lax`)." in told
    assert "- It has no check yet." in told
    assert "- No deployment is made wrong on purpose for it." in told


def test_requirement_stands_below_the_first_profile_that_was_asked_for(
    catalogue: Catalogue,
) -> None:
    """Once, though it is in two."""
    rows = [Row(catalogue["TWO-1"], ())]

    text = markdown.document(rows, catalogue, [], ("more", "core"))

    assert text.count("### TWO-1") == 1
    assert text.index("## Profile more") < text.index("### TWO-1") < text.index("## Profile core")
