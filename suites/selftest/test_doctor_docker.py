"""`svidproof doctor` says what Docker lacks for platform kind."""

import importlib.metadata
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from svidproof.cli import doctor
from svidproof.cli.doctor import docker, machine
from svidproof.cli.doctor.finding import Finding
from svidproof.platforms import registry
from svidproof.platforms.protocol import SiteOptions

Docker = Callable[..., dict[str, Finding]]
VERSION = {"Client": {"Version": "28.2.2"}, "Server": {"Version": "29.0.1"}}


@pytest.fixture
def bin_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The first directory of PATH, with no docker in it nor behind it."""
    path = tmp_path / "bin"
    path.mkdir()
    for name in ("cat", "sh"):
        (path / name).symlink_to(f"/bin/{name}")
    monkeypatch.setenv("PATH", str(path))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    return path


@pytest.fixture
def look(bin_: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Docker:
    """Looks at a Docker that answers as it is told: by name, what was found."""
    answers = tmp_path / "answers"
    answers.mkdir()
    limits = tmp_path / "inotify"
    limits.mkdir()
    monkeypatch.setattr(docker, "_INOTIFY", limits)

    def tell(command: str, out: object = "", err: str = "", code: int = 0) -> None:
        text = out if isinstance(out, str) else json.dumps(out)
        for kind, content in (("out", text), ("err", err), ("code", str(code))):
            (answers / f"{command}.{kind}").write_text(content)

    (bin_ / "docker").write_text(
        f'#!{bin_}/sh\necho "$*" >> {answers}/asked\ncat {answers}/$1.err >&2\n'
        f"cat {answers}/$1.out\nexit $(cat {answers}/$1.code)\n"
    )
    (bin_ / "docker").chmod(0o755)
    tell("version", VERSION)
    tell("image")
    tell("run")

    def run(
        *, info: dict[str, object] | None = None, inotify: int = 1 << 20, **told: tuple[Any, ...]
    ) -> dict[str, Finding]:
        here = {
            "Name": socket.gethostname(),
            "CgroupVersion": "2",
            "DockerRootDir": str(tmp_path),
            "RegistryConfig": {"InsecureRegistryCIDRs": ["::1/128", "127.0.0.0/8"]},
        }
        tell("info", {**here, **(info or {})})
        for name in ("max_user_watches", "max_user_instances"):
            (limits / name).write_text(f"{inotify}\n")
        for command, answer in told.items():
            tell(command, *answer)
        return {finding.name: finding for finding in docker.findings()}

    return run


def test_machine_without_docker_is_told_where_to_get_it(bin_: Path) -> None:
    """There is nothing more to see then."""
    (finding,) = docker.findings()

    assert not (bin_ / "docker").exists()
    assert (finding.name, finding.ok) == ("docker", False)
    assert "install Docker" in finding.hint


def test_docker_that_can_do_all_is_well(look: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what cannot be tried is left open, and everything that is not fine has a hint."""
    monkeypatch.setattr(docker, "_DISK_GIB", 0.0)
    monkeypatch.setattr(docker, "MEMORY_GIB", 0.0)
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/mine.sock")

    found = look()

    assert found["docker"].found == "29.0.1, client 28.2.2 at unix:///run/mine.sock (DOCKER_HOST)"
    assert {name: f.ok for name, f in found.items()} == {
        **dict.fromkeys(found, True),
        "privileged": None,
    }
    assert found["privileged"].hint


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("Cannot connect to the Docker daemon at unix:///run/x.sock.", "start Docker"),
        ("permission denied while trying to connect to /run/x.sock", "join the group docker"),
        ("dial tcp: lookup nowhere: no such host", "correct DOCKER_HOST"),
        ("", "start Docker"),
    ],
)
def test_daemon_that_is_not_reached_ends_it(look: Docker, said: str, hint: str) -> None:
    """What Docker said, and what to do; nothing else is asked."""
    found = look(version=({"Client": {"Version": "1"}, "Server": None}, said, 1))

    assert list(found) == ["docker"]
    assert found["docker"].ok is False
    assert said in found["docker"].found
    assert found["docker"].found
    assert hint in found["docker"].hint


def test_program_that_is_not_docker_is_no_traceback(look: Docker) -> None:
    """What is not JSON tells of no server."""
    assert look(version=("hello",))["docker"].ok is False


@pytest.mark.parametrize(
    ("run", "ok", "found"),
    [
        pytest.param(("",), True, "allowed", id="allowed"),
        pytest.param(("", "privileged mode is disabled", 125), False, "disabled", id="refused"),
        pytest.param(("", "exec: true: not found", 127), None, "not found", id="no-command"),
    ],
)
def test_privileged_containers_are_tried_with_an_image_of_ours(
    look: Docker,
    tmp_path: Path,
    run: tuple[Any, ...],
    found: str,
    *,
    ok: bool | None,
) -> None:
    """One that is here, and is never pulled."""
    finding = look(image=("abc\ndef\n",), run=run)["privileged"]

    asked = (tmp_path / "answers" / "asked").read_text()
    assert finding.ok is ok
    assert found in finding.found
    assert finding.hint or ok
    assert "image ls --quiet --filter=reference=localhost/svidproof/node --filter" in asked
    assert "run --rm --pull never --network none --privileged --entrypoint true abc" in asked


@pytest.mark.parametrize(
    ("info", "ok"),
    [
        pytest.param({"CgroupVersion": "2"}, True, id="2"),
        pytest.param({"CgroupVersion": "1"}, None, id="1"),
        pytest.param({"CgroupVersion": ""}, None, id="unknown"),
        pytest.param(
            {"CgroupVersion": "1", "SecurityOptions": ["name=rootless"]}, False, id="1-rootless"
        ),
        pytest.param(
            {"CgroupVersion": "2", "SecurityOptions": ["name=rootless"]}, True, id="2-rootless"
        ),
    ],
)
def test_cgroup_version_is_told(look: Docker, info: dict[str, object], *, ok: bool | None) -> None:
    """Version 1 still does, but not for Docker without root."""
    finding = look(info=info)["cgroup"]

    assert finding.ok is ok
    assert finding.ok or "systemd.unified_cgroup_hierarchy=1" in finding.hint


def test_few_inotify_watches_are_a_warning(look: Docker) -> None:
    """With the value, what is recommended, and the command; only for what is too low."""
    finding = look(inotify=1024)["inotify"]

    assert finding.ok is None
    assert "max_user_watches 1024 of 524288 or more" in finding.found
    assert finding.hint == "sudo sysctl fs.inotify.max_user_watches=524288"


def test_docker_without_room_will_not_do(look: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too little disk or memory fails, with both numbers."""
    monkeypatch.setattr(docker, "_DISK_GIB", 1e9)
    monkeypatch.setattr(docker, "MEMORY_GIB", 1e9)

    found = look()

    assert found["docker disk"].ok is False
    assert found["docker memory"].ok is False
    assert "docker system df" in found["docker disk"].hint


def test_docker_elsewhere_is_not_measured_here(look: Docker) -> None:
    """Its memory it tells itself; this machine's disk and limits say nothing about it."""
    found = look(info={"Name": "elsewhere", "MemTotal": 8 << 30})

    assert found["docker disk"].ok is None
    assert found["inotify"].ok is None
    assert "another machine" in found["inotify"].hint
    assert found["docker memory"] == Finding(
        "docker memory", ok=True, found="8.0 GiB in all, 4 needed", hint=found["docker memory"].hint
    )
    assert look(info={"Name": "elsewhere", "MemTotal": 1 << 30})["docker memory"].ok is False


def test_docker_that_demands_tls_of_a_local_registry(look: Docker) -> None:
    """Only one way to bring images needs it, which is named."""
    finding = look(info={"RegistryConfig": {"InsecureRegistryCIDRs": ["10.0.0.0/8"]}})

    assert finding["local registry"].ok is None
    assert "--images registry needs 127.0.0.0/8" in finding["local registry"].hint


def test_packages_of_the_extra_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs them."""
    (there,) = machine.packages(("pytest",))
    (missing,) = machine.packages(("no-such-package",))

    assert (there.ok, missing.ok) == (True, False)
    assert "svidproof[kubernetes]" in missing.hint

    def none(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", none)
    monkeypatch.setattr(registry, "check", lambda _name: None)
    found = doctor.examine({}, "cluster", SiteOptions())
    assert [f.name for f in found if f.ok is False] == ["kubernetes"]


def test_kind_looks_at_docker_tools_and_packages(
    look: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside what every platform needs."""
    look()
    monkeypatch.setattr(registry, "check", lambda _name: None)

    names = [finding.name for finding in doctor.examine({}, "kind", SiteOptions())]

    needed = {"docker", "privileged", "kind", "kubectl", "kubernetes", "pytest-kind"}
    assert needed | {"local registry", "registry"} <= set(names)
    assert names[0] == "python"
