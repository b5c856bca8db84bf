"""SPIRE server takes no step of an authority that is not due."""

from svidproof import Saw, requirement
from svidproof.checks import Accepted, Attempt


@requirement("AUTHORITY-13")
def test_only_due_steps_are_taken(authority_steps: tuple[Attempt, ...], saw: Saw) -> None:
    """The server refuses each step of an authority that is not due, and takes each that is."""
    assert authority_steps, "no step was attempted"
    for attempt in authority_steps:
        assert not attempt.answer.silent, f"SPIRE server did not answer: {attempt}"
        if attempt.done and not attempt.due:
            raise Accepted(f"{attempt.step} of the {attempt.state} {attempt.kind} authority")
        assert attempt.done is attempt.due, f"a step that is due was refused: {attempt}"
    due = sum(attempt.due for attempt in authority_steps)
    saw(f"{due} steps taken, {len(authority_steps) - due} refused")
