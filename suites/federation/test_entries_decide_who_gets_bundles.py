"""A workload gets the bundles of the trust domains that its entry federates with, and no others."""

import grpc
import pytest

from svidproof import Testbed, budgets, eventually, requirement
from svidproof.probes import fetch_bundles, fetch_secrets, fetch_x509, jwt

HOME, PARTNER = "example.org", "partner.example"
# What each workload's entry federates with, in addition to its own trust domain.
FEDERATES = {"bank": PARTNER, "shop": HOME, "loner": None}
each_workload = pytest.mark.parametrize("name", FEDERATES)
ALL_BUNDLES = "ALL"
# What the agent logs when a process requests a secret that it does not get.
REJECTED = r"Error building stream secrets response"


def others(name: str) -> set[str]:
    """The SPIFFE IDs of the trust domains that a workload federates with."""
    other = FEDERATES[name]
    return {f"spiffe://{other}"} if other else set()


def every(testbed: Testbed, name: str) -> set[str]:
    """These trust domains and the workload's own."""
    return {f"spiffe://{testbed.domain_of(name).trust_domain}", *others(name)}


@requirement("FEDERATION-3")
@each_workload
def test_svids_come_with_these_bundles(federation: Testbed, name: str) -> None:
    """FetchX509SVID delivers the bundles of exactly these other trust domains."""
    answer = fetch_x509(federation.workload(name).envoy.workload_api())

    assert answer.svids, f"{name} got {answer}"
    assert set(answer.foreign) == others(name), f"{name} got the bundles of {list(answer.foreign)}"
    for uri, bundle in answer.foreign.items():
        root = federation.domain(uri.removeprefix("spiffe://")).root.certificate
        assert bundle == (root,), f"{name} got another bundle of {uri} than its server's"


@requirement("FEDERATION-3")
@each_workload
def test_x509_bundles_are_these(federation: Testbed, name: str) -> None:
    """FetchX509Bundles delivers the bundles of its own and of exactly these trust domains."""
    answer = fetch_bundles(federation.workload(name).envoy.workload_api())

    wanted = every(federation, name)
    assert set(answer.authorities) == wanted, f"{name} got bundles of {list(answer.authorities)}"
    for uri, bundle in answer.authorities.items():
        root = federation.domain(uri.removeprefix("spiffe://")).root.certificate
        assert bundle == (root,), f"{name} got another bundle of {uri} than its server's"


@requirement("FEDERATION-3")
@each_workload
def test_jwt_bundles_are_these(federation: Testbed, name: str) -> None:
    """FetchJWTBundles delivers the keys of its own and of exactly these trust domains."""
    answer = jwt.bundles(federation.workload(name).envoy.workload_api())

    assert set(answer.bundles) == every(federation, name), f"{name} got {list(answer.bundles)}"
    for uri, bundle in answer.bundles.items():
        server = federation.domain(uri.removeprefix("spiffe://")).spire
        kids = {str(key.get("kid")) for key in bundle["keys"]}
        assert kids == set(server.jwt_keys()), f"{name} got other keys of {uri} than its server's"


@requirement("FEDERATION-4")
@each_workload
def test_sidecar_trusts_these_domains(federation: Testbed, name: str) -> None:
    """A sidecar that requests all bundles has exactly these, each for its own trust domain."""
    envoy = federation.workload(name).envoy

    def held() -> None:
        secret = envoy.secrets()[ALL_BUNDLES]
        domains = {f"spiffe://{domain}" for domain in secret.bundles}
        assert domains == every(federation, name), f"{name}'s sidecar trusts {sorted(domains)}"
        for domain, bundle in secret.bundles.items():
            root = federation.domain(domain).root.certificate
            assert bundle == (root,), f"{name}'s sidecar trusts others for {domain} than its root"

    eventually(held, budgets.SECRETS_READY, alive=envoy.assert_alive)


@requirement("FEDERATION-4")
@each_workload
@pytest.mark.parametrize("domain", [HOME, PARTNER, "unknown.example"])
def test_secret_of_a_domain_is_given_to_these(federation: Testbed, name: str, domain: str) -> None:
    """SDS gives the bundle of a trust domain by name if the entry federates with it."""
    uri = f"spiffe://{domain}"

    with federation.provoking(federation.agent_of(name).component, REJECTED):
        answer = fetch_secrets(federation.workload(name).envoy.workload_api(), uri)

    if uri in every(federation, name):
        assert answer.names == (uri,), f"{name}: expected the secret {uri}, got {answer}"
        return
    assert answer.secrets == 0, f"{name} got the secret {uri}: {answer}"
    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT, f"{name}, {uri}: {answer}"
