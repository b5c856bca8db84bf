"""The invalid client has a genuine SVID with an unauthorized SPIFFE ID."""

import re
from collections.abc import Iterator

import pytest

from svidproof import Saw, Testbed, Timestamp, budgets, eventually, requirement
from svidproof.checks import assert_accepted, assert_counted, assert_unavailable, assert_unseen

CALLS = [
    pytest.param("api", "api", id="spiffe-tls13", marks=requirement("HANDSHAKE-3")),
    pytest.param("api-tls12", "api", id="spiffe-tls12", marks=requirement("HANDSHAKE-3")),
    pytest.param(
        "api-trusted-ca", "api-trusted-ca", id="trusted-ca", marks=requirement("HANDSHAKE-8")
    ),
]
PEER_ALERT = r"TLS_error:\|\d+:SSL routines:OPENSSL_internal:SSLV3_ALERT_CERTIFICATE_UNKNOWN"
VERIFY_FAILED = r"TLS_error:\|\d+:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED"


@pytest.fixture
def _connections_are_logged(api: Testbed) -> Iterator[None]:
    """All sidecars log their connections while the check runs."""
    envoys = [workload.envoy for workload in api.workloads.values()]
    for envoy in envoys:
        envoy.set_logging("connection", "debug")
    yield
    for envoy in envoys:
        envoy.set_logging("connection", "warning")


@pytest.fixture
def _valid_client_is_served(quiet_api: Testbed) -> Iterator[None]:
    """Control: the valid client is served on the same path, before and after."""

    def control() -> None:
        for call in ("api", "api-tls12", "api-trusted-ca"):
            assert_accepted(quiet_api.workload("valid-api-client").envoy.request(call))

    control()
    yield
    control()


@pytest.mark.usefixtures("_valid_client_is_served", "_connections_are_logged")
@pytest.mark.parametrize(("call", "server"), CALLS)
def test_invalid_client_is_refused(api: Testbed, call: str, server: str, saw: Saw) -> None:
    """The invalid client gets 503 from its own sidecar, and both sidecars log the reason."""
    client, workload = api.workload("invalid-api-client"), api.workload(server)
    before, start = workload.tally(), Timestamp.now()

    exchange = client.envoy.request(call)

    assert_unavailable(exchange)
    assert_counted(workload, before, {"listener.inbound.ssl.fail_verify_san": 1})
    assert_unseen(workload, before)
    _assert_logged(api, client.envoy.component, start, PEER_ALERT)
    _assert_logged(api, workload.envoy.component, start, VERIFY_FAILED)
    saw(f"{exchange}; fail_verify_san +1; the app saw nothing; both logs name the TLS error")


def _assert_logged(api: Testbed, component: str, since: Timestamp, pattern: str) -> None:
    def logged() -> None:
        lines = [r.message for r in api.logs(component, since)]
        last = lines[-1][:200] if lines else "nothing"
        assert any(re.search(pattern, line) for line in lines), (
            f"{component} logged no line that matches /{pattern}/ among {len(lines)}; last: {last}"
        )

    eventually(logged, budgets.LOG_LINE)
