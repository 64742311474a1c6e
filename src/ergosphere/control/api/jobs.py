"""Routes of jobs: submit, list, show, follow, fetch."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from sqlalchemy import select

from ergosphere.control import foresee, shown, submit
from ergosphere.control.find import find_job
from ergosphere.control.ledger.tables import JobRow
from ergosphere.control.service import Service
from ergosphere.control.verbs import Conflict
from ergosphere.core.model import ENDED, Phase
from ergosphere.wire.api import EVENTS_MAX, PAGE_BYTES_MAX, PlanInfo, Submitted, WaitS
from ergosphere.wire.jobs import EventInfo, Explanation, JobDetail, JobInfo, JobSpec, LogPage

Until = Literal["ended", "running", "frozen"]
_WANTED: dict[str, frozenset[Phase]] = {
    "ended": ENDED,
    "running": ENDED | {Phase.RUNNING},
    "frozen": ENDED | {Phase.FROZEN},
}


def routes(service: Service) -> APIRouter:
    """Thin: each parses, asks a room and answers."""
    router = APIRouter(prefix="/v1", tags=["jobs"])
    ledger = service.ledger

    @router.post("/jobs", status_code=201)
    def submit_job(spec: JobSpec) -> Submitted:
        if service.closing.begun:
            raise Conflict("the service is shutting down", "submit again after `ergo up`")
        return submit.submit(ledger, service.store, spec)

    @router.post("/plan")
    def plan(spec: JobSpec) -> PlanInfo:
        return foresee.foresee(ledger, service.rules, spec)

    @router.get("/jobs")
    def list_jobs(all: bool = False, project: str | None = None, name: str | None = None) -> list[JobInfo]:
        with ledger.read() as look:
            query = select(JobRow).order_by(JobRow.submitted_s, JobRow.id)
            query = query if all else query.where(JobRow.phase.not_in(ENDED))
            query = query.where(JobRow.project == project) if project else query
            query = query.where(JobRow.name == name) if name else query
            return [shown.job_info(look, job) for job in look.session.scalars(query)]

    @router.get("/jobs/{ref}")
    async def show_job(ref: str, wait_s: WaitS = 0.0, until: Until | None = None) -> JobDetail:
        def wanted() -> JobDetail | None:
            found = _detail(service, ref)
            return found if until is None or found.phase in _WANTED[until] else None

        found = await ledger.bell.until(wanted, wait_s)
        return found if found is not None else await asyncio.to_thread(_detail, service, ref)

    @router.get("/jobs/{ref}/events")
    async def job_events(
        ref: str, after: int = 0, limit: Annotated[int, Query(ge=1, le=EVENTS_MAX)] = EVENTS_MAX, wait_s: WaitS = 0.0
    ) -> list[EventInfo]:
        job = await asyncio.to_thread(_id, service, ref)
        return await ledger.bell.until(events_after(service, job, after, limit), wait_s) or []

    @router.get("/jobs/{ref}/explain")
    def explain(ref: str) -> Explanation:
        return foresee.explanation(ledger, service.logs, service.rules, ref)

    @router.get("/jobs/{ref}/logs")
    async def logs(
        ref: str,
        rank: Annotated[int, Query(ge=0)] = 0,
        stream: Literal["out", "err"] = "out",
        offset: int = 0,
        limit: Annotated[int, Query(ge=1, le=PAGE_BYTES_MAX)] = PAGE_BYTES_MAX // 4,
        wait_s: WaitS = 0.0,
    ) -> LogPage:
        def page(at: int, *, anyway: bool) -> LogPage | None:
            found = _page(service, ref, rank, stream, (at, limit))
            return found if anyway or found.data or found.ended else None

        first = await asyncio.to_thread(page, offset, anyway=True)
        assert first is not None
        if first.data or first.ended or not wait_s:
            return first
        later = await service.logs_bell.until(lambda: page(first.offset, anyway=False), wait_s)
        return later or first

    return router


def events_after(service: Service, job: str | None, after: int, limit: int) -> Callable[[], list[EventInfo] | None]:
    """A look for `Bell.until`: the first events beyond `after`, None while there are none."""

    def look() -> list[EventInfo] | None:
        with service.ledger.read() as reading:
            return shown.events(reading, job, after, limit) or None

    return look


def _detail(service: Service, ref: str) -> JobDetail:
    with service.ledger.read() as look:
        return shown.job_detail(look, find_job(look, ref), service.inbox.uploads)


def _id(service: Service, ref: str) -> str:
    with service.ledger.read() as look:
        return find_job(look, ref).id


def _page(service: Service, ref: str, rank: int, stream: Literal["out", "err"], window: tuple[int, int]) -> LogPage:
    with service.ledger.read() as look:
        job = find_job(look, ref)
        job_id, ranks, has_ended = job.id, job.ranks, job.phase in ENDED
    if rank >= ranks:
        raise Conflict(f"{ref} has {ranks} ranks, 0 to {ranks - 1}")
    name = f"rank{rank}.{stream}"
    begin, data = service.logs.read(job_id, name, *window)
    ended = has_ended and begin + len(data) >= service.logs.length(job_id, name)
    return LogPage(rank=rank, stream=stream, offset=begin, data=base64.b64encode(data).decode(), ended=ended)
