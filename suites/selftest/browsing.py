"""Pages in the machine's own browser, for tests of what they show and do."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
DESKTOP = {"viewport": {"width": 1280, "height": 900}}
# Texts that stand out less from the nearest painted ground than WCAG 2.1 (AA) wants.
PALE = """body => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const known = new Map();
  const rgba = colour => {
    if (!known.has(colour)) {
      canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
      known.set(colour, [...canvas.getImageData(0, 0, 1, 1).data]);
    }
    return known.get(colour);
  };
  const luminance = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
  const contrast = element => {
    let at = element;
    while (at && !rgba(getComputedStyle(at).backgroundColor)[3]) at = at.parentElement;
    const ground = luminance(rgba(getComputedStyle(at ?? body).backgroundColor));
    const text = luminance(rgba(getComputedStyle(element).color));
    return (Math.max(ground, text) + 0.05) / (Math.min(ground, text) + 0.05);
  };
  const texts = [...body.querySelectorAll('main *, header *, nav *')].filter(element =>
    element.checkVisibility()
    && [...element.childNodes].some(n => n.nodeType === 3 && n.data.trim()));
  return [texts.length, texts.filter(e => contrast(e) < 4.5).map(e => e.textContent.slice(0, 60))];
}"""
UNFOLD = "body => body.querySelectorAll('details').forEach(details => { details.open = true; })"


class Opened:
    """A page that was opened, and what it did beside showing itself."""

    def __init__(self, browser: "Browser", path: Path, **looks: Any) -> None:  # noqa: ANN401  playwright's
        """Open it, and wait until its charts are drawn."""
        self.context = browser.new_context(**looks)
        self.page: Page = self.context.new_page()
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on(
            "console",
            lambda m: self.errors.append(m.text) if m.type in {"error", "warning"} else None,
        )
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-drawn]", timeout=30_000)
