"""Routes of files: blobs of submissions, and what a job left behind."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from ergosphere.control.api.guard import refused
from ergosphere.control.find import NotFound, find_job
from ergosphere.control.ledger.results import why_never
from ergosphere.control.service import Service
from ergosphere.control.verbs import Conflict
from ergosphere.core.model import ENDED
from ergosphere.snapshots.blobs import blob_key, fetch_blob
from ergosphere.snapshots.digests import digest_file
from ergosphere.snapshots.errors import Damaged
from ergosphere.snapshots.results import CellResult, load_results
from ergosphere.snapshots.store import Store
from ergosphere.snapshots.tree import ROOT, Entry, Kind, load_tree
from ergosphere.wire.api import BlobQuestion, BlobsMissing, ResultCopy, ResultFile, ResultList
from ergosphere.wire.paths import from_text, to_text

DIGEST_LENGTH = 64
BYTES = "application/octet-stream"
PIECE = 1 << 20  # bytes


def routes(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["files"])
    store = service.store

    @router.post("/blobs/missing")
    def missing(question: BlobQuestion) -> BlobsMissing:
        lacking = [one for one in dict.fromkeys(question.digests) if not store.has(blob_key(_digest(one)))]
        return BlobsMissing(missing=tuple(lacking))

    @router.put("/blobs/{digest}", status_code=204)
    async def put_blob(digest: str, request: Request) -> Response:
        _digest(digest)
        aside = await _receive(request, service.uploads)
        try:
            if await asyncio.to_thread(digest_file, aside) != digest:
                return refused(422, f"the bytes do not have the digest {digest[:12]}…", "send them again")
            await asyncio.to_thread(store.put, blob_key(digest), aside, if_absent=True)
        finally:
            aside.unlink(missing_ok=True)
        return Response(status_code=204)

    @router.get("/blobs/{digest}")
    def blob(digest: str) -> Response:
        if not store.has(blob_key(_digest(digest))):
            raise NotFound(f"there is no blob {digest[:12]}…")
        return _content(service, digest, f"the blob {digest[:12]}")

    @router.get("/jobs/{ref}/results")
    def results(ref: str) -> ResultList:
        return _results(service, ref)

    @router.get("/jobs/{ref}/results/file")
    def result_file(ref: str, path: str, cell: int = 0) -> Response:
        copies = {copy.cell: copy for copy in _results(service, ref).copies}
        if cell not in copies:
            raise NotFound(f"{ref} has no copy {cell}")
        entry = load_tree([store], copies[cell].digest).by_path.get(from_text(path))
        if entry is None or entry.kind is not Kind.FILE:
            raise NotFound(f"{ref} left no file {path!r}")
        return _content(service, entry.digest, f"{path} of {ref}") if entry.size else Response(media_type=BYTES)

    return router


def _content(service: Service, digest: str, which: str) -> Response:
    """What has this digest, verified before a byte of it is sent; on its way through a file, since it may be large."""
    service.uploads.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=service.uploads) as folder:
        dest = Path(folder) / "content"
        fetch_blob([service.store], digest, dest, which)
        file = dest.open("rb")
    headers = {"content-length": str(os.fstat(file.fileno()).st_size)}
    return StreamingResponse(_pieces(file), media_type=BYTES, headers=headers)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while piece := file.read(PIECE):
            yield piece


def _digest(text: str) -> str:
    if len(text) != DIGEST_LENGTH or not all(letter in "0123456789abcdef" for letter in text):
        raise NotFound(f"{text[:80]!r} is not a digest")
    return text


async def _receive(request: Request, folder: Path) -> Path:
    """The body as a file; the door has bounded its size."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file, name = tempfile.mkstemp(dir=folder)
    try:
        async for piece in request.stream():
            await asyncio.to_thread(os.write, file, piece)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    finally:
        os.close(file)
    return Path(name)


def _results(service: Service, ref: str) -> ResultList:
    with service.ledger.read() as look:
        job = find_job(look, ref)
        tree = job.spec["tree"]
        submitted = tree["digest"] if tree else None
        job_id, phase, cells, kept = job.id, job.phase, list(job.cells), job.results
        why_not = why_never(job)
    if phase not in ENDED:
        raise Conflict(f"{ref} is {phase}: results come home when it has ended")
    if why_not:
        raise Conflict(f"the results of {ref} could not be stored when it ended: {why_not}", "its output: ergo logs")
    if kept is None:
        return ResultList(job=job_id, copies=(), submitted=submitted)
    try:
        found = load_results(service.store, kept)
    except Damaged as damaged:
        raise Conflict(f"the results of {ref} are damaged: {damaged.cause}") from damaged
    copies = tuple(_copy(service.store, one, cells[one.cell]) for one in found)
    return ResultList(job=job_id, copies=copies, submitted=submitted)


def _copy(store: Store, result: CellResult, ranks: list[int]) -> ResultCopy:
    entries = load_tree([store], result.work.digest).entries
    files = tuple(_file(entry) for entry in entries if entry.path != ROOT)
    return ResultCopy(cell=result.cell, ranks=tuple(ranks), digest=result.work.digest, files=files)


def _file(entry: Entry) -> ResultFile:
    kinds = {Kind.SYMLINK: "link", Kind.DIR: "folder"}
    return ResultFile.model_validate(
        {
            "path": to_text(entry.path),
            "bytes": entry.size,
            "mode": entry.mode,
            "kind": kinds.get(entry.kind, "file"),
            "link": to_text(entry.target),
        }
    )
