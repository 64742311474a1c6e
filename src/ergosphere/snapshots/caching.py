"""A store with a local folder before it that keeps packs: immutable, and verified by whoever reads them.

The folder is a copy and nothing else; it may be removed at any time, and whatever fails in it only costs time.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from ergosphere.snapshots.errors import StoreError
from ergosphere.snapshots.sealing import Bytes
from ergosphere.snapshots.store import FolderStore, Source, Store
from ergosphere.snapshots.wrappers import Around, size_of

CACHE_BYTES: Final = 20 << 30
FREE_SHARE: Final = 0.5  # of what its disk would have free without it
EVICT_TO: Final = 0.8  # of the limit, so that not every pack evicts another
WHOLE_FROM: Final = 512 << 10  # bytes asked for of one pack, from which on it is fetched whole: its table is less
NEVER: Final = -(1 << 60)  # bytes asked for, of a pack that does not fit: it is not fetched whole again


class Cached(Around):
    """Reads of much of a pack fetch the whole pack once. `hits` counts reads that needed no fetch.

    It takes no more than `bytes_max`, and leaves half of what would be `free` (bytes) on its disk without it.
    """

    def __init__(
        self, inner: Store, folder: Path, bytes_max: int = CACHE_BYTES, free: Callable[[], int] | None = None
    ) -> None:
        super().__init__(inner)
        self._folder = folder
        self._cache = FolderStore(folder, durable=False)
        self._bytes_max = bytes_max
        self._free = free or (lambda: shutil.disk_usage(folder).free)
        self._lock = threading.Lock()
        self._busy: dict[str, threading.Lock] = {}
        self._sizes: dict[str, int] = {}
        self._asked: dict[str, int] = {}  # bytes of packs that are not here
        self._begin()
        self.hits = 0

    def get_range(self, key: str, start: int, size: int, room: memoryview | None = None) -> Bytes:
        held = self._held(key, start, size, room) if is_pack(key) else None
        return super().get_range(key, start, size, room) if held is None else held

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
            self._drop(key)
        return known

    def holds(self, key: str) -> bool:
        with self._lock:
            return key in self._sizes

    def _begin(self) -> None:
        """Make the folder where it is not there; know what is in it."""
        with self._lock, suppress(StoreError, OSError):
            self._sizes = {}
            FolderStore.create(self._folder, durable=False)
            self._sizes = {stored.key: stored.size for stored in self._cache.list()}

    def _held(self, key: str, start: int, size: int, room: memoryview | None) -> Bytes | None:
        """What is asked of a pack that is here, or is fetched now as so much of it is wanted. Errors: as get."""
        with self._lock:
            here = key in self._sizes
            self.hits += here
        if here:
            return self._read(key, start, size, room)
        busy = self._wanted(key, size)
        if busy is None:
            return None
        try:
            with busy:
                return self._read(key, start, size, room) if key in self._sizes else self._fetch(key, start, size)
        finally:
            with self._lock:
                self._busy.pop(key, None)

    def _wanted(self, key: str, size: int) -> threading.Lock | None:
        """What whoever fetches the whole pack holds; None while too little of it was asked for."""
        with self._lock:
            self._asked[key] = self._asked.get(key, 0) + size
            return self._busy.setdefault(key, threading.Lock()) if self._asked[key] >= WHOLE_FROM else None

    def _read(self, key: str, start: int, size: int, room: memoryview | None) -> Bytes | None:
        try:
            return self._cache.get_range(key, start, size, room)
        except StoreError:  # evicted again already, or the folder is gone
            self._begin()
            return None

    def _fetch(self, key: str, start: int, size: int) -> bytes:
        content = self.inner.get(key)
        if not self._keep(key, content):
            with self._lock:
                self._asked[key] = NEVER
        return content[start : start + size]

    def _keep(self, key: str, source: Source) -> bool:
        with suppress(StoreError, OSError):
            if self._make_room(size_of(source)):
                self._cache.put(key, source)
                with self._lock:
                    self._sizes[key] = size_of(source)
                    self._asked.pop(key, None)
                return True
        return False

    def _make_room(self, size: int) -> bool:
        """Let go the packs that came first; whether there is room then. Errors: OSError."""
        free = self._free()
        with self._lock:
            held = sum(self._sizes.values())
            limit = min(self._bytes_max, int(FREE_SHARE * (held + free)))
            if size > limit:
                return False
            if held + size > limit:
                for key in list(self._sizes):
                    held -= self._sizes.pop(key)
                    self._drop(key)
                    if held + size <= EVICT_TO * limit:
                        break
            return held + size <= limit

    def _drop(self, key: str) -> None:
        with suppress(StoreError):
            self._cache.delete(key)


def is_near(store: Store, key: str) -> bool:
    """Whether a key is read from a folder of this node: out of a cache, or of a store that needs none."""
    while isinstance(store, Around):
        if isinstance(store, Cached):
            return store.holds(key)
        store = store.inner
    return isinstance(store, FolderStore)


def is_pack(key: str) -> bool:
    """Whether a key names a pack of a vault."""
    return key.startswith("vaults/") and "/packs/" in key
