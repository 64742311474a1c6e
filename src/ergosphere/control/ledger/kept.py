"""Which snapshots of a job are kept, and which are within reach."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sqlalchemy import select

from ergosphere.control.ledger import fitness
from ergosphere.control.ledger.change import SERVER, Change
from ergosphere.control.ledger.tables import JobRow, NodeRow, OrderRow, OrderState, SnapshotRow

KEEP_SNAPSHOTS: Final = 2  # of a job that says no number: the newest, and one in case it is damaged
DAMAGED: Final = "damaged"  # in the body of a thaw order that was answered: snapshots that could not be used


def strand(change: Change, node: NodeRow) -> None:
    """A node is gone: snapshots of which it alone held a part cannot be thawed until it is back."""
    held = select(SnapshotRow).where(SnapshotRow.durability == "node", SnapshotRow.dropped.is_(False))
    for row in change.session.scalars(held.where(SnapshotRow.stranded.is_(False))):
        job = change.session.get(JobRow, row.job)
        if job is None or node.id not in row.nodes:
            continue
        row.stranded = True
        change.session.flush()
        before = next((one.id for one in change.snapshots(job)), None)
        use = f"the newest that is within reach is {before}" if before else "there is no other within reach"
        text = f"snapshot {row.id} was not in the shared store yet and went with {node.id}; {use}"
        change.note(job, SERVER, "snapshot-stranded", text)


def unstrand(change: Change, node: str, held: Iterable[str]) -> None:
    """A node is back and reports images that were given up."""
    for name in held:
        row = change.session.get(SnapshotRow, name)
        if row is not None and row.stranded and node in row.nodes:
            row.stranded = False


def machines(change: Change, nodes: list[str]) -> list[str]:
    """The machines of these nodes, as far as they have said."""
    rows = (change.node(node) for node in nodes)
    return sorted({row.machine for row in rows if row is not None and row.machine})


def retire(change: Change, job: JobRow) -> None:
    """Let old snapshots of a job go. As many of the newest stay as it wants, named ones, and what it relies on, which
    would survive its node; one that cannot be used counts for nothing and goes with those of its age.
    """
    rows = undropped(change, job)
    whole = [row for row in rows if not (row.damaged or row.stranded)]
    newest = [row for row in whole if not row.name][: job.spec.get("keep_snapshots", KEEP_SNAPSHOTS)]
    kept = {row.id for row in newest} | {row.id for row in rows if row.name} | relied_on(change, job)
    if whole:
        oldest = min((row.number for row in newest), default=whole[0].number)
        kept |= {row.id for row in rows if row not in whole and row.number > oldest}
        drop(change, [row for row in rows if row.id not in kept])


def drop(change: Change, rows: Iterable[SnapshotRow]) -> None:
    """No thaw will ask for these any more; a sweep frees what only they need."""
    for row in rows:
        row.dropped, row.name = True, ""
        fitness.forget(change, row.id)


def undropped(change: Change, job: JobRow) -> list[SnapshotRow]:
    """All snapshots of a job that are kept, whole or not, the newest first."""
    mine = select(SnapshotRow).where(SnapshotRow.job == job.id, SnapshotRow.dropped.is_(False))
    return list(change.session.scalars(mine.order_by(SnapshotRow.number.desc())))


def newest_remote(rows: Iterable[SnapshotRow]) -> str:
    """Of rows, the newest first; "" where none is remote."""
    return next((row.id for row in rows if row.durability == "remote" and not row.damaged), "")


def relied_on(change: Change, job: JobRow) -> set[str]:
    """Snapshots from which later ones of a job borrow what did not change since: the newest remote one, and until its
    life has a remote one of its own, the one that this life was thawed from. Without them the next freeze is lost.
    """
    rows = undropped(change, job)
    newest = newest_remote(rows)
    own = any(row.id == newest and row.incarnation == job.incarnation for row in rows)
    return {newest, *(() if own else _thawed_from(change, job))} - {""}


def _thawed_from(change: Change, job: JobRow) -> list[str]:
    """What the present life began with; while it is being thawed, all that it may begin with."""
    mine = select(OrderRow).where(OrderRow.job == job.id, OrderRow.kind == "thaw")
    mine = mine.where(OrderRow.incarnation == job.incarnation).order_by(OrderRow.issued_s.desc())
    order = change.session.scalars(mine.limit(1)).first()
    if order is None:
        return []
    choices = [one for one in order.body["snapshots"] if one not in order.body.get(DAMAGED, ())]
    return choices if order.state is OrderState.ISSUED else choices[:1]
