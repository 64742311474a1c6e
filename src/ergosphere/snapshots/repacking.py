"""Chunks copied from packs to new packs, within a vault or from one to another; every one is verified on the way."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ergosphere.snapshots.chunk_index import NOWHERE, ChunkIndex, Names, names_of
from ergosphere.snapshots.errors import Damaged, NotFound
from ergosphere.snapshots.packs import ChunkReader, PackBuilder, Rows, name_of
from ergosphere.snapshots.runs import Piece, Run, runs_in
from ergosphere.snapshots.sealing import Bytes
from ergosphere.snapshots.vault import Vault


def copy_chunks(vault: Vault, index: ChunkIndex, rows: NDArray[np.int64]) -> int:
    """Store chunks at these rows of `index` again, in new packs of the same vault; bytes stored. What cannot be read
    is left out: whoever needs it sees that it is missing. Errors: StoreError.
    """
    writer = PackWriter(vault)
    for run in runs_in(index, rows, np.arange(len(rows))):
        for piece, content in _contents(vault, run):
            if not isinstance(content, Damaged):
                writer.add(piece.name, content)
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
        for run in runs_in(place.index, place.rows, place.which):
            for piece, content in _contents(source, run):
                if isinstance(content, Damaged):
                    raise content
                name = name_of(content, target.naming)
                fresh[piece.chunk] = name
                if target.index.find(names_of(name))[0] == NOWHERE:
                    writer.add(name, content)
    return np.ascontiguousarray(names_of(b"".join(fresh))), writer.close()


def _contents(vault: Vault, run: Run) -> Iterator[tuple[Piece, Bytes | Damaged]]:
    """Each chunk of a run, verified, or what is wrong with it. Errors: StoreError."""
    key = vault.pack_key(run.pack_id)
    reader = ChunkReader(vault.sealer, vault.naming, run.pack_id)
    try:
        held = memoryview(vault.store.get_range(key, run.start, run.size))
    except NotFound:
        yield from ((piece, Damaged("a chunk's pack", how="is missing")) for piece in run.pieces())
        return
    for piece in run.pieces():
        try:
            yield piece, _read(reader, piece, held[piece.held])
        except Damaged:
            yield piece, _read_again(vault, key, reader, piece)


def _read_again(vault: Vault, key: str, reader: ChunkReader, piece: Piece) -> Bytes | Damaged:
    """One bad read is read once more, by itself; a copy that lies nearer than the store is not trusted twice."""
    vault.store.forget(key)
    try:
        size = piece.held.stop - piece.held.start
        return _read(reader, piece, memoryview(vault.store.get_range(key, piece.at, size)))
    except NotFound:
        return Damaged("a chunk's pack", how="is missing")
    except Damaged as error:
        return error


def _read(reader: ChunkReader, piece: Piece, held: memoryview) -> Bytes:
    return reader.read(piece.name, piece.at, piece.size, piece.kind, held)


class PackWriter:
    """Packs of a vault from chunks that come one by one."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._builder = PackBuilder(vault.sealer)
        self._packs: list[tuple[bytes, Rows]] = []
        self._seen: set[bytes] = set()
        self._stored = 0

    def add(self, name: bytes, content: Bytes) -> None:
        if name in self._seen:
            return
        self._seen.add(name)
        self._builder.add(name, memoryview(content))
        if self._builder.is_full:
            self._store()

    def close(self) -> int:
        """Store the last pack and the index; bytes stored in all."""
        if not self._builder.is_empty:
            self._store()
        self._vault.publish(self._packs)
        return self._stored

    def _store(self) -> None:
        sealed = self._builder.finish()
        self._vault.store.put(self._vault.pack_key(sealed.id), sealed.content, if_absent=True)
        self._packs.append((sealed.id, sealed.rows))
        self._stored += len(sealed.content)
