"""Which node could thaw which snapshot, as the nodes themselves have found by looking.

A node of the machine that a snapshot was taken on is taken to be fit until it says otherwise; any other node is not,
until it has said that it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from sqlalchemy import delete, func, select

from ergosphere.control.ledger.change import WITHIN_REACH, Change, chunks
from ergosphere.control.ledger.tables import FitnessRow, JobRow, NodeRow, SnapshotRow
from ergosphere.core.model import ENDED
from ergosphere.wire.agents import Weighed

WEIGHED_MAX: Final = 200  # snapshots that one node is asked about at a time
UNASKED: Final = "it is being asked whether it can"


def note(change: Change, node: str, weighed: Iterable[Weighed]) -> None:
    """Write down what a node found."""
    for one in weighed:
        row = change.session.get(FitnessRow, (one.snapshot, node))
        if row is None:
            if change.session.get(SnapshotRow, one.snapshot) is not None:
                change.session.add(FitnessRow(snapshot=one.snapshot, node=node, cause=one.cause))
        elif row.cause != one.cause:
            row.cause = one.cause


def to_weigh(change: Change) -> tuple[str, ...]:
    """The newest whole snapshot of each live job: what the next thaw would use. Of the oldest jobs, where they are
    many."""
    number = func.max(SnapshotRow.number)  # SQLite: bare columns beside max() are those of its row
    query = select(SnapshotRow.id, number).join(JobRow, JobRow.id == SnapshotRow.job)
    query = query.where(JobRow.phase.not_in(ENDED), *WITHIN_REACH).group_by(SnapshotRow.job)
    oldest = query.order_by(JobRow.submitted_s, JobRow.id).limit(WEIGHED_MAX)
    return tuple(snapshot for snapshot, _ in change.session.execute(oldest))


class Fitness:
    """Who can thaw what, for many jobs at once: `nodes` with their machines, and what was told of `snapshots`."""

    def __init__(self, look: Change, machines: Mapping[str, str], jobs: Iterable[str]) -> None:
        self._machines = machines
        self._newest = newest(look, jobs)
        self._told: dict[str, dict[str, str]] = {}
        self._strangers: dict[tuple[tuple[str, ...], tuple[str, ...]], tuple[tuple[str, str], ...]] = {}
        for some in chunks(row.id for row in self._newest.values()):
            for told in look.session.scalars(select(FitnessRow).where(FitnessRow.snapshot.in_(some))):
                self._told.setdefault(told.snapshot, {})[told.node] = told.cause

    def unfit(self, job: str) -> tuple[tuple[str, str], ...]:
        """Nodes that cannot thaw the job's newest snapshot, each with its cause; none for a job without one."""
        snapshot = self._newest.get(job)
        if snapshot is None:
            return ()
        strangers = self._strange_to(snapshot)
        told = self._told.get(snapshot.id)
        if told is None:
            return strangers
        causes = {**dict(strangers), **{node: words for node, words in told.items() if node in self._machines}}
        return tuple((node, words) for node, words in sorted(causes.items()) if words)

    def _strange_to(self, snapshot: SnapshotRow) -> tuple[tuple[str, str], ...]:
        """Nodes that would have to be asked: reckoned once for all snapshots of the same place."""
        key = (tuple(snapshot.machines), tuple(snapshot.nodes))
        found = self._strangers.get(key)
        if found is None:
            home = {*snapshot.nodes}
            asked = (node for node in self._machines if snapshot.machines and node not in home)
            found = tuple((node, UNASKED) for node in sorted(asked) if self._machines[node] not in snapshot.machines)
            self._strangers[key] = found
        return found


def newest(look: Change, jobs: Iterable[str]) -> dict[str, SnapshotRow]:
    """The newest whole snapshot within reach of each of these jobs that has one."""
    found: dict[str, SnapshotRow] = {}
    for some in chunks(jobs):
        query = select(SnapshotRow).where(SnapshotRow.job.in_(some), *WITHIN_REACH).order_by(SnapshotRow.number)
        found |= {row.job: row for row in look.session.scalars(query)}
    return found


def cause(change: Change, snapshot: SnapshotRow, node: NodeRow) -> str:
    """Why that node cannot thaw it, as far as is known; "" if it can."""
    told = change.session.get(FitnessRow, (snapshot.id, node.id))
    if told is not None:
        return told.cause
    same_machine = not snapshot.machines or node.machine in snapshot.machines
    return "" if same_machine or node.id in snapshot.nodes else UNASKED


def forget(change: Change, snapshot: str) -> None:
    """The snapshot is no more."""
    change.session.execute(delete(FitnessRow).where(FitnessRow.snapshot == snapshot))
