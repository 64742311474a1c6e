"""What an ended cell leaves behind: its final working copy in the shared store, for `ergo fetch`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ergosphere.snapshots.blobs import blob_key
from ergosphere.snapshots.documents import BadDocument, from_plain, seal, to_plain, unseal
from ergosphere.snapshots.errors import Damaged
from ergosphere.snapshots.gather import WORK, CellFiles
from ergosphere.snapshots.pool import Pool
from ergosphere.snapshots.scan import NO_LIMITS, scan, upload
from ergosphere.snapshots.store import Store
from ergosphere.snapshots.tree import TreeSum, save_tree

RESULTS: Final = "results/"
RESULT_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class CellResult:
    """The working copy one cell ended with."""

    job: str
    incarnation: int
    cell: int
    work: TreeSum


def results_key(job: str, incarnation: int) -> str:
    """Below this key each cell of the life has its result."""
    return f"{RESULTS}{job}.{incarnation}"


def save_result(
    life: tuple[str, int, int], files: CellFiles, store: Store, pool: Pool, bound: tuple[str, ...] = ()
) -> str:
    """Store what a cell (job, incarnation, index) ended with, less its read-only bindings; the life's results
    key.

    Errors: StoreError, TreeError.
    """
    hidden = frozenset(bound)
    found = scan(files.work, lambda path, _: path in hidden, NO_LIMITS, pool.known(WORK))

    def put(digest: str, source: bytes | Path) -> None:
        store.put(blob_key(digest), source, if_absent=True)

    upload(found.tree, files.work, lambda digest: store.has(blob_key(digest)), put)
    result = CellResult(*life, save_tree(store, found.tree))
    key = results_key(life[0], life[1])
    store.put(f"{key}/{life[2]}", seal("result", RESULT_VERSION, to_plain(result)))
    return key


def load_results(store: Store, key: str) -> tuple[CellResult, ...]:
    """The results of all cells of a life. Errors: Damaged, TooNew, StoreError."""
    found = [parse_result(store.get(stored.key), stored.key) for stored in store.list(f"{key}/")]
    return tuple(sorted(found, key=lambda result: result.cell))


def parse_result(content: bytes, key: str) -> CellResult:
    """Errors: Damaged (naming `key`), TooNew."""
    try:
        return from_plain(CellResult, unseal(content, "result", RESULT_VERSION, key))
    except (BadDocument, json.JSONDecodeError) as error:
        raise Damaged(key, how=f"has the wrong shape ({error})") from error
