"""The catalogue says exactly what must hold, and refuses to be read when it does not."""

import pytest

from svidproof.model import catalogue
from svidproof.model.catalogue import Deviation, ScenarioClaim, parse, within
from svidproof.model.datafile import DataError
from svidproof.model.scenario import load_scenario
from svidproof.probes.flaws import Flaw
from svidproof.run.process import pytest_process

REQUIREMENT = """
[[requirement]]
id = "ROTATION-1"
title = "It turns"
level = "core"
profiles = ["core", "spec"]
source = [{ scenario = "api", claim = 4 }, "X509-SVID 5"]
"""
DEVIATION = """
[[deviation]]
id = "envoy-lax"
requirements = ["ROTATION-1"]
test = "test_c"
when = { flaw = ["two-uris"] }
component = "envoy"
versions = ">=1.36,<2"
raises = "Accepted"
reason = "Envoy is lax"
link = "https://example.org/1"
"""


def test_catalogue_is_read_as_written() -> None:
    """Requirements and deviations come out as they were put in, with a checksum."""
    read = parse(REQUIREMENT + DEVIATION)

    assert [r.id for r in read.requirements] == ["ROTATION-1"]
    assert read["ROTATION-1"].title == "It turns"
    assert read["ROTATION-1"].source == "scenario api 4, X509-SVID 5"
    assert read["ROTATION-1"].sources == (
        ScenarioClaim("api", 4, next(c.text for c in load_scenario("api").claims if c.id == 4)),
        "X509-SVID 5",
    )
    assert read.profiles == ("core", "spec")
    assert read.of_profile("spec") == read.of_profiles(["core", "spec"]) == read.requirements
    assert "ROTATION-1" in read
    assert "ROTATION-2" not in read
    assert len(read.sha256) == 64
    assert parse(REQUIREMENT).sha256 != read.sha256


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param("x = ", ":1: the file is not TOML", id="no-toml"),
        pytest.param("[[bogus]]", ":1: unknown key bogus: there are", id="unknown-table"),
        pytest.param(REQUIREMENT * 2, ":10: .* ROTATION-1 is already defined at .*:2", id="twice"),
        pytest.param(REQUIREMENT.replace("ROTATION-1", "rotation 1"), ":3: .*looks like", id="id"),
        pytest.param(REQUIREMENT.replace('"core"\n', '"soft"\n'), ":5: .*or extended", id="level"),
        pytest.param(REQUIREMENT.replace('["core", "spec"]', "[]"), ":6: .*profile", id="profile"),
        pytest.param(REQUIREMENT.replace('"core", "spec"', '"all"'), ":6: .*not 'all'", id="all"),
        pytest.param(REQUIREMENT.replace("It turns", ""), ":4: .*must not be empty", id="title"),
        pytest.param(REQUIREMENT.replace('title = "It turns"', ""), ":2: .*lacks ti", id="lacks"),
        pytest.param(REQUIREMENT + "color = 1", ":8: unknown key color: there", id="unknown-key"),
        pytest.param(REQUIREMENT.replace('"It turns"', "1"), ":4: .*title must be text", id="text"),
        pytest.param(DEVIATION, ":4: there is no requirement ROTATION-1", id="of-nothing"),
        pytest.param(
            REQUIREMENT + DEVIATION.replace(">=1.36,<2", "new"),
            ":14: .*versions look",
            id="versions",
        ),
        pytest.param(
            REQUIREMENT + DEVIATION.replace("https://example.org/1", ""),
            ":[0-9]+: .*link",
            id="link",
        ),
        pytest.param(
            REQUIREMENT + DEVIATION.replace('"ROTATION-1"', ""),
            "requirements must not be",
            id="of-none",
        ),
        pytest.param(
            REQUIREMENT + DEVIATION.replace('["ROTATION-1"]', '"ROTATION-1"'),
            "requirements must be a list",
            id="of-text",
        ),
        pytest.param(
            REQUIREMENT + DEVIATION.replace('["two-uris"]', "[]"), "flaw must be a list", id="rows"
        ),
        pytest.param(
            REQUIREMENT + DEVIATION.replace('{ flaw = ["two-uris"] }', '"flaw"'),
            "when must be a table",
            id="when",
        ),
        pytest.param(
            REQUIREMENT.replace(', "X509-SVID 5"', ", 5"), "a source is text or", id="source"
        ),
        pytest.param(
            REQUIREMENT.replace("[{", '"x" # [{'), "source must be a list", id="one-source"
        ),
        pytest.param(
            REQUIREMENT.replace('"api", claim', '"apy", claim'), "no scenario apy", id="scenario"
        ),
        pytest.param(
            REQUIREMENT.replace("claim = 4", "claim = 99"), "api has no claim 99", id="claim"
        ),
    ],
)
def test_unsound_catalogue_is_refused(text: str, complaint: str) -> None:
    """Every mistake is one line with its place."""
    with pytest.raises(DataError, match=complaint) as caught:
        parse(text)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("when", "check", "covers"),
    [
        pytest.param('flaw = ["two-uris"]', "a/b.py::test_c[two-uris]", True, id="row"),
        pytest.param('flaw = ["two-uris"]', "a/b.py::test_c[x-two-uris-y]", True, id="part"),
        pytest.param('flaw = ["two-uris"]', "a/b.py::test_c[two-uris2]", False, id="longer-id"),
        pytest.param('flaw = ["two-uris"]', "a/b.py::test_c", False, id="no-rows"),
        pytest.param('flaw = ["two-uris"]', "a/b.py::test_d[two-uris]", False, id="other-test"),
        pytest.param('a = ["x", "y"], b = ["z"]', "a/b.py::test_c[z-1-y]", True, id="any-order"),
        pytest.param('a = ["x", "y"], b = ["z"]', "a/b.py::test_c[y-1]", False, id="one-of-two"),
        pytest.param("", "a/b.py::test_c[whatever]", True, id="each-row"),
    ],
)
def test_deviation_covers_rows_of_its_test(when: str, check: str, *, covers: bool) -> None:
    """A row is covered if it has one of the ids of each parameter that the deviation names."""
    text = DEVIATION.replace('flaw = ["two-uris"]', when)

    deviation = parse(REQUIREMENT + text).deviations[0]

    assert deviation.covers(check, ["ROTATION-1"]) is covers
    assert not deviation.covers(check, ["ROTATION-2"])


@pytest.mark.parametrize(
    ("versions", "applies"),
    [
        pytest.param({"envoy": "1.36.4"}, True, id="in"),
        pytest.param({"envoy": "1.35.9"}, False, id="older"),
        pytest.param({"envoy": "1.41.0-dev-ab12"}, True, id="own-build"),
        pytest.param({"envoy": "unknown"}, False, id="unreadable"),
        pytest.param({"spire-server": "1.40.0"}, False, id="other-component"),
        pytest.param({}, False, id="nothing"),
    ],
)
def test_deviation_is_one_of_versions(versions: dict[str, str], *, applies: bool) -> None:
    """A deviation holds for the versions that have it, and no others."""
    read = parse(REQUIREMENT + DEVIATION)

    assert read.deviations[0].applies_to(versions) is applies
    found = read.deviation_of("a::test_c[two-uris]", ["ROTATION-1"], versions)
    assert isinstance(found, Deviation) is applies


def test_component_of_parts_must_deviate_in_all() -> None:
    """SPIRE is its server and its agent."""
    deviation = parse(REQUIREMENT + DEVIATION.replace('"envoy"', '"spire"')).deviations[0]

    assert deviation.applies_to({"spire-server": "1.40.0", "spire-agent": "1.40.0"})
    assert not deviation.applies_to({"spire-server": "1.40.0", "spire-agent": "1.30.0"})


def test_version_is_compared_by_its_number() -> None:
    """What follows the number of a development build does not count."""
    assert within("v1.15.3-dev-unk", ">=1.15,<1.16")
    assert not within("1.15.3", "<1.15")


def test_catalogue_of_the_suites_is_sound() -> None:
    """The real one can be read, and has a core."""
    read = catalogue.read(pytest_process.suites() / "catalogue.toml")

    assert len(read.of_profile("core")) > 30


def test_flaw_of_a_deviation_is_no_part_of_another() -> None:
    """Else a deviation would cover the rows of another flaw too."""
    read = catalogue.read(pytest_process.suites() / "catalogue.toml")
    named = {i for d in read.deviations for i in d.when.get("flaw", ())}

    flaws = [flaw.value for flaw in Flaw]

    assert named
    assert named <= set(flaws)
    assert not [(i, f) for i in named for f in flaws if i != f and f"-{i}-" in f"-{f}-"]
