"""Routes of snapshots: list, show, name, remove, roll back, fork, compare; the store's own sweep and check."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from starlette.responses import Response

from ergosphere.control import carrying, forking, inspecting, shown
from ergosphere.control.api.verbs import rolled_back, see
from ergosphere.control.find import find_job
from ergosphere.control.service import Service
from ergosphere.control.tidy import Tidy
from ergosphere.wire.api import VerbRequest, VerbResult
from ergosphere.wire.jobs import SnapshotInfo
from ergosphere.wire.snapshots import (
    ExportRequest,
    ExportResult,
    ForkRequest,
    ForkResult,
    FsckReport,
    FsckRequest,
    GcReport,
    GcRequest,
    ImportRequest,
    SnapshotDetail,
    SnapshotDiff,
)


def routes(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["snapshots"])
    ledger, verbs = service.ledger, service.verbs

    @router.get("/snapshots")
    def list_snapshots(job: str | None = None) -> list[SnapshotInfo]:
        with ledger.read() as look:
            return shown.listed(look, find_job(look, job) if job else None, service.inbox.uploads)

    @router.get("/snapshots/{ref}")
    def show_snapshot(ref: str) -> SnapshotDetail:
        return inspecting.detail(service, ref)

    @router.get("/snapshots/{ref}/diff")
    def diff(ref: str, to: str) -> SnapshotDiff:
        return inspecting.difference(service, ref, to)

    @router.delete("/snapshots/{ref}", status_code=204)
    def remove(ref: str) -> Response:
        verbs.remove_snapshot(ref)
        return Response(status_code=204)

    @router.post("/snapshots/{ref}/restore")
    async def restore(ref: str, wish: VerbRequest = VerbRequest()) -> VerbResult:
        before = await asyncio.to_thread(verbs.restore, ref)
        return await see(service, before, rolled_back, wish.wait_s)

    @router.post("/snapshots/{ref}/fork", status_code=201)
    async def fork(ref: str, wish: ForkRequest) -> ForkResult:
        snapshot = await asyncio.to_thread(_forkable, service, ref, wish)
        await ledger.bell.until(lambda: forking.remote(service, snapshot), wish.wait_s)
        return await asyncio.to_thread(forking.fork, service, ref, wish)

    @router.post("/snapshots/{ref}/export")
    def export(ref: str, wish: ExportRequest) -> ExportResult:
        return carrying.export(service, ref, wish)

    @router.post("/store/import", status_code=201)
    def take_in(wish: ImportRequest) -> ForkResult:
        return carrying.take_in(service, wish)

    @router.post("/store/fsck")
    def check(wish: FsckRequest = FsckRequest()) -> FsckReport:
        return inspecting.check(service, wish)

    @router.post("/store/gc")
    def collect(wish: GcRequest = GcRequest()) -> GcReport:
        return Tidy(service).report(dry_run=wish.dry_run)

    return router


def _forkable(service: Service, ref: str, wish: ForkRequest) -> str:
    with service.ledger.read() as look:
        return forking.check(look, ref, wish)[1].id
