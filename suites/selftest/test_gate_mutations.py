"""Whatever is changed in a sound report: the gate refuses it, or it claims what it did before.

SVIDPROOF_MUTATIONS=20000 tries that many mutations, other ones each time; the default is a few
hundred that are always the same.
"""

import copy
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from svidproof.model import verdict
from svidproof.model.catalogue import Catalogue, parse
from svidproof.model.verdict import Result
from svidproof.report import build, publish, read
from svidproof.report.gate import decide
from svidproof.report.gate.expectation import parse_all
from svidproof.report.gate.verify import Policy
from svidproof.report.model import Check, Component, Evidence, Measurement, Run

from .conftest import CATALOGUE

try:
    import hypothesis
    from hypothesis import strategies as st
except ImportError:
    pytest.skip("hypothesis is not installed: pip install hypothesis", allow_module_level=True)  # noqa: TID251  no check

Json = Any
Path_ = tuple[str | int, ...]

MANY = int(os.environ.get("SVIDPROOF_MUTATIONS", "0"))
FEW = 300
STARTED = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
SUBJECT = "commit 1a2b"
# A second extended requirement: a report of profile core cannot say that it is of `more`, too.
SMALL = parse(
    CATALOGUE.replace(
        "[[deviation]]",
        """[[requirement]]
id = "TWO-2"
title = "It may hold, too"
level = "extended"
profiles = ["more"]
source = ["test"]
[[deviation]]""",
        1,
    )
)

# What carries no claim. All else of an accepted report must be what it was; the gate has compared
# it with the catalogue, with its own files, with what was expected, or computed it again.
FREE = {
    "digest",  # follows from all else
    "suite.commit",  # for people; files_sha256 says what made the report
    "run.id",  # any name will do, as long as no other report has it
    "run.started",  # within --max-age, and so that run and checks have time enough
    "run.finished",
    "run.duration_s",
    "run.command",  # how a person wrote it; what it asked for stands in other fields
    "run.warnings",  # for people
    "components[].note",  # for people; sha256 says which binary it was
    "components[].toolchain",  # who cares for it asks with --expect
    "requirements[].checks[].duration_s",  # what ran took time, and no more than the run
    "requirements[].checks[].message",  # for people; the outcome is a field of its own
    "requirements[].checks[].artifacts",  # where evidence is; none of a check that passed
    "measurements",  # numbers for people: no requirement is judged by them
}
# Of these nodes of the report below, one can be changed, or taken away, and the gate stays open.
CHANGED = {
    *("run.id", "run.command", "run.warnings", "run.warnings.[]", "components.[].note"),
    "components.[].toolchain",
    *(f"requirements.[].checks.[].{name}" for name in ("duration_s", "message", "artifacts")),
    *(f"measurements.lag.{name}" for name in ("value", "unit", "requirement")),
}
DELETED = {"run.warnings.[]", "measurements.lag", "components.[].toolchain"}
# In these, order says nothing.
UNORDERED = {"components": "name", "requirements[].checks": "id"}


@pytest.fixture(scope="module", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What hypothesis writes goes with the rest."""
    hypothesis.configuration.set_hypothesis_home_dir(tmp_path_factory.mktemp("hypothesis"))


def examples(few: int, many: int) -> hypothesis.settings:
    """So many mutations: the same ones each time, or many other ones."""
    return hypothesis.settings(
        max_examples=many if MANY else few,
        derandomize=not MANY,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


@dataclass(frozen=True)
class Gate:
    """A sound report, and a gate that names all that can be expected of it."""

    report: dict[str, Any]
    catalogue: Catalogue
    policy: Policy
    file: Path

    def reasons(self, content: bytes) -> tuple[str, ...]:
        """Why the gate refuses a file."""
        self.file.write_bytes(content)
        decision = decide.decide([self.file], self.catalogue, self.policy)
        (judged,) = decision.judged
        assert decision.accepted == (not judged.reasons)
        assert not [r for r in judged.reasons if r.startswith(decide.INTERNAL)], judged.reasons
        return judged.reasons


def found() -> Evidence:
    """What a good run finds."""
    lax = SMALL.deviations[0]
    return Evidence(
        run=Run(
            id="run-1",
            started=STARTED,
            finished=STARTED + timedelta(seconds=40),
            platform="local",
            profiles=("core",),
            command="svidproof run",
            timing="brisk",
            warnings=("it rained",),
            subject=SUBJECT,
        ),
        components=(
            Component("spire-server", "1.15.3", "release", "a" * 64),
            Component("spire-agent", "1.15.3", "release", "b" * 64, "a note"),
            Component("envoy", "1.40.0", "wheel", "c" * 64),
        ),
        requirements=("ONE-1", "ONE-2", "TWO-1"),
        checks=(
            Check("a/test_a.py::test_a", ("ONE-1",), "It does", Result.PASS, 0.5, "saw it"),
            Check("a/test_b.py::test_b[x]", ("ONE-2",), "It too", Result.PASS, 0.25),
            Check(
                "a/test_b.py::test_b[lax]",
                ("ONE-2",),
                "It too",
                Result.KNOWN_DEVIATION,
                0.25,
                "let in",
                lax,
            ),
            Check("a/test_c.py::test_c", ("TWO-1", "ONE-1"), "And it", Result.PASS, 0.1),
        ),
        measurements=(Measurement("lag", 0.1, "s", "ONE-1"),),
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    """A report that has one of everything."""
    evidence = found()
    report = build.build(evidence, SMALL)
    words = ["platform=local", "timing=brisk"]
    words += [
        f"{c.name}.{attribute}={getattr(c, attribute)}"
        for c in evidence.components
        for attribute in ("version", "source", "sha256")
    ]
    policy = Policy(
        profiles=("core",),
        now=STARTED + timedelta(hours=1),
        checks={
            r["id"]: {c["id"]: c["claim"] for c in r["checks"]} for r in report["requirements"]
        },
        expect=parse_all(words, SUBJECT),
    )
    file = tmp_path_factory.mktemp("gate") / "report.json"
    return Gate(report, SMALL, policy, file)


def claims(content: Json, path: str = "") -> Json:
    """What a report claims: all of it but what is free, in one order."""
    if isinstance(content, dict):
        inner = {key: f"{path}.{key}" if path else key for key in content}
        return {k: claims(v, inner[k]) for k, v in content.items() if inner[k] not in FREE}
    if not isinstance(content, list):
        return content
    items = [claims(each, f"{path}[]") for each in content]
    key = UNORDERED.get(path)
    return sorted(items, key=lambda item: str(item[key])) if key else items


# Mutations of the content


def places(content: Json, path: Path_ = ()) -> Iterator[Path_]:
    """The path of every node below the first."""
    pairs: Any = ()
    if isinstance(content, dict):
        pairs = content.items()
    elif isinstance(content, list):
        pairs = enumerate(content)
    for key, value in pairs:
        yield (*path, key)
        yield from places(value, (*path, key))


def at(content: Json, path: Path_) -> Json:
    """The node at a path."""
    for key in path:
        content = content[key]
    return content


WORDS = (
    *(result.value for result in Result),
    *("conformant", "not-conformant", "inconclusive", "partial", "complete", "core", "more"),
    *("ONE-1", "ONE-2", "TWO-1", "TWO-2", "envoy-lax", "local", "kind", "cluster", "stock"),
    *("spire", "kubernetes", "given", "image", "", "0", "null", "1.40.1", "d" * 64, "artifacts/a"),
    *("2026-05-01T12:00:40.001Z", "2026-05-01T24:00:00.000Z", "0001-01-01T00:00:00.000Z"),
)
NUMBERS = (0, -0.0, 1, 1.0, -1, 0.001, 39.999, 40.001, 5e-324, 1e308, math.inf, math.nan, 10**30)


@st.composite
def values(draw: st.DrawFn, old: Json) -> Json:
    """Something to stand where `old` stood: near it, or of any other kind."""
    near: list[st.SearchStrategy[Json]] = [
        st.sampled_from(WORDS),
        st.sampled_from(NUMBERS),
        st.none() | st.booleans() | st.text(max_size=4),
        st.characters(categories=["Cs"]),
        st.sampled_from(([], {}, [old], {"id": old}, [None], {"": 0})),
        st.floats() | st.integers(),
    ]
    if isinstance(old, str):
        near.append(
            st.sampled_from((old.upper(), f"{old} ", f"{old}\n", f" {old}", old[:-1], f"{old}\0"))
        )
        near.append(st.integers(0, 9).map(lambda n: f"{old[:n]}{old[n + 1 :]}"))
    elif isinstance(old, int | float):
        near.append(st.sampled_from((str(old), bool(old), old + 1, -old, old * 1.0001, [old])))
    elif isinstance(old, list):
        near.append(st.permutations(old).map(list))
        near.append(st.just(dict(enumerate(map(str, old)))))
    elif isinstance(old, dict):
        near.append(st.just(list(old.values())))
        near.append(st.just({key.upper(): value for key, value in old.items()}))
    return draw(st.one_of(near))


def change(draw: st.DrawFn, report: Json, path: Path_) -> None:
    """Put something else there."""
    at(report, path[:-1])[path[-1]] = draw(values(at(report, path)))


def delete(_draw: st.DrawFn, report: Json, path: Path_) -> None:
    """Take it away."""
    del at(report, path[:-1])[path[-1]]


def duplicate(draw: st.DrawFn, report: Json, path: Path_) -> None:
    """Have it twice."""
    container, value = at(report, path[:-1]), copy.deepcopy(at(report, path))
    if isinstance(container, list):
        container.insert(draw(st.integers(0, len(container))), value)
    else:
        container[draw(st.sampled_from(WORDS) | st.text(max_size=4))] = value


def insert(draw: st.DrawFn, report: Json, path: Path_) -> None:
    """Put something beside it."""
    container, value = at(report, path[:-1]), draw(values(at(report, path)))
    if isinstance(container, list):
        container.insert(draw(st.integers(0, len(container))), value)
    else:
        container[draw(st.sampled_from(WORDS) | st.text(max_size=4))] = value


def move(draw: st.DrawFn, report: Json, path: Path_) -> None:
    """Put there what stands elsewhere."""
    other = draw(st.sampled_from(list(places(report))))
    at(report, path[:-1])[path[-1]] = copy.deepcopy(at(report, other))


def swap(draw: st.DrawFn, report: Json, path: Path_) -> None:
    """Exchange it with what stands elsewhere, unless the one is within the other."""
    other = draw(st.sampled_from(list(places(report))))
    if path[: len(other)] == other or other[: len(path)] == path:
        return
    here, there = at(report, path), at(report, other)
    at(report, path[:-1])[path[-1]], at(report, other[:-1])[other[-1]] = there, here


OPERATIONS = (change, delete, duplicate, insert, move, swap)


def resum(report: Json, catalogue: Catalogue) -> None:
    """Compute again what follows from the checks, as far as it can be."""
    for entry in report["requirements"]:
        results = [Result(c["outcome"]) for c in entry["checks"]]
        entry["result"] = verdict.of_requirement(results).value
    report["deviations"] = build.deviations(report["requirements"], catalogue)
    report |= build.conclude(report, catalogue)


@st.composite
def mutated(draw: st.DrawFn, report: Json, catalogue: Catalogue) -> bytes:
    """A report in which some nodes were changed, perhaps by somebody who knows how to seal it."""
    edited = copy.deepcopy(report)
    for _ in range(draw(st.integers(1, 3))):
        there = list(places(edited))
        if there:
            operation = draw(st.sampled_from(OPERATIONS))
            operation(draw, edited, draw(st.sampled_from(there)))
    sealing = draw(st.sampled_from(("none", "digest", "none", "sums")))
    if sealing == "sums":
        try:
            resum(edited, catalogue)
        except Exception:  # noqa: BLE001  it is no report any more
            sealing = "digest"
    if sealing != "none":
        edited["digest"] = build.digest(edited)
    indent = draw(st.sampled_from((None, 2)))
    return json.dumps(edited, indent=indent, ensure_ascii=True).encode()


# Mutations of the text

SCRAPS = (
    *('"verdict": "not-conformant", ', '"sabotage": "lax",', '"outcome": "fail", ', '"run": {},'),
    *('"', "\\", "\n", " ", ",", ":", "{", "}", "[", "]", "0", "9", "e9", "-", ".", "null", "NaN"),
    *("\\u0000", "\\ud800", "\\u0061", "\ufeff", "Infinity", "true", "/* */", "//", "'", "\0"),
)


@st.composite
def scribbled(draw: st.DrawFn, report: Json) -> bytes:
    """A report whose text was edited, by somebody who knows no JSON or too much of it."""
    text = json.dumps(report, indent=draw(st.sampled_from((None, 2))), ensure_ascii=False)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 40)))
        scrap = draw(st.sampled_from(SCRAPS) | st.just(text[start:end]) | st.text(max_size=4))
        here = draw(st.sampled_from((start, end)))
        text = text[:start] + scrap + text[here:]
    content = text.encode()
    if draw(st.integers(0, 9)) == 0:
        cut = draw(st.integers(0, len(content)))
        content = content[:cut] + draw(st.binary(max_size=3)) + content[cut:]
    return content


def assert_refused_or_same(gate_: Gate, content: bytes) -> None:
    """The property."""
    if gate_.reasons(content):
        return
    for first in (False, True):
        seen = json.loads(content, object_pairs_hook=_first_wins if first else None)
        assert claims(seen) == claims(gate_.report)


def _first_wins(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    return dict(reversed(pairs))


def test_sound_report_is_accepted(small: Gate) -> None:
    """Else all that follows would show nothing."""
    assert small.reasons(json.dumps(small.report).encode()) == ()


def test_what_is_free_is_really_free(small: Gate) -> None:
    """Else the list would be longer than it must be."""
    edits: dict[str, Callable[[Json], object]] = {
        "suite.commit": lambda r: r["suite"].update(commit=None),
        "run.id": lambda r: r["run"].update(id="run-2"),
        "run.started": lambda r: r["run"].update(started="2026-05-01T12:00:00.001Z"),
        "run.finished": lambda r: r["run"].update(finished="2026-05-01T12:00:40.001Z"),
        "run.duration_s": lambda r: r["run"].update(duration_s=40.001),
        "run.command": lambda r: r["run"].update(command="make"),
        "run.warnings": lambda r: r["run"].update(warnings=[]),
        "components[].note": lambda r: r["components"][0].update(note="patched"),
        "components[].toolchain": lambda r: r["components"][0].update(toolchain="go1.26"),
        "requirements[].checks[].duration_s": lambda r: _each(r, 0, duration_s=0.6),
        "requirements[].checks[].message": lambda r: _each(r, 0, message="saw more"),
        "requirements[].checks[].artifacts": lambda r: _each(r, 1, artifacts="artifacts/b"),
        "measurements": lambda r: r["measurements"].clear(),
        "digest": lambda r: r["run"].update(id="run-3"),
    }
    assert set(edits) == FREE
    for name, edit in edits.items():
        edited = copy.deepcopy(small.report)
        edit(edited)
        edited["digest"] = build.digest(edited)
        assert edited != small.report, name
        assert small.reasons(json.dumps(edited).encode()) == (), name


def _each(report: Json, number: int, **changes: object) -> None:
    report["requirements"][number]["checks"][number].update(changes)


def other(old: Json) -> Json:
    """Something of the same kind."""
    if isinstance(old, bool) or old is None:
        return "x" if old is None else not old
    if isinstance(old, str):
        return f"{old}x"
    if isinstance(old, int | float):
        return old + 1
    return [*old, *old[:1]] if isinstance(old, list) else {**old, "x": 1}


@pytest.mark.parametrize("edit", ["changed", "deleted"])
def test_every_node_of_a_sealed_report_is_held(small: Gate, edit: str) -> None:
    """One after the other, none left out: what is not free is refused."""
    free: set[str] = set()
    for path in places(small.report):
        edited = copy.deepcopy(small.report)
        if edit == "changed":
            at(edited, path[:-1])[path[-1]] = other(at(edited, path))
        else:
            del at(edited, path[:-1])[path[-1]]
        if path != ("digest",):
            edited["digest"] = build.digest(edited)
        content = json.dumps(edited).encode()
        if not small.reasons(content):
            free.add(".".join("[]" if isinstance(key, int) else key for key in path))
        assert_refused_or_same(small, content)

    # An installed svidproof has no commit that could be changed.
    free = {name for name in free if not name.startswith("suite.commit")}
    assert free == {"changed": CHANGED, "deleted": DELETED}[edit]


def test_mutated_report_is_refused_or_claims_the_same(small: Gate) -> None:
    """Nodes changed, taken away, doubled, put in, moved and exchanged; in half of them sealed."""

    @examples(FEW, MANY)
    @hypothesis.given(mutated(small.report, small.catalogue))
    def holds(content: bytes) -> None:
        assert_refused_or_same(small, content)

    holds()


def test_scribbled_report_is_refused_or_claims_the_same(small: Gate) -> None:
    """Text put in, taken away and overwritten, with keys that come twice."""

    @examples(FEW, MANY // 4)
    @hypothesis.given(scribbled(small.report))
    def holds(content: bytes) -> None:
        assert_refused_or_same(small, content)

    holds()


@dataclass
class _Seen:
    """What a lenient reader meets that a strict one refuses."""

    strict: bool = True

    def pairs(self, pairs: list[tuple[str, Json]]) -> dict[str, Json]:
        if len({key for key, _ in pairs}) < len(pairs):
            self.strict = False
        return dict(pairs)

    def constant(self, text: str) -> float:
        self.strict = False
        return float(text)

    def real(self, text: str) -> float:
        number = float(text)
        self.strict = self.strict and not math.isinf(number)
        return number

    def whole(self, text: str) -> int:
        self.strict = self.strict and len(text.removeprefix("-")) <= 18
        return int(text)


def leniently(content: bytes) -> tuple[Json, bool]:
    """What Python's own reader makes of a file, and whether every reader would make that of it."""
    seen = _Seen()
    found = json.loads(
        content.decode(),
        object_pairs_hook=seen.pairs,
        parse_constant=seen.constant,
        parse_float=seen.real,
        parse_int=seen.whole,
    )
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        seen.strict = False
    return found, seen.strict


def test_reader_and_jsonschema_agree(small: Gate, tmp_path: Path) -> None:
    """What the one takes for a report, so does the other: neither is stricter, but on purpose."""
    validator = jsonschema.Draft202012Validator(json.loads(json.dumps(publish.schema())))
    path = tmp_path / "report.json"

    @examples(FEW, MANY // 4)
    @hypothesis.given(mutated(small.report, small.catalogue) | scribbled(small.report))
    def holds(content: bytes) -> None:
        try:
            lenient, strict = leniently(content)
        except ValueError:
            lenient, strict = None, False
        sound = strict and validator.is_valid(lenient)
        sound = sound and lenient["digest"] == build.digest(lenient)
        path.write_bytes(content)
        try:
            ours = read.sound(path)
        except read.ReportError:
            assert not sound
        else:
            assert sound
            assert ours == lenient

    holds()
