"""The checks of a deleted certificate's end fail on each thing that could go wrong with it.

Like test_rotation_checks.py: a window that is sound but for one thing.
"""

from __future__ import annotations

import functools
import inspect
import re
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

import pytest

from svidproof.checks.windows.deletion import BUSY, BYSTANDER, HOLDER, IDLE, Asked, Ending, Held
from svidproof.components.app import SeenRequest
from svidproof.model.clock import Moment
from svidproof.model.logs.line import LogRecord
from svidproof.model.logs.messages import messages_for
from svidproof.model.manifests import data_root
from svidproof.probes.credentials import Credential
from svidproof.probes.tls import Alert, Exchange
from svidproof.testbed.watch.timeline import Request, Source, Timeline

from .claims import _cases, _load
from .synthetic import SERVER, Issue, Look, mint, moment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OWN, PROXY = "spiffe://example.org/generator", "proxy"
END, OVER = 12.0, 18.0  # of the certificate, of the window; seconds since the deletion
ALERT = Exchange(alert=Alert.CERTIFICATE_UNKNOWN)
DENIED = "rpc error: code = PermissionDenied desc = no identity issued"
OK = Exchange(200)
FILE = data_root() / "suites" / "front_proxy" / "test_deleted_clients_svid_expires.py"
MESSAGES = messages_for("1.15.3")
GOOD = "test_certificate_is_accepted_until_expiry"
NO_LONGER = "test_expired_certificate_is_rejected"
GIVEN = "test_no_new_svid_is_delivered"
SIGNED = "test_no_new_svid_is_signed"
OTHERS = "test_other_clients_are_not_affected"
SAW = "test_backend_received_the_successful_requests"
KEPT = "test_open_connection_is_closed"
SERVED = "test_renewed_certificate_is_served"
VALID = "test_served_certificate_is_valid"


def every(interval: float, start: float, end: float) -> Iterator[float]:
    """Times from start up to end."""
    return (start + interval * n for n in range(int((end - start) / interval) + 1))


# What is sound is minted once for all tests.
_sound = functools.cache(mint)


@dataclass
class Window:
    """All that happened in the window; times are seconds since the deletion."""

    requests: list[Request] = field(default_factory=list)
    seen: list[SeenRequest] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    files: list[Credential] = field(default_factory=list)
    held: dict[str, Held] = field(default_factory=dict)
    looks: list[Look] = field(default_factory=list)
    signed: list[float] = field(default_factory=lambda: [-0.5])

    def __post_init__(self) -> None:
        """Tell a window in which all is well."""
        for at in every(0.25, 0.1, OVER):
            # A certificate knows whole seconds: within one of its end it may be either.
            self.request(HOLDER, at, None if at > END + 0.5 else 200)
            self.request(BYSTANDER, at, 200)
            self.asked.append(Asked(moment(at), at < 0.5, "" if at < 0.5 else DENIED))
        files = _sound("api", -1.0)
        self.files = [Credential("generator", files.chain, b"")] * 2
        self.keep(BUSY, 15.0, list(every(0.25, 8.0, 13.9)))
        self.keep(IDLE, 15.0, [8.0])
        for number, at in enumerate((-20.0, -10.0, 1.0, 11.0)):
            issue, last = _sound("api", at), (-10.0, 1.0, 11.0, 40.0)[number]
            self.looks.append(Look(at, Source.WORKLOAD_API, PROXY, issue.chain))
            self.look(Source.CERTS, issue, at + 0.2, last)
            self.look(Source.WIRE, issue, at + 0.4, last)

    def request(self, client: str, at: float, status: int | None) -> None:
        """One request of the watch, and what the backend saw of it."""
        tag = f"{client}-{at:.2f}"
        note = "" if status == 200 else str(ALERT)
        self.requests.append(Request(client, PROXY, tag, moment(at), status, note))
        if status == 200:
            self.seen.append(SeenRequest(tag, "/", f"By=x;Hash=y;URI={OWN},By=z;Hash=y;URI=x"))

    def keep(self, name: str, ended: float | None, answered: list[float]) -> None:
        """A connection that is kept from before the end."""
        answers = tuple((moment(at), OK) for at in answered)
        self.held[name] = Held(moment(8.0), answers, moment(ended) if ended else None)

    def look(self, source: Source, issue: Issue, start: float, end: float) -> None:
        """Look at what the proxy shows, up to the window's end."""
        looks = every(0.5, start, min(end, OVER))
        self.looks += [Look(at, source, PROXY, issue.chain) for at in looks]

    def change(self, client: str, start: float, end: float, status: int | None, note: str) -> None:
        """Answer some requests otherwise."""
        self.requests = [
            replace(r, status=status, note=note)
            if r.client == client and moment(start).at <= r.sent.at <= moment(end).at
            else r
            for r in self.requests
        ]

    def ending(self) -> Ending:
        """What the watch makes of it."""
        timeline = Timeline()
        looks = sorted(self.looks, key=lambda look: look.at)
        moments = iter([moment(look.at) for look in looks])
        with mock.patch.object(Moment, "now", functools.partial(next, moments)):
            for look in looks:
                leaf = look.chain[0]
                timeline.sighted(look.source, PROXY, serial=leaf.serial_number,
                                 validity=(leaf.not_valid_before_utc, leaf.not_valid_after_utc),
                                 chain=look.chain)  # fmt: skip
        for request in self.requests:
            timeline.requested(request)
        for at in self.signed:
            fields = {"spiffe_id": OWN}
            record = LogRecord(
                SERVER, moment(at), moment(at).wall, "debug", MESSAGES.signed, fields
            )
            timeline.logged(record)
        testbed = SimpleNamespace(
            messages=MESSAGES,
            spire=SimpleNamespace(component=SERVER),
            watch=SimpleNamespace(timeline=timeline),
            app_behind=lambda _: SimpleNamespace(seen=lambda: self.seen),
        )
        return Ending(
            testbed=cast("Any", testbed),
            spiffe_id=OWN,
            not_after=whole(END),
            deleted=moment(0.0),
            asked=tuple(self.asked),
            files=tuple(self.files),
            held=self.held,
            end=moment(OVER),
            shortfall=None,
        )

    def failures(self) -> dict[str, str]:
        """What each check that fails says."""
        ending, failed = self.ending(), {}
        quiet = dict.fromkeys(("saw", "measure"), lambda *_: None)
        for name, check in CHECKS.items():
            for arguments in _cases(check):
                known = {"ending": ending, "front_proxy": ending.testbed, **quiet, **arguments}
                wanted = inspect.signature(check).parameters
                try:
                    check(**{parameter: known[parameter] for parameter in wanted})
                except AssertionError as error:
                    failed[name] = str(error).partition("\n")[0]
        return failed


CHECKS: dict[str, Callable[..., None]] = {
    name: check for name, check in vars(_load(FILE)).items() if name.startswith("test_")
}


def whole(at: float) -> datetime:
    """A moment as a certificate writes it."""
    return moment(at).wall.replace(microsecond=0)


def refused_early(window: Window) -> None:
    """One request was refused a good while before the end."""
    window.change(HOLDER, 5.0, 5.2, None, str(ALERT))


def accepted_late(window: Window) -> None:
    """One request was answered two seconds after the end."""
    window.change(HOLDER, 14.0, 14.2, 200, "")


def reset_late(window: Window) -> None:
    """One request was not refused but cut off."""
    window.change(HOLDER, 14.0, 14.2, None, "no answer (connection closed)")


def refused_otherwise(window: Window) -> None:
    """One request got the wrong alert."""
    window.change(HOLDER, 14.0, 14.2, None, str(Exchange(alert=Alert.INTERNAL_ERROR)))


def without_traffic(window: Window) -> None:
    """The holder asked for nothing."""
    window.requests = [r for r in window.requests if r.client != HOLDER]


def stopped_at_the_end(window: Window) -> None:
    """The holder asked for nothing after the end."""
    window.requests = [r for r in window.requests if r.client != HOLDER or r.sent.at < 1012]


def given_again(window: Window) -> None:
    """The workload got one more SVID, long after."""
    window.asked[40] = replace(window.asked[40], given=True)


def given_always(window: Window) -> None:
    """The workload never stopped to get SVIDs."""
    window.asked = [replace(asked, given=True) for asked in window.asked]


def told_otherwise(window: Window) -> None:
    """The workload was told something else once."""
    window.asked[40] = replace(window.asked[40], said="connection refused")


def noticed_late(window: Window) -> None:
    """The agent took its time."""
    window.asked = [replace(a, given=a.at.at < 1016) for a in window.asked]


def other_files(window: Window) -> None:
    """The files were replaced after all."""
    window.files[1] = Credential("generator", _sound("api", 4.0).chain, b"")


def signed_late(window: Window) -> None:
    """The server signed once more."""
    window.signed.append(7.0)


def never_signed(window: Window) -> None:
    """The server's log tells of nothing."""
    window.signed.clear()


def bystander_fails(window: Window) -> None:
    """One request of the other client failed."""
    window.change(BYSTANDER, 13.0, 13.2, 503, "HTTP 503")


def bystander_is_silent(window: Window) -> None:
    """The other client sent hardly anything."""
    window.requests = [r for r in window.requests if r.client != BYSTANDER][:-1]


def unseen_by_the_backend(window: Window) -> None:
    """One answered request never came to the backend."""
    window.seen = [s for s in window.seen if s.tag != f"{HOLDER}-1.10"]


def of_another(window: Window) -> None:
    """The backend was told of somebody else."""
    window.seen[0] = replace(window.seen[0], client_certificate="By=x;Hash=y;URI=spiffe://e/z")


def refused_but_seen(window: Window) -> None:
    """A refused request came to the backend."""
    window.seen.append(SeenRequest(f"{HOLDER}-14.10", "/", None))


def kept(name: str, ended: float | None, *answered: float) -> Callable[[Window], None]:
    """A connection that was kept otherwise."""
    return lambda window: window.keep(name, ended, list(answered))


def answered_badly(window: Window) -> None:
    """The busy connection got one 503."""
    held = window.held[BUSY]
    answers = (*held.answers[:-1], (moment(13.0), Exchange(503)))
    window.held[BUSY] = replace(held, answers=answers)


def opened_too_late(window: Window) -> None:
    """The idle connection was opened when the certificate had ended."""
    window.held[IDLE] = replace(window.held[IDLE], opened=moment(12.5))


def never_served(window: Window) -> None:
    """A new SVID never came to the wire."""
    serial = _sound("api", 1.0).serial
    window.looks = [
        look
        for look in window.looks
        if look.source is not Source.WIRE or look.chain[0].serial_number != serial
    ]


def served_late(window: Window) -> None:
    """A new SVID came to the wire after five seconds."""
    never_served(window)
    window.look(Source.WIRE, _sound("api", 1.0), 6.0, 11.0)


def never_renewed(window: Window) -> None:
    """The proxy was given one SVID only."""
    keep = _sound("api", -20.0).serial
    window.looks = [look for look in window.looks if look.chain[0].serial_number == keep]


def served_beyond_its_end(window: Window) -> None:
    """The first SVID was served to the end of the window."""
    window.look(Source.WIRE, _sound("api", -20.0), 0.0, OVER)


def served_before_its_time(window: Window) -> None:
    """A certificate was served that was not valid yet."""
    early = mint("api", 3.0, not_before=timedelta(seconds=5))
    window.look(Source.CERTS, early, 3.0, 4.0)
    window.look(Source.WIRE, early, 3.0, 4.0)


def served_but_not_shown(window: Window) -> None:
    """A certificate was served that is not in /certs."""
    window.look(Source.WIRE, mint("api", 3.0), 3.0, 4.0)


def never_looked_at(window: Window) -> None:
    """Nobody has seen what the proxy serves."""
    window.looks = [look for look in window.looks if look.source is not Source.WIRE]


MUTATIONS = [
    pytest.param(refused_early, {GOOD: r"1 of \d+ failed", SAW: "received 1 rejected"},
                 id="refused-early"),
    pytest.param(accepted_late, {NO_LONGER: r"1 of \d+ got HTTP 200", SAW: "did not receive 1"},
                 id="accepted-late"),
    pytest.param(reset_late, {NO_LONGER: "failed in another way: no answer"}, id="reset-late"),
    pytest.param(refused_otherwise,
                 {NO_LONGER: "failed in another way: TLS alert “internal error”"},
                 id="wrong-alert"),
    pytest.param(without_traffic, {GOOD: "only 0 requests", NO_LONGER: "only 0 requests",
                                   SAW: "no request was answered"}, id="no-traffic"),
    pytest.param(stopped_at_the_end, {NO_LONGER: "only 0 requests"}, id="no-traffic-afterwards"),
    pytest.param(given_again, {GIVEN: "delivered again 1 times"}, id="given-again"),
    pytest.param(given_always, {GIVEN: r"was given an SVID \d+ times",
                                SIGNED: r"was given an SVID \d+ times"}, id="given-always"),
    pytest.param(told_otherwise, {GIVEN: "got: connection refused"}, id="told-otherwise"),
    pytest.param(noticed_late, {GIVEN: r"synced the deletion after 16\.1 s"}, id="noticed-late"),
    pytest.param(other_files, {GIVEN: "its files hold"}, id="other-files"),
    pytest.param(signed_late, {SIGNED: "1 were signed"}, id="signed-late"),
    pytest.param(never_signed, {SIGNED: "no signature"}, id="never-signed"),
    pytest.param(bystander_fails, {OTHERS: "HTTP 503"}, id="another-fails"),
    pytest.param(bystander_is_silent, {OTHERS: r"only 0\.0 requests"}, id="another-is-silent"),
    pytest.param(unseen_by_the_backend, {SAW: "did not receive 1"}, id="unseen-by-the-backend"),
    pytest.param(of_another, {SAW: "saw the clients .*spiffe://e/z"}, id="of-another"),
    pytest.param(refused_but_seen, {SAW: "received 1 rejected"}, id="refused-but-seen"),
    pytest.param(kept(BUSY, None, *every(0.25, 8.0, 18.0)), {KEPT: "was not closed"},
                 id="busy-for-ever"),
    pytest.param(kept(IDLE, None, 8.0), {KEPT: "was not closed"}, id="idle-for-ever"),
    pytest.param(kept(IDLE, 16.5, 8.0), {KEPT: r"lasted 8\.5 s, not 8"}, id="idle-too-long"),
    pytest.param(kept(BUSY, 9.0, 8.0, 8.5), {KEPT: "answered only 2 times"}, id="busy-cut-off"),
    pytest.param(kept(IDLE, 9.0), {KEPT: "answered only 0 times"}, id="never-answered"),
    pytest.param(answered_badly, {KEPT: r"1 of \d+ failed: HTTP 503"}, id="answered-badly"),
    pytest.param(opened_too_late, {KEPT: "opened -"}, id="opened-too-late"),
    pytest.param(never_served, {SERVED: "was never served"}, id="never-served"),
    pytest.param(served_late, {SERVED: r"was served 5\.0 s after"}, id="served-late"),
    pytest.param(never_renewed, {SERVED: "no new SVID"}, id="never-renewed"),
    pytest.param(served_beyond_its_end, {VALID: r"was served \d\.\d s after its expiry"},
                 id="served-beyond-its-end"),
    pytest.param(served_before_its_time, {VALID: "before its notBefore"},
                 id="served-before-its-time"),
    pytest.param(served_but_not_shown, {VALID: "not in /certs"}, id="served-but-not-shown"),
    pytest.param(never_looked_at, {SERVED: "never served", VALID: "was sampled"},
                 id="never-looked-at"),
]  # fmt: skip


def test_sound_window_is_green() -> None:
    """A window in which all is well fails no check."""
    assert Window().failures() == {}


@pytest.mark.parametrize(("mutate", "red"), MUTATIONS)
def test_each_mutation_is_noticed(mutate: Callable[[Window], None], red: dict[str, str]) -> None:
    """A window that is wrong in one way fails exactly the checks that are about it."""
    window = Window()

    mutate(window)

    failed = window.failures()
    assert set(failed) == set(red), failed
    for check, pattern in red.items():
        assert re.search(pattern, failed[check]), failed[check]


def test_every_check_is_put_to_the_test() -> None:
    """Each check of the window is made to fail by a mutation."""
    failed = {check for row in MUTATIONS for check in cast("dict[str, str]", row.values[1])}

    assert failed == set(CHECKS)
