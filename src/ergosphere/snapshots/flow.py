"""A stream out of a vault from its beginning to its end, every chunk verified before it is given out.

For whoever reads it once and in order: no file of it is ever made.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np

from ergosphere.snapshots.caching import is_near
from ergosphere.snapshots.getting import fill_memory
from ergosphere.snapshots.packs import RAW
from ergosphere.snapshots.pipeline import Ahead, Kept, buffers, computing
from ergosphere.snapshots.recipes import ZEROS, Recipe, StreamPart
from ergosphere.snapshots.runs import RUN_SIZE
from ergosphere.snapshots.vault import Place, Vault

FLOW_WINDOW: Final = 4 << 20  # bytes, of whole spans; more only where one span is longer
GIVEN: Final = 2  # windows that whoever reads may still be looking at


@dataclass(frozen=True, slots=True, eq=False)
class _Filled:
    buffer: memoryview
    size: int


@dataclass(frozen=True, slots=True)
class Flow:
    """One stream of a recipe."""

    vault: Vault
    recipe: Recipe
    stream: StreamPart

    def is_near(self) -> bool:
        """Whether all of it lies in folders of this node. Errors: StoreError."""
        places, lost = self._places()
        packs = {place.index.packs[owner] for place in places for owner in np.unique(place.index.owner[place.rows])}
        return not lost and all(is_near(self.vault.store, self.vault.pack_key(pack)) for pack in packs)

    def windows(self) -> Iterator[memoryview]:
        """All of the stream in order, in memory of whole pages; each is good until the next but one is asked for.

        Errors: Damaged (naming the snapshot), StoreError.
        """
        parts = list(self._parts())
        workers = computing() if self._is_compressed() else 1
        room = buffers(workers + GIVEN, max((part.size for part in parts), default=0))
        reading = buffers(workers, RUN_SIZE)
        given: list[memoryview] = []
        with ThreadPoolExecutor(workers, thread_name_prefix="flow") as pool:
            ahead = Ahead(pool, (partial(self._fill, part, room, reading) for part in parts), workers)
            try:
                while (taken := ahead.take()) is not None:
                    filled = taken.result()
                    yield filled.buffer[: filled.size]
                    given.append(filled.buffer)
                    if len(given) == GIVEN:
                        room.give_back(given.pop(0))
            finally:
                ahead.drop()

    def _is_compressed(self) -> bool:
        """Whether most of it was. What is encrypted only is opened in calls so short that a second thread would do
        nothing but take Python's lock from the first: 1.0 s instead of 0.8 s for a gigabyte.
        """
        rows = [place.index.rows[place.rows] for place in self._places()[0]]
        whole = sum(int(each["size"].sum(dtype=np.int64)) for each in rows)
        raw = sum(int(each["size"][each["kind"] == RAW].sum(dtype=np.int64)) for each in rows)
        return 2 * raw < whole

    def _places(self) -> tuple[list[Place], int]:
        """Where its chunks lie, and how many are nowhere. Errors: StoreError."""
        chunk = self.recipe.spans(self.stream)[0]
        return self.vault.places(self.recipe.names[np.unique(chunk[chunk != ZEROS])])

    def _parts(self) -> Iterator[StreamPart]:
        length = self.recipe.spans(self.stream)[1].astype(np.int64)
        ends = np.cumsum(length)
        first = 0
        while first < len(ends):
            start = int(ends[first] - length[first])
            last = max(first + 1, int(np.searchsorted(ends, start + FLOW_WINDOW, "right")))
            size = int(ends[last - 1]) - start
            yield replace(self.stream, size=size, first=self.stream.first + first, spans=last - first)
            first = last

    def _fill(self, part: StreamPart, room: Kept[memoryview], reading: Kept[memoryview]) -> _Filled:
        buffer = room.take()
        try:
            chunk, length = self.recipe.spans(part)
            ends = np.cumsum(length, dtype=np.int64)
            for i in np.flatnonzero(chunk == ZEROS).tolist():
                buffer[ends[i] - length[i] : ends[i]] = bytes(int(length[i]))
            fill_memory(self.vault, self.recipe, part, buffer[: part.size], reading)
        except BaseException:
            room.give_back(buffer)
            raise
        return _Filled(buffer, part.size)
