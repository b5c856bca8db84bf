"""A client of the watch sends requests until it is told to stop."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, cast

from svidproof import Budget, NotYet, eventually
from svidproof.probes.tls import Exchange
from svidproof.testbed.watch.recorder import Watch

if TYPE_CHECKING:
    from collections.abc import Callable

SOON = Budget("requests of a client", 5, 0.01)


def enough(watch: Watch, client: str, number: int) -> Callable[[], None]:
    """Whether a client has sent so many requests."""

    def condition() -> None:
        sent = len(watch.timeline.requests(client))
        if sent < number:
            raise NotYet(f"{sent} requests of {client}")

    return condition


def test_client_stops_when_told() -> None:
    """Once told to stop it sends nothing more, and the others go on."""
    nothing = cast("Any", None)
    with contextlib.closing(Watch(nothing, nothing, ())) as watch:
        stop = watch.follow_client("one", "api", lambda _: Exchange(200), 0.01)
        watch.follow_client("other", "api", lambda _: Exchange(error="refused"), 0.01)
        eventually(enough(watch, "one", 3), SOON)

        stop()

        sent = watch.timeline.requests("one")
        others = len(watch.timeline.requests("other"))
        eventually(enough(watch, "other", others + 5), SOON)
        assert watch.timeline.requests("one") == sent
        assert {(r.status, r.note) for r in sent} == {(200, "")}
        assert {r.note for r in watch.timeline.requests("other")} == {"no answer (refused)"}
        assert watch.errors == []
