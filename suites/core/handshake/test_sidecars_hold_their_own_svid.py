"""Each sidecar holds its own SVID and the trust bundle, and nothing else."""

import pytest

from svidproof import (
    BUNDLE,
    Capability,
    Source,
    Testbed,
    budgets,
    eventually,
    holds_key,
    needs,
    requirement,
    spiffe_ids,
)
from svidproof.checks import Observation, each_workload


@requirement("HANDSHAKE-1", "DEPLOYMENT-1")
@each_workload
def test_certs_show_own_svid_and_bundle(api: Testbed, name: str) -> None:
    """Each TLS context in `/certs` has the sidecar's own SVID and trusts exactly the bundle."""
    workload = api.workload(name)
    bundle = {certificate.serial_number for certificate in api.trust_bundle}

    contexts = workload.envoy.certs()

    assert contexts, f"{name} has no TLS context"
    for context in contexts:
        own = [c.uris for c in context.chain[:1]]
        assert own == [(workload.spiffe_id,)], f"{name} presents {own}"
        trusted = {c.serial for c in context.authorities}
        assert trusted == bundle, _different(name, len(trusted), len(bundle))


@requirement("HANDSHAKE-1", "DEPLOYMENT-1")
@each_workload
def test_secrets_are_own_svid_and_bundle(api: Testbed, name: str) -> None:
    """`config_dump` holds two secrets: the sidecar's own SVID and the server's trust bundle."""
    workload = api.workload(name)

    secrets = workload.envoy.secrets()

    assert set(secrets) == {workload.spiffe_id, BUNDLE}, (
        f"{name} holds the secrets {sorted(secrets)}"
    )
    svid, bundle = secrets[workload.spiffe_id], secrets[BUNDLE]
    ids = spiffe_ids(svid.certificates[0])
    assert ids == [workload.spiffe_id], f"{name} holds an SVID for {ids}"
    trusted, genuine = set(bundle.certificates), api.trust_bundle
    assert trusted == genuine, _different(name, len(trusted), len(genuine))
    assert bundle.validator == workload.spec.validator, f"{name} got a {bundle.validator} context"
    if bundle.validator == "spiffe":
        assert bundle.trust_domains == (api.scenario.trust_domain,), bundle.trust_domains


@requirement("HANDSHAKE-1", "DEPLOYMENT-1")
@each_workload
def test_private_key_is_not_shown(api: Testbed, name: str) -> None:
    """`config_dump` shows the SVID without its private key."""
    envoy = api.workload(name).envoy
    assert envoy.secrets(), f"{name} holds no secret"

    dump = envoy.config_dump()

    assert '"private_key"' in dump, f"{name}: config_dump does not show that there is a key"
    assert not holds_key(dump), f"{name}: config_dump shows a private key"


@requirement("HANDSHAKE-1", "DEPLOYMENT-1")
@each_workload
def test_certs_and_secrets_agree(api: Testbed, name: str) -> None:
    """`/certs` shows the certificate that SDS delivered."""
    envoy = api.workload(name).envoy

    def agree() -> None:
        delivered = envoy.secrets()[api.workload(name).spiffe_id].certificates[0].serial_number
        shown = {context.chain[0].serial for context in envoy.certs()}
        assert delivered in shown, (
            f"SDS delivered {delivered:x}, /certs shows {[f'{s:x}' for s in shown]}"
        )

    eventually(agree, budgets.SECRETS_READY)


@requirement("HANDSHAKE-1", "DEPLOYMENT-1")
@each_workload
@pytest.mark.parametrize("source", [Source.CERTS, Source.SECRETS], ids=lambda s: s.value)
def test_trust_never_changes(rotations: Observation, name: str, source: Source) -> None:
    """A sidecar trusts exactly the bundle throughout the rotations."""
    bundle = {certificate.serial_number for certificate in rotations.testbed.trust_bundle}

    trusts = rotations.timeline.trusts(source, name)

    assert trusts, f"{name}: no CA was seen at {source.value}"
    for trust in trusts:
        other = [f"{serial:x}" for serial in trust.serials - bundle]
        assert trust.serials == bundle, (
            f"{_different(name, len(trust.serials), len(bundle))}; not of the bundle: {other}"
        )


@requirement("HANDSHAKE-1")
@needs(Capability.OWN_TRUST_ROOT)
def test_server_publishes_the_bundle(api: Testbed) -> None:
    """The server's bundle contains exactly the configured root."""
    bundle = api.spire.bundle()

    subjects = [certificate.subject.rfc4514_string() for certificate in bundle]
    assert set(bundle) == api.trust_bundle, f"the bundle holds {subjects}"


def _different(name: str, trusted: int, bundle: int) -> str:
    return f"{name} trusts {trusted} CAs instead of the {bundle} of the bundle"
