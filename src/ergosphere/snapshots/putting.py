"""Streams into a vault: read once, cut, named; what is new is packed, encrypted and stored. Behind the job's back only.

Every worker holds one read buffer and one pack, whatever the streams' size; a slow store slows the workers and nothing
else. Safe to repeat at any point: chunks that are there already cost nothing.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from ergosphere.snapshots.chunk_index import NOWHERE, Names, names_of, unique
from ergosphere.snapshots.chunking import cut
from ergosphere.snapshots.errors import Damaged, Stopped
from ergosphere.snapshots.packs import PACK_SIZE, PackBuilder, Rows
from ergosphere.snapshots.pages import region_starts
from ergosphere.snapshots.recipes import ZEROS, Recipe, StreamPart
from ergosphere.snapshots.vault import Vault
from ergosphere.snapshots.wrappers import stoppable

WINDOW: Final = 4 << 20  # bytes read at once; a multiple of a page
WORKERS_MAX: Final = 6  # 23 MB each


@dataclass(frozen=True, slots=True)
class Stream:
    """What is to be stored: a finished file that nobody changes any more, or bytes."""

    digest: str
    label: str
    source: Path | bytes

    @property
    def size(self) -> int:
        """Errors: Damaged (the file vanished)."""
        try:
            return self.source.stat().st_size if isinstance(self.source, Path) else len(self.source)
        except FileNotFoundError as error:
            raise Damaged(str(self.source), how="vanished before it reached the store") from error


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a transfer has come, in bytes: looked at, of all, and sent to the store."""

    done: int
    total: int
    stored: int


@dataclass(frozen=True, slots=True)
class Watch:
    """Who looks on: told of progress at most once a window, and able to call it off."""

    progress: Callable[[Progress], None] = lambda progress: None
    stop: threading.Event = field(default_factory=threading.Event)


NO_WATCH: Final = Watch()


@dataclass(frozen=True, slots=True)
class Tally:
    """What a put did. `stored`: bytes of new packs."""

    read: int
    stored: int
    chunks: int
    chunks_new: int


@dataclass(frozen=True, slots=True)
class _Window:
    """A piece of a stream, and the regions that begin in it."""

    stream: int
    start: int
    length: int
    regions: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Cooked:
    """A window's spans: `names` of its chunks in order; `is_zero`, `length` of all its spans."""

    names: bytes
    is_zero: NDArray[np.bool_]
    length: NDArray[np.uint32]


def put_streams(vault: Vault, name: tuple[str, int], streams: Sequence[Stream], watch: Watch) -> tuple[Recipe, Tally]:
    """Store what is new of `streams` and its index; the recipe (not yet stored) of cell `name` (freeze, index).

    Errors: StoreError, Damaged (a source vanished, or is not what its digest says), Stopped.
    """
    once = list({stream.digest: stream for stream in streams}.values())
    sizes = [stream.size for stream in once]
    put = _Put(vault, once, watch, sum(sizes))
    windows = list(_windows(once, sizes))
    cooked = put.run(windows)
    _check(name[0], once, put.digests.found())
    recipe = _recipe(name, once, sizes, windows, cooked)
    return recipe, Tally(sum(sizes), put.stored, len(recipe.names), put.chunks_new)


def _windows(streams: Sequence[Stream], sizes: Sequence[int]) -> Iterator[_Window]:
    for number, (stream, size) in enumerate(zip(streams, sizes, strict=True)):
        regions = region_starts(stream.source) if isinstance(stream.source, Path) else []
        for start in range(0, size, WINDOW):
            length = min(WINDOW, size - start)
            inside = regions[bisect_left(regions, start) : bisect_right(regions, start + length - 1)]
            yield _Window(number, start, length, tuple(region - start for region in inside))


def _check(freeze_id: str, streams: Sequence[Stream], found: Sequence[str]) -> None:
    """Chunks are named after what was read; the manifest's digest says what it ought to have been. Errors: Damaged."""
    for stream, digest in zip(streams, found, strict=True):
        if digest != stream.digest:
            which = stream.label if "/" in stream.label else f"{stream.label} {stream.digest[:12]}"
            raise Damaged(which, freeze_id, "changed after it was hashed, before it reached the store")


class _Digests:
    """The digest of each stream, from its windows in their order, whichever workers read them."""

    def __init__(self, streams: int) -> None:
        self._turn = threading.Condition()
        self._hashers = [blake3() for _ in range(streams)]
        self._done = [0] * streams  # bytes
        self._failed = False

    def add(self, window: _Window, content: memoryview) -> None:
        """Waits for the window before, which another worker has taken already and hashes before all else."""
        number = window.stream
        with self._turn:
            self._turn.wait_for(lambda: self._failed or self._done[number] == window.start)
        self._hashers[number].update(content)
        with self._turn:
            self._done[number] += len(content)
            self._turn.notify_all()

    def fail(self) -> None:
        """A worker has died, maybe with a window in its hands: nobody waits for that."""
        with self._turn:
            self._failed = True
            self._turn.notify_all()

    def found(self) -> list[str]:
        return [hasher.hexdigest() for hasher in self._hashers]


class _Put:
    """One run over many windows with a few workers."""

    def __init__(self, vault: Vault, streams: Sequence[Stream], watch: Watch, total: int) -> None:
        self._vault = vault
        self._index = vault.index
        self._streams = streams
        self._watch = watch
        self._total = total
        self._lock = threading.Lock()
        self._claimed: set[bytes] = set()
        self._done = 0
        self._files: dict[int, int] = {}
        self._packs: list[tuple[bytes, Rows]] = []
        self.digests = _Digests(len(streams))
        self.stored = 0
        self.chunks_new = 0

    def run(self, windows: Sequence[_Window]) -> list[_Cooked]:
        workers = max(1, min(WORKERS_MAX, (os.cpu_count() or 1) + 1, self._total // PACK_SIZE))
        results: list[_Cooked | None] = [None] * len(windows)
        numbers = iter(range(len(windows)))
        failed = threading.Event()

        def work() -> None:
            worker = _Worker(self)
            try:
                with stoppable(self._watch.stop):
                    while not failed.is_set():
                        with self._lock:
                            number = next(numbers, None)
                        if number is None:
                            break
                        results[number] = worker.cook(windows[number])
                    worker.flush()
            except BaseException:
                failed.set()
                self.digests.fail()
                raise

        try:
            with ThreadPoolExecutor(workers, thread_name_prefix="put") as pool:
                for future in [pool.submit(work) for _ in range(workers)]:
                    future.result()
        finally:
            for descriptor in self._files.values():
                os.close(descriptor)
            self._vault.publish(self._packs)
        return [cooked for cooked in results if cooked is not None]

    def read(self, window: _Window, buffer: memoryview) -> memoryview:
        stream = self._streams[window.stream]
        if isinstance(stream.source, bytes):
            return memoryview(stream.source)[window.start : window.start + window.length]
        descriptor = self._open(window.stream, stream.source)
        done = 0
        while done < window.length:
            count = os.preadv(descriptor, [buffer[done : window.length]], window.start + done)
            if count == 0:
                raise Damaged(str(stream.source), how="shrank before it reached the store")
            done += count
        return buffer[: window.length]

    def _open(self, number: int, path: Path) -> int:
        with self._lock:
            if number not in self._files:
                try:
                    self._files[number] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                except FileNotFoundError as error:
                    raise Damaged(str(path), how="vanished before it reached the store") from error
            return self._files[number]

    def claim(self, names: list[bytes], joined: bytes) -> list[int]:
        """Which of these chunks nobody has stored and nobody else is about to store."""
        rows = self._index.find(names_of(joined))
        absent = np.flatnonzero(rows == NOWHERE).tolist()
        mine = []
        with self._lock:
            for i in absent:
                if names[i] not in self._claimed:
                    self._claimed.add(names[i])
                    mine.append(i)
        return mine

    def store_pack(self, builder: PackBuilder) -> None:
        count = len(builder)
        sealed = builder.finish()
        self._vault.store.put(self._vault.pack_key(sealed.id), sealed.content, if_absent=True)
        with self._lock:
            self._packs.append((sealed.id, sealed.rows))
            self.stored += len(sealed.content)
            self.chunks_new += count

    def advance(self, length: int) -> None:
        with self._lock:
            self._done += length
            progress = Progress(self._done, self._total, self.stored)
        self._watch.progress(progress)
        if self._watch.stop.is_set():
            raise Stopped("the upload was called off", "it goes on where it stopped when it is asked for again")


class _Worker:
    """One thread's buffer and pack."""

    def __init__(self, put: _Put) -> None:
        self._put = put
        self._buffer = memoryview(bytearray(WINDOW))
        self._builder = PackBuilder(put._vault.sealer)
        self._naming = put._vault.naming

    def cook(self, window: _Window) -> _Cooked:
        content = self._put.read(window, self._buffer)
        self._put.digests.add(window, content)
        cuts = cut(content, window.regions)
        edges, naming = cuts.edges, self._naming
        pieces = [content[start:end] for start, end, zero in zip(edges, edges[1:], cuts.zero, strict=False) if not zero]
        names = [blake3(piece, key=naming).digest() for piece in pieces]
        joined = b"".join(names)
        for i in self._put.claim(names, joined):
            self._builder.add(names[i], pieces[i])
            if self._builder.is_full:
                self._put.store_pack(self._builder)
        self._put.advance(window.length)
        return _Cooked(joined, np.array(cuts.zero, bool), np.diff(np.array(edges)).astype(np.uint32))

    def flush(self) -> None:
        if not self._builder.is_empty:
            self._put.store_pack(self._builder)


def _recipe(
    name: tuple[str, int], streams: Sequence[Stream], sizes: Sequence[int], windows: Sequence[_Window],
    cooked: Sequence[_Cooked],
) -> Recipe:  # fmt: skip
    names, place = unique(names_of(b"".join(each.names for each in cooked)))
    is_zero = np.concatenate([np.zeros(0, bool), *(each.is_zero for each in cooked)])
    length = np.concatenate([np.zeros(0, np.uint32), *(each.length for each in cooked)])
    chunk = np.full(len(is_zero), ZEROS, np.uint32)
    chunk[~is_zero] = place
    counts = [0] * len(streams)
    for window, each in zip(windows, cooked, strict=True):
        counts[window.stream] += len(each.length)
    firsts = np.cumsum([0, *counts]).tolist()
    parts = tuple(
        StreamPart(stream.digest, stream.label, size, first, count)
        for stream, size, first, count in zip(streams, sizes, firsts, counts, strict=False)
    )
    return Recipe(name[0], name[1], parts, _contiguous(names), chunk, length)


def _contiguous(names: Names) -> Names:
    return np.ascontiguousarray(names, "<u8")
