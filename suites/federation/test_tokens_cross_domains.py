"""JWT-SVIDs of another trust domain are validated only for workloads that federate with it."""

import grpc
import pytest

from svidproof import Saw, Testbed, requirement
from svidproof.checks import tokens
from svidproof.probes import Partner, jwt

pytestmark = requirement("FEDERATION-8")
HOME, PARTNER = "example.org", "partner.example"


@pytest.fixture
def audience() -> str:
    """An audience for which no JWT-SVID has been requested."""
    return tokens.new_audience()


@pytest.mark.parametrize(
    ("subject", "validator"),
    [
        pytest.param("shop", "bank", id="partner-at-home"),
        pytest.param("bank", "shop", id="home-at-partner"),
    ],
)
def test_federated_workload_validates(
    federation: Testbed, audience: str, subject: str, validator: str, saw: Saw
) -> None:
    """ValidateJWTSVID accepts the other domain's token, with its SPIFFE ID and required claims."""
    token, own = (
        tokens.token_of(federation, subject, audience),
        federation.workload(subject).spiffe_id,
    )

    answer = jwt.validate(federation.workload(validator).envoy.workload_api(), token, audience)

    assert answer.code is grpc.StatusCode.OK, f"{validator}: {answer}"
    assert answer.spiffe_id == own, f"{validator} got {answer.spiffe_id}"
    assert answer.claims["sub"] == own, f"sub is {answer.claims['sub']}"
    assert answer.claims["aud"] in (audience, [audience]), f"aud is {answer.claims['aud']}"
    assert answer.claims["exp"], "there is no exp"
    # SPIRE's default for allowed_foreign_jwt_claims: what else a partner says is not passed on.
    further = answer.claims.keys() - {"sub", "aud", "exp"}
    assert not further, f"the agent passed on {sorted(further)} of another trust domain's token"
    saw(f"claims {sorted(answer.claims)}")


def test_unfederated_workload_does_not(federation: Testbed, audience: str, saw: Saw) -> None:
    """For a workload whose entry does not federate, ValidateJWTSVID rejects the same token."""
    token = tokens.token_of(federation, "shop", audience)

    control = jwt.validate(federation.workload("bank").envoy.workload_api(), token, audience)
    answer = jwt.validate(federation.workload("loner").envoy.workload_api(), token, audience)

    assert control.code is grpc.StatusCode.OK, f"the federated workload got {control}"
    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT, f"loner: {answer}"
    assert not answer.spiffe_id, f"loner got {answer.spiffe_id}"
    saw(answer.details)


@pytest.mark.parametrize("other", ["stranger.example", HOME, PARTNER])
def test_key_of_another_domain_signs_nothing(
    federation: Testbed, audience: str, other: str, saw: Saw
) -> None:
    """A token with a subject in any trust domain is rejected if no trust domain has its key."""
    stranger = Partner("stranger.example")
    token = stranger.token(f"spiffe://{other}/shop", audience)

    answer = jwt.validate(federation.workload("bank").envoy.workload_api(), token, audience)

    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT, f"{other}: {answer}"
    saw(answer.details)
