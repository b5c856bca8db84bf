"""What `svidproof selftest` tries on a platform: what can be noticed there, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from svidproof import selftest
from svidproof.sabotage import Sabotage
from svidproof.selftest import Choice, SelftestError, narrow

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


def test_asking_only_for_what_is_left_out_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks for a sabotage that cannot be noticed is told in one line why it is not tried."""
    monkeypatch.setattr("svidproof.listing.all_checks", lambda: [
        {"requirements": ["K8S-1"], "needs": ["k8s-psat"]},
    ])  # fmt: skip

    with pytest.raises(SelftestError) as caught:
        selftest.run([], ["attests-by-certificate"], tmp_path, unit_tests=False)

    told = "left out: attests-by-certificate (platform local cannot k8s-psat)"
    assert str(caught.value) == told
