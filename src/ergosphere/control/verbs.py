"""What owners and operators ask for: wishes written into the ledger, which the policy and the loop turn into orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import select

from ergosphere.control.find import NotFound, find_job, find_snapshot
from ergosphere.control.ledger import accounts, branches, kept, lives, results, sizes
from ergosphere.control.ledger.change import OWNER, Change
from ergosphere.control.ledger.ledger import Ledger
from ergosphere.control.ledger.tables import JobRow, NodeRow, SnapshotRow
from ergosphere.core import elastic
from ergosphere.core.model import ENDED, HOLDS_SEATS, Phase
from ergosphere.core.suggest import unknown


class Conflict(Exception):
    """What was asked cannot be: cause and remedy."""

    def __init__(self, error: str, remedy: str = "") -> None:
        super().__init__(error)
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Before:
    """How a job stood when a verb was given: what came after is told from it."""

    job: str
    incarnation: int
    phase: Phase
    freeze_failures: int
    snapshots: int
    resize_failures: int
    lost_s: float


@dataclass(slots=True)
class Verbs:
    ledger: Ledger

    def pause(self, ref: str) -> Before:
        with self.ledger.change() as change:
            job = _live(change, ref, "paused")
            _try_again(job)
            job.paused = True
            accounts.entitlement(change, job)
            change.note(job, OWNER, "pause", "its owner paused it")
            return _before(change, job)

    def resume(self, ref: str) -> Before:
        with self.ledger.change() as change:
            job = _live(change, ref, "resumed")
            if job.paused:
                job.paused = False
                accounts.entitlement(change, job)
                change.note(job, OWNER, "resume", "its owner resumed it")
            job.not_before_s, job.shunned = 0.0, {}
            return _before(change, job)

    def migrate(self, ref: str, to: Sequence[str]) -> Before:
        with self.ledger.change() as change:
            job = _live(change, ref, "moved")
            destination = _destination(change, job, to)
            if _runs_on(job, destination):
                _stay(change, job)
                return _before(change, job)
            _try_again(job)
            job.destination, job.move_asked = destination, True
            job.shunned = {node: until_s for node, until_s in job.shunned.items() if node not in destination}
            change.note(job, OWNER, "migrate", f"its owner asked for a move to {' or '.join(destination)}")
            return _before(change, job)

    def resize(self, ref: str, devices: int) -> Before:
        """The most devices it shall have from now on. What can never be is refused; room is the policy's business."""
        with self.ledger.change() as change:
            job = _live(change, ref, "resized")
            _check_resize(job, devices)
            _try_again(job)
            job.devices_asked = devices
            job.resize_asked = job.phase is not Phase.RUNNING or sizes.devices_of(job) != devices
            job.not_before_s = 0.0 if job.phase is Phase.RUNNING else job.not_before_s
            change.note(job, OWNER, "resize", f"its owner asked for {devices} device{'' if devices == 1 else 's'}")
            return _before(change, job)

    def cancel(self, ref: str, grace_s: float) -> Before:
        with self.ledger.change() as change:
            job = find_job(change, ref)
            if results.wait(job):
                change.note(job, OWNER, "cancel", "its owner gave its results up")
                lives.collected(change, job, None, "its owner gave them up")
            elif job.phase not in ENDED and not job.cancel:
                job.cancel, job.grace_s = True, grace_s
                change.note(job, OWNER, "cancel", "its owner cancelled it")
            return _before(change, job)

    def snapshot(self, ref: str, name: str = "") -> Before:
        """Ask for one; of a frozen job the newest is given the name instead."""
        with self.ledger.change() as change:
            job = _live(change, ref, "snapshotted")
            _try_again(job)
            _check_name(change, job, name)
            before = _before(change, job)
            if name and job.phase is Phase.FROZEN and (newest := next(iter(change.snapshots(job)), None)):
                _check_nameless(job, newest)
                newest.name = name
                change.note(job, OWNER, "snapshot-named", f"snapshot {newest.id} is now called {name}")
                return replace(before, snapshots=newest.number - 1)
            if job.phase not in (Phase.RUNNING, Phase.RESIZING):
                raise Conflict(
                    f"{job.name} is {job.phase}, so there is nothing new to keep", "wait until it is running"
                )
            job.snapshot_asked, job.snapshot_name = True, name
            return before

    def restore(self, ref: str) -> Before:
        """Roll a job back to one of its own snapshots."""
        with self.ledger.change() as change:
            job, row = find_snapshot(change, ref)
            check_whole(row)
            if job.phase in ENDED or job.phase is Phase.ENDING:
                remedy = f"ergo snapshot fork {ref} --name NAME begins a second job from there"
                raise Conflict(f"{job.name} has {job.outcome or 'ended'} and cannot be rolled back", remedy)
            if job.phase not in (Phase.RUNNING, Phase.FROZEN):
                raise Conflict(f"{job.name} is {job.phase}: it is between two states", "try again in a moment")
            before = _before(change, job)
            branches.roll_back(change, job, row)
            return before

    def remove_snapshot(self, ref: str) -> str:
        """Let a snapshot go, named or not; gives its id. The bytes go with the next sweeps."""
        with self.ledger.change() as change:
            job, row = find_snapshot(change, ref)
            if job.phase not in ENDED:
                _check_removable(change, job, row)
            kept.drop(change, [row])
            change.note(job, OWNER, "snapshot-removed", f"snapshot {row.id} was removed")
            return row.id

    def drain(self, node: str, *, on: bool) -> list[str]:
        """Empty a node, or take it into use again; gives the jobs that sit on it now."""
        with self.ledger.change() as change:
            row = find_node(change, node)
            if row.draining != on:
                row.draining = on
                words = "is being emptied" if on else "takes jobs again"
                change.note(None, OWNER, "drain" if on else "undrain", f"{node} {words}")
            return jobs_on(change, node)


def _check_name(change: Change, job: JobRow, name: str) -> None:
    taken = select(SnapshotRow.id).where(SnapshotRow.job == job.id, SnapshotRow.name == name)
    same = change.session.scalars(taken.where(SnapshotRow.dropped.is_(False))).first() if name else None
    if same:
        remedy = f"ergo snapshot rm {job.id}@{name}, or another name"
        raise Conflict(f"snapshot {same} of {job.name} is called {name} already", remedy)


def _check_nameless(job: JobRow, newest: SnapshotRow) -> None:
    if newest.name:
        cause = f"{job.name} is frozen, and its newest snapshot is called {newest.name} already"
        raise Conflict(cause, f"use that name, or ergo resume {job.id} and take another")


def check_whole(row: SnapshotRow) -> None:
    """Raises Conflict where a life cannot begin with it."""
    if row.damaged:
        raise Conflict(f"snapshot {row.id} is damaged", "`ergo snapshot ls` shows the others")
    if row.stranded:
        nodes = ", ".join(dict.fromkeys(row.nodes))
        raise Conflict(f"snapshot {row.id} lies on {nodes} only, which is out of reach", "wait for it, or take another")


def _check_removable(change: Change, job: JobRow, row: SnapshotRow) -> None:
    """Raises Conflict for a snapshot without which its job could not go on, now or after its next freeze."""
    runs = job.phase in (Phase.RUNNING, Phase.RESIZING, Phase.ENDING)
    if not runs and [row.id] == [one.id for one in change.snapshots(job)]:
        remedy = f"resume it first, or ergo cancel {job.id}"
        raise Conflict(f"{row.id} is all there is of {job.name}, which is {job.phase}", remedy)
    if row.id in kept.relied_on(change, job):
        first = "take another first" if runs else "resume it and take another first"
        raise Conflict(
            f"later snapshots of {job.name} take from {row.id} what did not change since",
            f"{first} (ergo snapshot create {job.id}) and wait until it is remote, or ergo cancel {job.id}",
        )


def find_node(change: Change, node: str) -> NodeRow:
    row = change.node(node)
    if row is None:
        raise NotFound(unknown("node", node, change.session.scalars(select(NodeRow.id))))
    return row


def jobs_on(change: Change, node: str) -> list[str]:
    """Names of the jobs that hold seats of a node."""
    return [job.name for job in sitting_on(change, node)]


def sitting_on(change: Change, node: str) -> list[JobRow]:
    """The jobs that hold seats of a node."""
    holding = (job for job in change.live_jobs() if job.phase in HOLDS_SEATS)
    return [job for job in holding if any(seat[0] == node for seat in job.seats)]


def _live(change: Change, ref: str, done: str) -> JobRow:
    job = find_job(change, ref)
    if job.phase in ENDED or job.phase is Phase.ENDING:
        raise Conflict(f"{job.name} has {job.outcome or 'ended'} and cannot be {done}")
    return job


def _try_again(job: JobRow) -> None:
    """What could not be frozen is not frozen by the policy any more; its owner may know that the cause is gone."""
    job.freezable = True


def _check_resize(job: JobRow, devices: int) -> None:
    refusal = elastic.refusal(job.ranks, job.min_devices or job.ranks, devices)
    if refusal is not None:
        raise Conflict(f"{job.name} cannot be resized: {refusal}", "name one of these; it runs on as it is")
    if devices < job.ranks and not job.shareable:
        raise Conflict(f"{job.name} cannot share devices: {job.not_shareable_because}", "it runs on as it is")
    if job.phase is Phase.RESIZING:
        there, after = sizes.devices_of(job), len({(node, device) for node, device in job.going_to})
        raise Conflict(f"{job.name} is being resized already, from {there} to {after} devices", "ask again in a moment")
    if job.phase in (Phase.FREEZING, Phase.CLEARING):
        what = {Phase.FREEZING: "is being frozen", Phase.CLEARING: "was lost and is being cleared away"}[job.phase]
        raise Conflict(f"{job.name} {what} and cannot be resized now", "ask again when it is frozen, or runs")


def _destination(change: Change, job: JobRow, to: Sequence[str]) -> list[str]:
    if to:
        return [find_node(change, node).id for node in dict.fromkeys(to)]
    here = {seat[0] for seat in job.seats}
    others = [node for node in change.session.scalars(select(NodeRow.id)) if node not in here]
    if not others:
        raise Conflict(f"{job.name} already sits on every node", "name the node with --to, or add one")
    return others


def _runs_on(job: JobRow, nodes: Sequence[str]) -> bool:
    """It is where it is to be, and nobody has asked for it to leave."""
    stays = job.phase in (Phase.RUNNING, Phase.RESIZING) and not job.paused
    return stays and {seat[0] for seat in job.seats} <= set(nodes)


def _stay(change: Change, job: JobRow) -> None:
    """A move that was asked for before is so no more: it would be made when nobody expects it."""
    if job.move_asked:
        job.move_asked, job.destination = False, []
        change.note(job, OWNER, "migrate", "its owner wants it where it is: no move is asked for any more")


def _before(change: Change, job: JobRow) -> Before:
    newest = next(iter(change.snapshots(job)), None)
    taken = newest.number if newest else 0
    return Before(job.id, job.incarnation, job.phase, job.freeze_failures, taken, job.resize_failures, job.lost_s)
