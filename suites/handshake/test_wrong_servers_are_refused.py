"""Servers that a client's sidecar must refuse: an impostor stands where `api` was expected."""

from collections.abc import Iterator

import pytest

from svidproof import Capability, Flaw, Saw, Testbed, needs, requirement
from svidproof.checks import Accepted, assert_accepted, assert_counted, assert_unavailable
from svidproof.faults import only
from svidproof.forge import UNCHAINED_FLAWS

# What chains to the trust bundle can be forged only with its key.
CHAINED = needs(Capability.OWN_TRUST_ROOT)
FLAWS = [
    pytest.param(flaw, id=flaw.value, marks=() if flaw in UNCHAINED_FLAWS else CHAINED)
    for flaw in Flaw
    # A server always has a certificate; the other one is the control.
    if flaw not in {Flaw.NO_CERTIFICATE, Flaw.NONE}
]
CLIENTS = [
    pytest.param("valid-api-client", id="spiffe", marks=requirement("HANDSHAKE-6")),
    pytest.param("api-trusted-ca", id="trusted-ca", marks=requirement("HANDSHAKE-8")),
]
# Where the validator looks at names last, the name is the reason; everything else comes first.
BY_NAME = {Flaw.OTHER_ID, Flaw.LONGER_ID, Flaw.SHORTER_ID, Flaw.OTHER_CASE}
BY_NAME_TRUSTED_CA = BY_NAME | {
    Flaw.NO_PATH,
    Flaw.FOREIGN_ID,
    Flaw.OTHER_SCHEME,
    Flaw.NO_SAN,
    Flaw.DNS_SAN_ONLY,
}


@pytest.fixture(autouse=True)
def _genuine_server_is_accepted(api: Testbed, quiet: None) -> Iterator[None]:  # noqa: ARG001  it is the order
    """Control: the same impostor with a flawless credential is accepted, before and after."""

    def control() -> None:
        for client in ("valid-api-client", "api-trusted-ca"):
            with api.prober.impostor.serve(api.genuine_server()):
                assert_accepted(api.workload(client).envoy.request("impostor"))

    control()
    yield
    control()


@needs(Capability.IMPOSTOR)
@pytest.mark.parametrize("flaw", FLAWS)
@pytest.mark.parametrize("client", CLIENTS)
def test_wrong_server_is_refused(api: Testbed, client: str, flaw: Flaw, saw: Saw) -> None:
    """The client's sidecar sends no request to a server whose credential is flawed."""
    workload = api.workload(client)
    before = workload.tally()

    with api.prober.impostor.serve(api.forged_server(flaw)) as attempts:
        exchange = workload.envoy.request("impostor")

    attempt = only(attempts, "connection")
    if attempt.request:
        raise Accepted(f"the impostor got {attempt.request[:60]!r}; the client got {exchange}")
    assert_unavailable(exchange)
    assert attempt.alert is not None, "the sidecar hung up without an alert"
    names = BY_NAME if client == "valid-api-client" else BY_NAME_TRUSTED_CA
    counter = "fail_verify_san" if flaw in names else "fail_verify_error"
    if flaw is Flaw.WRONG_KEY:
        counter = "connection_error"
    assert_counted(workload, before, {f"cluster.impostor.ssl.{counter}": 1})
    saw(f"the impostor got the alert “{attempt.alert.value}” and no request; {counter} +1")
