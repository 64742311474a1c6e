"""Chunks that are read from a store together: neighbours in a pack in one request, in the order they lie there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ergosphere.snapshots.chunk_index import ChunkIndex
from ergosphere.snapshots.packs import BASE_SIZE

RUN_SIZE: Final = 8 << 20  # bytes asked for at once
GAP: Final = 64 << 10  # bytes between two chunks that are read along rather than asked for apart


class Piece(NamedTuple):
    """One chunk of a run: `held` is where it lies in the run, `chunk` its number among those asked for."""

    name: bytes
    at: int
    size: int
    kind: int
    held: slice
    chunk: int
    base: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Chunks of one pack that are read together: rows of `index`, and their numbers among those asked for."""

    index: ChunkIndex
    rows: NDArray[np.int64]
    chunks: list[int]

    @property
    def pack_id(self) -> bytes:
        return self.index.packs[int(self.index.owner[self.rows[0]])]

    @property
    def start(self) -> int:
        """Offset in the pack."""
        return int(self.index.rows["at"][self.rows[0]])

    @property
    def size(self) -> int:
        """Bytes to read."""
        last = self.index.rows[self.rows[-1]]
        return int(last["at"]) + int(last["stored"]) - self.start

    @property
    def is_raw(self) -> bool:
        """Whether none of its chunks was compressed."""
        return not self.index.rows["kind"][self.rows].any()

    def spans(self) -> Iterator[tuple[int, int, slice, int]]:
        """Of each chunk: its number, its place in the pack and in the run, its size."""
        table, start = self.index.rows[self.rows], self.start
        begin = table["at"].astype(np.int64) - start
        held = map(slice, begin.tolist(), (begin + table["stored"]).tolist())
        return zip(self.chunks, table["at"].tolist(), held, table["size"].tolist(), strict=True)

    def pieces(self) -> Iterator[Piece]:
        table, start = self.index.rows[self.rows], self.start
        names, bases = table["name"].tobytes(), table["base"].tobytes()
        columns = (table["at"].tolist(), table["stored"].tolist(), table["size"].tolist(), table["kind"].tolist())
        for i, (at, stored, size, kind) in enumerate(zip(*columns, strict=True)):
            held = slice(at - start, at - start + stored)
            base = bases[BASE_SIZE * i : BASE_SIZE * (i + 1)]
            yield Piece(names[32 * i : 32 * i + 32], at, size, kind, held, self.chunks[i], base)


def runs_in(
    index: ChunkIndex, rows: NDArray[np.int64], places: NDArray[np.intp], size_max: int = RUN_SIZE
) -> Iterator[Run]:
    """These rows in requests; `places[i]`: what row i is the chunk of, for whoever asks."""
    table = index.rows[rows]
    owner = index.owner[rows]
    order = np.lexsort((table["at"], owner))
    rows, places, owner = rows[order], places[order], owner[order]
    start = table["at"][order].astype(np.int64)
    end = start + table["stored"][order]
    new = np.ones(len(rows), bool)
    new[1:] = (owner[1:] != owner[:-1]) | (start[1:] > end[:-1] + GAP)
    first = 0
    for i in range(1, len(rows) + 1):
        if i == len(rows) or new[i] or end[i] - start[first] > size_max:
            yield Run(index, rows[first:i], places[first:i].tolist())
            first = i
