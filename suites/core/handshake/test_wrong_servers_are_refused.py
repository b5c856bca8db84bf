"""A client's sidecar rejects a flawed server in the place of `api`."""

from collections.abc import Iterator

import pytest

from svidproof import Capability, Saw, Testbed, needs, only, requirement
from svidproof.checks import Accepted, assert_accepted, assert_counted, assert_unavailable, refusals

CLIENTS = [
    pytest.param("valid-api-client", id="spiffe", marks=requirement("HANDSHAKE-6")),
    pytest.param("api-trusted-ca", id="trusted-ca", marks=requirement("HANDSHAKE-8")),
]


@pytest.fixture(autouse=True)
def _genuine_server_is_accepted(quiet_api: Testbed) -> Iterator[None]:
    """Control: the client accepts the same server without the flaw, just before and just after."""

    def control() -> None:
        for client in ("valid-api-client", "api-trusted-ca"):
            with quiet_api.prober.impostor.serve(quiet_api.genuine_server()):
                assert_accepted(quiet_api.workload(client).envoy.request("impostor"))

    control()
    yield
    control()


@needs(Capability.IMPOSTOR)
@pytest.mark.parametrize("row", refusals.params(unchained=requirement("DEPLOYMENT-3")))
@pytest.mark.parametrize("client", CLIENTS)
def test_wrong_server_is_refused(api: Testbed, client: str, row: refusals.Row, saw: Saw) -> None:
    """The client's sidecar sends no request to a server with a flawed credential."""
    workload = api.workload(client)
    _, counter = row.expected(workload.spec.validator)
    before = workload.tally()

    with api.prober.impostor.serve(api.forged_server(row.flaw)) as attempts:
        exchange = workload.envoy.request("impostor")

    attempt = only(attempts, "connection")
    if attempt.request:
        raise Accepted(f"the impostor got {attempt.request[:60]!r}; the client got {exchange}")
    assert_unavailable(exchange)
    assert attempt.alert is not None, "the sidecar closed the connection without an alert"
    assert_counted(workload, before, {f"cluster.impostor.ssl.{counter}": 1})
    saw(f"the impostor got the alert “{attempt.alert.value}” and no request; {counter} +1")
