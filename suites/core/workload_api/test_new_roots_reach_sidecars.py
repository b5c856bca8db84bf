"""A second root in the trust bundle, as in a CA rotation, reaches every sidecar."""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from svidproof import (
    LAG,
    Budget,
    Capability,
    Measure,
    NotYet,
    Progress,
    Source,
    Testbed,
    TimedOut,
    Timestamp,
    bundle_bound,
    eventually,
    experiment,
    needs,
    requirement,
)
from svidproof.probes import Authority, Exchange, Forge

pytestmark = [requirement("SDS-2"), needs(Capability.OWN_SPIRE, Capability.OWN_TRUST_ROOT)]
VIEWS = [Source.WORKLOAD_API, Source.SECRETS]
CLIENT = "valid-api-client"
SHOWN = Budget("both roots in every /certs", LAG)


class Unshown(AssertionError):  # noqa: N818  a verdict, not a programming error
    """Raised if a sidecar's `/certs` does not show a root that was pushed to it."""


@dataclass(frozen=True)
class NextRoot:
    """A root that joined the trust bundle.

    Attributes:
        before: what each server answered a client below it before that.
        took: seconds until every sidecar had it and let such a client in, if they did in time.
        late: what did not come in time, if something did not.
        unshown: what `/certs` left out after that, if it did.
    """

    before: Mapping[str, Exchange]
    took: float | None
    late: TimedOut | None
    unshown: str


@experiment(
    "api",
    testbed="unwatched",
    # Restarts on the shared testbed end the streams in which the watch sees the bundle.
    always_separate=True,
    changes=True,
    seconds=5,
    needs=[Capability.OWN_SPIRE, Capability.OWN_TRUST_ROOT],
)
def next_root(testbed: Testbed, progress: Progress) -> NextRoot:
    """The server's bundle gets a second root, and all sidecars are sampled until they have it."""
    progress("adding a root to the bundle")
    root = Authority.create("svidproof next root", testbed.scenario.trust_domain)
    domain = testbed.scenario.trust_domain
    credential = Forge(root, domain).valid(testbed.scenario.spiffe_id(CLIENT))
    servers = testbed.scenario.accepting(CLIENT)

    def ask(name: str) -> Exchange:
        return testbed.prober.get(testbed.workload(name), credential=credential)

    def trusted() -> None:
        _assert_held(testbed, VIEWS, root)
        for name in servers:
            answer = ask(name)
            if answer.status != HTTPStatus.OK:
                raise NotYet(f"{name} answers a client below the next root: {answer}")

    before = {name: ask(name) for name in servers}
    since, alive, limit = Timestamp.now(), testbed.assert_alive, _budget(testbed)
    testbed.spire.prepare_authority(root)
    try:
        eventually(trusted, limit, alive=alive)
    except TimedOut as error:
        testbed.watch.assert_can_judge(since, limit.seconds)
        return NextRoot(before, None, error, "")
    took = Timestamp.now().at - since.at
    try:
        eventually(lambda: _assert_held(testbed, [Source.CERTS], root), SHOWN, alive=alive)
    except TimedOut as error:
        return NextRoot(before, took, None, str(error))
    return NextRoot(before, took, None, "")


def test_next_root_is_pushed(next_root: NextRoot, measure: Measure) -> None:
    """A root added to the bundle soon reaches every sidecar, which accepts clients below it."""
    for name, answer in next_root.before.items():
        assert answer.status is None, f"{name} trusts a root that is in no bundle: {answer}"
    if next_root.late is not None:
        raise next_root.late

    assert next_root.took is not None
    measure("from a root in the server's bundle to every sidecar", next_root.took, "s")


def test_next_root_is_shown(next_root: NextRoot) -> None:
    """Once the root was pushed, each sidecar's `/certs` shows it in addition to the old one."""
    if next_root.late is not None:
        raise next_root.late

    if next_root.unshown:
        raise Unshown(next_root.unshown)


def _budget(api: Testbed) -> Budget:
    limit = bundle_bound(api.settings.timing.sync_s)
    return Budget("the next root in every sidecar", limit)


def _assert_held(api: Testbed, views: list[Source], root: Authority) -> None:
    """Require that the last bundle of each sidecar has this root, the first one and no other."""
    both = {root.certificate.serial_number, api.root.certificate.serial_number}
    for view in views:
        for name in api.workloads:
            last = api.watch.timeline.trusts(view, name)[-1:]
            held = set(last[0].serials) if last else set()
            if held != both:
                raise NotYet(
                    f"{view.value} of {name} shows {len(held)} roots, expected both and no other"
                )
