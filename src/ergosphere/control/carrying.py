"""Snapshots that leave as one file, and those that come in: what an administrator's import refuses (design §3.8)."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from sqlalchemy import select

from ergosphere.agent import identity, rootfs
from ergosphere.agent.identity import Identity
from ergosphere.control import shown
from ergosphere.control.find import find_snapshot
from ergosphere.control.ledger import branches
from ergosphere.control.ledger.branches import Branch
from ergosphere.control.ledger.change import Change
from ergosphere.control.ledger.tables import JobRow, SnapshotRow
from ergosphere.control.service import Service
from ergosphere.control.submit import check_size, fresh_job_id
from ergosphere.control.verbs import Conflict, check_whole
from ergosphere.snapshots import archive, records
from ergosphere.snapshots.errors import Damaged, SnapshotError
from ergosphere.snapshots.keys import load_keys
from ergosphere.snapshots.manifest import CellPart, Manifest
from ergosphere.wire.jobs import JobSpec
from ergosphere.wire.snapshots import ExportRequest, ExportResult, ForkResult, ImportRequest

SELF: Final = "/proc/self/status"


def export(service: Service, ref: str, wish: ExportRequest) -> ExportResult:
    """Write a snapshot as one file. Raises NotFound, Conflict, SnapshotError."""
    with service.ledger.read() as look:
        _, row = find_snapshot(look, ref)
        check_whole(row)
        snapshot = row.id
    manifest = records.load(service.store, snapshot)
    vault = service.depot.vault(str(manifest.spec["project"]))
    try:
        made = archive.export(vault, manifest, Path(wish.path), _key(wish.key_file))
    except FileExistsError as error:
        raise Conflict(f"{wish.path} exists already", "name another file") from error
    except OSError as error:
        raise Conflict(f"{wish.path} cannot be written: {error.strerror}", "name another place") from error
    return ExportResult(snapshot=snapshot, path=str(made.path), bytes=made.bytes, contents=made.warnings)


def take_in(service: Service, wish: ImportRequest) -> ForkResult:
    """Begin a job with a snapshot that was exported elsewhere. Raises Conflict, SnapshotError."""
    _check_file(Path(wish.path))
    if wish.key_file and not Path(wish.key_file).is_file():
        raise Conflict(f"there is no key {wish.key_file}", f"give the key that {wish.path} was exported with")
    with service.ledger.change() as change:
        job_id, new_id = fresh_job_id(change), service.new_id()
    allowed = _project_identity(service, wish.project)

    def fresh(manifest: Manifest) -> Manifest:
        spec = _spec(manifest, wish)
        check(manifest, spec, allowed, wish.allow_mounts)
        with service.ledger.read() as look:
            check_size(look, spec)
        bare = spec.model_dump(mode="json", exclude={"env"})
        return replace(manifest, id=new_id, job=job_id, incarnation=0, spec=bare, why="import")

    vault = service.depot.vault(wish.project)
    try:
        taken = archive.import_archive(Path(wish.path), _key(wish.key_file), vault, fresh)
    except Damaged as damaged:
        raise Conflict(f"{wish.path}: {damaged.cause}", "copy or export it anew; nothing was imported") from damaged
    with service.ledger.change() as change:
        job = branches.begin(change, job_id, _branch(taken, wish))
        return ForkResult(job=shown.job_info(change, job), snapshot=new_id, notes=_notes(taken))


def check(manifest: Manifest, spec: JobSpec, allowed: Identity, mounts: Iterable[str]) -> None:
    """Raises Conflict for images that would be more here than a job of the project is."""
    if len(manifest.cells) > 1:
        raise Conflict(
            f"its ranks are in {len(manifest.cells)} cells, which know each other by addresses of another fleet",
            "import snapshots of jobs whose node had a device for each rank when they started",
        )
    for part in manifest.cells:
        _check_identity(part, allowed)
        _check_mounts(part, spec, frozenset(mounts))


def _check_identity(part: CellPart, allowed: Identity) -> None:
    told = part.facts.get(identity.IDENTITY)
    if told is None:
        raise Conflict("the archive does not say which users and capabilities its processes have", "export it anew")
    asked = identity.from_json(told)
    if not asked <= allowed:
        raise Conflict(
            f"its processes have {asked.in_words()}; those of this project have {allowed.in_words()}",
            "import it into a project whose jobs run as these users, or run it anew here",
        )


def _check_mounts(part: CellPart, spec: JobSpec, allowed: frozenset[str]) -> None:
    """Every mount must be one that a job like this would be given here, or one that the administrator has named."""
    wanted = rootfs.plan_from_json(part.facts["root"]).mounts
    here = _own_mounts(spec, allowed)
    for mount in wanted:
        if mount.kind != "bind" or mount.source.startswith("@") or mount.source in allowed:
            continue  # made for the rank itself, or named by the administrator
        rights = here.get((mount.target, mount.source))
        if rights is None or (mount.writable and not rights):
            how = "to write to" if mount.writable else "to read"
            raise Conflict(
                f"its processes have {mount.source} mounted at {mount.target} {how}, which a job here would not have",
                f"allow it with --allow-mount {mount.source}, if that is meant",
            )


def _own_mounts(spec: JobSpec, allowed: frozenset[str]) -> dict[tuple[str, str], bool]:
    """(target, source) → writable, of the root that a job like this would get on this machine."""
    opened = tuple((mount.path, mount.writable) for mount in spec.mounts if mount.path in allowed)
    asked = rootfs.RootSpec(workdir=spec.workdir, hidden=(), opened=opened)
    try:
        plan = rootfs.make_plan(asked)
    except rootfs.RootError as error:
        raise Conflict(error.error, error.remedy) from error
    return {(mount.target, mount.source): mount.writable for mount in plan.mounts}


def _project_identity(service: Service, project: str) -> Identity:
    """Of the project's newest snapshot here; of a project without one, what this service gives its jobs: its own."""
    with service.ledger.read() as look:
        newest = _newest(look, project)
    found = identity.of_processes([]) if newest is None else _identity_of(service, newest)
    return found if found != identity.NOBODY else identity.of_status(Path(SELF).read_text())


def _newest(look: Change, project: str) -> str | None:
    mine = select(SnapshotRow.id).join(JobRow, JobRow.id == SnapshotRow.job).where(JobRow.project == project)
    mine = mine.where(SnapshotRow.origin == "").order_by(SnapshotRow.taken_s.desc())  # not what was imported before
    return look.session.scalars(mine.limit(1)).first()


def _identity_of(service: Service, snapshot: str) -> Identity:
    found = identity.NOBODY
    try:
        for part in records.load(service.store, snapshot).cells:
            if told := part.facts.get(identity.IDENTITY):
                found |= identity.from_json(told)
    except SnapshotError:
        return identity.NOBODY
    return found


def _spec(manifest: Manifest, wish: ImportRequest) -> JobSpec:
    named = {**manifest.spec, "name": wish.name, "project": wish.project, "env": {}}
    try:
        return JobSpec.model_validate(named)
    except ValueError as error:
        raise Conflict(f"what the archive says of its job makes no sense: {error}", "do not trust it") from error


def _branch(manifest: Manifest, wish: ImportRequest) -> Branch:
    return Branch(
        spec=JobSpec.model_validate({**manifest.spec, "env": {}}),
        manifest=manifest,
        origin=f"file@{Path(wish.path).name}",
        cells=[[rank.rank for rank in part.ranks] for part in manifest.cells],
        known_as=[part.address for part in manifest.cells],
        known_name=str(manifest.facts.get("name", wish.name)),
        threads=int(manifest.facts.get("threads", 1)),
    )


def _notes(manifest: Manifest) -> tuple[str, ...]:
    return (
        f"its processes were saved on Linux {manifest.kernel} by CRIU {manifest.criu}; "
        "`ergo explain` says which nodes can thaw them",
    )


def _check_file(path: Path) -> None:
    """What root takes in must not be changed by others meanwhile."""
    try:
        status = path.stat()
    except OSError as error:
        raise Conflict(f"{path} cannot be read: {error.strerror}", "check its name and folder") from error
    if not stat.S_ISREG(status.st_mode) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Conflict(f"{path} is not a plain file that only its owner can write", f"chmod go-w {path}")


def _key(key_file: str) -> bytes | None:
    """Errors: BadKeyFile."""
    ring = load_keys(None, Path(key_file)) if key_file else None
    return ring.project("default") if ring is not None else None
