"""The bare client of SDS shows the names of what came, or why nothing did."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from svidproof.probes.sds import SecretsAnswer, fetch_secrets

from .test_workload_api import field

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REFUSAL = (grpc.StatusCode.INVALID_ARGUMENT, "not yours")


@pytest.fixture
def target(tmp_path: Path) -> Iterator[str]:
    """An agent that gives two secrets for `default`, and nothing for another name."""

    def stream(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:  # noqa: ANN401
        if b"default" not in next(requests):
            context.abort(*REFUSAL)
        secrets = (field(1, name) + field(2, b"secret") for name in (b"default", b"other"))
        yield b"".join(field(2, field(1, b"type") + field(2, secret)) for secret in secrets)

    handlers: dict[str, Any] = {"StreamSecrets": grpc.stream_stream_rpc_method_handler(stream)}
    service = "envoy.service.secret.v3.SecretDiscoveryService"
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_insecure_port(f"unix:{tmp_path}/agent.sock")
    server.start()
    yield f"unix:{tmp_path}/agent.sock"
    server.stop(None).wait()


def test_secrets_are_named(target: str) -> None:
    """Each secret is known by its name; its content is not kept."""
    answer = fetch_secrets(target, "default")

    assert answer == SecretsAnswer(grpc.StatusCode.OK, "", ("default", "other"))
    assert answer.secrets == 2


def test_refusal_is_shown(target: str) -> None:
    """What is refused has a status, and no name."""
    answer = fetch_secrets(target, "another")

    assert answer == SecretsAnswer(*REFUSAL)
    assert str(answer) == "INVALID_ARGUMENT not yours"
