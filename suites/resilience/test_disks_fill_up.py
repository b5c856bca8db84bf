"""The disk of an agent or of a server is full or read-only for some time."""

from http import HTTPStatus

import pytest

from svidproof import Measure, Request, Saw, health, requirement
from svidproof.checks import KeysRefused, Unstored

NO_SPACE, READ_ONLY = "no space left on device", "permission denied"


class Unlogged(AssertionError):  # noqa: N818  a verdict, not a programming error
    """Raised if a component does not log what is wrong with its disk."""


@requirement("RESILIENCE-34")
def test_agent_logs_that_its_disk_is_full(agent_disk_full: Unstored, saw: Saw) -> None:
    """An agent that cannot write its next key logs that its disk is full."""
    saw(_assert_logged(agent_disk_full, NO_SPACE))


@requirement("RESILIENCE-36")
def test_agent_logs_that_its_disk_is_read_only(agent_disk_read_only: Unstored, saw: Saw) -> None:
    """An agent that lacks permission to write its next key logs that."""
    saw(_assert_logged(agent_disk_read_only, READ_ONLY))


@requirement("RESILIENCE-34")
def test_agent_renews_its_svid_when_there_is_room(
    agent_disk_full: Unstored, measure: Measure
) -> None:
    """Once there is space, the agent renews its own SVID within the bound of its rule."""
    _assert_renewed(agent_disk_full, measure)


@requirement("RESILIENCE-36")
def test_agent_renews_its_svid_when_it_may_write(
    agent_disk_read_only: Unstored, measure: Measure
) -> None:
    """Once it can write, the agent renews its own SVID within the bound of its rule."""
    _assert_renewed(agent_disk_read_only, measure)


@requirement("RESILIENCE-34")
def test_no_request_fails_while_the_disk_is_full(agent_disk_full: Unstored, saw: Saw) -> None:
    """Every request succeeds while the disk is full."""
    saw(_assert_none_failed(agent_disk_full.requests()))


@requirement("RESILIENCE-36")
def test_no_request_fails_while_the_disk_is_read_only(
    agent_disk_read_only: Unstored, saw: Saw
) -> None:
    """Every request succeeds while the directory is read-only."""
    saw(_assert_none_failed(agent_disk_read_only.requests()))


@requirement("RESILIENCE-35")
def test_server_refuses_keys_that_it_cannot_write(server_disk_full: KeysRefused, saw: Saw) -> None:
    """A server whose disk is full rejects the preparation of an authority, with the reason."""
    answer = server_disk_full.answer

    assert answer, "the server prepared an authority whose key it could not write"
    assert NO_SPACE in answer, f"the server gave no reason: {answer}"
    saw(answer)


@requirement("RESILIENCE-35")
def test_server_signs_with_its_authority(server_disk_full: KeysRefused, saw: Saw) -> None:
    """The server continues to sign with its present authority, also for new entries."""
    before, meanwhile = server_disk_full.authorities

    assert meanwhile == before, f"authority {meanwhile} followed {before}"
    assert server_disk_full.served.svids, f"a new process got {server_disk_full.served}"
    saw(", ".join(f"{e}: {said}" for e, said in server_disk_full.health.items()))


@requirement("RESILIENCE-35")
@pytest.mark.parametrize("endpoint", [health.LIVE, health.READY, health.COMMAND])
def test_server_is_healthy(server_disk_full: KeysRefused, endpoint: str) -> None:
    """The server is healthy, because it serves requests."""
    said = server_disk_full.health[endpoint]

    assert said == health.HEALTHY, f"{endpoint}: {said}"


@requirement("RESILIENCE-35")
def test_server_prepares_an_authority_when_there_is_room(server_disk_full: KeysRefused) -> None:
    """Once there is space, the server prepares an authority without a restart."""
    assert not server_disk_full.again, f"it still refuses: {server_disk_full.again}"


@requirement("RESILIENCE-35")
def test_no_request_fails_while_the_servers_disk_is_full(
    server_disk_full: KeysRefused, saw: Saw
) -> None:
    """Every request succeeds while the server's disk is full."""
    saw(_assert_none_failed(server_disk_full.requests()))


def _assert_logged(unstored: Unstored, reason: str) -> str:
    found = [message for message in unstored.messages if reason in message]
    if not found:
        raise Unlogged(f"with {unstored.fault.name}, it logged {list(unstored.messages[-2:])}")
    return found[0]


def _assert_renewed(unstored: Unstored, measure: Measure) -> None:
    took = unstored.renewed_s()

    measure(f"to the agent's next SVID, {unstored.fault.name}", took, "s")
    assert took <= unstored.bound, (
        f"the agent renewed its own SVID after {took:.1f} s, not {unstored.bound:.1f} s"
    )


def _assert_none_failed(requests: list[Request]) -> str:
    failed = [r for r in requests if r.status != HTTPStatus.OK]
    assert requests, "no request was sent"
    assert not failed, f"{len(failed)} of {len(requests)} failed; the first: {failed[0].note}"
    return f"{len(requests)} requests succeeded"
