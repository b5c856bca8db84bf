"""A timeline is told in few marks, and nothing of it is lost or made up."""

import itertools

import pytest

from svidproof.model.logs.messages import messages_for
from svidproof.report.html.timeline import lanes, story
from svidproof.report.html.timeline.story import Story, Svid

from . import told

MESSAGES = messages_for("1.15.3")


@pytest.fixture
def small() -> Story:
    """The story of a small run."""
    return story.read(told.lines(told.events()), MESSAGES)


def test_svids_have_their_validity_and_first_sightings(small: Story) -> None:
    """A bar begins at valid_from; each source has its first moment, in seconds of the watch."""
    first, second, third = small.of("api")

    assert small.workloads == ["api", "client"]
    assert (first.begin, first.end) == (-9.0, 31.0)
    assert first.first == {"workload-api": 1.0, "certs": 1.2, "config-dump": 1.3}
    assert second.first["wire"] == 11.5
    assert third.serial == "c"


def test_what_was_logged_stands_with_whom_it_concerns(small: Story) -> None:
    """A push by the process that asked, a renewal by its ID, the rest with SPIRE; bulk left out."""
    ticks = {(tick.lane, tick.kind, round(tick.at, 3)) for tick in small.ticks}

    assert ticks == {("api", "push", 2.1), ("api", "log", 11.0), (story.SPIRE, "trouble", 3.0)}


def test_requests_are_counted_by_time(small: Story) -> None:
    """Every request is in some column, and a refusal says why."""
    asked = [b for b in small.bins if b.row == "client asks api"]
    refused = [b for b in small.bins if b.row == "connections refused by api"]

    assert (sum(b.good for b in asked), sum(b.bad for b in asked)) == (99, 1)
    assert sum(b.bad for b in refused) == 1
    assert next(b.note for b in asked if b.bad).startswith("</script>")


def test_long_run_has_few_marks() -> None:
    """Ten thousand requests and log lines become some hundred marks."""
    many = told.events()
    many += [
        told.event("request", n / 10, client="client", call="api", tag="t", status=200, note="")
        for n in range(10_000)
    ]
    many += [
        told.event("log", n / 10, component="api.envoy", level="warn", message="again", fields={},
                   written=told.event("", n / 10)["wall"])
        for n in range(10_000)
    ]  # fmt: skip

    found = story.read(told.lines(many), MESSAGES)

    assert sum(b.good for b in found.bins) == 10_099
    assert sum(t.times for t in found.ticks if t.lane == "api" and t.kind == "trouble") == 10_000
    assert len(found.bins) <= 2 * story.COLUMNS
    assert len(found.ticks) <= 2 * story.SLICES


@pytest.mark.parametrize(
    "line",
    [
        pytest.param('{"kind": "request", "at": 3', id="cut-off"),
        pytest.param("[]", id="no-object"),
        pytest.param('{"kind": "log"}', id="no-time"),
        pytest.param('{"kind": "certificate", "at": 1, "workload": "api"}', id="no-facts"),
        pytest.param('{"kind": "log", "at": 1, "component": "x", "level": "info", "message": "m",'
                     ' "written": "yesterday"}', id="no-date"),
    ],
)  # fmt: skip
def test_torn_line_is_counted(line: str) -> None:
    """The run may have been killed while it wrote."""
    found = story.read([*told.lines(told.events()), line], MESSAGES)

    assert found.torn == 1
    assert len(found.svids) == 6


def test_unknown_event_is_none_of_ours() -> None:
    """A later version may tell more."""
    assert story.read(told.lines([told.event("eclipse", 1.0)])).torn == 0


def test_empty_timeline_is_an_empty_story() -> None:
    """No testbed came up."""
    assert story.read([]) == Story()


def test_without_messages_there_are_no_pushes() -> None:
    """Of a SPIRE that logs other words."""
    found = story.read(told.lines(told.events()))

    assert {tick.kind for tick in found.ticks} == {"log", "trouble"}


def test_no_private_key_comes_from_a_log() -> None:
    """What was logged is searched, as everything that is published."""
    key = "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----"
    log = told.event("log", 1.0, component="spire-agent", level="error", message=key, fields={},
                     written=told.event("", 1.0)["wall"])  # fmt: skip

    [tick] = story.read(told.lines([log])).ticks

    assert "MIIB" not in tick.what


def test_distributions_are_those_of_the_rotations(small: Story) -> None:
    """Periods and lags, without the first SVID, which was there before anybody looked."""
    assert story.periods(small) == [
        ("api", 10.0),
        ("api", 10.0),
        ("client", 10.0),
        ("client", 10.0),
    ]
    assert story.lifetime(small) == 40.0
    lags = story.lags(small)
    assert [round(lag, 3) for _, lag in lags["certs"]] == [0.2] * 4
    assert [round(lag, 3) for _, lag in lags["wire"]] == [0.5]


def test_svids_that_are_valid_together_do_not_overlap() -> None:
    """Each gets the first row that is free; a row is free again when its SVID has ended."""
    svids = [Svid("api", str(n), begin, begin + 40) for n, begin in enumerate((0, 10, 39, 40, 50))]

    assert lanes.pack(svids) == [0, 1, 2, 0, 1]


def test_lanes_follow_each_other(small: Story) -> None:
    """One lane for each workload, SPIRE's, then the requests; none in another's place."""
    found = lanes.arrange(small)

    assert list(found.bands) == [
        "api", "client", story.SPIRE, "client asks api", "connections refused by api",
    ]  # fmt: skip
    bands = list(found.bands.values())
    assert all(a.bottom > b.top for a, b in itertools.pairwise(bands))
    assert bands[-1].bottom >= -found.height
    for svid, box in found.svids:
        band = found.bands[svid.workload]
        assert band.top > box.top > box.bottom > band.bottom
