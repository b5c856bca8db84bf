"""The checks of programs that spiffe-helper runs fail on each thing that can go wrong with them.

Each is asked about a window that never happened, which is sound but for one thing, and must say
what that is. Like test_rotation_checks.py, for SVIDs in files.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from cryptography.hazmat.primitives import hashes

from svidproof.checks.windows.recovery import Recovery, Retirement, Succession
from svidproof.checks.windows.renewals import WANTED, Renewals
from svidproof.components.spiffe_helper import Reload, State
from svidproof.model.clock import Moment
from svidproof.model.logs.line import LogRecord
from svidproof.model.logs.messages import messages_for
from svidproof.model.manifests import data_root
from svidproof.model.scenario import load_scenario
from svidproof.probes.credentials import Authority, Template
from svidproof.testbed.watch.attention import Attention
from svidproof.testbed.watch.timeline import Defect, Request, Sighting, Source, Trust

from .claims import _cases, _load

if TYPE_CHECKING:
    from collections.abc import Callable

    from svidproof.testbed.testbed import Testbed

SERVER, CLIENT, OTHER = "manifest-server", "manifest-client", "manifest-other"
BOTH = (SERVER, CLIENT)
PERIOD = 3.0
END = PERIOD * (WANTED + 1)
SCENARIO = load_scenario("manifest")
ROOT = Authority.create("root", SCENARIO.trust_domain)
SPIRE = ROOT.intermediate("spire", f"spiffe://{SCENARIO.trust_domain}")
MODES = {
    "svid.pem": ["0640", "CERTIFICATE"],
    "svid.key": ["0600", "PRIVATE KEY"],
    "bundle.pem": ["0640", "CERTIFICATE"],
}


def moment(at: float) -> Moment:
    """An instant on both clocks, so many seconds after the start."""
    start = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    return Moment(1000.0 + at, start + timedelta(seconds=at))


def sighting(source: Source, name: str, number: int, first: float, last: float) -> Sighting:
    """What was seen of one SVID; each ends later than the one before it."""
    uris = (SCENARIO.spiffe_id(name),)
    chain = SPIRE.issue(name, Template(uris=uris, not_after=timedelta(hours=number + 1))).chain
    leaf = chain[0]
    ends = (leaf.not_valid_before_utc, leaf.not_valid_after_utc)
    times = round((last - first) * 10)
    return Sighting(
        source, name, leaf.serial_number, *ends, moment(first), moment(last), times, chain
    )


# Minted once for all tests: the first, WANTED renewals, and one that nobody has asked for.
ISSUED = {
    name: [sighting(Source.FILES, name, n, n * PERIOD, (n + 1) * PERIOD) for n in range(WANTED + 2)]
    for name in (*BOTH, OTHER)
}


def sha256(what: Sighting) -> str:
    """What a program calls what it has loaded."""
    return what.chain[0].fingerprint(hashes.SHA256()).hex()


OWN_AGENT, OTHER_AGENT = (f"spiffe://{SCENARIO.trust_domain}/spire/agent/{n}" for n in (1, 2))


@dataclass
class World:
    """All that happened; sound until a test changes one thing."""

    files: dict[str, list[Sighting]] = field(
        default_factory=lambda: {name: list(ISSUED[name][:-1]) for name in (*BOTH, OTHER)}
    )
    wire: dict[str, list[Sighting]] = field(default_factory=dict)
    reloads: dict[str, list[Reload]] = field(default_factory=dict)
    signed: list[LogRecord] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    defects: list[Defect] = field(default_factory=list)
    trusts: list[Trust] = field(default_factory=list)
    pids: dict[str, tuple[int, int]] = field(default_factory=lambda: dict.fromkeys(BOTH, (7, 7)))
    modes: dict[str, list[str]] = field(default_factory=lambda: dict(MODES))

    def __post_init__(self) -> None:
        """Tell what follows from the files."""
        signed = messages_for("1.15.3").signed
        for name, seen in self.files.items():
            self.wire[name] = [
                replace(s, source=Source.WIRE, first=moment(n * PERIOD + 0.1),
                        last=moment((n + 1) * PERIOD)) for n, s in enumerate(seen)
            ]  # fmt: skip
            self.reloads[name] = [
                Reload(s.first.wall.timestamp() + 0.05, sha256(s), None) for s in seen[1:]
            ]
            self.signed += [
                LogRecord("spire-server", s.first, moment(n * PERIOD - 0.05).wall, "debug", signed,
                          {"spiffe_id": SCENARIO.spiffe_id(name), "serial_num": str(s.serial),
                           "caller_id": OWN_AGENT})
                for n, s in enumerate(seen)
            ]  # fmt: skip
            # What another node's agent got for the same ID comes to nobody.
            self.signed += [
                replace(r, fields={**r.fields, "serial_num": "4711", "caller_id": OTHER_AGENT})
                for r in self.signed[-2:]
            ]
            serials = frozenset({ROOT.certificate.serial_number})
            self.trusts.append(Trust(Source.FILES, name, moment(0), serials))
        self.requests = [
            Request(CLIENT, "manifest", str(n), moment(n / 10), 200, "")
            for n in range(round(END * 10))
        ]

    def state(self, name: str, pid: int = 7, first: int = 0) -> State:
        """What a program says of itself, which began with one of the SVIDs."""
        reloads, began = tuple(self.reloads[name]), sha256(ISSUED[name][first])
        loaded = reloads[-1].certificate if reloads else began
        return State(pid, 1.0, began, loaded or "", reloads, self.modes, (), ())

    @property
    def testbed(self) -> Testbed:
        """As much of a testbed as the checks ask."""
        seen = {Source.FILES: self.files, Source.WIRE: self.wire}
        timeline = SimpleNamespace(
            attention=Attention(),
            sightings=lambda source, name: sorted(seen[source][name], key=lambda s: s.first.at),
            logs=lambda _component, message: [r for r in self.signed if r.message == message],
            requests=lambda client: [r for r in self.requests if r.client == client],
            defects=lambda name: [d for d in self.defects if d.workload == name],
            trusts=lambda _source, name: [t for t in self.trusts if t.workload == name],
        )
        return cast("Testbed", SimpleNamespace(
            watch=SimpleNamespace(timeline=timeline),
            scenario=SCENARIO,
            messages=messages_for("1.15.3"),
            spire=SimpleNamespace(component="spire-server"),
            other_agents=lambda _name: frozenset({OTHER_AGENT}),
            trust_bundle=frozenset({ROOT.certificate}),
            helped={name: SimpleNamespace(state=lambda name=name: self.state(name))
                    for name in self.files},
        ))  # fmt: skip

    @property
    def renewals(self) -> Renewals:
        """The window."""
        before = {name: self.state(name, pids[0]) for name, pids in self.pids.items()}
        after = {name: self.state(name, pids[1]) for name, pids in self.pids.items()}
        cutoff, end = moment(END - PERIOD + 1), moment(END - PERIOD + 2)
        return Renewals(self.testbed, before, after, cutoff, end, None)


def failures(world: World) -> dict[str, list[str]]:
    """The checks of the window that fail, and what they say."""
    failed: dict[str, list[str]] = {}
    window = world.renewals
    for file in ("test_renewals_reach_the_program.py", "test_files_match_each_other.py"):
        module = _load(data_root() / "suites" / "helper" / file)
        for name, check in vars(module).items():
            wanted = inspect.signature(check).parameters if name.startswith("test_") else {}
            if "renewals" not in wanted:
                continue
            for case in _cases(check):
                known: dict[str, Any] = {"renewals": window, "measure": _nothing, **case}
                try:
                    check(**{key: known[key] for key in wanted})
                except AssertionError as error:
                    failed.setdefault(name, []).append(str(error).partition("\n")[0])
    return failed


def _nothing(*_: object) -> None:
    """Take what a check reports, and leave it."""


def never_renewed(world: World) -> None:
    """The server's files were renewed three times only."""
    world.files[SERVER] = world.files[SERVER][:4]


def old_file(world: World) -> None:
    """A certificate in the files ends before the one that it replaces."""
    second = world.files[SERVER][2]
    world.files[SERVER][2] = replace(second, not_after=second.not_after - timedelta(hours=2))


def foreign(world: World) -> None:
    """The server's files hold the client's SVID for a while."""
    alien = replace(ISSUED[OTHER][-1], workload=SERVER)
    world.files[SERVER][3] = replace(world.files[SERVER][3], chain=alien.chain, serial=alien.serial)


def skipped(world: World) -> None:
    """One SVID that the server signed never came to the files, nor to the program."""
    gone = world.files[SERVER].pop(2)
    world.wire[SERVER].pop(2)
    world.reloads[SERVER] = [r for r in world.reloads[SERVER] if r.certificate != sha256(gone)]
    # Another comes in its place, at the end of the window.
    last = replace(ISSUED[SERVER][-1], first=moment(END - PERIOD + 0.5))
    world.files[SERVER].append(last)
    world.wire[SERVER][-1] = replace(world.wire[SERVER][-1], last=last.first)
    world.wire[SERVER].append(replace(last, source=Source.WIRE))
    world.reloads[SERVER].append(Reload(last.first.wall.timestamp(), sha256(last), None))


def late_file(world: World) -> None:
    """One SVID came to the files more than two seconds after it was signed."""
    at = world.files[CLIENT][3].first.wall - timedelta(seconds=2.2)
    serial = str(world.files[CLIENT][3].serial)
    world.signed = [
        replace(r, wall=at) if r.fields["serial_num"] == serial else r for r in world.signed
    ]


def unsignalled(world: World) -> None:
    """The program was not signalled once, and presented the old certificate until the next."""
    del world.reloads[SERVER][2]
    gone = world.wire[SERVER].pop(3)
    world.wire[SERVER][2] = replace(world.wire[SERVER][2], last=gone.last)


def signalled_twice(world: World) -> None:
    """The program was signalled twice for one renewal."""
    world.reloads[SERVER].insert(2, world.reloads[SERVER][2])


def torn(world: World) -> None:
    """The program was signalled when the files did not fit each other, and again afterwards."""
    broken = Reload(world.reloads[CLIENT][1].wall, None, "KEY_VALUES_MISMATCH")
    world.reloads[CLIENT].insert(1, broken)


def signalled_late(world: World) -> None:
    """The program was signalled two seconds after its files were written."""
    second = world.reloads[SERVER][2]
    world.reloads[SERVER][2] = replace(second, wall=second.wall + 2)


def presented_late(world: World) -> None:
    """What the program presents follows more than two seconds after the files."""
    before, after = world.wire[CLIENT][2:4]
    world.wire[CLIENT][2] = replace(before, last=moment(3 * PERIOD + 2.2))
    world.wire[CLIENT][3] = replace(after, first=moment(3 * PERIOD + 2.2))


def another_process(world: World) -> None:
    """The program was started again."""
    world.pids[SERVER] = (7, 8)


def no_program(world: World) -> None:
    """The program was not there when the window was opened."""
    del world.pids[CLIENT]


def failed(world: World) -> None:
    """One request was not answered."""
    world.requests[50] = replace(world.requests[50], status=None, note="no answer (reset)")


def little_traffic(world: World) -> None:
    """The client sent two requests a second only."""
    world.requests = world.requests[::5]


def mismatch(world: World) -> None:
    """The key did not belong to the certificate when the watch looked."""
    world.defects.append(Defect(SERVER, moment(4), "the key is not that of certificate 2a"))


def blind(world: World) -> None:
    """The watch has hardly looked at the files."""
    world.files[SERVER] = [replace(s, times=1) for s in world.files[SERVER]]


def one_more_root(world: World) -> None:
    """The bundle file held a second authority for a while."""
    serials = frozenset({ROOT.certificate.serial_number, 42})
    world.trusts.append(Trust(Source.FILES, CLIENT, moment(5), serials))


def open_key(world: World) -> None:
    """The key can be read by everybody."""
    world.modes["svid.key"] = ["0644", "PRIVATE KEY"]


def copied_key(world: World) -> None:
    """A copy of the key lies beside it."""
    world.modes["svid.key.bak"] = ["0600", "PRIVATE KEY"]


ONCE, LOADED = "test_program_is_signalled_once_each_time", "test_signal_comes_with_the_files"
PRESENTS, OLD = "test_program_presents_each_renewal", "test_previous_svid_is_not_presented"
REPLACED, COMES = "test_files_are_replaced", "test_every_signed_svid_reaches_the_files"
STAYS, ANSWERED = "test_program_stays_the_same_process", "test_no_request_fails"
KEY, MODE = "test_key_always_matches_the_certificate", "test_files_are_readable_as_configured"
WRONG: list[tuple[Callable[[World], None], dict[str, str]]] = [
    (never_renewed, {
        REPLACED: "3 renewals", COMES: "3 renewals", ONCE: "3 renewals", LOADED: "3 renewals",
        PRESENTS: "3 renewals", OLD: "3 renewals",
    }),
    (old_file, {REPLACED: "the SVID before it"}),
    (foreign, {
        REPLACED: "/other", COMES: "never reached its files", ONCE: "signalled",
        LOADED: "never loaded", PRESENTS: "never presented",
    }),
    (skipped, {COMES: "never reached its files"}),
    (late_file, {COMES: r"2\.2\d s after it was signed"}),
    (unsignalled, {
        ONCE: "signalled 4 times for 5", LOADED: "never loaded", PRESENTS: "never presented",
        OLD: "s after its renewal",
    }),
    (signalled_twice, {ONCE: "signalled 6 times for 5"}),
    (torn, {ONCE: "1 times what it was signalled for: KEY_VALUES_MISMATCH"}),
    (signalled_late, {LOADED: r"2\.05 s after it was written"}),
    (presented_late, {PRESENTS: r"2\.20 s after it was written", OLD: r"2\.20 s after its"}),
    (another_process, {STAYS: "was process 7, and is 8 now"}),
    (no_program, {
        STAYS: "did not answer before", ONCE: "does not answer", LOADED: "does not answer",
    }),
    (failed, {ANSWERED: r"1 of \d+ failed; the first: no answer \(reset\)"}),
    (little_traffic, {ANSWERED: "requests a second"}),
    (mismatch, {KEY: "1 times; the first: the key is not"}),
    (blind, {KEY: "samples in"}),
    (one_more_root, {"test_bundle_is_the_trust_bundle": "held 2 authorities"}),
    (open_key, {MODE: "0644"}),
    (copied_key, {MODE: "svid.key.bak"}),
]  # fmt: skip


def test_sound_window_passes() -> None:
    """No check fails on a window in which all was as it must be."""
    assert failures(World()) == {}


@pytest.mark.parametrize(("spoil", "red"), [pytest.param(*w, id=w[0].__name__) for w in WRONG])
def test_what_is_wrong_is_found(spoil: Callable[[World], None], red: dict[str, str]) -> None:
    """Exactly the checks that are about it fail, and say what was seen."""
    world = World()

    spoil(world)

    found = failures(world)
    assert set(found) == set(red), found
    for check, pattern in red.items():
        assert any(re.search(pattern, message) for message in found[check]), found[check]


def recovery(
    world: World, *, pids: tuple[int, int] = (7, 7), first: int = 0, gone: float = 0.0
) -> Recovery:
    """The same happening, after something went wrong."""
    before, after = ({SERVER: world.state(SERVER, pid, first)} for pid in pids)
    back = {SERVER: moment(gone + 1)}
    return Recovery(
        world.testbed, moment(gone), before, back, after, moment(END), "nothing was late"
    )


def test_signals_are_counted_from_what_went_wrong() -> None:
    """A program that stayed has loaded each renewal; another, those since what it began with."""
    world = World()
    recovery(world).assert_signalled(SERVER)
    recovery(world, gone=PERIOD + 1).assert_signalled(SERVER)
    # It began just before it was signalled for what it began with.
    recovery(world, pids=(7, 8), first=1).assert_signalled(SERVER)
    del world.reloads[SERVER][0]

    recovery(world, pids=(7, 8), first=1).assert_signalled(SERVER)
    for pids in ((7, 7), (7, 8)):
        with pytest.raises(AssertionError, match=r"through 5 renewals.* signalled 4 times"):
            recovery(world, pids=pids).assert_signalled(SERVER)


def test_what_was_loaded_just_before_is_not_missed() -> None:
    """A renewal that the watch saw after something went wrong may have been loaded before that."""
    world = World()
    world.files[SERVER][1] = replace(ISSUED[SERVER][1], first=moment(PERIOD + 0.1))

    recovery(world, gone=PERIOD + 0.07).assert_signalled(SERVER)

    world.reloads[SERVER] = world.reloads[SERVER][:1]
    with pytest.raises(AssertionError, match=r"through 4 renewals.* signalled 0 times"):
        recovery(world, gone=PERIOD + 0.07).assert_signalled(SERVER)


def test_program_that_nobody_signals_has_not_recovered() -> None:
    """A program that began with the last renewal is yet to be signalled, if only for that."""
    world = World()
    last = world.reloads[SERVER].pop()
    world.reloads[SERVER] = []
    with pytest.raises(AssertionError, match=r"through 1 renewals.* signalled 0 times"):
        recovery(world, pids=(7, 8), first=WANTED).assert_signalled(SERVER)

    world.reloads[SERVER] = [last]

    recovery(world, pids=(7, 8), first=WANTED).assert_signalled(SERVER)


def test_recovery_needs_renewals_and_a_program() -> None:
    """Files that are not renewed any more, or a program that is gone, are no recovery."""
    world = World()
    with pytest.raises(AssertionError, match=r"renewed 1 times; nothing was late"):
        recovery(world, gone=END - 1.5 * PERIOD).renewals(SERVER)
    with pytest.raises(AssertionError, match=f"{CLIENT}'s program does not answer"):
        recovery(world).state(CLIENT)
    with pytest.raises(AssertionError, match="sent 0 requests"):
        recovery(world).requests(CLIENT, since=moment(END + 1))


def test_root_that_stays_in_the_bundle_file_is_found() -> None:
    """What the bundle file holds last is asked, and it must be the next root alone."""
    module = _load(data_root() / "suites" / "helper" / "test_bundle_follows_the_ca.py")
    check, world = module.test_revoked_root_leaves_the_bundle_file, World()
    new = Authority.create("next", SCENARIO.trust_domain).certificate
    old, now = ROOT.certificate.serial_number, new.serial_number
    prepared, activated, end, revoked = map(moment, (1, 2, 3, 4))
    succession = Succession(world.testbed, new, prepared, activated, end, "nothing was late")
    retirement = Retirement(succession, revoked, "it was late")
    world.trusts.append(Trust(Source.FILES, SERVER, moment(1.5), frozenset({old, now})))
    with pytest.raises(AssertionError, match=r"holds 2 authorities, not only .* it was late"):
        check(retirement, SERVER, _nothing)

    world.trusts.append(Trust(Source.FILES, SERVER, moment(4.5), frozenset({now})))

    check(retirement, SERVER, _nothing)
