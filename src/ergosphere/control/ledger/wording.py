"""What is told of a life, in words for its owner. Words only: `lives` says when."""

from __future__ import annotations

from typing import Final

from ergosphere.control.ledger.tables import JobRow
from ergosphere.core.model import Why
from ergosphere.wire.agents import Answer

WHY_WORDS: Final = {
    Why.PAUSE: "paused",
    Why.PREEMPT: "frozen to make room",
    Why.MOVE: "frozen to be moved",
    Why.DRAIN: "frozen to leave its node",
    Why.RESIZE: "frozen to be resized",
}


def thawed_words(answer: Answer) -> str:
    """From which snapshot a job goes on, and why not from a newer one."""
    if not answer.damaged:
        return f" from snapshot {answer.snapshot or 'newest'}"
    spoilt = ", ".join(answer.damaged)
    return f" from snapshot {answer.snapshot}, the one before: {spoilt} cannot be used ({answer.error or 'damaged'})"


def places_of(job: JobRow) -> str:
    """The nodes where it sits."""
    return ", ".join(dict.fromkeys(str(seat[0]) for seat in job.seats))


def words_of(answer: Answer) -> str:
    """Why it failed, and what helps, in one sentence."""
    return f"{answer.error} ({answer.remedy})" if answer.remedy else answer.error or "no reason was given"
