"""What orders say: the plan of a life as the ledger has it, and the order around it."""

from __future__ import annotations

from typing import Final

from sqlalchemy import select

from ergosphere.control.ledger.change import Change, cells_on, coordinator
from ergosphere.control.ledger.tables import JobRow, Json, OrderRow, OrderState, SnapshotRow
from ergosphere.core.model import Rung, Why
from ergosphere.wire.agents import CellPlan, EndOrder, FreezeOrder, LifePlan, Order, ResizeOrder, StartOrder, ThawOrder

THAW_CHOICES_MAX: Final = 5  # snapshots named in one thaw order


def life_plan(change: Change, job: JobRow, seats: Json = None, arrangement: int | None = None) -> LifePlan:
    """The life that the ledger has for a job now; with `seats`, on those."""
    spec = change.spec(job)
    assert job.threads is not None, "threads are fixed before the first order"
    return LifePlan(
        job=job.id,
        incarnation=job.incarnation,
        spec=spec,
        cells=tuple(
            CellPlan(
                index=index,
                ranks=tuple(ranks),
                node=node,
                devices=tuple(devices),
                address=job.addresses[index],
                known_as=job.known_as[index] if job.known_as else "",
            )
            for index, ranks, node, devices in cells_on(job, seats)
        ),
        threads=job.threads,
        arrangement=job.arrangement if arrangement is None else arrangement,
        rank_env=spec.rank_env,
        known_name=job.known_name,
        forked_from=job.forked_from,
        fork_names=tuple(job.fork_names),
    )


def issue_start(change: Change, job: JobRow) -> None:
    _issue(change, job, StartOrder(order_id=change.new_id(), life=life_plan(change, job)), None)


def issue_thaw(change: Change, job: JobRow) -> None:
    choices = tuple(snapshot.id for snapshot in change.snapshots(job)[:THAW_CHOICES_MAX])
    goes_back = job.ran_on or job.rolling_back
    life = life_plan(change, job)
    order = ThawOrder(order_id=change.new_id(), life=life, snapshots=choices, goes_back=goes_back)
    _issue(change, job, order, None)


def issue_freeze(change: Change, job: JobRow, why: Why | None) -> None:
    """`why` None: a snapshot after which the originals go on."""
    order = FreezeOrder(
        order_id=change.new_id(),
        life=life_plan(change, job),
        why=why,
        release=why is not None,
        cooperative=why is not None and job.rung is Rung.COOPERATIVE,
        newcomer_bytes=_newcomer_bytes(change, job),
    )
    _issue(change, job, order, why)


def issue_resize(change: Change, job: JobRow) -> None:
    """To where `going_to` says; the arrangement's number was raised for it."""
    life = life_plan(change, job, job.going_to)
    before = life_plan(change, job, arrangement=job.arrangement - 1)
    _issue(change, job, ResizeOrder(order_id=change.new_id(), life=life, before=before), None)


def _newcomer_bytes(change: Change, job: JobRow) -> int:
    """What the job that gets the room will want: its own images where it has some, else those of its like."""
    newcomer = change.session.get(JobRow, job.freezing_for) if job.freezing_for else None
    if newcomer is None:
        return 0
    frozen = change.snapshots(newcomer)
    if frozen:
        return frozen[0].bytes
    like = select(SnapshotRow.bytes).join(JobRow, JobRow.id == SnapshotRow.job)
    like = like.where(JobRow.project == newcomer.project, JobRow.ranks == newcomer.ranks)
    return change.session.scalars(like.order_by(SnapshotRow.taken_s.desc()).limit(1)).first() or 0


def issue_end(change: Change, job: JobRow, grace_s: float, *, collect: bool) -> None:
    order = EndOrder(order_id=change.new_id(), life=life_plan(change, job), grace_s=grace_s, collect=collect)
    _issue(change, job, order, None)


def _issue(change: Change, job: JobRow, order: Order, why: Why | None) -> None:
    """Write the order down; it is redelivered from there until it is answered. Its environment stays where it is."""
    bare = {"life": _bare(order.life)} | ({"before": _bare(order.before)} if isinstance(order, ResizeOrder) else {})
    row = OrderRow(
        id=order.order_id,
        job=job.id,
        incarnation=job.incarnation,
        node=coordinator(job),
        kind=order.kind,
        why=why,
        body=order.model_copy(update=bare).model_dump(mode="json"),
        state=OrderState.ISSUED,
        issued_s=change.now_s,
    )
    change.session.add(row)


def _bare(life: LifePlan) -> LifePlan:
    return life.model_copy(update={"spec": life.spec.model_copy(update={"env": {}})})
