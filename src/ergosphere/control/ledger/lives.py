"""How a job's life begins, stops, is lost and ends: each order and each thing learnt, as one change of the ledger.

Every function takes an open `Change` and a job's row, takes exactly one step of the lifecycle and keeps the counters.
Who calls: `decisions` (what the policy decided), `inbox` (answers) and `watch` (what time tells).
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import func, select

from ergosphere.control.ledger import accounts, costs, fitness, kept, orders, results, rungs, shunning, sizes
from ergosphere.control.ledger.change import POLICY, SERVER, Change, agent, cells_on, coordinator
from ergosphere.control.ledger.tables import JobRow, SnapshotRow
from ergosphere.control.ledger.wording import WHY_WORDS, places_of, thawed_words, words_of
from ergosphere.core.fraction import HOUR_S
from ergosphere.core.lifecycle import Event
from ergosphere.core.model import Freeze, Outcome, Phase, Placement, Rung, Start, Thaw, Verdict, Why
from ergosphere.core.policy.seats import cells_of
from ergosphere.wire.agents import Answer

BACK_OFF_FIRST_S: Final = 1.0  # after a start, thaw or freeze that failed; doubles with each in a row
BACK_OFF_MAX_S: Final = 60.0
BACK_OFF_DOUBLINGS: Final = 6  # from the first to the longest
PROBE_S: Final = 30.0  # between tries to freeze what could not be: doubles with each that failed
PROBE_S_MAX: Final = 3600.0
PROBE_DOUBLINGS: Final = 7
FORGIVEN_S: Final = 3600.0  # of work that is kept, after which losses before it count no more
EXIT_CODE_LOST: Final = 1  # of a job that was lost more often than its limit and left no code of its own


def start(change: Change, job: JobRow, decision: Start) -> None:
    """A life from the beginning. Cells, threads and addresses are fixed by the first one."""
    if not job.cells:
        job.cells = [list(cell.ranks) for cell in cells_of(decision.placement, change.node_devices_max())]
        job.addresses = change.addresses(len(job.cells))
    _take_seats(job, decision.placement)
    accounts.comes_back(change, job)
    if job.threads is None:
        job.threads = job.spec["threads"] or sizes.threads_on(change.node(coordinator(job)))
    change.step(job, Event.START_ORDERED, POLICY, decision.reason.text)
    orders.issue_start(change, job)


def thaw(change: Change, job: JobRow, decision: Thaw) -> None:
    """The next life of a frozen job, from its newest whole snapshot."""
    _take_seats(job, decision.placement)
    accounts.comes_back(change, job)
    change.step(job, Event.THAW_ORDERED, POLICY, decision.reason.text)
    orders.issue_thaw(change, job)


def freeze(change: Change, job: JobRow, decision: Freeze) -> None:
    """Snapshot and release. While another order is under way the wish waits for the next turn."""
    if change.open_orders(job):
        return
    change.step(job, Event.FREEZE_ORDERED, POLICY, decision.reason.text)
    job.freeze_why, job.freezing_for = decision.why, decision.for_job
    orders.issue_freeze(change, job, decision.why)


def snapshot(change: Change, job: JobRow, actor: str, text: str) -> None:
    """A snapshot after which the job goes on."""
    change.note(job, actor, "snapshot-ordered", text)
    orders.issue_freeze(change, job, None)


def stop(change: Change, job: JobRow, actor: str, text: str) -> None:
    """What its owner cancelled: at once if it holds nothing, else by way of its agent."""
    job.outcome = Phase.CANCELLED
    stop_running(change, job, change.now_s)
    change.step(job, Event.CANCEL, actor, text)
    change.drop_orders(job)
    if job.phase is Phase.ENDING:
        orders.issue_end(change, job, job.grace_s, collect=True)
    else:
        _ended(change, job)


def came_up(change: Change, job: JobRow, answer: Answer) -> None:
    """A start or a thaw succeeded: every rank runs."""
    actor = agent(coordinator(job))
    if job.phase is Phase.STARTING:
        _account_lost(job, 0.0)
        change.step(job, Event.STARTED, actor, f"runs on {places_of(job)}")
    else:
        lost_s = job.lost_s
        _thawed(change, job, answer)
        again = f"; {job.lost_s - lost_s:.1f} s of work are done again" if job.lost_s > lost_s else ""
        change.step(job, Event.THAWED, actor, f"runs again on {places_of(job)}{thawed_words(answer)}{again}")
    job.reason = ""
    _run(change, job)
    costs.foresee(change, job)


def did_not_come_up(change: Change, job: JobRow, answer: Answer) -> None:
    """A start or a thaw failed and nothing of it runs: tried again after a while, on other nodes first.

    As long as it has a snapshot it waits, however often that fails: nothing of it is lost. Else restarts are limited.
    """
    actor = agent(coordinator(job))
    words = words_of(answer)
    if job.phase is Phase.STARTING and answer.lasting:
        return end(change, job, Verdict(Outcome.FAILED, None, answer.exit_code or EXIT_CODE_LOST, words), actor)
    snapshot = next(iter(change.snapshots(job)), None)
    if snapshot is None and not (answer.lasting or answer.transient):
        if job.restarts >= job.spec["max_restarts"]:
            job.first_rank = None  # no rank of this life ever ran
            return _give_up(change, job, words)
        job.restarts += 1
    back_off(change, job)
    job.try_failed = words
    not_the_node = answer.transient or answer.damaged  # damaged snapshots are so on every node
    elsewhere = [] if not_the_node else shunning.shun(change, job)
    again = f"it is tried elsewhere than on {', '.join(elsewhere)}" if elsewhere else "it is tried again"
    if elsewhere and not set(job.destination) - set(elsewhere):
        job.move_asked, job.destination = False, []
    if job.phase is Phase.STARTING:
        return change.step(job, Event.START_FAILED, actor, f"{words}; {again}")
    event = Event.THAW_FAILED if snapshot else Event.SNAPSHOTS_SPOILT
    change.step(job, event, actor, f"{words}; {again if snapshot else _BEGINNING}")
    return None


def froze(change: Change, job: JobRow, answer: Answer) -> None:
    """The snapshot is committed and the devices are free."""
    stop_running(change, job, answer.taken_s or change.now_s - answer.stopped_s)
    record_snapshot(change, job, answer, job.freeze_why.value if job.freeze_why else "pause")
    if job.freeze_why is Why.PREEMPT:
        job.policy_pauses = [*(at_s for at_s in job.policy_pauses if at_s > change.now_s - HOUR_S), change.now_s]
    kind = costs.SAVING if rungs.saves_itself(job) else "freeze"
    costs.note(change, job, costs.whole(answer, kind, coordinator(job)))
    costs.foresee(change, job)
    job.ran_on = False
    if job.freeze_why in (Why.PAUSE, Why.PREEMPT):
        job.pauses += 1
    words = WHY_WORDS[job.freeze_why or Why.PAUSE]
    how = f"; {answer.parting}" if answer.parting else ""
    text = f"{words} after {answer.took_s:.1f} s, snapshot {_snapshot_id(answer)}{how}"
    change.step(job, Event.FROZE, agent(coordinator(job)), text)
    job.freezing_for = None


def did_not_freeze(change: Change, job: JobRow, answer: Answer) -> None:
    """The job runs on as if nobody had asked; the wish behind it is not repeated at once.

    Where the job may save itself instead, the wish stays: the next turn asks it to.
    """
    actor = agent(coordinator(job))
    if answer.gone:
        return lose(change, job, f"it was asked to save itself, and {words_of(answer)}", counted=False)
    job.paused_total_s += answer.stopped_s
    if job.phase is Phase.FREEZING:
        if rungs.may_save_itself(job, answer):
            return _save_instead(change, job, answer)
        _forget_wish(change, job)
        change.step(job, Event.FREEZE_FAILED, actor, f"could not be frozen and runs on: {words_of(answer)}")
        job.freeze_why, job.freezing_for = None, None
    else:
        job.snapshot_asked = False
        change.note(job, actor, "snapshot-failed", f"no snapshot was taken: {words_of(answer)}")
    job.freeze_failures += 1
    job.freeze_failed, job.freeze_failed_remedy = answer.error, answer.remedy
    if answer.lasting:
        rungs.step_down(change, job, answer)
    if answer.lasting or job.next_snapshot_s is None or job.next_snapshot_s <= change.now_s:
        _plan_next_snapshot(job, change.now_s)
    return None


def _save_instead(change: Change, job: JobRow, answer: Answer) -> None:
    change.step(
        job, Event.FREEZE_FAILED, agent(coordinator(job)), "could not be frozen, and is asked to save itself instead"
    )
    job.freeze_why, job.freezing_for = None, None
    rungs.step_down(change, job, answer)
    _plan_next_snapshot(job, change.now_s)
    costs.foresee(change, job)


def snapshot_taken(change: Change, job: JobRow, answer: Answer) -> None:
    """A snapshot after which the job went on."""
    job.paused_total_s += answer.stopped_s
    why = "asked" if job.snapshot_asked else "periodic"
    record_snapshot(change, job, answer, why)
    job.snapshot_asked = False
    costs.note(change, job, costs.whole(answer, "freeze", coordinator(job)))
    costs.foresee(change, job)
    if job.running_since_s is not None and change.now_s - job.running_since_s >= FORGIVEN_S:
        job.restarts = 0
    text = f"snapshot {_snapshot_id(answer)} taken; the job stood still for {answer.stopped_s:.2f} s"
    change.note(job, agent(coordinator(job)), "snapshot", text)


def record_snapshot(change: Change, job: JobRow, answer: Answer, why: str) -> None:
    """Write a committed snapshot down."""
    row = SnapshotRow(
        id=_snapshot_id(answer),
        job=job.id,
        number=next_number(change, job),
        incarnation=job.incarnation,
        taken_s=answer.taken_s or change.now_s,
        why=why,
        bytes=answer.bytes,
        stopped_s=answer.stopped_s,
        progress_s=progress_s(job, answer.taken_s or change.now_s),
        log_lengths=dict(answer.log_lengths),
        name=job.snapshot_name if job.snapshot_asked else "",
        nodes=homes(job),
        machines=kept.machines(change, homes(job)),
    )
    change.session.add(row)
    job.snapshot_name = ""
    job.failures = 0
    rungs.step_up(change, job)
    job.home = homes(job)
    kept.retire(change, job)
    _plan_next_snapshot(job, change.now_s)


def lose(change: Change, job: JobRow, text: str, *, counted: bool = True, at_s: float | None = None) -> None:
    """A life is gone: what is left of it is cleared away, then it goes on; beyond the restart limit it has failed.

    `at_s`: when it did its last work, where that is known; a node is given up long after it was last heard of.
    """
    stop_running(change, job, change.now_s if at_s is None else at_s)
    if counted and job.phase is not Phase.ENDING:
        if job.restarts >= job.spec["max_restarts"]:
            return _give_up(change, job, text)
        job.restarts += 1
    job.recovering = True
    change.drop_orders(job)
    change.step(job, Event.LOST, SERVER, text)
    job.outcome, job.exit_code = None, None
    if reachable(change, job):
        orders.issue_end(change, job, 0.0, collect=False)
    return None


def cleared(change: Change, job: JobRow) -> None:
    """Nothing is left of a lost life: back to the snapshot, or to the beginning if there is none."""
    newest = next(iter(change.snapshots(job)), None)
    job.going_to = []
    job.freeze_why, job.freezing_for = None, None
    change.drop_orders(job)
    if newest is not None:
        text = f"what was left is cleared; it goes on from snapshot {newest.id}"
        change.step(job, Event.CLEARED_TO_SNAPSHOT, SERVER, text)
    else:
        change.step(job, Event.CLEARED_TO_BEGINNING, SERVER, f"what was left is cleared; {_BEGINNING}")


def end(change: Change, job: JobRow, verdict: Verdict, actor: str = SERVER) -> None:
    """The program ended by itself, or can never start: stop what is left and bring results home."""
    stop_running(change, job, change.now_s)
    job.outcome = {
        Outcome.SUCCEEDED: Phase.SUCCEEDED,
        Outcome.FAILED: Phase.FAILED,
        Outcome.CANCELLED: Phase.CANCELLED,
    }[verdict.outcome]
    job.exit_code, job.first_rank = verdict.exit_code, verdict.rank
    change.drop_orders(job)
    change.step(job, Event.OUTCOME_KNOWN, actor, verdict.text)
    orders.issue_end(change, job, 0.0, collect=True)


def collected(change: Change, job: JobRow, key: str | None, trouble: str = "") -> None:
    """Everything is stopped and home, where the store keeps it (or cannot be brought home, which is said)."""
    assert job.outcome is not None, "an ending job has an outcome"
    job.results = key
    events = {
        Phase.SUCCEEDED: Event.ENDED_SUCCEEDED,
        Phase.FAILED: Event.ENDED_FAILED,
        Phase.CANCELLED: Event.ENDED_CANCELLED,
    }
    text = results.outcome_text(job)
    text = results.never(text, trouble) if trouble else text
    change.drop_orders(job)
    change.step(job, events[job.outcome], agent(coordinator(job)), text)
    _ended(change, job)


def reachable(change: Change, job: JobRow) -> bool:
    """Whether the coordinator of the last life can be sent orders (its node is not given up)."""
    node = change.node(coordinator(job)) if job.seats else None
    return node is not None and not node.lost


def progress_s(job: JobRow, now_s: float) -> float:
    """Seconds of work that are in the job now: what a snapshot would keep."""
    running = now_s - job.running_since_s if job.running_since_s is not None else 0.0
    return job.progress_s + max(0.0, running)


_BEGINNING: Final = "there is NO whole snapshot of it, so it starts again FROM ITS BEGINNING"


def homes(job: JobRow) -> list[str]:
    """The node of each cell."""
    return [node for _, _, node, _ in cells_on(job)]


def _take_seats(job: JobRow, placement: Placement) -> None:
    job.incarnation += 1
    job.arrangement += 1
    job.seats = [[seat.node, seat.device] for seat in placement]
    job.room, job.going_to = [], []


def _run(change: Change, job: JobRow) -> None:
    job.started_s = job.started_s or change.now_s
    if job.stopped_since_s is not None:
        job.paused_total_s += max(0.0, change.now_s - job.stopped_since_s)
    job.stopped_since_s = None
    job.running_since_s = change.now_s
    accounts.computes(change, job, change.now_s)
    job.failures, job.not_before_s, job.try_failed, job.shunned, job.ran_on = 0, 0.0, "", {}, True
    sizes.note_size(change, job)
    job.freeze_why = None
    if not job.destination or set(homes(job)) <= set(job.destination):  # else: asked for while it was coming up
        job.move_asked, job.destination = False, []
    if job.recovering:
        job.recoveries += 1
        job.recovering = False
    _plan_next_snapshot(job, change.now_s)


def stop_running(change: Change, job: JobRow, at_s: float) -> None:
    if job.running_since_s is None:
        return
    at_s = min(max(at_s, job.running_since_s), change.now_s)  # by a node's clock, which may be another
    job.progress_s = progress_s(job, at_s)
    job.running_since_s, job.stopped_since_s = None, at_s
    accounts.stands(change, job, at_s)


def _thawed(change: Change, job: JobRow, answer: Answer) -> None:
    used = change.session.get(SnapshotRow, answer.snapshot) if answer.snapshot else None
    _account_lost(job, used.progress_s if used is not None else 0.0)
    if job.rung is not Rung.COOPERATIVE:  # what it takes to start again tells nothing of thaws
        costs.note(change, job, costs.whole(answer, "thaw", coordinator(job)))
    job.rolling_back = False
    if not job.recovering and job.home != homes(job):
        job.moves += 1


def _account_lost(job: JobRow, kept_s: float) -> None:
    """Work beyond what the new life begins with has to be done again."""
    job.lost_s += max(0.0, job.progress_s - kept_s)
    job.progress_s = kept_s


def _snapshot_id(answer: Answer) -> str:
    """What a freeze made: the order's own name, or that with the number of a later attempt."""
    return answer.snapshot or answer.order_id


def next_number(change: Change, job: JobRow) -> int:
    """Of a snapshot: one that was damaged or dropped keeps its own."""
    newest = change.session.scalar(select(func.max(SnapshotRow.number)).where(SnapshotRow.job == job.id))
    return (newest or 0) + 1


def _plan_next_snapshot(job: JobRow, now_s: float) -> None:
    """Where something stood in the way it may have gone: that is tried too, ever more seldom."""
    every_s = job.spec["snapshot_every_s"]
    if every_s and job.rung is not Rung.TRANSPARENT:
        every_s = max(every_s, min(PROBE_S_MAX, PROBE_S * 2.0 ** min(job.freeze_failures, PROBE_DOUBLINGS)))
    job.next_snapshot_s = now_s + every_s if every_s else None


def _forget_wish(change: Change, job: JobRow) -> None:
    """An owner's verb that failed is over; what the policy or a drain wants comes again, after a while."""
    match job.freeze_why:
        case Why.PAUSE:
            job.paused = job.held = False
        case Why.MOVE:
            job.move_asked, job.destination = False, []
        case Why.RESIZE if job.resize_asked:
            sizes.forget_size(job)
        case _:
            back_off(change, job)


def back_off(change: Change, job: JobRow) -> None:
    """What failed is tried again, by the policy, after a while: 1 s, doubling to 60 s."""
    job.failures += 1
    job.not_before_s = change.now_s + min(
        BACK_OFF_MAX_S, BACK_OFF_FIRST_S * 2 ** min(job.failures - 1, BACK_OFF_DOUBLINGS)
    )


def _give_up(change: Change, job: JobRow, text: str) -> None:
    limit = job.spec["max_restarts"]
    job.outcome, job.exit_code = Phase.FAILED, job.exit_code or EXIT_CODE_LOST
    change.drop_orders(job)
    words = f"{text}; that was beyond its limit of {limit} restart{'' if limit == 1 else 's'} (--max-restarts)"
    change.step(job, Event.LOST_FOR_GOOD, SERVER, words)
    if reachable(change, job):
        orders.issue_end(change, job, 0.0, collect=True)


def _ended(change: Change, job: JobRow) -> None:
    job.ended_s = change.now_s
    accounts.close(change, job)
    if job.stopped_since_s is not None and job.outcome is Phase.CANCELLED:
        job.paused_total_s += max(0.0, change.now_s - job.stopped_since_s)
    job.stopped_since_s = None
    job.paused = job.held = job.move_asked = job.snapshot_asked = False
    job.room, job.destination, job.going_to = [], [], []
    for row in change.session.scalars(select(SnapshotRow).where(SnapshotRow.job == job.id)):
        row.dropped = row.dropped or not row.name
        fitness.forget(change, row.id)
