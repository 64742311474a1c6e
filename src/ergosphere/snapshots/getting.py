"""Streams out of a vault, into files or memory. Every chunk is verified before a byte of it is written anywhere.

Chunks are read in the order they lie in their packs, neighbours in one request. While some threads open what was read,
others read what comes next and write what was opened.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ergosphere.snapshots.copying import PRIVATE_MODE
from ergosphere.snapshots.errors import Damaged, NotFound
from ergosphere.snapshots.packs import ChunkReader
from ergosphere.snapshots.pipeline import Ahead, computing
from ergosphere.snapshots.recipes import ZEROS, Recipe, StreamPart
from ergosphere.snapshots.runs import Run, runs_in
from ergosphere.snapshots.sealing import Bytes
from ergosphere.snapshots.vault import Vault

AHEAD: Final = 2  # reads under way beside those that are being opened, 17 MB each


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
        return _fill(vault, recipe, streams, _FileTargets(files))
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
    _fill(vault, recipe, [stream], _MemoryTarget(content))
    return bytes(content)


class _FileTargets:
    def __init__(self, files: Sequence[int]) -> None:
        self._files = files

    def write(self, target: int, offset: int, content: list[Bytes]) -> None:
        while True:
            count = os.pwritev(self._files[target], content, offset)
            left = sum(map(len, content)) - count
            if not left:
                return
            content, offset = [b"".join(content)[count:]], offset + count


class _MemoryTarget:
    def __init__(self, content: bytearray) -> None:
        self._content = content

    def write(self, target: int, offset: int, content: list[Bytes]) -> None:
        for piece in content:
            self._content[offset : offset + len(piece)] = piece
            offset += len(piece)


Targets = _FileTargets | _MemoryTarget


def _fill(vault: Vault, recipe: Recipe, streams: Sequence[StreamPart], targets: Targets) -> int:
    wanted, places = _places(recipe, streams)
    runs = list(_runs(vault, recipe, wanted))
    fetch = _Fetch(vault, recipe.freeze, places, targets)
    opening = min(computing(), len(runs))
    if not opening:
        return 0
    with (
        ThreadPoolExecutor(opening + AHEAD, thread_name_prefix="get-read") as readers,
        ThreadPoolExecutor(opening + 1, thread_name_prefix="get-write") as writers,
        ThreadPoolExecutor(opening, thread_name_prefix="get-open") as openers,
    ):
        ahead = Ahead(readers, (partial(fetch.read, run) for run in runs), opening + AHEAD)
        futures = [openers.submit(fetch.work, ahead, writers) for _ in range(opening)]
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
    """A run and what was read of it."""

    run: Run
    content: bytes


class _Fetch:
    """One fetch: shared by its threads."""

    def __init__(self, vault: Vault, freeze: str, places: _Places, targets: Targets) -> None:
        self._vault = vault
        self._freeze = freeze
        self._places = places
        self._targets = targets

    def read(self, run: Run) -> _Read:
        """Errors: Damaged (the pack is gone), StoreError."""
        try:
            return _Read(run, self._vault.store.get_range(self._vault.pack_key(run.pack_id), run.start, run.size))
        except NotFound:
            raise Damaged(_named(run), self._freeze, "is missing") from None

    def work(self, ahead: Ahead[_Read], writers: ThreadPoolExecutor) -> int:
        """Open and write what the others have read; bytes read."""
        done, writer = 0, _Writer(self._targets, writers)
        while (read := ahead.take()) is not None:
            done += self._open(read.result(), writer)
        writer.finish()
        return done

    def _open(self, read: _Read, writer: _Writer) -> int:
        """One bad read is read once more; a copy that lies nearer than the store is not trusted twice."""
        try:
            self._open_once(read, writer)
        except Damaged:
            self._vault.store.forget(self._vault.pack_key(read.run.pack_id))
            self._open_once(self.read(read.run), writer)
        writer.flush()
        return read.run.size

    def _open_once(self, read: _Read, writer: _Writer) -> None:
        run, content = read.run, memoryview(read.content)
        reader = ChunkReader(self._vault.sealer, self._vault.naming, run.pack_id)
        first, target, offset = self._places.first, self._places.target, self._places.offset
        try:
            for piece in run.pieces():
                chunk = reader.read(piece.name, piece.at, piece.size, piece.kind, content[piece.held])
                for p in range(first[piece.chunk], first[piece.chunk + 1]):
                    writer.write(target[p], offset[p], chunk)
        except Damaged as error:
            raise Damaged(f"{error.which} in {_named(run)}", self._freeze, error.how) from None


def _named(run: Run) -> str:
    return f"pack {run.pack_id.hex()}"


class _Writer:
    """Joins writes that follow each other: neighbours in a pack mostly are neighbours in their stream. One thread's."""

    PIECES_MAX: Final = 256  # of one system call
    UNDER_WAY_MAX: Final = 3  # writes, some 9 MB each

    def __init__(self, targets: Targets, pool: ThreadPoolExecutor) -> None:
        self._targets = targets
        self._pool = pool
        self._under_way: deque[Future[None]] = deque()
        self._target = -1
        self._start = self._end = 0
        self._pieces: list[Bytes] = []

    def write(self, target: int, offset: int, content: Bytes) -> None:
        if target != self._target or offset != self._end or len(self._pieces) >= self.PIECES_MAX:
            self.flush()
            self._target, self._start, self._end = target, offset, offset
        self._pieces.append(content)
        self._end += len(content)

    def flush(self) -> None:
        """Errors: OSError (of an earlier write)."""
        if self._pieces:
            self._under_way.append(self._pool.submit(self._targets.write, self._target, self._start, self._pieces))
            self._target, self._pieces = -1, []
        while len(self._under_way) > self.UNDER_WAY_MAX:
            self._under_way.popleft().result()

    def finish(self) -> None:
        """All is written. Errors: OSError."""
        self.flush()
        while self._under_way:
            self._under_way.popleft().result()
