"""From a URL to a store with everything around it that it needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ergosphere.snapshots.caching import CACHE_BYTES, Cached
from ergosphere.snapshots.errors import StoreError
from ergosphere.snapshots.memory_store import MemoryStore
from ergosphere.snapshots.object_store import SCHEMES, ObjectStore
from ergosphere.snapshots.store import FolderStore, Store
from ergosphere.snapshots.wrappers import Limit, Limited, Metered, Retrying
from ergosphere.system import Clock, SystemClock, object_store_settings

URLS: Final = "give an absolute path, file:///path, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"
_memories: dict[str, MemoryStore] = {}


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How a store is used from here. `cache`: a local folder for packs; None for none."""

    cache: Path | None = None
    cache_bytes: int = CACHE_BYTES
    limit: Limit = field(default_factory=Limit)
    clock: Clock = field(default_factory=SystemClock)


@dataclass(frozen=True, slots=True)
class Opened:
    """A store ready for use, and what its meter says. `meter.figures()` and `limit.bytes_per_s` are live."""

    store: Store
    meter: Metered
    limit: Limit


def open_store(url: str, options: StoreOptions | None = None) -> Store:
    """The store at a URL or an absolute path. Errors: StoreError for one no store answers to."""
    return open_metered(url, options).store


def open_metered(url: str, options: StoreOptions | None = None) -> Opened:
    """The store, retried where it is far away, limited, metered, with a cache before it if one is named.

    Errors: StoreError.
    """
    chosen = options or StoreOptions()
    meter = Metered(_bare(url, chosen.clock), chosen.clock)
    store: Store = Limited(meter, chosen.limit, chosen.clock)
    if is_object_store(url):  # a folder answers at once or, on NFS, has retried in the kernel
        store = Retrying(store, chosen.clock)
    if chosen.cache is not None:
        store = Cached(store, chosen.cache, chosen.cache_bytes)
    return Opened(store, meter, chosen.limit)


def is_object_store(url: str) -> bool:
    """Whether a URL names a bucket, which others can always see."""
    return url.partition("://")[0] in SCHEMES


def create_store(url: str) -> None:
    """Make a folder a store; buckets are made by their owners. Errors: StoreError."""
    path = url.removeprefix("file://")
    if path.startswith("/"):
        FolderStore.create(Path(path))


def _bare(url: str, clock: Clock) -> Store:
    scheme, separator, rest = url.partition("://")
    if separator and scheme in SCHEMES:
        return ObjectStore(url, object_store_settings(), clock)
    if scheme == "memory" and separator:
        return _memories.setdefault(rest, MemoryStore(clock))
    path = url.removeprefix("file://")
    if not path.startswith("/"):
        raise StoreError(f"{url!r} names no store", URLS)
    return FolderStore(Path(path))
