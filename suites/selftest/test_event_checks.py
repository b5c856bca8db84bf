"""The checks of log events fail for each line that is missing, wrong or spurious.

Like test_rotation_checks.py: a correct run except for one log line.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest

from .claims import assert_red, checks_of, failures
from .synthetic import AGENT, ROOTS, SERVER, SVID, VALID, World, moment

if TYPE_CHECKING:
    from collections.abc import Callable

    from svidproof.model.logs.line import LogRecord

RENEWAL = "test_agent_logs_each_renewal"
SIGNATURE = "test_server_logs_each_signature"
PUSH = "test_each_push_is_acknowledged"
NO_MORE = "test_no_spurious_event_is_logged"
CACHE = "test_agent_logs_each_cache_update"
STREAMS = "test_each_sidecar_has_one_stream_for_each_secret"
UNACKNOWLEDGED = "test_no_push_is_left_unacknowledged"
ERRORS = "test_no_component_logs_an_unprovoked_error"


def renewing(world: World, name: str = "api", number: int = 2) -> LogRecord:
    """The agent's line before an SVID was renewed."""
    own = world.scenario.spiffe_id(name)
    return world.find(world.messages.renewing, number - 1, spiffe_id=own)


def signed(world: World, name: str = "api", number: int = 2) -> LogRecord:
    """The server's line when an SVID was signed."""
    return world.find(world.messages.signed, number, spiffe_id=world.scenario.spiffe_id(name))


def response(world: World, secret: str = SVID, number: int = 2) -> LogRecord:
    """The agent's line when it pushed a secret to the API's sidecar."""
    return world.find(world.messages.sds_response, nonce=world.nonce("api", secret, number))


def acknowledgement(world: World, secret: str = SVID, number: int = 2) -> LogRecord:
    """The agent's line when the API's sidecar acknowledged a push."""
    return world.find(world.messages.sds_request, nonce=world.nonce("api", secret, number))


def renewal_missing(world: World) -> None:
    """The agent does not log a renewal."""
    world.logs.remove(renewing(world))


def renewal_with_new_end(world: World) -> None:
    """The agent logs the expiry of the new SVID instead of the old one's."""
    end = world.issues["api"][2].leaf.not_valid_after_utc
    world.amend(renewing(world), expires_at=f"{end:%Y-%m-%dT%H:%M:%SZ}")


def renewal_of_other_entry(world: World) -> None:
    """The agent logs a renewal with another entry's ID."""
    world.amend(renewing(world), entry_id=world.entry(VALID))


def renewal_without_entry(world: World) -> None:
    """The agent logs a renewal without an entry."""
    record = renewing(world)
    fields = {k: v for k, v in record.fields.items() if k != "entry_id"}
    world.logs[world.logs.index(record)] = replace(record, fields=fields)


def renewal_of_other_id(world: World) -> None:
    """The agent logs a renewal with another SPIFFE ID."""
    world.amend(renewing(world), spiffe_id=world.scenario.spiffe_id(VALID))


def renewal_told_twice(world: World) -> None:
    """The agent logs one renewal twice."""
    world.logs.append(renewing(world))


def renewal_of_nothing(world: World) -> None:
    """The agent logs a renewal that never came to be."""
    extra = replace(renewing(world), wall=moment(20.0).wall)
    world.logs.append(replace(extra, fields={**extra.fields, "expires_at": "2026-01-02T03:04:59Z"}))


def renewal_as_warning(world: World) -> None:
    """The agent logs a renewal at another level."""
    record = renewing(world)
    world.logs[world.logs.index(record)] = replace(record, level="warn")


def renewal_told_late(world: World) -> None:
    """The agent logs a renewal after the SVID had been delivered."""
    world.date(renewing(world), world.came("api", 2) + 1)


def renewal_reworded(world: World) -> None:
    """The agent logs renewals in other words."""
    for number in (3, 2, 1):
        record = renewing(world, number=number)
        world.logs[world.logs.index(record)] = replace(record, message="Renewing SVID")


def signature_in_hex(world: World) -> None:
    """The server logs a serial in hex."""
    world.amend(signed(world), serial_num=f"{world.issues['api'][2].serial:x}")


def signature_with_other_serial(world: World) -> None:
    """The server logs a serial that nobody has."""
    world.amend(signed(world), serial_num="4711")


def signature_missing(world: World) -> None:
    """The server does not log a signature."""
    world.logs.remove(signed(world))


def signature_told_twice(world: World) -> None:
    """The server logs one signature twice."""
    world.logs.append(signed(world))


def signature_with_other_end(world: World) -> None:
    """The server logs another expiry than the SVID has."""
    world.amend(signed(world), expiration="2026-01-02T03:04:52Z")


def signature_in_other_zone(world: World) -> None:
    """The server logs the right expiry in another time zone: nothing is wrong with that."""
    world.amend(signed(world), expiration="2026-01-02T05:04:51+02:00")


def signature_of_other_entry(world: World) -> None:
    """The server logs a signature with another entry's ID."""
    world.amend(signed(world), entry_id=world.entry(VALID))


def signature_told_late(world: World) -> None:
    """The server logs a signature after the SVID had been delivered."""
    world.date(signed(world), world.came("api", 2) + 1)


def signed_for_nothing(world: World) -> None:
    """The server signs an SVID that nobody is ever given."""
    record = signed(world)
    world.logs.append(replace(record, fields={**record.fields, "serial_num": "4711"}))


def signed_for_a_stranger(world: World) -> None:
    """The server signs an SVID for a caller that is none of the testbed's agents."""
    record = signed(world)
    stranger = {"serial_num": "4711", "caller_id": "spiffe://example.org/spire/agent/x509pop/1"}
    world.logs.append(replace(record, fields={**record.fields, **stranger}))


def not_acknowledged(secret: str) -> Callable[[World], None]:
    """A sidecar that never acknowledges one push."""

    def remove(world: World) -> None:
        """A push has no acknowledgement."""
        world.logs.remove(acknowledgement(world, secret))

    return remove


def other_nonce(world: World) -> None:
    """A push is acknowledged with a nonce that was never sent."""
    world.amend(acknowledgement(world), nonce="ffffffff")


def other_sidecar(world: World) -> None:
    """A push is acknowledged by another sidecar's process."""
    world.amend(acknowledgement(world), pid="4711")


def other_resource(world: World) -> None:
    """A push is acknowledged under another secret's name."""
    world.amend(acknowledgement(world), resource_names='["ROOTCA"]')


def not_pushed(secret: str) -> Callable[[World], None]:
    """An agent that does not push a secret after one rotation."""

    def remove(world: World) -> None:
        """A rotation is not pushed."""
        world.logs.remove(response(world, secret))
        world.logs.remove(acknowledgement(world, secret))

    return remove


def pushed_late(world: World) -> None:
    """A rotation is pushed four seconds late."""
    world.date(response(world), world.came("api", 2) + 4)
    world.date(acknowledgement(world), world.came("api", 2) + 4.1)


def version_not_equal(world: World) -> None:
    """A push is acknowledged with its predecessor's version: Envoy has refused it."""
    world.amend(acknowledgement(world), version_info="2")


def version_goes_back(world: World) -> None:
    """The versions of one stream begin anew."""
    world.amend(response(world), version_info="1")
    world.amend(acknowledgement(world), version_info="1")


def version_stands_still(world: World) -> None:
    """Two pushes of one stream have the same version."""
    world.amend(response(world), version_info="2")
    world.amend(acknowledgement(world), version_info="2")


def acknowledged_before(world: World) -> None:
    """A push is acknowledged before it was sent."""
    world.date(acknowledgement(world), world.came("api", 2) - 1)


def nonce_used_twice(world: World) -> None:
    """A nonce comes a second time, on the sidecar's other stream."""
    world.amend(response(world, ROOTS), nonce=world.nonce("api", SVID, 2))


def stream_opened_again(world: World) -> None:
    """A sidecar has lost a stream and opens it again."""
    own = world.scenario.spiffe_id("api")
    world.log(AGENT, 13.0, "debug", world.messages.sds_request, pid=100, resource_names=[own],
              nonce="", version_info="")  # fmt: skip


def stream_missing(world: World) -> None:
    """A sidecar has never asked for the bundle."""
    for record in [r for r in world.logs if r.fields.get("pid") == "100"]:
        names = record.fields.get("resource_names")
        if names == '["ROOTCA"]' or record.fields["nonce"].startswith("01"):
            world.logs.remove(record)


def cache_silent(world: World) -> None:
    """The agent's cache does not log an update."""
    own = world.scenario.spiffe_id("api")
    world.logs.remove(world.find(world.messages.updated, 1, spiffe_id=own))


def pushed_again(world: World) -> None:
    """The last SVID is pushed, and acknowledged, once more."""
    at, own = world.came("api", 3) + 0.5, world.scenario.spiffe_id("api")
    facts = {"pid": 100, "method": "StreamSecrets", "nonce": "again", "version_info": "5"}
    world.log(AGENT, at, "debug", world.messages.sds_response, **facts, count=1)
    world.log(AGENT, at + 0.01, "debug", world.messages.sds_request, **facts, resource_names=[own])


def cache_told_twice(world: World) -> None:
    """The agent's cache logs one update twice."""
    own = world.scenario.spiffe_id("api")
    world.logs.append(world.find(world.messages.updated, 1, spiffe_id=own))


def agent_error(world: World) -> None:
    """The agent logs an error that no check has provoked."""
    world.log(AGENT, 12.0, "error", "Synchronize failed", error="connection refused")


def agent_error_out_of_time(world: World) -> None:
    """The agent goes on logging an error after the check that provoked it has ended."""
    world.log(AGENT, 5.1, "error", "No identity issued", registered=False)


def server_error(world: World) -> None:
    """The server logs the error that a check has provoked in the agent."""
    world.log(SERVER, 4.0, "error", "No identity issued")


def server_fatal(world: World) -> None:
    """The server logs a fatal error."""
    world.log(SERVER, 12.0, "fatal", "Server crashed")


def envoy_critical(world: World) -> None:
    """A sidecar logs a critical error."""
    line = "[2026-01-02 03:04:17.001][7][critical][assert] [source/a.cc:1] assert failure: x"
    world.print("api.envoy", 12.0, line)


def envoy_error(world: World) -> None:
    """A sidecar logs an error."""
    line = "[2026-01-02 03:04:17.001][7][error][config] [source/a.cc:1] no listener"
    world.print("api.envoy", 12.0, line)


def panic(world: World) -> None:
    """The agent prints a panic, not through its logger."""
    world.print(AGENT, 12.0, "panic: runtime error: invalid memory address")


def goroutines(world: World) -> None:
    """The server prints its goroutines."""
    world.print(SERVER, 12.0, "goroutine 17 [running]:")


NO_PUSH = "no acknowledged push of the {} for api [0-9a-f]+ → [0-9a-f]+"
NO_SVID, NO_BUNDLE = NO_PUSH.format(SVID), NO_PUSH.format(ROOTS)
LEFT = r"1 of \d+ responses were not acknowledged"

MUTATIONS = [
    pytest.param(renewal_missing, {RENEWAL: "1 renewal line for api .*, found 0 of 2",
                                   NO_MORE: "2 renewals logged, 3 seen"}, id="renewal-missing"),
    pytest.param(renewal_with_new_end, {RENEWAL: "1 renewal line for api .*, found 0 of 3"},
                 id="renewal-with-the-new-end"),
    pytest.param(renewal_of_other_entry,
                 {RENEWAL: "logged level and entry .*'entry-of-valid-api-client'"},
                 id="renewal-of-another-entry"),
    pytest.param(renewal_without_entry, {RENEWAL: "logged level and entry .*None"},
                 id="renewal-without-entry"),
    pytest.param(renewal_of_other_id, {RENEWAL: "for api .*, found 0 of",
                                       NO_MORE: "4 renewals logged, 3 seen"},
                 id="renewal-of-another-id"),
    pytest.param(renewal_told_twice, {RENEWAL: "for api .*, found 2 of",
                                      NO_MORE: "4 renewals logged, 3 seen"},
                 id="renewal-told-twice"),
    pytest.param(renewal_of_nothing, {NO_MORE: "4 renewals logged, 3 seen"},
                 id="renewal-that-never-came"),
    pytest.param(renewal_as_warning, {RENEWAL: "logged level and entry .*'warn'"},
                 id="renewal-as-warning"),
    pytest.param(renewal_told_late, {RENEWAL: "logged at .*, after the delivery at"},
                 id="renewal-told-late"),
    pytest.param(renewal_reworded, {RENEWAL: "1 renewal line for api .*, found 0 of 0",
                                    NO_MORE: "0 renewals logged, 3 seen"}, id="renewal-reworded"),
    pytest.param(signature_in_hex, {SIGNATURE: "1 signing line for api .*, found 0 of",
                                    NO_MORE: "signed and delivered serial numbers differ by"},
                 id="signature-in-hex"),
    pytest.param(signature_with_other_serial, {SIGNATURE: "1 signing line for api .*, found 0 of",
                                               NO_MORE: "differ by .*'4711'"},
                 id="signature-with-another-serial"),
    pytest.param(signature_missing, {SIGNATURE: "1 signing line for api .*, found 0 of 3",
                                     NO_MORE: "signed and delivered serial numbers differ by"},
                 id="signature-missing"),
    pytest.param(signature_told_twice, {SIGNATURE: "1 signing line for api .*, found 2 of"},
                 id="signature-told-twice"),
    pytest.param(signature_with_other_end, {SIGNATURE: "logged expiry .*:04:52.*, not .*:04:51"},
                 id="signature-with-another-end"),
    pytest.param(signature_in_other_zone, {}, id="signature-in-another-zone-is-sound"),
    pytest.param(signature_of_other_entry, {SIGNATURE: "logged expiry .* and entry entry-of-valid"},
                 id="signature-of-another-entry"),
    pytest.param(signature_told_late, {SIGNATURE: "logged at .*, after the delivery at"},
                 id="signature-told-late"),
    pytest.param(signed_for_nothing, {NO_MORE: "differ by .*'4711'"}, id="signed-for-nothing"),
    pytest.param(signed_for_a_stranger, {NO_MORE: "differ by .*'4711'"}, id="signed-by-none"),
    pytest.param(not_acknowledged(SVID), {PUSH: NO_SVID, UNACKNOWLEDGED: LEFT},
                 id="svid-not-acknowledged"),
    pytest.param(not_acknowledged(ROOTS), {PUSH: NO_BUNDLE, UNACKNOWLEDGED: LEFT},
                 id="bundle-not-acknowledged"),
    pytest.param(other_nonce, {PUSH: NO_SVID, UNACKNOWLEDGED: LEFT}, id="another-nonce"),
    pytest.param(other_sidecar, {UNACKNOWLEDGED: LEFT},
                 id="acknowledged-by-another-sidecar"),
    pytest.param(other_resource, {PUSH: NO_SVID}, id="acknowledged-under-another-name"),
    pytest.param(not_pushed(SVID), {PUSH: NO_SVID}, id="svid-not-pushed"),
    pytest.param(not_pushed(ROOTS), {PUSH: NO_BUNDLE}, id="bundle-not-pushed"),
    pytest.param(pushed_again, {PUSH: "the svid was pushed 5 times for 4 SVIDs"},
                 id="pushed-again"),
    pytest.param(pushed_late, {PUSH: NO_SVID}, id="pushed-late"),
    pytest.param(version_not_equal, {PUSH: "version 3 was acknowledged as 2"},
                 id="version-not-equal"),
    pytest.param(version_goes_back, {PUSH: r"versions of one stream do not grow: \[1, 2, 1, 4\]"},
                 id="version-goes-back"),
    pytest.param(version_stands_still,
                 {PUSH: r"versions of one stream do not grow: \[1, 2, 2, 4\]"},
                 id="version-stands-still"),
    pytest.param(acknowledged_before, {PUSH: "acknowledged before it was sent"},
                 id="acknowledged-before"),
    pytest.param(nonce_used_twice, {UNACKNOWLEDGED: "a nonce was used twice", PUSH: NO_BUNDLE},
                 id="nonce-used-twice"),
    pytest.param(stream_opened_again, {STREAMS: "streams were opened for .*ROOTCA"},
                 id="stream-opened-again"),
    pytest.param(stream_missing, {STREAMS: "streams were opened for", PUSH: NO_BUNDLE},
                 id="stream-missing"),
    pytest.param(cache_silent, {CACHE: "3 updates logged, 4 SVIDs"}, id="cache-silent"),
    pytest.param(cache_told_twice, {CACHE: "5 updates logged, 4 SVIDs"}, id="cache-told-twice"),
    pytest.param(agent_error, {ERRORS: "spire-agent: Synchronize failed error=connection refused"},
                 id="agent-error"),
    pytest.param(agent_error_out_of_time, {ERRORS: "spire-agent: No identity issued"},
                 id="error-after-its-provocation"),
    pytest.param(server_error, {ERRORS: "spire-server: No identity issued"},
                 id="error-provoked-elsewhere"),
    pytest.param(server_fatal, {ERRORS: "spire-server: Server crashed"}, id="server-fatal"),
    pytest.param(envoy_critical, {ERRORS: "api.envoy: assert failure"}, id="envoy-critical"),
    pytest.param(envoy_error, {ERRORS: "api.envoy: no listener"}, id="envoy-error"),
    pytest.param(panic, {ERRORS: "spire-agent: panic"}, id="panic"),
    pytest.param(goroutines, {ERRORS: "spire-server: goroutine 17"}, id="goroutines"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "red"), MUTATIONS)
def test_mutation_is_noticed(change: Callable[[World], None], red: dict[str, str]) -> None:
    """Logs that are wrong in one line fail exactly the checks that are about it."""
    world = World()

    change(world)

    assert_red(world.observation(), red)


def test_every_check_is_put_to_the_test() -> None:
    """Each check of events is made to fail by a mutation."""
    failed = {check for row in MUTATIONS for check in cast("dict[str, str]", row.values[1])}

    assert (
        checks_of("test_logs_record_each_rotation", "test_logs_have_no_unexpected_errors") <= failed
    )


def test_silent_agent_is_no_pass() -> None:
    """An agent whose log was not read fails every check that asks about it."""
    world = World()
    world.logs = [record for record in world.logs if record.component != AGENT]

    failed = failures(world.observation())

    assert set(failed) == {RENEWAL, PUSH, NO_MORE, CACHE, STREAMS, UNACKNOWLEDGED, ERRORS}
    assert failed[ERRORS] == ["no log line of ['spire-agent'] was read"]
