"""Routes of the verbs: write the wish down, then wait for what comes of it as long as the caller wants to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from fastapi import APIRouter

from ergosphere.control import shown
from ergosphere.control.ledger.change import Change
from ergosphere.control.ledger.tables import JobRow
from ergosphere.control.service import Service
from ergosphere.control.verbs import Before, Conflict
from ergosphere.core.model import ENDED, Phase, Why
from ergosphere.wire.api import WAIT_S_MAX, CancelRequest, MigrateRequest, ResizeRequest, VerbRequest, VerbResult
from ergosphere.wire.snapshots import SnapshotRequest

BEGINS_S_MAX: Final = 4.0  # a move that can be made has begun by then

Judge = Callable[[Change, JobRow, Before], str | None]  # words when it is done; None while it is not; or Conflict


def routes(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v1/jobs/{ref}", tags=["verbs"])
    verbs = service.verbs

    @router.post("/pause")
    async def pause(ref: str, wish: VerbRequest = VerbRequest()) -> VerbResult:
        return await see(service, await asyncio.to_thread(verbs.pause, ref), _paused, wish.wait_s)

    @router.post("/resume")
    async def resume(ref: str, wish: VerbRequest = VerbRequest()) -> VerbResult:
        return await see(service, await asyncio.to_thread(verbs.resume, ref), _resumed, wish.wait_s)

    @router.post("/migrate")
    async def migrate(ref: str, wish: MigrateRequest = MigrateRequest()) -> VerbResult:
        before = await asyncio.to_thread(verbs.migrate, ref, wish.to)
        return await see(service, before, _moved, wish.wait_s, BEGINS_S_MAX)

    @router.post("/resize")
    async def resize(ref: str, wish: ResizeRequest) -> VerbResult:
        return await see(service, await asyncio.to_thread(verbs.resize, ref, wish.devices), _resized, wish.wait_s)

    @router.post("/cancel")
    async def cancel(ref: str, wish: CancelRequest = CancelRequest()) -> VerbResult:
        return await see(service, await asyncio.to_thread(verbs.cancel, ref, wish.grace_s), _cancelled, wish.wait_s)

    @router.post("/snapshot")
    async def snapshot(ref: str, wish: SnapshotRequest = SnapshotRequest()) -> VerbResult:
        before = await asyncio.to_thread(verbs.snapshot, ref, wish.name)
        return await see(service, before, _snapshotted, wish.wait_s)

    return router


async def see(
    service: Service, before: Before, judge: Judge, wait_s: float, begins_s: float = WAIT_S_MAX
) -> VerbResult:
    """What has come of a wish once `judge` says so, or after `wait_s`; of one that has not even begun by `begins_s`,
    and has a reason for it, no more is waited for.
    """
    late_s = service.clock.monotonic() + begins_s

    def settled() -> VerbResult | None:
        late = service.clock.monotonic() >= late_s
        return _result(service, before, judge, lambda job: late and _is_held_up(job, before))

    found = await service.ledger.bell.until(settled, wait_s)
    if found is None:
        found = await asyncio.to_thread(lambda: _result(service, before, judge, lambda _: True))
    assert found is not None
    return found


def _result(service: Service, before: Before, judge: Judge, enough: Callable[[JobRow], bool]) -> VerbResult | None:
    """None while it is not done and not `enough` has been waited for."""
    with service.ledger.read() as look:
        job = look.job(before.job)
        words = judge(look, job, before)
        if words is None and not enough(job):
            return None
        taken = _newer_snapshot(look, job, before) if judge is _snapshotted else None
        return VerbResult(
            job=shown.job_info(look, job), done=words is not None, text=words or _undone(job), snapshot=taken
        )


def _is_held_up(job: JobRow, before: Before) -> bool:
    as_it_was = (job.phase, job.incarnation) == (before.phase, before.incarnation)
    return as_it_was and job.phase in (Phase.RUNNING, Phase.WAITING, Phase.FROZEN) and bool(job.reason)


def _undone(job: JobRow) -> str:
    text = job.reason or f"{job.name} is {job.phase}"
    return f"{text}; the move stays asked for" if job.move_asked else text


def _paused(_look: Change, job: JobRow, before: Before) -> str | None:
    _not_failed(job, before, "paused")
    if job.phase in ENDED:
        raise Conflict(f"{job.name} had {job.phase} before it could be paused")
    return f"{job.name} is paused" if job.paused and job.phase in (Phase.FROZEN, Phase.WAITING) else None


def _resumed(_look: Change, job: JobRow, before: Before) -> str | None:
    if job.phase is Phase.FAILED:
        raise Conflict(
            f"{job.name} was resumed and has failed: {job.reason}" if job.reason else f"{job.name} has failed"
        )
    return f"{_standing(job)}{_redone(job, before)}" if job.phase in ENDED or job.phase is Phase.RUNNING else None


def _redone(job: JobRow, before: Before) -> str:
    """What a verb that should have cost nothing did cost: a snapshot could not be used, say."""
    lost_s = job.lost_s - before.lost_s
    return f", but {lost_s:.1f} s of its work are done again: ergo events {job.id} says why" if lost_s > 0 else ""


def _standing(job: JobRow) -> str:
    """`a is running`, `a is cancelled`, `a had succeeded already`: who ended by itself was not ended by a verb."""
    by_itself = job.phase in (Phase.SUCCEEDED, Phase.FAILED)
    return f"{job.name} had {job.phase} already" if by_itself else f"{job.name} is {job.phase}"


def _moved(_look: Change, job: JobRow, before: Before) -> str | None:
    _not_failed(job, before, "moved")
    if job.phase in ENDED:
        raise Conflict(f"{job.name} had {job.phase} before it could be moved")
    if job.phase is Phase.RUNNING and not job.move_asked:
        runs = "runs" if job.incarnation > before.incarnation else "already runs"
        places = ", ".join(dict.fromkeys(seat[0] for seat in job.seats))
        return f"{job.name} {runs} on {places}{_redone(job, before)}"
    if job.paused and job.phase in (Phase.FROZEN, Phase.WAITING):
        return f"{job.name} is paused and will go on on {' or '.join(job.destination)}"
    return None


def _resized(_look: Change, job: JobRow, before: Before) -> str | None:
    _not_failed(job, before, "resized")
    if job.resize_failures > before.resize_failures:
        raise Conflict(f"{job.name} {job.resize_failed}", job.resize_failed_remedy)
    if job.phase in ENDED:
        raise Conflict(f"{job.name} had {job.phase} before it could be resized")
    many = f"{job.devices_asked} device{'' if job.devices_asked == 1 else 's'}"
    if job.phase in (Phase.FROZEN, Phase.WAITING):
        return f"{job.name} is {job.phase} and will go on on {many}" if job.freeze_why is not Why.RESIZE else None
    done = job.phase is Phase.RUNNING and not job.resize_asked
    return f"{job.name} runs on {many}{_redone(job, before)}" if done else None


def rolled_back(_look: Change, job: JobRow, before: Before) -> str | None:
    """Judges a restore: done once a life that began at the snapshot runs, or the frozen job will."""
    if job.phase in ENDED:
        raise Conflict(f"{job.name} had {job.phase} before it could be rolled back")
    if job.phase is Phase.RUNNING and job.incarnation > before.incarnation:
        return f"{job.name} runs again from there"
    return f"{job.name} goes on from there when it is thawed" if job.phase is Phase.FROZEN and job.paused else None


def _cancelled(_look: Change, job: JobRow, _before: Before) -> str | None:
    return _standing(job) if job.phase in ENDED else None


def _snapshotted(look: Change, job: JobRow, before: Before) -> str | None:
    _not_failed(job, before, "snapshotted")
    taken = _newer_snapshot(look, job, before)
    if taken is None and job.phase in ENDED:
        raise Conflict(f"{job.name} had {job.phase} before a snapshot could be taken")
    return f"snapshot {taken} taken" if taken else None


def _newer_snapshot(look: Change, job: JobRow, before: Before) -> str | None:
    newest = next(iter(look.snapshots(job)), None)
    return newest.id if newest is not None and newest.number > before.snapshots else None


def _not_failed(job: JobRow, before: Before, done: str) -> None:
    if job.freeze_failures > before.freeze_failures:
        raise Conflict(f"{job.name} could not be {done} and runs on: {job.freeze_failed}", job.freeze_failed_remedy)
