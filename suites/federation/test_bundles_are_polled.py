"""A SPIRE server fetches the bundles of its partners automatically."""

from svidproof import Measure, Saw, requirement
from svidproof.checks import Polls


@requirement("FEDERATION-26")
def test_next_bundle_is_fetched(polls: Polls, measure: Measure) -> None:
    """The server stores a partner's next bundle within the refresh hint."""
    assert polls.followed_s is not None, f"not fetched: {polls.unfollowed}"

    measure("from a partner's next bundle to the server's next poll", polls.followed_s, "s")


@requirement("FEDERATION-26")
def test_bundle_is_fetched_after_a_failure(polls: Polls, measure: Measure, saw: Saw) -> None:
    """After the bundle endpoint has failed, the server stores the next bundle as soon."""
    assert polls.recovered_s is not None, f"not fetched after a failure: {polls.unrecovered}"

    assert polls.failed, "the endpoint did not fail: this proves nothing"
    measure(
        "from an endpoint's recovery to the server that stores its bundle", polls.recovered_s, "s"
    )
    saw(f"{polls.failed} requests failed before")
