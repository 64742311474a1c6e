"""Jobs that leave their line: rolled back to an earlier snapshot, or begun anew from a copy of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from ergosphere.control.ledger import accounts, costs, lives, orders
from ergosphere.control.ledger.change import OWNER, Change
from ergosphere.control.ledger.tables import EnvironmentRow, JobRow, SnapshotRow
from ergosphere.core import elastic
from ergosphere.core.lifecycle import Event
from ergosphere.core.model import Phase
from ergosphere.snapshots.manifest import Manifest
from ergosphere.wire.jobs import JobSpec

FIRST: Final = 1  # number of the snapshot that a copy begins with


@dataclass(frozen=True, slots=True)
class Branch:
    """A job that begins frozen: the committed manifest it begins with, and what it was copied from."""

    spec: JobSpec  # environment included
    manifest: Manifest
    origin: str  # "JOB@SNAPSHOT", or where an imported one came from
    cells: list[list[int]]
    known_as: list[str]  # per cell, the address its processes know
    known_name: str
    threads: int
    fork_names: tuple[str, ...] = ()
    progress_s: float = 0.0


def begin(change: Change, job_id: str, branch: Branch) -> JobRow:
    """The second job, frozen at the snapshot it was copied from. The policy thaws it as any other."""
    spec, manifest = branch.spec, branch.manifest
    job = JobRow(
        id=job_id,
        name=spec.name,
        project=spec.project,
        tier=spec.tier,
        ranks=spec.ranks,
        spec=spec.model_copy(update={"env": {}}).model_dump(mode="json"),
        submitted_s=change.now_s,
        phase=Phase.WAITING,
        cells=branch.cells,
        addresses=change.addresses(len(branch.cells)),
        known_as=branch.known_as,
        known_name=branch.known_name,
        threads=branch.threads,
        forked_from=branch.origin,
        fork_names=list(branch.fork_names),
        progress_s=branch.progress_s,
        home=["" for _ in branch.cells],
        min_devices=elastic.fewest(spec.ranks, spec.min_devices),
    )
    accounts.open_account(job, change.now_s)
    change.session.add(job)
    change.session.flush()
    change.session.add(EnvironmentRow(job=job.id, env=spec.env))
    change.session.add(_copy(change, job, branch))
    change.session.flush()
    change.step(job, Event.FORKED, OWNER, f"begins as a copy of {branch.origin}")
    costs.foresee(change, job)
    assert manifest.job == job.id, "the copy is the new job's own"
    return job


def _copy(change: Change, job: JobRow, branch: Branch) -> SnapshotRow:
    manifest = branch.manifest
    return SnapshotRow(
        id=manifest.id,
        job=job.id,
        number=FIRST,
        incarnation=0,
        taken_s=manifest.taken_s,
        why="fork",
        bytes=manifest.bytes,
        stopped_s=0.0,
        progress_s=branch.progress_s,
        durability="remote",
        log_lengths=dict(manifest.log_lengths()),
        nodes=[],
        machines=_machines(change, branch.origin),
        origin=branch.origin,
    )


def _machines(change: Change, origin: str) -> list[Any]:
    source = change.session.get(SnapshotRow, origin.rpartition("@")[2])
    return list(source.machines) if source is not None else ["elsewhere"]


def roll_back(change: Change, job: JobRow, to: SnapshotRow) -> None:
    """Back to one of its snapshots, which becomes the newest. A life it has now ends; a frozen job stays frozen."""
    to.number = lives.next_number(change, job)
    words = f"its owner rolled it back to snapshot {to.name or to.id}"
    if job.phase is Phase.RUNNING:
        lives.stop_running(change, job, change.now_s)
        change.drop_orders(job)
        job.rolling_back = True
        change.step(job, Event.ROLL_BACK, OWNER, words)
        if lives.reachable(change, job):
            orders.issue_end(change, job, 0.0, collect=False)
    else:
        change.note(job, OWNER, Event.ROLL_BACK.value, words)
        job.rolling_back = True
    job.progress_s = to.progress_s
