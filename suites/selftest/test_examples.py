"""The reports in reports/examples are sound, say what they are for, and tell no secrets."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from svidproof.cli.requirements import listing
from svidproof.model import catalogue as catalogues
from svidproof.model.catalogue import Catalogue
from svidproof.model.manifests import data_root
from svidproof.report import fields, provenance, publish, read
from svidproof.report.gate import verify
from svidproof.report.html import view
from svidproof.run.process import pytest_process

from .reading import Reader

EXAMPLES = data_root() / "reports" / "examples"
SAMPLES = ("conformant", "not-conformant")
LARGEST = 5_000_000  # bytes: they are cloned with everything else
# What belongs to whoever made them, and is not for everybody to read.
PRIVATE = re.compile(rb"/root/|/home/|/work/|/tmp/(?!svidproof)|PRIVATE KEY")


@pytest.fixture(scope="module")
def ours() -> Catalogue:
    """The catalogue of this checkout."""
    return catalogues.read(pytest_process.suites() / "catalogue.toml")


@pytest.fixture(params=SAMPLES)
def sample(request: pytest.FixtureRequest) -> Path:
    """The directory of one of them."""
    return EXAMPLES / str(request.param)


def load(sample: Path) -> dict[str, Any]:
    """Its report, which keeps the schema and was not changed after it was written."""
    return read.sound(sample / publish.REPORT)


def policy(report: dict[str, Any], age: timedelta) -> verify.Policy:
    """What a gate asks of it, so long after it was made."""
    made = datetime.fromisoformat(report["run"]["started"]).astimezone(UTC)
    return verify.Policy(profiles=("core",), now=made + age, checks=listing.by_requirement())


def test_sample_says_what_it_is_called(sample: Path) -> None:
    """By its verdict; it is whole, and nothing was sabotaged: its defect is a real one."""
    report = load(sample)

    assert report["verdict"] == sample.name
    assert report["run"]["selection"] == "complete"
    assert report["run"]["sabotage"] is None
    assert report["run"]["stopped"] is None
    assert report["run"]["warnings"] == []


def test_gate_accepts_the_good_one(ours: Catalogue) -> None:
    """While it is fresh, and made by this very svidproof; else it says that it is not."""
    report = load(EXAMPLES / "conformant")
    fresh, old = timedelta(hours=1), timedelta(days=365)

    refusals = verify.refusals(report, ours, policy(report, fresh))

    if report["suite"].get("files_sha256") == provenance.files_sha256():
        assert refusals == []
        assert "too old" in verify.refusals(report, ours, policy(report, old))[0]
    else:
        assert [r for r in refusals if r.endswith("verify it with the svidproof that made it")]


def test_gate_refuses_the_bad_one(ours: Catalogue) -> None:
    """Whatever the catalogue: for what failed, by its own words."""
    report = load(EXAMPLES / "not-conformant")
    same = replace(ours, sha256=report["suite"]["catalogue_sha256"])
    # It was made by an older svidproof; what failed is a reason on its own.
    report["suite"]["files_sha256"] = provenance.files_sha256()

    refusals = verify.refusals(report, same, policy(report, timedelta(hours=1)))

    assert f"its verdict is not-conformant: {report['reason']}" in refusals
    failed = [r["id"] for r in report["requirements"] if r["result"] == "fail"]
    assert failed
    assert {f"{name} is fail" for name in failed} <= set(refusals)


def test_defect_is_in_one_component(sample: Path) -> None:
    """The bad one has an agent that somebody gave, built with the patch beside it; no other has."""
    given = [c for c in load(sample)["components"] if c["source"] == "given"]

    assert [c["name"] for c in given] == ([] if sample.name == "conformant" else ["spire-agent"])
    assert all("fewer-pushes" in c["version"] for c in given)
    assert (EXAMPLES / "fewer-pushes.patch").is_file()


def test_page_shows_the_numbers_of_the_report(sample: Path) -> None:
    """Verdict, reason, and every requirement with its result; what it links to is there."""
    report = load(sample)
    page = Reader((sample / publish.PAGE).read_text("utf-8"))

    assert view.VERDICTS[report["verdict"]][0] in page.text
    assert report["digest"] in page.text
    shown = {d["id"]: d["data-result"] for d in page.all("details") if "data-result" in d}
    assert shown == {r["id"]: r["result"] for r in report["requirements"]}
    links = {str(a["href"]).partition("#")[0] for a in page.all("a")}
    inside = {link for link in links if link and not link.startswith("https://")}
    assert {publish.REPORT, publish.JUNIT, publish.TIMELINE} <= inside
    assert all((sample / link).is_file() for link in inside)


def test_evidence_of_what_failed_is_there(sample: Path) -> None:
    """For each failed check the command that reruns it, and for one of them all the rest."""
    checks = [c for r in load(sample)["requirements"] for c in r["checks"]]
    folders = {c["artifacts"] for c in checks if c["artifacts"]}

    assert bool(folders) == (sample.name == "not-conformant")
    assert all((sample / folder / "rerun.txt").is_file() for folder in folders)
    assert len(list(sample.glob("artifacts/*/envoy/*/config_dump.json"))) == 4 * bool(folders)


def test_sample_is_fit_for_everybody(sample: Path) -> None:
    """Small enough to be cloned, and without a path, a user or a key of who made it."""
    files = [p for p in sample.rglob("*") if p.is_file()]

    assert sum(p.stat().st_size for p in files) < LARGEST
    assert not [p.name for p in files if PRIVATE.search(p.read_bytes())]


def test_fields_of_a_report_are_described() -> None:
    """Every one, by the schema; and in reports/README.md as tox -e documents writes it."""
    schema = publish.schema()

    assert not [path for path, field in fields.fields(schema, schema) if "description" not in field]
    text = (data_root() / "reports" / "README.md").read_text("utf-8")
    assert fields.replaced(text, schema) == text


def test_fields_of_fields_are_told_once() -> None:
    """References are followed; and a document without a place for the table is refused."""
    schema: dict[str, Any] = {
        "properties": {
            "a": {"description": "first", "$ref": "#/$defs/pair"},
            "b": {"description": "second", "type": "array", "items": {"$ref": "#/$defs/pair"}},
            "c": {"type": "object", "additionalProperties": {"properties": {"d": {"const": 1}}}},
        },
        "$defs": {
            "pair": {"type": "object", "properties": {"x": {"type": ["string", "null"]}}},
        },
    }

    assert [path for path, _ in fields.fields(schema, schema)] == [
        "a",
        "a.x",
        "b",
        "c",
        "c.<name>.d",
    ]
    assert "| `a.x` | string or null |  |" in fields.table(schema)
    with pytest.raises(ValueError, match="the document has no"):
        fields.replaced("# Title\n", schema)
