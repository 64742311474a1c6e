"""The agent's way to the shared store: what it sends there, and what it reads from there."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ergosphere.agent.node import Node
from ergosphere.snapshots import gather, remote
from ergosphere.snapshots.arrival import Arrival
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
    """Wait until a cell is remote, and fetch meanwhile what of it has reached the store; what was fetched, to be asked
    before the store. Nothing if it is remote already. `folder`: absent.

    Errors: NotRemote (its upload does not get on), SnapshotError, OSError.
    """
    marker, clock = remote.marker(snapshot.id, part.index), node.clock
    if node.store.has(marker):
        return ()
    arrival = Arrival(vault(node, snapshot), snapshot.id, part.index, folder)
    news_s = clock.monotonic()
    while not node.store.has(marker):
        began_s = clock.monotonic()
        if arrival.advance():
            news_s = clock.monotonic()
            continue
        if began_s - news_s > STALLED_S:
            raise NotRemote(
                f"snapshot {snapshot.id} is not in the shared store yet, and {part.node} has sent nothing of it for "
                f"{STALLED_S:.0f} s",
                f"ergo show says why its upload does not get on; it is tried again until {part.node} is given up",
            )
        clock.sleep(max(LOOK_S, clock.monotonic() - began_s))
    early = arrival.fetched
    arrival.finish()
    log.info("snapshot %s was followed: %d MB came before its upload had ended", snapshot.id, early >> 20)
    return (arrival.store,)


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
