"""`ergo down`: every job is frozen (or its life ended), then agents and server stop. What cannot be frozen stops it."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Final

from sqlalchemy import select

from ergosphere.control.ledger import accounts, lives, results
from ergosphere.control.ledger.change import OWNER, SERVER, Change
from ergosphere.control.ledger.tables import JobRow, SnapshotRow
from ergosphere.control.service import Service
from ergosphere.control.verbs import Conflict
from ergosphere.core.model import Phase
from ergosphere.wire.api import ShutdownRequest, ShutdownResult

UPLOADED_S_MAX: Final = 60.0  # how long to wait for snapshots to reach the shared store


@dataclass(frozen=True, slots=True)
class _Stuck:
    """A job that could not be frozen, and why."""

    name: str
    because: str


async def shut_down(service: Service, wish: ShutdownRequest) -> ShutdownResult:
    """Freeze or end everything; Conflict when that failed (all go on then). The caller leaves afterwards."""
    if service.closing.begun:
        raise Conflict("the service is already shutting down")
    service.closing.begun = True
    try:
        names, failures = _hold_all(service, kill=wish.kill)
        await _until_still(service, wish, failures)
    except BaseException:
        service.closing.begun = False
        let_go(service, "it was not shut down after all")
        raise
    notes = [] if wish.kill else await _until_remote(service)
    return ShutdownResult(paused=() if wish.kill else names, killed=names if wish.kill else (), notes=tuple(notes))


def let_go(service: Service, text: str) -> None:
    """Jobs that a shutdown held go on by themselves."""
    with service.ledger.change() as change:
        for job in change.live_jobs():
            if job.held:
                job.held = False
                if job.reason_code == "held":
                    job.reason, job.reason_code, job.remedy = "", "", ""  # until the policy says what it waits for
                accounts.entitlement(change, job)
                change.note(job, SERVER, "resume", text)


def _hold_all(service: Service, *, kill: bool) -> tuple[tuple[str, ...], dict[str, int]]:
    """Names of the jobs that hold devices, and how often the freezing of each had failed before."""
    with service.ledger.change() as change:
        busy = [job for job in change.live_jobs() if results.holds_seats(job)]
        for job in change.live_jobs():
            job.held = True
            accounts.entitlement(change, job)
            change.note(job, OWNER, "down", "the service is being shut down; it goes on with the next start")
        for job in busy if kill else ():
            if job.phase not in (Phase.CLEARING, Phase.ENDING):
                lives.lose(change, job, "its life was ended by a shutdown (--kill)", counted=False)
        return tuple(job.name for job in busy), {job.id: job.freeze_failures for job in busy}


async def _until_still(service: Service, wish: ShutdownRequest, failures: dict[str, int]) -> None:
    outcome = await service.ledger.bell.until(lambda: _look(service, failures), wish.wait_s)
    if outcome is None:
        words = _still_busy(service, wish.wait_s) + _called_off(service, failures)
        raise Conflict(words, "try again, or end their lives with --kill")
    if outcome:
        words = "; ".join(f"{stuck.name}: {stuck.because}" for stuck in outcome)
        words = f"not every job could be frozen, so the service stays up: {words}{_called_off(service, failures)}"
        raise Conflict(words, "end their lives with --kill")


def _called_off(service: Service, busy: Container[str]) -> str:
    """What of the jobs that were `busy` is frozen by now, and goes on."""
    with service.ledger.read() as look:
        jobs = [job for job in look.live_jobs() if job.id in busy and job.phase in (Phase.FREEZING, Phase.FROZEN)]
    if not jobs:
        return ""
    verb = "was frozen for it and goes on by itself" if len(jobs) == 1 else "were frozen for it and go on by themselves"
    return f"; {', '.join(job.name for job in jobs)} {verb}"


def _look(service: Service, failures: dict[str, int]) -> list[_Stuck] | None:
    """[] when nothing runs any more; those that cannot be frozen; None while it is still going on."""
    with service.ledger.read() as look:
        busy = [job for job in look.live_jobs() if results.holds_seats(job)]
        stuck = [_Stuck(job.name, _because(job)) for job in busy if _is_stuck(job, failures)]
        return stuck if stuck or not busy else None


def _is_stuck(job: JobRow, failures: dict[str, int]) -> bool:
    if job.phase is not Phase.RUNNING:
        return False
    return not job.freezable or job.freeze_failures > failures.get(job.id, 0)


def _because(job: JobRow) -> str:
    return job.rung_because or job.freeze_failed


def _still_busy(service: Service, wait_s: float) -> str:
    with service.ledger.read() as look:
        busy = [f"{job.name} is {job.phase}" for job in look.live_jobs() if results.holds_seats(job)]
    return f"after {wait_s:.0f} s not every job was frozen, so the service stays up: {', '.join(busy)}"


async def _until_remote(service: Service) -> list[str]:
    """Snapshots that only lie in this machine's memory would not survive its reboot: wait, else say so."""
    done = await service.ledger.bell.until(lambda: True if not _near(service) else None, UPLOADED_S_MAX)
    if done:
        return []
    near = ", ".join(_near(service))
    return [f"the snapshots of {near} are not in the shared store yet and would not survive a reboot"]


def _near(service: Service) -> list[str]:
    with service.ledger.read() as look:
        frozen = [job for job in look.live_jobs() if job.phase is Phase.FROZEN]
        return [job.name for job in frozen if not _is_remote(look, job)]


def _is_remote(look: Change, job: JobRow) -> bool:
    query = select(SnapshotRow.durability).where(SnapshotRow.job == job.id, SnapshotRow.damaged.is_(False))
    return look.session.scalars(query.order_by(SnapshotRow.number.desc()).limit(1)).first() == "remote"
