"""A thaw beside an upload: content on its way from a node's pool to the shared store is found, wherever it is."""

from __future__ import annotations

from pathlib import Path

from ergosphere.snapshots.blobs import blob_key
from ergosphere.snapshots.gather import CellFacts, CellFiles, build, stage_cell
from ergosphere.snapshots.pool import Pool
from ergosphere.snapshots.store import FolderStore
from ergosphere.snapshots.thawing import restore_files


class Leaving:
    """A pool's store whose content is uploaded and removed in the very moment in which it is asked for."""

    def __init__(self, pool: FolderStore, shared: FolderStore) -> None:
        self.pool, self.shared = pool, shared

    def fetch(self, key: str, dest: Path, *, share: bool = False) -> None:
        if self.pool.has(key):
            self.shared.put(key, self.pool.get(key))
            self.pool.delete(key)
        self.pool.fetch(key, dest, share=share)


def test_content_that_leaves_its_pool_during_a_thaw_is_found_in_the_store(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work/data").write_text("changed by the job")
    (tmp_path / "out.log").write_text("line\n")
    shared = FolderStore.create(tmp_path / "store")
    pool = Pool.create(tmp_path / "pool")
    files = CellFiles(tmp_path / "work", None, {"rank0.out": tmp_path / "out.log"})
    part = build(stage_cell(files, pool), CellFacts(0, "node-0", "10.0.0.2", "net", (0,)), tmp_path, {}, pool)
    there = CellFiles(tmp_path / "there", None, {"rank0.out": tmp_path / "there.log"})
    restore_files(part, there, Pool.create(tmp_path / "other"), shared, [Leaving(pool.store, shared)])  # type: ignore[list-item]
    assert (tmp_path / "there/data").read_text() == "changed by the job"
    assert (tmp_path / "there.log").read_text() == "line\n"
    assert shared.has(blob_key(part.work.digest))
