"""How a job's ranks come to other devices of their nodes while it runs: ordered, done, or not done.

As in `lives`, each function takes one step of the lifecycle. A resize across nodes is a freeze and a thaw: see there.
"""

from __future__ import annotations

from ergosphere.control.ledger import accounts, lives, orders, sizes
from ergosphere.control.ledger.change import POLICY, Change, agent, coordinator
from ergosphere.control.ledger.tables import JobRow
from ergosphere.core.lifecycle import Event
from ergosphere.core.model import Reason, Resize
from ergosphere.wire.agents import Answer


def resize(change: Change, job: JobRow, decision: Resize) -> None:
    """Order it. While another order is under way the wish waits for the next turn."""
    if change.open_orders(job):
        return
    job.going_to = [[seat.node, seat.device] for seat in decision.placement]
    job.arrangement += 1
    change.step(job, Event.RESIZE_ORDERED, POLICY, decision.reason.text)
    orders.issue_resize(change, job)


def resized(change: Change, job: JobRow, answer: Answer) -> None:
    """Its ranks compute on the devices they were given; those they left are free."""
    had = sizes.devices_of(job)
    job.seats, job.going_to = job.going_to, []
    job.resizes += 1
    job.paused_total_s += answer.stopped_s
    job.failures = 0
    sizes.note_size(change, job)
    accounts.computes(change, job, change.now_s)
    text = f"runs on {_many(sizes.devices_of(job))} instead of {had}; it stood still for {answer.stopped_s:.2f} s"
    if answer.gone:
        why = "; ".join(answer.notes)
        text = f"was given {_many(sizes.devices_of(job))} instead of {had}, but {why}: its ranks were ended"
        _note_failure(job, text)
    change.step(job, Event.RESIZED, agent(coordinator(job)), text)
    job.reason = ""


def did_not_resize(change: Change, job: JobRow, answer: Answer) -> None:
    """Its ranks compute where they did, as if nobody had asked. Where some have ended, that is judged next."""
    actor = agent(coordinator(job))
    job.going_to = []
    job.paused_total_s += answer.stopped_s
    how = "" if answer.gone else " and runs on as it was"
    _note_failure(job, f"could not be resized{how}: {answer.error or 'no reason was given'}", answer.remedy)
    if answer.lasting:
        job.shareable, job.not_shareable_because = False, answer.error
    if job.resize_asked:
        sizes.forget_size(job)
    else:
        lives.back_off(change, job)
    remedy = f" ({answer.remedy})" if answer.remedy else ""
    change.step(job, Event.RESIZE_FAILED, actor, f"{job.resize_failed}{remedy}")


def refused(change: Change, job: JobRow, reason: Reason) -> None:
    """What its owner asked for is predicted not to work: nothing was touched, and the wish is over."""
    _note_failure(job, f"could not be resized and runs on as it was: {reason.text}", reason.remedy)
    sizes.forget_size(job)
    change.note(job, POLICY, "resize-refused", reason.text)


def _note_failure(job: JobRow, text: str, remedy: str = "") -> None:
    """For whoever waits for it; `text` is a sentence without its subject."""
    job.resize_failures += 1
    job.resize_failed, job.resize_failed_remedy = text, remedy


def _many(devices: int) -> str:
    return "1 device" if devices == 1 else f"{devices} devices"
