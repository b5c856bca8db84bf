"""Every core requirement has a deployment that is wrong on purpose, and each is really wrong."""

from __future__ import annotations

import copy
import functools
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from svidproof.components.envoy import Envoy, rbac
from svidproof.components.program import Native
from svidproof.components.spiffe_helper import Helped
from svidproof.model.catalogue import parse
from svidproof.model.datafile import DataError, DataFile
from svidproof.model.manifests import data_root
from svidproof.model.scenario import load_scenario
from svidproof.model.settings import Settings
from svidproof.platforms.protocol import Attestation
from svidproof.probes.credentials import Authority
from svidproof.sabotage import (
    Expectation,
    Sabotage,
    UnknownSabotageError,
    all_sabotages,
    find,
    read,
)
from svidproof.sabotage.certificates import SignerFlaws, SvidFlaws, forge_svid
from svidproof.sabotage.deployment import FreezeAgent
from svidproof.sabotage.mechanism import Workload, mechanism, purpose, registered, schema
from svidproof.sabotage.policies import MISREADINGS, MisreadPolicy, RollOut
from svidproof.testbed.entries import Registration
from svidproof.testbed.hooks import Hooks
from svidproof.testbed.watch.timeline import spiffe_ids

if TYPE_CHECKING:
    from svidproof.platforms.protocol import Platform
    from svidproof.probes.credentials import Credential
    from svidproof.testbed.testbed import Testbed

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
        nowhere = cast("Any", None)
        unchanged = Hooks().registered
        testbed.registration = Registration(nowhere, self.scenario, nowhere, unchanged)
        self.testbed = cast("Testbed", testbed)

    def entries(self) -> list[dict[str, Any]]:
        """The registration entries."""
        return [self.entry(name) for name in self.scenario.workloads]

    def entry(self, name: str) -> dict[str, Any]:
        """One registration entry."""
        return self.testbed.registration.entry(
            name, (f"unix:path:/{name}",), "spiffe://example.org/agent"
        )

    def registered(self, hooks: Hooks) -> list[dict[str, Any]]:
        """What becomes of the entries that checks make while they run."""
        return [entry for name in LATER for entry in hooks.registered(self.entry(name))]

    def halted(self, hooks: Hooks) -> bool:
        """Whether something is stopped when one leaves who comes while checks run."""
        for name in LATER:
            hooks.extra_workload_left(self.testbed, name)
        return any(what == "pause" for what, _ in self.paper.told)

    def policies(self, hooks: Hooks) -> set[str]:
        """The sidecars some of whose policies a sabotage changes."""
        principal = rbac.exactly("spiffe://example.org/somebody")
        kinds = [rbac.allow(principal), rbac.deny(principal), rbac.shadow(principal)]
        return {
            name
            for name in self.scenario.workloads
            for rules in (*kinds, rbac.NONE)
            if hooks.rules(name, rules) != rules
        }

    def changed(self, hooks: Hooks) -> set[str]:
        """The sidecars whose configuration a sabotage changes."""
        sound = sound_configurations(self.scenario.name)
        wrong = copy.deepcopy(sound)
        for name, configuration in wrong.items():
            hooks.sidecar(self.testbed, name, configuration)
        return {name for name in sound if sound[name] != wrong[name]}

    def programs(self, hooks: Hooks) -> set[str]:
        """The programs that a sabotage tells something else."""
        sound = sound_programs(self.scenario.name)
        wrong = copy.deepcopy(sound)
        for name, configuration in wrong.items():
            hooks.program(name, configuration)
        return {name for name in sound if sound[name] != wrong[name]}

    def helped(self, hooks: Hooks) -> set[str]:
        """The spiffe-helpers that a sabotage tells something else, in a form that they read."""
        sound = sound_helped(self.scenario.name)
        wrong = copy.deepcopy(sound)
        for name, told in wrong.items():
            hooks.helper(self.testbed, name, told)
            assert Helped.text(told)
        return {name for name in sound if sound[name] != wrong[name]}


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Bench:
    """A testbed on paper, of the scenario that the test's sabotage breaks."""
    callspec = getattr(request.node, "callspec", None)
    name = callspec.params.get("name") if callspec else None
    return Bench(find(name).scenario if name else "api")


def catalogue_ids(level: str) -> set[str]:
    """The ids of a level in the catalogue."""
    text = (data_root() / "suites" / "catalogue.toml").read_text()
    return {r.id for r in parse(text).requirements if level in (r.level, "any")}


def test_every_core_requirement_has_a_sabotage() -> None:
    """Each core requirement is made to fail by at least one wrong deployment."""
    sabotaged = {i for broken in all_sabotages() for i in broken.requirements}

    assert catalogue_ids("core") - sabotaged == set()


def test_unknown_name_is_one_line_with_the_nearest() -> None:
    """An unknown sabotage is one line with the names that are like it."""
    with pytest.raises(UnknownSabotageError) as raised:
        find("accepts-anyon")

    assert str(raised.value).startswith("unknown sabotage accepts-anyon: did you mean accepts-any")
    assert "\n" not in str(raised.value)


@each_sabotage
def test_no_expectation_is_met_by_anything(name: str) -> None:
    """An expectation that any failure meets proves nothing."""
    expected = [each for ways in find(name).expects.values() for each in ways]

    assert expected
    assert not [(e, r) for e in expected for r in UNRELATED if re.search(e.match, r)]


def names_of(hooks: Hooks) -> set[str]:
    """The workloads that a mechanism names."""
    return {str(getattr(hooks, key)) for key in ("workload", "also") if hasattr(hooks, key)}


@each_sabotage
def test_sabotage_makes_the_deployment_wrong(name: str, bench: Bench) -> None:
    """Each sabotage changes something that is deployed, and only at the workloads that it names."""
    broken = find(name)
    hooks = broken.hooks.on(broken.scenario)
    named = {place for each in broken.mechanisms.values() for place in names_of(each)}

    sidecars, policies = bench.changed(hooks), bench.policies(hooks)
    programs, helped = bench.programs(hooks), bench.helped(hooks)

    assert sidecars | policies | programs | helped <= named
    first = hooks.entries(bench.testbed, bench.entries()) != bench.entries()
    running = {"freeze_agent", "roll_out", "stray_process", "rival_controller", "driver_stays_away"}
    wrong = [
        bool(sidecars),
        bool(policies),
        bool(programs),
        bool(helped),
        first or bench.registered(hooks) != [bench.entry(name) for name in LATER],
        hooks.attestation(bench.testbed, SOUND) != SOUND,
        hooks.settings(Settings()) != Settings(),
        hooks.extra_workload({"volume": "csi"}) != {"volume": "csi"},
        hooks.identities(IDENTITY) != [IDENTITY],
        bench.halted(hooks),
        bool(running & {*broken.mechanisms}),
        hooks.scenario(bench.scenario) != bench.scenario,
    ]
    assert wrong.count(True) == 1


@each_sabotage
def test_other_scenarios_stay_as_they_are(name: str) -> None:
    """A sabotage changes its own scenario only."""
    assert type(find(name).hooks.on("another")) is Hooks


@each_sabotage
def test_sound_entries_stay_as_they_are(name: str, bench: Bench) -> None:
    """A sabotage does not change what it was given, but gives back what is to be deployed."""
    hooks, given = find(name).hooks, bench.entries()
    before = copy.deepcopy(given)

    hooks.entries(bench.testbed, given)
    for entry in given:
        hooks.registered(entry)

    assert given == before


def test_second_entry_stands_beside_the_workloads_own(bench: Bench) -> None:
    """A second entry has the same ID as the workload's own, which comes first and stays."""
    own = bench.entry("leaver")

    first, second = find("entry-stays").hooks.registered(own)

    assert first == own
    assert second["spiffe_id"] == own["spiffe_id"]
    assert second != own


def test_second_entry_may_ask_for_less() -> None:
    """A second entry that asks for fewer selectors still is for the same process."""
    given = {
        "spiffe_id": "spiffe://example.org/ns/generator/sa/generator",
        "selectors": [{"type": "unix", "value": "path:/a"}, {"type": "unix", "value": "uid:1"}],
    }

    first, second = find("twin-of-the-deleted").hooks.registered(given)

    assert first == given
    assert second == {**given, "selectors": given["selectors"][:1]}


def test_plaintext_is_spoken_by_both() -> None:
    """A pair of sidecars without TLS between them has none at either end."""
    bench = Bench("front-proxy")

    changed = bench.changed(find("backend-in-plaintext").hooks)

    assert changed == {"backend", "proxy"}


def test_second_identity_stands_beside_the_first() -> None:
    """A second ClusterSPIFFEID has the same spec and another name, so that it stays."""
    first, second = find("second-identity-stays").hooks.identities(IDENTITY)

    assert first == IDENTITY
    assert second["spec"] == IDENTITY["spec"]
    assert second["metadata"] != IDENTITY["metadata"]


def test_attestation_is_changed_but_not_what_is_expected(bench: Bench) -> None:
    """Agents get certificates of their own, and are expected to attest as before."""
    broken = find("attests-by-certificate").hooks.attestation(bench.testbed, SOUND)

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


def forged(bench: Bench, **what: Any) -> Credential:  # noqa: ANN401  fields of SvidFlaws
    """An SVID that an issuer with a defect would have issued to api."""
    return forge_svid(bench.testbed, "api", SvidFlaws(**what))


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

    assert forged(bench, signer=SignerFlaws(foreign=True)).chain[1].issuer != root.subject


def test_secrets_are_put_where_the_sidecar_reads_them(bench: Bench) -> None:
    """A forged certificate is a file of its own workload, and the configuration names it."""
    hooks = find("pinned-certificates").hooks

    assert bench.changed(hooks) == {"api", "valid-api-client"}

    assert set(bench.paper.files) == {
        "api/secret-api.json",
        "valid-api-client/secret-valid-api-client.json",
    }


ID = "spiffe://example.org/somebody"
SOMEBODY = rbac.exactly(ID)
ALLOW, SHADOW = rbac.allow(SOMEBODY), rbac.shadow(SOMEBODY)
MISREAD = [
    pytest.param("enforced", SHADOW, {**SHADOW, **ALLOW}, id="shadow-enforced"),
    pytest.param("enforced", ALLOW, ALLOW, id="no-shadow"),
    pytest.param("prefixes", ALLOW, rbac.allow(rbac.below(ID)), id="prefix"),
    pytest.param("prefixes", rbac.NONE, rbac.NONE, id="no-principal"),
    pytest.param("validated", SHADOW, rbac.shadow(rbac.validated(ID)), id="validated"),
    pytest.param("turned-round", ALLOW, rbac.deny(SOMEBODY), id="turned-round"),
    pytest.param("turned-round", rbac.NONE, rbac.NONE, id="nothing-to-turn"),
    pytest.param("counted-elsewhere", rbac.NONE, rbac.NONE, id="nothing-to-count"),
    pytest.param("never-removed", rbac.NONE, rbac.NONE, id="nothing-to-keep"),
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
    [stays] = find("policies-stay").mechanisms.values()
    other = rbac.deny(SOMEBODY)
    fresh = replace(cast("MisreadPolicy", stays))

    made = [stays.rules("backend", rules) for rules in (ALLOW, rbac.NONE, other, rbac.NONE)]

    assert made == [ALLOW, ALLOW, other, other]
    assert fresh.rules("backend", rbac.NONE) == rbac.NONE


def test_policy_astray_is_written_at_another_workload(bench: Bench) -> None:
    """What belongs to one workload is also put where another one is."""
    hooks = RollOut(Workload("api"), writes=Workload("valid-api-client"))

    hooks.before_rollout(bench.testbed, "api")

    assert set(bench.paper.files) == {"valid-api-client/policy.json"}


def test_frozen_agent_goes_on_again(bench: Bench) -> None:
    """A frozen agent is let go on by itself after its time."""
    FreezeAgent(0.01).started(bench.testbed)

    assert bench.paper.told[0] == ("pause", "spire-agent")
    assert len(bench.paper.told) <= 2


LAX = """
[[sabotage]]
name = "lax"
title = "api accepts everybody"
needs = ["pause"]
expects.ONE-1 = { raises = "Accepted", match = "got HTTP 200" }
tls = { workload = "api", at = "inbound", set = { require_client_certificate = false } }
"""


def loaded(text: str) -> tuple[Sabotage, ...]:
    """The sabotages of one file."""
    return read([DataFile("lax.toml", text)], ["ONE-1", "ONE-2"], {"api": load_scenario("api")})


def test_sabotage_is_read_as_written() -> None:
    """What the file says is what the sabotage does."""
    [lax] = loaded(LAX)

    assert (lax.name, lax.scenario, lax.needs) == ("lax", "api", ("pause",))
    assert lax.expects == {"ONE-1": (Expectation("Accepted", "got HTTP 200"),)}
    assert [*lax.mechanisms] == ["tls"]


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        pytest.param("tls =", "tsl =", "lax.toml:7: unknown key tsl: did you mean tls", id="key"),
        pytest.param("at =", "att =", "lax.toml:7: unknown key att: there are workload, at, set",
                     id="key-of-mechanism"),
        pytest.param('at = "inbound"', "at = 1", "lax.toml:7: sabotage.tls.at must be text",
                     id="type"),
        pytest.param(', at = "inbound"', "", "lax.toml:7: sabotage.tls lacks at", id="lacks"),
        pytest.param('workload = "api"', 'workload = "ap"',
                     "lax.toml:7: there is no workload ap in scenario api: there are",
                     id="workload"),
        pytest.param("ONE-1", "ONE-3", "lax.toml:6: there is no requirement ONE-3: there are ONE-1",
                     id="requirement"),
        pytest.param('"pause"', '"paws"', "lax.toml:5: there is no capability paws: ",
                     id="capability"),
        pytest.param("needs =", 'scenario = "apy"\nneeds =',
                     "lax.toml:5: there is no scenario apy: there are api", id="scenario"),
        pytest.param("raises", "raise", "lax.toml:6: unknown key raise: there are raises, match",
                     id="expectation"),
        pytest.param("got HTTP 200", "(", "lax.toml:6: .*match is not a regular expression",
                     id="pattern"),
        pytest.param("got HTTP 200", ".*", "lax.toml:6: .*must not match an empty message",
                     id="anything"),
        pytest.param("tls =", 'entry = { workload = "api", set = { ttl = 1 } }\n#',
                     "lax.toml:7: .*an entry has no ttl: there are", id="entry"),
        pytest.param("tls =", 'forgetful_server = "yes"\n#',
                     "lax.toml:7: forgetful_server has no keys: write forgetful_server = true",
                     id="flag"),
        pytest.param("tls =", "#", "lax.toml:2: sabotage lax changes nothing", id="nothing"),
        pytest.param('[[sabotage]]\nname = "lax"', '[[sabotages]]\nname = "lax"',
                     "lax.toml:2: unknown key sabotages: there are sabotage", id="table"),
        pytest.param('title = "api', "title = api", "lax.toml:4: the file is not TOML", id="toml"),
    ],
)  # fmt: skip
def test_mistake_in_a_sabotage_is_one_line(old: str, new: str, complaint: str) -> None:
    """The line has the file, its line, what is wrong, and the nearest names."""
    assert LAX.count(old) == 1

    with pytest.raises(DataError, match=complaint) as raised:
        loaded(LAX.replace(old, new))

    assert "\n" not in str(raised.value)


def test_second_sabotage_of_a_name_is_refused() -> None:
    """Both lines are named."""
    complaint = r"^lax\.toml:10: sabotage lax is already defined at lax\.toml:2$"

    with pytest.raises(DataError, match=complaint):
        loaded(LAX + LAX)


def test_second_mechanism_of_a_name_is_refused() -> None:
    """A mechanism is known by its name."""
    with pytest.raises(ValueError, match="two mechanisms are named tls"):
        mechanism("tls")(Hooks)


def test_every_mechanism_says_what_it_changes_and_is_used() -> None:
    """Each has a docstring and a schema, and some sabotage uses it."""
    used = {name for broken in all_sabotages() for name in broken.mechanisms}

    assert used == {*registered()}
    for kind in registered().values():
        assert purpose(kind).endswith(".")
        assert all(schema(kind).values())
