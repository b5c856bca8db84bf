"""A web site that stands in for the one with the releases."""

import contextlib
import datetime as dt
import http.server
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

# What would lead a client past the site, or have it trust others.
_VARIABLES = (
    *("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
)


def make_authority(path: Path) -> Path:
    """Write a self-signed certificate for the loopback address, with its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stand-in")])
    now = dt.datetime.now(dt.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


class Site(http.server.ThreadingHTTPServer):
    """A stand-in for the site with the releases."""

    def __init__(self) -> None:
        """Have nothing yet, and serve it well."""
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.statuses: dict[str, int] = {}
        self.redirects: dict[str, str] = {}
        self.ranges: list[str] = []
        self.paths: list[str] = []
        self.etag = '"one"'
        self.honours_range = True
        self.honours_if_range = True
        self.break_off_at = 0
        self.scheme = "http"

    def encrypt(self, authority: Path) -> None:
        """Serve over TLS, with a certificate that `make_authority` wrote."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(authority)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.scheme = "https"

    @property
    def url(self) -> str:
        """The base that stands for github.com."""
        return f"{self.scheme}://127.0.0.1:{self.server_port}"


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
        if self.path in site.redirects:
            status, content = 302, b""
        self.send_response(status)
        if status == 302:
            self.send_header("Location", site.redirects[self.path])
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
def serving(monkeypatch: pytest.MonkeyPatch, authority: Path | None = None) -> Iterator[Site]:
    """Run a site and have releases come from it, past any proxy.

    Args:
        monkeypatch: changes the environment.
        authority: where to write the certificate by which the site is trusted; None is plain HTTP.
    """
    with Site() as server:
        for name in _VARIABLES:
            monkeypatch.delenv(name, raising=False)
        if authority is not None:
            server.encrypt(make_authority(authority))
            monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("SVIDPROOF_RELEASES", server.url)
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
