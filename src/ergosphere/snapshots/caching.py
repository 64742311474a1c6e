"""A store with a local folder before it that keeps packs: immutable, and verified by whoever reads them.

The folder is a copy and nothing else; it may be removed at any time.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from ergosphere.snapshots.errors import NotFound, StoreError
from ergosphere.snapshots.store import FolderStore, Source, Store
from ergosphere.snapshots.wrappers import Around, size_of

CACHE_BYTES: Final = 20 << 30
EVICT_TO: Final = 0.8  # of the limit, so that not every pack evicts another


class Cached(Around):
    """Reads of packs fetch the whole pack once. `hits` counts reads that needed no fetch."""

    def __init__(self, inner: Store, folder: Path, bytes_max: int = CACHE_BYTES) -> None:
        super().__init__(inner)
        self._cache = FolderStore.create(folder, durable=False)
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._busy: dict[str, threading.Lock] = {}
        self._sizes = {stored.key: stored.size for stored in self._cache.list()}
        self.hits = 0

    def get_range(self, key: str, start: int, size: int) -> bytes:
        if not is_pack(key):
            return super().get_range(key, start, size)
        try:
            self._ensure(key)
            return self._cache.get_range(key, start, size)
        except NotFound:  # evicted again already
            return super().get_range(key, start, size)

    def delete(self, key: str, *, written_before_s: float | None = None) -> bool:
        self.forget(key)
        return super().delete(key, written_before_s=written_before_s)

    def put(self, key: str, source: Source, *, if_absent: bool = False, share: bool = False) -> bool:
        done = super().put(key, source, if_absent=if_absent, share=share)
        if done and is_pack(key):
            self._keep(key, source)
        return done

    def forget(self, key: str) -> bool:
        with self._lock:
            known = self._sizes.pop(key, None) is not None
        if known:
            self._cache.delete(key)
        return known

    def _ensure(self, key: str) -> None:
        with self._lock:
            if key in self._sizes:
                self.hits += 1
                return
            busy = self._busy.setdefault(key, threading.Lock())
        with busy:
            if key not in self._sizes:
                self._keep(key, self.inner.get(key))
        with self._lock:
            self._busy.pop(key, None)

    def _keep(self, key: str, source: Source) -> None:
        """A cache that is full or broken costs time, nothing else."""
        with suppress(StoreError):
            self._cache.put(key, source)
            with self._lock:
                self._sizes[key] = size_of(source)
                self._evict()

    def _evict(self) -> None:
        """The packs that came first go first."""
        total = sum(self._sizes.values())
        if total <= self._bytes_max:
            return
        for key in list(self._sizes):
            total -= self._sizes.pop(key)
            self._cache.delete(key)
            if total <= EVICT_TO * self._bytes_max:
                return


def is_pack(key: str) -> bool:
    """Whether a key names a pack of a vault."""
    return key.startswith("vaults/") and "/packs/" in key
