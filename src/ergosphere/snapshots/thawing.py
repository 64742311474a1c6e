"""The way back: images, files and logs of a snapshot onto a node, every byte verified."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final

from ergosphere.snapshots.blobs import blob_key, fetch_blob
from ergosphere.snapshots.copying import link_or_copy
from ergosphere.snapshots.digests import digest_image
from ergosphere.snapshots.errors import Damaged
from ergosphere.snapshots.gather import CACHE, WORK, CellFiles, read_seals, seal_of
from ergosphere.snapshots.layout import materialise, restore
from ergosphere.snapshots.logs import rebuild
from ergosphere.snapshots.manifest import CellPart, ImageFile, Manifest
from ergosphere.snapshots.pool import Pool
from ergosphere.snapshots.store import FOLDER_MODE, Store, Verified
from ergosphere.snapshots.tree import TreeSum, load_tree, parse_tree

WORKERS: Final = 2  # each hashes with all cores; two keep them busy while one copies

Fetch = Callable[[str, Path], None]
Leave = Callable[[ImageFile, Store], bool]


def lay_out(store: Store, tree_digest: str | None, files: CellFiles, pool: Pool) -> None:
    """A cell's first working copy, from the submission or empty, and an empty cache if there is none.

    Errors: Damaged, StoreError, OSError.
    """
    files.work.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    if tree_digest is not None:
        tree = load_tree([store], tree_digest)
        pool.remember(WORK, materialise(tree, files.work, _fetcher(pool, store, ())))
    pool.remember_logs(())
    if files.cache is not None:
        files.cache.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)


def fetch_images(
    manifest: Manifest,
    rank: int,
    dest: Path,
    sources: Sequence[Path | Store],
    *,
    trust_seals: bool = True,
    leave: Leave = lambda file, source: False,
) -> None:
    """Put a rank's images into `dest` (absent or empty) from the first source that has each whole.

    `leave` is asked about each image before a store is: those that will be read from there later are not fetched.

    A `Path` is a node's folder of this snapshot's images: its files are linked, so never write into them.
    There `trust_seals` spares hashing those whose size, time and inode are as when they were hashed; all else
    is hashed. Errors: Damaged (naming the image and the snapshot), StoreError.
    """
    dest.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    files = sorted(manifest.rank(rank).files, key=lambda file: -file.size)
    seals = {source: read_seals(source) for source in sources if isinstance(source, Path)} if trust_seals else {}

    def fetch(file: ImageFile) -> None:
        how = "is missing"
        for source in sources:
            if isinstance(source, Path):
                path = source / f"rank{rank}" / file.name
                got = _link_image(path, dest / file.name, file, seals.get(source, {}).get(f"rank{rank}/{file.name}"))
            elif leave(file, source):
                return
            else:
                got = _fetch_image(source, dest / file.name, file)
            if got is None:
                return
            how = got or how
        raise Damaged(f"{file.name} of rank {rank}", manifest.id, how)

    with ThreadPoolExecutor(WORKERS) as workers:
        list(workers.map(fetch, files))


def restore_files(part: CellPart, files: CellFiles, pool: Pool, store: Store, near: Sequence[Store] = ()) -> None:
    """Make a cell's working copy, cache and logs what they were at the snapshot, whatever they are now.

    `near` are pools of other nodes, asked for what the shared store does not have yet; what comes from them
    is kept in `pool`, so that a later snapshot does not depend on that node. Nothing else may write to the
    files. Errors: Damaged, StoreError, OSError.
    """
    fetch = _fetcher(pool, store, near)
    _restore_tree(part.work, files.work, WORK, fetch, pool)
    if part.cache is not None and files.cache is not None:
        _restore_tree(part.cache, files.cache, CACHE, fetch, pool)
    for log in part.logs:
        files.logs[log.name].parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        rebuild(log, files.logs[log.name], fetch)
    pool.remember_logs(part.logs)


def _restore_tree(summary: TreeSum, dest: Path, name: str, fetch: Fetch, pool: Pool) -> None:
    document = pool.incoming() / "tree"
    fetch(summary.digest, document)
    tree = parse_tree(document.read_bytes())
    document.unlink()
    document.parent.rmdir()
    pool.remember(name, restore(tree, dest, fetch, pool.known(name)))


def _fetcher(pool: Pool, store: Store, near: Sequence[Store]) -> Fetch:
    """Pools first: an upload under way moves content from a pool to the store, and so it is never missed."""

    def fetch(digest: str, dest: Path) -> None:
        source = fetch_blob([pool.store, *near, store], digest, dest, f"file content {digest[:12]}")
        if not isinstance(source, Verified) and source is not pool.store and source is not store:
            pool.store.put(blob_key(digest), dest, if_absent=True)

    return fetch


def _link_image(path: Path, dest: Path, file: ImageFile, seal: list[int] | None) -> str | None:
    """None: `dest` is the image. Else why it is not ("" for a source that simply does not have it)."""
    try:
        sealed = seal is not None and seal == seal_of(path)
        link_or_copy(path, dest)
    except FileNotFoundError:
        return ""
    if dest.stat().st_size == file.size and (sealed or digest_image(dest) == file.digest):
        return None
    dest.unlink()
    return "differs from its digest"


def _fetch_image(source: Store, dest: Path, file: ImageFile) -> str | None:
    try:
        fetch_blob([source], file.digest, dest, file.name, share=True)
    except Damaged as error:
        with suppress(FileNotFoundError):
            dest.unlink()
        return "" if error.how == "is missing" else error.how
    return None
