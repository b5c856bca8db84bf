"""A change of the upstream server's CA reaches the workloads below a nested server."""

import pytest

from svidproof import Measure, Saw, requirement
from svidproof.checks import NestedChange, assert_all_succeeded, assert_signed_below

each_workload = pytest.mark.parametrize("name", ["front", "back"])


class Kept(AssertionError):  # noqa: N818  a verdict, not a programming error
    """Raised if a revoked root is still trusted."""


@requirement("TOPOLOGY-4")
@pytest.mark.parametrize("change", ["first", "second"])
def test_next_root_is_in_every_bundle(
    nested_change: NestedChange, change: str, measure: Measure
) -> None:
    """The root of the upstream server's prepared CA is in every trust bundle."""
    took = nested_change.took("prepared", nested_change.prepared[change])

    measure(f"from the upstream server's {change} next CA to every bundle", took, "s")
    assert took <= nested_change.bounds["prepared"], f"every bundle had it after {took:.1f} s"


@requirement("TOPOLOGY-4")
def test_nothing_is_signed_below_it_before(nested_change: NestedChange) -> None:
    """No SVID is below the next root before that is activated, and every SVID is afterwards."""
    took = nested_change.took("renewed", nested_change.renewed)

    early = nested_change.early()

    assert not early, f"{len(early)} SVIDs were signed below it before"
    assert took <= nested_change.bounds["renewed"], f"every SVID was replaced after {took:.1f} s"


@requirement("TOPOLOGY-4")
def test_new_svid_is_not_signed_below_it_before(nested_change: NestedChange) -> None:
    """An SVID that is signed between preparation and activation is below the first root."""
    assert_signed_below(nested_change.between, nested_change.new)


@requirement("TOPOLOGY-5")
def test_tainted_root_stays_until_it_is_revoked(nested_change: NestedChange) -> None:
    """The first root is in every bundle until it is revoked: SVIDs below it may be presented."""
    names = ", ".join(nested_change.dropped)
    assert not names, f"before its revocation, the first root was not in the bundle of {names}"


@requirement("TOPOLOGY-5")
@each_workload
def test_no_request_fails(nested_change: NestedChange, name: str, saw: Saw) -> None:
    """Every request between workloads of both servers succeeds throughout the change."""
    saw(assert_all_succeeded(nested_change.requests(name), name))


@requirement("TOPOLOGY-6")
def test_nested_server_learns_what_is_tainted(
    nested_change: NestedChange, measure: Measure
) -> None:
    """A root that is tainted at the upstream server is tainted at its nested server, too."""
    took = nested_change.took("tainted", nested_change.tainted)

    measure("from a tainted upstream root to the nested server", took, "s")
    assert took <= nested_change.bounds["tainted"], f"it was tainted after {took:.1f} s"


@requirement("TOPOLOGY-6")
def test_servers_replace_their_own_svids(nested_change: NestedChange, measure: Measure) -> None:
    """Both servers soon present other SVIDs of their own to agents."""
    took = nested_change.took("servers", nested_change.servers)

    measure("from renewed workloads to the servers' own SVIDs", took, "s")
    assert took <= nested_change.bounds["servers"], f"both servers had one after {took:.1f} s"


@requirement("TOPOLOGY-6")
@each_workload
def test_revoked_root_leaves_every_bundle(
    nested_change: NestedChange, name: str, measure: Measure
) -> None:
    """A root that is revoked at the upstream server leaves every bundle, below both servers."""
    took = _left(nested_change, "revoked", name)

    measure(f"from a revoked upstream root to the bundles of {name}", took, "s")


@requirement("TOPOLOGY-13")
@each_workload
def test_root_that_is_revoked_meanwhile_leaves_every_bundle(
    nested_change: NestedChange, name: str, measure: Measure
) -> None:
    """A root that is revoked while the nested server is paused leaves every bundle afterwards."""
    took = _left(nested_change, "missed", name)

    measure(f"from a nested server that resumes to the bundles of {name}", took, "s")


def _left(change: NestedChange, step_name: str, name: str) -> float:
    """Seconds until a revoked root had left a workload's trust bundle; raises Kept."""
    step = (change.revoked if step_name == "revoked" else change.missed)[name]
    if step.done is None:
        raise Kept(f"{name}: {step.late}")
    took = change.took(step_name, step)
    if took > change.bounds[step_name]:
        raise Kept(f"{name}: it left after {took:.1f} s")
    return took
