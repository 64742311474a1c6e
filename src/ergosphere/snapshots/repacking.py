"""Chunks copied from packs to new packs, within a vault or from one to another; every one is verified on the way."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ergosphere.snapshots.chunk_index import NOWHERE, ChunkIndex, Names, names_of
from ergosphere.snapshots.errors import Damaged, NotFound
from ergosphere.snapshots.packs import ChunkReader, PackBuilder, Rows, name_of
from ergosphere.snapshots.vault import Vault


def copy_chunks(vault: Vault, index: ChunkIndex, rows: NDArray[np.int64]) -> int:
    """Store chunks at these rows of `index` again, in new packs of the same vault; bytes stored. What cannot be read
    is left out: whoever needs it sees that it is missing. Errors: StoreError.
    """
    writer = PackWriter(vault)
    for row in _in_order(index, rows):
        try:
            content = read_chunk(vault, index, int(row))
        except (Damaged, NotFound):
            continue
        writer.add(index.rows["name"][row].tobytes(), content)
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
        position = dict(zip(place.rows.tolist(), place.which.tolist(), strict=True))
        for row in _in_order(place.index, place.rows):
            content = read_chunk(source, place.index, int(row))
            name = name_of(content, target.naming)
            fresh[position[int(row)]] = name
            if target.index.find(names_of(name))[0] == NOWHERE:
                writer.add(name, content)
    return np.ascontiguousarray(names_of(b"".join(fresh))), writer.close()


def read_chunk(vault: Vault, index: ChunkIndex, row: int) -> bytes:
    """One chunk, verified. Errors: Damaged, NotFound, StoreError."""
    entry = index.rows[row]
    pack_id = index.packs[int(index.owner[row])]
    at, stored = int(entry["at"]), int(entry["stored"])
    held = vault.store.get_range(vault.pack_key(pack_id), at, stored)
    reader = ChunkReader(vault.sealer, vault.naming, pack_id)
    name = entry["name"].tobytes()
    return bytes(reader.read(name, at, int(entry["size"]), int(entry["kind"]), memoryview(held)))


class PackWriter:
    """Packs of a vault from chunks that come one by one."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._builder = PackBuilder(vault.sealer)
        self._packs: list[tuple[bytes, Rows]] = []
        self._seen: set[bytes] = set()
        self._stored = 0

    def add(self, name: bytes, content: bytes) -> None:
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


def _in_order(index: ChunkIndex, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    return rows[np.lexsort((index.rows["at"][rows], index.owner[rows]))]
