"""The bundle document as its endpoint serves it, and a process with several identities."""

import pytest

from svidproof import Capability, Progress, Testbed, experiment
from svidproof.checks import (
    BundleHistory,
    Consumption,
    observe_bundle_history,
    observe_consumer,
    tokens,
)
from svidproof.probes import BundleDocument, bundle_endpoint


@pytest.fixture(scope="session")
def verifier(spec: Testbed) -> tokens.Verifier:
    """The prober, registered and federated with two trust domains whose keys the suite has."""
    # Until the testbed is closed, which may be before the end of the session.
    return spec.had.enter_context(tokens.verifying(spec))


@pytest.fixture
def document(spec: Testbed) -> BundleDocument:
    """The document that the bundle endpoint serves now."""
    return bundle_endpoint.look(spec.spire.reached_endpoint)


@experiment("spec", testbed="bundle", changes=True, seconds=10, needs=[Capability.OWN_SPIRE])
def bundle_history(testbed: Testbed, progress: Progress) -> BundleHistory:
    """The bundle endpoint's documents while X.509 and JWT authorities change."""
    return observe_bundle_history(testbed, progress)


NEEDS = [Capability.OWN_MACHINE, Capability.FAULTS, Capability.FURTHER_TOOLS]


@experiment("consumers", seconds=30, needs=NEEDS)
def helper_consumption(testbed: Testbed, progress: Progress) -> Consumption:
    """spiffe-helper while its Workload API sends wrong answers."""
    return observe_consumer(testbed, "spiffe-helper", progress)


@experiment("consumers", testbed="envoy", seconds=30, needs=NEEDS)
def envoy_consumption(testbed: Testbed, progress: Progress) -> Consumption:
    """Envoy while its SDS server sends wrong answers."""
    return observe_consumer(testbed, "envoy", progress)


@pytest.fixture
def consumption(request: pytest.FixtureRequest) -> Consumption:
    """The record of one of them."""
    made: Consumption = request.getfixturevalue(request.param)
    return made
