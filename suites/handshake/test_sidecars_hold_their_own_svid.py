"""What each sidecar holds: its own SVID, the trust bundle, and nothing else."""

import pytest

from svidproof import Testbed, budgets, eventually, requirement
from svidproof.components.envoy import BUNDLE
from svidproof.watch.timeline import spiffe_ids

WORKLOADS = ["api", "valid-api-client", "invalid-api-client", "api-trusted-ca"]


@requirement("HANDSHAKE-1")
@pytest.mark.parametrize("name", WORKLOADS)
def test_certs_show_own_svid_and_bundle(api: Testbed, name: str) -> None:
    """Every TLS context in `/certs` presents the sidecar's own ID and trusts exactly the bundle."""
    workload = api.workload(name)
    bundle = {certificate.serial_number for certificate in api.spire.bundle()}

    contexts = workload.envoy.certs()

    assert contexts, f"{name} has no TLS context"
    for context in contexts:
        assert [c.uris for c in context.chain[:1]] == [(workload.spiffe_id,)]
        assert {c.serial for c in context.authorities} == bundle


@requirement("HANDSHAKE-1")
@pytest.mark.parametrize("name", WORKLOADS)
def test_secrets_are_own_svid_and_bundle(api: Testbed, name: str) -> None:
    """`config_dump` holds two secrets: the sidecar's own SVID and the server's trust bundle."""
    workload = api.workload(name)

    secrets = workload.envoy.secrets()

    assert set(secrets) == {workload.spiffe_id, BUNDLE}
    svid, bundle = secrets[workload.spiffe_id], secrets[BUNDLE]
    assert spiffe_ids(svid.certificates[0]) == [workload.spiffe_id]
    assert set(bundle.certificates) == set(api.spire.bundle())
    assert bundle.validator == workload.spec.validator
    if bundle.validator == "spiffe":
        assert bundle.trust_domains == (api.scenario.trust_domain,)


@requirement("HANDSHAKE-1")
@pytest.mark.parametrize("name", WORKLOADS)
def test_certs_and_secrets_agree(api: Testbed, name: str) -> None:
    """The certificate in `/certs` is the one that SDS delivered."""
    envoy = api.workload(name).envoy

    def agree() -> None:
        delivered = envoy.secrets()[api.workload(name).spiffe_id].certificates[0].serial_number
        shown = {context.chain[0].serial for context in envoy.certs()}
        assert delivered in shown, f"SDS delivered {delivered:x}, /certs shows {shown}"

    eventually(agree, budgets.SECRETS_READY)
