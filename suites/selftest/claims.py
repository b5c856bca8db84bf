"""The checks of the watch as functions that a test can call on an observation of its own."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import itertools
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from svidproof.model.manifests import data_root
from svidproof.model.verdict import Result, judge
from svidproof.run.collection import raised_by

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import ModuleType

    from svidproof.checks.windows.rotation import Observation

TOPICS = ("rotation", "events")
_PARAMETERS = type(pytest.param(0))


@dataclass(frozen=True)
class Claim:
    """One check with one set of its parameters."""

    check: Callable[..., None]
    arguments: dict[str, Any]

    @property
    def name(self) -> str:
        """The check's name."""
        return self.check.__name__

    def failure(self, rotations: Observation) -> str | None:
        """What the check says against an observation, if it does."""
        try:
            self.ask(rotations)
        except AssertionError as error:
            return str(error).partition("\n")[0]
        return None

    def result(self, rotations: Observation) -> Result:
        """How a run would judge it."""
        try:
            self.ask(rotations)
        except Exception as error:  # noqa: BLE001  as a run does
            return judge(raised_by(error), None, None).result
        return Result.PASS

    def ask(self, rotations: Observation) -> None:
        """Make the check."""
        quiet = {"measure": _nothing, "saw": _nothing, "progress": _nothing}
        known = {"rotations": rotations, **quiet, **self.arguments}
        wanted = inspect.signature(self.check).parameters
        self.check(**{name: known[name] for name in wanted})


def failures(rotations: Observation) -> dict[str, list[str]]:
    """The checks that fail on an observation, and what they say."""
    failed: dict[str, list[str]] = {}
    for claim in claims():
        if (message := claim.failure(rotations)) is not None:
            failed.setdefault(claim.name, []).append(message)
    return failed


def assert_red(rotations: Observation, red: dict[str, str]) -> None:
    """Exactly the checks in `red` fail, each with a message that matches its pattern there."""
    failed = failures(rotations)
    assert set(failed) == set(red), failed
    for check, pattern in red.items():
        assert any(re.search(pattern, message) for message in failed[check]), failed[check]


def results(rotations: Observation) -> dict[str, set[Result]]:
    """How a run would judge each check, with any of its parameters."""
    found: dict[str, set[Result]] = {}
    for claim in claims():
        found.setdefault(claim.name, set()).add(claim.result(rotations))
    return found


def checks_of(*files: str) -> set[str]:
    """The names of all checks in these modules."""
    return {claim.name for claim in claims() if claim.check.__module__ in files}


@functools.cache
def claims() -> tuple[Claim, ...]:
    """Every check of the watch with each set of its parameters."""
    files = [f for t in TOPICS for f in sorted((data_root() / "suites" / t).glob("test_*.py"))]
    return tuple(
        Claim(check, arguments)
        for file in files
        for name, check in vars(_load(file)).items()
        if name.startswith("test_")
        for arguments in _cases(check)
    )


def _load(file: Path) -> ModuleType:
    """Load a module of checks by way of pytest, so that a bare assert says what it saw."""
    finders = (finder.find_spec(file.stem, [str(file.parent)]) for finder in sys.meta_path)
    spec = next(spec for spec in finders if spec is not None and spec.loader is not None)
    module = importlib.util.module_from_spec(spec)
    assert spec.loader
    spec.loader.exec_module(module)
    return module


def _cases(check: Callable[..., None]) -> Iterator[dict[str, Any]]:
    marks = [m for m in getattr(check, "pytestmark", ()) if m.name == "parametrize"]
    for combination in itertools.product(*(list(_rows(*m.args[:2])) for m in marks)):
        yield {name: value for row in combination for name, value in row.items()}


def _rows(names: str | tuple[str, ...], rows: list[Any]) -> Iterator[dict[str, Any]]:
    keys = [n.strip() for n in names.split(",")] if isinstance(names, str) else names
    for row in rows:
        values = row.values if isinstance(row, _PARAMETERS) else row
        if len(keys) == 1 and not isinstance(row, _PARAMETERS):
            values = (row,)
        yield dict(zip(keys, values, strict=True))


def _nothing(*_: object) -> None:
    """Take what a check reports, and leave it."""
