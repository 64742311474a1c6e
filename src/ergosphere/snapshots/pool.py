"""What one node holds of one cell's files beside the shared store: blobs on their way there, and what is
known by stat.

Losing a pool costs time (everything is copied and hashed again), never a snapshot that has reached the shared
store.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Final

from ergosphere.snapshots.documents import from_plain, to_plain
from ergosphere.snapshots.manifest import Log
from ergosphere.snapshots.scan import Known
from ergosphere.snapshots.store import FOLDER_MODE, FolderStore

STORE: Final = "store"
INCOMING: Final = "incoming"
LOGS: Final = "logs.json"


class Pool:
    """A folder, best in memory and for one cell alone; keep the object, it remembers what its files say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = FolderStore(folder / STORE, durable=False)
        self._known: dict[str, Known] = {}

    @classmethod
    def create(cls, folder: Path) -> Pool:
        """Make the folder a pool, if it is not one yet."""
        (folder / INCOMING).mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        folder.chmod(FOLDER_MODE)
        pool = cls(folder)
        FolderStore.create(pool.store.folder, durable=False)
        return pool

    def incoming(self) -> Path:
        """A fresh folder on the filesystem of the pool's store."""
        return Path(tempfile.mkdtemp(dir=self.folder / INCOMING))

    def known(self, tree: str) -> Known:
        """The stat cache of the working copy or the cache copy, as of their last staging or laying out."""
        if tree not in self._known:
            self._known[tree] = Known.load(self._known_path(tree))
        return self._known[tree]

    def remember(self, tree: str, known: Known) -> None:
        self._known[tree] = known
        known.save(self._known_path(tree))

    def logs(self) -> dict[str, Log]:
        """The pieces of this life's logs that snapshots already have."""
        try:
            rows = json.loads((self.folder / LOGS).read_text())
            return {log.name: log for log in (from_plain(Log, row) for row in rows)}
        except (OSError, ValueError, TypeError):
            return {}

    def remember_logs(self, logs: tuple[Log, ...]) -> None:
        aside = self.folder / f"{LOGS}.new"
        aside.write_text(json.dumps(to_plain(logs)))
        aside.replace(self.folder / LOGS)

    def forget(self) -> None:
        """What is known of files and logs is not relied on any more: the next freeze copies all of them."""
        self._known.clear()
        for path in (*self.folder.glob("known-*.json"), self.folder / LOGS):
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """The job is forgotten on this node."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _known_path(self, tree: str) -> Path:
        return self.folder / f"known-{tree}.json"
