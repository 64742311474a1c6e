"""What a job left behind, between its end and its coming home.

Nothing of the job runs any more then and its devices are others', but it is not over: its files are with its nodes.
"""

from __future__ import annotations

from typing import Final

from ergosphere.control.ledger.change import Change, agent, coordinator
from ergosphere.control.ledger.tables import JobRow
from ergosphere.control.ledger.wording import words_of
from ergosphere.core.model import HOLDS_SEATS, Phase
from ergosphere.wire.agents import Answer

_NOT_YET: Final = "; its results are not home yet: "  # between an outcome and why
_NEVER: Final = "; its results could not be brought home: "  # likewise


def not_home_yet(change: Change, job: JobRow, answer: Answer) -> None:
    """They could not be brought home now; the order comes again."""
    if not wait(job):
        change.note(job, agent(coordinator(job)), "results-wait", f"its results are not home yet: {words_of(answer)}")
    job.reason = f"{outcome_text(job)}{_NOT_YET}{answer.error}"
    job.remedy = answer.remedy or "nothing is lost: it is tried again every few seconds"


def wait(job: JobRow) -> bool:
    """Whether it has ended and somebody tried in vain to bring its results home."""
    return job.phase is Phase.ENDING and _NOT_YET in job.reason


def holds_seats(job: JobRow) -> bool:
    """Whether its devices are its own."""
    return job.phase in HOLDS_SEATS and not wait(job)


def outcome_text(job: JobRow) -> str:
    """How it ended, without what became of its results."""
    return job.reason.partition(_NOT_YET)[0]


def never(text: str, why: str) -> str:
    """The reason of a job whose results are lost: `text` tells how it ended."""
    return f"{text}{_NEVER}{why}"


def why_never(job: JobRow) -> str:
    """Why its results are lost; "" where they are not."""
    return job.reason.partition(_NEVER)[2] if job.results is None else ""
