"""A run of the `api` scenario that never happened, told as the watch would have seen it.

It is sound until a test changes one thing: the SVIDs are minted, the log lines are text that the
parser reads, and every look of the watch is made one by one, on a clock of its own.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from svidproof.checks.windows.rotation import WANTED, Observation
from svidproof.components.app import SeenRequest
from svidproof.components.envoy import BUNDLE
from svidproof.model.capabilities import Capability
from svidproof.model.clock import Moment
from svidproof.model.logs.line import LogRecord, parse_line
from svidproof.model.logs.messages import messages_for
from svidproof.model.scenario import load_scenario
from svidproof.model.settings import BRISK, Settings
from svidproof.probes import credentials
from svidproof.probes.credentials import Authority, Template
from svidproof.testbed.testbed import Provoked
from svidproof.testbed.watch.timeline import Request, Source, Timeline

if TYPE_CHECKING:
    from cryptography import x509

    from svidproof.testbed.testbed import Testbed

PERIOD = 8.0
BOOT = 1.5  # the first SVIDs wait for their sidecars
AFTER = 5.0  # from the last rotation to the end of the window
# The SDS streams of one sidecar.
SVID, ROOTS = "svid", "bundle"
SERVER, AGENT = "spire-server", "spire-agent"
AGENT_ID = "spiffe://example.org/spire/agent/x509pop/42"
VALID, INVALID = "valid-api-client", "invalid-api-client"
REFUSAL = "HTTP 503 over plaintext: b'upstream connect error'"


@dataclass(frozen=True)
class Issue:
    """One SVID: when the agent asked for it, and what it got."""

    at: float
    key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...]

    @property
    def leaf(self) -> x509.Certificate:
        """The certificate that names the workload."""
        return self.chain[0]

    @property
    def serial(self) -> int:
        """Its serial number."""
        return self.leaf.serial_number

    @functools.cached_property
    def hash(self) -> str:
        """What Envoy tells the app of it."""
        return self.leaf.fingerprint(hashes.SHA256()).hex()


@dataclass(frozen=True)
class Look:
    """One look of the watch at one source, which showed one certificate."""

    at: float
    source: Source
    workload: str
    chain: tuple[x509.Certificate, ...]


def moment(at: float) -> Moment:
    """An instant on both clocks, so many seconds after the start."""
    # Half past a second, so that whole seconds are cut off the same way everywhere.
    start = datetime(2026, 1, 2, 3, 4, 5, 500_000, tzinfo=UTC)
    return Moment(1000.0 + at, start + timedelta(seconds=at))


def mint(
    name: str,
    at: float,
    key: ec.EllipticCurvePrivateKey | None = None,
    **template: Any,  # noqa: ANN401  fields of Template
) -> Issue:
    """Sign an SVID as SPIRE would at `at`, but for what `template` says."""
    scenario = load_scenario("api")
    ttl = timedelta(seconds=scenario.svid_ttl)
    values = {"uris": (scenario.spiffe_id(name),), "not_after": ttl, **template}
    key = key or ec.generate_private_key(ec.SECP256R1())
    then = SimpleNamespace(now=lambda _zone: moment(at).wall)
    with mock.patch.object(credentials, "datetime", then):
        credential = _signer(scenario.trust_domain).issue(name, Template(**values), key=key)
    return Issue(at, key, credential.chain)


# What is sound is minted once for all tests.
_sound = functools.cache(mint)


@functools.cache
def _signer(trust_domain: str) -> Authority:
    root = Authority.create("root", trust_domain)
    return root.intermediate("spire", f"spiffe://{trust_domain}")


@dataclass
class World:
    """All that happened; times are seconds since the start of the watch."""

    looks: list[Look] = field(default_factory=list)
    logs: list[LogRecord] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    seen: list[SeenRequest] = field(default_factory=list)
    provoked: list[Provoked] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Issue four SVIDs to each workload and tell all that follows from it."""
        self.scenario = load_scenario("api")
        self.messages = messages_for("1.15.3")
        self.start = moment(0)
        self.names = tuple(self.scenario.workloads)
        self.issues = {
            name: [_sound(name, offset + PERIOD * n) for n in range(WANTED + 1)]
            for offset, name in enumerate(self.names)
        }
        self.tell()

    def entry(self, name: str) -> str:
        """The ID of a workload's registration entry."""
        return f"entry-of-{name}"

    def reissue(self, name: str, number: int, **changes: Any) -> None:  # noqa: ANN401  as in mint
        """Issue one SVID otherwise, and tell everything anew."""
        self.issues[name][number] = mint(name, self.issues[name][number].at, **changes)
        self.tell()

    def reschedule(self, name: str, *times: float) -> None:
        """Issue a workload's SVIDs at other times, and tell everything anew."""
        self.issues[name] = [mint(name, at) for at in times]
        self.tell()

    def came(self, name: str, number: int) -> float:
        """When the Workload API delivered an SVID."""
        at = self.issues[name][number].at
        return at + (0.1 if number else BOOT)

    @property
    def cutoff(self) -> float:
        """When every workload has rotated often enough."""
        return max(issues[-1].at for issues in self.issues.values()) + 0.5

    @property
    def end(self) -> float:
        """When the window ends."""
        return self.cutoff + AFTER

    def tell(self) -> None:
        """Tell all that follows from the SVIDs, as in a sound deployment."""
        self.looks, self.logs, self.requests, self.seen = [], [], [], []
        for name, issues in self.issues.items():
            for number, issue in enumerate(issues):
                self._tell_issue(name, number)
                came = self.came(name, number)
                self.looks.append(Look(came, Source.WORKLOAD_API, name, issue.chain))
            self._look(name, Source.CERTS, 0.25)
            self._look(name, Source.SECRETS, 0.25)
            if self.scenario.workloads[name].app:
                self._look(name, Source.WIRE, 0.5)
        self._ask(VALID, 0.1, 200, "")
        self._ask(INVALID, 1.0, 503, REFUSAL)
        # Entries that nobody is served have SVIDs of their own, and checks do not mind them.
        decoy = {"entry_id": "entry-of-decoy", "spiffe_id": self.scenario.spiffe_id("decoy")}
        self.log(SERVER, 9.0, "debug", self.messages.signed, **decoy, serial_num="1",
                 expiration="2026-01-02T03:04:45Z")  # fmt: skip
        self.log(AGENT, 9.0, "info", self.messages.renewing, **decoy,
                 expires_at="2026-01-02T03:04:36Z")  # fmt: skip
        self.log(AGENT, 4.0, "error", "No identity issued", registered=False)
        self.provoked = [Provoked(AGENT, "No identity issued", moment(3.5), moment(5.0))]
        self.logs.sort(key=lambda record: record.wall)

    def log(self, component: str, at: float, level: str, message: str, **fields: object) -> None:
        """Write one line as SPIRE does."""
        time = moment(at).wall.strftime("%Y-%m-%dT%H:%M:%S.%f") + "123Z"
        line = json.dumps({"level": level, "msg": message, "time": time, **fields})
        self.logs.append(parse_line(component, line, moment(at + 0.05)))

    def print(self, component: str, at: float, line: str) -> None:
        """Write one line of no form."""
        self.logs.append(parse_line(component, line, moment(at)))

    def find(self, message: str, number: int = 0, **fields: str) -> LogRecord:
        """A line by its message and its fields."""
        found = [
            r for r in self.logs if r.message == message and fields.items() <= r.fields.items()
        ]
        return found[number]

    def amend(self, record: LogRecord, **fields: str) -> None:
        """Write other fields into one line."""
        changed = replace(record, fields={**record.fields, **fields})
        self.logs[self.logs.index(record)] = changed

    def date(self, record: LogRecord, at: float) -> None:
        """Write another time into one line."""
        self.logs[self.logs.index(record)] = replace(record, wall=moment(at).wall)

    def nonce(self, name: str, secret: str, number: int) -> str:
        """The nonce of one push."""
        return f"{self.names.index(name)}{(SVID, ROOTS).index(secret)}{number:06x}"

    def show(
        self, source: Source, name: str, since: float, until: float, issue: Issue | None
    ) -> None:
        """Let a source show another SVID for some time, or none at all."""
        kept = []
        for look in self.looks:
            if (look.source, look.workload) == (source, name) and since <= look.at <= until:
                if issue is None:
                    continue
                look = replace(look, chain=issue.chain)  # noqa: PLW2901  it is the same look
            kept.append(look)
        self.looks = kept

    def present(self, name: str, since: float, until: float, client_hash: str) -> None:
        """Let a client present another certificate for some time."""
        tags = {r.tag for r in self.requests if r.client == name
                and since <= r.sent.at - self.start.at <= until}  # fmt: skip
        told = f"Hash={client_hash};URI={self.scenario.spiffe_id(name)}"
        self.seen = [replace(s, client_certificate=told) if s.tag in tags else s for s in self.seen]

    def observation(self) -> Observation:
        """What the watch makes of it."""
        timeline = Timeline()
        timeline.start = self.start
        looks = sorted(self.looks, key=lambda look: look.at)
        moments = iter([moment(look.at) for look in looks])
        with mock.patch.object(Moment, "now", functools.partial(next, moments)):
            for look in looks:
                leaf = look.chain[0]
                timeline.sighted(
                    look.source,
                    look.workload,
                    serial=leaf.serial_number,
                    validity=(leaf.not_valid_before_utc, leaf.not_valid_after_utc),
                    chain=() if look.source is Source.CERTS else look.chain,
                )
        for record in self.logs:
            timeline.logged(record)
        for request in self.requests:
            timeline.requested(request)
        counts = {name: len(timeline.rotations(name)) for name in self.names}
        short = [f"{count} of {name}" for name, count in counts.items() if count < WANTED] or [""]
        testbed = cast("Testbed", self._testbed(timeline))
        shortfall = f"{WANTED} rotations of each workload: not in time; last seen: {short[0]}"
        cutoff, end = moment(self.cutoff), moment(self.end)
        return Observation(testbed, cutoff, end, shortfall if short[0] else None)

    def _testbed(self, timeline: Timeline) -> SimpleNamespace:
        app = SimpleNamespace(seen=lambda: self.seen)
        workloads = {name: SimpleNamespace(app=app) for name in self.names}
        sidecars = [f"{name}.envoy" for name in self.names]
        return SimpleNamespace(
            scenario=self.scenario,
            capabilities=frozenset({Capability.OWN_SPIRE}),
            settings=Settings(timing=BRISK),
            messages=self.messages,
            agents={AGENT: SimpleNamespace(component=AGENT)},
            agent_of=lambda _: SimpleNamespace(component=AGENT),
            agent_id=lambda _: AGENT_ID,
            other_agents=lambda _: frozenset(),
            sidecar_boot_time=2.0,
            spire=SimpleNamespace(component=SERVER),
            components=(SERVER, AGENT, *sidecars),
            workloads=workloads,
            workload=workloads.__getitem__,
            entry_id=self.entry,
            provoked=self.provoked,
            watch=SimpleNamespace(timeline=timeline, errors=self.errors),
        )

    def _held(self, name: str, at: float) -> Issue | None:
        """The SVID that a sidecar has at `at`."""
        issues = self.issues[name]
        held = [issue for n, issue in enumerate(issues) if self.came(name, n) + 0.05 <= at]
        return held[-1] if held else None

    def _times(self, interval: float) -> list[float]:
        return [interval * n for n in range(1, int(self.end / interval))]

    def _look(self, name: str, source: Source, interval: float) -> None:
        for at in self._times(interval):
            if issue := self._held(name, at):
                self.looks.append(Look(at, source, name, issue.chain))

    def _ask(self, client: str, interval: float, status: int, note: str) -> None:
        for number, at in enumerate(self._times(interval)):
            issue = self._held(client, at)
            if issue is None or self._held("api", at) is None:
                continue
            tag = f"{client}-{number}"
            self.requests.append(Request(client, "api", tag, moment(at), status, note))
            if status == 200:
                told = f"Hash={issue.hash};URI={self.scenario.spiffe_id(client)}"
                self.seen.append(SeenRequest(tag, "/", told))

    def _tell_issue(self, name: str, number: int) -> None:
        own, issue, texts = self.scenario.spiffe_id(name), self.issues[name][number], self.messages
        facts = {"entry_id": self.entry(name), "spiffe_id": own}
        expiration = f"{issue.leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
        if number:
            before = self.issues[name][number - 1].leaf
            ended = f"{before.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
            self.log(AGENT, issue.at - 0.01, "info", texts.renewing, **facts, expires_at=ended)
        else:
            self.log(AGENT, issue.at - 0.01, "info", "Creating X509-SVID", **facts)
        self.log(SERVER, issue.at, "debug", texts.signed, **facts, expiration=expiration,
                 serial_num=str(issue.serial), caller_id=AGENT_ID)  # fmt: skip
        self.log(AGENT, issue.at + 0.01, "debug", texts.updated, entry=self.entry(name),
                 spiffe_id=own)  # fmt: skip
        pid = 100 + self.names.index(name)
        at = self.came(name, number)
        for secret, resource in ((SVID, own), (ROOTS, BUNDLE)):
            common = {"pid": pid, "method": "StreamSecrets"}
            asked = {**common, "resource_names": [resource]}
            nonce, version = self.nonce(name, secret, number), str(number + 1)
            if not number:
                self.log(AGENT, at, "debug", texts.sds_request, **asked, nonce="", version_info="")
            self.log(AGENT, at + 0.01, "debug", texts.sds_response, **common, nonce=nonce,
                     version_info=version, count=1)  # fmt: skip
            self.log(AGENT, at + 0.02, "debug", texts.sds_request, **asked, nonce=nonce,
                     version_info=version)  # fmt: skip
