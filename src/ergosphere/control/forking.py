"""Second jobs out of a snapshot: what stands against one, its copy of the manifest, and how it begins."""

from __future__ import annotations

from dataclasses import replace

from ergosphere.control import shown
from ergosphere.control.find import find_snapshot
from ergosphere.control.ledger import branches
from ergosphere.control.ledger.branches import Branch
from ergosphere.control.ledger.change import Change
from ergosphere.control.ledger.tables import JobRow, SnapshotRow
from ergosphere.control.service import Service
from ergosphere.control.submit import fresh_job_id
from ergosphere.control.verbs import Conflict, check_whole
from ergosphere.snapshots import records, shelf
from ergosphere.snapshots.manifest import Manifest
from ergosphere.wire.jobs import JobSpec
from ergosphere.wire.snapshots import ForkRequest, ForkResult

WAITS = (
    "its processes run on from that instant with the environment they have: what was given with -e stands in "
    "/run/ergo/fork.json and fork.env inside the job; Python ranks with torch.distributed find it in os.environ too"
)


def check(look: Change, ref: str, wish: ForkRequest) -> tuple[JobRow, SnapshotRow]:
    """The snapshot and its job, where a fork can be. Raises NotFound, or Conflict with what to do."""
    job, row = find_snapshot(look, ref)
    check_whole(row)
    if job.spec["network"] == "host":
        raise Conflict(
            f"{job.name} runs on the host's own network, and the ports it has open there cannot be open twice",
            "submit it with --network private; forks of such a job have a network each",
        )
    shared = [mount["path"] for mount in job.spec["mounts"] if mount["writable"]]
    if shared and not wish.share:
        raise Conflict(
            f"{job.name} writes to {', '.join(shared)}, which is no part of a snapshot: both jobs would write there",
            "fork it with --share if its files can stand that; else run it without --mount …:rw",
        )
    if len(job.cells) > 1:
        raise Conflict(
            f"the ranks of {job.name} are in {len(job.cells)} cells, which know each other by addresses that are taken",
            "a job whose ranks have a device each on one node (`ergo nodes`), when it starts, can be forked",
        )
    return job, row


def remote(service: Service, snapshot: str) -> bool | None:
    """True once the snapshot is in the shared store: a second job begins from there. None while it is not."""
    with service.ledger.read() as look:
        row = look.session.get(SnapshotRow, snapshot)
        return True if row is not None and row.durability == "remote" else None


def fork(service: Service, ref: str, wish: ForkRequest) -> ForkResult:
    """Begin the second job. Raises NotFound, Conflict, and the store's errors."""
    with service.ledger.read() as look:
        job, row = check(look, ref, wish)
        if row.durability != "remote":
            raise Conflict(f"snapshot {row.id} is not in the shared store yet", "try again in a moment")
        spec = look.spec(job)
        origin = f"{job.id}@{row.id}"
        copied = (row.id, list(job.cells), job.known_name or job.name, job.threads or 1, row.progress_s)
    snapshot, cells, known_name, threads, progress_s = copied
    with service.ledger.change() as change:
        job_id, new_id = fresh_job_id(change), service.new_id()
    spec = spec.model_copy(update={"name": wish.name, "env": {**spec.env, **wish.env}})
    manifest = copy_manifest(service, snapshot, new_id, job_id, spec)
    branch = Branch(
        spec=spec,
        manifest=manifest,
        origin=origin,
        cells=cells,
        known_as=[manifest.cell(index).address for index in range(len(cells))],
        known_name=known_name,
        threads=threads,
        fork_names=tuple(sorted(wish.env)),
        progress_s=progress_s,
    )
    with service.ledger.change() as change:
        begun = branches.begin(change, job_id, branch)
        return ForkResult(job=shown.job_info(change, begun), snapshot=new_id, notes=_notes(wish, manifest))


def _notes(wish: ForkRequest, manifest: Manifest) -> tuple[str, ...]:
    return (WAITS,) if wish.env and not manifest.begins_anew else ()


def copy_manifest(service: Service, snapshot: str, new_id: str, job_id: str, spec: JobSpec) -> Manifest:
    """The same snapshot as another job's own: a record of its own over the same bytes."""
    manifest = records.load(service.store, snapshot)
    bare = spec.model_dump(mode="json", exclude={"env"})
    copy = replace(manifest, id=new_id, job=job_id, incarnation=0, spec=bare, why="fork")
    return shelf.fork(service.depot.vault(spec.project), manifest, copy)
