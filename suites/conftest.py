"""The testbeds that checks share, one fixture for each scenario and named like it."""

import pytest

from svidproof import Progress, Testbed, Testbeds, experiment, gives_testbed
from svidproof.checks import (
    Observation,
    OpenConnection,
    observe_open_connection,
    observe_rotations,
)
from svidproof.probes import Credential


@pytest.fixture(scope="session")
def api(testbeds: Testbeds) -> Testbed:
    """A server, a client that it accepts, and one that it does not."""
    return testbeds.get("api")


@pytest.fixture(scope="session")
def first_svid(api: Testbed) -> Credential:
    """The accepted client's SVID at the time of the first check that asks for it."""
    return api.workload("valid-api-client").svid()


@pytest.fixture(scope="session")
@gives_testbed("api", testbed="unwatched")
def unwatched_api(testbeds: Testbeds) -> Testbed:
    """A second such testbed, for requests that must not disturb the window of the rotations."""
    return testbeds.get("api", "unwatched")


@pytest.fixture(scope="session")
def front_proxy(testbeds: Testbeds) -> Testbed:
    """A client outside the mesh, a proxy that accepts it, and a backend that sees its SPIFFE ID."""
    return testbeds.get("front-proxy")


@pytest.fixture(scope="session")
def two_frontends(testbeds: Testbeds) -> Testbed:
    """Two frontends of one backend, and policies that distinguish them."""
    return testbeds.get("two-frontends")


@pytest.fixture(scope="session")
def manifest(testbeds: Testbeds) -> Testbed:
    """A server and a client that know nothing of SPIFFE, run by spiffe-helper."""
    return testbeds.get("manifest")


@experiment("api", seconds=30)
def rotations(testbed: Testbed, progress: Progress) -> Observation:
    """What was seen until every workload had rotated often enough."""
    return observe_rotations(testbed, progress)


@experiment("api", seconds=25)
def open_connection(testbed: Testbed, progress: Progress) -> OpenConnection:
    """A connection to the API that stays open while its sidecar gets new certificates."""
    return observe_open_connection(testbed, "api", progress)


@pytest.fixture(scope="session")
def greeter(testbeds: Testbeds) -> Testbed:
    """Programs that ask the Workload API themselves: greeters, and a demo page."""
    return testbeds.get("greeter")


@pytest.fixture(scope="session")
def bearer(testbeds: Testbeds) -> Testbed:
    """An API that accepts the bearers of JWT-SVIDs, and processes that validate them."""
    return testbeds.get("bearer")


@pytest.fixture(scope="session")
def oidc(testbeds: Testbeds) -> Testbed:
    """SPIRE's OIDC discovery provider."""
    return testbeds.get("oidc")


@pytest.fixture(scope="session")
def spec(testbeds: Testbeds) -> Testbed:
    """A trust domain with a bundle endpoint, and a CA that signs itself."""
    return testbeds.get("spec")


@pytest.fixture(scope="session")
def ip_domain(testbeds: Testbeds) -> Testbed:
    """A trust domain whose name looks like an IP address."""
    return testbeds.get("ip-domain")


@pytest.fixture(scope="session")
def plain_domain(testbeds: Testbeds) -> Testbed:
    """A trust domain whose name could not be in the DNS."""
    return testbeds.get("plain-domain")


@pytest.fixture(scope="session")
def federation(testbeds: Testbeds) -> Testbed:
    """Two trust domains that federate, and workloads that do not."""
    return testbeds.get("federation")


@pytest.fixture(scope="session")
def declared_partners(testbeds: Testbeds) -> Testbed:
    """A trust domain whose federation relationships are Kubernetes objects."""
    return testbeds.get("declared-partners")


@pytest.fixture(scope="session")
def server_api(testbeds: Testbeds) -> Testbed:
    """A SPIRE server whose API is called by callers of every kind."""
    return testbeds.get("server-api")


@pytest.fixture(scope="session")
def agent_api(testbeds: Testbeds) -> Testbed:
    """A SPIRE agent with an admin socket, whose Delegated Identity API one identity may use."""
    return testbeds.get("agent-api")


@pytest.fixture(scope="session")
def incubating(testbeds: Testbeds) -> Testbed:
    """A SPIRE server that signs WIT-SVIDs, and an agent with a Broker Endpoint."""
    return testbeds.get("incubating")


@pytest.fixture(scope="session")
def events_based_cache(testbeds: Testbeds) -> Testbed:
    """A SPIRE server that updates its cache of entries by events, with its agent."""
    return testbeds.get("events-based-cache")


@pytest.fixture(scope="session")
def many_entries(testbeds: Testbeds) -> Testbed:
    """An agent with more than a thousand entries and a small cache of SVIDs."""
    return testbeds.get("many-entries")


@pytest.fixture(scope="session")
def consumers(testbeds: Testbeds) -> Testbed:
    """A place for consumers of a Workload API of the suite's own."""
    return testbeds.get("consumers")
