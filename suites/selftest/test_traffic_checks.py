"""The checks of traffic fail on each request and each connection that a rotation disturbs.

Like test_rotation_checks.py: a run that is sound but for one thing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest

from svidproof.testbed.watch.timeline import Source

from .claims import assert_red, checks_of
from .synthetic import INVALID, VALID, World, moment

if TYPE_CHECKING:
    from collections.abc import Callable

RENEWS = "test_each_rotation_renews_serial_and_key"
IN_TIME = "test_svid_is_renewed_in_time"
NO_GAP = "test_validity_advances_without_a_gap"
REQUESTS = "test_no_request_fails"
PRESENTS = "test_new_connections_present_the_new_certificate"
SERVES = "test_listener_serves_the_new_certificate"
VIEWS = "test_all_views_of_an_svid_agree"
REFUSED = "test_rejected_client_rotates_and_stays_rejected"


def listener_stands_still(world: World) -> None:
    """The listener goes on serving an SVID for four seconds after its successor came."""
    came = world.came("api", 2)
    world.show(Source.WIRE, "api", came, came + 4, world.issues["api"][1])


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
        first, last = moment(since).at, moment(until).at
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
    pytest.param(one_failure, {REQUESTS: "1 of .* requests failed; the first: HTTP 504"},
                 id="one-failure"),
    pytest.param(no_answer, {REQUESTS: r"1 of .* requests failed; the first: no answer"},
                 id="no-answer"),
    pytest.param(little_traffic, {REQUESTS: r"only 2\.\d requests per second"},
                 id="little-traffic"),
    pytest.param(no_traffic, {REQUESTS: "no request of valid-api-client was seen",
                              PRESENTS: "no request of valid-api-client was seen"},
                 id="no-traffic"),
    pytest.param(silent_at(VALID, 13, 19.5), {REQUESTS: r"no request within 3\.0 s of a rotation"},
                 id="no-traffic-at-a-rotation"),
    pytest.param(silent_at(VALID, 25, 99), {PRESENTS: "the client never presented"},
                 id="no-traffic-after-the-last-rotation"),
    pytest.param(old_client_certificate, {PRESENTS: r"was presented 3\.\d s after its successor"},
                 id="old-client-certificate"),
    pytest.param(new_one_never_presented, {PRESENTS: "the client never presented", IN_TIME: "27"},
                 id="one-client-certificate-never-presented"),
    pytest.param(nobodys_certificate, {PRESENTS: "the app saw an unknown client certificate"},
                 id="nobodys-certificate"),
    pytest.param(served_once, {REFUSED: r"1 of \d+ requests were not rejected: .*status=200"},
                 id="invalid-client-served-once"),
    pytest.param(reached_the_app, {REFUSED: r"the app saw 1 of \d+ rejected requests"},
                 id="reached-the-app"),
    pytest.param(refused_without_rotation,
                 {REFUSED: "2 of invalid-api-client$", RENEWS: "2 of invalid-api-client$",
                  NO_GAP: "invalid-api-client showed too few certificates for 3 rotations: 3"},
                 id="invalid-client-rotates-twice"),
    pytest.param(silent_at(INVALID, 10.1, 18.1),
                 {REFUSED: "no request was sent between two rotations"},
                 id="no-attempt-between-two-rotations"),
    pytest.param(listener_stands_still, {SERVES: r"old certificate was served 3\.9 s longer",
                                         VIEWS: "wire showed .* late"}, id="listener-stands-still"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "red"), MUTATIONS)
def test_mutation_is_noticed(change: Callable[[World], None], red: dict[str, str]) -> None:
    """Traffic that is disturbed in one way fails exactly the checks that are about it."""
    world = World()

    change(world)

    assert_red(world.observation(), red)


def test_every_check_is_put_to_the_test() -> None:
    """Each check of traffic is made to fail by a mutation."""
    failed = {check for row in MUTATIONS for check in cast("dict[str, str]", row.values[1])}

    assert checks_of("test_traffic_survives_rotations") <= failed
