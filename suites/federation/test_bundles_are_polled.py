"""A SPIRE server fetches the bundles of its partners automatically."""

from svidproof import Measure, Saw, requirement
from svidproof.checks import Move, Polls


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


@requirement("FEDERATION-27")
def test_bundle_is_fetched_from_the_next_endpoint(moved: Move, saw: Saw) -> None:
    """After the relationship has changed, the server stores the bundle of the partner's next URL.

    The former URL still serves the former bundle.
    """
    assert moved.before == moved.former, "the server did not store the former bundle"

    assert not moved.said, f"the refresh failed after the change: {moved.said}"
    assert moved.after == moved.present, (
        "the server still stores the bundle of the former endpoint"
        if moved.after == moved.former
        else f"the server stores the keys {moved.after and sorted(moved.after)}"
    )
    saw(f"{len(moved.present)} JWT keys instead of {len(moved.former)}")
