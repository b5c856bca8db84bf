"""What `svidproof selftest` tries on a platform: what can be noticed there, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import psutil
import pytest

from svidproof.cli import selftest
from svidproof.cli.forks import Forks, Run
from svidproof.cli.requirements import listing
from svidproof.cli.selftest import Choice, SelftestError, narrow
from svidproof.sabotage import Sabotage
from svidproof.waiting import eventually
from svidproof.waiting.budgets import PROGRAM_READY

if TYPE_CHECKING:
    from pathlib import Path

CHECKS = [
    {"requirements": ["ONE-1"], "needs": []},
    {"requirements": ["ONE-2"], "needs": ["pause"]},
    {"requirements": ["ONE-2", "ONE-3"], "needs": ["pause", "k8s-psat"]},
    {"requirements": ["ONE-4"], "needs": ["k8s-psat", "csi"]},
]


def sabotage(name: str, *requirements: str) -> Sabotage:
    """A sabotage of these requirements."""
    return Sabotage(name, name, dict.fromkeys(requirements, ()))


@pytest.mark.parametrize(
    ("capabilities", "tried", "left_out", "lacking"),
    [
        pytest.param(
            {"pause", "k8s-psat", "csi"}, {"a": ("ONE-1",), "b": ("ONE-2", "ONE-3"),
            "c": ("ONE-3", "ONE-4")}, (), (), id="all",
        ),
        pytest.param(
            {"pause"}, {"a": ("ONE-1",), "b": ("ONE-2",)}, ("c",), ("csi", "k8s-psat"), id="some",
        ),
        pytest.param(
            set(), {"a": ("ONE-1",)}, ("b", "c"), ("csi", "k8s-psat", "pause"), id="few",
        ),
    ],
)  # fmt: skip
def test_what_no_check_can_notice_is_left_out(
    capabilities: set[str],
    tried: dict[str, tuple[str, ...]],
    left_out: tuple[str, ...],
    lacking: tuple[str, ...],
) -> None:
    """A requirement none of whose checks can run is not asked for; nor what breaks only such."""
    wrong = [
        sabotage("a", "ONE-1"), sabotage("b", "ONE-2", "ONE-3"), sabotage("c", "ONE-3", "ONE-4"),
    ]  # fmt: skip

    choice = narrow(wrong, CHECKS, capabilities)

    assert {s.name: s.requirements for s in choice.tried} == tried
    assert choice == Choice(choice.tried, left_out, lacking)


def test_what_breaks_nothing_here_is_left_out() -> None:
    """A sabotage of what a platform has not got is not tried there, though its checks are made."""
    wrong = [replace(sabotage("a", "ONE-1"), needs=("csi",)), sabotage("b", "ONE-1")]

    choice = narrow(wrong, CHECKS, {"pause"})

    assert [s.name for s in choice.tried] == ["b"]
    assert (choice.left_out, choice.lacking) == (("a",), ("csi",))


@pytest.mark.parametrize(
    ("options", "platform"),
    [
        pytest.param([], "local", id="default"),
        pytest.param(["--svidproof-images=build", "--svidproof-platform=kind"], "kind", id="given"),
    ],
)
def test_platform_is_the_one_of_the_options(options: list[str], platform: str) -> None:
    """The platform is the one that the runs below are given."""
    assert selftest._platform(options) == platform


def test_installation_without_unit_tests_runs_the_sabotages_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a wheel is; it says so."""
    monkeypatch.setattr("svidproof.run.process.pytest_process.suites", lambda: tmp_path)
    monkeypatch.setattr(selftest, "_possible", lambda *_: selftest.Choice((), (), ()))

    code = selftest.run([], [], tmp_path / "out", unit_tests=True, jobs=1)

    assert "only svidproof's repository has unit tests" in capsys.readouterr().out
    assert code == 1


def test_asking_only_for_what_is_left_out_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sabotage that no check could detect here is refused in one line with the reason."""
    checks = [{"requirements": ["K8S-1"], "needs": ["k8s-psat"]}]
    monkeypatch.setattr(Forks, "checks", lambda _self: checks)

    with pytest.raises(SelftestError) as caught:
        selftest.run([], ["attests-by-certificate"], tmp_path, unit_tests=False, jobs=1)

    told = "left out: attests-by-certificate (not supported on platform local: needs k8s-psat)"
    assert str(caught.value) == told


@pytest.mark.parametrize(
    ("platform", "free_gib", "expected"),
    [
        pytest.param("local", 100, 8, id="cores"),
        pytest.param("local", 4, 5, id="memory"),
        pytest.param("local", 0.1, 1, id="little-memory"),
        pytest.param("kind", 100, 1, id="cluster"),
    ],
)
def test_number_of_runs_is_what_the_machine_bears(
    monkeypatch: pytest.MonkeyPatch, platform: str, free_gib: float, expected: int
) -> None:
    """Cores and free memory limit it; on a cluster whose nodes are here one run takes all."""
    _pretend(monkeypatch, free_gib)

    assert selftest.at_once(None, platform) == expected


@pytest.mark.parametrize(
    ("jobs", "complaint"),
    [
        pytest.param(0, "--jobs 0: at least one run must go on at a time", id="none"),
        pytest.param(-2, "--jobs -2: at least one", id="negative"),
        pytest.param(6, "--jobs 6 needs about 4.5 GiB of memory, of which 4.0 are free: use at "
                     "most --jobs 5", id="memory"),
    ],
)  # fmt: skip
def test_impossible_number_of_runs_is_refused(
    monkeypatch: pytest.MonkeyPatch, jobs: int, complaint: str
) -> None:
    """One line says why, and what is possible."""
    _pretend(monkeypatch, 4)

    with pytest.raises(SelftestError, match=complaint) as caught:
        selftest.at_once(jobs, "local")

    assert "\n" not in str(caught.value)
    assert selftest.at_once(5, "local") == 5


def _some(processes: list[psutil.Process]) -> list[psutil.Process]:
    """These, if there are any."""
    assert processes
    return processes


def _pretend(monkeypatch: pytest.MonkeyPatch, free_gib: float) -> None:
    """A machine with four cores and so much free memory."""
    memory = SimpleNamespace(available=free_gib * 1024**3)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    monkeypatch.setattr("os.cpu_count", lambda: 4)


def test_mechanisms_are_listed_with_purpose_and_keys() -> None:
    """Each mechanism has its purpose on its line, and its keys below."""
    lines = selftest.mechanisms().splitlines()

    [first] = [n for n, line in enumerate(lines) if line.startswith("extra_entry ")]
    assert lines[first].endswith("A process gets one more registration entry.")
    assert [line.strip() for line in lines[first + 1 : first + 3]] == [
        "id: text",
        "like: workload or prober",
    ]


def test_server_collects_once_and_forks_for_each_run(tmp_path: Path) -> None:
    """Each run is a process of its own, with its own options, output and exit code."""
    runs = [
        Run(n, ("--svidproof-own-terminal", f"--svidproof-sabotage={n}"), (), str(tmp_path / n))
        for n in ("no-such", "nor-such")
    ]
    with Forks() as forks:
        checks = forks.checks()
        ended = {each.name: each for each in forks.run(runs, 2)}

    assert {c["id"] for c in checks} == {c["id"] for c in listing.all_checks()}
    assert {name: each.code for name, each in ended.items()} == {"no-such": 2, "nor-such": 2}
    assert all(each.cpu_s > 0 for each in ended.values())
    for name in ended:
        assert f"unknown sabotage {name}: " in (tmp_path / name).read_text()


def test_end_of_the_command_ends_the_runs(tmp_path: Path) -> None:
    """Nothing that was forked outlives the context manager."""
    options = ("--svidproof-own-terminal", "--collect-only")
    run = Run("one", options, (), str(tmp_path / "one"))

    with Forks() as forks:
        forks.checks()
        server = psutil.Process(forks._process.pid)
        forks.run([run], 1)
        children = eventually(lambda: _some(server.children()), PROGRAM_READY)

    assert not server.is_running()
    assert not [each for each in children if each.is_running()]
