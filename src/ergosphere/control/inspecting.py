"""What is in a snapshot, what differs between two, whether the store is whole: answers for people."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import select

from ergosphere.control import shown
from ergosphere.control.find import find_snapshot
from ergosphere.control.ledger import fitness
from ergosphere.control.ledger.change import SERVER, Change
from ergosphere.control.ledger.tables import JobRow, NodeRow, SnapshotRow
from ergosphere.control.service import Service
from ergosphere.control.tidy import submitted
from ergosphere.control.verbs import Conflict
from ergosphere.core.model import ENDED
from ergosphere.snapshots import fsck, records, shelf
from ergosphere.snapshots.errors import NotRemote, SnapshotError
from ergosphere.snapshots.manifest import Manifest
from ergosphere.snapshots.vault import Vault
from ergosphere.wire.paths import to_text
from ergosphere.wire.snapshots import (
    FileChange,
    Finding,
    FsckReport,
    FsckRequest,
    KindBytes,
    Needs,
    NodeFit,
    SnapshotDetail,
    SnapshotDiff,
)


def detail(service: Service, ref: str) -> SnapshotDetail:
    """Everything about one snapshot. What the store cannot tell now is said in `note`."""
    with service.ledger.read() as look:
        job, row = find_snapshot(look, ref)
        head = dict(shown.snapshot(row, service.inbox.uploads))
        fits = _fits(look, job, row)
        lengths, name = dict(row.log_lengths), job.name
    try:
        manifest = records.load(service.store, row.id)
        told = {**_contents(service, manifest), "needs": _needs(manifest)}
    except SnapshotError as error:
        told = {"note": str(error)}
    return SnapshotDetail(**head, job_name=name, fits=fits, log_lengths=lengths, **told)


def _fits(look: Change, job: JobRow, row: SnapshotRow) -> tuple[NodeFit, ...]:
    nodes = list(look.session.scalars(select(NodeRow).order_by(NodeRow.id)))
    causes = {node.id: fitness.cause(look, row, node) for node in nodes}
    return tuple(
        NodeFit(node=node, fits=None if cause == fitness.UNASKED else not cause, cause=cause)
        for node, cause in causes.items()
    )


def _needs(manifest: Manifest) -> Needs:
    told = manifest.cells[0].facts.get("needs", {})
    files = {file.path for part in manifest.cells for file in part.mapped}
    if manifest.begins_anew:
        return Needs(criu="", kernel="", cpu="", files=0)
    return Needs(criu=manifest.criu, kernel=manifest.kernel, cpu=str(told.get("cpu", "")), files=len(files))


def _kinds(manifest: Manifest) -> tuple[KindBytes, ...]:
    """By kind, from the manifest alone: of a snapshot that is on its node only."""
    images = [file for part in manifest.cells for rank in part.ranks for file in rank.files]
    pages = [file.size for file in images if file.name.startswith("pages-")]
    rest = [file.size for file in images if not file.name.startswith("pages-")]
    trees = [tree for part in manifest.cells for tree in (part.work, part.cache) if tree is not None]
    logs = [log.length for part in manifest.cells for log in part.logs]
    return (
        KindBytes(kind="memory", count=len(pages), bytes=sum(pages)),
        KindBytes(kind="process", count=len(rest), bytes=sum(rest)),
        KindBytes(kind="files", count=sum(tree.files for tree in trees), bytes=sum(tree.bytes for tree in trees)),
        KindBytes(kind="logs", count=len(logs), bytes=sum(logs)),
    )


def _contents(service: Service, manifest: Manifest) -> dict[str, Any]:
    """By kind, and what it takes in the store, once it is there. Errors: SnapshotError."""
    try:
        found = shelf.describe(_vault(service, manifest), manifest)
    except NotRemote:
        return {"kinds": _kinds(manifest)}
    kinds = tuple(
        KindBytes(kind=kind, count=share.streams, bytes=share.bytes, filled=share.filled)
        for kind, share in found.kinds.items()
    )
    return {"kinds": kinds, "chunks": found.chunks, "stored": found.stored, "alone": found.alone}


def _vault(service: Service, manifest: Manifest) -> Vault:
    return service.depot.vault(str(manifest.spec["project"]))


def difference(service: Service, ref: str, to: str) -> SnapshotDiff:
    """From one snapshot to another. Raises NotFound, Conflict (of different projects), SnapshotError."""
    with service.ledger.read() as look:
        ids = [find_snapshot(look, one)[1].id for one in (ref, to)]
    before, after = (records.load(service.store, one) for one in ids)
    if before.spec["project"] != after.spec["project"]:
        raise Conflict("the two are of different projects, which have nothing in common", "compare within one project")
    found = shelf.diff(_vault(service, after), before, after)
    memory = [image for image in found.images if "/pages-" in image.label]
    return SnapshotDiff(
        a=ids[0],
        b=ids[1],
        files=tuple(
            FileChange(path=to_text(file.path), change=file.how) for files in found.files.values() for file in files
        ),
        logs={name: now - then for name, (then, now) in found.logs.items()},
        memory_bytes=sum(image.after for image in memory),
        memory_shared=sum(image.after - image.fresh for image in memory),
    )


def check(service: Service, wish: FsckRequest) -> FsckReport:
    """The whole store. A snapshot that was called damaged and is found whole may be used again.

    Errors: StoreError.
    """
    wanted = _wanted(service)
    vaults, closed = service.depot.vaults()
    report = fsck.check(
        service.store, vaults, deep=wish.read, repair=wish.repair, wanted=replace(wanted, closed=closed)
    )
    called, dropped = _called(service, report.affected)
    report.affected = {name: why for name, why in report.affected.items() if name not in dropped}
    _keep_faults(service, report.affected)
    if wish.read:
        _mark_whole(service, report.whole)
    return FsckReport(
        findings=tuple(_findings(report, called)),
        snapshots=report.snapshots,
        packs=report.packs,
        chunks=report.chunks,
        ok=report.is_clean,
    )


def _wanted(service: Service) -> fsck.Wanted:
    """What the ledger relies on now."""
    with service.ledger.read() as look:
        jobs = [job for job in look.session.scalars(select(JobRow)) if job.spec["tree"] and job.phase not in ENDED]
        kept = list(look.session.scalars(select(SnapshotRow).where(SnapshotRow.dropped.is_(False))))
        remote = frozenset(row.id for row in kept if row.durability == "remote")
        return fsck.Wanted(frozenset(submitted(job) for job in jobs), frozenset(row.id for row in kept), remote)


def _called(service: Service, names: Collection[str]) -> tuple[dict[str, str], set[str]]:
    """What owners call these snapshots, and those among them that nobody asks for any more: a sweep takes them."""
    with service.ledger.read() as look:
        rows = list(look.session.scalars(select(SnapshotRow).where(SnapshotRow.id.in_(names))))
        called = {row.id: f"{look.job(row.job).name}@{row.name or row.number}" for row in rows}
        return called, {row.id for row in rows if row.dropped}


def _findings(report: fsck.Report, called: Mapping[str, str]) -> Iterator[Finding]:
    for name, why in sorted(report.affected.items()):
        which = f"{called[name]} ({name})" if name in called else name
        yield Finding(kind="snapshot", what=f"{which} cannot be thawed: {why}", snapshots=(name,), remedy=_REMEDY)
    for what in report.damaged:
        yield Finding(kind="damaged", what=what)
    for what in report.mended:
        yield Finding(kind="mended", what=what)
    if report.orphan_recipes:
        said = ", ".join(report.orphan_recipes[: fsck.NAMED_MAX])
        yield Finding(kind="orphaned", what=f"{len(report.orphan_recipes)} recipe(s) of no snapshot: {said}")
    if report.orphan_bytes:
        yield Finding(kind="orphaned", what=f"{report.orphan_bytes} bytes; a sweep frees them")


def _keep_faults(service: Service, affected: Mapping[str, str]) -> None:
    """For whoever lists them. A thaw may still be asked for one: its node may have the images."""
    with service.ledger.change() as change:
        for row in change.session.scalars(select(SnapshotRow).where(SnapshotRow.id.in_(affected))):
            if not row.store_fault:
                text = f"a check found snapshot {row.id} damaged in the store: {affected[row.id]}"
                change.note(change.job(row.job), SERVER, "snapshot-damaged", text)
            row.store_fault = affected[row.id]


def _mark_whole(service: Service, whole: set[str]) -> None:
    with service.ledger.change() as change:
        for row in change.session.scalars(select(SnapshotRow).where(SnapshotRow.store_fault != "")):
            row.store_fault = "" if row.id in whole else row.store_fault
        damaged = select(SnapshotRow).where(SnapshotRow.damaged.is_(True), SnapshotRow.dropped.is_(False))
        for row in change.session.scalars(damaged):
            if row.id in whole:
                row.damaged = False
                text = f"snapshot {row.id} was read to its last byte and is whole: it can be used again"
                change.note(change.job(row.job), SERVER, "snapshot-whole", text)


_REMEDY: Final = "an earlier one can be used: ergo snapshot ls; a new one stores anew what is missing"
