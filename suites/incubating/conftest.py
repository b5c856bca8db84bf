"""The suite as an agent that asks for WIT-SVIDs, as a broker, and the workloads of both."""

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest

from svidproof import NotYet, PlatformError, Testbed, TimedOut, budgets, eventually
from svidproof.probes import Credential, TokenIssuer, X509Answer, broker, fetch_x509
from svidproof.probes import server_api as api

PARENT = "played-agent"
BROKER = "broker"
# The identities of the suite's own process, as the agent knows it.
OWN = (BROKER, "object-broker", "ordinary")


@pytest.fixture(scope="session")
def attest(incubating: Testbed) -> Callable[[str], api.PlayedAgent]:
    """Attests one more agent by join token, with an alias for the parent of its entries."""

    def attest(alias: str) -> api.PlayedAgent:
        token = incubating.spire.create_join_token(incubating.scenario.spiffe_id(alias))
        return api.PlayedAgent.attested(incubating.spire.api, token)

    return attest


@pytest.fixture(scope="session")
def agent(attest: Callable[[str], api.PlayedAgent]) -> api.PlayedAgent:
    """An agent that the suite plays; its alias is the parent of entries."""
    return attest(PARENT)


@pytest.fixture(scope="session")
def entry(incubating: Testbed) -> Callable[..., dict[str, Any]]:
    """Makes an entry below an agent that the suite plays."""

    def entry(name: str, parent: str = PARENT, **fields: object) -> dict[str, Any]:
        above = incubating.scenario.spiffe_id(parent)
        made = incubating.registration.entry(name, (f"unix:path:/{name}",), above)
        return {**made, **fields}

    return entry


@pytest.fixture(scope="session")
def keys() -> TokenIssuer:
    """Keys of workloads, one for each kind that a WIT-SVID may be bound to."""
    return TokenIssuer("keys.example")


@pytest.fixture(scope="session")
def local(incubating: Testbed) -> Iterator[api.ServerCaller]:
    """A caller on the server's own socket."""
    with api.calling_locally(incubating.spire.local_api) as caller:
        yield caller


@pytest.fixture(scope="session")
def credentials(incubating: Testbed) -> Mapping[str, Credential]:
    """The X.509-SVIDs of the suite's own process, by the last parts of their IDs."""
    prober, spiffe_id = incubating.prober, incubating.scenario.spiffe_id
    for name in OWN:
        incubating.had.enter_context(incubating.registered(name, prober.selectors))

    def served() -> X509Answer:
        answer = fetch_x509(prober.workload_api())
        if missing := {*map(spiffe_id, OWN)} - {*answer.ids}:
            raise NotYet(f"no SVIDs of {', '.join(sorted(missing))}: {answer}")
        return answer

    answer = eventually(served, budgets.REGISTRATION)
    own = {name: answer.of(spiffe_id(name)) for name in OWN}
    return {name: svid.credential() for name, svid in own.items() if svid}


@pytest.fixture(scope="session")
def target(incubating: Testbed, credentials: Mapping[str, Credential]) -> str:
    """The gRPC target of the Broker API, for a broker that may use all references."""
    # Until the testbed is closed, which may be before the end of the session.
    return incubating.had.enter_context(incubating.prober.broker_api(credentials[BROKER]))


@pytest.fixture
def served(target: str) -> Callable[[str, bytes], X509Answer]:
    """Makes a request that a broker may make, until it is served, and returns the last answer.

    The agent may still know an entry of the suite's process that another check has deleted.
    """

    def served(method: str, request: bytes) -> X509Answer:
        answers: list[X509Answer] = []

        def ask() -> None:
            answers.append(broker.call_broker(target, method, request))
            if answers[-1].code is not grpc.StatusCode.OK:
                raise NotYet(str(answers[-1]))

        with contextlib.suppress(TimedOut):
            eventually(ask, budgets.REGISTRATION)
        return answers[-1]

    return served


@pytest.fixture
def provoked(incubating: Testbed) -> Iterator[None]:
    """The agent logs its refusals as errors."""
    refused = r"attest|No workload reference|No identity issued|Missing required audience"
    with incubating.provoking(incubating.prober.agent.component, refused):
        yield


class Referenced:
    """A process that a broker references, at a path of its own.

    Attributes:
        selectors: those of an entry for it, and for no other process.
        reference: what a broker says of it.
    """

    def __init__(self, program: Path) -> None:
        """Start the program, which waits for its input to end."""
        # Its name may decide what a program of several does.
        words = ["cat"]
        self._process = subprocess.Popen(words, executable=program, stdin=subprocess.PIPE)
        self.selectors = (f"unix:path:{program}",)
        self.reference = broker.Reference.process(self._process.pid)

    def end(self) -> None:
        """End it, and wait until no process has its process ID."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def start() -> Iterator[Callable[[str], Referenced]]:
    """Starts processes that a broker references, by their names."""
    found = shutil.which("cat")
    if found is None:
        raise PlatformError("this machine has no cat, a copy of which is the workload")
    source = Path(found).resolve()
    # Not pytest's own directories: those outlive the run.
    with (
        tempfile.TemporaryDirectory(prefix="svidproof-") as programs,
        contextlib.ExitStack() as started,
    ):

        def start(name: str) -> Referenced:
            program = Path(programs).resolve() / name
            shutil.copy(source, program)
            process = Referenced(program)
            started.callback(process.end)
            return process

        yield start
