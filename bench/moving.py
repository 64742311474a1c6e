"""A move between nodes that have only the store in common: the way there and back, one after the other and at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, TypeVar

from bench.report import Row, row
from bench.vaults import DISK, RING, get, image, streams
from ergosphere.snapshots.arrival import Arrival
from ergosphere.snapshots.blobs import blob_key
from ergosphere.snapshots.putting import NO_WATCH, Stream, Watch
from ergosphere.snapshots.remote import CellSources, put_cell
from ergosphere.snapshots.store import FolderStore, Store
from ergosphere.snapshots.trail import Trail
from ergosphere.snapshots.vault import open_vault
from ergosphere.snapshots.wrappers import Around, Call, Limit, Limited
from ergosphere.system import SystemClock

LINK_BYTES_PER_S: Final = 50e6  # of each node to the store, each way: a gigabit
LOOK_S: Final = 0.25
T = TypeVar("T")


class Linked(Around):
    """A store at the end of a link: what is read comes no faster than that."""

    def __init__(self, inner: Store, limit: Limit) -> None:
        super().__init__(inner)
        self._limit = limit

    def _do(self, call: Call, act: Callable[[], T]) -> T:
        found = act()
        if isinstance(found, bytes | memoryview):
            time.sleep(max(0.0, self._limit.wait_s(len(found), time.monotonic())))
        return found


def measure(quick: bool) -> list[Row]:
    """A rank of 1 GB, moved as before (the thaw begins once the snapshot is remote) and followed on its way."""
    size_gb = 0.25 if quick else 1.0
    before: list[float] = []
    after: list[float] = []
    with TemporaryDirectory(dir=DISK) as kept:
        for run in range(2 if quick else 3):
            folder = Path(kept) / str(run)
            folder.mkdir()
            sources = streams(image(folder / "images", size_gb, run))
            before.append(one_after_the_other(folder, sources))
            after.append(at_once(folder, sources))
    print(f"  a move through the store: {before} s one after the other, {after} s at once", flush=True)
    ratios = [late / early for late, early in zip(after, before, strict=True)]
    against = f"upload, then fetch; {size_gb:g} GB over {LINK_BYTES_PER_S / 1e6:.0f} MB/s each way"
    return [row("store/move/followed_over_waited", ratios, "×", goal=0.6, bar=0.75, against=against)]


def one_after_the_other(folder: Path, sources: list[Stream]) -> float:
    bare = FolderStore.create(folder / "waited")
    began_s = time.perf_counter()
    send(bare, sources, NO_WATCH)
    get(far(bare), "f", folder / "got")
    return time.perf_counter() - began_s


def at_once(folder: Path, sources: list[Stream]) -> float:
    bare = FolderStore.create(folder / "followed")
    trail = Trail(open_vault(bare, "bench", RING), "f", 0)
    began_s = time.perf_counter()
    thread = threading.Thread(target=send, args=(bare, sources, Watch(cooked=trail.add)))
    thread.start()
    wanted = {stream.digest for stream in sources}
    arrival = Arrival(open_vault(far(bare), "bench", RING), "f", 0, folder / "arrival", wanted)
    while thread.is_alive():
        if not arrival.advance():
            thread.join(LOOK_S)
    arrival.finish()
    for stream in sources:
        assert arrival.store.has(blob_key(stream.digest)) or stream.size < 1 << 20
    return time.perf_counter() - began_s


def send(bare: Store, sources: list[Stream], watch: Watch) -> None:
    store = Limited(bare, Limit(LINK_BYTES_PER_S), SystemClock())
    put_cell(open_vault(store, "bench", RING), ("f", 0), CellSources(tuple(sources), (), ()), watch)


def far(bare: Store) -> Store:
    return Linked(bare, Limit(LINK_BYTES_PER_S))
