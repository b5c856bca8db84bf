"""The database of SPIRE server is down, and no request fails before SVIDs expire.

A server without its database does not answer agents, so the bounds are those of a server that is
down: see test_server_outages_are_survived.py.
"""

from collections.abc import Mapping

import pytest

from svidproof import Measure, Saw, health, requirement
from svidproof.checks import Locked, Noticed, Outage, assert_recovered

CLIENT, BOTH = "client", ("server", "client")
ENDED, HANGING = ("stopped", "killed", "refused"), ("paused", "held")
each_fault = pytest.mark.parametrize("how", [*ENDED, *HANGING])
each_sidecar = pytest.mark.parametrize("name", BOTH)


class Untrue(AssertionError):  # noqa: N818  a verdict, not a programming error
    """Raised if the server reports that it is healthy although it cannot use its database."""


@requirement("RESILIENCE-21")
@each_fault
def test_no_request_fails(database_away: Mapping[str, Outage], how: str) -> None:
    """Every request succeeds before, during and after the outage of the database."""
    database_away[how].assert_none_failed(CLIENT)


@requirement("RESILIENCE-21")
@each_fault
@each_sidecar
def test_renewals_resume(
    database_away: Mapping[str, Outage], how: str, name: str, measure: Measure
) -> None:
    """Each sidecar gets an SVID signed after the return, within the bound of the agent's rule."""
    took = assert_recovered(database_away[how], name)

    measure(f"from the database's return to a new SVID, database {how}, {name}", took, "s")


@requirement("RESILIENCE-22")
@each_sidecar
def test_sidecars_recover_after_its_end(database_gone: Outage, name: str, measure: Measure) -> None:
    """After an outage longer than SVIDs live, each sidecar gets a new SVID without a restart."""
    took = assert_recovered(database_gone, name)

    measure(f"from the database's return to a new SVID, all expired, {name}", took, "s")


@requirement("RESILIENCE-22")
@each_sidecar
def test_sidecars_recover_after_a_hang(database_hangs: Outage, name: str, measure: Measure) -> None:
    """After a hang longer than SVIDs live, each sidecar gets a new SVID without a restart."""
    took = assert_recovered(database_hangs, name)

    measure(f"from the database's resumption to a new SVID, all expired, {name}", took, "s")


@requirement("RESILIENCE-22")
def test_requests_succeed_after_its_end(database_gone: Outage) -> None:
    """Requests succeed again once both sidecars have new SVIDs."""
    database_gone.assert_served_again(CLIENT)


@requirement("RESILIENCE-22")
def test_requests_succeed_after_a_hang(database_hangs: Outage) -> None:
    """Requests succeed again once both sidecars have new SVIDs."""
    database_hangs.assert_served_again(CLIENT)


@requirement("RESILIENCE-22")
def test_entries_are_served_after_its_end(database_gone: Outage, measure: Measure) -> None:
    """An entry that is created after the return is served without a delay."""
    measure(
        "from an entry to its SVID after the database's return",
        database_gone.assert_entry_served(),
        "s",
    )


@requirement("RESILIENCE-22")
def test_entries_are_served_after_a_hang(database_hangs: Outage, measure: Measure) -> None:
    """An entry that is created after the hang is served without a delay."""
    measure("from an entry to its SVID after a hang", database_hangs.assert_entry_served(), "s")


@requirement("RESILIENCE-23")
@each_fault
def test_healthcheck_fails_without_database(
    database_away: Mapping[str, Outage], how: str, saw: Saw
) -> None:
    """`healthcheck` succeeds before and after the outage of the database, and fails meanwhile."""
    outage = database_away[how]
    server = outage.testbed.spire.component
    answers = {when: asked.of(server, health.COMMAND) for when, asked in outage.health.items()}

    assert answers["before"] == health.HEALTHY, f"healthcheck, with a database: {answers['before']}"
    if answers["during"] == health.HEALTHY:
        raise Untrue(f"healthcheck: healthy, with {outage.fault.name}")
    assert answers["after"] == health.HEALTHY, f"healthcheck, with a database: {answers['after']}"
    saw(f"healthcheck with {outage.fault.name}: {answers['during']}")


@requirement("RESILIENCE-23")
@pytest.mark.parametrize("endpoint", [health.LIVE, health.READY, health.COMMAND])
def test_endpoint_notices_that_the_database_is_gone(
    database_noticed: Noticed, endpoint: str, measure: Measure
) -> None:
    """Each endpoint reports that the server is not healthy, some up to a minute later."""
    before = database_noticed.before[endpoint]
    assert before == health.HEALTHY, f"{endpoint}, with a database: {before}"

    if endpoint not in database_noticed.moments:
        raise Untrue(f"{endpoint}: healthy, with {database_noticed.fault.name}")
    measure(
        f"from the database's end to {endpoint} of the server", database_noticed.took(endpoint), "s"
    )


@requirement("RESILIENCE-24")
def test_no_request_fails_while_sqlite_is_locked(database_locked: Locked) -> None:
    """Every request succeeds before, during and after the lock."""
    database_locked.outage.assert_none_failed(CLIENT)


@requirement("RESILIENCE-24")
@each_sidecar
def test_renewals_resume_after_a_lock(database_locked: Locked, name: str, measure: Measure) -> None:
    """Each sidecar gets an SVID signed after the lock, within the bound of the agent's rule."""
    took = assert_recovered(database_locked.outage, name)

    measure(f"from the lock's end to a new SVID, {name}", took, "s")


@requirement("RESILIENCE-24")
def test_write_is_refused_while_sqlite_is_locked(database_locked: Locked, measure: Measure) -> None:
    """The server rejects a new entry with the reason, and does not have it afterwards."""
    answer = database_locked.answer

    assert answer, "the server says that it has stored an entry in a locked database"
    assert "database is locked" in answer, f"the server gave no reason: {answer}"
    assert not database_locked.stored, f"the server has an entry that it has refused: {answer}"
    measure("from a new entry to its refusal", database_locked.seconds, "s")


@requirement("RESILIENCE-24")
def test_entries_are_served_after_a_lock(database_locked: Locked) -> None:
    """An entry that is created after the lock is served without a delay."""
    database_locked.outage.assert_entry_served()
