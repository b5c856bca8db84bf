"""A page as a browser would take it apart, for tests of what it says."""

from html.parser import HTMLParser


class Reader(HTMLParser):
    """The elements and the visible text of a page."""

    def __init__(self, page: str) -> None:
        """Read it."""
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note it."""
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        """What follows is outside."""
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        """Note what people see."""
        if self._inside not in {"script", "style"}:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of all these elements."""
        return [attributes for name, attributes in self.tags if name == tag]
