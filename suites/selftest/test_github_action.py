"""action.yml and the workflows: the shell of each step is run as it stands, and both agree."""

import hashlib
import itertools
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from svidproof.cli.requirements import listing
from svidproof.model.manifests import data_root
from svidproof.report import build, publish
from svidproof.report.gate.expectation import parse_matrices

from . import wholes

ROOT = data_root()
WORKFLOWS = ROOT / ".github" / "workflows"
LOCK = ROOT / ".github" / "requirements.txt"
EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
PIN = re.compile(r"uses: ([\w./-]+)@([0-9a-f]{40}) # (v\d+\.\d+\.\d+)")
INPUTS = {
    "inputs.platform": "local",
    "inputs.profile": "core",
    "inputs.spire": "",
    "inputs.envoy": "",
    "inputs.kubernetes": "",
    "inputs.args": "",
}


@pytest.fixture(autouse=True)
def _checkout() -> None:
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("what GitHub reads is in a checkout only")  # noqa: TID251  no check


def read(path: Path) -> dict[str, Any]:
    """A file of YAML; its key `on` stays text."""
    content: dict[str, Any] = yaml.load(path.read_text("utf-8"), yaml.BaseLoader)  # noqa: S506
    return content


@dataclass(frozen=True)
class Ended:
    """What a step left behind."""

    code: int
    outputs: dict[str, str]
    summary: str
    log: str


def outputs_of(text: str) -> dict[str, str]:
    """What a step wrote to GITHUB_OUTPUT: values of one line, and of several up to their end."""
    outputs: dict[str, str] = {}
    lines = text.splitlines()
    while lines:
        name, several, end = lines[0].partition("<<")
        if several:
            last = lines.index(end, 1)
            outputs[name] = "\n".join(lines[1:last])
            del lines[: last + 1]
        else:
            name, _, outputs[name] = lines.pop(0).partition("=")
    return outputs


class Runner:
    """Runs steps of action.yml as GitHub's runner does, in a directory of its own."""

    def __init__(self, home: Path) -> None:
        """Use `home`, which is empty."""
        self.home = home
        self.action = ROOT
        self.steps = {s["id"]: s for s in read(ROOT / "action.yml")["runs"]["steps"] if "id" in s}
        (home / "temp").mkdir()

    def run(self, name: str, context: Mapping[str, str]) -> Ended:
        """Run one step; `context` says what each expression in its `env` comes to."""
        step, files = self.steps[name], {}
        for file in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"):
            files[file] = self.home / file
            files[file].write_text("")
        script = self.home / f"{name}.sh"
        script.write_text(step["run"])
        done = subprocess.run(
            ["/bin/bash", "--noprofile", "--norc", "-eo", "pipefail", script],
            env={
                **os.environ,
                **{key: str(path) for key, path in files.items()},
                "RUNNER_TEMP": str(self.home / "temp"),
                "GITHUB_ACTION_PATH": str(self.action),
                **{
                    key: EXPRESSION.sub(lambda m: context[m[1]], value)
                    for key, value in step["env"].items()
                },
            },
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        outputs = outputs_of(files["GITHUB_OUTPUT"].read_text())
        summary = files["GITHUB_STEP_SUMMARY"].read_text()
        return Ended(done.returncode, outputs, summary, done.stdout)


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    """A runner of GitHub's, as far as steps can tell."""
    home = tmp_path / "a runner"
    home.mkdir()
    return Runner(home)


@pytest.fixture
def installed(runner: Runner) -> dict[str, str]:
    """The inputs, and what the first step leaves: this svidproof, and a place for the report."""
    report = runner.home / "temp" / "report"
    report.mkdir()
    return {
        **INPUTS,
        "steps.install.outputs.command": str(Path(sys.executable).with_name("svidproof")),
        "steps.install.outputs.report": str(report),
    }


BACKEND = ("hatchling", "packaging", "pathspec", "pluggy", "trove-classifiers")


def locked() -> dict[str, list[str]]:
    """The lines of each requirement in the lock, by name; some have one for each Python."""
    found: dict[str, list[str]] = {}
    for entry in re.split(r"(?m)^(?=[a-z])", LOCK.read_text())[1:]:
        found.setdefault(entry.partition("==")[0], []).append(entry)
    return found


def checkout_with_lock_of(directory: Path, *names: str) -> Path:
    """The checkout, with a lock of these packages only."""
    directory.mkdir()
    for path in ROOT.iterdir():
        if path.name not in (".github", ".git", ".venv", "reports"):
            (directory / path.name).symlink_to(path)
    (directory / "reports").symlink_to(ROOT / "reports")
    (directory / ".github").mkdir()
    entries = locked()
    (directory / ".github" / "requirements.txt").write_text(
        "".join(entry for name in names for entry in entries[name])
    )
    return directory


def test_install_makes_an_environment_of_its_own(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the lock and the checkout, with a key for what is asked for and a name of one line."""
    # What svidproof stands on takes a minute, and is installed like what builds it.
    action = checkout_with_lock_of(runner.home / "action", *BACKEND)
    monkeypatch.setattr(runner, "action", action)
    (name,) = EXPRESSION.findall(runner.steps["install"]["env"]["NAME"])

    def install(platform: str) -> Ended:
        context = {**INPUTS, "inputs.platform": platform, name: "a job\ncommand=/bin/false"}
        ended = runner.run("install", context)
        assert ended.code == 0, ended.log
        return ended

    local, kind = install("local"), install("kind")

    home = runner.home / "temp" / "svidproof"
    assert local.outputs["command"] == f"{home}/bin/svidproof"
    assert Path(local.outputs["command"]).is_file()
    assert Path(local.outputs["report"]).is_dir()
    assert local.outputs["report"] != kind.outputs["report"]
    assert local.outputs["name"] == "a job command=/bin/false"
    assert len(local.outputs["key"]) == 64
    assert local.outputs["key"] != kind.outputs["key"]


def test_install_refuses_what_is_not_in_the_lock(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file with another hash is not installed."""
    action = checkout_with_lock_of(runner.home / "action", "pluggy")
    monkeypatch.setattr(runner, "action", action)
    lock = action / ".github" / "requirements.txt"
    (name,) = EXPRESSION.findall(runner.steps["install"]["env"]["NAME"])
    lock.write_text(re.sub("sha256:[0-9a-f]{8}", "sha256:00000000", lock.read_text()))

    ended = runner.run("install", {**INPUTS, name: "job"})

    assert ended.code != 0
    assert "DO NOT MATCH THE HASHES" in ended.log


def test_lock_holds_what_the_project_asks_for() -> None:
    """Each dependency, and what builds the project, is locked within its range and by hash."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    wanted += project["project"]["optional-dependencies"]["kubernetes"]
    entries = locked()

    assert (ROOT / ".github" / "requirements.in").read_text().splitlines()[1:] == project[
        "build-system"
    ]["requires"]
    for requirement in map(Requirement, wanted):
        versions = [
            re.split(r"[\s;\\]", entry.partition("==")[2], maxsplit=1)[0]
            for entry in entries[requirement.name]
        ]
        assert all(requirement.specifier.contains(version) for version in versions)
    for name, texts in entries.items():
        assert all("--hash=sha256:" in text for text in texts), name
    assert "://" not in LOCK.read_text(), "the lock names no index of its own"


def test_tools_are_kept_before_anything_under_test_runs() -> None:
    """The cache that later jobs use is saved before the run, and nothing signs in its job."""
    action = read(ROOT / "action.yml")
    steps = action["runs"]["steps"]
    names = [step["name"] for step in steps]
    saved = [step["name"] for step in steps if "cache/save" in step.get("uses", "")]

    assert saved == ["Keep tools"]
    assert names.index("Get tools") < names.index("Keep tools") < names.index("Run")
    assert not any("attest" in step.get("uses", "") for step in steps)
    assert "attest" not in action["inputs"]


def test_tools_are_those_of_the_run(runner: Runner, installed: dict[str, str]) -> None:
    """What cannot be had is the run's to tell; then nothing is kept."""
    asked = {**installed, "inputs.envoy": "0.0.1", "inputs.platform": "local"}

    ended = runner.run("get", asked)

    assert (ended.code, ended.outputs) == (0, {}), ended.log
    assert "0.0.1" in ended.log


def test_run_passes_its_inputs_on_and_keeps_the_exit_code(
    runner: Runner, installed: dict[str, str]
) -> None:
    """Here 2: svidproof itself says what is wrong."""
    ended = runner.run("run", {**installed, "inputs.profile": "core,gold"})

    assert (ended.code, ended.outputs) == (2, {"exit-code": "2"})
    assert "svidproof: unknown profile gold: there are core" in ended.log


@pytest.mark.parametrize("place", ["profile", "platform", "args", "spire"])
def test_inputs_are_words_and_no_shell(
    runner: Runner, installed: dict[str, str], place: str
) -> None:
    """Whoever writes an input cannot run anything."""
    hostile = '$(touch pwned)`touch pwned`"; touch pwned; echo "* \'\n--sabotage=none; touch pwned'
    others = {"inputs.profile": "gold"} if place != "profile" else {}

    ended = runner.run("run", {**installed, **others, f"inputs.{place}": hostile})

    assert ended.code == 2, ended.log
    assert ended.outputs == {"exit-code": "2"}
    assert not list(runner.home.rglob("pwned"))


def test_each_line_of_args_is_one_word(runner: Runner, installed: dict[str, str]) -> None:
    """With blanks in it; empty lines are none."""
    args = "--timing=stock\n\n--requirement=NO SUCH-1\n"

    ended = runner.run("run", {**installed, "inputs.args": args})

    assert "unknown requirement NO SUCH-1: " in ended.log


def test_summary_is_the_reports(
    runner: Runner, installed: dict[str, str], report: dict[str, Any]
) -> None:
    """And says where the report is, for what comes next."""
    directory = Path(installed["steps.install.outputs.report"])
    publish.publish(report, directory)

    ended = runner.run("summary", {**installed, "steps.run.outputs.exit-code": "0"})

    assert (ended.code, ended.outputs) == (0, {"report": f"{directory}/report.json"})
    assert ended.summary.startswith("### svidproof: conformant\n")
    assert "| **ONE-1** It holds | ✅ pass |" in ended.summary


@pytest.mark.parametrize(("code", "told"), [("2", "exit code 2"), ("", "exit code unknown")])
def test_summary_of_no_report_says_so(
    runner: Runner, installed: dict[str, str], code: str, told: str
) -> None:
    """A job without a report is no silent one."""
    ended = runner.run("summary", {**installed, "steps.run.outputs.exit-code": code})

    assert (ended.code, ended.outputs) == (0, {})
    assert ended.summary.startswith("### svidproof: no report\n")
    assert told in ended.summary


def artifact(home: Path, job: str) -> None:
    """Put a report of everything in profile core where a job's artifact is downloaded to."""
    directory = home / "reports" / job
    directory.mkdir(parents=True)
    publish.publish(build.build(wholes.sound(listing.by_requirement()), wholes.REAL), directory)


def test_verify_judges_what_was_downloaded(runner: Runner, installed: dict[str, str]) -> None:
    """Its verdict is the step's, its table the job's summary; a job that did not tell is missed."""
    artifact(runner.home, "job-0")
    context = {**installed, "inputs.verify": "reports"}
    age, matrix = "--max-age=1h", "--matrix=envoy=1.40.0"

    good = runner.run("verify", {**context, "inputs.args": f"{age}\n{matrix}"})
    bad = runner.run("verify", {**context, "inputs.args": f"{age}\n{matrix}/1.39.3"})
    nothing = runner.run("verify", {**context, "inputs.verify": "--help"})

    report = runner.home / "reports" / "job-0" / "report.json"
    sha256 = hashlib.sha256(report.read_bytes()).hexdigest()
    accepted = f"{sha256}  reports/job-0/report.json"
    assert (good.code, good.outputs) == (0, {"exit-code": "0", "accepted": accepted}), good.log
    assert good.summary.startswith("### svidproof: release accepted\n")
    assert "| reports/job-0 | local | 1.15.3 | 1.40.0 | core: pass | accepted |" in good.summary
    assert good.log == good.summary, "the log says the same"
    assert (bad.code, bad.outputs) == (1, {"exit-code": "1", "accepted": ""})
    assert "- there is no report of envoy=1.39.3" in bad.summary
    assert nothing.code == 2


def combinations(matrix: dict[str, Any]) -> Iterator[dict[str, str]]:
    """A matrix of GitHub's without `include`: every combination but the excluded ones."""
    axes = {name: values for name, values in matrix.items() if name != "exclude"}
    for values in itertools.product(*axes.values()):
        found = dict(zip(axes, values, strict=True))
        if not any(e.items() <= found.items() for e in matrix["exclude"]):
            yield {name: value for name, value in found.items() if value}


def test_gate_asks_for_what_the_matrix_runs() -> None:
    """Each combination once in both, at versions that are pinned; profiles are the same."""
    jobs = read(WORKFLOWS / "conformance.yml")["jobs"]
    ran = list(combinations(jobs["conformance"]["strategy"]["matrix"]))
    run, gate = (
        next(step["with"] for step in jobs[name]["steps"] if step["uses"] == "./")
        for name in ("conformance", "gate")
    )
    texts = [a.removeprefix("--matrix=") for a in gate["args"].splitlines() if "--matrix" in a]
    asked = [dict(cell) for cell in parse_matrices(texts)]
    tools = tomllib.loads((ROOT / "manifests" / "tools" / "tools.toml").read_text())["sources"]

    assert len(ran) == 10
    assert sorted(map(sorted, (c.items() for c in ran))) == sorted(
        map(sorted, (c.items() for c in asked))
    )
    assert run["profile"] == gate["profile"]
    assert {c["spire"] for c in ran} <= set(tools["spire-module"]["versions"])
    assert {c["envoy"] for c in ran} <= set(tools["envoy-wheel"]["versions"])


def test_what_the_gate_accepted_is_signed_and_nothing_else() -> None:
    """By digests that the gate's job hands on: no file of other jobs is there to be signed."""
    jobs = read(WORKFLOWS / "conformance.yml")["jobs"]
    (step,) = jobs["attest"]["steps"]
    gate = next(s for s in jobs["gate"]["steps"] if s.get("id") == "gate")

    assert jobs["attest"]["needs"] == "gate"
    assert step["uses"].partition("@")[0] == "actions/attest"
    assert step["with"] == {"subject-checksums": "${{ needs.gate.outputs.accepted }}"}
    assert jobs["gate"]["outputs"] == {"accepted": "${{ steps.gate.outputs.accepted }}"}
    assert gate["uses"] == "./"
    assert gate["with"]["verify"] == "reports"


def test_gate_asks_for_the_subject_that_runs_are_given() -> None:
    """The commit: a report of another one, however young, is refused."""
    jobs = read(WORKFLOWS / "conformance.yml")["jobs"]
    subjects = [
        {line for line in step["with"]["args"].splitlines() if line.startswith("--subject=")}
        for name in ("conformance", "gate")
        for step in jobs[name]["steps"]
        if step["uses"] == "./"
    ]

    assert subjects == [{"--subject=${{ github.repository }}@${{ github.sha }}"}] * 2


def test_workflows_use_the_inputs_that_there_are() -> None:
    """And the action uses each of its own."""
    action = (ROOT / "action.yml").read_text()
    known = set(read(ROOT / "action.yml")["inputs"])
    used = {
        name
        for path in WORKFLOWS.glob("*.yml")
        for job in read(path)["jobs"].values()
        for step in job["steps"]
        if step.get("uses") == "./"
        for name in step["with"]
    }

    assert used
    assert used <= known
    assert {name for name in known if f"inputs.{name}" not in action} == set()


def test_one_action_has_one_pin() -> None:
    """By commit, with its version beside it; nothing is used that is not pinned."""
    pins: dict[str, set[tuple[str, str]]] = {}
    for path in (ROOT / "action.yml", *WORKFLOWS.glob("*.yml")):
        text = path.read_text()
        found = PIN.findall(text)
        assert len(found) == len(re.findall(r"uses: (?!\./)", text)), path.name
        for name, commit, version in found:
            project = "/".join(name.split("/")[:2])
            pins.setdefault(project, set()).add((commit, version))

    assert {project: len(known) for project, known in pins.items() if len(known) > 1} == {}
    assert {"actions/checkout", "actions/upload-artifact", "actions/cache"} <= set(pins)
