"""Images are named by their content, and what cannot be had is told in one line."""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from svidproof.model.capabilities import AT_NEED
from svidproof.supply import images, tools
from svidproof.supply.images import containerd, crds, engine, pins, preparing
from svidproof.supply.images.offline import debian, node
from svidproof.supply.images.recipe import Maker, Recipe, copy_into
from svidproof.supply.tools import Progress, Tool, download
from svidproof.supply.tools.cache import Cache
from svidproof.supply.tools.digests import sha256_of

Stub = Callable[[str], Path]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    """An empty cache."""
    monkeypatch.setenv("SVIDPROOF_CACHE", str(tmp_path / "cache"))
    return Cache.default()


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stub:
    """Puts a script in docker's place; what it was asked stands in the file that is returned."""
    folder, asked = tmp_path / "bin", tmp_path / "asked"
    folder.mkdir()
    asked.touch()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def write(script: str) -> Path:
        (folder / "docker").write_text(f'#!/bin/sh\necho "$*" >>{asked}\n{script}\n')
        (folder / "docker").chmod(0o755)
        return asked

    return write


@pytest.fixture
def no_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without docker and mmdebstrap."""
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, cache: Cache) -> Iterator[list[Recipe]]:
    """Everything but the making: the recipes that would be made."""
    asked: list[Recipe] = []
    monkeypatch.setattr(preparing._Order, "make", lambda _, recipes: asked.extend(recipes))
    monkeypatch.setattr(tools, "resolve", lambda name, **_: tool(name, cache, "1.34.4"))
    monkeypatch.setattr(tools, "cached", lambda *_, **__: None)
    monkeypatch.delenv(node.OVERLAY, raising=False)
    yield asked
    assert asked


def tool(
    name: str, cache: Cache, version: str, *, source: str = "wheel", content: str = ""
) -> Tool:
    """A binary that need not be there."""
    return Tool(name, version, cache.root / name, source, f"sha256 of {content or name}", "")


def components(cache: Cache, **changes: Tool) -> dict[str, Tool]:
    """The default SPIRE and Envoy."""
    found = {name: tool(name, cache, tools.known_versions(name)[0]) for name in images.NAMES[:3]}
    return found | {name.replace("_", "-"): changed for name, changed in changes.items()}


def recipe(**changes: object) -> Recipe:
    """A recipe to vary."""
    plain = Recipe(name="envoy", dockerfile="envoy", inputs=("a",), stage=lambda _: None, base="b")
    return replace(plain, **changes)  # type: ignore[arg-type]


class TestReferences:
    """An image's name tells its content, and nothing else."""

    def test_equal_recipes_have_one_name(self) -> None:
        """What is staged by another function, from another place, is the same image."""
        assert recipe().reference == recipe(stage=lambda _: None).reference

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param({"inputs": ("b",)}, id="content"),
            pytest.param({"inputs": ("a", "")}, id="more-content"),
            pytest.param({"base": "c"}, id="base"),
            pytest.param({"base": recipe(name="base")}, id="made-base"),
            pytest.param({"dockerfile": "workload"}, id="dockerfile"),
            pytest.param({"needs": (recipe(name="other"),)}, id="need"),
        ],
    )
    def test_every_input_counts(self, change: dict[str, object]) -> None:
        """Another input is another image."""
        assert recipe(**change).reference != recipe().reference

    def test_no_registry_is_meant(self) -> None:
        """The host part of a name is one that nothing can be pulled from."""
        assert recipe().reference.startswith("localhost/svidproof/envoy:")

    def test_mirror_and_order_of_packages_do_not_count(
        self, cache: Cache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The same packages from elsewhere are the same image."""
        before = debian.recipe("base", cache).reference
        monkeypatch.setenv(debian.MIRROR, "http://mirror.example/debian")
        turned = tuple(reversed(pins.current().debian["base"].packages))
        changed = {"base": replace(pins.current().debian["base"], packages=turned)}
        pinned = replace(pins.current(), debian=changed)
        monkeypatch.setattr(pins, "current", lambda: pinned)

        assert debian.recipe("base", cache).reference == before

    @pytest.mark.parametrize(
        ("version", "reference", "told"),
        [
            pytest.param("1.40.0", "docker.io/envoyproxy/envoy:v1.40.0", True, id="tag"),
            pytest.param("1.40.0", "docker.io/envoyproxy/envoy:v1.40.0@sha256:0", True, id="came"),
            pytest.param("1.39.3", "docker.io/envoyproxy/envoy:v1.39.3@sha256:dd", False, id="pin"),
            pytest.param("1.40.0", "registry.example/envoy:v1.40.0", False, id="the-users-own"),
        ],
    )
    def test_what_is_taken_by_its_tag_is_told(
        self, version: str, reference: str, *, told: bool
    ) -> None:
        """A digest that came with a tag is no pin."""
        text = pins.provenance("envoy", version, reference)

        assert text == f"{reference}{'; not pinned: pulled by tag' if told else ''}"

    def test_image_holds_what_the_report_names(self, tmp_path: Path, cache: Cache) -> None:
        """A binary that was changed after it was found does not get into an image."""
        binary = cache.root / "envoy"
        binary.parent.mkdir()
        binary.write_text("as found")
        found = tool("envoy", cache, "1.40.0")
        found = replace(found, sha256=sha256_of(binary))
        copy_into(tmp_path / "context", found)
        binary.write_text("as it is now")

        with pytest.raises(images.ImageError, match="changed while an image was built from it"):
            copy_into(tmp_path / "another", found)

        assert (tmp_path / "context/envoy").read_text() == "as found"

    def test_digest_pins_a_version(self) -> None:
        """A pulled version with a known digest is asked for by it, any other by its tag."""
        pulled = pins.Pulled("registry.example/envoy:v{version}", {"1.0.0": "sha256:aa"})

        assert pulled.at("1.0.0") == "registry.example/envoy:v1.0.0@sha256:aa"
        assert pulled.at("1.0.1") == "registry.example/envoy:v1.0.1"

    def test_every_component_can_be_pulled(self) -> None:
        """images.toml says where each component's image is, and its digests are digests."""
        pulled = pins.current().pulled

        at_need = {name for names in AT_NEED.values() for name in names}
        assert set(pulled) == {*images.NAMES[:3], *at_need, "base", "registry"}
        digests = [digest for image in pulled.values() for digest in image.digests.values()]
        assert digests
        assert all(d.startswith("sha256:") and len(d) == len("sha256:") + 64 for d in digests)


class TestMore:
    """What only some checks need has an image of its own, which no node holds."""

    def test_binary_becomes_an_image(self, cache: Cache, built: list[Recipe]) -> None:
        """It stands on nothing, and is to be loaded."""
        manager = tool("spire-controller-manager", cache, "0.6.2")

        prepared = images.prepare_more("build", manager, progress=Progress.silent())

        [made] = built
        assert (made.name, made.base) == (manager.name, None)
        assert prepared.references == {manager.name: made.reference}
        assert prepared.to_load == (made.reference,)

    def test_binary_of_the_users_own_goes_before_an_image(
        self, cache: Cache, built: list[Recipe]
    ) -> None:
        """It is in no registry."""
        driver = tool("spiffe-csi-driver", cache, "devel", source="given")

        prepared = images.prepare_more("pull", driver, progress=Progress.silent())

        assert prepared.sources == {driver.name: images.BUILT}
        assert [recipe.name for recipe in built] == [driver.name]

    def test_image_is_pulled(self, cache: Cache, docker: Stub) -> None:
        """By the name that its project gives it, at its version."""
        asked = docker("exit 1")
        driver = tool("spiffe-csi-driver", cache, "0.2.9", source="image")

        with pytest.raises(images.ImageError, match=r"spiffe-csi-driver:0\.2\.9 cannot be had"):
            images.prepare_more("pull", driver, progress=Progress.silent())

        assert "pull --quiet ghcr.io/spiffe/spiffe-csi-driver:0.2.9" in asked.read_text()


class TestDefinitions:
    """The kind ClusterSPIFFEID is the one of the version under test."""

    def test_binary_has_its_own(self, tmp_path: Path) -> None:
        """It lies beside it; without it the line says where it must be."""
        manager = Tool("spire-controller-manager", "x", tmp_path / "manager", "given", "", "")
        with pytest.raises(images.ImageError, match=f"at {tmp_path}/crds.yaml"):
            crds.of(manager, Progress.silent())

        (tmp_path / "crds.yaml").write_text("kind: x\n")

        assert crds.of(manager, Progress.silent()) == "kind: x\n"

    def test_file_of_a_cached_binary_is_the_pinned_one(self, tmp_path: Path) -> None:
        """What was changed in the cache does not get into a cluster."""
        manager = Tool("spire-controller-manager", "0.6.2", tmp_path / "m", "go-module", "", "")
        (tmp_path / "crds.yaml").write_text("kind: x\n")

        with pytest.raises(
            images.ImageError, match=r"crds\.yaml was changed after it was installed"
        ):
            crds.of(manager, Progress.silent())

    def test_release_has_the_file(self, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is fetched from the tag of its version, by the checksum that is pinned."""
        asked: list[tuple[str, str]] = []

        def fetch(url: str, folder: Path, sha256: str, _progress: Progress) -> Path:
            asked.append((url, sha256))
            folder.mkdir(parents=True)
            (folder / "x").write_text("kind: x\n")
            return folder / "x"

        monkeypatch.setattr(download, "fetch", fetch)
        manager = Tool("spire-controller-manager", "0.6.2", Path(), "image", "", "")

        assert crds.of(manager, Progress.silent()) == "kind: x\n"

        [(url, sha256)] = asked
        assert "/v0.6.2/" in url
        assert sha256 == pins.current().crds.sha256["0.6.2"]
        assert len(sha256) == 64
        with pytest.raises(images.ImageError, match=r"0\.7\.0 is not pinned: there is that of 0"):
            crds.of(replace(manager, version="0.7.0"), Progress.silent())
        assert cache.root.is_dir()


class TestNode:
    """The node holds what every run needs, and does not follow what one run tries."""

    def test_own_binary_does_not_make_a_new_node(self, cache: Cache, built: list[Recipe]) -> None:
        """Whoever tests a build of their own loads its image into the same node."""
        ours = images.prepare("build", components(cache))
        own = tool("spire-agent", cache, "1.15.3-dev", source="given", content="own")
        agent = components(cache)["spire-agent"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tools, "cached", lambda *_, **__: agent)
            theirs = images.prepare("build", components(cache, spire_agent=own))

        assert theirs.node == ours.node
        assert ours.to_load == ()
        assert theirs.to_load == (theirs.references["spire-agent"],)
        assert theirs.references["spire-agent"] != ours.references["spire-agent"]
        assert theirs.references["envoy"] == ours.references["envoy"]
        assert [recipe.name for recipe in built] == ["node", "node", "spire-agent"]

    def test_default_that_nothing_runs_is_not_made(self, cache: Cache, built: list[Recipe]) -> None:
        """A machine that never had the default SPIRE gets a node without it."""
        own = tool("spire-agent", cache, "1.15.3-dev", source="given", content="own")
        images.prepare("build", components(cache, spire_agent=own))

        held = {need.name for need in built[0].needs}
        assert {"spire-server", "envoy", "workload", "kube-proxy", "pause"} <= held
        assert "spire-agent" not in held

    def test_node_that_is_to_pull_holds_none_of_them(
        self, cache: Cache, built: list[Recipe]
    ) -> None:
        """It does not change with the suite's own programs either; all are brought to it."""
        prepared = images.prepare("build", components(cache), preload=False)

        held = {need.name for need in built[0].needs}
        assert "kube-proxy" in held
        assert not held & {*images.NAMES}
        assert set(prepared.to_load) == set(prepared.references.values())
        assert {recipe.name for recipe in built} == {"node", *images.NAMES}

    def test_overlay_makes_another_node(
        self,
        cache: Cache,
        built: list[Recipe],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Files, their content and whether they can be executed are part of the node."""
        overlay = tmp_path / "overlay"
        program = overlay / "usr/local/sbin/runc"
        nodes = [images.prepare("build", components(cache)).node]
        program.parent.mkdir(parents=True)
        monkeypatch.setenv(node.OVERLAY, str(overlay))
        for content, mode in (("a", 0o644), ("a", 0o755), ("b", 0o755)):
            program.write_text(content)
            program.chmod(mode)
            nodes.append(images.prepare("build", components(cache)).node)
        nodes.append(images.prepare("build", components(cache)).node)

        assert len(set(nodes)) == 4
        assert nodes[-1] == nodes[-2]
        assert {recipe.name for recipe in built} == {"node"}

    @pytest.mark.usefixtures("cache")
    def test_overlay_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A mistyped overlay is told, not left out."""
        monkeypatch.setenv(node.OVERLAY, "/nowhere")

        with pytest.raises(
            images.ImageError, match=r"SVIDPROOF_NODE_OVERLAY=/nowhere is not a dir"
        ):
            node._overlay()

    def test_files_of_the_node_are_there(self) -> None:
        """What kind looks for in a node image is among its files."""
        files = pins.current().directory / "node"

        for name in ("usr/local/bin/entrypoint", "kind/manifests/default-cni.yaml"):
            assert (files / name).is_file()


class TestMaker:
    """An image is made when it is not there, after what it stands on."""

    def test_second_run_makes_nothing(self, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
        """The engine's own list is the memory."""
        made: list[str] = []
        monkeypatch.setattr(engine, "build", lambda reference, *_, **__: made.append(reference))
        monkeypatch.setattr(engine, "ours", lambda: frozenset(made))
        base, need = recipe(name="base", base=None), recipe(name="need")
        wanted = recipe(base=base, needs=(need,))

        Maker(cache, Progress.silent()).make(wanted)
        once = list(made)
        Maker(cache, Progress.silent()).make(wanted)

        assert once == [need.reference, base.reference, wanted.reference]
        assert made == once

    def test_narrow_umask_does_not_reach_the_image(
        self, cache: Cache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever runs a program in the image can read what was staged."""
        seen: dict[str, str] = {}

        def stage(context: Path) -> None:
            (context / "site").mkdir(mode=0o700)
            (context / "site/module.py").touch(mode=0o600)
            (context / "site/program").touch(mode=0o700)

        def build(_: str, __: Path, context: Path, **___: object) -> None:
            seen.update({p.name: f"{p.stat().st_mode & 0o777:o}" for p in context.rglob("*")})

        monkeypatch.setattr(engine, "ours", frozenset)
        monkeypatch.setattr(engine, "build", build)
        Maker(cache, Progress.silent()).make(recipe(base=None, stage=stage))

        assert seen == {"site": "755", "module.py": "644", "program": "755"}

    def test_full_disk(self, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
        """Files that cannot be staged are told with the place that is full."""
        monkeypatch.setattr(engine, "ours", frozenset)

        def stage(_: Path) -> None:
            raise OSError(28, "No space left on device")

        with pytest.raises(images.ImageError, match=r"envoy cannot be built in .*No space left"):
            Maker(cache, Progress.silent()).make(recipe(base=None, stage=stage))

    @pytest.mark.usefixtures("cache")
    def test_failed_build_says_why(self, docker: Stub, tmp_path: Path) -> None:
        """The builder's own complaint is in the line, and the rest in the log that it names."""
        docker("echo 'Step 1/3'; echo 'ADD failed: no space left on device' >&2; exit 1")
        log = tmp_path / "log"

        with pytest.raises(images.ImageError, match="no space left on device") as error:
            engine.build(
                "a:b", tmp_path / "Dockerfile", tmp_path, base=None, log=log, installation="id"
            )

        assert str(log) in str(error.value)
        assert "free some space" in str(error.value)
        assert "\n" not in str(error.value)


class TestParseGiven:
    """`--image` items are read once, and wrong ones are told."""

    def test_items(self) -> None:
        """A reference may have a port, a tag and a digest."""
        items = ["envoy=localhost:5000/envoy:1@sha256:aa", "workload=w"]

        assert images.parse_given(items) == {
            "envoy": "localhost:5000/envoy:1@sha256:aa",
            "workload": "w",
        }

    @pytest.mark.parametrize(
        ("item", "why"),
        [
            pytest.param("envoy", "write NAME=REF", id="no-reference"),
            pytest.param("envoy=", "write NAME=REF", id="empty"),
            pytest.param(
                "nginx=a", "unknown image nginx: there are spire-server, spire-agent", id="name"
            ),
        ],
    )
    def test_wrong_item(self, item: str, why: str) -> None:
        """The message says what would be right."""
        with pytest.raises(images.ImageError, match=why):
            images.parse_given([item])


class TestErrors:
    """What a machine lacks is told in one line, with what to do."""

    @pytest.mark.usefixtures("cache")
    def test_unknown_mode(self) -> None:
        """There are two ways to get images."""
        with pytest.raises(images.ImageError, match=r"'push' is no way .* pull, build"):
            images.prepare("push", {})

    @pytest.mark.usefixtures("no_programs")
    def test_no_docker(self) -> None:
        """Without the command nothing can be had."""
        with pytest.raises(images.ImageError, match=r"no docker command .* install Docker"):
            engine.ours()

    def test_no_engine(self, docker: Stub) -> None:
        """An engine that does not answer is another matter than one that refuses."""
        docker(
            "echo 'Cannot connect to the Docker daemon at unix:///x. Is it running?' >&2; exit 1"
        )

        with pytest.raises(engine.EngineUnavailableError, match=r"no Docker Engine .*unix:///x"):
            engine.has("a:b")

    def test_image_that_is_not_here(self, docker: Stub) -> None:
        """An engine that does not know an image has answered."""
        docker("echo 'Error: No such image: a:b' >&2; exit 1")

        assert not engine.has("a:b")

    @pytest.mark.usefixtures("no_programs")
    def test_no_mmdebstrap(self, cache: Cache, tmp_path: Path) -> None:
        """The package that is missing is named."""
        with pytest.raises(images.ImageError, match=r"lacks: apt-get install mmdebstrap"):
            debian.recipe("base", cache).stage(tmp_path)

    def test_mirror_that_cannot_be_reached(
        self, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The line has mmdebstrap's complaint, and the variable that chooses a mirror."""
        program = tmp_path / "mmdebstrap"
        program.write_text('#!/bin/sh\nshift $(($# - 1)); echo "E: cannot reach $1" >&2\nexit 1\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv(debian.MIRROR, "http://mirror.example/debian")

        with pytest.raises(images.ImageError, match="mmdebstrap cannot make Debian") as error:
            debian.recipe("base", cache).stage(tmp_path)

        assert "http://mirror.example/debian" in str(error.value)
        assert "SVIDPROOF_DEBIAN_MIRROR" in str(error.value)


class TestLoad:
    """Nodes get the images that they lack, and no others."""

    @pytest.mark.usefixtures("cache")
    def test_node_that_has_all(self, docker: Stub) -> None:
        """Nothing is saved when nothing is lacking."""
        asked = docker("echo a:b; echo c:d")

        containerd.load("demo", ["one", "two"], ["a:b"], progress=Progress.silent())

        assert "save" not in asked.read_text()

    @pytest.mark.usefixtures("cache")
    def test_node_that_lacks_one(self, docker: Stub) -> None:
        """Only what is lacking is saved, and only the node that lacks it gets it."""
        asked = docker(
            'case "$*" in "exec two"*) echo a:b;; esac\n'
            'case "$*" in *" ls "*) echo c:d;; "save "*) touch "$3";; esac'
        )

        containerd.load("demo", ["one", "two"], ["a:b", "c:d"], progress=Progress.silent())

        commands = asked.read_text().splitlines()
        assert [c.split()[-1] for c in commands if c.startswith("save")] == ["a:b"]
        assert [c.split()[2] for c in commands if "import" in c] == ["one"]

    @pytest.mark.usefixtures("cache")
    def test_node_that_refuses(self, docker: Stub) -> None:
        """What containerd said is in the line."""
        docker('case "$*" in *import*) echo "ctr: no space left on device" >&2; exit 1;; esac\n'
               'case "$1" in save) touch "$3";; esac')  # fmt: skip

        with pytest.raises(images.ImageError, match="ctr: no space left on device"):
            containerd.load("demo", ["one"], ["a:b"], progress=Progress.silent())


def test_dynamic_binary_for_an_image_from_scratch_is_refused(tmp_path: Path) -> None:
    """It would only end there; a static one, and one for an image with a base, are taken."""

    def given(name: str, path: str) -> tools.Tool:
        return tools.Tool(name, "1", Path(path), "given", "", "", "")

    dynamic = given("spiffe-csi-driver", sys.executable)
    with pytest.raises(tools.ToolUsageError, match=r"linked dynamically and needs /lib\S+, which"):
        images.check_binary(dynamic)
    images.check_binary(replace(dynamic, source="release"))
    images.check_binary(given("envoy", sys.executable))
    static = tmp_path / "static"
    static.write_text("no ELF")
    images.check_binary(given("spiffe-csi-driver", str(static)))
