"""A small SPIFFE CSI driver for tests: it mounts the directory with the agent's socket into pods.

    python csi_driver.py --node NODE --name csi.spiffe.io --socket-dir /agent --kubelet DIRECTORY

It serves CSI's identity and node service, and registers itself with the kubelet. Messages are
encoded by hand: five of them have fields.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Handler = Callable[[dict[int, list[bytes]]], bytes]

_BIND, _REMOUNT, _READ_ONLY = 4096, 32, 1
_LIBC = ctypes.CDLL(None, use_errno=True)
_EPHEMERAL = b"csi.storage.k8s.io/ephemeral"


class Refused(Exception):  # noqa: N818  it is an answer
    """A request that the driver cannot serve, with its status."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        """Both are sent to the kubelet."""
        super().__init__(details)
        self.code = code


def decode(message: bytes) -> dict[int, list[bytes]]:
    """The fields of a protobuf message: bytes as they are, numbers as one byte or more."""
    found: dict[int, list[bytes]] = {}
    rest = memoryview(message)
    while rest:
        tag, rest = _varint(rest)
        if tag & 7 == 0:  # a number or a boolean
            value, rest = _varint(rest)
            content = bytes([value & 0xFF])
        elif tag & 7 == 2:  # text, bytes or a message  # noqa: PLR2004
            size, rest = _varint(rest)
            content, rest = bytes(rest[:size]), rest[size:]
        else:
            raise ValueError(f"wire type {tag & 7} is in no message of CSI that is read here")
        found.setdefault(tag >> 3, []).append(content)
    return found


def encode(**fields: str) -> bytes:
    """A message of texts, by `f` and the number of each field."""
    out = bytearray()
    for name, value in fields.items():
        content = value.encode()
        out += bytes([int(name.removeprefix("f")) << 3 | 2, len(content)]) + content
    return bytes(out)


def _varint(data: memoryview) -> tuple[int, memoryview]:
    value = 0
    for position, byte in enumerate(data):
        value |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:  # noqa: PLR2004
            return value, data[position + 1 :]
    raise ValueError("a number is cut off")


class Driver:
    """The node service: one bind mount for each volume."""

    def __init__(self, node: str, name: str, sockets: Path) -> None:
        """Nothing is mounted yet."""
        self._node = node
        self._name = name
        self._sockets = sockets

    def info(self, _request: dict[int, list[bytes]]) -> bytes:
        """GetPluginInfoResponse: name and version."""
        return encode(f1=self._name, f2="0.1.0")

    def node(self, _request: dict[int, list[bytes]]) -> bytes:
        """NodeGetInfoResponse: the node's ID."""
        return encode(f1=self._node)

    def publish(self, request: dict[int, list[bytes]]) -> bytes:
        """Mount the directory, read-only, for an ephemeral read-only volume."""
        context = [decode(entry) for entry in request.get(8, [])]
        if not any((e.get(1), e.get(2)) == ([_EPHEMERAL], [b"true"]) for e in context):
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "only ephemeral volumes are supported")
        if request.get(6, [b"\0"]) != [b"\1"]:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "the volume must be read-only")
        target = self._target(request, 4)
        target.mkdir(mode=0o777, parents=True, exist_ok=True)
        if not is_mounted(target):
            mount(self._sockets, target, _BIND)
            mount(Path("none"), target, _BIND | _REMOUNT | _READ_ONLY)
        return b""

    def unpublish(self, request: dict[int, list[bytes]]) -> bytes:
        """Unmount it; what is gone is no error."""
        target = self._target(request, 2)
        if is_mounted(target) and _LIBC.umount2(os.fsencode(target), 0):
            raise Refused(grpc.StatusCode.INTERNAL, f"umount: {os.strerror(ctypes.get_errno())}")
        with contextlib.suppress(FileNotFoundError):
            target.rmdir()
        return b""

    @staticmethod
    def _target(request: dict[int, list[bytes]], number: int) -> Path:
        [path] = request.get(number) or [b""]
        if not path:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "no target path")
        return Path(os.fsdecode(path))


def is_mounted(target: Path) -> bool:
    """Whether something is mounted there; a bind mount of the same file system counts too."""
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return str(target) in {line.split()[4] for line in lines}


def mount(source: Path, target: Path, flags: int) -> None:
    """Mount a directory; raises Refused."""
    if _LIBC.mount(os.fsencode(source), os.fsencode(target), None, flags, None):
        reason = os.strerror(ctypes.get_errno())
        raise Refused(grpc.StatusCode.INTERNAL, f"mount {source} at {target}: {reason}")


@contextlib.contextmanager
def serving(socket: Path, methods: dict[str, Handler]) -> Iterator[None]:
    """Serve gRPC methods, by their full names, at a Unix socket while the block runs."""
    socket.parent.mkdir(parents=True, exist_ok=True)
    socket.unlink(missing_ok=True)
    server = grpc.server(ThreadPoolExecutor(4))
    services: dict[str, dict[str, Any]] = {}
    for name, method in methods.items():
        service, _, short = name.rpartition("/")
        services.setdefault(service, {})[short] = grpc.unary_unary_rpc_method_handler(
            _answering(method), request_deserializer=decode, response_serializer=bytes
        )
    for service, handlers in services.items():
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    try:
        yield
    finally:
        server.stop(grace=2).wait()
        socket.unlink(missing_ok=True)


def _answering(method: Handler) -> Callable[[dict[int, list[bytes]], Any], bytes]:
    def answer(request: dict[int, list[bytes]], context: Any) -> bytes:  # noqa: ANN401  gRPC's
        try:
            return method(request)
        except Refused as refused:
            print(refused, flush=True)  # noqa: T201  its log
            context.abort(refused.code, str(refused))
            raise

    return answer


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--node", required=True)
    parser.add_argument("--name", "-plugin-name", required=True)
    parser.add_argument("--socket-dir", "-workload-api-socket-dir", type=Path, required=True)
    parser.add_argument("--kubelet", type=Path, required=True, help="the kubelet's directory")
    asked = parser.parse_args()
    driver = Driver(asked.node, asked.name, asked.socket_dir)
    socket = asked.kubelet / "plugins" / asked.name / "csi.sock"
    registration = asked.kubelet / "plugins_registry" / f"{asked.name}-reg.sock"
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())

    def nothing(_request: dict[int, list[bytes]]) -> bytes:
        return b""

    def plugin(_request: dict[int, list[bytes]]) -> bytes:
        return encode(f1="CSIPlugin", f2=asked.name, f3=str(socket), f4="1.0.0")

    def registered(status: dict[int, list[bytes]]) -> bytes:
        print("registered", status.get(1) == [b"\1"], status.get(2), flush=True)  # noqa: T201
        return b""

    csi: dict[str, Handler] = {
        "csi.v1.Identity/GetPluginInfo": driver.info,
        "csi.v1.Identity/GetPluginCapabilities": nothing,
        "csi.v1.Identity/Probe": nothing,
        "csi.v1.Node/NodeGetInfo": driver.node,
        "csi.v1.Node/NodeGetCapabilities": nothing,
        "csi.v1.Node/NodePublishVolume": driver.publish,
        "csi.v1.Node/NodeUnpublishVolume": driver.unpublish,
    }
    kubelet: dict[str, Handler] = {
        "pluginregistration.Registration/GetInfo": plugin,
        "pluginregistration.Registration/NotifyRegistrationStatus": registered,
    }
    with serving(socket, csi), serving(registration, kubelet):
        stop.wait()


if __name__ == "__main__":
    main()
