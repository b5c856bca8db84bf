"""Collects the pages of the documentation site, with links that hold on the site as on GitHub.

The pages are the repository's own Markdown files, at their own places, so that a link between two
of them needs no change. A link to any other file of the checkout leads to that file on the server
which hosts the repository (`--repository URL --ref COMMIT`); without one, to a copy on the site. A
link whose file or heading does not exist is an error, by the rule by which GitHub names headings.

mkdocs then builds the site: `tox run -e docs`.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from markdown_it.token import Token

PAGES = (
    "README.md",
    "CHANGELOG.md",
    "CODE_OF_CONDUCT.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/*.md",
    "reports/README.md",
    "suites/REQUIREMENTS.md",
)
_REPORT = "report.html"
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:")
_MARKDOWN = MarkdownIt("commonmark").enable("table")


@dataclass(frozen=True)
class Page:
    """A page: its path in the checkout, its text, its links and the anchors of its headings."""

    path: Path
    text: str
    links: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, checkout: Path, path: Path) -> Page:
        """Read a page of the checkout."""
        page = cls(path, (checkout / path).read_text("utf-8"))
        tokens = _MARKDOWN.parse(page.text)
        for at, token in enumerate(tokens):
            page.links.extend(_links(token))
            if token.type == "heading_open":
                page.anchors.add(_unused(anchor(_plain(tokens[at + 1])), page.anchors))
            elif token.type in ("html_block", "inline"):
                page.anchors.update(re.findall(r'<a (?:id|name)="([^"]+)"', token.content))
        return page


def _links(token: Token) -> Iterator[str]:
    for child in token.children or ():
        target = child.attrGet("href") or child.attrGet("src")
        if child.type in ("link_open", "image") and target:
            yield str(target)


def _plain(heading: Token) -> str:
    return "".join(c.content for c in heading.children or () if c.type in ("text", "code_inline"))


def anchor(heading: str) -> str:
    """The name that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def _unused(name: str, used: set[str]) -> str:
    if name not in used:
        return name
    return next(each for n in range(1, len(used) + 1) if (each := f"{name}-{n}") not in used)


def _visible(path: Path) -> Path:
    """A path without names that begin with a dot: a site leaves these out."""
    return Path(*(part.removeprefix(".") for part in path.parts))


class Site:
    """The pages of a checkout, and what their links lead to."""

    def __init__(self, checkout: Path, blob: str | None = None) -> None:
        """Read all pages.

        Args:
            checkout: where they are.
            blob: the URL below which a server shows the files of this commit; None without one.
        """
        self.checkout = checkout
        self.blob = blob
        found = (p for name in PAGES for p in sorted(checkout.glob(name)))
        self.pages = {
            path: Page.of(checkout, path) for path in (p.relative_to(checkout) for p in found)
        }
        self.files: dict[
            Path, Path
        ] = {}  # what links lead to, and is no page: its place on the site

    def broken(self) -> list[str]:
        """Each link that leads nowhere, one a line."""
        return [
            f"{page.path}: {link}: {wrong}"
            for page in self.pages.values()
            for link in page.links
            if (wrong := self._wrong(page, link))
        ]

    def _wrong(self, page: Page, link: str) -> str | None:
        if _ELSEWHERE.match(link):
            return None
        file, _, name = link.partition("#")
        path = self._at(page, file)
        if path is None or not (self.checkout / path).exists():
            return "there is no such file in the repository"
        if (self.checkout / path).is_dir() and not self._has(path / _REPORT):
            return "a site does not show directories"
        if name and path in self.pages and name not in self.pages[path].anchors:
            return "the page has no such heading"
        return None

    def _at(self, page: Page, file: str) -> Path | None:
        """The file of the checkout that a link means; None if it is outside."""
        whole = os.path.normpath(self.checkout / page.path.parent / file if file else page.path)
        path = Path(whole)
        if not path.is_absolute():
            return path
        return path.relative_to(self.checkout) if path.is_relative_to(self.checkout) else None

    def text(self, page: Page) -> str:
        """The text of a page, with links that hold on the site."""
        text = page.text
        for link in dict.fromkeys(page.links):
            if (other := self._elsewhere(page, link)) is not None:
                # Links in code are not links, and none here looks like one in the text.
                text = text.replace(f"]({link})", f"]({other})")
        return text

    def _elsewhere(self, page: Page, link: str) -> str | None:
        file, hash_, name = link.partition("#")
        path = None if _ELSEWHERE.match(link) or not file else self._at(page, file)
        if path is None or path in self.pages:
            return None
        if self.blob is not None and path.suffix not in (".png", ".svg"):
            return f"{self.blob}/{path.as_posix()}{hash_}{name}"
        # A site does not show directories: of a report, its page is what a reader wants to see.
        whole = (self.checkout / path).is_dir()
        for file_ in self._below(path) if whole else [path]:
            self.files[file_] = _visible(file_)
        place = path / _REPORT if whole else _visible(path)
        return os.path.relpath(place, page.path.parent) if place != path else None

    def _has(self, path: Path) -> bool:
        return (self.checkout / path).is_file()

    def _below(self, path: Path) -> list[Path]:
        found = (self.checkout / path).rglob("*")
        return [f.relative_to(self.checkout) for f in found if f.is_file()]

    def write(self, target: Path) -> None:
        """Write the pages, and the files that are needed with them, to an empty directory."""
        shutil.rmtree(target, ignore_errors=True)
        for page in self.pages.values():
            place = target / page.path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(self.text(page), "utf-8")
        for file, place in sorted(self.files.items()):
            (target / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.checkout / file, target / place)


def main(words: list[str]) -> int:
    """Write the pages; exit status 1 if a link leads nowhere."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("target", type=Path, help="directory for the pages; it is emptied first")
    parser.add_argument("--repository", default=os.environ.get("SVIDPROOF_DOCS_REPOSITORY", ""))
    parser.add_argument("--ref", default=os.environ.get("SVIDPROOF_DOCS_REF", "") or "main")
    options = parser.parse_args(words)
    blob = f"{options.repository}/blob/{options.ref}" if options.repository else None
    site = Site(Path(__file__).parents[1], blob)
    if broken := site.broken():
        sys.stderr.writelines(f"{line}\n" for line in broken)
        return 1
    site.write(options.target)
    sys.stdout.write(f"{len(site.pages)} pages, {len(site.files)} other files\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
