"""Documents, help texts and requirement titles use the field's words, not a private dialect."""

import re
from collections.abc import Iterator

import click
import pytest

from svidproof.cli.main import cli
from svidproof.model.catalogue import read
from svidproof.model.manifests import data_root

# What docs/glossary.md has other words for, or what no engineer would write today.
DIALECT = re.compile(
    r"\b(told (by|of|that|apart)|tells (each|of|that|which)|lets? (it |them )?in|strangers?"
    r"|sound|likewise|anew|by and by|beside|nobody|somebody|whoever|shakes? hands)\b",
    re.IGNORECASE,
)
# A help text stands alone: it neither goes on from the one before nor leaves out its subject.
FRAGMENT = re.compile(r"(Of|In that|Likewise|Must|As) ")


def documents() -> list[str]:
    """The pages for users, and for contributors where this is a checkout."""
    names = ["README.md", "CONTRIBUTING.md", "SECURITY.md"]
    pages = [*(data_root() / "docs").glob("*.md"), *(data_root() / n for n in names)]
    return [str(page.relative_to(data_root())) for page in sorted(pages) if page.is_file()]


def helps(command: click.Command, name: str) -> Iterator[tuple[str, str]]:
    """The help texts of a command, of its options and of its subcommands."""
    yield name, command.help or ""
    for parameter in command.params:
        yield f"{name} {parameter.name}", getattr(parameter, "help", None) or ""
    for sub, each in getattr(command, "commands", {}).items():
        yield from helps(each, f"{name} {sub}")


@pytest.mark.parametrize("name", documents())
def test_document_has_no_dialect(name: str) -> None:
    """No page has a word of the dialect, and none is without text."""
    text = (data_root() / name).read_text("utf-8")

    assert text.strip()
    assert [found[0] for found in DIALECT.finditer(text)] == []


def test_help_texts_stand_alone() -> None:
    """Each is a sentence of its own, in the field's words."""
    texts = dict(helps(cli, "svidproof"))

    assert len(texts) > 1
    wrong = {n: t for n, t in texts.items() if DIALECT.search(t) or FRAGMENT.match(t)}
    assert wrong == {}


def test_titles_have_no_dialect() -> None:
    """Requirement titles are read by people who have not read anything else."""
    titles = [r.title for r in read(data_root() / "suites" / "catalogue.toml").requirements]

    assert titles
    assert [title for title in titles if DIALECT.search(title)] == []


@pytest.mark.parametrize("text", ["the app is told of it", "It lets them in.", "Likewise of Envoy"])
def test_dialect_is_recognised(text: str) -> None:
    """The pattern finds what it is there for."""
    assert DIALECT.search(text)
