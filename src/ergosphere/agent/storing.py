"""The agent's way to the shared store: what it sends there, and what it reads from there."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ergosphere.agent.node import Node
from ergosphere.snapshots import gather, remote
from ergosphere.snapshots.arrival import Arrival
from ergosphere.snapshots.copying import is_no_room
from ergosphere.snapshots.errors import NotRemote
from ergosphere.snapshots.manifest import CellPart, Manifest
from ergosphere.snapshots.pool import Pool
from ergosphere.snapshots.putting import Progress, Watch
from ergosphere.snapshots.recipes import recipe_name
from ergosphere.snapshots.store import Store
from ergosphere.snapshots.vault import Vault

LOOK_S: Final = 0.25  # between two looks at how far an upload has come
STALLED_S: Final = 90.0  # without any news of it: one that failed is begun again before that
PERIODIC: Final = "snapshot"  # why a snapshot was taken after which the job went on: nobody waits for it

Tell = Callable[[int, int], None]  # bytes done, bytes in all

log = logging.getLogger(__name__)


def vault(node: Node, snapshot: Manifest) -> Vault:
    """The chunks of the snapshot's project."""
    return node.depot.vault(str(snapshot.spec["project"]))


def upload(
    node: Node, snapshot: Manifest, part: CellPart, images: Path, pool: Pool, tell: Tell, stop: threading.Event
) -> None:
    """Bring one cell's part to the shared store. Safe to repeat at any point. Errors: SnapshotError."""

    def progress(now: Progress) -> None:
        tell(now.done, now.total)

    watch, followed = Watch(progress, stop), snapshot.why != PERIODIC
    remote.upload_cell(vault(node, snapshot), snapshot.id, part, images, pool, watch, followed=followed)


def follow(node: Node, snapshot: Manifest, part: CellPart, folder: Path) -> tuple[Store, ...]:
    """Wait until a cell is remote, and fetch meanwhile what of its images has reached the store; what was fetched, to
    be asked before the store. Nothing if it is remote already, or if there is no room. `folder`: absent.

    Errors: NotRemote (its upload does not get on), SnapshotError, OSError.
    """
    if node.store.has(remote.marker(snapshot.id, part.index)):
        return ()
    images = frozenset(file.digest for rank in part.ranks for file in rank.files)
    arrival = Arrival(vault(node, snapshot), snapshot.id, part.index, folder, images)
    try:
        _until_remote(node, snapshot, part, arrival.advance)
        early = arrival.fetched
        arrival.finish()
    except OSError as error:
        if not is_no_room(error):
            raise
        shutil.rmtree(folder)
        log.info("snapshot %s is not followed, as there is no room: %s", snapshot.id, error)
        _until_remote(node, snapshot, part, lambda: False)
        return ()
    log.info("snapshot %s was followed: %d MB came before its upload had ended", snapshot.id, early >> 20)
    return (arrival.store,)


def _until_remote(node: Node, snapshot: Manifest, part: CellPart, advance: Callable[[], bool]) -> None:
    """`advance`: does something meanwhile, and says whether the upload has come further. Errors: NotRemote."""
    clock = node.clock
    news_s, packs = clock.monotonic(), -1
    while not node.store.has(remote.marker(snapshot.id, part.index)):
        began_s = clock.monotonic()
        if advance():
            news_s = clock.monotonic()
            continue
        if began_s - news_s > STALLED_S:
            before, packs = packs, sum(1 for _ in vault(node, snapshot).list_packs())
            if packs == before:
                raise NotRemote(
                    f"snapshot {snapshot.id} is not in the shared store yet, and nothing came there from its project "
                    f"for {STALLED_S:.0f} s",
                    f"ergo show says why its upload does not get on; it is tried again until {part.node} is given up",
                )
            news_s = began_s
        clock.sleep(max(LOOK_S, clock.monotonic() - began_s))


def is_remote(node: Node, snapshot: Manifest) -> bool:
    """Whether all of a snapshot is in the shared store."""
    return gather.is_remote(node.store, snapshot)


def sources(node: Node, snapshot: Manifest, part: CellPart) -> list[Store]:
    """Where a cell's images and files can be read when no node has them any more: its own recipe once it is there,
    what came with the submission, and recipes of snapshots before it whose content did not change.
    """
    chunks = vault(node, snapshot)
    own = remote.LateBlobs(chunks, lambda: [recipe_name(snapshot.id, part.index)])
    return [own, node.store, remote.LateBlobs(chunks, chunks.recipes_by_age)]
