"""A second root in the trust bundle, as in a CA rotation, reaches every sidecar."""

from http import HTTPStatus

from svidproof import (
    Capability,
    FreshTestbed,
    Measure,
    Moment,
    NotYet,
    Overdue,
    Source,
    Testbed,
    eventually,
    needs,
    requirement,
)
from svidproof.budgets import Budget
from svidproof.credentials import Authority
from svidproof.forge import Forge
from svidproof.watch.observation import LAG

pytestmark = [requirement("SDS-2"), needs(Capability.OWN_SPIRE, Capability.OWN_TRUST_ROOT)]
# Seconds for which the server may answer from its cache: SPIRE pkg/server/cache/dscache.
CACHED = 1.0
VIEWS = [Source.WORKLOAD_API, Source.SECRETS]
CLIENT = "valid-api-client"
SHOWN = Budget("both roots in every /certs", LAG)


class Unshown(AssertionError):  # noqa: N818  a verdict, not a programming error
    """A sidecar's `/certs` does not show a root that was pushed to it."""


def test_next_root_is_pushed(fresh_testbed: FreshTestbed, measure: Measure) -> None:
    """A root added to the bundle soon reaches every sidecar, which accepts clients below it."""
    api = fresh_testbed("api")
    root = Authority.create("svidproof next root", api.scenario.trust_domain)
    credential = Forge(root, api.scenario.trust_domain).valid(api.scenario.spiffe_id(CLIENT))

    def trusted() -> None:
        _assert_held(api, VIEWS, root)
        for name in api.scenario.accepting(CLIENT):
            answer = api.prober.get(api.workload(name), credential=credential)
            if answer.status != HTTPStatus.OK:
                raise NotYet(f"{name} answers a client below the next root: {answer}")

    for name in api.scenario.accepting(CLIENT):
        before = api.prober.get(api.workload(name), credential=credential)
        assert before.status is None, (
            f"{name} accepts a client below a root that is in no bundle: {before}"
        )
    since = Moment.now()
    api.spire.prepare_authority(root)
    eventually(trusted, _budget(api), alive=api.assert_alive)

    measure("from a root in the server's bundle to every sidecar", Moment.now().at - since.at, "s")


def test_next_root_is_shown(fresh_testbed: FreshTestbed) -> None:
    """After the push, each sidecar's `/certs` shows the new root and the old one."""
    api = fresh_testbed("api")
    root = Authority.create("svidproof next root", api.scenario.trust_domain)
    api.spire.prepare_authority(root)
    eventually(lambda: _assert_held(api, VIEWS, root), _budget(api), alive=api.assert_alive)

    try:
        eventually(lambda: _assert_held(api, [Source.CERTS], root), SHOWN, alive=api.assert_alive)
    except Overdue as error:
        raise Unshown(str(error)) from None


def _budget(api: Testbed) -> Budget:
    # The agent polls at each sync, with a jitter of a tenth.
    limit = CACHED + api.settings.timing.sync_s * 1.1 + LAG
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
