"""Finding a job by what its owner types: its id, or a name."""

from __future__ import annotations

from typing import Final

from sqlalchemy import select

from ergosphere.control.ledger.change import Change
from ergosphere.control.ledger.tables import JobRow, SnapshotRow
from ergosphere.core.model import ENDED
from ergosphere.core.suggest import nearest

NAMED_MAX: Final = 5  # snapshots or jobs named in a refusal
NAMES_MAX: Final = 2000  # looked through for a similar one


class NotFound(Exception):
    """There is no such thing; the text says what is near."""


class Ambiguous(Exception):
    """Several are meant: who they are, and what to say instead."""

    def __init__(self, error: str, remedy: str) -> None:
        super().__init__(error)
        self.remedy = remedy


def find_snapshot(look: Change, ref: str) -> tuple[JobRow, SnapshotRow]:
    """`JOB@SNAPSHOT`, where the snapshot is its name, id or number, or `latest`; or a bare id. Raises NotFound."""
    job_ref, at, which = ref.rpartition("@")
    if not at:
        row = look.session.get(SnapshotRow, ref)
        if row is None or row.dropped:
            raise NotFound(f"there is no snapshot {ref!r}: write JOB@SNAPSHOT; `ergo snapshot ls` lists them")
        return look.job(row.job), row
    job = find_job(look, job_ref)
    if not which:  # a shell's variable that was not set, say: nobody means any snapshot of the job
        raise NotFound(f"{ref!r} names no snapshot: say its id, name or number after the @, or `latest`")
    kept = select(SnapshotRow).where(SnapshotRow.job == job.id, SnapshotRow.dropped.is_(False))
    rows = list(look.session.scalars(kept.order_by(SnapshotRow.number.desc())))
    for row in rows:
        if which in (row.id, row.name, str(row.number)) or which == "latest":
            return job, row
    if not rows:
        if job.phase in ENDED:
            raise NotFound(f"{job.name} has ended and has no snapshot: only named ones outlive their job")
        raise NotFound(f"{job.name} has no snapshot; `ergo snapshot create {job_ref}` takes one")
    near = ", ".join(f"{row.name or row.id} (#{row.number})" for row in rows[:NAMED_MAX])
    raise NotFound(f"{job.name} has no snapshot {which!r}; it has {near}")


def find_job(look: Change, ref: str) -> JobRow:
    """The job with that id; else the live one of that name; else the newest. Raises NotFound, Ambiguous."""
    job = look.session.get(JobRow, ref)
    if job is not None:
        return job
    named = select(JobRow).where(JobRow.name == ref).order_by(JobRow.phase.in_(ENDED), JobRow.submitted_s.desc())
    found = list(look.session.scalars(named.limit(NAMED_MAX + 1)))
    if not found:
        names = look.session.scalars(select(JobRow.name).order_by(JobRow.submitted_s.desc()).limit(NAMES_MAX))
        near = nearest(ref, set(names))
        raise NotFound(f"there is no job {ref!r}" + (f"; did you mean {near!r}?" if near else ""))
    live = [job for job in found if job.phase not in ENDED]
    if len(live) > 1:
        raise _ambiguous(look, ref, live)
    return found[0]


def _ambiguous(look: Change, ref: str, live: list[JobRow]) -> Ambiguous:
    listed = [f"{job.id} ({job.phase}, {_ago(look.now_s - job.submitted_s)})" for job in live[:NAMED_MAX]]
    listed += ["…"] * (len(live) > NAMED_MAX)
    return Ambiguous(f"several live jobs are called {ref!r}: {', '.join(listed)}", "say which one by its id")


def _ago(age_s: float) -> str:
    unit, length_s = next(((u, s) for u, s in (("d", 86400), ("h", 3600), ("m", 60)) if age_s >= s), ("s", 1))
    return f"submitted {max(0, int(age_s // length_s))}{unit} ago"
