"""A cell's bytes on their way to its project's vault, and back. The marker `remote/<freeze>/<cell>` commits it.

Written in this order, so that a writer killed anywhere leaves a snapshot that is remote or one that is not: packs,
their index, the recipe, the marker. Between recipe and marker the writer looks whether a sweep has doomed a pack it
relies on, and if so stores those chunks again: see `collect` for why one of the two always sees the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ergosphere.snapshots.bases import Read, read_chunks
from ergosphere.snapshots.blobs import BLOBS, blob_key, get_blob
from ergosphere.snapshots.chunk_index import NOWHERE
from ergosphere.snapshots.errors import Busy, Damaged, NotFound
from ergosphere.snapshots.flow import Flow
from ergosphere.snapshots.gather import REMOTE, file_blobs
from ergosphere.snapshots.getting import fetch_streams, read_stream
from ergosphere.snapshots.manifest import CellPart
from ergosphere.snapshots.pool import Pool
from ergosphere.snapshots.putting import NO_WATCH, Stream, Tally, Watch, put_streams
from ergosphere.snapshots.recipes import Recipe, StreamPart, extended, recipe_name
from ergosphere.snapshots.repacking import copy_chunks
from ergosphere.snapshots.sealing import Bytes
from ergosphere.snapshots.store import Source, Store, Stored, Verified
from ergosphere.snapshots.trail import Trail
from ergosphere.snapshots.vault import Vault

ANEW: Final = "take another snapshot: it stores all files of the job anew, and so mends this one"
ATTEMPTS_MAX: Final = 4  # each finds other packs doomed; sweeps are hours apart


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What it took to make a cell remote. Bytes; `seconds` by the wall."""

    read_bytes: int
    stored_bytes: int
    chunks: int
    chunks_new: int
    seconds: float


def upload_cell(
    vault: Vault, freeze_id: str, part: CellPart, images: Path, pool: Pool, watch: Watch = NO_WATCH,
    *, followed: bool = False,
) -> Uploaded:  # fmt: skip
    """Bring everything of a cell to its vault, then say so in the store. Safe to repeat at any point.

    `followed`: another node may be waiting for it, and is told what is there already (`trail`).

    What the pool held is removed from it once the vault has it. A later snapshot that is not remote yet may name the
    same content: it finds it in this recipe (`LateBlobs`), which stays while any upload is pending (`collect`). Where
    that turns out to be damaged the pool forgets what it knows: the next snapshot copies all files and mends this one.
    Errors: StoreError, Damaged (a source is gone, or not what its manifest says), Stopped, Busy.
    """
    began = perf_counter()
    if vault.store.has(marker(freeze_id, part.index)):
        return Uploaded(0, 0, 0, 0, perf_counter() - began)
    sources = cell_sources(vault, part, images, pool)
    trail = Trail(vault, freeze_id, part.index)
    watch = replace(watch, cooked=trail.add, waits=True) if followed else watch
    try:
        tally = put_cell(vault, (freeze_id, part.index), sources, watch)
    except Damaged:
        pool.forget()
        raise
    vault.store.put(marker(freeze_id, part.index), b"")
    if followed:
        trail.remove()
    for digest in sources.held:
        pool.store.delete(blob_key(digest))
    return Uploaded(tally.read, tally.stored, tally.chunks, tally.chunks_new, perf_counter() - began)


def put_cell(vault: Vault, name: tuple[str, int], sources: CellSources, watch: Watch = NO_WATCH) -> Tally:
    """Streams and their recipe, relying on nothing that a sweep may take away. Errors: as upload_cell."""
    stored = new = 0
    vault.refresh()
    for attempt in range(ATTEMPTS_MAX):
        recipe, tally = put_streams(vault, name, sources.streams, watch)
        recipe = extended(recipe, sources.borrowed)
        stored, new = stored + tally.stored, new + tally.chunks_new
        vault.put_recipe(recipe)
        vault.refresh()
        if not (vault.index.find(recipe.names) == NOWHERE).any():
            return Tally(tally.read, stored, len(recipe.names), new)
        if attempt < ATTEMPTS_MAX - 1:
            carry_over(vault, recipe)
    raise overtaken(vault, recipe)


def overtaken(vault: Vault, recipe: Recipe) -> Busy | Damaged:
    """Why what a recipe needs cannot be relied on though it was stored again and again. Errors: StoreError."""
    doubtful = vault.doubtful
    rows = _doubtful_rows(vault, recipe)
    lost = sum(map(_is_damaged, read_chunks(vault, doubtful, rows, rows)))
    if lost:
        return Damaged(f"{lost} chunk(s) of what did not change since", how="were damaged in the store", remedy=ANEW)
    packs = {doubtful.packs[owner] for owner in doubtful.owner[rows]}
    if packs & vault.doomed():
        return Busy("a sweep keeps removing what this snapshot needs", "let the sweep finish, then try again")
    return Busy(
        "the store does not list what this snapshot needs: its lists lag behind, or somebody removes packs from it",
        "try again when its lists are up to date; ergo snapshot fsck says what is missing",
    )


def _is_damaged(read: Read) -> bool:
    return isinstance(read.content, Damaged) and not read.content.is_missing


def carry_over(vault: Vault, recipe: Recipe) -> None:
    """Store again what a recipe needs and only doomed packs hold, while they are still there."""
    copy_chunks(vault, vault.doubtful, _doubtful_rows(vault, recipe))


def _doubtful_rows(vault: Vault, recipe: Recipe) -> NDArray[np.int64]:
    """Rows of what a recipe needs, bases among them, that lie in packs which cannot be relied on."""
    doubtful, good = vault.doubtful, set(vault.index.packs)
    rows = doubtful.find(recipe.names[vault.index.find(recipe.names) == NOWHERE])
    rows = doubtful.with_bases(rows[rows != NOWHERE])
    return rows[~np.isin(doubtful.owner[rows], [i for i, pack in enumerate(doubtful.packs) if pack in good])]


def marker(freeze_id: str, cell: int) -> str:
    """The key whose presence says that a cell is remote."""
    return f"{REMOTE}{freeze_id}/{cell}"


@dataclass(frozen=True, slots=True)
class CellSources:
    """Everything of a cell: what lies here, what is in the vault under another snapshot; what the pool may let go."""

    streams: tuple[Stream, ...]
    borrowed: tuple[tuple[Recipe, StreamPart], ...]
    held: tuple[str, ...]


def cell_sources(vault: Vault, part: CellPart, images: Path, pool: Pool) -> CellSources:
    """Where each stream of a cell comes from. Errors: Damaged (one is nowhere), StoreError."""
    streams = [
        Stream(file.digest, f"rank{rank.rank}/{file.name}", images / f"rank{rank.rank}" / file.name)
        for rank in part.ranks
        for file in rank.files
    ]
    kinds = {piece.digest: "log" for log in part.logs for piece in log.pieces}
    kinds |= {tree.digest: "tree" for tree in (part.work, part.cache) if tree is not None}
    held = sorted(file_blobs(part, [pool.store, vault.store, LateBlobs(vault, vault.recipes_by_age)]))
    missing = []
    for digest in held:
        path = pool.store.folder / blob_key(digest)
        if path.exists():
            streams.append(Stream(digest, kinds.get(digest, "file"), path))
        else:
            missing.append(digest)
    borrowed = find_streams(vault, frozenset(missing))
    late = [digest for digest in missing if digest not in borrowed]
    streams += [Stream(digest, kinds.get(digest, "file"), _submitted(vault.store, digest)) for digest in late]
    return CellSources(tuple(streams), tuple(borrowed.values()), tuple(held))


def find_streams(vault: Vault, digests: frozenset[str]) -> dict[str, tuple[Recipe, StreamPart]]:
    """Streams with these digests in any recipe of the vault, the newest first. Errors: StoreError."""
    found: dict[str, tuple[Recipe, StreamPart]] = {}
    if not digests:
        return found
    for name in vault.recipes_by_age():
        with suppress(NotFound, Damaged):
            recipe = vault.recipe(name)
            for stream in recipe.streams:
                if stream.digest in digests:
                    found.setdefault(stream.digest, (recipe, stream))
        if len(found) == len(digests):
            break
    return found


def _submitted(store: Store, digest: str) -> bytes:
    """What came with the submission, or was stored before there were vaults."""
    return get_blob([store], digest, f"file content {digest[:12]}")


class FromRecipes(Verified):
    """What the stores below have in common: they can only be read."""

    def put(self, key: str, source: Source, *, if_absent: bool = False, share: bool = False) -> bool:
        raise NotImplementedError("a recipe is written as a whole")

    def delete(self, key: str, *, written_before_s: float | None = None) -> bool:
        raise NotImplementedError("a recipe is removed as a whole")

    def forget(self, key: str) -> bool:
        return False


class CellBlobs(FromRecipes):
    """The blobs of one cell's recipe as a store that can only be read; every chunk is verified, and the upload
    compared what it read with the digest that names it: hashing it again would make a thaw a third longer.
    """

    def __init__(self, vault: Vault, recipe: Recipe) -> None:
        self._vault = vault
        self.recipe = recipe
        self._streams = {stream.digest: stream for stream in recipe.streams}

    def get(self, key: str) -> bytes:
        return read_stream(self._vault, self.recipe, self._stream(key))

    def get_range(self, key: str, start: int, size: int, room: memoryview | None = None) -> Bytes:
        return self.get(key)[start : start + size]

    def fetch(self, key: str, dest: Path, *, share: bool = False) -> None:
        fetch_streams(self._vault, self.recipe, {self._stream(key).digest: dest})

    def has(self, key: str) -> bool:
        return key.rpartition("/")[2] in self._streams

    def flow(self, digest: str) -> Flow:
        """A stream for whoever reads it once and in order. Errors: NotFound."""
        return Flow(self._vault, self.recipe, self._stream(blob_key(digest)))

    def list(self, prefix: str = "") -> Iterator[Stored]:
        found = (Stored(blob_key(digest), stream.size, 0.0) for digest, stream in sorted(self._streams.items()))
        return (stored for stored in found if stored.key.startswith(prefix))

    def _stream(self, key: str) -> StreamPart:
        try:
            return self._streams[key.removeprefix(BLOBS).rpartition("/")[2]]
        except KeyError:
            raise NotFound(key) from None


class LateBlobs(FromRecipes):
    """The blobs of all recipes that `names` lists, as a store that can only be read.

    The list is asked again at each miss: an upload that ends meanwhile takes from the pools what it has brought here.
    """

    def __init__(self, vault: Vault, names: Callable[[], Iterable[str]]) -> None:
        self._vault = vault
        self._names = names
        self._cells: dict[str, CellBlobs] = {}

    def get(self, key: str) -> bytes:
        return self._holder(key).get(key)

    def get_range(self, key: str, start: int, size: int, room: memoryview | None = None) -> Bytes:
        return self._holder(key).get_range(key, start, size, room)

    def fetch(self, key: str, dest: Path, *, share: bool = False) -> None:
        self._holder(key).fetch(key, dest, share=share)

    def flow(self, digest: str) -> Flow:
        """As a cell's. Errors: NotFound while no recipe has it, StoreError."""
        return self._holder(blob_key(digest)).flow(digest)

    def has(self, key: str) -> bool:
        try:
            return self._holder(key).has(key)
        except NotFound:
            return False

    def list(self, prefix: str = "") -> Iterator[Stored]:
        return (stored for cell in self._every() for stored in cell.list(prefix))

    def _holder(self, key: str) -> CellBlobs:
        """Errors: NotFound while no recipe has it, StoreError."""
        for cell in self._every():
            if cell.has(key):
                return cell
        raise NotFound(key)

    def _every(self) -> Iterator[CellBlobs]:
        """Those known first. A recipe that is not there yet, or is damaged, has nothing to give."""
        known = dict(self._cells)  # as it is now: other threads add to it
        yield from known.values()
        for name in self._names():
            if name not in known:
                with suppress(NotFound, Damaged):
                    yield self._cell(name)

    def _cell(self, name: str) -> CellBlobs:
        if name not in self._cells:
            self._cells[name] = CellBlobs(self._vault, self._vault.recipe(name))
        return self._cells[name]


def cell_blobs(vault: Vault, freeze_id: str, cell: int) -> CellBlobs:
    """Where a cell's images and files come from once it is remote. Errors: NotFound, Forged, Damaged, StoreError."""
    return CellBlobs(vault, vault.recipe(recipe_name(freeze_id, cell)))
