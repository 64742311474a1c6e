"""The agent's way to the shared store: what it sends there, and what it reads from there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from ergosphere.agent.node import Node
from ergosphere.snapshots import gather, remote
from ergosphere.snapshots.manifest import CellPart, Manifest
from ergosphere.snapshots.pool import Pool
from ergosphere.snapshots.putting import Progress, Watch
from ergosphere.snapshots.recipes import recipe_name
from ergosphere.snapshots.store import Store
from ergosphere.snapshots.vault import Vault

Tell = Callable[[int, int], None]  # bytes done, bytes in all


def vault(node: Node, snapshot: Manifest) -> Vault:
    """The chunks of the snapshot's project."""
    return node.depot.vault(str(snapshot.spec["project"]))


def upload(
    node: Node, snapshot: Manifest, part: CellPart, images: Path, pool: Pool, tell: Tell, stop: threading.Event
) -> None:
    """Bring one cell's part to the shared store. Safe to repeat at any point. Errors: SnapshotError."""

    def progress(now: Progress) -> None:
        tell(now.done, now.total)

    remote.upload_cell(vault(node, snapshot), snapshot.id, part, images, pool, Watch(progress, stop))


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
