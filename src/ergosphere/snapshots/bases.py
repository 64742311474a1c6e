"""Chunks of a run with the bases that the deltas among them need, in bounded memory; every base is verified."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ergosphere.snapshots.chunk_index import NOWHERE, ChunkIndex
from ergosphere.snapshots.errors import Damaged, NotFound
from ergosphere.snapshots.packs import ChunkReader
from ergosphere.snapshots.runs import RUN_SIZE, Piece, Run, runs_in
from ergosphere.snapshots.sealing import Bytes
from ergosphere.snapshots.vault import Vault

HELD_SIZE: Final = 8 << 20  # bytes of bases in memory at once, for each thread
ASKED_SIZE: Final = 4 << 20  # bytes of bases asked for at once

Content = Bytes | Damaged


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """A chunk of a run: as its pack has it, and its content, verified, or what is wrong with it."""

    piece: Piece
    packed: Bytes
    content: Content


def with_bases(vault: Vault, run: Run) -> Iterator[tuple[Piece, Content | None]]:
    """Each chunk of a run, and its base's content, what is wrong with that, or None for a whole chunk.

    Errors: StoreError.
    """
    bases = run.index.bases(run.rows)
    if (bases == NOWHERE).all():
        yield from ((piece, None) for piece in run.pieces())
        return
    pieces = list(run.pieces())
    for first, last in _batches(run.index, bases):
        wanted = bases[first:last]
        held = read_rows(vault, run.index, np.unique(wanted[wanted != NOWHERE]))
        for piece, base in zip(pieces[first:last], wanted.tolist(), strict=True):
            yield piece, held.get(base)


def read_rows(vault: Vault, index: ChunkIndex, rows: NDArray[np.int64]) -> dict[int, Content]:
    """Whole chunks by their rows, verified, or what is wrong with each. Errors: StoreError."""
    return {read.piece.chunk: read.content for read in read_chunks(vault, index, rows, rows, ASKED_SIZE)}


def read_chunks(
    vault: Vault, index: ChunkIndex, rows: NDArray[np.int64], places: NDArray[np.intp], size_max: int = RUN_SIZE
) -> Iterator[Read]:
    """Each chunk of these rows, in the order they lie in; what its piece says of `chunk` is its `places`.

    Errors: StoreError.
    """
    for run in runs_in(index, rows, places, size_max):
        yield from read_run(vault, run)


def read_run(vault: Vault, run: Run) -> Iterator[Read]:
    """Each chunk of a run. Errors: StoreError."""
    key = vault.pack_key(run.pack_id)
    reader = ChunkReader(vault.sealer, vault.naming, run.pack_id)
    try:
        held = memoryview(vault.store.get_range(key, run.start, run.size))
    except NotFound:
        yield from (Read(piece, b"", _gone()) for piece in run.pieces())
        return
    for piece, base in with_bases(vault, run):
        try:
            yield _read(reader, piece, held[piece.held], base)
        except Damaged:
            yield _read_again(vault, key, reader, piece, base)


def _read(reader: ChunkReader, piece: Piece, held: memoryview, base: Content | None) -> Read:
    packed = reader.open(piece.at, held)
    return Read(piece, packed, reader.unpack(piece.name, packed, piece.size, piece.kind, base))


def _gone() -> Damaged:
    return Damaged("a chunk's pack", how="is missing")


def _read_again(vault: Vault, key: str, reader: ChunkReader, piece: Piece, base: Content | None) -> Read:
    """One bad read is read once more, by itself; a copy that lies nearer than the store is not trusted twice."""
    vault.store.forget(key)
    try:
        size = piece.held.stop - piece.held.start
        return _read(reader, piece, memoryview(vault.store.get_range(key, piece.at, size)), base)
    except NotFound:
        return Read(piece, b"", _gone())
    except Damaged as error:
        return Read(piece, b"", error)


def _batches(index: ChunkIndex, bases: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """[first, last) of chunks whose bases may be in memory together."""
    sizes = np.where(bases == NOWHERE, 0, index.rows["size"][bases].astype(np.int64))
    first = held = 0
    seen: set[int] = set()
    for i, (base, size) in enumerate(zip(bases.tolist(), sizes.tolist(), strict=True)):
        if base in seen:
            continue
        if held + size > HELD_SIZE:
            yield first, i
            first, held, seen = i, 0, set()
        seen.add(base)
        held += size
    yield first, len(bases)
