"""Greetings between two programs over mTLS, and their log lines."""

import uuid

import pytest

from svidproof import Saw, Testbed, budgets, eventually, requirement
from svidproof.faults import only
from svidproof.greeters import Cast
from svidproof.log_line import LogRecord

START = ["Starting up…", "Connecting to Workload API…", "Connected…"]


def logged(testbed: Testbed, component: str) -> list[LogRecord]:
    """What a component has logged from its beginning."""
    return testbed.logs(component, testbed.watch.timeline.start)


def assert_in_order(records: list[LogRecord], wanted: list[str], component: str) -> None:
    """These messages are there, each after the one before."""
    rest = iter(records)
    for message in wanted:
        found = any(record.message == message for record in rest)
        said = {record.message for record in records}
        why = "is not where it must be" if message in said else "was not logged"
        assert found, f"{component}: “{message}” {why}"


@requirement("GREETER-1")
@pytest.mark.parametrize("side", ["server", "client"])
def test_start_and_greeting_are_logged(greeter: Testbed, cast: Cast, side: str, saw: Saw) -> None:
    """Each greeter logs its start, its connection with its SPIFFE ID, and the first greeting."""
    client_id, server_id = cast.client.spiffe_id, cast.server.spiffe_id
    greeting = {
        "server": f'{client_id} has requested that I say hello to "Joe"…',
        "client": f'{server_id} said "On behalf of {client_id}, hello Joe!"',
    }
    me = cast.server if side == "server" else cast.client
    component = me.program.component

    def told() -> list[LogRecord]:
        records = logged(greeter, component)
        assert_in_order(records, [*START, greeting[side]], component)
        return records

    records = eventually(told, budgets.LOG_LINE, alive=greeter.assert_alive)

    connected = only((r for r in records if r.message == START[-1]), f"line {START[-1]!r}")
    own = connected.fields.get("spiffe_id")
    assert own == me.spiffe_id, f"{component} connected as {own}, not as {me.spiffe_id}"
    saw(greeting[side])


@requirement("GREETER-2")
def test_hello_goes_over_mtls(cast: Cast, saw: Saw) -> None:
    """A call succeeds, and each side sees the other's SPIFFE ID and current SVID."""
    name = uuid.uuid4().hex
    serials = {cast.server.serial()}, {cast.client.serial()}
    met = len(cast.server.met())

    hello = cast.client.hello("server", name)

    serials[0].add(cast.server.serial())
    serials[1].add(cast.client.serial())
    assert hello.message == f"On behalf of {cast.client.spiffe_id}, hello {name}!", f"got {hello}"
    assert hello.server_id == cast.server.spiffe_id, f"the server was {hello.server_id}"
    assert hello.server_serial in serials[0], "the server's SVID is not the Workload API's"
    assert (cast.client.spiffe_id, hello.own_serial) in cast.server.met()[met:], (
        "the server has not seen the client's certificate"
    )
    assert hello.own_serial in serials[1], "the client's SVID is not the Workload API's"
    asked = [client for client, what in cast.server.asked() if what == name]
    assert asked == [cast.client.spiffe_id], f"asked by {asked}"
    saw(f'{hello.server_id} said "{hello.message}"')
