"""The suite as a delegate, and the entries of workloads whose SVIDs it requests."""

from collections.abc import Callable, Collection, Iterator

import grpc
import pytest

from svidproof import Capability, NotYet, Progress, Testbed, budgets, eventually, experiment
from svidproof.checks import NO_IDENTITY_LOGGED, Impostors, observe_impostors
from svidproof.probes import X509Answer, delegated

Marked = Callable[..., tuple[str, ...]]
AwaitStatus = Callable[[grpc.StatusCode], None]
AwaitSvids = Callable[[str, delegated.On, Collection[str]], X509Answer]
# Of more SPIFFE IDs than these, a message names the first.
SHOWN = 3


@experiment(
    "agent-api",
    changes=True,
    seconds=10,
    needs=[Capability.OWN_SPIRE, Capability.OWN_TRUST_ROOT, Capability.OWN_MACHINE],
)
def impostors(testbed: Testbed, progress: Progress) -> Impostors:
    """Agents start below servers with other certificates than SPIRE server's."""
    return observe_impostors(testbed, progress)


@pytest.fixture
def provoked(agent_api: Testbed) -> Iterator[None]:
    """The agent logs its refusals as errors."""
    refused = rf"{NO_IDENTITY_LOGGED}|Permission denied|Invalid argument|Missing required audience"
    with agent_api.provoking(agent_api.prober.agent.component, refused):
        yield


@pytest.fixture(scope="session")
def marked() -> Marked:
    """Makes selectors that no process of the machine has, by their names."""
    return lambda *names: tuple(f"svidproof:mark:{name}" for name in names)


@pytest.fixture(scope="session")
def await_status(agent_api: Testbed, marked: Marked) -> AwaitStatus:
    """Waits until the agent answers the suite, as a delegate, with a status."""
    target, on = agent_api.prober.admin_api(), delegated.On(marked("nobody"))

    def wait(code: grpc.StatusCode) -> None:
        def has() -> None:
            answer = delegated.delegated_svids(target, on)
            if answer.code is not code:
                raise NotYet(str(answer))

        eventually(has, budgets.REGISTRATION)

    return wait


@pytest.fixture(scope="module")
def admin(agent_api: Testbed, await_status: AwaitStatus) -> Iterator[str]:
    """The admin socket of the agent, while the suite is registered as its delegate."""
    with agent_api.registered("delegate", agent_api.prober.selectors):
        await_status(grpc.StatusCode.OK)
        yield agent_api.prober.admin_api()


@pytest.fixture(scope="session")
def await_svids() -> AwaitSvids:
    """Waits until a delegate gets one SVID of each SPIFFE ID, and no other."""

    def wait(target: str, on: delegated.On, ids: Collection[str]) -> X509Answer:
        wanted = {*ids}

        def has() -> X509Answer:
            answer = delegated.delegated_svids(target, on)
            if answer.code is not grpc.StatusCode.OK:
                raise NotYet(str(answer))
            if sorted(answer.ids) == sorted(ids):
                return answer
            missing, more = wanted - {*answer.ids}, {*answer.ids} - wanted
            raise NotYet(
                f"{len(missing)} of {len(wanted)} SVIDs are missing{_some(missing)}, "
                f"{len(more)} too many{_some(more)}"
            )

        return eventually(has, budgets.REGISTRATION)

    return wait


def _some(ids: Collection[str]) -> str:
    """The first of some SPIFFE IDs, in brackets."""
    more = ", ..." if len(ids) > SHOWN else ""
    return f" ({', '.join(sorted(ids)[:SHOWN])}{more})" if ids else ""
