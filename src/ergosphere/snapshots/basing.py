"""Bases for new chunks while a put runs: chosen by likeness, read where they lie, compared with their names."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import numpy as np

from ergosphere.snapshots.bases import read_rows
from ergosphere.snapshots.chunk_index import NOWHERE, names_of
from ergosphere.snapshots.errors import Damaged
from ergosphere.snapshots.likeness import CHUNKS_MAX, Features, features
from ergosphere.snapshots.packs import DELTA, ZSTD, Base, name_of
from ergosphere.snapshots.sealing import Bytes
from ergosphere.snapshots.vault import Vault

TRIED_MAX: Final = 4  # of the chunks that are most like a new one: the first that can be had is its base

Place = tuple[int, int, int]  # stream, offset, bytes
ReadPlace = Callable[[Place], Bytes]


class Basing:
    """What one put may rely on: whole chunks that the index has, and those that this put stores itself."""

    def __init__(self, vault: Vault, read: ReadPlace) -> None:
        """`read`: bytes of a stream of this put."""
        self._vault = vault
        self._index = vault.index
        self._read = read
        self._lock = threading.Lock()
        self._mine: OrderedDict[bytes, Place] = OrderedDict()

    def base_of(self, found: Features) -> Base | None:
        """A base for a chunk with these features. Errors: StoreError."""
        for name in self._vault.likeness.nearest(found)[:TRIED_MAX]:
            content = self._content(name)
            if content is not None:
                return Base(name, content)
        return None

    def keep(self, found: Features, name: bytes, place: Place, tried: Base | None) -> None:
        """From here on a chunk that this put stores whole may be a base. `tried`: one that it was no delta of."""
        with self._lock:
            self._mine[name] = place
            if len(self._mine) > CHUNKS_MAX:
                self._mine.popitem(last=False)
        self._vault.likeness.add(found, name, tried.name if tried else None)

    def _content(self, name: bytes) -> Bytes | None:
        with self._lock:
            place = self._mine.get(name)
        if place is not None:
            content = self._read(place)
            return content if name_of(content, self._vault.naming) == name else None
        rows = self._index.find(names_of(name))
        if rows[0] == NOWHERE or self._index.rows["kind"][rows[0]] == DELTA:
            return None
        held = read_rows(self._vault, self._index, rows)[int(rows[0])]
        return None if isinstance(held, Damaged) else held


class Asker:
    """One worker's question for the base of a chunk, and the features it found on the way."""

    def __init__(self, basing: Basing) -> None:
        self._basing = basing
        self._found: Features = np.zeros(0, np.uint64)
        self._base: Base | None = None

    def base_of(self, content: memoryview) -> Base | None:
        self._found = features(content)
        self._base = self._basing.base_of(self._found)
        return self._base

    def added(self, kind: int, name: bytes, place: Place) -> None:
        """The chunk that was asked for last is stored, as this kind."""
        if kind == ZSTD and len(self._found):
            self._basing.keep(self._found, name, place, self._base)
