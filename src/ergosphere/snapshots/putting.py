"""Streams into a vault: read once, cut, named; what is new is packed, encrypted and stored. Behind the job's back only.

Few threads cut and name; others read windows for them and write packs after them. All hold a handful of windows and
packs, whatever the streams' size; a slow store slows them and nothing else. Safe to repeat at any point: chunks that
are there already cost nothing.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from ergosphere.snapshots.basing import Asker, Basing, Place
from ergosphere.snapshots.chunk_index import NOWHERE, Names, names_of, unique
from ergosphere.snapshots.chunking import cut
from ergosphere.snapshots.errors import Damaged, Stopped
from ergosphere.snapshots.packing import Packs
from ergosphere.snapshots.packs import PACK_SIZE, PackBuilder, Rows
from ergosphere.snapshots.pages import region_starts
from ergosphere.snapshots.pipeline import Ahead, Kept, buffers, computing
from ergosphere.snapshots.recipes import ZEROS, Recipe, StreamPart
from ergosphere.snapshots.sealing import Bytes
from ergosphere.snapshots.vault import Vault
from ergosphere.snapshots.wrappers import stoppable

WINDOW: Final = 4 << 20  # bytes read at once; a multiple of a page
WRITES: Final = 2  # packs on their way to the store beside one for each thread that fills them; 18 MB each


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


@dataclass(frozen=True, slots=True, eq=False)
class Cooked:
    """A window's spans: `names` of its chunks in order; `is_zero`, `length` of all its spans."""

    names: bytes
    is_zero: NDArray[np.bool_]
    length: NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Watch:
    """Who looks on: told of progress at most once a window, and able to call it off.

    `cooked` is told of each window (digest of its stream, offset, spans); its chunks are in the store a pack later.
    `waits`: somebody waits for the end, so that no time goes into deltas.
    """

    progress: Callable[[Progress], None] = lambda progress: None
    stop: threading.Event = field(default_factory=threading.Event)
    cooked: Callable[[str, int, Cooked], None] = lambda digest, start, cooked: None
    waits: bool = False


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
class _Read:
    """The content of window `number`, which lies in `buffer` unless its stream is in memory anyway."""

    number: int
    window: _Window
    buffer: memoryview
    content: memoryview


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
    """One run over many windows: what its threads share."""

    def __init__(self, vault: Vault, streams: Sequence[Stream], watch: Watch, total: int) -> None:
        self._vault = vault
        self._index = vault.index
        self._streams = streams
        self._watch = watch
        self._total = total
        self._lock = threading.Lock()
        self._failed = threading.Event()
        self._claimed: set[bytes] = set()
        self._done = 0
        self._files: dict[int, int] = {}
        self._packs: list[tuple[bytes, Rows]] = []
        self.digests = _Digests(len(streams))
        self.basing = None if watch.waits else Basing(vault, self._read_place)
        self.stored = 0
        self.chunks_new = 0

    def run(self, windows: Sequence[_Window]) -> list[Cooked]:
        try:
            return self._run(windows, max(1, min(computing(), self._total // PACK_SIZE)))
        finally:
            for descriptor in self._files.values():
                os.close(descriptor)
            self._vault.publish(self._packs)

    def _run(self, windows: Sequence[_Window], cooks: int) -> list[Cooked]:
        cooked: list[Cooked | None] = [None] * len(windows)
        room = buffers(2 * cooks + 1, WINDOW)
        with (
            ThreadPoolExecutor(cooks, thread_name_prefix="put-read") as readers,
            ThreadPoolExecutor(cooks + WRITES, thread_name_prefix="put-write") as writers,
            ThreadPoolExecutor(cooks, thread_name_prefix="put-cook") as pool,
        ):
            reads = (partial(self._read, number, window, room) for number, window in enumerate(windows))
            ahead = Ahead(readers, reads, cooks + 1)
            builders = Kept(cooks + WRITES, lambda: PackBuilder(self._vault.sealer))
            packs = Packs(self._store_pack, writers, builders)
            try:
                for future in [pool.submit(self._cook, ahead, room, packs, cooked) for _ in range(cooks)]:
                    future.result()
                packs.finish()
            finally:
                self._fail()
                ahead.drop()
        return [each for each in cooked if each is not None]

    def _cook(self, ahead: Ahead[_Read], room: Kept[memoryview], packs: Packs, cooked: list[Cooked | None]) -> None:
        """One thread: cuts and names what was read, and fills packs."""
        cook = _Cook(self, self._vault.naming, packs)
        try:
            while not self._failed.is_set() and (taken := ahead.take()) is not None:
                read = taken.result()
                cooked[read.number] = done = cook.cook(read)
                room.give_back(read.buffer)
                self._advance(read.window, done)
            if not self._failed.is_set():
                cook.flush()
        except BaseException:
            self._fail()
            raise

    def _fail(self) -> None:
        """Nobody begins anything any more, or waits for somebody who has not begun."""
        self._failed.set()
        self.digests.fail()

    def _read(self, number: int, window: _Window, room: Kept[memoryview]) -> _Read:
        buffer = room.take()
        try:
            content = self._content(window, buffer)
            self.digests.add(window, content)
        except BaseException:
            self.digests.fail()
            raise
        return _Read(number, window, buffer, content)

    def _read_place(self, place: Place) -> Bytes:
        """A piece of a stream once more. Errors: Damaged (it shrank or vanished)."""
        return self._content(_Window(*place, ()), memoryview(bytearray(place[2])))

    def _content(self, window: _Window, buffer: memoryview) -> memoryview:
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

    def _store_pack(self, builder: PackBuilder) -> None:
        count = len(builder)
        sealed = builder.finish()
        if self._failed.is_set():  # what failed is told by whoever failed
            return
        try:
            with stoppable(self._watch.stop):
                self._vault.store.put(self._vault.pack_key(sealed.id), sealed.content, if_absent=True)
        except BaseException:
            self._fail()
            raise
        with self._lock:
            self._packs.append((sealed.id, sealed.rows))
            self.stored += len(sealed.content)
            self.chunks_new += count

    def _advance(self, window: _Window, cooked: Cooked) -> None:
        with self._lock:
            self._done += window.length
            progress = Progress(self._done, self._total, self.stored)
        self._watch.progress(progress)
        self._watch.cooked(self._streams[window.stream].digest, window.start, cooked)
        if self._watch.stop.is_set():
            raise Stopped("the upload was called off", "it goes on where it stopped when it is asked for again")


class _Cook:
    """One thread's names, and the pack that it fills."""

    def __init__(self, put: _Put, naming: bytes, packs: Packs) -> None:
        self._put = put
        self._naming = naming
        self._packs = packs
        self._builder: PackBuilder | None = None
        self._asker = Asker(put.basing) if put.basing is not None else None

    def cook(self, read: _Read) -> Cooked:
        content, naming, window = read.content, self._naming, read.window
        cuts = cut(content, window.regions)
        edges = cuts.edges
        pieces = [content[start:end] for start, end, zero in zip(edges, edges[1:], cuts.zero, strict=False) if not zero]
        names = [blake3(piece, key=naming).digest() for piece in pieces]
        joined = b"".join(names)
        starts = [start for start, zero in zip(edges, cuts.zero, strict=False) if not zero]
        for i in self._put.claim(names, joined):
            self._add(names[i], pieces[i], (window.stream, window.start + starts[i], len(pieces[i])))
        return Cooked(joined, np.array(cuts.zero, bool), np.diff(np.array(edges)).astype(np.uint32))

    def _add(self, name: bytes, piece: memoryview, place: Place) -> None:
        if self._builder is None:
            self._builder = self._packs.take()
        if self._asker is None:
            self._builder.add(name, piece)
        else:
            kind = self._builder.add(name, piece, self._asker.base_of)
            self._asker.added(kind, name, place)
        if self._builder.is_full:
            self.flush()

    def flush(self) -> None:
        if self._builder is not None:
            self._packs.send(self._builder)
            self._builder = None


def _recipe(
    name: tuple[str, int], streams: Sequence[Stream], sizes: Sequence[int], windows: Sequence[_Window],
    cooked: Sequence[Cooked],
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
