"""A web site that stands in for the one with the releases."""

import contextlib
import http.server
import threading
from collections.abc import Iterator

import pytest


class Site(http.server.ThreadingHTTPServer):
    """A stand-in for the site with the releases."""

    def __init__(self) -> None:
        """Have nothing yet, and serve it well."""
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.statuses: dict[str, int] = {}
        self.ranges: list[str] = []
        self.paths: list[str] = []
        self.etag = '"one"'
        self.honours_range = True
        self.honours_if_range = True
        self.break_off_at = 0

    @property
    def url(self) -> str:
        """The base that stands for github.com."""
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the files of a Site, as well or badly as it says."""

    server: Site

    def do_GET(self) -> None:
        """Answer one request."""
        site = self.server
        site.paths.append(self.path)
        asked = self.headers.get("Range", "")
        site.ranges.append(asked)
        status = site.statuses.get(self.path, 200 if self.path in site.files else 404)
        content = site.files.get(self.path, b"") if status == 200 else b""
        start = 0
        fresh = self.headers.get("If-Range") in {None, site.etag} or not site.honours_if_range
        if asked and site.honours_range and fresh and status == 200:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            status = 206
        self.send_response(status)
        self.send_header("ETag", site.etag)
        self.send_header("Content-Length", str(len(content) - start))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        end, site.break_off_at = site.break_off_at or len(content), 0
        self.wfile.write(content[start:end])

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Run a site and have releases come from it, past any proxy."""
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("SVIDPROOF_RELEASES", server.url)
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
