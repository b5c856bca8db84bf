"""The gate reads files of others: it never waits, never breaks, and takes nothing on trust."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from svidproof.cli.requirements import listing
from svidproof.report import publish, read

Command = Callable[..., tuple[int, str, str]]
Place = Callable[[Path], object]


@pytest.fixture
def verify(svidproof: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs `svidproof verify`, which refuses these files before it asks for checks."""
    monkeypatch.setattr(listing, "by_requirement", dict)
    return partial(svidproof, "verify")


@pytest.mark.parametrize(
    ("content", "because"),
    [
        pytest.param(b'{"a": 1, "a": 1}', "the key 'a' occurs twice in one object", id="key-twice"),
        pytest.param(
            b'{"verdict": "not-conformant", "verdict": "conformant"}',
            "the key 'verdict' occurs twice in one object",
            id="verdict-twice",
        ),
        pytest.param(b'[{"\\u0061": 1, "a": 2}]', "the key 'a' comes twice", id="key-escaped"),
        pytest.param(b"[NaN]", "NaN is not a number", id="nan"),
        pytest.param(b"[-Infinity]", "-Infinity is not a number", id="infinity"),
        pytest.param(b"[1e400]", "the number 1e400 is too large", id="overflow"),
        pytest.param(b"[-1e400]", "the number -1e400 is too large", id="underflow"),
        pytest.param(b"[" + b"9" * 19 + b"]", f"the number {'9' * 19} is too large", id="huge"),
        pytest.param(b"[" + b"9" * 5000 + b"]", f"the number {'9' * 40} is too", id="enormous"),
        pytest.param(b'["\\ud800"]', "a text contains half of a surrogate pair", id="surrogate"),
        pytest.param(
            b'{"\\udfff": 1}', "a text contains half of a surrogate pair", id="surrogate-key"
        ),
        pytest.param(b"[" * 40 + b"]" * 40, "it is nested more than 32 levels deep", id="deep"),
    ],
)
def test_json_that_readers_understand_differently_is_refused(
    tmp_path: Path, content: bytes, because: str
) -> None:
    """Whoever reads it with another parser must see the same."""
    path = tmp_path / "report.json"
    path.write_bytes(content)

    with pytest.raises(read.ReportError) as refused:
        read.load(path)

    assert str(refused.value).startswith(f"{path} is not JSON as svidproof writes it: {because}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"[" * 100_000 + b"]" * 100_000, id="deepest"),
        pytest.param(b"\xef\xbb\xbf{}", id="byte-order-mark"),
        pytest.param('{"a": 1}'.encode("utf-16"), id="utf-16"),
        pytest.param(b'["\xed\xa0\x80"]', id="surrogate-bytes"),
        pytest.param(b'["\x00"]', id="control-character"),
        pytest.param(b"{} {}", id="two-values"),
        pytest.param(b"\x00" * 100, id="zeros"),
    ],
)
def test_what_is_not_json_is_refused(tmp_path: Path, content: bytes) -> None:
    """JSON is UTF-8."""
    path = tmp_path / "report.json"
    path.write_bytes(content)

    with pytest.raises(read.ReportError, match="is not JSON"):
        read.load(path)


def test_real_json_is_read_as_it_is(tmp_path: Path) -> None:
    """With everything that a report has."""
    content = {"a": [1, -2, 0.5, 1e-7, True, None, "ü\U0001f600\n"], "b": {"c": {}}}
    path = tmp_path / "report.json"
    path.write_text(json.dumps(content))

    assert read.load(path) == content


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(here)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(read.LARGEST + 1)


@pytest.mark.parametrize(
    ("place", "because"),
    [
        pytest.param(os.mkfifo, "is not a regular file", id="fifo"),
        pytest.param(_socket, "is not a regular file", id="socket"),
        pytest.param(
            lambda p: p.symlink_to("/dev/zero"), "is a symlink: pass the real path", id="device"
        ),
        pytest.param(
            lambda p: p.symlink_to("nowhere"), "is a symlink: pass the real path", id="dangling"
        ),
        pytest.param(lambda p: p.symlink_to(p.name), "is a symlink: pass the real path", id="loop"),
        pytest.param(
            lambda p: p.symlink_to("real.json"), "is a symlink: pass the real path", id="symlink"
        ),
        pytest.param(_sparse, "is larger than 64 MiB, too large for a report", id="gigantic"),
    ],
)
@pytest.mark.parametrize("named", [True, False], ids=["named", "found"])
def test_only_a_regular_file_is_a_report(
    verify: Command, tmp_path: Path, place: Place, because: str, *, named: bool
) -> None:
    """It is refused at once, whether it is named or found below a directory."""
    path = tmp_path / "run" / "report.json"
    path.parent.mkdir()
    (path.parent / "real.json").write_text("{}")
    place(path)

    code, out, err = verify(path if named else tmp_path)

    assert (code, err) == (1, "")
    assert out == f"{path}: refused: {path} {because}\n"


def test_device_is_never_opened(verify: Command) -> None:
    """It would never end."""
    code, out, _ = verify("/dev/zero")

    assert (code, out) == (1, "/dev/zero: refused: /dev/zero is not a regular file\n")


def test_symlinked_folder_is_refused(
    verify: Command, tmp_path: Path, report: dict[str, Any]
) -> None:
    """What lies behind it would not be judged, but others might use it."""
    real = tmp_path / "real"
    real.mkdir()
    publish.publish(report, real)
    above = tmp_path / "reports"
    (above / "deep").mkdir(parents=True)
    (above / "deep" / "run").symlink_to(real)

    code, out, _ = verify(above)

    link = above / "deep" / "run"
    assert (code, out) == (1, f"{link}: refused: {link} is a symlink: pass the real path\n")


def test_symlink_that_is_named_may_lead_to_a_directory(tmp_path: Path) -> None:
    """`reports/latest` is what the user means; by both names it is one report."""
    real = tmp_path / "real"
    real.mkdir()
    (real / "report.json").write_text("{}")
    latest = tmp_path / "latest"
    latest.symlink_to(real)

    assert read.find([str(latest)]) == [latest / "report.json"]
    assert read.find([str(real), str(latest), f"{real}/report.json"]) == [real / "report.json"]


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2Jb", "a\udcffb"], ids=["line", "escape", "byte"])
@pytest.mark.parametrize("form", ["table", "json", "markdown"])
def test_odd_path_is_one_line(verify: Command, tmp_path: Path, name: str, form: str) -> None:
    """It does nothing to a terminal, and is no reason to say nothing."""
    directory = tmp_path / name
    directory.mkdir()
    (directory / "report.json").write_text("{}")

    code, out, err = verify(tmp_path, "--format", form)

    assert (code, err) == (1, "")
    assert "its path does not fit on one line: rename it" in out
    assert "\x1b" not in out
    if form == "json":
        assert json.loads(out)["reports"][0]["path"] == f"{tmp_path}/{name}/report.json"


def test_report_that_breaks_a_rule_by_force_is_refused(
    verify: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong while it is judged."""

    def broken(_report: object) -> None:
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr(read, "unsoundness", broken)
    path = tmp_path / "report.json"
    path.write_text("{}")

    assert verify(path) == (
        1,
        f"{path}: refused: internal error, it cannot be judged: ZeroDivisionError: by zero\n",
        "",
    )


@pytest.mark.parametrize(
    ("words", "because"),
    [
        pytest.param(["--profile="], "--profile is empty: give it a value", id="no-profile"),
        pytest.param(["--profile=core,"], "--profile core, has an empty part", id="half-a-profile"),
        pytest.param(["--subject="], "--subject is empty: give it a value", id="no-subject"),
        pytest.param(["--expect=istio=1"], "unknown component istio: there are ", id="name"),
        pytest.param(
            ["--expect=envoy.x=1"], "envoy.x: unknown attribute x: there are version", id="at"
        ),
        pytest.param(["--matrix=istio=1/2"], "unknown component istio: there are", id="matrix"),
        pytest.param(["--max-age=1w"], "1w is not an age such as 90m, 24h or 7d", id="age"),
    ],
)
def test_what_asks_for_less_than_is_meant_is_a_mistake(
    verify: Command, tmp_path: Path, words: list[str], because: str
) -> None:
    """An empty variable must not open the gate."""
    code, out, err = verify(tmp_path, *words)

    assert (code, out) == (2, "")
    assert err.startswith(f"svidproof: {because}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("form", ["table", "json", "markdown"])
@pytest.mark.parametrize(
    ("redirection", "expected", "complaint"),
    [
        pytest.param(">/dev/full", 3, "svidproof: cannot write what was decided: ", id="full"),
        pytest.param(">&-", 1, "svidproof: cannot write to stdout: it is closed", id="closed"),
        pytest.param("| true", 1, "", id="nobody-reads"),
    ],
)
def test_decision_that_cannot_be_told_is_no_acceptance(
    tmp_path: Path, form: str, redirection: str, expected: int, complaint: str
) -> None:
    """One line on standard error, and no exit code of a success."""
    (tmp_path / "report.json").write_text("{}")
    command = f'set -o pipefail; "$0" -P -c "$1" verify --format {form} . {redirection}'
    program = (
        "from svidproof import cli, listing; listing.by_requirement = dict; "
        "import sys; sys.argv[0] = 'svidproof'; cli.main()"
    )

    done = subprocess.run(
        ["/bin/bash", "-c", command, sys.executable, program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == expected, done.stderr
    assert done.stderr.startswith(complaint)
    assert done.stderr.count("\n") == (1 if complaint else 0)
