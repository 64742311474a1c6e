"""What goes to this node's disk where its memory is short: images, and the pool of the cell that they belong to.

Both are whole on disk before they leave memory. Images on disk whose pool is there as well survive the machine.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from ergosphere.agent import lives, reserving, settling
from ergosphere.agent.node import Node
from ergosphere.agent.place import CellKey
from ergosphere.agent.ports import Refused
from ergosphere.agent.reserving import Room
from ergosphere.snapshots.pool import INCOMING

SPILL_ABOVE: Final = 0.75  # of the memory that images may take: what is more goes to disk, so that a freeze finds room
SHORT: Final = 2 * reserving.SPARE  # of the machine: where less memory is left, and no limit was set, images go to disk
COPY_TRIES: Final = 2  # an upload may delete what it has sent while the rest is copied
GONE: Final = ".gone"  # what pools that are being removed are called

log = logging.getLogger(__name__)


# ── images ───────────────────────────────────────────────────────────────────────────────────────────────────────


def spill(node: Node) -> None:
    """Move images to this node's disk, the oldest first, while they take too much of its memory.

    What the store has goes without a copy. Images that are being written or uploaded stay where they are. The pools
    of jobs that are frozen here go along; that of a job that runs goes when its next dump does not fit.
    """
    if not _is_crowded(node):
        return
    settling.drop_settled(node)
    for folder in _by_age(node.place.memory / "images"):
        if not _is_crowded(node):
            return
        job = settling.job_of(node, folder)
        if folder.name not in settling.busy(node) and _spill_one(node, folder):
            _spill_pools(node, job)


def _is_crowded(node: Node) -> bool:
    held = settling.held_bytes(node)
    if node.image_bytes_max is not None:
        return held > SPILL_ABOVE * node.image_bytes_max
    return held > 0 and is_short(reserving.look(node.place.memory))


def is_short(room: Room) -> bool:
    """Whether running programs may soon want the memory that images take."""
    return room.available < SHORT * room.total


def _by_age(root: Path) -> list[Path]:
    ages = []
    for path in root.iterdir():
        with suppress(OSError):  # dropped meanwhile
            ages.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(ages)]


def _spill_one(node: Node, folder: Path) -> bool:
    """Whole on disk before it leaves memory; a copy that was cut off is never taken for images."""

    def may_go() -> bool:
        return folder.is_dir() and folder.name not in settling.busy(node)

    try:
        moved = _copied(node, folder, node.place.disk_images / folder.name, may_go)
    except OSError as error:  # the disk is full: they stay in memory, and a freeze goes to disk itself
        log.warning("images of %s could not be moved to disk: %s", folder.name, error)
        return False
    if moved:
        shutil.rmtree(folder, ignore_errors=True)
        log.info("images of %s were moved to disk", folder.name)
    return moved


def _copied(node: Node, folder: Path, there: Path, may_go: Callable[[], bool]) -> bool:
    """Copy a folder to disk under its final name. False: things have changed meanwhile, and nothing was done.

    A copy takes its time; whether it may take effect is asked again at its end, when nobody else can begin anything.
    """
    aside = there.with_name(f".{there.name}")
    aside.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        _copy_tree(folder, aside)
        with node.opening:
            if may_go() and not there.exists():
                aside.rename(there)
                return True
        return False
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _copy_tree(folder: Path, aside: Path) -> None:
    """Errors: OSError."""
    for tries_left in reversed(range(COPY_TRIES)):
        shutil.rmtree(aside, ignore_errors=True)
        try:
            shutil.copytree(folder, aside, copy_function=_copy_durably, ignore=shutil.ignore_patterns(INCOMING))
        except shutil.Error as error:
            if not tries_left or all(os.path.lexists(source) for source, *_ in error.args[0]):
                raise
        else:
            return


def _copy_durably(source: str, dest: str) -> str:
    shutil.copy2(source, dest)
    descriptor = os.open(dest, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return dest


# ── pools ────────────────────────────────────────────────────────────────────────────────────────────────────────


def pools(root: Path, job: str | None = None) -> Iterator[Path]:
    """The pools below `place.memory_pools` or `place.disk_pools`: of one job, or all."""
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if not folder.name.startswith(".") and (job is None or job_of_pool(folder) == job):
            yield folder


def job_of_pool(folder: Path) -> str:
    return folder.name.rpartition(".")[0]


def pool_to_disk(node: Node, key: CellKey, needed_bytes: int) -> None:
    """For a dump to disk: the cell's pool is there from now on, with all that it holds.

    Raises Refused where the disk cannot take what will be staged; nothing has changed then.
    """
    name = f"{key.job}.{key.cell}"
    node.place.disk_pools.mkdir(parents=True, exist_ok=True, mode=0o700)
    free = shutil.disk_usage(node.place.disk_pools).free
    if needed_bytes > free:
        raise Refused(
            f"{needed_bytes >> 20} MB of files changed since the last snapshot, for which {node.place.node} has too "
            f"little memory, and {free >> 20} MB of disk",
            remedy=f"free some space below {node.place.node_dir}, or let the job delete what it does not need",
        )
    try:
        _move_pool(node, node.place.memory_pools / name, lambda: True)
    except OSError as error:
        raise Refused(f"the files of the job could not be moved to the disk of {node.place.node}: {error}") from error


def _spill_pools(node: Node, job: str) -> None:
    """The pools of a job that is frozen here: no cell of it can begin to use them before we are done."""

    def may_go() -> bool:
        return not any(folder.key.job == job for folder in lives.folders(node.place)) and not _in_use(node, job)

    for folder in pools(node.place.memory_pools, job) if job and may_go() else ():
        try:
            _move_pool(node, folder, may_go)
        except OSError as error:
            log.warning("the files of %s could not be moved to disk: %s", job, error)


def _in_use(node: Node, job: str) -> bool:
    sending = any(upload.running and upload.job in (job, "") for upload in list(node.uploads.values()))
    return sending or any(key.job == job for _, key in list(node.dumped))


def _move_pool(node: Node, folder: Path, may_go: Callable[[], bool]) -> None:
    """Errors: OSError."""
    there = node.place.disk_pools / folder.name
    if not folder.is_dir() or there.is_dir():
        there.mkdir(exist_ok=True, mode=0o700)
    elif not _copied(node, folder, there, may_go):
        return
    drop_twins(node)


def drop_twins(node: Node) -> None:
    """What is left in memory of pools that were copied to disk, as soon as no upload reads from it any more."""
    with node.opening:
        for folder in pools(node.place.memory_pools):
            if _is_twin(node, folder):
                _set_aside(folder)
    _remove_aside(node.place.memory_pools)


def _is_twin(node: Node, folder: Path) -> bool:
    return (node.place.disk_pools / folder.name).is_dir() and not _in_use(node, job_of_pool(folder))


def remove_pools(node: Node, unwanted: Callable[[], Iterable[Path]]) -> None:
    """Remove pools that are still unwanted when no cell can begin to use them. Cheap under the lock, slow behind."""
    with node.opening:
        for folder in unwanted():
            if _set_aside(folder):
                node.pools.pop(folder.name, None)
    for root in (node.place.memory_pools, node.place.disk_pools):
        _remove_aside(root)


def _set_aside(folder: Path) -> bool:
    """All of it at once: whoever reads from it finds it whole or not at all. False: one of its name is still there."""
    try:
        folder.rename(folder.with_name(f".{folder.name}{GONE}"))
    except OSError:
        return False
    return True


def _remove_aside(root: Path) -> None:
    for folder in root.glob(f".*{GONE}"):
        shutil.rmtree(folder, ignore_errors=True)


def sweep(node: Node) -> None:
    """For an agent that begins: copies that the one before it did not finish, and what it did not finish removing."""
    place = node.place
    for root in (place.memory_pools, place.disk_pools, place.disk_images):
        for folder in root.glob(".*"):
            shutil.rmtree(folder, ignore_errors=True)
