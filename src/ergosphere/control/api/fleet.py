"""Routes of the fleet: nodes, status, the whole history, shutdown."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Query
from sqlalchemy import func, select

from ergosphere.control import closing, shown
from ergosphere.control import nodes as node_facts
from ergosphere.control.api.jobs import events_after
from ergosphere.control.ledger import sizes
from ergosphere.control.ledger.tables import JobRow
from ergosphere.control.service import Service
from ergosphere.control.verbs import find_node, sitting_on
from ergosphere.core.model import HOLDS_SEATS, Phase
from ergosphere.core.policy.reasons import CANNOT_FREEZE
from ergosphere.wire.api import (
    EVENTS_MAX,
    DrainRequest,
    NodeLabels,
    NodeVerbResult,
    ShutdownRequest,
    ShutdownResult,
    StatusInfo,
    VerbRequest,
    WaitS,
)
from ergosphere.wire.jobs import EventInfo, NodeInfo
from ergosphere.wire.versions import VERSION


def routes(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["fleet"])
    ledger = service.ledger

    @router.get("/status")
    def status() -> StatusInfo:
        return _status(service)

    @router.get("/nodes")
    def nodes() -> list[NodeInfo]:
        with ledger.read() as look:
            return shown.nodes(look, service.leases, service.accents)

    @router.post("/nodes/{node}/drain")
    async def drain(node: str, wish: DrainRequest = DrainRequest()) -> NodeVerbResult:
        if (within_s := wish.within_s) is not None:
            await asyncio.to_thread(lambda: node_facts.leaves(ledger, node, within_s))
        await asyncio.to_thread(lambda: service.verbs.drain(node, on=True))
        drained = await ledger.bell.until(lambda: _drained(service, node, must_be_over=True), wish.wait_s)
        result = drained or await asyncio.to_thread(lambda: _drained(service, node, must_be_over=False))
        assert result is not None
        return result

    @router.post("/nodes/{node}/undrain")
    def undrain(node: str, wish: VerbRequest = VerbRequest()) -> NodeVerbResult:
        node_facts.stays(ledger, node)
        jobs = service.verbs.drain(node, on=False)
        return NodeVerbResult(node=node, done=True, jobs=tuple(jobs), text=f"{node} takes jobs again")

    @router.put("/nodes/{node}/labels")
    def label(node: str, labels: NodeLabels) -> list[NodeInfo]:
        node_facts.label(ledger, node, labels)
        with ledger.read() as look:
            return [one for one in shown.nodes(look, service.leases, service.accents) if one.id == node]

    @router.get("/events")
    async def events(
        after: int = 0, limit: Annotated[int, Query(ge=1, le=EVENTS_MAX)] = EVENTS_MAX, wait_s: WaitS = 0.0
    ) -> list[EventInfo]:
        return await ledger.bell.until(events_after(service, None, after, limit), wait_s) or []

    @router.post("/shutdown")
    async def shutdown(background: BackgroundTasks, wish: ShutdownRequest = ShutdownRequest()) -> ShutdownResult:
        result = await closing.shut_down(service, wish)
        await asyncio.to_thread(service.engine.stop)
        background.add_task(service.closing.leave)  # once this answer is out
        return result

    return router


def _status(service: Service) -> StatusInfo:
    identity = service.identity
    with service.ledger.read() as look:
        nodes = shown.nodes(look, service.leases, service.accents)
        count = select(JobRow.phase, func.count()).group_by(JobRow.phase)
        sharing = sum(_shares(job) for job in look.live_jobs())
        jobs = dict(look.session.execute(count).tuples().all())
    return StatusInfo(
        version=VERSION,
        fleet=identity.fleet,
        prefix=identity.prefix,
        home=str(identity.home),
        pid=identity.pid,
        up_s=service.clock.now() - identity.began_s,
        nodes=len(nodes),
        nodes_ready=sum(node.ready for node in nodes),
        devices=sum(node.devices for node in nodes),
        devices_used=sum(job is not None for node in nodes for job in node.used),
        jobs_sharing=sharing,
        jobs=jobs,
        closing=service.closing.begun,
        fault=service.loop.fault,
    )


def _shares(job: JobRow) -> bool:
    return job.phase in HOLDS_SEATS and sizes.devices_of(job) < job.ranks


def _drained(service: Service, node: str, *, must_be_over: bool) -> NodeVerbResult | None:
    """How far a drain is. It is over when nobody is left, or nobody who could leave."""
    with service.ledger.read() as look:
        find_node(look, node)
        left = sitting_on(look, node)
    if must_be_over and not all(_cannot_leave(job) for job in left):
        return None
    names = tuple(job.name for job in left)
    why = "".join(f"; {job.name}: {job.reason}" for job in left if job.reason)
    text = f"{node} still holds {', '.join(names)}{why}" if left else f"{node} is empty"
    return NodeVerbResult(node=node, done=not left, jobs=names, text=text)


def _cannot_leave(job: JobRow) -> bool:
    return job.phase is Phase.RUNNING and job.reason_code == CANNOT_FREEZE
