"""A stranger understands the verdict in ten seconds, on a terminal and in a log."""

import io
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from svidproof.model.catalogue import Catalogue
from svidproof.model.verdict import Result
from svidproof.report import build
from svidproof.report.model import Check, Component, Evidence
from svidproof.report.text import terminal
from svidproof.report.text.markdown import visible
from svidproof.report.text.terminal import Screen

Spoil = Callable[..., Evidence]


class Stream(io.StringIO):
    """A stream that says of itself what it is."""

    encoding = "utf-8"

    def __init__(self, *, tty: bool = False) -> None:
        """A terminal or a pipe."""
        super().__init__()
        self._tty = tty

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._tty


class Ascii(Stream):
    """A stream of an old machine."""

    encoding = "ascii"


def shown(spoiled: Evidence, catalogue: Catalogue) -> str:
    """The summary of a run in a log."""
    screen = Screen(Stream(), environ={})
    return "\n".join(terminal.summary(screen, build.build(spoiled, catalogue), ["out/report.json"]))


def test_summary_ends_with_verdict_and_report(report: dict[str, Any]) -> None:
    """Profile by counts, deviations with their link, verdict, why, and where."""
    lines = terminal.summary(
        Screen(Stream(), environ={}), report, ["out/report.json", "out/report.html"]
    )

    assert lines == [
        "",
        "profile core          core 2/2 · 1 with a known deviation · extended 1/1",
        "known deviations",
        "≈ ONE-2 (1 check), envoy >=1.36",
        "    Envoy is lax",
        "    https://example.org/lax",
        "",
        "CONFORMANT: all 3 requirements hold, 1 with a known deviation",
        "out/report.json",
        "out/report.html",
    ]


def test_summary_is_honest(spoil: Spoil, catalogue: Catalogue) -> None:
    """A failure, a part, a sabotage and a stop are told with the verdict."""
    assert "NOT CONFORMANT: ONE-1 does not hold" in shown(spoil("test_a"), catalogue)
    assert "partial" in shown(spoil(selection="partial"), catalogue)
    assert "(sabotaged: lax)" in shown(spoil(sabotage="lax"), catalogue)
    assert "INCONCLUSIVE: interrupted" in shown(spoil(stopped="interrupted"), catalogue)
    assert "warning: slow" in shown(spoil(warnings=("slow",)), catalogue)


def test_failure_is_told_below_its_requirement(catalogue: Catalogue) -> None:
    """Why, once for each reason, and where the evidence is."""
    checks = [
        Check(f"a.py::test_x[{name}]", ("ONE-1",), "", Result.FAIL, 0.1, "got 200", None, "art/x")
        for name in ("expired", "other-ca")
    ]

    lines = terminal.requirement_lines(
        Screen(Stream(), environ={}), catalogue["ONE-1"], Result.FAIL, checks, "out"
    )

    assert lines == [
        "✘ ONE-1         It holds [fail]  2 checks  0.2 s",
        "    expired (and 1 more): got 200",
        "      see out/art/x/",
    ]


def test_header_names_what_is_tested() -> None:
    """Components of one version and origin are told together."""
    components = [
        Component("spire-server", "1.15.3", "release", ""),
        Component("spire-agent", "1.15.3", "release", ""),
        Component("envoy", "1.40.0", "given", ""),
    ]

    assert terminal.header("0.1.0", "local", ["core"], components) == [
        "svidproof 0.1.0 · platform local · profile core",
        "spire-server + spire-agent 1.15.3 (release) · envoy 1.40.0 (given)",
    ]


@pytest.mark.parametrize(
    ("tty", "environ", "coloured"),
    [
        pytest.param(True, {}, True, id="terminal"),
        pytest.param(False, {}, False, id="pipe"),
        pytest.param(True, {"NO_COLOR": "1"}, False, id="no-color"),
        pytest.param(True, {"TERM": "dumb"}, False, id="dumb"),
        pytest.param(False, {"FORCE_COLOR": "1"}, True, id="forced"),
        pytest.param(True, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, id="no-color-wins"),
    ],
)
def test_colours_are_for_terminals(environ: dict[str, str], *, tty: bool, coloured: bool) -> None:
    """NO_COLOR is honoured, and a log has no escapes."""
    screen = Screen(Stream(tty=tty), environ=environ)

    assert ("\x1b[" in screen.paint("x", "red")) is coloured


def test_progress_is_in_place_on_a_terminal() -> None:
    """The next line that stays takes it away."""
    stream = Stream(tty=True)
    screen = Screen(stream, environ={"NO_COLOR": "1"})

    screen.progress("waiting")
    screen.line("done")

    assert stream.getvalue() == "waiting\r\x1b[Kdone\n"


def test_progress_is_rare_in_a_log() -> None:
    """One line at once, and the next after ten seconds."""
    stream = Stream()
    screen = Screen(stream, environ={})

    for number in range(5):
        screen.progress(f"waiting {number}")

    assert stream.getvalue() == "waiting 0\n"


def test_old_terminals_get_plain_signs() -> None:
    """Nothing breaks where there is no UTF-8, or no reader any more."""
    stream = Ascii()
    screen = Screen(stream, environ={}, forgiving=True)
    screen.line(f"{screen.mark(Result.PASS)} a · b")
    assert stream.getvalue() == "+ a ? b\n"

    stream.close()
    screen.line("into the void")


HOSTILE = "\x1b]0;title\x07\x1b[31mred\x1b[2J \x9b1A \u202ebidi \ud800 \r\x08"


@pytest.mark.parametrize("environ", [{}, {"FORCE_COLOR": "1"}])
def test_nothing_of_others_reaches_the_terminal(
    environ: dict[str, str], spoil: Spoil, catalogue: Catalogue
) -> None:
    """Neither from a report nor from a component or a check; our own colours do."""
    stream = Stream(tty=True)
    screen = Screen(stream, environ=environ)
    found = build.build(spoil(warnings=(HOSTILE,), stopped=HOSTILE, environment=HOSTILE), catalogue)
    component = Component("envoy", f"1{HOSTILE}", HOSTILE, "a" * 64)
    check = Check(f"a.py::test_a[{HOSTILE}]", ("ONE-1",), "It does", Result.FAIL, 0.5, HOSTILE)

    for line in (
        HOSTILE,
        *terminal.header("1", "local", ["core"], [component]),
        *terminal.requirement_lines(screen, catalogue["ONE-1"], Result.FAIL, [check], "out"),
        *terminal.summary(screen, found, ["out/report.json"]),
        screen.paint(HOSTILE, "red"),
    ):
        screen.line(line)
    screen.progress(HOSTILE)

    shown = stream.getvalue()
    ours = re.compile(r"\x1b\[(0|1|2|31|32|33|1;3[123])m|\r\x1b\[K")
    assert [c for c in ours.sub("", shown) if not c.isprintable() and c != "\n"] == []
    assert "\x1b[31mred" not in shown.replace(f"\x1b[31m{visible(HOSTILE)}", "")
    shown.encode()


def test_json_stays_the_same_json() -> None:
    """What a terminal must not get is written as JSON escapes it."""
    stream = Stream()
    content = {"text": f"{HOSTILE}\U000e0001 ä →"}

    Screen(stream, environ={}).line(json.dumps(content, indent=2, ensure_ascii=False))

    assert json.loads(stream.getvalue()) == content
    assert "\\ud800" in stream.getvalue()
    assert "ä →" in stream.getvalue()


def test_line_that_cannot_be_written_is_an_error() -> None:
    """Except where nobody reads any more, or the report tells the same."""

    class Full(Stream):
        def write(self, _text: str) -> int:
            raise OSError(28, "No space left on device")

    class Gone(Stream):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    with pytest.raises(terminal.OutputError, match=r"cannot write .*: No space left on device"):
        Screen(Full(), environ={}).line("x")
    Screen(Full(), environ={}, forgiving=True).line("x")
    Screen(Gone(), environ={}).line("x")
