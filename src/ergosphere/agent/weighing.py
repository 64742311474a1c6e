"""Finds out, behind everything else, which of the snapshots that the server asks about this node could thaw."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Final

from ergosphere.agent import requirements
from ergosphere.agent.node import Node
from ergosphere.snapshots import records
from ergosphere.snapshots.errors import SnapshotError

AGAIN_S: Final = 10.0  # files and packages of a node change now and then

log = logging.getLogger(__name__)


def ask(node: Node, snapshots: Sequence[str]) -> None:
    """Look at those that were not looked at lately; what is not asked about any more is forgotten. Returns at once."""
    for name in set(node.weighed) - set(snapshots):
        node.weighed.pop(name, None)
        node.weighed_s.pop(name, None)
    now_s = node.clock.monotonic()
    due = [name for name in snapshots if now_s - node.weighed_s.get(name, float("-inf")) > AGAIN_S]
    if due and node.cpuinfo and node.weighing.acquire(blocking=False):
        threading.Thread(target=_round, args=(node, due), daemon=True, name="weighing").start()


def _round(node: Node, due: Sequence[str]) -> None:
    try:
        for name in due:
            cause = _weigh(node, name)
            node.weighed_s[name] = node.clock.monotonic()
            if cause is not None and node.weighed.get(name) != cause:
                node.weighed[name] = cause
                node.changed.set()
    finally:
        node.weighing.release()


def _weigh(node: Node, name: str) -> str | None:
    """None: the store or the record does not say; a thaw would tell."""
    try:
        snapshot = records.load(node.store, name)
        return requirements.weigh(node, snapshot.cells, snapshot.spec)
    except SnapshotError as error:
        log.info("snapshot %s could not be weighed: %s", name, error)
        return None
