"""spiffe-helper keeps valid SVIDs in its files during a fault, and renews them afterwards.

Two of its workloads have SVIDs that expire during the long outage of the agent, and two have SVIDs
that do not.
"""

import pytest

from svidproof import Measure, Saw, requirement
from svidproof.checks import FileOutage

STEADY = "steady-client"
each_workload = pytest.mark.parametrize(
    "name", ["server", "client", "steady-server", "steady-client"]
)


@requirement("RESILIENCE-31")
@each_workload
def test_files_are_kept_for_a_short_time(files_without_agent: FileOutage, name: str) -> None:
    """With the agent stopped, the files hold the last SVID, whole, until the agent returns."""
    _assert_kept(files_without_agent, name)


@requirement("RESILIENCE-31")
@each_workload
def test_files_are_kept_for_a_long_time(files_long_without_agent: FileOutage, name: str) -> None:
    """With the agent killed for longer than SVIDs live, the files hold the last SVID, too."""
    _assert_kept(files_long_without_agent, name)


@requirement("RESILIENCE-31")
def test_no_request_fails_for_a_short_time(files_without_agent: FileOutage, saw: Saw) -> None:
    """With the agent stopped, no request fails between programs whose SVIDs outlive that."""
    saw(f"{files_without_agent.assert_none_failed(STEADY)} requests succeeded")


@requirement("RESILIENCE-31")
def test_no_request_fails_for_a_long_time(files_long_without_agent: FileOutage, saw: Saw) -> None:
    """With the agent killed, no request fails between them either."""
    saw(f"{files_long_without_agent.assert_none_failed(STEADY)} requests succeeded")


@requirement("RESILIENCE-32")
@each_workload
def test_files_are_renewed_after_a_short_time(
    files_without_agent: FileOutage, name: str, measure: Measure
) -> None:
    """After a stopped agent returns, each workload has a new SVID in its files within the bound."""
    _assert_renewed(files_without_agent, name, measure)


@requirement("RESILIENCE-32")
@each_workload
def test_files_are_renewed_after_a_long_time(
    files_long_without_agent: FileOutage, name: str, measure: Measure
) -> None:
    """After a killed agent returns, so has each workload, though two of the SVIDs have expired."""
    _assert_renewed(files_long_without_agent, name, measure)


@requirement("RESILIENCE-32")
@each_workload
def test_new_svid_is_presented_after_a_short_time(
    files_without_agent: FileOutage, name: str
) -> None:
    """Each program presents the new SVID soon after it is in its files, and no older one then."""
    files_without_agent.assert_presents_new(name)


@requirement("RESILIENCE-32")
@each_workload
def test_new_svid_is_presented_after_a_long_time(
    files_long_without_agent: FileOutage, name: str
) -> None:
    """Each program presents the new SVID after the long outage, too."""
    files_long_without_agent.assert_presents_new(name)


@requirement("RESILIENCE-37")
def test_killed_helper_leaves_its_files_whole(helper_killed: FileOutage) -> None:
    """The files of a killed spiffe-helper hold its last SVID, whole, until it is started again."""
    _assert_kept(helper_killed, "server")


@requirement("RESILIENCE-37")
def test_restarted_helper_renews_its_files(helper_killed: FileOutage, measure: Measure) -> None:
    """The restarted spiffe-helper renews its files, and its program presents the SVID in them."""
    _assert_renewed(helper_killed, "server", measure)
    helper_killed.assert_presents_new("server")


@requirement("RESILIENCE-33")
def test_resumed_helper_renews_its_files(helper_paused: FileOutage, measure: Measure) -> None:
    """A spiffe-helper that was paused until its SVID expired renews its files."""
    _assert_renewed(helper_paused, "client", measure)


@requirement("RESILIENCE-33")
def test_resumed_program_presents_the_new_svid(helper_paused: FileOutage) -> None:
    """Its program presents the new SVID, and soon no longer the expired one."""
    helper_paused.assert_presents_new("client")


def _assert_kept(outage: FileOutage, name: str) -> None:
    kept, defects = outage.kept(name), outage.defects(name)

    assert not defects, f"{name}'s files were not whole: {defects[0].text}"
    gone = outage.back.at - kept.last.at
    assert gone <= outage.patience_s, (
        f"{name}'s last SVID was seen in its files until {gone:.1f} s before the return"
    )


def _assert_renewed(outage: FileOutage, name: str, measure: Measure) -> None:
    took = outage.recovery_s(name)

    measure(f"from the return to new files, {name}, {outage.fault.name}", took, "s")
    assert took <= outage.bound, (
        f"{name} had a newer SVID {took:.1f} s after the return, not within {outage.bound:.1f} s"
    )
