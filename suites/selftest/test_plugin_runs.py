"""The plugin runs what was asked for, judges it honestly, and reports however it ends.

Nothing real is booted here: the testbed is a stand-in that can be told to break.
"""

import fnmatch
import json
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from svidproof.model.capabilities import Capability
from svidproof.model.errors import PlatformError
from svidproof.model.verdict import Result
from svidproof.platforms import registry
from svidproof.platforms.protocol import Part, SiteOptions
from svidproof.report import provenance, publish
from svidproof.run import resources, testbeds
from svidproof.supply import tools
from svidproof.supply.tools import Tool, ToolError, ToolUsageError
from svidproof.testbed.watch.attention import Attention

CATALOGUE = "".join(
    f'[[requirement]]\nid = "{name}"\ntitle = "{name} holds"\nlevel = "{level}"\n'
    f'profiles = ["core"]\nsource = ["test"]\n'
    for name, level in (("A-1", "core"), ("A-2", "core"), ("A-3", "extended"))
)
DEVIATION = """
[[deviation]]
id = "envoy-lax"
requirements = ["A-2"]
test = "test_two"
component = "envoy"
versions = ">=1.40"
raises = "Accepted"
reason = "Envoy is lax"
link = "https://example.org"
"""
CONFTEST = """
import pytest

@pytest.fixture(scope="session")
def api(testbeds):
    return testbeds.get("api")

@pytest.fixture(scope="session")
def rotations(api, progress):
    progress("waiting")
"""
CRASH = """
import threading

def crash(name):
    thread = threading.Thread(target=lambda: len(None, "oh"), name=name)
    thread.start()
    thread.join()
"""
GOOD = """
from svidproof import requirement

@requirement("A-1")
def test_one(api):
    "It is so."

@requirement("A-2", "A-3")
def test_two(api):
    pass
"""


@dataclass
class Beds:
    """The stand-ins of one test, and how they are to behave."""

    boots: list[str] = field(default_factory=list)
    closed: int = 0
    sites_closed: int = 0
    close_error: Exception | None = None
    broken: str | None = None
    dead: str | None = None
    resolved: int = 0
    tool_error: ToolError | None = None
    lacks: dict[Capability, str] = field(default_factory=dict)
    absent: dict[Capability, str] = field(default_factory=dict)
    found_lacking: dict[Capability, str] = field(default_factory=dict)
    wanted: frozenset[Capability] = frozenset()

    def testbed(self, _platform: object, scenario: Any, *_: Any, **__: Any) -> Any:  # noqa: ANN401
        """Make one; see testbed.Testbed."""

        def start() -> None:
            self.boots.append(scenario.name)
            if self.broken:
                raise PlatformError(self.broken)

        def assert_alive() -> None:
            if self.dead:
                raise PlatformError(f"died: {self.dead}")

        def close() -> None:
            self.closed += 1
            if self.close_error is not None:
                raise self.close_error

        timeline = SimpleNamespace(logs=list, sightings=list)
        return SimpleNamespace(
            start=start,
            assert_alive=assert_alive,
            close=close,
            kill=lambda name: setattr(self, "dead", name),
            watch=SimpleNamespace(catch_up=lambda: None, timeline=timeline, attention=Attention()),
            components=(),
            workloads={},
            helped={},
            lacks=self.found_lacking,
            spire=SimpleNamespace(component="spire-server"),
            platform=SimpleNamespace(exit_status=lambda _: 1),
        )

    def resolve(self, name: str, **_: Any) -> Tool:  # noqa: ANN401
        """Have every tool; see tools.resolve."""
        self.resolved += 1
        if self.tool_error is not None:
            raise self.tool_error
        version = "1.40.0" if name == "envoy" else "1.15.3"
        return Tool(name, version, Path("/bin/true"), "given", "a" * 64, "")


@pytest.fixture
def beds(monkeypatch: pytest.MonkeyPatch) -> Beds:
    """Put the stand-ins where the real things are."""
    made = Beds()

    class Site:
        """A site whose platform can do one thing beside what every platform can."""

        capabilities = frozenset({Capability.PAUSE, Capability.SOLE_IDENTITY})

        @staticmethod
        def tools(_options: object) -> tuple[str, ...]:
            """What runs there."""
            return tools.UNDER_TEST

        def __init__(self, found: dict[str, Tool], options: SiteOptions, _progress: object) -> None:
            """Take what a site takes."""
            self.lacks, self.absent, made.wanted = made.lacks, made.absent, options.wanted
            self.parts = [
                Part(t.name, t.version, t.source, t.sha256, t.note) for t in found.values()
            ]

        def open(self) -> None:
            """It is there."""

        def platform(self, _trust_domain: str) -> None:
            """Nobody asks what it is."""

        def close(self) -> None:
            """Once, whatever happens."""
            made.sites_closed += 1

    monkeypatch.setattr(testbeds, "Testbed", made.testbed)
    monkeypatch.setattr(tools, "resolve", made.resolve)
    monkeypatch.setattr(registry, "find", lambda _name: Site)
    return made


def one_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have only one testbed at a time."""
    monkeypatch.setattr(resources, "jobs", lambda *_: 1)


class Suite:
    """Throw-away suites, and what a run of them reported."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        """Begin with the fixtures and the catalogue."""
        self._pytester = pytester
        self.root = pytester.path / "suites"
        self.root.mkdir()
        self.write("conftest.py", CONFTEST)
        self.write("catalogue.toml", CATALOGUE)

    def write(self, name: str, text: str) -> None:
        """Write one file."""
        (self.root / name).parent.mkdir(exist_ok=True)
        (self.root / name).write_text(text)

    def run(self, *options: str) -> pytest.RunResult:
        """Check them."""
        words = [f"--svidproof-suites={self.root}", "--svidproof-report-dir=out"]
        words += ["--import-mode=importlib", "-p", "no:cacheprovider", "-p", "svidproof.run.plugin"]
        words += options
        path = [] if any(option.startswith("suites/") for option in options) else ["suites"]
        return self._pytester.runpytest_inprocess(*words, *path)

    @property
    def directory(self) -> Path:
        """Where the report is."""
        return self._pytester.path / "out"

    @property
    def report(self) -> dict[str, Any]:
        """The report."""
        content: dict[str, Any] = json.loads((self.directory / "report.json").read_text())
        return content

    @property
    def results(self) -> dict[str, str]:
        """The requirements' results."""
        return {r["id"]: r["result"] for r in self.report["requirements"]}

    @property
    def messages(self) -> list[str]:
        """What the checks said, each once."""
        entries = self.report["requirements"]
        return list(dict.fromkeys(c["message"] for r in entries for c in r["checks"]))


@pytest.fixture
def suite(pytester: pytest.Pytester, beds: Beds, monkeypatch: pytest.MonkeyPatch) -> Suite:
    """Suites on stand-ins, without the pytest plugins of this machine."""
    del beds
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    # By that name pytest would find the conftest.py of the suites that this test is one of.
    monkeypatch.delitem(sys.modules, "suites.conftest", raising=False)
    return Suite(pytester)


def test_good_run_is_conformant(suite: Suite, beds: Beds) -> None:
    """One boot for all checks; report, junit.xml with requirements, exit status 0."""
    suite.write("test_a.py", GOOD)

    result = suite.run()

    assert result.ret == 0
    assert suite.report["verdict"] == "conformant"
    assert suite.report["run"]["selection"] == "complete"
    assert suite.results == {"A-1": "pass", "A-2": "pass", "A-3": "pass"}
    assert suite.report["requirements"][0]["checks"][0]["claim"] == "It is so."
    assert suite.report["requirements"][0]["checks"][0]["id"] == "test_a.py::test_one"
    assert "boot api" in suite.report["measurements"]
    assert (beds.boots, beds.closed, beds.resolved) == (["api"], 1, 3)
    junit = (suite.directory / "junit.xml").read_text()
    assert '<property name="requirement" value="A-3" />' in junit
    assert not list(suite.directory.glob(".*")), "nothing unfinished is left"
    result.stdout.fnmatch_lines(["*A-1 holds*", "profile core*core 2/2*", "CONFORMANT: all 3*"])


@pytest.mark.parametrize(
    ("body", "result", "code", "message"),
    [
        pytest.param("assert api is None, 'it was\\nlong'", "fail", 1, "it was", id="assert"),
        pytest.param("pytest.fail('no')", "fail", 1, "no", id="pytest-fail"),
        pytest.param("with pytest.raises(OSError): pass", "fail", 1, "DID NOT RAISE", id="raises"),
        pytest.param(
            "read_json('{}', 'it')['x']",
            "fail",
            1,
            "'x' is missing; there is nothing",
            id="answer-of-another-form",
        ),
        pytest.param("{}['x']", "error", 3, "KeyError: 'x'", id="mistake-of-the-suite"),
        pytest.param("int('x')", "error", 3, "ValueError: invalid", id="other-mistake"),
        pytest.param(
            "crash('stray')",
            "error",
            3,
            "thread 'stray' failed: TypeError",
            id="thread-of-the-suite",
        ),
        pytest.param(
            "crash('stray')\n    assert 0",
            "error",
            3,
            "thread 'stray' failed",
            id="thread-of-the-suite-before-a-failure",
        ),
        pytest.param("open('/nowhere')", "error", 3, "FileNotFoundError", id="environment"),
        pytest.param("pytest.importorskip('nowhere')", "missing", 3, "nowhere", id="absent"),
        pytest.param("api.kill('api.envoy')", "fail", 1, "died: api.envoy", id="kills"),
    ],
)
def test_what_a_check_raises_decides(
    suite: Suite, body: str, result: str, code: int, message: str
) -> None:
    """A broken claim fails; what could not be looked at is inconclusive, never green."""
    head = f"import pytest\nfrom svidproof.model.errors.attribution import read_json\n{CRASH}{GOOD}"
    check = f"{head}\n@requirement('A-1')\ndef test_three(api):\n    {body}\n"
    suite.write("test_a.py", check)

    assert suite.run().ret == code
    assert suite.results["A-1"] == result
    assert any(message in text for text in suite.messages), suite.messages


def test_fixture_that_asserts_is_part_of_the_claim(suite: Suite) -> None:
    """A control that fails before, or an undo that fails after, fails the check."""
    suite.write(
        "test_a.py",
        GOOD.replace("(api):\n    pass", "(api, control):\n    pass")
        + "\nimport pytest\n@pytest.fixture\ndef control():\n"
        "    yield\n    assert False, 'not undone'\n",
    )

    assert suite.run().ret == 1
    assert suite.results == {"A-1": "pass", "A-2": "fail", "A-3": "fail"}
    assert "not undone" in suite.messages


def test_component_that_dies_is_told_once(suite: Suite) -> None:
    """The check that ran then is failed; those after it are not judged at all."""
    suite.write("test_a.py", GOOD.replace('"It is so."', "api.kill('api.envoy')"))

    assert suite.run().ret == 1
    assert suite.results == {"A-1": "fail", "A-2": "error", "A-3": "error"}
    assert suite.messages == [
        "died: api.envoy (testbed api)",
        "testbed api is broken since test_a.py::test_one: died: api.envoy",
    ]


def test_boot_that_fails_is_tried_once(suite: Suite, beds: Beds) -> None:
    """Every check that needs it is an error with the same one line; exit status 3."""
    beds.broken = "spire-server exited with status 1"
    suite.write("test_a.py", GOOD)

    assert suite.run().ret == 3
    assert beds.boots == ["api"]
    assert set(suite.results.values()) == {"error"}
    assert suite.messages == ["testbed api did not boot: spire-server exited with status 1"]
    assert suite.report["reason"].endswith("did not boot: spire-server exited with status 1")


def test_tools_that_cannot_be_had_are_inconclusive(suite: Suite, beds: Beds) -> None:
    """One line, asked once, and nothing is booted."""
    beds.tool_error = ToolError("envoy cannot be had: no network")
    suite.write("test_a.py", GOOD)

    assert suite.run().ret == 3
    assert suite.messages == ["envoy cannot be had: no network"]
    assert (beds.resolved, beds.boots) == (1, [])


@pytest.mark.parametrize(
    ("two", "results", "code"),
    [
        pytest.param("raise Accepted('let in')", "known-deviation", 0, id="as-known"),
        pytest.param("pass", "fail", 1, id="unexpected-pass"),
        pytest.param("assert False, 'other'", "fail", 1, id="fails-otherwise"),
        pytest.param("raise OSError('x')", "error", 3, id="not-judged"),
    ],
)
def test_known_deviation_must_show_as_known(
    suite: Suite, two: str, results: str, code: int
) -> None:
    """Neither pass nor fail, unless it does not show, or shows otherwise."""
    suite.write("catalogue.toml", CATALOGUE + DEVIATION)
    suite.write(
        "test_a.py",
        GOOD.replace("pass", two) + "\nclass Accepted(AssertionError):\n    pass\n",
    )

    assert suite.run().ret == code
    assert suite.results["A-2"] == results
    assert bool(suite.report["deviations"]) is (results == "known-deviation")


def test_deviation_of_no_check_is_refused(suite: Suite, beds: Beds) -> None:
    """A catalogue that excuses what is not checked is out of date."""
    suite.write("catalogue.toml", CATALOGUE + DEVIATION.replace("test_two", "test_gone"))
    suite.write("test_a.py", GOOD)

    result = suite.run()

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: deviation envoy-lax covers no check of A-2: see its*"])
    assert not suite.directory.exists(), "no report, and nothing else"
    assert beds.sites_closed == 1


def test_unsupported_is_decided_at_collection(suite: Suite, beds: Beds) -> None:
    """A core requirement that is partly unsupported is no success; nothing was booted for it."""
    suite.write(
        "test_a.py",
        "import pytest\nfrom svidproof import Capability, needs, requirement\n"
        "@pytest.fixture(scope='session')\ndef front_proxy(testbeds):\n"
        "    return testbeds.get('front-proxy')\n"
        "@needs(Capability.PAUSE)\n@requirement('A-1')\ndef test_one(api): pass\n"
        "@needs(Capability.CSI, Capability.PAUSE)\n@requirement('A-1', 'A-2')\n"
        "def test_two(front_proxy): pass\n",
    )

    assert suite.run().ret == 3
    assert suite.results == {"A-1": "unsupported", "A-2": "unsupported", "A-3": "not-run"}
    assert "not supported on platform local: needs csi" in suite.messages
    assert beds.boots == ["api"]


def test_what_a_site_lacks_is_unsupported_with_its_reason(suite: Suite, beds: Beds) -> None:
    """It is known only once the site is open; the other checks are made."""
    beds.lacks = {Capability.PAUSE: "somebody else holds it"}
    suite.write(
        "test_a.py",
        "from svidproof import Capability, needs, requirement\n"
        "@needs(Capability.PAUSE)\n@requirement('A-1')\ndef test_one(): assert False\n"
        "@requirement('A-2')\ndef test_two(api): pass\n",
    )

    assert suite.run().ret == 3
    assert suite.results == {"A-1": "unsupported", "A-2": "pass", "A-3": "not-run"}
    assert "no pause here: somebody else holds it" in suite.messages


def test_what_a_testbed_lacks_is_unsupported_with_its_reason(suite: Suite, beds: Beds) -> None:
    """It is known only once the testbed is up; a check that needs nothing of it is made."""
    beds.found_lacking = {Capability.PAUSE: "somebody else holds it"}
    suite.write(
        "test_a.py",
        "from svidproof import Capability, needs, requirement\n"
        "@needs(Capability.PAUSE)\n@requirement('A-1')\ndef test_one(api): assert False\n"
        "@requirement('A-2')\ndef test_two(api): pass\n",
    )

    assert suite.run().ret == 3
    assert suite.results == {"A-1": "unsupported", "A-2": "pass", "A-3": "not-run"}
    assert "no pause here: somebody else holds it" in suite.messages
    assert not list((suite.directory / "artifacts").glob("*"))


def test_what_the_machine_has_not_got_is_missing(suite: Suite, beds: Beds) -> None:
    """It is told why; a check that needs nothing of it is made."""
    beds.absent = {Capability.PAUSE: "there is no such image"}
    suite.write(
        "test_a.py",
        "from svidproof import Capability, needs, requirement\n"
        "@needs(Capability.PAUSE)\n@requirement('A-1')\ndef test_one(): assert False\n"
        "@requirement('A-2')\ndef test_two(api): pass\n",
    )

    assert suite.run().ret == 3
    assert suite.results == {"A-1": "missing", "A-2": "pass", "A-3": "not-run"}
    assert "no pause here: there is no such image" in suite.messages


def test_only_what_selected_checks_need_is_wanted(suite: Suite, beds: Beds) -> None:
    """A site is told what the checks need that were asked for, and not what others would need."""
    suite.write(
        "test_a.py",
        "from svidproof import Capability, needs, requirement\n"
        "@needs(Capability.PAUSE)\n@requirement('A-1')\ndef test_one(): pass\n"
        "@requirement('A-2')\ndef test_two(): pass\n",
    )

    suite.run("--svidproof-requirement=A-2")
    without = beds.wanted
    suite.run("--svidproof-requirement=A-1")

    assert without == frozenset()
    assert beds.wanted == frozenset({Capability.PAUSE})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param("def test_a(): pass", "test_a.py::test_a proves nothing", id="no-requirement"),
        pytest.param(GOOD.replace("A-1", "A-9"), "*proves A-9, which is not in", id="unknown"),
    ],
)
def test_check_must_prove_something_known(suite: Suite, text: str, complaint: str) -> None:
    """Wrong suites are refused before anything runs."""
    suite.write("test_a.py", text)

    result = suite.run()

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {complaint}*"])


def test_report_names_its_subject_and_its_suites(suite: Suite) -> None:
    """As a gate asks for them: these suites are not svidproof's own."""
    suite.write("test_a.py", GOOD)

    suite.run("--svidproof-subject=commit 1a2b")

    assert suite.report["run"]["subject"] == "commit 1a2b"
    assert suite.report["suite"]["files_sha256"] == provenance.files_sha256(suite.root)
    assert suite.report["suite"]["files_sha256"] != provenance.files_sha256()


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("platform=moon", "unknown platform moon"),
        ("platform=docker", "unknown platform docker: there are local, "),
        ("profile=gold", "unknown profile gold: there are core, all"),
        ("requirement=A-9", "unknown requirement A-9: did you mean A-3? there are A-1,"),
        ("profile=", "--svidproof-profile is empty: give it a value"),
        ("platform=", "--svidproof-platform is empty: give it a value"),
        ("requirement=A-1,,A-2", "--requirement A-1,,A-2 has an empty part"),
        ("scenario=mars", "unknown scenario mars: there are"),
        ("timing=slow", "unknown timing slow: there are brisk, stock"),
        ("sabotage=none", "unknown sabotage none: "),
        ("subject=", "--svidproof-subject is empty: give it a value"),
        ("profile=core,", "--profile core, has an empty part"),
        ("tool=saw=/bin/true", "'saw' is not a tool*"),
        ("tool=envoy=/nowhere", "*/nowhere does not exist"),
    ],
)
def test_unknown_words_are_refused(suite: Suite, option: str, complaint: str) -> None:
    """One line, with what there is."""
    suite.write("test_a.py", GOOD)

    result = suite.run(f"--svidproof-{option}")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {complaint}*"])
    assert len([line for line in result.errlines if line]) == 1


def test_wrong_version_is_refused(suite: Suite, beds: Beds) -> None:
    """The tools themselves know theirs."""
    beds.tool_error = ToolUsageError("envoy 9 is not pinned")
    suite.write("test_a.py", GOOD)

    result = suite.run("--svidproof-envoy=9")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: envoy 9 is not pinned"])


def test_order_is_the_catalogues_and_marked_checks_come_last(suite: Suite) -> None:
    """What would disturb others runs after them, whatever its requirement's place is."""
    suite.write(
        "test_a.py",
        "from svidproof import requirement\n"
        "import pytest\n"
        "@pytest.mark.runs_last(2)\n@requirement('A-1')\ndef test_waits(api): pass\n"
        "@requirement('A-2')\ndef test_second(api): pass\n"
        "@pytest.mark.parametrize('x', [pytest.param(1, marks=requirement('A-1'), id='p')])\n"
        "@requirement('A-3')\ndef test_first(x, api): pass\n",
    )

    result = suite.run("-v")

    result.stdout.fnmatch_lines(["*test_first*", "*test_second*", "*test_waits*"])
    assert result.ret == 0
    assert [c["id"] for c in suite.report["requirements"][0]["checks"]] == [
        "test_a.py::test_first[p]",
        "test_a.py::test_waits",
    ]


@pytest.mark.parametrize(
    ("options", "selection", "asked"),
    [
        pytest.param((), "complete", ["A-1", "A-2", "A-3"], id="all"),
        pytest.param(("--svidproof-requirement=A-1",), "partial", ["A-1"], id="requirement"),
        pytest.param(("-k", "one"), "partial", ["A-1"], id="keyword"),
        pytest.param(("suites/test_a.py::test_two",), "partial", ["A-2", "A-3"], id="path"),
        pytest.param(("--maxfail=1",), "partial", ["A-1", "A-2", "A-3"], id="maxfail"),
        pytest.param(("--runxfail",), "partial", ["A-1", "A-2", "A-3"], id="runxfail"),
        pytest.param(("--assert=plain",), "partial", ["A-1", "A-2", "A-3"], id="assert"),
        pytest.param(("-o", "xfail_strict=true"), "partial", ["A-1", "A-2", "A-3"], id="ini"),
        pytest.param(("-p", "no:doctest"), "partial", ["A-1", "A-2", "A-3"], id="no-plugin"),
        pytest.param(("-v", "--tb=short", "-s"), "complete", ["A-1", "A-2", "A-3"], id="looks"),
    ],
)
def test_part_of_a_profile_is_told_as_such(
    suite: Suite, options: tuple[str, ...], selection: str, asked: list[str]
) -> None:
    """However it was narrowed down."""
    suite.write("test_a.py", GOOD)

    assert suite.run(*options).ret == 0
    assert suite.report["run"]["selection"] == selection
    assert list(suite.results) == asked
    assert suite.report["profiles"]["core"]["result"] == ("pass" if len(asked) == 3 else "partial")


def test_reason_why_a_run_is_partial_is_told(suite: Suite) -> None:
    """Options may come from elsewhere than the command line."""
    suite.write("test_a.py", GOOD)

    suite.run("--runxfail", "-p", "no:doctest")

    assert suite.report["run"]["warnings"] == [
        "partial, for pytest runs with --plugins, --runxfail"
    ]


def test_options_of_the_environment_make_a_run_partial(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PYTEST_ADDOPTS is a command line, too."""
    suite.write("test_a.py", GOOD)
    # Once for pytester, which takes the variable away, and once for the run that it starts.
    monkeypatch.setattr(pytest.Pytester, "inline_run", _with_options(pytest.Pytester.inline_run))

    assert suite.run().ret == 0
    assert suite.report["run"]["selection"] == "partial"
    assert suite.report["run"]["warnings"] == ["partial, for pytest runs with --runxfail"]


def _with_options(inline_run: Any) -> Any:  # noqa: ANN401  pytester's
    def run(self: pytest.Pytester, *args: Any, **named: Any) -> Any:  # noqa: ANN401
        os.environ["PYTEST_ADDOPTS"] = "--runxfail"
        try:
            return inline_run(self, *args, **named)
        finally:
            del os.environ["PYTEST_ADDOPTS"]

    return run


@pytest.mark.parametrize(
    ("file", "text"),
    [
        pytest.param("pytest.ini", "[pytest]\naddopts = -v\n", id="configuration"),
        pytest.param("conftest.py", "import os\n", id="the-checkouts-own-conftest"),
    ],
)
def test_files_beside_the_suites_are_noticed(suite: Suite, file: str, text: str) -> None:
    """Other configuration than the checkout's makes a run partial; its conftest.py is its own."""
    suite.write("test_a.py", GOOD)
    (suite.root.parent / file).write_text(text)

    assert suite.run().ret == 0
    found = suite.report["run"]["selection"], suite.report["run"]["warnings"]
    path = suite.root.parent / file
    assert found == (
        ("complete", [])
        if file == "conftest.py"
        else ("partial", [f"partial, for pytest runs with the configuration in {path}"])
    )


def test_foreign_plugin_is_named_and_makes_a_run_partial(
    suite: Suite, pytester: pytest.Pytester
) -> None:
    """It might do anything, so its run is no evidence for the whole."""
    pytester.syspathinsert()
    suite.write("test_a.py", GOOD)
    (suite.root.parent / "stranger.py").write_text("def pytest_runtest_logreport(): pass\n")

    assert suite.run("-p", "stranger").ret == 0
    assert suite.report["run"]["selection"] == "partial"
    assert suite.report["run"]["warnings"] == [
        "partial, for pytest runs with --plugins",
        "partial, for pytest loaded plugins that are not the suite's: stranger",
    ]


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        pytest.param(
            "def pytest_pyfunc_call(): return True", "pytest did not call it*", id="pyfunc-call"
        ),
        pytest.param("def pytest_runtest_protocol(): return True", "pytest did*", id="protocol"),
        pytest.param("def pytest_runtest_call(item): item.runtest = lambda: None", "pytest did*",
                     id="runtest"),
        pytest.param("def pytest_runtestloop(): return True", "", id="loop"),
    ],
)  # fmt: skip
def test_check_that_is_not_called_has_not_run(suite: Suite, hook: str, message: str) -> None:
    """Nothing was raised, and nothing is proven: also where a deviation was expected."""
    suite.write("catalogue.toml", CATALOGUE + DEVIATION)
    suite.write("test_a.py", GOOD)
    first = "@pytest.hookimpl(tryfirst=True)"
    suite.write("conftest.py", f"{CONFTEST}\n{first}\n{hook}\n")

    assert suite.run().ret == 3
    assert suite.report["verdict"] == "inconclusive"
    assert suite.results == {"A-1": "not-run", "A-2": "not-run", "A-3": "not-run"}
    assert len(suite.messages) == 1
    assert fnmatch.fnmatchcase(suite.messages[0], message)


def test_setup_plan_boots_and_proves_nothing(suite: Suite, beds: Beds) -> None:
    """Not even the tools are looked for."""
    suite.write("test_a.py", GOOD)

    assert suite.run("--setup-plan").ret == 3
    assert (beds.boots, beds.resolved) == ([], 0)
    assert suite.results == {"A-1": "not-run", "A-2": "not-run", "A-3": "not-run"}
    assert suite.report["reason"] == "pytest calls no check with --setup-only or --setup-plan"


def test_check_without_a_testbed_has_not_run(suite: Suite) -> None:
    """Without a component under test there is nothing that it could have shown."""
    suite.write("test_a.py", GOOD.replace("(api)", "()"))

    assert suite.run().ret == 3
    assert suite.messages == ["no testbed was booted, so it has checked nothing"]
    assert set(suite.results.values()) == {"not-run"}


@pytest.mark.parametrize(
    ("body", "code", "results"),
    [
        pytest.param("raise SystemExit(0)", 3, "error", id="system-exit"),
        pytest.param("pytest.exit('enough', returncode=0)", 3, "not-run", id="pytest-exit"),
        pytest.param("raise GeneratorExit", 3, "error", id="other-base-exception"),
    ],
)
def test_check_cannot_end_the_run_as_a_success(
    suite: Suite, body: str, code: int, results: str
) -> None:
    """Whatever it raises."""
    suite.write("test_a.py", f"import pytest\n{GOOD.replace('pass', body)}")

    assert suite.run().ret == code
    assert suite.results == {"A-1": "pass", "A-2": results, "A-3": results}


def test_requirement_without_a_check_is_not_run(suite: Suite) -> None:
    """A core requirement that nothing proves makes the whole run inconclusive."""
    suite.write("test_a.py", GOOD.replace('"A-2", ', ""))

    assert suite.run().ret == 3
    assert suite.results["A-2"] == "not-run"


def test_nothing_to_run_is_inconclusive(suite: Suite) -> None:
    """No check is not the same as no failure."""
    assert suite.run("--svidproof-requirement=A-1").ret == 3
    assert suite.report["verdict"] == "inconclusive"


def test_interrupted_run_still_reports(suite: Suite, beds: Beds) -> None:
    """The testbed is ended, what did not run is not-run, and the exit status is 3."""
    body = f"import signal; signal.raise_signal({int(signal.SIGINT)})"
    suite.write("test_a.py", GOOD.replace("pass", body))
    before = signal.getsignal(signal.SIGINT)

    result = suite.run()

    assert result.ret == 3
    assert (suite.report["verdict"], suite.report["reason"]) == ("inconclusive", "interrupted")
    assert suite.results == {"A-1": "pass", "A-2": "not-run", "A-3": "not-run"}
    assert beds.closed == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_suite_that_cannot_be_loaded_stops_the_run(suite: Suite, beds: Beds) -> None:
    """A module with an error might hold the check that would have failed."""
    suite.write("test_a.py", GOOD)
    suite.write("test_b.py", "import nowhere")

    assert suite.run().ret == 3
    assert "test_b.py cannot be loaded: ModuleNotFoundError" in suite.report["reason"]
    assert beds.boots == []
    assert (suite.directory / "artifacts" / "collection" / "traceback.txt").exists()


def test_checks_tell_what_they_saw_and_measured(suite: Suite) -> None:
    """Fixtures `saw` and `measure` put it into the report."""
    suite.write(
        "test_a.py",
        GOOD.replace("test_one(api):", "test_one(api, saw, measure):").replace(
            '"It is so."', "saw('three'); saw('more'); measure('lag', 0.25, 's')"
        ),
    )

    assert suite.run().ret == 0
    assert suite.messages[0] == "three; more"
    assert suite.report["measurements"]["lag"] == {
        "value": 0.25,
        "unit": "s",
        "requirement": "A-1",
    }


def test_with_one_job_one_scenario_comes_after_the_other(
    suite: Suite, beds: Beds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no check needs any more is ended before the next is booted."""
    suite.write(
        "test_a.py",
        "import pytest\nfrom svidproof import requirement\n\n"
        "@pytest.mark.runs_last\n"
        "@requirement('A-1')\ndef test_one(api, record_order):\n    pass\n\n"
        "@requirement('A-2')\ndef test_two(front_proxy, record_order):\n    pass\n\n"
        "@requirement('A-3')\ndef test_three(api, record_order):\n    pass\n\n"
        "@pytest.fixture(scope='session')\ndef front_proxy(testbeds):\n"
        "    return testbeds.get('front-proxy')\n\n"
        "@pytest.fixture\ndef record_order(request, testbeds):\n"
        "    print('RUNS', request.node.name, *testbeds.running)\n",
    )
    one_job(monkeypatch)

    result = suite.run("-s")

    runs = [line.partition("RUNS ")[2] for line in result.outlines if "RUNS " in line]
    assert runs == ["test_two front-proxy", "test_three api", "test_one api"]
    assert (beds.boots, beds.closed, result.ret) == (["front-proxy", "api"], 2, 0)


EXPERIMENTS = """
import pytest
from svidproof import experiment, requirement

@experiment("api", seconds=30)
def window(testbed, progress):
    progress("looking")
    return "seen"

@experiment("api", seconds=5, beside="faults", changes=True)
def fault(testbed, progress):
    FAULT

@experiment("api", seconds=5, beside="faults", changes=True)
def recovery(testbed, progress, fault):
    return f"{fault} and mended"

@requirement("A-1")
def test_window(window, api):
    assert window == "seen"

@requirement("A-2")
def test_fault(fault):
    assert fault == "broken"

@requirement("A-3")
def test_recovery(recovery):
    assert recovery == "broken and mended"
"""


@pytest.mark.parametrize("side_by_side", [True, False])
def test_experiments_give_their_records(
    suite: Suite, beds: Beds, monkeypatch: pytest.MonkeyPatch, *, side_by_side: bool
) -> None:
    """Each runs once, at its testbed: one of its own where there may be several, or the shared."""
    suite.write("test_a.py", EXPERIMENTS.replace("FAULT", "return 'broken'"))
    if not side_by_side:
        one_job(monkeypatch)

    assert suite.run().ret == 0

    assert set(suite.results.values()) == {"pass"}
    assert beds.boots == ["api"] * (2 if side_by_side else 1)
    assert beds.closed == len(beds.boots)
    assert {"worst stall", "worst lateness of the watch"} <= suite.report["measurements"].keys()


@pytest.mark.parametrize(
    ("raised", "result"), [("AssertionError", "fail"), ("RuntimeError", "error")]
)
def test_failed_experiment_concerns_its_checks_only(suite: Suite, raised: str, result: str) -> None:
    """Its checks, and those of what continues it, raise what it has raised; there is evidence."""
    suite.write("test_a.py", EXPERIMENTS.replace("FAULT", f"raise {raised}('it broke')"))

    suite.run()

    assert suite.results == {"A-1": "pass", "A-2": result, "A-3": result}
    assert [message for message in suite.messages if message]
    assert all("it broke" in message for message in suite.messages if message)
    traceback = suite.directory / "artifacts" / "experiment-fault" / "traceback.txt"
    assert "it broke" in traceback.read_text()


def test_ctrl_c_ends_experiments(suite: Suite, beds: Beds) -> None:
    """What waits in the background stops waiting, and its testbed is ended."""
    waits = (
        "from svidproof import Budget, NotYet, eventually\n"
        "    def never(): raise NotYet('it goes on')\n"
        "    eventually(never, Budget('what never comes', 60))"
    )
    text = EXPERIMENTS.replace("FAULT", waits).replace(
        'assert window == "seen"', "raise KeyboardInterrupt"
    )
    suite.write("test_a.py", text)
    began = time.monotonic()

    assert suite.run().ret == 3

    assert time.monotonic() - began < 30
    assert beds.closed == len(beds.boots) == 2
    assert set(suite.results.values()) == {"not-run"}


def test_jobs_that_cannot_be_had_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, with what there is."""
    monkeypatch.setattr(resources, "available_mb", lambda: 1200)

    assert resources.jobs(None, "local") == 2
    assert resources.jobs(None, "kind") == 1
    assert resources.jobs("2", "local") == 2
    for wanted, said in (("0", "from 1"), ("many", "from 1"), ("3", "room for 2 testbeds")):
        with pytest.raises(resources.JobsError, match=said):
            resources.jobs(wanted, "local")


def test_fresh_testbed_is_ended_with_its_check(suite: Suite, beds: Beds) -> None:
    """A check that spoils its testbed has one of its own."""
    suite.write(
        "test_a.py",
        "from svidproof import requirement\n@requirement('A-1', 'A-2')\n"
        "def test_one(fresh_testbed): fresh_testbed()\n",
    )

    assert suite.run().ret == 0
    assert (beds.boots, beds.closed) == (["api"], 1)


@pytest.mark.parametrize("fixture", ["fresh_testbed", "testbeds.get"])
def test_clean_up_that_fails_is_a_warning(suite: Suite, beds: Beds, fixture: str) -> None:
    """It says nothing of what was checked: the check keeps its result, and the verdict stands."""
    left = PlatformError("cannot remove /runs/b301316d: Directory not empty")
    beds.close_error = ExceptionGroup("clean-up failed", [left, OSError("no space")])
    suite.write(
        "test_a.py",
        "from svidproof import requirement\n@requirement('A-1', 'A-2')\n"
        f"def test_one(fresh_testbed, testbeds): {fixture}('api')\n",
    )

    assert suite.run().ret == 0

    assert beds.closed == 1
    assert suite.report["verdict"] == "conformant"
    assert suite.report["requirements"][0]["checks"][0]["outcome"] == "pass"
    assert suite.report["run"]["warnings"] == [
        "clean-up: cannot remove /runs/b301316d: Directory not empty",
        "clean-up: OSError: no space",
    ]


def test_clean_up_that_fails_hides_no_boot_error(suite: Suite, beds: Beds) -> None:
    """Why a testbed is not there is what its checks say."""
    beds.broken, beds.close_error = "no SPIRE", OSError("no space")
    suite.write(
        "test_a.py",
        "from svidproof import requirement\n@requirement('A-1', 'A-2')\n"
        "def test_one(fresh_testbed): fresh_testbed()\n",
    )

    assert suite.run().ret == 3

    assert "no SPIRE" in suite.report["run"]["environment"]
    assert "clean-up: OSError: no space" in suite.report["run"]["warnings"]


def test_failed_check_leaves_evidence(suite: Suite) -> None:
    """Its traceback, and the one command that runs it again."""
    suite.write("test_a.py", GOOD.replace('"It is so."', "assert False, 'not so'"))

    suite.run()

    folder = suite.directory / "artifacts" / "one"
    assert "not so" in (folder / "traceback.txt").read_text()
    assert (folder / "rerun.txt").read_text() == (
        "svidproof run --platform local --timing brisk --profile core -- "
        f"{suite.root}/test_a.py::test_one\n"
    )
    assert suite.report["requirements"][0]["checks"][0]["artifacts"] == "artifacts/one"


def test_own_terminal_shows_our_lines_only(suite: Suite) -> None:
    """A header, a line per requirement, and the verdict."""
    suite.write("test_a.py", GOOD)

    result = suite.run("--svidproof-own-terminal")

    lines = [line for line in result.outlines if line]
    assert result.ret == 0
    assert lines[0].startswith("svidproof ")
    assert "core 2/2" in lines[-4]
    assert lines[-2:] == ["out/report.json", "out/report.html"]
    assert all(Path(line).is_file() for line in lines[-2:])
    assert not any("passed" in line or "test session" in line for line in lines)


def test_selftests_are_left_out_unless_named(suite: Suite) -> None:
    """A conformance run is about the deployment, not about the suite."""
    suite.write("test_a.py", GOOD)
    suite.write("selftest/test_self.py", "def test_self(): pass")

    suite.run().assert_outcomes(passed=2)
    (suite.directory / "report.json").unlink()
    suite.run("suites/selftest").assert_outcomes(passed=1)
    assert not (suite.directory / "report.json").exists()


def test_other_runs_on_the_machine_are_left_alone(pytester: pytest.Pytester, beds: Beds) -> None:
    """Where svidproof is installed, other people's pytest works as before."""
    pytester.makepyfile("def test_x(): pass")

    result = pytester.runpytest_inprocess()

    result.assert_outcomes(passed=1)
    assert not list(pytester.path.glob("reports*"))
    assert beds.resolved == 0


def test_disk_full_at_the_end_is_one_line(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """No half-written report; exit status 3."""
    suite.write("test_a.py", GOOD)

    def full(*_: object) -> None:
        raise publish.PublishError("cannot write out/report.json: no space")

    monkeypatch.setattr(publish, "write", full)
    result = suite.run()

    assert result.ret == 3
    assert capfd.readouterr().err.endswith("svidproof: cannot write out/report.json: no space\n")
    assert not (suite.directory / "report.json").exists()


def test_results_are_those_of_the_schema() -> None:
    """The schema lists every result that there is."""
    definitions = publish.schema()["$defs"]

    assert set(definitions["result"]["enum"]) == {result.value for result in Result}
