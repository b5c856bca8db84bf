"""In a pod whose programs the kubelet starts again, an end that nobody asked for is noticed."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from svidproof.model.errors import PlatformError
from svidproof.platforms.kubernetes.pods.processes import PodProcesses
from svidproof.platforms.kubernetes.pods.watcher import Container
from svidproof.platforms.protocol import Program

if TYPE_CHECKING:
    from collections.abc import Sequence

KILLED = -signal.SIGKILL
HELPER = "server.helper"


@dataclass
class PaperPods:
    """Pods of which nothing is but what the kubelet says of one container."""

    supervised: bool = True
    state: Container | None = field(
        default_factory=lambda: Container(
            "helper", running=True, restarts=0, status=None, trouble=""
        )
    )
    lost: bool = False
    hopeless: str = ""

    def container(self, _pod: str, _name: str) -> Container | None:
        """What the kubelet says."""
        return self.state

    def is_lost(self, _pod: str) -> bool:
        """Whether the pod is gone."""
        return self.lost

    def assert_hopeful(self, _pod: str) -> None:
        """Whether it can run."""
        if self.hopeless:
            raise PlatformError(self.hopeless)

    def signal(self, _argv: Sequence[str], number: int) -> None:
        """Die of it; the kubelet starts it again at once if it is to."""
        assert self.state is not None
        if number in {signal.SIGKILL, signal.SIGTERM}:
            times = self.state.restarts + self.supervised
            self.state = Container("helper", self.supervised, times, KILLED, "")

    @property
    def lives(self) -> PodProcesses:
        """The lives in it."""
        program = Program(HELPER, "server", "spiffe-helper", (), supervised=self.supervised)
        places = SimpleNamespace(
            programs={HELPER: program}, started={"server": (program,)},
            pods=lambda _place: self, relay=lambda _place: self,
        )  # fmt: skip
        return PodProcesses(cast("Any", places))


def test_program_that_runs_has_not_ended() -> None:
    """It has no status."""
    assert PaperPods().lives.exit_status(HELPER) is None


def test_end_that_nobody_asked_for_is_noticed() -> None:
    """Though the kubelet has started it again since."""
    pods = PaperPods()
    lives = pods.lives

    pods.signal((), signal.SIGKILL)

    assert lives.exit_status(HELPER) == KILLED


@pytest.mark.parametrize("end", [PodProcesses.stop, PodProcesses.kill])
def test_end_that_was_asked_for_is_over_with_the_restart(end: Any) -> None:  # noqa: ANN401  a method
    """The next one is noticed again."""
    pods = PaperPods()
    lives = pods.lives

    end(lives, HELPER)
    lives.await_restart(HELPER)

    assert lives.exit_status(HELPER) is None
    pods.signal((), signal.SIGKILL)
    assert lives.exit_status(HELPER) == KILLED


def test_program_that_nobody_starts_again_stays_ended() -> None:
    """Whoever ended it."""
    pods = PaperPods(supervised=False)
    lives = pods.lives

    lives.kill(HELPER)

    assert lives.exit_status(HELPER) == KILLED


def test_pod_that_is_gone_has_ended() -> None:
    """While one that is not there yet has not."""
    assert PaperPods(state=None).lives.exit_status(HELPER) is None
    assert PaperPods(state=None, lost=True).lives.exit_status(HELPER) == KILLED


def test_pod_that_cannot_run_is_told() -> None:
    """Instead of a status."""
    with pytest.raises(PlatformError, match="ErrImagePull"):
        PaperPods(hopeless="helper: ErrImagePull").lives.exit_status(HELPER)
