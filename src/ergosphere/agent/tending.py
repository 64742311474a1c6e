"""What is done about images and pools now and then, behind everything else: two rounds, each in a thread of its own.

`ask` goes to the shared store and may hang as long as that does. `clear` makes room on this node and asks nobody.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ergosphere.agent import freezing, settling, spilling, storing
from ergosphere.agent.node import Node
from ergosphere.agent.ports import SUSPEND_S_MAX
from ergosphere.snapshots import records
from ergosphere.snapshots.errors import SnapshotError
from ergosphere.snapshots.manifest import Manifest

TEND_EVERY_S: Final = 5.0
UPLOAD_AGAIN_S: Final = 60.0  # after a failure; an upload of 30 GB takes about as long
POOL_IDLE_S: Final = 30.0  # a cell that is just coming has its pool before its life is written down
LEFTOVER_S: Final = SUSPEND_S_MAX + 60.0  # a freeze that nobody here knows is over for everyone by then
UNDECIDED_S_MAX: Final = 3600.0  # one that was dumped by this agent: other cells of it may hash for long


@dataclass(slots=True)
class Tending:
    """Remembers since when (monotonic) images had no verdict and pools nobody: no clock's jump makes them old."""

    node: Node
    _undecided_s: dict[str, float] = field(default_factory=dict)
    _idle_s: dict[Path, float] = field(default_factory=dict)

    def ask(self) -> None:
        """Learn what other nodes' uploads made remote, upload what is not, remove what freezes left.

        The first round of an agent brings the uploads of the one before it back to life.
        """
        folders = settling.image_folders(self.node)
        self._undecided_s = {folder.name: self._undecided_s.get(folder.name, self._now()) for folder in folders}
        for folder in folders:
            if folder.name in self.node.dumping:
                self._undecided_s[folder.name] = self._now()  # counted from the end of its dump
            elif folder.name not in self.node.durable:
                with suppress(SnapshotError, FileNotFoundError):
                    self._look_after(folder)

    def clear(self) -> None:
        """Remove the pools of jobs that are not here any more, and move to disk what memory should not hold."""
        spilling.drop_twins(self.node)
        spilling.remove_pools(self.node, self._unwanted)
        spilling.spill(self.node)

    def _now(self) -> float:
        return self.node.clock.monotonic()

    # ── images ───────────────────────────────────────────────────────────────────────────────────────────────

    def _look_after(self, folder: Path) -> None:
        """Errors: SnapshotError, FileNotFoundError (dropped meanwhile)."""
        try:
            decided = records.verdict(self.node.store, folder.name)
        except SnapshotError:
            self._undecided_s[folder.name] = self._now()  # its coordinator could not come to a verdict meanwhile
            raise
        if decided is None and self._now() - self._undecided_s[folder.name] > self._patience_s(folder.name):
            decided = records.abort(self.node.store, folder.name, "it had not come to an end")
        if isinstance(decided, Manifest):
            self._bring_on(folder, decided)
        elif decided is not None and folder.name not in self.node.dumping:
            let_go(self.node, folder.name)

    def _patience_s(self, freeze_id: str) -> float:
        """A job that saved itself has nothing but these files to go on from: its coordinator alone calls that off."""
        known = [dumped for (name, _), dumped in list(self.node.dumped.items()) if name == freeze_id]
        if any(dumped.begins_anew for dumped in known):
            return math.inf
        return UNDECIDED_S_MAX if known else LEFTOVER_S

    def _bring_on(self, folder: Path, snapshot: Manifest) -> None:
        node = self.node
        settling.note_job(folder, snapshot.job)
        upload = node.uploads.get(snapshot.id)
        if storing.is_remote(node, snapshot):
            if folder.is_dir():  # else it was dropped while the store was asked
                settling.now_remote(node, snapshot)
        elif upload is None or (not upload.running and self._now() - upload.began_s > UPLOAD_AGAIN_S):
            settling.settle(node, snapshot.id)

    # ── pools ────────────────────────────────────────────────────────────────────────────────────────────────

    def _unwanted(self) -> Iterator[Path]:
        """Pools whose jobs have had neither a life nor images here for a while; none while images are anybody's."""
        wanted = settling.jobs_here(self.node)
        place, now = self.node.place, self._now()
        every = [*spilling.pools(place.memory_pools), *spilling.pools(place.disk_pools)]
        idle = [] if wanted is None else [folder for folder in every if spilling.job_of_pool(folder) not in wanted]
        self._idle_s = {folder: self._idle_s.get(folder, now) for folder in idle}
        return (folder for folder in idle if now - self._idle_s[folder] > POOL_IDLE_S)


def let_go(node: Node, freeze_id: str) -> None:
    """A freeze is over without a snapshot: what it has left here goes."""
    for name, key in list(node.dumped):
        if name == freeze_id:
            freezing.forget(node, key, freeze_id)
    settling.drop(node, freeze_id)


def leave(node: Node) -> None:
    """For an agent that ends where no cell lives: what the store has, or will never have, is not needed here.

    Whose images these are is not known while the store is away, and then they stay.
    """
    for folder in settling.image_folders(node):
        with suppress(SnapshotError):
            decided = records.verdict(node.store, folder.name)
            if decided is None:  # no cell is left here that might still come to a verdict; elsewhere one may
                decided = records.abort(node.store, folder.name, "a node of its job was shut down")
            if not isinstance(decided, Manifest):
                let_go(node, folder.name)
            elif storing.is_remote(node, decided):
                settling.now_remote(node, decided)
