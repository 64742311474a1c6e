"""What an upload under way says of itself, so that whoever waits for it may fetch what is there: its trail.

Each part of a trail is a recipe of windows: a "stream" of it is one window, named by the digest of the stream that it
is of, its label the offset there. The chunks may come to the store a moment later than the part. Parts are hints: no
snapshot is ever made of them, losing one costs time, and they go when the upload has ended or with a sweep.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Final

import numpy as np

from ergosphere.snapshots.chunk_index import names_of, unique
from ergosphere.snapshots.errors import StoreError
from ergosphere.snapshots.putting import Cooked
from ergosphere.snapshots.recipes import ZEROS, Recipe, StreamPart, decode, recipe_name
from ergosphere.snapshots.vault import Vault
from ergosphere.system import fresh_bytes

PART_BYTES: Final = 32 << 20  # of streams that one part tells of: what is left to fetch at the end is no more
NAME_SIZE: Final = 8  # bytes

Window = tuple[str, int, Cooked]


class Trail:
    """The trail of one cell's upload. Any thread may add to it."""

    def __init__(self, vault: Vault, freeze: str, cell: int) -> None:
        self._vault = vault
        self._freeze, self._cell = freeze, cell
        self._lock = threading.Lock()
        self._windows: list[Window] = []
        self._bytes = 0

    def add(self, digest: str, start: int, cooked: Cooked) -> None:
        """A window is on its way to the store."""
        with self._lock:
            self._windows.append((digest, start, cooked))
            self._bytes += int(cooked.length.sum())
            if self._bytes < PART_BYTES:
                return
            windows, self._windows, self._bytes = self._windows, [], 0
        key = self._vault.trail_key(f"{recipe_name(self._freeze, self._cell)}/{fresh_bytes(NAME_SIZE).hex()}")
        with suppress(StoreError):  # the upload itself will say what is wrong
            content = recipe_of(self._freeze, self._cell, windows).encode()
            self._vault.store.put(key, self._vault.sealer.seal(content, key))

    def remove(self) -> None:
        """The upload has ended: what it said is of no use any more, nor what was said by one before it that died."""
        with suppress(StoreError):
            for stored in self._vault.list_trails(f"{recipe_name(self._freeze, self._cell)}/"):
                self._vault.store.delete(stored.key)


def recipe_of(freeze: str, cell: int, windows: list[Window]) -> Recipe:
    """Windows as the streams of a recipe."""
    names, place = unique(names_of(b"".join(cooked.names for _, _, cooked in windows)))
    is_zero = np.concatenate([cooked.is_zero for _, _, cooked in windows])
    length = np.concatenate([cooked.length for _, _, cooked in windows])
    chunk = np.full(len(is_zero), ZEROS, np.uint32)
    chunk[~is_zero] = place
    streams, first = [], 0
    for digest, start, cooked in windows:
        spans = len(cooked.length)
        streams.append(StreamPart(digest, str(start), int(cooked.length.sum()), first, spans))
        first += spans
    return Recipe(freeze, cell, tuple(streams), np.ascontiguousarray(names, "<u8"), chunk, length)


def read_part(vault: Vault, key: str) -> Recipe:
    """Errors: NotFound, Forged, Damaged, TooNew, StoreError."""
    which = f"the trail {key.rpartition('/')[2]}"
    return decode(vault.sealer.unseal(vault.store.get(key), key, which), which)
