"""Greetings between two programs over mTLS, and their log lines."""

import uuid

import pytest

from svidproof import LogRecord, Saw, Testbed, budgets, eventually, only, requirement
from svidproof.checks import Greeters

START = ["Starting up…", "Connecting to Workload API…", "Connected…"]


def logged(testbed: Testbed, component: str) -> list[LogRecord]:
    """Return the log records of a component since its start."""
    return testbed.logs(component, testbed.watch.timeline.start)


def assert_in_order(records: list[LogRecord], wanted: list[str], component: str) -> None:
    """Assert that a component logged these messages in this order."""
    rest = iter(records)
    for message in wanted:
        found = any(record.message == message for record in rest)
        everywhere = {record.message for record in records}
        why = "was logged out of order" if message in everywhere else "was not logged"
        assert found, f"{component}: “{message}” {why}"


@requirement("GREETER-1")
@pytest.mark.parametrize("side", ["server", "client"])
def test_start_and_greeting_are_logged(
    greeter: Testbed, greeters: Greeters, side: str, saw: Saw
) -> None:
    """Each greeter logs its start, its connection with its SPIFFE ID, and the first greeting."""
    client_id, server_id = greeters.client.spiffe_id, greeters.server.spiffe_id
    greeting = {
        "server": f'{client_id} has requested that I say hello to "Joe"…',
        "client": f'{server_id} said "On behalf of {client_id}, hello Joe!"',
    }
    own = greeters.server if side == "server" else greeters.client
    component = own.program.component

    def complete() -> list[LogRecord]:
        records = logged(greeter, component)
        assert_in_order(records, [*START, greeting[side]], component)
        return records

    records = eventually(complete, budgets.LOG_LINE, alive=greeter.assert_alive)

    connected = only((r for r in records if r.message == START[-1]), f"line {START[-1]!r}")
    connected_as = connected.fields.get("spiffe_id")
    assert connected_as == own.spiffe_id, (
        f"{component} connected as {connected_as}, not as {own.spiffe_id}"
    )
    saw(greeting[side])


@requirement("GREETER-2")
def test_hello_goes_over_mtls(greeters: Greeters, saw: Saw) -> None:
    """A call succeeds, and each side sees the other's SPIFFE ID and current SVID."""
    name = uuid.uuid4().hex
    serials = {greeters.server.serial()}, {greeters.client.serial()}
    met = len(greeters.server.met())

    hello = greeters.client.hello("server", name)

    serials[0].add(greeters.server.serial())
    serials[1].add(greeters.client.serial())
    greeting = f"On behalf of {greeters.client.spiffe_id}, hello {name}!"
    assert hello.message == greeting, f"got {hello}"
    assert hello.server_id == greeters.server.spiffe_id, f"the server was {hello.server_id}"
    assert hello.server_serial in serials[0], "the server's SVID is not the Workload API's"
    assert (greeters.client.spiffe_id, hello.own_serial) in greeters.server.met()[met:], (
        "the server did not see the client's certificate"
    )
    assert hello.own_serial in serials[1], "the client's SVID is not the Workload API's"
    callers = [client for client, called in greeters.server.asked() if called == name]
    assert callers == [greeters.client.spiffe_id], f"the server was called by {callers}"
    saw(f'{hello.server_id} said "{hello.message}"')
