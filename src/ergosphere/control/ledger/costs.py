"""What freezes, thaws and uploads have cost, per job and node; what the next ones will cost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sqlalchemy import select

from ergosphere.control.ledger.change import Change
from ergosphere.control.ledger.tables import CostRow, JobRow, SnapshotRow
from ergosphere.core.costs import FEW, Sample, predict
from ergosphere.core.model import Rung
from ergosphere.wire.agents import Answer, Cost

SAVING: Final = "saving"  # the kind of a freeze for which the job saved itself: it tells nothing of others'
COSTS_KEPT: Final = 50  # of one job and kind


def note(change: Change, job: JobRow, costs: Iterable[Cost]) -> None:
    """Write measurements down; the oldest of the job go."""
    for cost in costs:
        row = CostRow(
            job=job.id, node=cost.node, kind=cost.kind, bytes=cost.bytes, seconds=cost.seconds, at_s=change.now_s
        )
        change.session.add(row)
        change.session.flush()
        _forget_old(change, job, cost.kind)


def foresee(change: Change, job: JobRow) -> None:
    """Predict the job's next freeze, upload and thaw, for the policy: see `core.costs.predict`.

    Each measurement is of one node's share, and the nodes of a job work at the same time.
    """
    nodes = {str(seat[0]) for seat in job.seats} or {str(node) for node in job.home}
    now = _bytes_now(change, job)
    now = None if now is None else now // max(1, len(nodes))
    job.measured = _measured(change, job)
    job.freeze_cost_s = predict(_own(change, job, "freeze"), _of_nodes(change, nodes, "freeze"), now)
    job.upload_cost_s = predict(_own(change, job, "upload"), _of_nodes(change, nodes, "upload"), now)
    if job.rung is Rung.COOPERATIVE:  # as long as it took the last times, else as long as it may
        taken = [sample.seconds for sample in _own(change, job, SAVING)]
        job.freeze_cost_s = max(taken, default=job.spec["grace_s"])
    job.thaw_cost_s = predict(_own(change, job, "thaw"), _of_nodes(change, nodes, "thaw"), now)


def whole(answer: Answer, kind: str, node: str) -> tuple[Cost, ...]:
    """The measurements an answer carries; from an agent that says none, its time as a whole."""
    told = tuple(cost for cost in answer.costs if cost.kind == kind)
    if told or not answer.took_s:
        return told
    return (Cost.model_validate({"kind": kind, "node": node, "bytes": answer.bytes, "seconds": answer.took_s}),)


def _own(change: Change, job: JobRow, kind: str) -> list[Sample]:
    """What each node of it measured, the newest few times."""
    own = (CostRow.job == job.id, CostRow.kind == kind)
    times = select(CostRow.at_s).where(*own).distinct().order_by(CostRow.at_s.desc()).limit(FEW)
    query = select(CostRow).where(*own, CostRow.at_s.in_(times)).order_by(CostRow.id.desc())
    return _samples(change.session.scalars(query))


def _measured(change: Change, job: JobRow) -> int:
    """How many of its own freezes count: of one, each node measured its share."""
    query = select(CostRow.at_s).where(CostRow.job == job.id, CostRow.kind.in_(("freeze", SAVING))).distinct()
    return len(list(change.session.scalars(query.limit(FEW))))


def _of_nodes(change: Change, nodes: set[str], kind: str) -> list[Sample]:
    query = select(CostRow).where(CostRow.node.in_(nodes), CostRow.kind == kind).order_by(CostRow.id.desc())
    return _samples(change.session.scalars(query.limit(FEW)))


def _samples(rows: Iterable[CostRow]) -> list[Sample]:
    return [Sample(row.bytes, row.seconds) for row in rows]


def _bytes_now(change: Change, job: JobRow) -> int | None:
    query = select(SnapshotRow.bytes).where(SnapshotRow.job == job.id).order_by(SnapshotRow.number.desc())
    return change.session.scalars(query.limit(1)).first()


def _forget_old(change: Change, job: JobRow, kind: str) -> None:
    query = select(CostRow).where(CostRow.job == job.id, CostRow.kind == kind).order_by(CostRow.id.desc())
    for row in change.session.scalars(query.offset(COSTS_KEPT)):
        change.session.delete(row)
