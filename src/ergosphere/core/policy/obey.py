"""What a decision makes of a job: its view while the order is under way. Pure; for the simulator and for tests."""

from __future__ import annotations

from dataclasses import replace

from ergosphere.core.lifecycle import Event, step
from ergosphere.core.model import Decision, Freeze, JobView, Phase, Resize, Start, Stop, Thaw
from ergosphere.core.policy.seats import cells_of


def ordered(job: JobView, decision: Decision, ranks_max: int | None = None) -> JobView:
    """The job with the order of `decision` under way and nothing answered. Raises StepRefused where it cannot be.

    `ranks_max`: devices of the largest node, see `cells_of`.
    """
    match decision:
        case Start(placement=placement):
            cells = job.cells or cells_of(placement, ranks_max)
            return replace(job, phase=step(job.phase, Event.START_ORDERED), seats=placement, cells=cells, room=())
        case Thaw(placement=placement):
            return replace(job, phase=step(job.phase, Event.THAW_ORDERED), seats=placement, room=())
        case Freeze(why=why, for_job=for_job):
            following = step(job.phase, Event.FREEZE_ORDERED)
            return replace(job, phase=following, freezing_why=why, freezing_for=for_job)
        case Resize(placement=placement):
            return replace(job, phase=step(job.phase, Event.RESIZE_ORDERED), going_to=placement)
        case Stop():
            following = step(job.phase, Event.CANCEL)
            return replace(job, phase=following, seats=job.seats if following is Phase.ENDING else ())
