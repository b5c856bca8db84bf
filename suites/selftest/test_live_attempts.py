"""A press of the live page fails where its check would: on each side, for each reason."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from svidproof import Alert, Exchange
from svidproof.cli.up.live.actions import Sides
from svidproof.cli.up.live.client_actions import Attempts
from svidproof.cli.up.live.spire_actions import _Meanwhile
from svidproof.components.app import SeenRequest
from svidproof.model.capabilities import Capability
from svidproof.model.catalogue import parse
from svidproof.model.clock import Moment
from svidproof.model.logs.line import LogRecord
from svidproof.model.scenario import load_scenario
from svidproof.testbed.watch.timeline import Request
from svidproof.testbed.workload import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from svidproof.cli.up.live.actions import Button

SCENARIO = load_scenario("api")
VALID = SCENARIO.spiffe_id("valid-api-client")
OK = Exchange(status=200, body=b"ok")
CUT_OFF = Exchange(status=503, body=b"upstream connect error")
REFUSED = Exchange(alert=Alert.CERTIFICATE_UNKNOWN)
XFCC = f"By=x;Hash=y;URI={VALID}"


@dataclass(frozen=True)
class World:
    """What comes of one request: what the client gets, what is counted, and what the app sees."""

    exchange: Exchange
    counted: dict[str, int] = field(default_factory=dict)
    seen: tuple[str, ...] = ()


def counting(name: str) -> dict[str, int]:
    """One TLS counter of the usual listener has moved."""
    return {f"listener.inbound.ssl.{name}": 1}


SERVED = World(OK, counting("handshake"), (XFCC,))
KEPT_OUT = World(CUT_OFF, counting("fail_verify_san"))
TURNED_AWAY = World(REFUSED, counting("fail_verify_error"))


class FakeTestbed:
    """Scenario `api`, in which every request but a control's goes as a world says."""

    def __init__(self, world: World) -> None:
        """Nothing has been asked."""
        self.scenario = SCENARIO
        self.capabilities = {Capability.OWN_TRUST_ROOT}
        self.beyond = None
        self._world = world
        self._asked: list[str | None] = []
        self._genuine = object()
        self.workloads = {name: self._workload(name) for name in SCENARIO.workloads}
        self.prober = SimpleNamespace(get=self._probe)

    def _workload(self, name: str) -> Any:  # noqa: ANN401  a stand-in
        app = SimpleNamespace(seen=self._seen, count=lambda: len(self._seen(0)))
        return SimpleNamespace(
            name=name,
            spiffe_id=SCENARIO.spiffe_id(name),
            spec=SCENARIO.workloads[name],
            has_app=SCENARIO.workloads[name].app is not None,
            app=app,
            behind=app,
            envoy=SimpleNamespace(
                request=self._request, component=f"{name}.envoy", assert_alive=lambda: None
            ),
            tls_counters=lambda: self._world.counted if self._asked else {},
            tally=lambda: Tally(0, {}),
        )

    def _request(self, _call: str, _path: str = "/", *, tag: str | None = None) -> Exchange:
        self._asked.append(tag)
        return self._world.exchange

    def _probe(self, _server: object, *, credential: object, **_: object) -> Exchange:
        if credential is self._genuine:
            return OK
        self._asked.append(None)
        return self._world.exchange

    def _seen(self, _since: int = 0) -> list[SeenRequest]:
        return [SeenRequest(self._asked[-1], "/", xfcc) for xfcc in self._world.seen if self._asked]

    def genuine_client(self) -> object:
        """The control's."""
        return self._genuine

    def forged_client(self, _flaw: object) -> None:
        """Any will do."""

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """It is."""
        yield

    def logs(self, component: str, since: Moment) -> list[LogRecord]:
        """One line, of a refusal."""
        fields = {"tls_failure": "TLS_error:|1:SSL_routines:OPENSSL_internal:BAD:TLS_error_end"}
        return [LogRecord(component, since, since.wall, "access", "", fields)]


def press(world: World, name: str) -> Sides:
    """Do what a button does, in a world; raises what it raises."""
    testbed = cast("Any", FakeTestbed(world))
    buttons: dict[str, Button] = {b.name: b for b in Attempts(testbed, parse(""), {}).buttons()}
    sides, tell = Sides(), cast("Callable[[str], None]", lambda _: None)
    buttons[name].act(sides, tell)
    return sides


@pytest.mark.parametrize(
    ("world", "name"),
    [
        pytest.param(SERVED, "valid-api-client@api", id="valid"),
        pytest.param(KEPT_OUT, "invalid-api-client@api", id="invalid"),
        pytest.param(TURNED_AWAY, "expired@api", id="flawed"),
    ],
)
def test_what_must_come_is_accepted_and_told(world: World, name: str) -> None:
    """All three sides are filled."""
    sides = press(world, name)

    [counter] = world.counted
    assert str(world.exchange) in sides.client[0]
    assert f"{counter.rpartition('.')[2]} +1" in sides.envoy[0]
    assert sides.app[0].startswith("1 request, of spiffe" if world.seen else "no request")


@pytest.mark.parametrize(
    ("world", "name"),
    [
        pytest.param(replace(SERVED, exchange=CUT_OFF), "valid-api-client@api", id="valid-503"),
        pytest.param(replace(SERVED, seen=()), "valid-api-client@api", id="valid-unseen"),
        pytest.param(replace(SERVED, seen=("",)), "valid-api-client@api", id="valid-as-nobody"),
        pytest.param(
            replace(SERVED, counted=counting("session_reused")), "valid-api-client@api",
            id="valid-counted-otherwise",
        ),
        pytest.param(replace(KEPT_OUT, exchange=OK), "invalid-api-client@api", id="invalid-200"),
        pytest.param(
            replace(KEPT_OUT, counted=counting("handshake")), "invalid-api-client@api",
            id="invalid-counted-otherwise",
        ),
        pytest.param(replace(KEPT_OUT, seen=(XFCC,)), "invalid-api-client@api", id="invalid-seen"),
        pytest.param(replace(TURNED_AWAY, exchange=OK), "expired@api", id="flawed-200"),
        pytest.param(
            replace(TURNED_AWAY, exchange=Exchange(alert=Alert.UNKNOWN_CA)), "expired@api",
            id="flawed-another-alert",
        ),
        pytest.param(
            replace(TURNED_AWAY, counted=counting("fail_verify_san")), "expired@api",
            id="flawed-counted-otherwise",
        ),
        pytest.param(replace(TURNED_AWAY, seen=(XFCC,)), "expired@api", id="flawed-seen"),
        # The other validator has another reason for the same flaw.
        pytest.param(TURNED_AWAY, "expired@api-trusted-ca", id="flawed-at-the-other-validator"),
    ],
)  # fmt: skip
def test_anything_else_is_not(world: World, name: str) -> None:
    """One side is otherwise."""
    with pytest.raises(AssertionError):
        press(world, name)


@pytest.mark.parametrize(
    ("statuses", "failure"),
    [
        pytest.param([200, 200], None, id="all-answered"),
        pytest.param([200, 503], "1 failed", id="one-failed"),
        pytest.param([200, None], "1 failed", id="one-unanswered"),
        pytest.param([], "no request was made", id="nothing-proven"),
    ],
)
def test_requests_meanwhile_are_judged(statuses: list[int | None], failure: str | None) -> None:
    """Those of the valid client only, and there must have been some."""
    client, other = "valid-api-client", "invalid-api-client"
    requests: list[Request] = []
    testbed = SimpleNamespace(
        scenario=SCENARIO,
        workloads=SCENARIO.workloads,
        app_behind=lambda _: SimpleNamespace(count=lambda: len(requests)),
        watch=SimpleNamespace(timeline=SimpleNamespace(requests=lambda: requests)),
    )
    before = Request(client, "api", "t", Moment.now(), 503, "before")
    sides = Sides()
    meanwhile = _Meanwhile(cast("Any", testbed), sides)
    requests += [before, Request(other, "api", "t", Moment.now(), 503, "as expected")]
    requests += [Request(client, "api", "t", Moment.now(), status, "note") for status in statuses]

    if failure is None:
        meanwhile.judge()
        assert sides.client == ["2 requests during the operation, 0 failed"]
    else:
        with pytest.raises(AssertionError, match=failure):
            meanwhile.judge()
