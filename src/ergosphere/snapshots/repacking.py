"""Chunks copied from packs to new packs, within a vault or from one to another; every one is verified on the way."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ergosphere.snapshots.bases import read_chunks
from ergosphere.snapshots.chunk_index import NOWHERE, ChunkIndex, Names, names_of
from ergosphere.snapshots.errors import Damaged
from ergosphere.snapshots.packs import DELTA, PackBuilder, Rows, name_of
from ergosphere.snapshots.runs import Piece
from ergosphere.snapshots.sealing import Bytes
from ergosphere.snapshots.vault import Vault


def copy_chunks(vault: Vault, index: ChunkIndex, rows: NDArray[np.int64]) -> int:
    """Store chunks at these rows of `index` again, in new packs of the same vault; bytes stored. What cannot be read
    is left out: whoever needs it sees that it is missing. Deltas stay deltas of the same bases. Errors: StoreError.
    """
    writer = PackWriter(vault)
    for read in read_chunks(vault, index, rows, np.arange(len(rows))):
        if not isinstance(read.content, Damaged):
            writer.copy(read.piece, read.packed)
    return writer.close()


def adopt_chunks(target: Vault, source: Vault, names: Names) -> tuple[Names, int]:
    """Chunks of another vault under this one's names and key; their new names in order, and bytes stored.

    Errors: Damaged (one is missing or damaged), StoreError.
    """
    found, lost = source.places(names)
    if lost:
        raise Damaged(f"{lost} chunk(s)", how="are missing")
    writer = PackWriter(target)
    fresh: list[bytes] = [b""] * len(names)
    for place in found:
        for read in read_chunks(source, place.index, place.rows, place.which):
            if isinstance(read.content, Damaged):
                raise read.content
            name = name_of(read.content, target.naming)
            fresh[read.piece.chunk] = name
            if target.index.find(names_of(name))[0] == NOWHERE:
                writer.add(name, read.content)
    return np.ascontiguousarray(names_of(b"".join(fresh))), writer.close()


class PackWriter:
    """Packs of a vault from chunks that come one by one."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._builder = PackBuilder(vault.sealer)
        self._packs: list[tuple[bytes, Rows]] = []
        self._seen: set[tuple[bytes, bool]] = set()  # whole or as a delta: only a whole one is a base
        self._stored = 0

    def add(self, name: bytes, content: Bytes) -> None:
        """A chunk by its content."""
        if self._is_new(name, False):
            self._builder.add(name, memoryview(content))
            self._store_if_full()

    def copy(self, piece: Piece, packed: Bytes) -> None:
        """A chunk as another pack of the same vault has it."""
        if self._is_new(piece.name, piece.kind == DELTA):
            self._builder.add_packed(piece.name, packed, piece.size, piece.kind, piece.base)
            self._store_if_full()

    def close(self) -> int:
        """Store the last pack and the index; bytes stored in all."""
        if not self._builder.is_empty:
            self._store()
        self._vault.publish(self._packs)
        return self._stored

    def _is_new(self, name: bytes, is_delta: bool) -> bool:
        known = (name, is_delta) in self._seen
        self._seen.add((name, is_delta))
        return not known

    def _store_if_full(self) -> None:
        if self._builder.is_full:
            self._store()

    def _store(self) -> None:
        sealed = self._builder.finish()
        self._vault.store.put(self._vault.pack_key(sealed.id), sealed.content, if_absent=True)
        self._packs.append((sealed.id, sealed.rows))
        self._stored += len(sealed.content)
