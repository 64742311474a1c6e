"""Streams out of a vault, into files or memory. Every chunk is verified before a byte of it is written anywhere.

Chunks are read in the order they lie in their packs, neighbours in one request. While some threads open what was read
and write it, others read what comes next.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ergosphere.snapshots.bases import with_bases
from ergosphere.snapshots.copying import PRIVATE_MODE
from ergosphere.snapshots.errors import Damaged, NotFound
from ergosphere.snapshots.packs import ChunkReader
from ergosphere.snapshots.pipeline import Ahead, Kept, buffers, computing
from ergosphere.snapshots.recipes import ZEROS, Recipe, StreamPart
from ergosphere.snapshots.runs import RUN_SIZE, Run, runs_in
from ergosphere.snapshots.sealing import Bytes
from ergosphere.snapshots.vault import Vault

AHEAD: Final = 2  # reads under way beside those that are being opened, 8 MB each
BATCH_SIZE: Final = 1 << 20  # bytes opened before they are written: they are still in the cache of the core then
PIECES_MAX: Final = 1024  # of one system call, as Linux has it

_Write = tuple[int, int, memoryview]  # target, offset, content


@dataclass(frozen=True, slots=True, eq=False)
class _Places:
    """Where each chunk must go: target number and offset, sorted by chunk; [first[c], first[c+1]) are those of c."""

    target: list[int]
    offset: list[int]
    first: list[int]


def fetch_streams(vault: Vault, recipe: Recipe, dests: Mapping[str, Path]) -> int:
    """Write streams (digest → absent file); bytes read from the store. On failure none of the files is left.

    Errors: Damaged (naming the snapshot), StoreError, OSError.
    """
    streams = [stream for stream in recipe.streams if stream.digest in dests]
    files: list[int] = []
    made: list[Path] = []
    try:
        for stream in streams:
            dest = dests[stream.digest]
            files.append(os.open(dest, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_MODE))
            made.append(dest)
            os.ftruncate(files[-1], stream.size)
        return fill(vault, recipe, streams, FileTargets([(file, 0) for file in files]))
    except BaseException:
        for path in made:
            path.unlink(missing_ok=True)
        raise
    finally:
        for descriptor in files:
            os.close(descriptor)


def read_stream(vault: Vault, recipe: Recipe, stream: StreamPart) -> bytes:
    """One stream in memory. Errors: Damaged (naming the snapshot), StoreError."""
    content = bytearray(stream.size)
    fill_memory(vault, recipe, stream, memoryview(content), buffers(1, RUN_SIZE))
    return bytes(content)


def fill_memory(vault: Vault, recipe: Recipe, stream: StreamPart, content: memoryview, room: Kept[memoryview]) -> None:
    """Open the chunks of a stream in their places in `content`, zeros left out, by this thread alone.

    `room`: memory for RUN_SIZE bytes. Errors: Damaged (naming the snapshot), StoreError; `content` is then of no use.
    """
    wanted, places = _places(recipe, [stream])
    fetch = _Fetch(vault, recipe.freeze, places, room)
    for run in _runs(vault, recipe, wanted):
        fetch.work_alone(run, _InPlace(content))


class FileTargets:
    """Open files, each with the offset at which its stream begins."""

    def __init__(self, files: Sequence[tuple[int, int]]) -> None:
        self._files = files

    def write(self, target: int, offset: int, content: Sequence[Bytes]) -> None:
        file, start = self._files[target]
        offset += start
        while True:
            count = os.pwritev(file, content, offset)
            left = sum(map(len, content)) - count
            if not left:
                return
            content, offset = [b"".join(content)[count:]], offset + count


def fill(vault: Vault, recipe: Recipe, streams: Sequence[StreamPart], targets: FileTargets) -> int:
    """Write the chunks of these streams of a recipe where they belong, zeros left out; bytes read from the store.

    Errors: Damaged (naming the snapshot), StoreError, OSError.
    """
    wanted, places = _places(recipe, streams)
    runs = list(_runs(vault, recipe, wanted))
    opening = min(computing(), len(runs))
    if not opening:
        return 0
    fetch = _Fetch(vault, recipe.freeze, places, buffers(2 * opening + AHEAD, max(run.size for run in runs)))
    if len(runs) == 1:  # small files mostly: starting threads would take longer than all else
        return fetch.work_alone(runs[0], _Writer(targets))
    with (
        ThreadPoolExecutor(opening + AHEAD, thread_name_prefix="get-read") as readers,
        ThreadPoolExecutor(opening, thread_name_prefix="get-open") as openers,
    ):
        ahead = Ahead(readers, (partial(fetch.read, run) for run in runs), opening + AHEAD)
        futures = [openers.submit(fetch.work, ahead, _Writer(targets)) for _ in range(opening)]
        try:
            return sum(future.result() for future in futures)
        finally:
            ahead.drop()


def _places(recipe: Recipe, streams: Sequence[StreamPart]) -> tuple[NDArray[np.int64], _Places]:
    """Numbers of the chunks these streams need, each once and sorted, and where they go."""
    chunks, targets, offsets = [np.zeros(0, np.uint32)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for number, stream in enumerate(streams):
        chunk, length = recipe.spans(stream)
        offset = np.cumsum(length, dtype=np.int64) - length
        real = chunk != ZEROS
        chunks.append(chunk[real])
        targets.append(np.full(int(real.sum()), number, np.int64))
        offsets.append(offset[real])
    chunk = np.concatenate(chunks)
    order = np.argsort(chunk, kind="stable")
    wanted, first = np.unique(chunk[order], return_index=True)
    firsts = [*first.tolist(), len(chunk)]
    target, offset = np.concatenate(targets)[order], np.concatenate(offsets)[order]
    return wanted.astype(np.int64), _Places(target.tolist(), offset.tolist(), firsts)


def _runs(vault: Vault, recipe: Recipe, wanted: NDArray[np.int64]) -> Iterator[Run]:
    """Where the chunks lie, in requests. `chunks` of a run are positions in `wanted`."""
    found, lost = vault.places(recipe.names[wanted])
    if lost:
        raise Damaged(f"{lost} chunk(s)", recipe.freeze, "is missing" if lost == 1 else "are missing")
    for place in found:
        yield from runs_in(place.index, place.rows, place.which)


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """A run, what was read of it, and the memory it may lie in."""

    run: Run
    content: Bytes
    room: memoryview


class _Fetch:
    """One fetch: shared by its threads."""

    def __init__(self, vault: Vault, freeze: str, places: _Places, room: Kept[memoryview]) -> None:
        self.room = room
        self._vault = vault
        self._freeze = freeze
        self._places = places

    def read(self, run: Run) -> _Read:
        """In memory that there is always enough of: no more reads are under way. Errors: as `_read`."""
        room = self.room.take()
        try:
            return _Read(run, self._read(run, room), room)
        except BaseException:
            self.room.give_back(room)
            raise

    def _read(self, run: Run, room: memoryview) -> Bytes:
        """Errors: Damaged (the pack is gone), StoreError."""
        try:
            return self._vault.store.get_range(self._vault.pack_key(run.pack_id), run.start, run.size, room)
        except NotFound:
            raise Damaged(_named(run), self._freeze, "is missing") from None

    def work(self, ahead: Ahead[_Read], writer: _Writer | _InPlace) -> int:
        """Open and write what the others have read; bytes read."""
        done = 0
        try:
            while (read := ahead.take()) is not None:
                done += self._open(read.result(), writer)
            writer.flush()
        except BaseException:
            ahead.drop()
            raise
        return done

    def work_alone(self, run: Run, writer: _Writer | _InPlace) -> int:
        """All of a fetch that needs no more than this; bytes read."""
        done = self._open(self.read(run), writer)
        writer.flush()
        return done

    def _open(self, read: _Read, writer: _Writer | _InPlace) -> int:
        """One bad read is read once more; a copy that lies nearer than the store is not trusted twice."""
        try:
            self._open_once(read.run, memoryview(read.content), writer)
        except Damaged:
            self._vault.store.forget(self._vault.pack_key(read.run.pack_id))
            self._open_once(read.run, memoryview(self._read(read.run, read.room)), writer)
        finally:  # whoever waits for it would wait for ever
            self.room.give_back(read.room)
        return read.run.size

    def _open_once(self, run: Run, content: memoryview, writer: _Writer | _InPlace) -> None:
        reader = ChunkReader(self._vault.sealer, self._vault.naming, run.pack_id)
        try:
            if reader.is_sealed and run.is_raw:
                self._open_raw(reader, run, content, writer)
            else:
                self._open_any(reader, run, content, writer)
        except Damaged as error:
            raise Damaged(f"{error.which} in {_named(run)}", self._freeze, error.how) from None

    def _open_raw(self, reader: ChunkReader, run: Run, content: memoryview, writer: _Writer | _InPlace) -> None:
        """What `_open_any` does, for chunks that were encrypted and no more, as most are: in two thirds of the time."""
        first, target, offset = self._places.first, self._places.target, self._places.offset
        with reader.opening() as open_into:
            for chunk, at, held, size in run.spans():
                begin, end = first[chunk], first[chunk + 1]
                opened = writer.room(size, offset[begin])
                open_into(at, content[held], opened)
                for p in range(begin, end):
                    writer.write(target[p], offset[p], opened)

    def _open_any(self, reader: ChunkReader, run: Run, content: memoryview, writer: _Writer | _InPlace) -> None:
        first, target, offset = self._places.first, self._places.target, self._places.offset
        for piece, base in with_bases(self._vault, run):
            begin, end = first[piece.chunk], first[piece.chunk + 1]
            opened = writer.room(piece.size, offset[begin])
            reader.read_into(opened, piece.name, piece.at, piece.kind, content[piece.held], base)
            for p in range(begin, end):
                writer.write(target[p], offset[p], opened)


def _named(run: Run) -> str:
    return f"pack {run.pack_id.hex()}"


class _Writer:
    """Gathers chunks in one buffer, then sorts and joins their writes: a chunk may go to many places, and neighbours in
    a pack mostly are neighbours in each of their streams. One thread's.
    """

    def __init__(self, targets: FileTargets) -> None:
        self._targets = targets
        self._buffer = memoryview(bytearray(BATCH_SIZE))
        self._used = 0
        self._batch: list[_Write] = []

    def room(self, size: int, offset: int) -> memoryview:
        """Where a chunk goes before it is written. Errors: OSError (of earlier ones)."""
        if self._used + size > BATCH_SIZE:
            self.flush()
        self._used += size
        return self._buffer[self._used - size : self._used]

    def write(self, target: int, offset: int, content: memoryview) -> None:
        self._batch.append((target, offset, content))

    def flush(self) -> None:
        """All is written. Errors: OSError."""
        _write_all(self._targets, self._batch)
        self._used, self._batch = 0, []


class _InPlace:
    """Opens chunks where they belong in one stream that is in memory. What fails is of no use to anybody."""

    def __init__(self, content: memoryview) -> None:
        self._content = content
        self._opened = 0

    def room(self, size: int, offset: int) -> memoryview:
        self._opened = offset
        return self._content[offset : offset + size]

    def write(self, target: int, offset: int, content: memoryview) -> None:
        """The same bytes at another place."""
        if offset != self._opened:
            self._content[offset : offset + len(content)] = content

    def flush(self) -> None:
        pass


def _write_all(targets: FileTargets, batch: list[_Write]) -> None:
    batch.sort(key=itemgetter(0, 1))
    first, after = 0, (-1, -1)
    for i, (target, offset, content) in enumerate(batch):
        if (target, offset) != after or i - first == PIECES_MAX:
            _write_joined(targets, batch[first:i])
            first = i
        after = (target, offset + len(content))
    _write_joined(targets, batch[first:])


def _write_joined(targets: FileTargets, neighbours: list[_Write]) -> None:
    if neighbours:
        target, offset, _ = neighbours[0]
        targets.write(target, offset, [content for _, _, content in neighbours])
