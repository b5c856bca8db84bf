"""A SPIRE that is there already is used, and left as it was."""

from __future__ import annotations

import itertools
import json
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

import pytest

from svidproof.components.spire.existing import ExistingAgent, ExistingServer
from svidproof.model.errors import PlatformError
from svidproof.model.scenario import load_scenario
from svidproof.platforms import created, leftovers
from svidproof.platforms.created import Made
from svidproof.platforms.kubernetes.tenant import entries
from svidproof.platforms.protocol import Attestation, Completed
from svidproof.platforms.run_directory import RunDirectory
from svidproof.probes.credentials import Authority, Template
from svidproof.probes.flaws import UNCHAINED_FLAWS, Flaw, Forge
from svidproof.run.request.options import RunRequest
from svidproof.testbed.testbed import Testbed
from svidproof.testbed.workload import renewed
from svidproof.waiting import NotYet, Overdue

if TYPE_CHECKING:
    from pathlib import Path

    from svidproof.platforms.protocol import Platform
    from svidproof.probes.credentials import Credential


class Registry:
    """spire-server's commands on paper, for a platform whose server is there already."""

    agents = ("spire-agent",)

    def __init__(self) -> None:
        """Somebody else has an entry."""
        self.entries = {"0": {"id": "0", "hint": "theirs"}}
        self.code = 0
        self.ran: list[tuple[str, ...]] = []

    def private_endpoint(self, place: str, _name: str) -> str:
        """Where it is."""
        return f"/{place}.sock"

    def run(self, _place: str, _tool: str, args: tuple[str, ...]) -> Completed:
        """Answer."""
        self.ran.append(args)
        return Completed(0, json.dumps(self.ask(*args)), "")

    def ask(self, *args: str) -> dict[str, Any]:
        """Do what is asked."""
        said = dict(itertools.pairwise(args))
        if args[1] == "create":
            entry = {"id": str(len(self.entries)), "hint": said["-hint"]}
            if not self.code:
                self.entries[entry["id"]] = entry
            status = {"code": self.code, "message": "similar entry already exists"}
            return {"results": [{"status": status, "entry": entry}]}
        if args[1] == "delete":
            del self.entries[said["-entryID"]]
        wanted = said.get("-hint")
        return {"entries": [e for e in self.entries.values() if wanted in (None, e["hint"])]}


ENTRY = {
    "spiffe_id": "spiffe://example.org/svidproof/a",
    "parent_id": "spiffe://example.org/node",
    "selectors": [{"type": "k8s", "value": "ns:a"}, {"type": "k8s", "value": "sa:b"}],
    "x509_svid_ttl": 30,
}


@pytest.fixture
def registry() -> Registry:
    """A sound one."""
    return Registry()


@pytest.fixture
def server(registry: Registry) -> ExistingServer:
    """A server that serves others too."""
    made = ExistingServer(cast("Platform", registry), "example.org")
    attestation = Attestation("", "", "", {}, "id", mark=entries.mark("0123456789", "run1"))
    made.start(cast("Authority", None), attestation, cache_reload="", agent_ttl=0, log_level="")
    return made


def test_entries_are_made_with_the_runs_mark(registry: Registry, server: ExistingServer) -> None:
    """By options, as no file can be put there."""
    assert server.create_entries([ENTRY, ENTRY]) == ["1", "2"]

    words = " ".join(registry.ran[0])
    assert "-hint svidproof-01234567-run1" in words
    assert "-selector k8s:ns:a -selector k8s:sa:b -x509SVIDTTL 30" in words
    assert "-socketPath /spire-server.sock" in words


def test_entries_of_others_are_neither_seen_nor_deleted(
    registry: Registry, server: ExistingServer
) -> None:
    """At the end those of the run are gone, whoever kept their IDs."""
    server.create_entries([ENTRY, ENTRY])
    assert [entry["id"] for entry in server.entries()] == ["1", "2"]

    server.close()

    assert list(registry.entries) == ["0"]


def test_entry_that_is_not_made_is_an_error(registry: Registry, server: ExistingServer) -> None:
    """The command ends with 0 even then."""
    registry.code = 6

    with pytest.raises(
        PlatformError, match=r"cannot create the entry of .*/a: similar entry already exists"
    ):
        server.create_entries([ENTRY])


def test_nothing_is_asked_of_a_server_that_was_not_used(registry: Registry) -> None:
    """A testbed that did not get so far has made no entries."""
    ExistingServer(cast("Platform", registry), "example.org").close()

    assert registry.ran == []


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of the test's own."""
    monkeypatch.setenv("SVIDPROOF_CACHE", str(tmp_path))


def test_entry_of_others_with_the_runs_hint_stays(
    registry: Registry, server: ExistingServer
) -> None:
    """Anybody can give an entry any hint: only the IDs that the server gave are deleted."""
    server.create_entries([ENTRY])
    registry.entries["x"] = {"id": "x", "hint": registry.entries["1"]["hint"]}

    server.close()

    assert list(registry.entries) == ["0", "x"]


def test_entries_of_killed_runs_are_deleted(registry: Registry) -> None:
    """Those that were noted as made: others' runs may go on, and a hint is no proof."""
    for number, hint in enumerate(("else-live", "here-dead", "else-dead"), 1):
        machine, run = hint.split("-")
        registry.entries[str(number)] = {
            "id": str(number),
            "hint": entries.mark(machine, run),
        }

    live = RunDirectory()
    leftovers.take()
    for run, noted in ((live.id, "1"), ("dead", "2"), ("dead", "3"), ("dead", "4")):
        hint = entries.mark("here", run)
        created.note(run, Made("SPIRE", "entry", hint, noted))
    created.note("dead", Made("another SPIRE", "entry", "", "0"))
    registry.entries["5"] = {"id": "5", "hint": entries.mark("here", "dead")}

    entries.clear_stale(registry.ask, "SPIRE", "here")

    live.close()
    assert list(registry.entries) == ["0", "1", "3", "5"]
    assert [line.partition(",")[0] for line in leftovers.take()] == [
        "entry 5 has this installation's hint svidproof-here-dead"
    ]


def test_agent_that_is_there_is_not_started() -> None:
    """Nor waited for."""
    platform = SimpleNamespace(private_endpoint=lambda _place, _name: "/run/agent.sock")
    agent = ExistingAgent(cast("Platform", platform), "spire-agent", "example.org")

    agent.start(
        (),
        ("", 0),
        Attestation("", "", "", {}, "id"),
        sync_interval="",
        log_level="",
    )
    agent.wait_ready()

    assert agent.socket == "/run/agent.sock"


# -- what a testbed does with it -------------------------------------------------------------------


def test_its_intervals_are_its_own() -> None:
    """Whatever the user says of timing."""
    said = {"spire_namespace": "spire", "timing": "brisk"}

    assert RunRequest.of(said.get).timing == "stock"
    assert RunRequest.of({"timing": "brisk"}.get).timing == "brisk"


def test_what_cannot_be_forged_is_not_taken_for_refused() -> None:
    """It would chain to nothing that is trusted, and be refused for that."""
    testbed = object.__new__(Testbed)
    testbed.platform = cast("Platform", SimpleNamespace(capabilities=frozenset()))
    testbed.scenario = scenario = load_scenario("api")
    testbed.forge = Forge(Authority.create("no root", scenario.trust_domain), scenario.trust_domain)

    for flaw in Flaw:
        if flaw in UNCHAINED_FLAWS:
            testbed.forged_client(flaw)
        else:
            with pytest.raises(PlatformError, match="the trust root is not the suite's"):
                testbed.forged_client(flaw)
    with pytest.raises(PlatformError, match="the trust root is not the suite's"):
        testbed.forged_server(Flaw.NONE)


def test_probe_is_renewed_before_it_ends() -> None:
    """An SVID of a SPIRE that is there already lives for half a minute."""
    root = Authority.create("root", "example.org")
    left = iter([9, 3600, 3600])
    issued = []

    def fetch() -> Credential:
        template = Template(
            uris=("spiffe://example.org/a",), not_after=timedelta(seconds=next(left))
        )
        issued.append(root.issue("a", template))
        return issued[-1]

    give = renewed(fetch)

    assert [give(), give(), give()] == [issued[0], issued[1], issued[1]]


def test_probe_that_does_not_come_is_not_there_yet() -> None:
    """The watch notes it and goes on."""
    with pytest.raises(NotYet, match="no SVID"):
        renewed(mock.Mock(side_effect=Overdue("no SVID")))()
