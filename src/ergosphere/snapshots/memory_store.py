"""A store in this process's memory: real, complete, and gone with the process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

from ergosphere.snapshots.errors import NotFound
from ergosphere.snapshots.sealing import Bytes
from ergosphere.snapshots.store import Source, Stored, check_key, check_prefix
from ergosphere.system import Clock, SystemClock


class MemoryStore:
    """Passes the same conformance suite as every other store."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._objects: dict[str, tuple[bytes, float]] = {}
        self._lock = threading.Lock()

    def put(self, key: str, source: Source, *, if_absent: bool = False, share: bool = False) -> bool:
        check_key(key)
        content = source.read_bytes() if isinstance(source, Path) else bytes(source)
        if if_absent and self.has(key):
            return False
        with self._lock:
            if if_absent and key in self._objects:
                return False
            self._objects[key] = (content, self._clock.now())
            return True

    def get(self, key: str) -> bytes:
        with self._lock:
            try:
                return self._objects[check_key(key)][0]
            except KeyError:
                raise NotFound(key) from None

    def get_range(self, key: str, start: int, size: int, room: memoryview | None = None) -> Bytes:
        return self.get(key)[start : start + size]

    def fetch(self, key: str, dest: Path, *, share: bool = False) -> None:
        content = self.get(key)
        with dest.open("xb") as file:
            dest.chmod(0o600)
            file.write(content)

    def has(self, key: str) -> bool:
        check_key(key)
        with self._lock:
            if key not in self._objects:
                return False
            self._objects[key] = (self._objects[key][0], self._clock.now())
            return True

    def list(self, prefix: str = "") -> Iterator[Stored]:
        check_prefix(prefix)
        with self._lock:
            found = [Stored(key, len(content), at) for key, (content, at) in self._objects.items()]
        return iter(sorted((stored for stored in found if stored.key.startswith(prefix)), key=lambda s: s.key))

    def delete(self, key: str, *, written_before_s: float | None = None) -> bool:
        check_key(key)
        with self._lock:
            found = self._objects.get(key)
            if found is None or (written_before_s is not None and found[1] >= written_before_s):
                return False
            del self._objects[key]
            return True

    def forget(self, key: str) -> bool:
        return False
