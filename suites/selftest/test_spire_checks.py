"""The checks of agents' own SVIDs and of streams' messages fail on each thing that can go wrong."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from svidproof.model.clock import Moment
from svidproof.model.logs.line import LogRecord
from svidproof.model.logs.messages import messages_for
from svidproof.model.manifests import data_root
from svidproof.model.scenario import load_scenario

from .claims import _load
from .synthetic import AGENT, AGENT_ID, moment

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

MESSAGES = messages_for("1.15.3")
END = 30.0


def module(*path: str) -> ModuleType:
    """A module of checks."""
    return _load(data_root().joinpath("suites", *path))


def failure(check: Callable[..., None], *arguments: object) -> str:
    """What a check says, if it fails."""
    try:
        check(*arguments)
    except AssertionError as error:
        return str(error)
    return ""


@dataclass(frozen=True)
class Agents:
    """One agent, as its log and the server tell of it.

    Attributes:
        attested: seconds ago.
        left: seconds until its SVID ends.
        path: of the ID that the server lists.
        again: how often it has attested since.
    """

    component = "spire-server"

    attested: float
    left: float
    path: str = AGENT_ID.removeprefix("spiffe://example.org")
    again: int = 1

    def agents(self) -> list[dict[str, Any]]:
        """What the server lists."""
        ends = Moment.now().wall + timedelta(seconds=self.left)
        listed = {"trust_domain": "example.org", "path": self.path}
        return [{"id": listed, "x509svid_expires_at": str(int(ends.timestamp()))}]

    def logs(self, component: str, message: str) -> list[LogRecord]:
        """What the agent has told, and the server of it."""
        seen = Moment.now()
        if message == MESSAGES.admitted:
            line = LogRecord(component, seen, seen.wall, "info", message, {"agent_id": AGENT_ID})
            return [line] * self.again
        wall = seen.wall - timedelta(seconds=self.attested)
        return [LogRecord(component, seen, wall, "info", message)]

    def observation(self) -> SimpleNamespace:
        """What the check asks."""
        testbed = SimpleNamespace(
            agent_ids={AGENT: AGENT_ID},
            assert_alive=lambda: None,
            messages=MESSAGES,
            scenario=load_scenario("api"),
            spire=self,
            watch=SimpleNamespace(timeline=self),
        )
        return SimpleNamespace(testbed=testbed)


@pytest.mark.parametrize(
    ("agents", "complaint"),
    [
        pytest.param(Agents(attested=40, left=50), "", id="renewed-ten-seconds-ago"),
        pytest.param(Agents(attested=400, left=31), "", id="about-to-be-renewed"),
        pytest.param(
            Agents(attested=39, left=20),
            "still has the SVID from its attestation",
            id="never-renewed",
        ),
        pytest.param(Agents(attested=400, left=15), "has 1[45] s of its own", id="renewed-late"),
        pytest.param(
            Agents(attested=40, left=3590), "is valid for 35.. s more", id="lives-for-an-hour"
        ),
        pytest.param(Agents(40, 50, again=5), "renewed its own SVID 5 times", id="again-and-again"),
        pytest.param(Agents(40, 50, path="/x"), "does not list", id="unknown-to-the-server"),
    ],
)
def test_agents_own_svid_is_judged(agents: Agents, complaint: str) -> None:
    """An agent's SVID must be another than at its start, and have half its life before it."""
    check = module("identity", "test_agents_renew_their_own_svid.py")

    said = failure(check.test_agents_renew_their_own_svid, agents.observation(), lambda *_: None)

    assert bool(said) == bool(complaint), said
    assert re.search(complaint, said), said


@pytest.mark.parametrize(
    ("messages", "bundles", "sound"),
    [
        pytest.param([1.0, 9.0, 18.0], 1, True, id="one-for-each-svid"),
        pytest.param([1.0, 9.0, 12.0, 18.0], 2, True, id="and-one-for-a-bundle"),
        pytest.param([1.0, 9.0, 18.0, END + 1], 1, True, id="and-one-after-the-window"),
        pytest.param([1.0, 9.0, 9.1, 18.0], 1, False, id="one-comes-twice"),
    ],
)
def test_messages_without_news_are_noticed(
    messages: list[float], bundles: int, *, sound: bool
) -> None:
    """A message that brings neither an SVID nor a bundle is one too many."""
    timeline = SimpleNamespace(
        sightings=lambda *_: [SimpleNamespace(first=moment(at)) for at in (1.0, 9.0, 18.0)],
        trusts=lambda *_: [None] * bundles,
        deliveries=lambda _: [SimpleNamespace(seen=moment(at)) for at in messages],
    )
    check = module("workload_api", "test_registered_processes_get_svids.py")
    rotations = SimpleNamespace(timeline=timeline, end=moment(END))

    said = failure(check.test_each_message_brings_something_new, rotations, "api")

    assert bool(said) is not sound
    assert sound or said.startswith("4 messages for 3 new SVIDs")
