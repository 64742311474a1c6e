"""On which rung of the ladder a job stands. It steps down and up here, and never silently.

`transparent`: frozen without its knowing. `cooperative`: it has a grace period, so it is asked to save itself where it
cannot be frozen. `restart`: neither; it stays where it is.
"""

from __future__ import annotations

from ergosphere.control.ledger.change import Change, agent, coordinator
from ergosphere.control.ledger.tables import JobRow
from ergosphere.control.ledger.wording import words_of
from ergosphere.core.model import Phase, Rung
from ergosphere.wire.agents import Answer


def step_down(change: Change, job: JobRow, answer: Answer) -> None:
    """It cannot be frozen for as long as the cause is there."""
    before = job.rung, job.rung_because
    if job.spec.get("grace_s") is None:
        job.freezable, job.rung, job.rung_because = False, Rung.RESTART, words_of(answer)
    else:
        job.rung, job.rung_because = Rung.COOPERATIVE, f"{saving_words(job)}, for {words_of(answer)}"
    job.snapshot_asked = False
    if (job.rung, job.rung_because) == before:
        return
    change.note(job, agent(coordinator(job)), "rung", f"now on the rung {job.rung}: {job.rung_because}")


def may_save_itself(job: JobRow, answer: Answer) -> bool:
    """Whether a job that could not be frozen can leave all the same: it was not asked to before."""
    return answer.lasting and job.spec.get("grace_s") is not None and job.rung is not Rung.COOPERATIVE


def step_up(change: Change, job: JobRow) -> None:
    """A snapshot was taken. Unless the job had to save itself for it, nothing stands in the way any more."""
    if job.rung is Rung.TRANSPARENT or saves_itself(job):
        return
    job.freezable, job.rung, job.rung_because = True, Rung.TRANSPARENT, ""
    change.note(job, agent(coordinator(job)), "rung", f"on the rung {job.rung} again")


def saves_itself(job: JobRow) -> bool:
    """Whether the freeze under way asks it to. One after which it goes on is always tried without its knowing."""
    return job.rung is Rung.COOPERATIVE and job.phase is Phase.FREEZING


def saving_words(job: JobRow) -> str:
    """What happens to it when it has to leave."""
    return f"it is asked to save itself (SIG{job.spec['signal']}, then {job.spec['grace_s']:g} s) when it has to leave"
