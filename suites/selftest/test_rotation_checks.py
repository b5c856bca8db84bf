"""The checks of rotation fail on each thing that can go wrong, and only on what they are about.

A check that has never failed proves nothing. Here each is asked about a run that is sound but for
one thing, and must say what that is.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from svidproof.watch import Source

from .claims import claims, failures
from .synthetic import INVALID, PERIOD, VALID, Look, World

if TYPE_CHECKING:
    from collections.abc import Callable

RENEWS = "test_each_rotation_renews_serial_and_key"
IN_TIME = "test_svid_is_renewed_in_time"
NO_GAP = "test_validity_moves_on_without_a_gap"
VALID_ONLY = "test_no_invalid_certificate_is_ever_shown"
VIEWS = "test_all_views_of_an_svid_agree"
LIFETIME = "test_lifetime_is_ttl_plus_backdating"
REQUESTS = "test_no_request_fails"
PRESENTS = "test_new_connections_present_the_new_certificate"
SERVES = "test_listener_serves_the_new_certificate"
REFUSED = "test_refused_client_rotates_and_stays_refused"
RENEWALS_TOLD = "test_no_renewal_is_told_that_did_not_happen"
CACHE_TOLD = "test_cache_tells_each_update"
PUSHED = "test_each_push_is_acknowledged"
RENEWAL_TOLD = "test_agent_tells_each_renewal"
SIGNED = "test_server_tells_each_signature"


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
    to_come = world.mint(INVALID, 25.0, not_before=timedelta(seconds=1))
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
    world.show(Source.SECRETS, VALID, 12, 12.6, world.mint(VALID, 8.9))


def one_failure(world: World) -> None:
    """One request was not answered, though the app saw it."""
    failed = world.requests[100]
    world.requests[100] = replace(failed, status=504, note="HTTP 504 over plaintext: b'slow'")


def no_answer(world: World) -> None:
    """One request got no HTTP answer at all, and never reached the app."""
    lost = world.requests[100]
    world.requests[100] = replace(lost, status=None, note="no answer (reset)")
    world.seen = [seen for seen in world.seen if seen.tag != lost.tag]


def little_traffic(world: World) -> None:
    """The watch has sent two requests a second only."""
    kept = [r for n, r in enumerate(world.requests) if r.client == INVALID or n % 5 == 0]
    world.requests = kept


def no_traffic(world: World) -> None:
    """The watch has sent no request through the valid client."""
    world.requests = [r for r in world.requests if r.client != VALID]


def silent_at(client: str, since: float, until: float) -> Callable[[World], None]:
    """A client that sends nothing for some time."""

    def pause(world: World) -> None:
        """The watch sends nothing for a while."""
        first, last = world.moment(since).at, world.moment(until).at
        world.requests = [
            r for r in world.requests if r.client != client or not first <= r.sent.at <= last
        ]

    return pause


def old_client_certificate(world: World) -> None:
    """The client goes on presenting its old SVID for five seconds."""
    came = world.came(VALID, 2)
    world.present(VALID, came, came + 5, world.issues[VALID][1].hash)


def new_one_never_presented(world: World) -> None:
    """The client presents its first SVID until its third comes."""
    world.reschedule(VALID, 0, 9, 11.5, 19.5)
    world.present(VALID, 0, world.came(VALID, 2) + 0.04, world.issues[VALID][0].hash)


def nobodys_certificate(world: World) -> None:
    """The client presents a certificate that the Workload API has not delivered."""
    world.present(VALID, 15, 15.05, "ab" * 32)


def served_once(world: World) -> None:
    """The invalid client gets through once."""
    number = next(n for n, r in enumerate(world.requests) if r.client == INVALID)
    world.requests[number] = replace(world.requests[number], status=200, note="")


def reached_the_app(world: World) -> None:
    """The invalid client is told 503, but the app has seen its request."""
    tag = next(r.tag for r in world.requests if r.client == INVALID)
    world.seen.append(replace(world.seen[0], tag=tag))


def refused_without_rotation(world: World) -> None:
    """The invalid client has rotated twice only."""
    world.reschedule(INVALID, 2, 10, 18)


MUTATIONS = [
    pytest.param(same_key, {RENEWS: "a key was used again"}, id="same-key"),
    pytest.param(earlier_key, {RENEWS: "a key was used again"}, id="key-of-the-last-but-one"),
    # All views are asked by serial, so none of them can tell the two apart.
    pytest.param(same_serial, {RENEWS: "a serial was used again", SIGNED: "told .*, signed",
                               NO_GAP: "api showed 3 certificates", VIEWS: "came to certs",
                               SERVES: "the old certificate was served"}, id="same-serial"),
    pytest.param(other_id, {RENEWS: "valid-api-client was given .*/invalid-api-client'"},
                 id="other-id"),
    pytest.param(second_id, {RENEWS: "api was given .*/api-too'"}, id="second-id"),
    pytest.param(no_id, {RENEWS: r"api was given \[\]"}, id="no-id"),
    pytest.param(too_few, {RENEWS: "2 of api$", NO_GAP: "api showed 3 certificates"},
                 id="two-rotations"),
    pytest.param(longer, {LIFETIME: "41 s, not 40 s"}, id="ttl-31"),
    pytest.param(shorter, {LIFETIME: "39 s, not 40 s"}, id="ttl-29"),
    pytest.param(hour, {LIFETIME: "3610 s, not 40 s"}, id="ttl-3600"),
    pytest.param(not_backdated, {LIFETIME: r"was backdated by 2\.0 s"}, id="not-backdated"),
    pytest.param(delivered_late, {LIFETIME: r"was backdated by 15\.5 s when it was delivered",
                                  PUSHED: "no acknowledged push of the svid for api"},
                 id="delivered-late"),
    pytest.param(early, {IN_TIME: "api was renewed with 27 s left"}, id="27-s-left"),
    pytest.param(late, {IN_TIME: "api was renewed with 8 s left"}, id="8-s-left"),
    pytest.param(after_the_end, {NO_GAP: "came too late", VALID_ONLY: "had expired",
                                 IN_TIME: "with -3 s left"}, id="after-the-end"),
    pytest.param(gap, {NO_GAP: "a gap in validity", VALID_ONLY: "had expired",
                       IN_TIME: "with -11 s left"}, id="gap"),
    pytest.param(stands_still, {NO_GAP: "the end stands at .*:04:43", LIFETIME: "32 s, not",
                               IN_TIME: "with 14 s left", RENEWAL_TOLD: "2 lines for api"},
                 id="end-stands-still"),
    pytest.param(begins_earlier, {NO_GAP: "valid_from stands at .*:04:03",
                                  LIFETIME: "48 s, not", IN_TIME: "with 30 s left"}, id="begin-stands"),
    pytest.param(expired_in_certs, {VALID_ONLY: "had expired", VIEWS: "certs showed the old"},
                 id="expired-in-certs"),
    pytest.param(expired_on_the_wire, {VALID_ONLY: "had expired", VIEWS: "wire showed the old",
                                       SERVES: "the old certificate was served"},
                 id="expired-on-the-wire"),
    pytest.param(not_yet_valid, {VALID_ONLY: "not yet valid", VIEWS: "config-dump showed what"},
                 id="not-yet-valid"),
    pytest.param(watch_was_blind, {VALID_ONLY: "api.envoy admin /certs"}, id="watch-was-blind"),
    pytest.param(seldom_looked, {VALID_ONLY: "config-dump was looked at only 12 times"}, id="seldom-looked"),
    pytest.param(lags(Source.CERTS, 4), {VIEWS: r"came to certs 4\.\d+ s late"},
                 id="certs-lag-4-s"),
    pytest.param(lags(Source.SECRETS, 4), {VIEWS: r"came to config-dump 4\.\d+ s late"},
                 id="config-dump-lags-4-s"),
    pytest.param(lags(Source.WIRE, 4), {VIEWS: r"came to wire 4\.\d+ s late",
                                        SERVES: r"certificate was served 3\.9 s longer"},
                 id="wire-lags-4-s"),
    pytest.param(blinks(Source.CERTS), {VIEWS: r"certs showed the old SVID 4\.\d+ s longer"},
                 id="certs-go-back"),
    pytest.param(blinks(Source.WIRE), {VIEWS: r"wire showed the old SVID 4\.\d+ s longer",
                                       SERVES: r"certificate was served 4\.\d s longer"},
                 id="wire-goes-back"),
    pytest.param(never_shown(Source.SECRETS), {VIEWS: "never came to config-dump"},
                 id="never-in-config-dump"),
    pytest.param(never_shown(Source.WIRE), {VIEWS: "never came to wire",
                                            SERVES: "was never served"}, id="never-on-the-wire"),
    pytest.param(never_shown(Source.CERTS), {VIEWS: "never came to certs",
                                             NO_GAP: "api showed 3 certificates at certs"},
                 id="never-in-certs"),
    pytest.param(not_shown_at_all(Source.SECRETS),
                 {VIEWS: "api: nothing was seen at config-dump",
                  VALID_ONLY: "api: nothing was seen at config-dump"}, id="nothing-in-config-dump"),
    pytest.param(foreign, {VIEWS: "config-dump showed what the Workload API never delivered"},
                 id="foreign-svid"),
    pytest.param(one_failure, {REQUESTS: "1 of .* failed; the first: HTTP 504"}, id="one-failure"),
    pytest.param(no_answer, {REQUESTS: r"1 of .* failed; the first: no answer"}, id="no-answer"),
    pytest.param(little_traffic, {REQUESTS: r"only 2\.\d requests a second"}, id="little-traffic"),
    pytest.param(no_traffic, {REQUESTS: "no request of valid-api-client was seen",
                              PRESENTS: "no request of valid-api-client was seen"},
                 id="no-traffic"),
    pytest.param(silent_at(VALID, 13, 19.5), {REQUESTS: r"no request within 3\.0 s of a rotation"},
                 id="no-traffic-at-a-rotation"),
    pytest.param(silent_at(VALID, 25, 99), {PRESENTS: "never presented"},
                 id="no-traffic-after-the-last-rotation"),
    pytest.param(old_client_certificate, {PRESENTS: r"was presented 3\.\d s after its successor"},
                 id="old-client-certificate"),
    pytest.param(new_one_never_presented, {PRESENTS: "never presented", IN_TIME: "27"},
                 id="one-client-certificate-never-presented"),
    pytest.param(nobodys_certificate, {PRESENTS: "a certificate of nobody's"},
                 id="nobodys-certificate"),
    pytest.param(served_once, {REFUSED: r"1 of \d+ were not refused: .*status=200"},
                 id="invalid-client-served-once"),
    pytest.param(reached_the_app, {REFUSED: "the app saw 1 of them"}, id="reached-the-app"),
    pytest.param(refused_without_rotation,
                 {REFUSED: "2 of invalid-api-client$", RENEWS: "2 of invalid-api-client$",
                  NO_GAP: "invalid-api-client showed 3 certificates"},
                 id="invalid-client-rotates-twice"),
    pytest.param(silent_at(INVALID, 10.1, 18.1), {REFUSED: "no attempt between two rotations"},
                 id="no-attempt-between-two-rotations"),
]  # fmt: skip


def test_sound_run_passes() -> None:
    """A sound run passes every check of rotation and events."""
    assert failures(World().observation()) == {}


@pytest.mark.parametrize(("change", "red"), MUTATIONS)
def test_mutation_is_noticed(change: Callable[[World], None], red: dict[str, str]) -> None:
    """A run that is wrong in one way fails exactly the checks that are about it."""
    world = World()
    change(world)

    failed = failures(world.observation())

    assert set(failed) == set(red), failed
    for check, pattern in red.items():
        assert any(re.search(pattern, message) for message in failed[check]), failed[check]


def test_every_rotation_check_is_put_to_the_test() -> None:
    """Each check of rotation is made to fail by a mutation."""
    checks = {c.name for c in claims() if any(i.startswith("ROTATION-") for i in c.requirements)}

    assert checks <= {check for row in MUTATIONS for check in row.values[1]}  # type: ignore[union-attr]


def test_no_rotation_at_all_is_no_pass() -> None:
    """A workload that never rotates fails every check that asks about its rotations."""
    world = World()
    never(world)

    failed = failures(world.observation())

    assert {RENEWS, IN_TIME, NO_GAP, VIEWS, LIFETIME, SERVES, RENEWALS_TOLD, CACHE_TOLD} <= set(failed)
    for check in (RENEWS, IN_TIME, LIFETIME):
        assert any("api: no rotation was seen" in message for message in failed[check])
