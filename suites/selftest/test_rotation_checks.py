"""The checks of rotation fail on each thing that can go wrong, and only on what they are about.

A check that has never failed proves nothing. Here each is asked about a run that is sound but for
one thing, and must say what that is.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, cast

import pytest

from svidproof.testbed.watch.timeline import Source

from .claims import assert_red, checks_of, failures
from .synthetic import INVALID, PERIOD, VALID, World, mint

if TYPE_CHECKING:
    from collections.abc import Callable

RENEWS = "test_each_rotation_renews_serial_and_key"
IN_TIME = "test_svid_is_renewed_in_time"
HALF = "test_svids_are_renewed_at_half_their_lifetime"
NO_GAP = "test_validity_advances_without_a_gap"
VALID_ONLY = "test_no_invalid_certificate_is_ever_shown"
VIEWS = "test_all_views_of_an_svid_agree"
LIFETIME = "test_lifetime_is_ttl_plus_backdating"
SERVES = "test_listener_serves_the_new_certificate"
PUSHED = "test_each_push_is_acknowledged"
RENEWAL_LOGGED = "test_agent_logs_each_renewal"
SIGNED = "test_server_logs_each_signature"


def ttl(seconds: float) -> dict[str, timedelta]:
    """An SVID that ends so many seconds after it was asked for."""
    return {"not_after": timedelta(seconds=seconds)}


def same_key(world: World) -> None:
    """An SVID has its predecessor's key."""
    world.reissue("api", 2, key=world.issues["api"][1].key)


def earlier_key(world: World) -> None:
    """An SVID has the key of the last but one."""
    world.reissue("api", 2, key=world.issues["api"][0].key)


def same_serial(world: World) -> None:
    """An SVID has its predecessor's serial number."""
    world.reissue("api", 2, serial=world.issues["api"][1].serial)


def other_id(world: World) -> None:
    """A renewed SVID has another workload's ID."""
    world.reissue(VALID, 2, uris=(world.scenario.spiffe_id(INVALID),))


def second_id(world: World) -> None:
    """A renewed SVID has a second ID."""
    own = world.scenario.spiffe_id("api")
    world.reissue("api", 1, uris=(own, f"{own}-too"))


def no_id(world: World) -> None:
    """A renewed SVID has no ID."""
    for number in range(4):
        world.reissue("api", number, uris=())


def too_few(world: World) -> None:
    """A workload has rotated twice only."""
    world.reschedule("api", 0, 9, 18)


def never(world: World) -> None:
    """A workload has never rotated."""
    world.reschedule("api", 0)


def longer(world: World) -> None:
    """An SVID lives for a second too long."""
    world.reissue("api", 2, **ttl(31))


def shorter(world: World) -> None:
    """An SVID lives for a second too short."""
    world.reissue("api", 2, **ttl(29))


def hour(world: World) -> None:
    """The last SVID lives for an hour."""
    world.reissue("api", 3, **ttl(3600))


def not_backdated(world: World) -> None:
    """SVIDs live as long as they should, but from the moment of their issue."""
    for number in range(4):
        world.reissue("api", number, not_before=timedelta(), **ttl(40))


def delivered_late(world: World) -> None:
    """An SVID is delivered five seconds after it was signed."""
    issue = world.issues["api"][2]
    for number, look in enumerate(world.looks):
        if look.workload == "api" and look.chain == issue.chain:
            at = max(look.at, issue.at + 5)
            world.looks[number] = replace(look, at=at + (look.source is not Source.WORKLOAD_API))


def early(world: World) -> None:
    """An SVID is renewed when nearly all of its life is left."""
    world.reschedule("api", 0, 3, 11, 19)


def late(world: World) -> None:
    """An SVID is renewed when little of its life is left."""
    world.reschedule("api", 0, 22, 30, 38)


def all_a_little_late(world: World) -> None:
    """Each SVID is renewed later than by the rule, though none as late as to be unsound."""
    for offset, name in enumerate(world.names):
        world.reschedule(name, *(offset + 14.0 * number for number in range(4)))


def all_lag_a_little(world: World) -> None:
    """All views follow each rotation two seconds late: once that may be, but not each time."""
    for number in (1, 2, 3):
        came, before = world.came("api", number), world.issues["api"][number - 1]
        for source in (Source.CERTS, Source.SECRETS, Source.WIRE):
            world.show(source, "api", came, came + 2, before)


def after_the_end(world: World) -> None:
    """An SVID is renewed three seconds after its end; backdating hides the gap."""
    world.reschedule("api", 0, 33, 41, 49)


def gap(world: World) -> None:
    """An SVID begins, backdated, after its predecessor's end."""
    world.reschedule("api", 0, 41, 49, 57)


def stands_still(world: World) -> None:
    """A renewed SVID ends when its predecessor does."""
    world.reissue("api", 2, **ttl(30 - PERIOD))


def begins_earlier(world: World) -> None:
    """A renewed SVID begins no later than its predecessor."""
    world.reissue("api", 2, not_before=timedelta(seconds=-10 - PERIOD))


def expired_in_certs(world: World) -> None:
    """`/certs` shows an SVID once more after its end."""
    world.show(Source.CERTS, VALID, 31.9, 32.1, world.issues[VALID][0])


def expired_on_the_wire(world: World) -> None:
    """The listener serves an SVID once more after its end."""
    world.show(Source.WIRE, "api", 31, 31.6, world.issues["api"][0])


def not_yet_valid(world: World) -> None:
    """`config_dump` shows an SVID that is not valid yet."""
    to_come = mint(INVALID, 25.0, not_before=timedelta(seconds=1))
    world.show(Source.SECRETS, INVALID, 25.1, 25.6, to_come)


def watch_was_blind(world: World) -> None:
    """The watch got no answer from a sidecar for a while."""
    world.errors.append("admin: api.envoy admin /certs: HTTP 503")


def seldom_looked(world: World) -> None:
    """The watch has looked at each SVID of a sidecar three times only."""
    for issue in world.issues["api"]:
        here = [k for k in world.looks if k.source is Source.SECRETS and k.chain == issue.chain]
        world.looks = [look for look in world.looks if look not in here[3:]]


def lags(source: Source, seconds: float) -> Callable[[World], None]:
    """A view that shows the old SVID for some more seconds."""

    def lag(world: World) -> None:
        """A view follows a rotation late."""
        came = world.came("api", 2)
        world.show(source, "api", came, came + seconds, world.issues["api"][1])

    return lag


def blinks(source: Source) -> Callable[[World], None]:
    """A view that shows the new SVID, and then the old one again."""

    def blink(world: World) -> None:
        """A view goes back to the old SVID."""
        came = world.came("api", 2)
        world.show(source, "api", came + 4, came + 4.6, world.issues["api"][1])

    return blink


def never_shown(source: Source) -> Callable[[World], None]:
    """A view that misses one SVID."""

    def miss(world: World) -> None:
        """A view never shows one of the SVIDs."""
        since, until = world.came("api", 2), world.came("api", 3)
        world.show(source, "api", since, until, None)

    return miss


def not_shown_at_all(source: Source) -> Callable[[World], None]:
    """A view that shows nothing."""

    def hide(world: World) -> None:
        """A view shows nothing from the beginning."""
        world.show(source, "api", 0, 99, None)

    return hide


def foreign(world: World) -> None:
    """A sidecar holds an SVID that the Workload API has not delivered."""
    world.show(Source.SECRETS, VALID, 12, 12.6, mint(VALID, 8.9))


MUTATIONS = [
    pytest.param(same_key, {RENEWS: "a key was used twice"}, id="same-key"),
    pytest.param(earlier_key, {RENEWS: "a key was used twice"}, id="key-of-the-last-but-one"),
    # All views are asked by serial, so none of them can tell the two apart.
    pytest.param(same_serial,
                 {RENEWS: "a serial number was used twice",
                               SIGNED: "signing line for api .*, found 2 of",
                               NO_GAP: "too few certificates for 3 rotations: 3",
                  VIEWS: "certs showed .* late",
                               SERVES: "the old certificate was served"}, id="same-serial"),
    pytest.param(other_id, {RENEWS: "valid-api-client got SVIDs for .*/invalid-api-client'"},
                 id="other-id"),
    pytest.param(second_id, {RENEWS: "api got SVIDs for .*/api-too'"}, id="second-id"),
    pytest.param(no_id, {RENEWS: r"api got SVIDs for \[\]"}, id="no-id"),
    pytest.param(too_few, {RENEWS: "2 of api$", NO_GAP: "too few certificates for 3 rotations: 3"},
                 id="two-rotations"),
    pytest.param(longer, {LIFETIME: "41 s, not 40 s"}, id="ttl-31"),
    pytest.param(shorter, {LIFETIME: "39 s, not 40 s"}, id="ttl-29"),
    pytest.param(hour, {LIFETIME: "3610 s, not 40 s"}, id="ttl-3600"),
    pytest.param(not_backdated, {LIFETIME: r"was 2\.0 s old on delivery"}, id="not-backdated"),
    pytest.param(delivered_late, {LIFETIME: r"was 15\.5 s old on delivery",
                                  PUSHED: "no acknowledged push of the svid for api"},
                 id="delivered-late"),
    pytest.param(early, {IN_TIME: "api was renewed with 27 s left"}, id="27-s-left"),
    pytest.param(late, {IN_TIME: "api was renewed with 8 s left"}, id="8-s-left"),
    pytest.param(all_a_little_late, {HALF: r"half of 12 SVIDs were renewed with 16\.0 s left"},
                 id="all-16-s-left"),
    pytest.param(after_the_end,
                 {NO_GAP: "after its predecessor had expired", VALID_ONLY: "had expired",
                                 IN_TIME: "with -3 s left"}, id="after-the-end"),
    pytest.param(gap, {NO_GAP: "a gap in validity", VALID_ONLY: "had expired",
                       IN_TIME: "with -11 s left"}, id="gap"),
    pytest.param(stands_still,
                 {NO_GAP: "not_after did not advance: .*:04:43", LIFETIME: "32 s, not",
                               IN_TIME: "with 14 s left", RENEWAL_LOGGED: "for api .*, found 2 of"},
                 id="end-stands-still"),
    pytest.param(begins_earlier, {NO_GAP: "not_before did not advance: .*:04:03",
                                  LIFETIME: "48 s, not", IN_TIME: "with 30 s left"},
                 id="begin-stands"),
    pytest.param(expired_in_certs, {VALID_ONLY: "had expired", VIEWS: "certs showed the old"},
                 id="expired-in-certs"),
    pytest.param(expired_on_the_wire, {VALID_ONLY: "had expired", VIEWS: "wire showed the old",
                                       SERVES: "the old certificate was served"},
                 id="expired-on-the-wire"),
    pytest.param(not_yet_valid,
                 {VALID_ONLY: "was not yet valid", VIEWS: "config-dump showed SVIDs that were"},
                 id="not-yet-valid"),
    pytest.param(watch_was_blind, {VALID_ONLY: "api.envoy admin /certs"}, id="watch-was-blind"),
    pytest.param(seldom_looked, {VALID_ONLY: "in only 12 reads"},
                 id="seldom-looked"),
    pytest.param(lags(Source.CERTS, 4), {VIEWS: r"certs showed .* 4\.\d+ s late"},
                 id="certs-lag-4-s"),
    pytest.param(lags(Source.SECRETS, 4), {VIEWS: r"config-dump showed .* 4\.\d+ s late"},
                 id="config-dump-lags-4-s"),
    pytest.param(lags(Source.WIRE, 4), {VIEWS: r"wire showed .* 4\.\d+ s late",
                                        SERVES: r"certificate was served 3\.9 s longer"},
                 id="wire-lags-4-s"),
    pytest.param(all_lag_a_little, {VIEWS: r"the median lag of .* is 2\.\d+ s"},
                 id="all-lag-2-s-each-time"),
    pytest.param(blinks(Source.CERTS), {VIEWS: r"certs showed the old SVID 4\.\d+ s longer"},
                 id="certs-go-back"),
    pytest.param(blinks(Source.WIRE), {VIEWS: r"wire showed the old SVID 4\.\d+ s longer",
                                       SERVES: r"certificate was served 4\.\d s longer"},
                 id="wire-goes-back"),
    pytest.param(never_shown(Source.SECRETS), {VIEWS: "config-dump never showed"},
                 id="never-in-config-dump"),
    pytest.param(never_shown(Source.WIRE), {VIEWS: "wire never showed",
                                            SERVES: "api never served"}, id="never-on-the-wire"),
    pytest.param(never_shown(Source.CERTS), {VIEWS: "certs never showed",
                                             NO_GAP: "certs of api showed too few .*: 3$"},
                 id="never-in-certs"),
    pytest.param(not_shown_at_all(Source.SECRETS),
                 {VIEWS: "api: nothing was seen at config-dump",
                  VALID_ONLY: "api: nothing was seen at config-dump"}, id="nothing-in-config-dump"),
    pytest.param(foreign, {VIEWS: "config-dump showed SVIDs that were never"},
                 id="foreign-svid"),
]  # fmt: skip


def test_sound_run_passes() -> None:
    """A sound run passes every check of rotation and events."""
    assert failures(World().observation()) == {}


@pytest.mark.parametrize(("change", "red"), MUTATIONS)
def test_mutation_is_noticed(change: Callable[[World], None], red: dict[str, str]) -> None:
    """SVIDs that are wrong in one way fail exactly the checks that are about it."""
    world = World()

    change(world)

    assert_red(world.observation(), red)


def test_every_check_is_put_to_the_test() -> None:
    """Each check of how SVIDs rotate is made to fail by a mutation."""
    failed = {check for row in MUTATIONS for check in cast("dict[str, str]", row.values[1])}

    assert checks_of("test_svids_rotate") <= failed


def test_no_rotation_at_all_is_no_pass() -> None:
    """A workload that never rotates fails every check that asks about its rotations."""
    world = World()
    never(world)

    failed = failures(world.observation())

    silent = [
        check
        for check in (RENEWS, IN_TIME, VIEWS, LIFETIME, SERVES, RENEWAL_LOGGED, SIGNED, PUSHED)
        if not any("api: no rotation was seen" in message for message in failed.get(check, ()))
    ]
    assert not silent
