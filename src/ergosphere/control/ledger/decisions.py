"""Carrying out a plan of the policy: each decision that still stands becomes a step and an order.

What has moved since the plan was made is left out, row by row: a job that changed, a seat on a node that changed, and
what was to be done for such a job. The next turn, which the same change has called for, sees to it.
"""

from __future__ import annotations

from ergosphere.control.ledger import lives, resizing
from ergosphere.control.ledger.change import POLICY, Change
from ergosphere.control.ledger.news import News
from ergosphere.control.ledger.sight import Sight
from ergosphere.control.ledger.tables import JobRow
from ergosphere.core.model import Decision, Freeze, JobId, Placement, Plan, Resize, Seat, Start, Stop, Thaw


def carry_out(change: Change, plan: Plan, sight: Sight, moved: News) -> None:
    """Write the plan into the ledger; orders issued here leave by the courier."""
    decided = still_standing(plan, sight, moved)
    rooms = _other_rooms(plan, sight, moved)
    jobs = {job.id: job for job in change.jobs({*(one.job for one in decided), *rooms})}
    if decided:
        change.fetch((one.job for one in decided), {seat.node for one in decided for seat in _given(one)})
    with change.session.no_autoflush:  # no decision reads what another has written
        for decision in decided:
            _do(change, jobs[decision.job], decision)
    for job in rooms:
        jobs[job].room = [[seat.node, seat.device] for seat in plan.rooms.get(job, ())]


def still_standing(plan: Plan, sight: Sight, moved: News) -> list[Decision]:
    """Decisions that what has moved since leaves possible and sensible."""
    held = _held_by(sight, moved)
    void = {one.job for one in plan.decisions if _is_void(one, sight, moved, held)}
    in_vain = {_for(one) for one in plan.decisions if one.job in void} - {None}
    return [one for one in plan.decisions if one.job not in void and _for(one) not in in_vain]


def _is_void(decision: Decision, sight: Sight, moved: News, held: set[Seat]) -> bool:
    if decision.job in moved.jobs or _for(decision) in moved.jobs or decision.job not in sight.jobs:
        return True
    return any(seat.node in moved.nodes or seat in held for seat in _given(decision))


def _given(decision: Decision) -> Placement:
    return decision.placement if isinstance(decision, Start | Thaw | Resize) else ()


def _held_by(sight: Sight, moved: News) -> set[Seat]:
    """Seats of the jobs that have moved, as they are now."""
    views = (view for job in moved.jobs if (view := sight.jobs.get(JobId(job))) is not None)
    return {seat for view in views for seat in (*view.seats, *view.going_to)}


def _for(decision: Decision) -> JobId | None:
    """For whom it makes room."""
    return decision.for_job if isinstance(decision, Freeze | Resize) else None


def _other_rooms(plan: Plan, sight: Sight, moved: News) -> list[JobId]:
    """Jobs for which other seats are held from now on than before."""
    names = sorted((plan.rooms.keys() | sight.rooms) - moved.jobs)
    views = ((name, sight.jobs.get(name)) for name in names)
    return [name for name, view in views if view is not None and view.room != tuple(plan.rooms.get(name, ()))]


def _do(change: Change, job: JobRow, decision: Decision) -> None:
    match decision:
        case Start():
            lives.start(change, job, decision)
        case Thaw():
            lives.thaw(change, job, decision)
        case Freeze():
            lives.freeze(change, job, decision)
        case Resize():
            resizing.resize(change, job, decision)
        case Stop():
            lives.stop(change, job, POLICY, decision.reason.text)
