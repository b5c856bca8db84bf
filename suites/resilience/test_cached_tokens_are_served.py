"""The cached JWT-SVIDs that an agent serves while the server hangs or is down."""

from grpc import StatusCode

from svidproof import LAG, Measure, Saw, requirement
from svidproof.checks import Accepted, CachedToken


class TooLate(AssertionError):  # noqa: N818  a verdict, not a programming error
    """Raised if a valid cached token is not delivered before the caller's deadline."""


@requirement("RESILIENCE-20")
def test_due_token_is_served_while_the_server_hangs(
    cached_token: CachedToken, measure: Measure
) -> None:
    """A caller with a deadline of five seconds gets the cached, valid token."""
    control, hanging = cached_token.control, cached_token.hanging
    assert control.answer.code is StatusCode.OK, f"control: {control.answer}"
    assert hanging.left > hanging.seconds, "the token had expired meanwhile: this proves nothing"

    measure("wait for a cached token while the server hangs", hanging.seconds, "s")
    # At the caller's deadline the agent gives up, too, and a token may come just before or after.
    if hanging.seconds > LAG:
        got = f"{hanging.answer.code.name} after {hanging.seconds:.1f} s"
        raise TooLate(f"{got}, with a cached token that had {hanging.left:.1f} s left")
    assert hanging.answer.code is StatusCode.OK, f"got {hanging.answer}"


@requirement("RESILIENCE-20")
def test_token_is_served_afterwards(cached_token: CachedToken) -> None:
    """Once the server resumes, the agent serves a token."""
    assert cached_token.after.answer.code is StatusCode.OK, f"got {cached_token.after.answer}"


@requirement("RESILIENCE-38")
def test_expired_token_is_not_served(cached_token: CachedToken, saw: Saw) -> None:
    """A caller gets an error, and not the cached token that has expired."""
    expired = cached_token.expired
    assert expired.left < 0, "the token had not expired: this proves nothing"

    if expired.answer.svids:
        raise Accepted(f"the agent served a JWT-SVID that had expired {-expired.left:.1f} s before")
    assert expired.answer.code is not StatusCode.OK, f"got {expired.answer}"
    saw(expired.answer.code.name)
