"""Downloads trust the authorities that the machine trusts, and no others."""

import http.server
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from svidproof.supply.tools import download
from svidproof.supply.tools.errors import SourceUnavailableError

from .release_site import make_authority

VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers every request alike."""

    def do_GET(self) -> None:
        """Answer one request."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"trusted")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server(http.server.HTTPServer):
    """Takes a client's refusal of its certificate for what it is."""

    def handle_error(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """Make a certificate for the loopback address."""
    return make_authority(tmp_path / "authority.pem")


@pytest.fixture
def url(authority: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve over TLS on the loopback address, to a client whose environment trusts nothing."""
    for name in (*VARIABLES, "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority)
    with Server(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"https://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_authority_of_the_environment_is_trusted(
    url: str, authority: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """An authority that the environment names, in OpenSSL's way or in requests', is trusted."""
    monkeypatch.setenv(variable, str(authority))

    assert download.text(url) == "trusted"


def test_unknown_authority_is_not_trusted(url: str) -> None:
    """A site that no trusted authority vouches for is passed over with that reason."""
    with pytest.raises(SourceUnavailableError, match="does not trust"):
        download.text(url)
