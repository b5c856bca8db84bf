"""SPIRE server mints SVIDs only for workloads of its own trust domain, with what is asked for."""

from collections.abc import Mapping
from typing import Any

import grpc
import pytest
from cryptography import x509

from svidproof import BACKDATING, Capability, needs, requirement
from svidproof.checks import Accepted
from svidproof.probes import extensions_of, jwt, uri_of
from svidproof.probes import server_api as api

pytestmark = needs(Capability.OWN_SPIRE)
OWN = "example.org"
TTL_S = 600  # neither of the server's defaults, which are an hour and five minutes
DNS = ["first.example.org", "second.example.org"]
AUDIENCES = ["bank.example", "shop.example"]
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


@requirement("SERVER-12")
@pytest.mark.parametrize("caller", ["admin", "local"])
def test_minted_x509_svid_has_what_was_asked(
    callers: Mapping[str, api.ServerCaller], caller: str
) -> None:
    """A minted X.509-SVID has the SPIFFE ID, DNS names and TTL that were asked for."""
    key, spiffe_id = api.new_key(), f"spiffe://{OWN}/minted"
    request = api.signing_request(key, spiffe_id, dns=DNS)
    answer = callers[caller].answer("svid", "MintX509SVID", csr=request, ttl=TTL_S)
    leaf = api.credential_of("minted", key, answer.svid.cert_chain).leaf
    alternative = extensions_of(leaf).get_extension_for_class(x509.SubjectAlternativeName).value
    dns = alternative.get_values_for_type(x509.DNSName)
    lifetime = (leaf.not_valid_after_utc - leaf.not_valid_before_utc).total_seconds()

    assert uri_of(leaf) == spiffe_id, f"a minted X.509-SVID is for {uri_of(leaf)}"
    assert sorted(dns) == DNS, f"a minted X.509-SVID has the DNS names {dns}"
    valid = f"a minted X.509-SVID is valid for {lifetime:.0f} s"
    assert abs(lifetime - TTL_S - BACKDATING) <= 1, valid


@requirement("SERVER-12")
@pytest.mark.parametrize("caller", ["admin", "local"])
def test_minted_jwt_svid_has_what_was_asked(
    callers: Mapping[str, api.ServerCaller], caller: str
) -> None:
    """A minted JWT-SVID has the SPIFFE ID, audiences and TTL that were asked for."""
    asked = {"id": {"trust_domain": OWN, "path": "/minted"}, "audience": AUDIENCES, "ttl": TTL_S}
    answer = callers[caller].answer("svid", "MintJWTSVID", **asked)
    claims = jwt.Token.read(answer.svid.token).claims
    lifetime = claims["exp"] - claims["iat"]

    assert claims["sub"] == f"spiffe://{OWN}/minted", f"a minted JWT-SVID is for {claims['sub']}"
    assert sorted(claims["aud"]) == AUDIENCES, f"a minted JWT-SVID is for {claims['aud']}"
    assert abs(lifetime - TTL_S) <= 1, f"a minted JWT-SVID is valid for {lifetime} s"
