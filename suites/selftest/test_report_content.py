"""report.json says what the checks said, keeps its schema, and gives no secret away."""

import base64
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from svidproof.components.health import EndedError
from svidproof.model import redact
from svidproof.model.catalogue import Catalogue
from svidproof.model.verdict import Result
from svidproof.platforms.local.platform import LocalPlatform
from svidproof.platforms.protocol import Program
from svidproof.probes.credentials import Authority, Template
from svidproof.report import build, publish
from svidproof.report.model import Evidence
from svidproof.run import evidence as artifacts
from svidproof.run.process import hardening
from svidproof.waiting import eventually
from svidproof.waiting.budgets import Budget

if TYPE_CHECKING:
    from svidproof.testbed.testbed import Testbed

Spoil = Callable[..., Evidence]
SECRETS = ("PRIVATE KEY", "LS0tLS1CRUdJTiBQUklWQVRF", "LS0tLS1CRUdJTiBFQyBQUklWQVRF")


@pytest.fixture
def key() -> str:
    """A private key as PEM."""
    return Authority.create("test", "example.org").issue("x", Template(uris=())).key_pem.decode()


def test_report_has_what_was_found(report: dict[str, Any]) -> None:
    """Requirements with their checks, profiles with counts, deviations, measurements, verdict."""
    assert [r["id"] for r in report["requirements"]] == ["ONE-1", "ONE-2", "TWO-1"]
    one, two, _ = report["requirements"]
    assert (one["result"], two["result"]) == ("pass", "known-deviation")
    assert len(one["checks"]) == 2, "a check of two requirements stands below both"
    assert one["checks"][0] == {
        "id": "a/test_a.py::test_a",
        "claim": "It does",
        "outcome": "pass",
        "duration_s": 0.5,
        "message": "saw it",
        "deviation": None,
        "artifacts": None,
    }
    assert report["profiles"]["core"]["result"] == "pass"
    assert report["profiles"]["core"]["core"]["known-deviation"] == 1
    assert report["deviations"][0]["checks"] == ["a/test_b.py::test_b[lax]"]
    assert report["measurements"] == {"lag": {"value": 0.1, "unit": "s", "requirement": "ONE-1"}}
    assert (report["verdict"], report["run"]["duration_s"]) == ("conformant", 40.0)


@pytest.mark.parametrize(
    ("check", "result", "verdict"),
    [
        pytest.param("test_a", Result.FAIL, "not-conformant", id="fail"),
        pytest.param("test_a", Result.ERROR, "inconclusive", id="error"),
        pytest.param("test_a", Result.UNSUPPORTED, "inconclusive", id="unsupported"),
        pytest.param("test_a", Result.NOT_RUN, "inconclusive", id="not-run"),
        pytest.param("test_c", Result.FAIL, "not-conformant", id="extended-fails"),
    ],
)
def test_verdict_follows_from_checks(
    spoil: Spoil, catalogue: Catalogue, check: str, result: Result, verdict: str
) -> None:
    """One check is enough to change the verdict; each such report keeps the schema."""
    made = build.build(spoil(check, result), catalogue)

    assert made["verdict"] == verdict
    assert publish.invalidity(made) is None


def test_two_runs_differ_only_in_times_and_ids(
    evidence: Evidence, catalogue: Catalogue, report: dict[str, Any]
) -> None:
    """The order of checks and measurements does not depend on the run."""
    again = build.build(replace(evidence, run=replace(evidence.run, id="run-2")), catalogue)

    assert {key for key in report if report[key] != again[key]} == {"run", "digest"}


def test_digest_covers_everything(report: dict[str, Any]) -> None:
    """Any change shows; spelling the same content otherwise does not."""
    same = json.loads(json.dumps(report, indent=7))
    changed = json.loads(json.dumps(report).replace("It nearly holds", "It holds well"))

    assert build.digest(same) == report["digest"]
    assert build.digest(changed) != report["digest"]


@pytest.mark.parametrize(
    "spoiled",
    [
        pytest.param({"verdict": "splendid"}, id="verdict"),
        pytest.param({"digest": "0"}, id="digest"),
        pytest.param({"extra": 1}, id="extra-key"),
        pytest.param({"requirements": [{}]}, id="requirement"),
        pytest.param({"run": {}}, id="run"),
    ],
)
def test_invalid_report_is_not_published(
    tmp_path: Path, report: dict[str, Any], spoiled: dict[str, Any]
) -> None:
    """A report that does not keep its own schema is an internal error, and no file."""
    with pytest.raises(publish.PublishError, match="schema"):
        publish.publish({**report, **spoiled}, tmp_path)

    assert not list(tmp_path.iterdir())


def test_report_is_published_whole(
    tmp_path: Path, report: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that fails leaves the old file as it was, and no other."""
    path = publish.publish(report, tmp_path)
    before = path.read_text()

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(publish.PublishError, match="No space left"):
        publish.publish(report, tmp_path)

    assert json.loads(before) == report
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_old_report_gives_way(tmp_path: Path, report: dict[str, Any]) -> None:
    """What an earlier run of ours wrote is gone before a new one begins; nothing else is."""
    publish.publish(report, tmp_path)
    for name in (
        *("junit.xml", "timeline.jsonl", "timeline-greeter.jsonl", "report.html", "mine.txt"),
        *("artifacts/x/log", "kept/api/log/api.envoy", ".report.json.abc", ".report.html.xyz"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("old")

    publish.prepare(tmp_path)

    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_linked_folders_of_an_old_report_are_unlinked(
    tmp_path: Path, report: dict[str, Any]
) -> None:
    """What they lead to is somebody else's."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "file").write_text("theirs")
    out = tmp_path / "out"
    out.mkdir()
    publish.publish(report, out)
    (out / "kept").symlink_to(tmp_path / "theirs")

    publish.prepare(out)

    assert list(out.iterdir()) == []
    assert (tmp_path / "theirs" / "file").read_text() == "theirs"


@pytest.mark.parametrize(
    ("umask", "mode"),
    [(0o022, 0o644), (0o077, 0o600), (0o027, 0o640), (0o000, 0o644), (0o002, 0o644)],
)
def test_report_is_as_readable_as_the_user_wants(
    tmp_path: Path, report: dict[str, Any], umask: int, mode: int
) -> None:
    """And writable by nobody else, whatever the umask."""
    before = os.umask(umask)
    try:
        path = publish.publish(report, tmp_path)
        assert os.umask(umask) == umask
    finally:
        os.umask(before)

    assert oct(path.stat().st_mode & 0o777) == oct(mode)


@pytest.mark.parametrize(("umask", "then"), [(0o000, 0o022), (0o002, 0o022), (0o077, 0o077)])
def test_nothing_of_a_run_is_writable_by_others(umask: int, then: int) -> None:
    """Neither the directory nor timelines, junit.xml or artifacts, which do as the umask says."""
    before = os.umask(umask)
    try:
        assert hardening.protect_files() == umask
        assert os.umask(umask) == then
    finally:
        os.umask(before)


def test_pipe_in_the_place_of_a_report_is_not_waited_for(tmp_path: Path) -> None:
    """It is not ours, so it is left alone."""
    os.mkfifo(tmp_path / "report.json")

    with pytest.raises(publish.DirectoryError, match="not a report of svidproof"):
        publish.prepare(tmp_path)


@pytest.mark.parametrize("content", ["{}", "[]", "no json", "[" * 100_000])
def test_report_of_others_is_not_overwritten(tmp_path: Path, content: str) -> None:
    """A report.json of some other program is left alone, with a hint."""
    (tmp_path / "report.json").write_text(content)

    with pytest.raises(publish.DirectoryError, match="not a report of svidproof"):
        publish.prepare(tmp_path)


def test_unusable_directory_is_told_before_anything_runs(tmp_path: Path) -> None:
    """A file in the way, say, is one line with what to do."""
    (tmp_path / "file").write_text("")

    with pytest.raises(publish.DirectoryError, match="--report-dir"):
        publish.prepare(tmp_path / "file" / "reports")


@pytest.mark.parametrize("prefix", ["", "x", "xy", '"inline_bytes": "'])
def test_private_keys_are_removed(key: str, prefix: str) -> None:
    """PEM, PEM with escaped newlines, cut PEM, and base64 of PEM at any alignment."""
    certificate = Authority.create("test", "example.org").certificate_pem.decode()
    spellings = [
        key,
        key.replace("\n", "\\n"),
        key[:90],
        key[40:],
        base64.b64encode((prefix + key).encode()).decode(),
    ]

    for spelling in spellings:
        text = f"{spelling} after" if spelling == key[40:] else f"{prefix}{spelling} after"
        clean = redact.redact(f"{text}\n{certificate}" if spelling != key[:90] else text)
        assert not any(secret in clean for secret in SECRETS), clean
        assert redact.REMOVED in clean
    assert redact.redact(certificate) == certificate


def test_artifacts_and_timeline_hold_no_private_key(tmp_path: Path, key: str) -> None:
    """Evidence is clean when it is written, and all files are looked through at the end."""
    evidence = artifacts.Artifacts(tmp_path / "artifacts" / "x")
    evidence.text("log/envoy.log", f"said: {key}")
    encoded = base64.b64encode(key.encode()).decode()
    (tmp_path / "timeline.jsonl").write_text(json.dumps({"message": key, "more": encoded}))
    (tmp_path / "clean.bin").write_bytes(bytes(range(256)))

    swept = publish.sweep(tmp_path)

    assert swept == ["timeline.jsonl"]
    assert (tmp_path / "clean.bin").read_bytes() == bytes(range(256))
    for path in (p for p in tmp_path.rglob("*") if p.is_file()):
        assert not any(secret in path.read_text("latin-1") for secret in SECRETS), path
    json.loads((tmp_path / "timeline.jsonl").read_text())


def test_certificate_is_told_as_text() -> None:
    """What a person asks of a certificate, without a tool."""
    root = Authority.create("root", "example.org")
    leaf = root.issue("leaf", Template(uris=("spiffe://example.org/api",))).leaf

    text = artifacts.describe(leaf)

    assert f"serial {leaf.serial_number:x}" in text
    assert "UniformResourceIdentifier spiffe://example.org/api" in text
    assert "keyUsage (critical): digital signature" in text
    assert "basicConstraints (critical): CA false" in text
    assert "keyUsage (critical): key cert sign, crl sign" in artifacts.describe(root.certificate)


def test_missing_evidence_stops_nothing(tmp_path: Path) -> None:
    """What cannot be had is noted beside what could."""

    def fails() -> str:
        raise ConnectionError("refused")

    evidence = artifacts.Artifacts(tmp_path / "x")

    assert not evidence.attempt("certs.json", fails)
    assert (tmp_path / "x" / "certs.json.missing").read_text() == "ConnectionError: refused\n"


def _assert_ended(platform: LocalPlatform) -> None:
    assert platform.exit_status("agent") == 0


def test_kept_deployment_has_no_keys(tmp_path: Path, key: str) -> None:
    """Configuration and logs stay; keys and SPIRE's own data do not."""
    platform = LocalPlatform({}, "example.org")
    try:
        for name in ("server.conf", "root.key", "all.pem"):
            platform.put("server", name, key.encode() if name == "all.pem" else name.encode())
        platform.put("server/data", "keys.json", b"{}")
        platform.start(Program("agent", "agent", "python", ("-c", "print('I am here')")))
        soon = Budget("the program ends", 10, 0.01)
        eventually(lambda: _assert_ended(platform), soon)
        testbed: Any = SimpleNamespace(platform=platform, components=("agent",))
        broken: Any = SimpleNamespace(platform=None)

        warnings = artifacts.keep({"api": testbed, "far": broken}, tmp_path / "kept")
    finally:
        platform.close()

    kept = {str(p.relative_to(tmp_path / "kept")) for p in tmp_path.glob("kept/**/*.*")}
    assert kept == {"api/server/server.conf", "api/server/all.pem"}
    assert (tmp_path / "kept/api/log/agent").read_text() == "I am here\n"
    assert (tmp_path / "kept/api/server/all.pem").read_text().strip() == redact.REMOVED
    [warning] = warnings
    assert warning.startswith("cannot keep files of far: AttributeError")


def test_artifacts_have_a_folder_of_their_own() -> None:
    """Ids with brackets and slashes become names that need no quotes."""
    name = artifacts.folder("handshake/test_refused.py::test_it[spiffe tls1.3-expired]")

    assert name == "handshake-it-spiffe-tls1.3-expired"


def test_deviation_is_listed_for_each_requirement_that_it_breaks(catalogue: Catalogue) -> None:
    """Each row has the checks of its requirement; a requirement without such a check has none."""
    lax = replace(catalogue.deviations[0], requirements=("ONE-1", "ONE-2", "TWO-1"))
    first, second = ({"id": i, "outcome": "known-deviation", "deviation": lax.id} for i in "ab")
    found = [{"id": "ONE-1", "checks": [first]}, {"id": "ONE-2", "checks": [first, second]}]

    rows = build.deviations(found, replace(catalogue, deviations=(lax,)))

    assert [(r["id"], r["requirement"], r["checks"]) for r in rows] == [
        (lax.id, "ONE-1", ["a"]),
        (lax.id, "ONE-2", ["a", "b"]),
    ]


def test_log_of_what_ended_a_boot_is_kept(tmp_path: Path) -> None:
    """It ended before the testbed had it as a component, so that the watch did not follow it."""
    platform = SimpleNamespace(
        evidence=dict,
        read_log=lambda component, _: f"{component}\nexec: no such file\n".encode(),
    )
    timeline = SimpleNamespace(logs=list)
    testbed = SimpleNamespace(
        platform=platform, watch=SimpleNamespace(timeline=timeline), components=("spire-server",)
    )
    error = AssertionError("CSI driver: not ready")
    error.__cause__ = EndedError("csi.driver", 1)

    line = artifacts.boot_failure(
        artifacts.Artifacts(tmp_path), "here", cast("Testbed", testbed), error, "it did not boot"
    )

    assert line == "it did not boot; it said: exec: no such file; logs: here/"
    assert (tmp_path / "csi.driver.log").read_text() == "csi.driver\nexec: no such file\n"
