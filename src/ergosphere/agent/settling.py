"""Where images lie between a freeze and the next thaw: in this node's memory, then in the shared store.

Host memory is set aside before a dump, uploads go on behind the job's back, and what is in the store is let go here.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from ergosphere.agent import lives, reserving, storing
from ergosphere.agent.node import Node, Upload
from ergosphere.agent.place import CellKey
from ergosphere.agent.ports import Refused
from ergosphere.snapshots import records
from ergosphere.snapshots.errors import SnapshotError
from ergosphere.snapshots.manifest import CellPart, Manifest
from ergosphere.wire.agents import Cost, SnapshotState

UPLOAD_NICE: Final = 10
TOLD_EVERY_S: Final = 1.0  # news of an upload under way
BACKLOG_MAX: Final = 3  # snapshots of one job on their way from one node
JOB: Final = "job"  # beside a snapshot's images: the job whose they are

log = logging.getLogger(__name__)


# ── room ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def room_for(node: Node, freeze_id: str, job: str, wanted: int, newcomer: int = 0) -> Path:
    """Memory where it holds what a freeze writes and the newcomer beside everything else, else disk.

    Settled images make room first. From here the images are `busy`, and what is set aside is set aside, until
    `written` or `drop`.
    """
    in_memory = node.images(freeze_id)
    with node.opening:
        node.dumping.add(freeze_id)
    if not _taken(node, freeze_id, wanted, newcomer):
        drop_settled(node)
    fits = _taken(node, freeze_id, wanted, newcomer)
    folder = in_memory if fits else node.place.disk_images / freeze_id
    if not fits:
        log.info("snapshot %s goes to disk: memory for %d MB is not to be had", freeze_id, wanted + newcomer >> 20)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # another cell of the job may be writing there as well
    note_job(folder, job)
    return folder


def _taken(node: Node, freeze_id: str, wanted: int, newcomer: int) -> bool:
    if node.image_bytes_max is not None and held_bytes(node) + wanted > node.image_bytes_max:
        return False
    room = reserving.look(node.place.memory)
    return node.reserve.take(_slot(node, freeze_id), node.images(freeze_id), wanted, newcomer, room)


def held_bytes(node: Node) -> int:
    """What images, and the files that belong to them, take of this node's memory now."""
    return sum(map(reserving.bytes_in, (node.place.memory / "images", node.place.memory_pools)))


def written(node: Node, freeze_id: str) -> None:
    """The image is whole, and its cell in `dumped`: its memory shows in the machine's own figures from now on."""
    node.reserve.written(_slot(node, freeze_id))
    node.dumping.discard(freeze_id)


def _slot(node: Node, freeze_id: str) -> str:
    return f"{node.place.node}.{freeze_id}"


def check_backlog(node: Node, job: str, wanted: int) -> None:
    """Back-pressure: no further periodic snapshot while those before it still wait for the store. Raises Refused."""
    pending = {name: upload.job for name, upload in list(node.uploads.items()) if name not in node.durable}
    waiting = [folder for folder in image_folders(node) if folder.name in pending]
    own = [folder for folder in waiting if pending[folder.name] == job]
    full = node.image_bytes_max is not None and sum(map(reserving.bytes_in, waiting)) + wanted > node.image_bytes_max
    if len(own) >= BACKLOG_MAX or (waiting and full):
        raise Refused(
            f"{len(waiting)} snapshots before it still wait for the shared store",
            remedy="take snapshots less often, raise the upload limit, or give images more memory (ergo up --help)",
        )


# ── uploads ──────────────────────────────────────────────────────────────────────────────────────────────────────


def settle(node: Node, freeze_id: str) -> None:
    """A snapshot was committed: upload it to the shared store in the background, at low priority."""
    for name in [each for each in list(node.dumped) if each[0] == freeze_id]:
        node.dumped.pop(name, None)
    with node.opening:
        known = node.uploads.get(freeze_id)
        if known is not None and known.running:
            return
        trouble = known.trouble if known is not None else ""
        job = job_of(node, image_folder(node, freeze_id))
        upload = node.uploads[freeze_id] = Upload(node.clock.monotonic(), job=job, trouble=trouble)
    threading.Thread(target=_upload, args=(node, freeze_id, upload), daemon=True, name=f"upload-{freeze_id}").start()


def _upload(node: Node, freeze_id: str, upload: Upload) -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), UPLOAD_NICE)
    try:
        snapshot = records.load(node.store, freeze_id)
        upload.job = snapshot.job
        with node.uploading:  # one after the other: the store is not reached any faster by several
            _send(node, snapshot, upload)
        upload.trouble = ""
        if storing.is_remote(node, snapshot):
            now_remote(node, snapshot)
    except SnapshotError as error:  # the store is away or full: the images stay here, and `tending` tries again
        log.warning("snapshot %s has not reached the shared store: %s", freeze_id, error)
        upload.trouble = str(error)
        node.changed.set()
    except Exception as error:  # a disk that fails, or a bug: it must be seen, and is tried again all the same
        log.exception("the upload of snapshot %s failed", freeze_id)
        upload.trouble = f"the upload failed: {type(error).__name__}: {error}; see agent.log of node {node.place.node}"
        node.changed.set()
    finally:
        upload.running = False


def _send(node: Node, snapshot: Manifest, upload: Upload) -> None:
    began_s, told_s = node.clock.monotonic(), node.clock.monotonic()
    before = 0

    def tell(done: int, total: int) -> None:
        nonlocal told_s
        upload.done_bytes, upload.total_bytes = before + done, max(upload.total_bytes, before + total)
        if node.clock.monotonic() - told_s > TOLD_EVERY_S:
            told_s = node.clock.monotonic()
            node.changed.set()

    own = [part for part in snapshot.cells if part.node == node.place.node]
    upload.total_bytes = sum(part.bytes for part in own)
    for part in own:
        images = _images_of(node, snapshot.id, part)
        pool = node.pool(CellKey(snapshot.job, snapshot.incarnation, part.index))
        storing.upload(node, snapshot, part, images, pool, tell, upload.stop)
        before = upload.done_bytes = before + part.bytes
    seconds = node.clock.monotonic() - began_s
    upload.cost = Cost(kind="upload", node=node.place.node, bytes=upload.total_bytes, seconds=seconds)
    node.changed.set()


def states(node: Node) -> tuple[SnapshotState, ...]:
    """Every snapshot of which images or an upload are here."""
    found = dict(node.durable)
    for freeze_id, upload in list(node.uploads.items()):
        if freeze_id not in found and upload.job:
            found[freeze_id] = SnapshotState(
                snapshot=freeze_id,
                job=upload.job,
                durability="node",
                done_bytes=upload.done_bytes,
                total_bytes=upload.total_bytes,
                trouble=upload.trouble,
            )
    return tuple(found.values())


def now_remote(node: Node, snapshot: Manifest) -> None:
    upload = node.uploads.get(snapshot.id)
    cost = upload.cost if upload else None
    state = SnapshotState(snapshot=snapshot.id, job=snapshot.job, durability="remote", cost=cost)
    node.durable[snapshot.id] = state
    node.changed.set()


# ── folders ──────────────────────────────────────────────────────────────────────────────────────────────────────


def image_folder(node: Node, freeze_id: str) -> Path:
    on_disk = node.place.disk_images / freeze_id
    return on_disk if on_disk.exists() else node.images(freeze_id)


def _images_of(node: Node, freeze_id: str, part: CellPart) -> Path:
    """Where one cell's images are: of two on this node one may have gone to disk, and the other fitted into memory."""
    folder = image_folder(node, freeze_id)
    whole = all((folder / f"rank{rank.rank}").is_dir() for rank in part.ranks)
    return folder if whole else node.images(freeze_id)


def image_folders(node: Node) -> list[Path]:
    """Every folder of images here, in memory and on disk."""
    roots = (node.place.memory / "images", node.place.disk_images)
    return [
        folder
        for root in roots
        if root.is_dir()
        for folder in sorted(root.iterdir())
        if not folder.name.startswith(".")
    ]


def busy(node: Node) -> set[str]:
    """Freezes and snapshots whose images are being written, hashed or uploaded: they stay where they are."""
    uploading = {freeze_id for freeze_id, upload in list(node.uploads.items()) if upload.running}
    return uploading | {freeze_id for freeze_id, _ in list(node.dumped)} | set(node.dumping)


def note_job(folder: Path, job: str) -> None:
    """Write down whose images these are: their files are kept for as long, and no store needs to be asked."""
    with suppress(FileNotFoundError):  # dropped meanwhile
        (folder / JOB).write_text(job)


def job_of(node: Node, folder: Path) -> str:
    """Whose images these are; "" where only the store knows."""
    state = node.durable.get(folder.name)
    if state is not None:
        return state.job
    with suppress(OSError):
        return (folder / JOB).read_text()
    return ""


def jobs_here(node: Node) -> set[str] | None:
    """Jobs with a life or images here. None while there are images of which nobody knows whose they are."""
    imaged = jobs_with_images(node)
    return None if imaged is None else imaged | {folder.key.job for folder in lives.folders(node.place)}


def jobs_with_images(node: Node) -> set[str] | None:
    """Jobs with images here. None while there are images of which nobody knows whose they are."""
    jobs = {job_of(node, folder) for folder in image_folders(node)}
    return None if "" in jobs else jobs


def drop(node: Node, freeze_id: str) -> None:
    """The images of a snapshot are not needed here any more: the shared store has them, or nobody wants them."""
    upload = node.uploads.pop(freeze_id, None)
    if upload is not None:
        upload.stop.set()
    node.reserve.drop(_slot(node, freeze_id))
    node.dumping.discard(freeze_id)
    for folder in (node.place.disk_images / freeze_id, node.images(freeze_id)):
        shutil.rmtree(folder, ignore_errors=True)
    node.durable.pop(freeze_id, None)


def drop_settled(node: Node) -> None:
    """Free the memory of images that the shared store has as well."""
    for freeze_id in list(node.durable):
        drop(node, freeze_id)
