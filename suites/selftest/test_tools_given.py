"""A binary that the user gives is asked what it is before anything is concluded from it."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from svidproof.model.capabilities import AT_NEED, Capability
from svidproof.model.scenario import scenario_names
from svidproof.run.request.options import RunRequest
from svidproof.run.request.selection import Selection
from svidproof.supply import tools
from svidproof.supply.tools import Tool, inspection, pins

ENVOY = "envoy  version: bad8280de85c25b147a90c1d9b8a8c67a13e7134/1.40.0/Clean/RELEASE/BoringSSL"


def script(path: Path, body: str) -> Path:
    """Write an executable script."""
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture
def envoy(tmp_path: Path) -> Path:
    """Return a wrapper that answers as Envoy does."""
    return script(tmp_path / "my-envoy", f"echo\necho '{ENVOY}'")


@pytest.fixture(autouse=True)
def _no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVIDPROOF_CACHE", str(tmp_path / "cache"))
    for name in tools.known_tools():
        monkeypatch.delenv(tools.variable(name), raising=False)


@pytest.fixture
def asked(envoy: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The tools that are resolved, and their versions; nothing is made."""
    versions: dict[str, str] = {}

    def resolve(name: str, **how: str) -> Tool:
        versions[name] = how["version"]
        return Tool(name, "1", envoy, "given", "", "")

    monkeypatch.setattr(tools, "resolve", resolve)
    return versions


def test_suite_knows_its_tools() -> None:
    """The pins name the SPIRE server and agent and Envoy, each with its default version."""
    known = tools.known_tools()

    assert {"spire-server", "spire-agent", "envoy"} <= {*known}
    for name in known:
        pin = pins.current().tool(name)
        assert pin.version in tools.known_versions(name) or not pin.sources


def test_each_purpose_has_its_own_tools() -> None:
    """What images are made of is not installed for platform local; an unknown purpose is told."""
    assert tools.needed_for("local") == tools.UNDER_TEST
    assert tools.needed_for("kind") == ("kind", "kubectl")
    assert {*tools.UNDER_TEST, "kubelet", "etcd", "coredns"} < {*tools.needed_for("images")}
    uses = ("local", "kind", "images", "registry", "some-checks", "some-scenarios")
    assert {n for use in uses for n in tools.needed_for(use)} == {*tools.known_tools()}
    at_need = {name for names in AT_NEED.values() for name in names}
    assert {*tools.needed_for("some-checks")} == at_need
    with pytest.raises(tools.ToolUsageError, match="no tool is for 'moon': there are local, "):
        tools.needed_for("moon")


@pytest.mark.parametrize(
    ("platform", "images", "needed"),
    [
        pytest.param("local", "pull", ["spire-server", "spire-agent", "envoy"], id="local"),
        pytest.param("kind", "build", ["spire-server", "spire-agent", "envoy"], id="built"),
        pytest.param("kind", "pull", ["envoy"], id="pulled"),
        pytest.param("kind", "pull,registry", ["envoy"], id="pulled-registry"),
        pytest.param(
            "kind",
            "build,registry",
            ["spire-server", "spire-agent", "envoy", "registry"],
            id="built-registry",
        ),
        pytest.param("cluster", "pull", [], id="cluster"),
    ],
)
def test_only_what_the_platform_needs_is_made(
    asked: dict[str, str], envoy: Path, platform: str, images: str, needed: list[str]
) -> None:
    """Images that are pulled need no binaries, but for those that the user gives."""
    given = (f"envoy={envoy}",)
    wanted = RunRequest(platform=platform, images=images, tools=given, spire="1.14.0")
    chosen = Selection(wanted, (), (), frozenset(), narrowed=False)

    assert list(chosen.resolve_tools(chosen.site(["api"]))) == needed
    assert asked == {name: "1.14.0" if name.startswith("spire") else None for name in needed}


@pytest.mark.parametrize("name", scenario_names())
def test_further_tools_are_those_of_the_scenarios_used(asked: dict[str, str], name: str) -> None:
    """What only one scenario needs is got for it, in the version asked for, and for no other."""
    wanted = RunRequest(spire="1.14.0", spiffe_helper="0.10.1")
    chosen = Selection(wanted, (), (), frozenset(), narrowed=False)
    further = ("spiffe-helper",) if name == "manifest" else ()

    found = chosen.resolve_tools(chosen.site([name]))

    assert tuple(found) == (*tools.UNDER_TEST, *further)
    assert [asked[tool] for tool in further] == ["0.10.1" for _ in further]


def test_every_pinned_checksum_is_a_sha256() -> None:
    """No checksum of the pins is a placeholder or cut short."""
    text = (pins.data_directory() / "tools.toml").read_text(encoding="utf-8")

    sums = re.findall(r'^(?:linux|darwin)-\w+ = "(.*)"$', text, re.MULTILINE)

    assert sums
    assert all(re.fullmatch(r"[0-9a-f]{64}", each) and len({*each}) > 8 for each in sums)


def test_given_binary_is_put_under_test(envoy: Path) -> None:
    """A binary given by path is used as it is, with the version that it tells."""
    tool = tools.resolve("envoy", given=tools.parse_given([f"envoy={envoy}"]))

    assert (tool.path, tool.version, tool.source) == (envoy, "1.40.0", "given")
    assert re.fullmatch(r"[0-9a-f]{64}", tool.sha256)


def test_environment_gives_a_binary(envoy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SVIDPROOF_TOOL_<NAME> gives a binary as the option does."""
    monkeypatch.setenv("SVIDPROOF_TOOL_ENVOY", str(envoy))

    tool = tools.resolve("envoy")

    assert (tool.path, tool.source) == (envoy, "given")


def test_binary_that_tells_no_version_is_known_by_its_options(tmp_path: Path) -> None:
    """Its version is unknown; another program is refused all the same."""
    path = script(tmp_path / "manager", "printf '  -config x\\n  -spire-api-socket x\\n' >&2")

    assert tools.inspect("spire-controller-manager", path).version == "unknown"
    with pytest.raises(tools.ToolUsageError, match="is not spire-controller-manager"):
        tools.inspect("spire-controller-manager", script(tmp_path / "other", "echo -config"))


def test_tool_that_nothing_here_makes_can_be_given(tmp_path: Path) -> None:
    """The line says that, and how it is given."""
    with pytest.raises(
        tools.ToolError, match="no source provides it; or supply your own"
    ) as raised:
        tools.resolve("spiffe-csi-driver")

    assert "--tool spiffe-csi-driver=PATH" in str(raised.value)
    driver = script(tmp_path / "driver", 'echo "spiffe-csi-driver (version 0.2.9)" >&2')
    assert tools.resolve("spiffe-csi-driver", given={"spiffe-csi-driver": driver}).path == driver


@pytest.mark.parametrize(
    ("wanted", "made"),
    [
        pytest.param(RunRequest(images="build"), ["spiffe-csi-driver", "node-driver-registrar"],
                     id="build"),
        pytest.param(RunRequest(images="pull"), [], id="pull"),
        pytest.param(RunRequest(images="pull", tools=("spiffe-csi-driver={path}",)),
                     ["spiffe-csi-driver"], id="pull-given"),
        pytest.param(RunRequest(images="build", image=("spiffe-csi-driver=x",)),
                     ["node-driver-registrar"], id="own-image"),
        pytest.param(RunRequest(images="build", spire_namespace="spire"), [], id="tenant"),
    ],
)  # fmt: skip
def test_what_some_checks_need_is_made_for_them_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: RunRequest, made: list[str]
) -> None:
    """Binaries of what is wanted are got where images are built, or where the user gives them."""
    path = script(tmp_path / "program", ":")
    wanted = replace(wanted, tools=tuple(item.format(path=path) for item in wanted.tools))
    asked: list[str] = []

    def resolve(name: str, **_: object) -> Tool:
        asked.append(name)
        raise tools.ToolError(f"no {name}")

    monkeypatch.setattr(tools, "resolve", resolve)
    chosen = Selection(wanted, (), (), frozenset(), narrowed=False)
    silent = tools.Progress.silent()

    nothing = chosen.resolve_at_need(wanted.site(), silent)
    options = replace(wanted.site(), wanted=frozenset({Capability.CSI, Capability.PAUSE}))
    found, absent = chosen.resolve_at_need(options, silent)

    assert nothing == ({}, {})
    assert asked == made
    assert (found, absent) == ({}, {name: f"no {name}" for name in made})


def test_option_goes_before_environment(
    envoy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A binary given by option is used although the environment names another."""
    monkeypatch.setenv("SVIDPROOF_TOOL_ENVOY", str(tmp_path / "nowhere"))

    assert tools.resolve("envoy", given={"envoy": envoy}).path == envoy


@pytest.mark.parametrize(
    ("item", "message"),
    [
        pytest.param("envoy", "write NAME=PATH", id="no-equals"),
        pytest.param("envoy=", "write NAME=PATH", id="no-path"),
        pytest.param("nginx=/bin/sh", "'nginx' is not a tool", id="unknown-tool"),
        pytest.param("envoy={tmp}/nowhere", "does not exist", id="missing"),
        pytest.param("envoy={tmp}", "is not a file", id="directory"),
        pytest.param("envoy={tmp}/plain", "is not executable", id="not-executable"),
    ],
)
def test_wrong_option_is_a_usage_error(tmp_path: Path, item: str, message: str) -> None:
    """A --tool that cannot be meant is refused in one line that says why."""
    (tmp_path / "plain").touch()

    with pytest.raises(tools.ToolUsageError, match=message) as raised:
        tools.parse_given([item.format(tmp=tmp_path)])

    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(":", "is not envoy: its --version printed nothing like", id="silent"),
        pytest.param("echo nginx 1.2.3", "is not envoy", id="another-program"),
        pytest.param("echo no libssl >&2; exit 127", r"exit code 127 \(no libssl\)", id="fails"),
        pytest.param("kill -SEGV $$", "killed by SIGSEGV", id="crashes"),
        pytest.param("exec sleep 60", "did not exit within", id="hangs"),
    ],
)
def test_wrong_program_is_a_usage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, message: str
) -> None:
    """A program that is not the tool, or does not start, is refused in one line."""
    monkeypatch.setattr(inspection, "_SECONDS", 0.5)
    path = script(tmp_path / "program", body)

    with pytest.raises(tools.ToolUsageError, match=message) as raised:
        tools.resolve("envoy", given={"envoy": path})

    assert "\n" not in str(raised.value)


def test_binary_for_another_machine_is_a_usage_error(tmp_path: Path) -> None:
    """A file that the kernel cannot run is refused in one line."""
    path = tmp_path / "program"
    path.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(57))
    path.chmod(0o755)

    with pytest.raises(tools.ToolUsageError, match="is it built for this machine"):
        tools.inspect("envoy", path)


def test_agent_does_not_pass_for_the_server(tmp_path: Path) -> None:
    """The server and the agent tell the same version and are still told apart."""
    path = script(
        tmp_path / "spire-agent",
        '[ "$1" = --version ] && echo 1.15.3 >&2 || echo "Usage: spire-agent [--version]"',
    )

    agent = tools.inspect("spire-agent", path)

    assert agent.version == "1.15.3"
    with pytest.raises(tools.ToolUsageError, match="is not spire-server: its --help"):
        tools.inspect("spire-server", path)


@pytest.mark.parametrize(
    ("name", "printed", "version"),
    [
        pytest.param("envoy", ENVOY, "1.40.0", id="envoy"),
        pytest.param("envoy", "/opt/e  version: 0/1.41.0-dev//DEBUG/", "1.41.0-dev", id="custom"),
        pytest.param("envoy", "edge version: f00/v1.39.3/Modified", "1.39.3", id="vendor"),
        pytest.param("spire-server", "1.15.3", "1.15.3", id="spire"),
        pytest.param("spire-agent", "1.16.0-dev-f00ba2", "1.16.0-dev-f00ba2", id="spire-dev"),
        pytest.param("spire-server", "warning\nv1.15.3-12-gabc", "1.15.3-12-gabc", id="describe"),
        pytest.param("spire-server", "jq-1.6", None, id="not-spire"),
        pytest.param("kind", "kind v0.33.0 go1.26.8 linux/amd64", "0.33.0", id="kind"),
        pytest.param("kubectl", "Client Version: v1.34.4\nKustomize Version: v5.7.1", "1.34.4",
                     id="kubectl"),
        pytest.param("kubeadm", 'kubeadm version: &version.Info{Major:"1", GitVersion:"v1.34.4"}',
                     "1.34.4", id="kubeadm"),
        pytest.param("kube-proxy", "Kubernetes v1.35.0-rc.1", "1.35.0-rc.1", id="kube-proxy"),
        pytest.param("etcd", "etcd Version: 3.6.8\nGit SHA: f00", "3.6.8", id="etcd"),
        pytest.param("coredns", "CoreDNS-1.14.6\nlinux/amd64, go1.26.8, ", "1.14.6", id="coredns"),
        pytest.param("envoy", "version: 1.40", None, id="not-envoy"),
        pytest.param("spiffe-csi-driver", "spiffe-csi-driver (version 0.2.9)\nProvides the",
                     "0.2.9", id="csi"),
        pytest.param("spiffe-csi-driver", "spiffe-csi-driver (version (devel))\n", "devel",
                     id="csi-checkout"),
        pytest.param("node-driver-registrar", "/usr/bin/csi-node-driver-registrar v2.16.0",
                     "2.16.0", id="registrar"),
        pytest.param("node-driver-registrar", "node-driver-registrar unknown\n", "unknown",
                     id="registrar-checkout"),
    ],
)  # fmt: skip
def test_version_is_read_leniently(name: str, printed: str, version: str | None) -> None:
    """Released, custom and development builds tell their version; other programs do not."""
    match = pins.current().tool(name).probes[0].pattern.search(printed)

    assert (match["version"] if match else None) == version


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        pytest.param(None, "1.40.0", id="default"),
        pytest.param("1.36.4", "1.36.4", id="exact"),
        pytest.param("v1.40.0", "1.40.0", id="tag"),
        pytest.param("1.39", "1.39.3", id="minor"),
    ],
)
def test_version_is_chosen_among_the_pinned(wanted: str | None, chosen: str) -> None:
    """A version may be asked for exactly, as a tag, or by its minor release."""
    assert pins.current().tool("envoy").choose(wanted) == chosen


def test_unpinned_version_is_a_usage_error() -> None:
    """A version without a pin is refused with the list of those that have one."""
    with pytest.raises(tools.ToolUsageError, match=r"spire-server 9\.9\.9 .* one of 1\.15\.3"):
        tools.resolve("spire-server", version="9.9.9")


def test_given_binary_of_another_version_is_a_usage_error(envoy: Path) -> None:
    """A given binary and a version that it does not have are a contradiction."""
    with pytest.raises(tools.ToolUsageError, match=r"is envoy 1\.40\.0, not the 1\.39"):
        tools.resolve("envoy", given={"envoy": envoy}, version="1.39")

    assert tools.resolve("envoy", given={"envoy": envoy}, version="1.40").path == envoy
