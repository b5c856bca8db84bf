"""SPIRE server mints SVIDs only for workloads of its own trust domain."""

from collections.abc import Mapping
from typing import Any

import grpc
import pytest

from svidproof import Capability, needs, requirement
from svidproof.checks import Accepted
from svidproof.probes import server_api as api

pytestmark = needs(Capability.OWN_SPIRE)
OWN = "example.org"
# SPIFFE IDs that no workload of the trust domain may have, by trust domain and path.
WRONG = {
    "other-domain": ("other.example", "/minted"),
    "no-path": (OWN, ""),
    "server": (OWN, "/spire/server"),
    "agent": (OWN, "/spire/agent/join_token/minted"),
    "reserved-path": (OWN, "/spire/minted"),
}


def _x509(trust_domain: str, path: str) -> dict[str, Any]:
    return {"csr": api.signing_request(api.new_key(), f"spiffe://{trust_domain}{path}")}


def _jwt(trust_domain: str, path: str) -> dict[str, Any]:
    return {"id": {"trust_domain": trust_domain, "path": path}, "audience": ["bank.example"]}


ASKS = {"MintX509SVID": _x509, "MintJWTSVID": _jwt}


@requirement("SERVER-12")
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("method", ASKS)
@pytest.mark.parametrize("caller", ["admin", "local"])
def test_other_ids_get_no_svid(
    callers: Mapping[str, api.ServerCaller], caller: str, method: str, wrong: str
) -> None:
    """A caller that may mint SVIDs gets none for a server, an agent or another trust domain."""
    ask = ASKS[method]
    control = callers[caller].call("svid", method, **ask(OWN, "/minted"))
    answer = callers[caller].call("svid", method, **ask(*WRONG[wrong]))

    assert control.code is grpc.StatusCode.OK, f"a workload's SVID is not minted: {control}"
    assert not answer.silent, f"SPIRE server did not answer: {answer}"
    if answer.code is grpc.StatusCode.OK:
        raise Accepted(f"{method} answered caller {caller} for {wrong}")
    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT, f"{method}: {answer}"


@requirement("SERVER-12")
def test_request_that_its_key_did_not_sign_is_refused(
    callers: Mapping[str, api.ServerCaller],
) -> None:
    """No X.509-SVID is minted for a signing request whose signature is wrong."""
    request = _x509(OWN, "/minted")["csr"]
    altered = request[:-1] + bytes([request[-1] ^ 1])
    control = callers["local"].call("svid", "MintX509SVID", csr=request)
    answer = callers["local"].call("svid", "MintX509SVID", csr=altered)

    assert control.code is grpc.StatusCode.OK, f"a workload's SVID is not minted: {control}"
    assert not answer.silent, f"SPIRE server did not answer: {answer}"
    if answer.code is grpc.StatusCode.OK:
        raise Accepted("MintX509SVID answered a request that is altered")
