"""Images come out of a registry, and get into one, as asked for; or a line says why not."""

import hashlib
import http.server
import io
import json
import shutil
import socket
import subprocess
import tarfile
import threading
from collections.abc import Iterator

import pytest

from svidproof.supply import images
from svidproof.supply.images import engine
from svidproof.supply.images.registry import pull
from svidproof.supply.tools import Progress

NAME = "svidproof-selftest/demo"
UNKNOWN = b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}'


def _engine_is_here() -> bool:
    if shutil.which("docker") is None:
        return False
    asked = ["docker", "info", "--format", "{{.Name}}"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False)
    return answer.stdout.strip() == socket.gethostname()


# The registry listens on this machine's loopback address: an engine elsewhere does not reach it.
__test__ = _engine_is_here()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Registry(http.server.ThreadingHTTPServer):
    """A registry with one image of one file, by the OCI distribution specification.

    Attributes:
        files: what it has, by path.
        refuses: whether it takes no more.
    """

    refuses = False

    def __init__(self) -> None:
        """Make the image."""
        super().__init__(("127.0.0.1", 0), Handler)
        layer = io.BytesIO()
        with tarfile.open(fileobj=layer, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("empty"))
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer.getvalue())]},
        }
        self.files: dict[str, tuple[str, bytes]] = {"/v2/": ("application/json", b"{}")}
        kind = "application/vnd.oci.image"
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{kind}.manifest.v1+json",
            "config": self._blob(f"{kind}.config.v1+json", json.dumps(config).encode()),
            "layers": [self._blob(f"{kind}.layer.v1.tar", layer.getvalue())],
        }
        content = json.dumps(manifest).encode()
        self.digest = _digest(content)
        for name in ("v1", self.digest):
            self.files[f"/v2/{NAME}/manifests/{name}"] = (manifest["mediaType"], content)  # type: ignore[assignment]

    @property
    def image(self) -> str:
        """The image's name, without tag."""
        return f"127.0.0.1:{self.server_port}/{NAME}"

    def _blob(self, kind: str, content: bytes) -> dict[str, object]:
        digest = _digest(content)
        self.files[f"/v2/{NAME}/blobs/{digest}"] = ("application/octet-stream", content)
        return {"mediaType": kind, "digest": digest, "size": len(content)}


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the files of a Registry."""

    server: Registry

    def do_HEAD(self) -> None:
        """Answer without the content."""
        self._answer(body=False)

    def do_GET(self) -> None:
        """Answer with the content."""
        self._answer(body=True)

    def do_POST(self) -> None:
        """Begin to take a layer, or a configuration."""
        self._took(202, location=f"{self.path}1")

    def do_PATCH(self) -> None:
        """Take it, as it comes, in chunks; its digest, and so its name, is told afterwards."""
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        self._keep("blobs", content)
        self._took(202, location=self.path, content=content)

    def do_PUT(self) -> None:
        """Take a manifest; or what else comes in one piece; or that this was the end."""
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self._keep("manifests" if "/manifests/" in self.path else "blobs", content)
        self._took(201, location=self.path, content=content)

    def _keep(self, what: str, content: bytes) -> None:
        repository, kind = self.path.partition(f"/{what}/")[0], self.headers["Content-Type"]
        self.server.files[f"{repository}/{what}/{_digest(content)}"] = (kind, content)

    def _took(self, status: int, *, location: str, content: bytes = b"") -> None:
        self.send_response(403 if self.server.refuses else status)
        self.send_header("Location", location)
        self.send_header("Range", f"0-{max(len(content), 1) - 1}")
        self.send_header("Docker-Content-Digest", _digest(content))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, *, body: bool) -> None:
        found = self.server.files.get(self.path)
        kind, content = found or ("application/json", UNKNOWN)
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if "/manifests/" in self.path:
            self.send_header("Docker-Content-Digest", _digest(content))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def registry() -> Iterator[Registry]:
    """A registry on this machine; what came out of it is deleted afterwards."""
    with Registry() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
    found = engine.run("image", "ls", "--quiet", "--no-trunc", server.image)
    if found:
        engine.run("image", "rm", "--force", *set(found.split()))


def take(wanted: str) -> pull.Taken:
    """Take an image as Envoy's."""
    return pull.take("envoy", wanted, Progress.silent())


def test_image_is_pulled_once(registry: Registry) -> None:
    """An image gets a name with its ID, its digest is told, and the registry is asked once."""
    wanted = f"{registry.image}:v1"

    taken = take(wanted)
    registry.files.clear()
    again = take(wanted)

    assert taken.source == f"{wanted}@{registry.digest}"
    assert taken.reference.startswith("localhost/svidproof/envoy:")
    assert engine.has(taken.reference)
    assert again == taken


def test_pinned_digest_is_pulled(registry: Registry) -> None:
    """A reference with a digest is taken by it, and gets a name that can be saved."""
    wanted = f"{registry.image}:v1@{registry.digest}"

    taken = take(wanted)

    assert taken.source == wanted
    assert engine.run("image", "inspect", "--format", "{{.RepoTags}}", taken.reference)


@pytest.mark.parametrize(
    "tail",
    [
        pytest.param(":v2", id="tag"),
        pytest.param(f":v1@sha256:{'0' * 64}", id="digest"),
    ],
)
def test_image_that_is_not_there(registry: Registry, tail: str) -> None:
    """The line has the image, the registry's answer, and the option that gives another."""
    with pytest.raises(images.ImageError) as error:
        take(registry.image + tail)

    line = str(error.value)
    assert line.startswith(f"the image {registry.image}{tail} cannot be had")
    assert "manifest unknown" in line
    assert "--image envoy=REF" in line
    assert "\n" not in line


def test_registry_that_does_not_answer(registry: Registry) -> None:
    """A registry that is gone is told as such."""
    registry.shutdown()
    registry.server_close()

    with pytest.raises(images.ImageError, match=r"cannot be had.*refused"):
        take(f"{registry.image}:v1")


def test_own_images_are_all_taken(registry: Registry) -> None:
    """With an image given for each part, pull makes nothing and asks no other registry."""
    wanted = f"{registry.image}:v1"
    given = images.parse_given([f"{name}={wanted}" for name in images.NAMES])

    prepared = images.prepare(
        "pull", {}, given=given, kubernetes="v1.34.4", progress=Progress.silent()
    )

    assert set(prepared.references) == set(images.NAMES)
    assert set(prepared.to_load) == set(prepared.references.values())
    assert set(prepared.sources.values()) == {f"{wanted}@{registry.digest}"}
    assert prepared.node == "kindest/node:v1.34.4"


def test_what_is_pushed_is_pulled(registry: Registry) -> None:
    """An image is in the registry by the digest that is returned, and its name there not here."""
    ours = take(f"{registry.image}:v1").reference
    address = f"localhost:{registry.server_port}"

    pushed = images.push([ours], address, Progress.silent())

    path, _, digest = pushed[ours].removeprefix(f"{address}/").partition("@")
    _, manifest = registry.files[f"/v2/{path}/manifests/{digest}"]
    blobs = [json.loads(manifest)["config"], *json.loads(manifest)["layers"]]
    assert len(blobs) == 2
    assert all(f"/v2/{path}/blobs/{blob['digest']}" in registry.files for blob in blobs)
    assert engine.has(ours)
    assert not engine.run("image", "ls", "--quiet", f"{address}/svidproof/envoy")


def test_registry_that_takes_nothing(registry: Registry) -> None:
    """The line has the image and what Docker says; its name there is dropped all the same."""
    ours = take(f"{registry.image}:v1").reference
    address = f"localhost:{registry.server_port}"
    registry.refuses = True

    with pytest.raises(images.ImageError, match=rf"{address}/svidproof/envoy:\w+ cannot be pushed"):
        images.push([ours], address, Progress.silent())

    assert not engine.run("image", "ls", "--quiet", f"{address}/svidproof/envoy")
