"""Every core requirement has a deployment that is wrong on purpose, and each is really wrong."""

from __future__ import annotations

import copy
import functools
import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from svidproof import policy
from svidproof.catalogue import parse
from svidproof.components.envoy import Envoy
from svidproof.components.helper import Helped
from svidproof.components.program import Native
from svidproof.credentials import Authority
from svidproof.manifests import data_root
from svidproof.platforms.base import Attestation
from svidproof.registration import Registration
from svidproof.sabotage import Sabotage, all_sabotages, load_sabotage
from svidproof.sabotage.forging import forge_svid
from svidproof.sabotage.policies import MISREADINGS, roll_out
from svidproof.sabotage.sidecars import MECHANISMS
from svidproof.scenario import load_scenario
from svidproof.settings import BRISK
from svidproof.watch.timeline import spiffe_ids

if TYPE_CHECKING:
    from svidproof.platforms.base import Platform
    from svidproof.settings import Settings
    from svidproof.testbed import Testbed

# What a sabotage may break, beside a sidecar's configuration.
ELSEWHERE = {
    "program",
    "arguments",
    "helper",
    "attests_by_certificate",
    "entry",
    "extra_entry",
    "second_entry",
    "forgetful_server",
    "freeze_agent",
    "misread_policy",
    "policy",
    "roll_out",
    "stray_process",
    "identity",
    "second_identity",
    "rival_controller",
    "controller_stops_with",
    "driver_stays_away",
    "writable_volumes",
    "sync_interval",
    "agent_ttl",
    "agent_log_level",
    "server_log_level",
}
# How checks fail when something else is wrong: no sabotage may be content with these.
UNRELATED = [
    "",
    "assert False",
    "assert None == 1",
    "spire-agent exited with status 1; see its log",
    "Envoy ready: not within 20 s (asked 400 times); last seen: api.envoy admin /ready: HTTP 503",
    "KeyError: 'api'",
]
# The workloads that checks register while they run.
LATER = ["late", "inside", "mover", "leaver", "greeter", "csi-other-0", "manifest/workload/inward"]
IDENTITY = {"kind": "ClusterSPIFFEID", "metadata": {"name": "greeter"}, "spec": {"className": "x"}}
SOUND = Attestation(
    "SERVER {}", "AGENT {}", "WORKLOAD {}", {"spire-agent": "spiffe://x/1"}, "parent"
)
each_sabotage = pytest.mark.parametrize("name", [s.name for s in all_sabotages()])


class Paper:
    """A platform on which nothing runs: enough to render configurations, and to be told things."""

    def __init__(self) -> None:
        """Nothing was put yet."""
        self.files: dict[str, bytes] = {}
        self.told: list[tuple[str, str]] = []

    def host(self, place: str) -> str:
        """An address."""
        return f"host-of-{place}"

    bind_host = host
    local_host = host

    def private_endpoint(self, place: str, name: str) -> str:
        """A path."""
        return f"/{place}/{name}"

    def put(self, place: str, name: str, content: bytes, *, replaced: bool = False) -> str:  # noqa: ARG002
        """Keep a file."""
        self.files[f"{place}/{name}"] = content
        return f"/{place}/{name}"

    def path(self, place: str, name: str) -> str:
        """A path."""
        return f"/{place}/{name}"

    def executable(self, tool: str) -> str:
        """A path."""
        return f"/bin/{tool}"

    def run(self, place: str, tool: str, args: tuple[str, ...]) -> None:
        """Remember."""
        self.told.append((f"{place} {tool}", " ".join(args[-2:])))

    def selectors(self, place: str) -> tuple[str, ...]:
        """A selector."""
        return (f"unix:path:/{place}",)

    def pause(self, component: str) -> None:
        """Remember."""
        self.told.append(("pause", component))

    def resume(self, component: str) -> None:
        """Remember."""
        self.told.append(("resume", component))


@functools.cache
def sound_configurations(name: str) -> dict[str, dict[str, Any]]:
    """The configuration of each sidecar of a scenario."""
    scenario, platform = load_scenario(name), cast("Platform", Paper())
    return {
        name: Envoy(platform, scenario, spec).configuration("/agent.sock")
        for name, spec in scenario.workloads.items()
        if spec.kind == "sidecar"
    }


@functools.cache
def sound_programs(name: str) -> dict[str, dict[str, Any]]:
    """What each program of a scenario is told."""
    scenario, platform = load_scenario(name), cast("Platform", Paper())
    return {
        name: Native(platform, scenario, spec, "/agent.sock").configuration()
        for name, spec in scenario.workloads.items()
        if spec.kind == "program"
    }


@functools.cache
def sound_helped(name: str) -> dict[str, dict[str, Any]]:
    """What each spiffe-helper of a scenario is told."""
    scenario, platform = load_scenario(name), cast("Platform", Paper())
    return {
        name: Helped(platform, scenario, spec, "/agent.sock").configuration()
        for name, spec in scenario.workloads.items()
        if spec.kind == "helper"
    }


class Bench:
    """A testbed on paper."""

    def __init__(self, scenario: str) -> None:
        """A sound deployment."""
        self.scenario = load_scenario(scenario)
        self.paper = Paper()
        platform = cast("Platform", self.paper)
        testbed = SimpleNamespace(
            platform=platform,
            scenario=self.scenario,
            root=Authority.create("root", self.scenario.trust_domain),
            settings=SimpleNamespace(),
            agents={"spire-agent": SimpleNamespace(component="spire-agent")},
            prober=SimpleNamespace(workload_api=lambda: "unix:/nowhere"),
            controller=SimpleNamespace(component="spire-controller-manager"),
        )
        testbed.registration = Registration(cast("Any", None), self.scenario, cast("Any", None))
        self.testbed = cast("Testbed", testbed)

    def entries(self) -> list[dict[str, Any]]:
        """The registration entries."""
        return [self.entry(name) for name in self.scenario.workloads]

    def entry(self, name: str) -> dict[str, Any]:
        """One registration entry."""
        return self.testbed.registration.entry(
            name, (f"unix:path:/{name}",), "spiffe://example.org/agent"
        )

    def registered(self, broken: Sabotage) -> list[dict[str, Any]]:
        """What becomes of the entries that checks make while they run."""
        return [entry for name in LATER for entry in broken.registered(self.entry(name))]

    def halted(self, broken: Sabotage) -> bool:
        """Whether something is stopped when one leaves who comes while checks run."""
        for name in LATER:
            broken.left(self.testbed, name)
        return any(what == "pause" for what, _ in self.paper.told)

    def policies(self, broken: Sabotage) -> set[str]:
        """The sidecars some of whose policies a sabotage changes."""
        principal = policy.exactly("spiffe://example.org/somebody")
        kinds = [policy.allow(principal), policy.deny(principal), policy.shadow(principal)]
        return {
            name
            for name in self.scenario.workloads
            for rules in (*kinds, policy.NONE)
            if broken.policy(name, rules) != rules
        }

    def changed(self, broken: Sabotage) -> set[str]:
        """The sidecars whose configuration a sabotage changes."""
        sound = sound_configurations(self.scenario.name)
        wrong = copy.deepcopy(sound)
        for name, configuration in wrong.items():
            broken.envoy(self.testbed, name, configuration)
        return {name for name in sound if sound[name] != wrong[name]}

    def programs(self, broken: Sabotage) -> set[str]:
        """The programs that a sabotage tells something else."""
        sound = sound_programs(self.scenario.name)
        wrong = copy.deepcopy(sound)
        for name, configuration in wrong.items():
            broken.program(name, configuration)
        return {name for name in sound if sound[name] != wrong[name]}

    def helped(self, broken: Sabotage) -> set[str]:
        """The spiffe-helpers that a sabotage tells something else, in a form that they read."""
        sound = sound_helped(self.scenario.name)
        wrong = copy.deepcopy(sound)
        for name, told in wrong.items():
            broken.helper(self.testbed, name, told)
            assert Helped.text(told)
        return {name for name in sound if sound[name] != wrong[name]}


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Bench:
    """A testbed on paper, of the scenario that the test's sabotage breaks."""
    callspec = getattr(request.node, "callspec", None)
    name = callspec.params.get("name") if callspec else None
    return Bench(load_sabotage(name).scenario if name else "api")


def catalogue_ids(level: str) -> set[str]:
    """The ids of a level in the catalogue."""
    text = (data_root() / "suites" / "catalogue.toml").read_text()
    return {r.id for r in parse(text).requirements if level in (r.level, "any")}


def test_every_core_requirement_has_a_sabotage() -> None:
    """Each core requirement is made to fail by at least one wrong deployment."""
    sabotaged = {i for broken in all_sabotages() for i in broken.requirements}

    assert catalogue_ids("core") - sabotaged == set()


def test_names_are_unique() -> None:
    """A sabotage is known by its name."""
    names = [broken.name for broken in all_sabotages()]

    assert len(set(names)) == len(names)


def test_unknown_name_is_told_with_those_that_there_are() -> None:
    """An unknown sabotage is one line with the known names."""
    with pytest.raises(LookupError) as raised:
        load_sabotage("nonsense")

    message = str(raised.value)
    assert "no sabotage is called nonsense" in message
    assert "accepts-anyone" in message
    assert "\n" not in message


@each_sabotage
def test_sabotage_is_well_formed(name: str) -> None:
    """Each sabotage says what is wrong, breaks known things, and expects a reason that compiles."""
    broken = load_sabotage(name)

    assert broken.title
    assert set(broken.requirements) <= catalogue_ids("any")
    assert broken.requirements
    assert set(broken.breaks) <= {*ELSEWHERE, *MECHANISMS}
    assert broken.breaks
    met = [reason for reason in UNRELATED if re.search(broken.expects, reason)]
    assert not met, "an expectation that anything meets proves nothing"


@each_sabotage
def test_sabotage_makes_the_deployment_wrong(name: str, bench: Bench) -> None:
    """Each sabotage changes something that is deployed, and only at the workloads that it names."""
    broken = load_sabotage(name)
    named = {
        str(place)
        for what in broken.breaks.values()
        for place in (
            [what.get("workload"), what.get("also")] if isinstance(what, dict) else [what]
        )
    }

    sidecars, policies = bench.changed(broken), bench.policies(broken)
    programs, helped = bench.programs(broken), bench.helped(broken)

    assert sidecars | policies | programs | helped <= named
    first = broken.entries(bench.testbed, bench.entries()) != bench.entries()
    entries = first or bench.registered(broken) != [bench.entry(name) for name in LATER]
    attestation = broken.attestation(bench.testbed, SOUND) != SOUND
    settings = broken.settings(BRISK)
    intervals = settings.timing != BRISK
    logs = (settings.server_log_level, settings.agent_log_level) != ("DEBUG", "DEBUG")
    running = bool({"freeze_agent", "roll_out", "stray_process"} & set(broken.breaks))
    told = broken.scenario_deployed(bench.scenario) != bench.scenario
    wrong = [
        bool(sidecars),
        bool(policies),
        bool(programs),
        bool(helped),
        entries,
        attestation,
        intervals,
        logs,
        settings.agent_ttl is not None,
        settings.forgetful,
        settings.rival_controller,
        settings.driver_stays_away,
        settings.writable_volumes,
        broken.declared(IDENTITY) != [IDENTITY],
        bench.halted(broken),
        running,
        told,
    ]
    assert wrong.count(True) == 1
    if sidecars:
        assert set(broken.breaks) <= set(MECHANISMS)


@each_sabotage
def test_sound_entries_stay_as_they_are(name: str, bench: Bench) -> None:
    """A sabotage does not change what it was given, but gives back what is to be deployed."""
    given = bench.entries()
    before = copy.deepcopy(given)

    load_sabotage(name).entries(bench.testbed, given)
    for entry in given:
        load_sabotage(name).registered(entry)

    assert given == before


def test_second_entry_stands_beside_the_workloads_own(bench: Bench) -> None:
    """A second entry has the same ID as the workload's own, which comes first and stays."""
    own = bench.entry("leaver")

    first, second = load_sabotage("entry-stays").registered(own)

    assert first == own
    assert second["spiffe_id"] == own["spiffe_id"]
    assert second != own


def test_second_entry_may_ask_for_less() -> None:
    """A second entry that asks for fewer selectors still is for the same process."""
    given = {
        "spiffe_id": "spiffe://example.org/ns/generator/sa/generator",
        "selectors": [{"type": "unix", "value": "path:/a"}, {"type": "unix", "value": "uid:1"}],
    }

    first, second = load_sabotage("twin-of-the-deleted").registered(given)

    assert first == given
    assert second == {**given, "selectors": given["selectors"][:1]}


def test_plaintext_is_spoken_by_both() -> None:
    """A pair of sidecars without TLS between them has none at either end."""
    bench = Bench("front-proxy")

    changed = bench.changed(load_sabotage("backend-in-plaintext"))

    assert changed == {"backend", "proxy"}


def test_second_identity_stands_beside_the_first() -> None:
    """A second ClusterSPIFFEID has the same spec and another name, so that it stays."""
    first, second = load_sabotage("second-identity-stays").declared(IDENTITY)

    assert first == IDENTITY
    assert second["spec"] == IDENTITY["spec"]
    assert second["metadata"] != IDENTITY["metadata"]


def test_attestation_is_changed_but_not_what_is_expected(bench: Bench) -> None:
    """Agents get certificates of their own, and are expected to attest as before."""
    broken = load_sabotage("attests-by-certificate").attestation(bench.testbed, SOUND)

    assert "x509pop" in broken.server
    assert "/spire-agent/node.pem" in broken.agent
    assert set(bench.paper.files) == {
        "spire-server/nodes.pem",
        "spire-agent/node.pem",
        "spire-agent/node.key",
    }
    expected = ("workload", "agent_ids", "agent_selectors", "parent_id")
    assert [getattr(broken, name) for name in expected] == [
        getattr(SOUND, name) for name in expected
    ]


@each_sabotage
def test_sabotage_says_so_in_the_settings(name: str) -> None:
    """A testbed that is broken on purpose has the sabotage in its settings."""
    settings: Settings = load_sabotage(name).settings(BRISK)

    assert settings.sabotage == load_sabotage(name)


def forged(bench: Bench, **what: Any) -> Any:  # noqa: ANN401  keys as in the manifest
    """The leaf of an SVID that an issuer with a defect would have issued to api."""
    return forge_svid(bench.testbed, "api", what)


@pytest.mark.parametrize(
    ("what", "uris"),
    [
        pytest.param({}, ["spiffe://example.org/api"], id="own"),
        pytest.param({"uris": ["spiffe://example.org"]}, ["spiffe://example.org"], id="no-path"),
        pytest.param({"uris": ["spiffe://a/b", "spiffe://a/c"]}, ["spiffe://a/b", "spiffe://a/c"],
                     id="two"),
    ],
)  # fmt: skip
def test_forged_svid_has_the_ids_that_it_should(
    bench: Bench, what: dict[str, Any], uris: list[str]
) -> None:
    """A forged SVID names its workload, unless the sabotage says otherwise."""
    assert spiffe_ids(forged(bench, **what).leaf) == uris


def test_forged_chain_leads_to_the_root_unless_foreign(bench: Bench) -> None:
    """A forged SVID is below the testbed's own root: only what the sabotage names is wrong."""
    root = bench.testbed.root.certificate

    leaf, signer = forged(bench).chain
    leaf.verify_directly_issued_by(signer)
    signer.verify_directly_issued_by(root)

    assert forged(bench, signer={"foreign": True}).chain[1].issuer != root.subject


def test_secrets_are_put_where_the_sidecar_reads_them(bench: Bench) -> None:
    """A forged certificate is a file of its own workload, and the configuration names it."""
    broken = load_sabotage("pinned-certificates")

    assert bench.changed(broken) == {"api", "valid-api-client"}

    assert set(bench.paper.files) == {
        "api/secret-api.json",
        "valid-api-client/secret-valid-api-client.json",
    }


ID = "spiffe://example.org/somebody"
SOMEBODY = policy.exactly(ID)
ALLOW, SHADOW = policy.allow(SOMEBODY), policy.shadow(SOMEBODY)
MISREAD = [
    pytest.param("enforced", SHADOW, {**SHADOW, **ALLOW}, id="shadow-enforced"),
    pytest.param("enforced", ALLOW, ALLOW, id="no-shadow"),
    pytest.param("prefixes", ALLOW, policy.allow(policy.below(ID)), id="prefix"),
    pytest.param("prefixes", policy.NONE, policy.NONE, id="no-principal"),
    pytest.param("validated", SHADOW, policy.shadow(policy.validated(ID)), id="validated"),
    pytest.param("turned-round", ALLOW, policy.deny(SOMEBODY), id="turned-round"),
    pytest.param("turned-round", policy.NONE, policy.NONE, id="nothing-to-turn"),
    pytest.param("counted-elsewhere", policy.NONE, policy.NONE, id="nothing-to-count"),
    pytest.param("never-removed", policy.NONE, policy.NONE, id="nothing-to-keep"),
]


@pytest.mark.parametrize(("how", "rules", "expected"), MISREAD)
def test_policy_is_misread_as_it_says(
    how: str, rules: dict[str, Any], expected: dict[str, Any]
) -> None:
    """What is made of a policy is wrong in one way, and what it was made of stays."""
    before = copy.deepcopy(rules)

    assert MISREADINGS[how](rules, {}) == expected

    assert rules == before


def test_policy_that_is_never_removed_is_the_last_one() -> None:
    """A sabotage remembers the last policy with rules, and puts it in the place of none."""
    broken, other = load_sabotage("policies-stay"), policy.deny(SOMEBODY)

    made = [broken.policy("backend", rules) for rules in (ALLOW, policy.NONE, other, policy.NONE)]

    assert made == [ALLOW, ALLOW, other, other]
    assert load_sabotage("policies-stay").policy("backend", policy.NONE) == policy.NONE


def test_policy_astray_is_written_at_another_workload(bench: Bench) -> None:
    """What belongs to one workload is also put where another one is."""
    roll_out(bench.testbed, {"workload": "api", "writes": "valid-api-client"})

    assert set(bench.paper.files) == {"valid-api-client/policy.json"}


def test_frozen_agent_goes_on_again(bench: Bench) -> None:
    """A frozen agent is let go on by itself after its time."""
    broken = Sabotage("x", "x", (), "x", {"freeze_agent": 0.01})

    broken.started(bench.testbed)

    assert bench.paper.told[0] == ("pause", "spire-agent")
    assert len(bench.paper.told) <= 2
