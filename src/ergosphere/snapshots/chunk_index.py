"""Which chunk lies where: sorted numpy arrays, 80 bytes a chunk, and the bytes they are stored as. No stores here.

A delta counts as there only while its base is: an index never finds a chunk that cannot be read with what it knows.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ergosphere.snapshots.errors import Damaged
from ergosphere.snapshots.packs import DELTA, ID_SIZE, ROW, Rows

PART_HEAD: Final = struct.Struct("<II")  # packs, rows
PART_ROWS_MAX: Final = 250_000  # rows in one stored part: 17 MB, so that opening needs little memory at once
NOWHERE: Final = -1

Names = NDArray[np.uint64]  # (n, 4): blake3 names as four little-endian words
Found = NDArray[np.int64]  # row numbers, NOWHERE for none


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of some packs, as one stored object of the index holds them. `pack[i]`: position in `packs` of row i."""

    packs: tuple[bytes, ...]
    rows: Rows
    pack: NDArray[np.uint32]

    def encode(self) -> bytes:
        head = PART_HEAD.pack(len(self.packs), len(self.rows))
        return b"".join((head, *self.packs, self.rows.tobytes(), self.pack.astype("<u4").tobytes()))


def decode(content: bytes, which: str) -> Part:
    """Errors: Damaged."""
    try:
        packs, rows = PART_HEAD.unpack_from(content)
        at = PART_HEAD.size + packs * ID_SIZE
        names = tuple(content[i : i + ID_SIZE] for i in range(PART_HEAD.size, at, ID_SIZE))
        table = np.frombuffer(content, ROW, rows, at)
        pack = np.frombuffer(content, "<u4", rows, at + rows * ROW.itemsize)
    except (struct.error, ValueError):
        raise Damaged(which, how="has the wrong length") from None
    if len(content) != at + rows * (ROW.itemsize + 4) or (rows and int(pack.max()) >= packs):
        raise Damaged(which, how="does not hang together")
    return Part(names, table, pack)


def part_of(packs: Sequence[tuple[bytes, Rows]]) -> Part:
    """One part from packs and their rows."""
    rows = np.concatenate([rows for _, rows in packs]) if packs else np.zeros(0, ROW)
    pack = np.repeat(np.arange(len(packs), dtype=np.uint32), [len(rows) for _, rows in packs])
    return Part(tuple(pack_id for pack_id, _ in packs), rows, pack)


class ChunkIndex:
    """An immutable view of many parts: made anew when they change, so that readers need no lock."""

    def __init__(self, parts: Iterable[Part] = (), *, without: Collection[bytes] = ()) -> None:
        """`without`: packs whose rows must not be found."""
        self.packs: list[bytes] = []
        numbers: dict[bytes, int] = {}
        tables, owners = [np.zeros(0, ROW)], [np.zeros(0, np.uint32)]
        for part in parts:
            fresh = [pack not in numbers and pack not in without for pack in part.packs]
            for pack, is_fresh in zip(part.packs, fresh, strict=True):
                if is_fresh:
                    numbers[pack] = len(self.packs)
                    self.packs.append(pack)
            renamed = np.array([numbers.get(pack, 0) for pack in part.packs] or [0], np.uint32)
            keep = np.array(fresh or [False])[part.pack] if len(part.rows) else np.zeros(0, bool)
            whole = bool(keep.all())
            tables.append(part.rows if whole else part.rows[keep])
            owners.append(renamed[part.pack if whole else part.pack[keep]])
        self.rows: Rows = np.concatenate(tables)
        self.owner: NDArray[np.uint32] = np.concatenate(owners)
        is_delta = self.rows["kind"] == DELTA
        self._delta = self._base = np.zeros(0, np.int64)
        self._sort(np.flatnonzero(~is_delta))
        if is_delta.any():
            deltas = np.flatnonzero(is_delta)
            bases = self.find(self.rows["base"][deltas])
            self._delta, self._base = deltas[bases != NOWHERE], bases[bases != NOWHERE]
            self._sort(np.concatenate((np.flatnonzero(~is_delta), self._delta)))

    def __len__(self) -> int:
        return len(self.rows)

    def find(self, names: Names) -> Found:
        """The row of each name, or of its first words; NOWHERE where there is none, or a delta only whose base is
        nowhere. Of several, a whole chunk, and of these the one in the pack known first.
        """
        if not len(self._order) or not len(names):
            return np.full(len(names), NOWHERE, np.int64)
        at = np.searchsorted(self._first, names[:, 0])
        inside = np.minimum(at, len(self._order) - 1)
        rows = self._order[inside].astype(np.int64)
        same = (self.rows["name"][rows, : names.shape[1]] == names).all(axis=1)
        rows[~same] = NOWHERE
        half = np.flatnonzero(~same & (self._first[inside] == names[:, 0]))
        for i in half:  # two names that share their first word: practically never
            rows[i] = self._find_slowly(names[i], int(at[i]))
        return rows

    def _find_slowly(self, name: NDArray[np.uint64], at: int) -> int:
        while at < len(self._first) and self._first[at] == name[0]:
            row = int(self._order[at])
            if (self.rows["name"][row, : len(name)] == name).all():
                return row
            at += 1
        return NOWHERE

    def bases(self, rows: Found) -> Found:
        """The row of each row's base; NOWHERE for a whole chunk, and for a delta whose base is nowhere."""
        if not len(self._delta):
            return np.full(len(rows), NOWHERE, np.int64)
        at = np.minimum(np.searchsorted(self._delta, rows), len(self._delta) - 1)
        return np.where(self._delta[at] == rows, self._base[at], NOWHERE)

    def with_bases(self, rows: Found) -> Found:
        """These rows and those of the bases they need."""
        bases = self.bases(rows)
        return np.concatenate((rows, np.unique(bases[bases != NOWHERE])))

    def _sort(self, rows: Found) -> None:
        """From here on `find` knows these rows alone; of the same name, the first of them."""
        first = self.rows["name"][rows, 0]
        order = np.argsort(first, kind="stable")
        self._order, self._first = rows[order].astype(np.uint32), first[order]

    def parts(self) -> list[Part]:
        """All of it again as parts small enough to store."""
        order = np.argsort(self.owner, kind="stable")
        counts = np.bincount(self.owner, minlength=len(self.packs))
        found, first, start = [], 0, 0
        while first < len(self.packs):
            last, total = first, 0
            while last < len(self.packs) and (last == first or total + counts[last] <= PART_ROWS_MAX):
                total += int(counts[last])
                last += 1
            chosen = order[start : start + total]
            owner = self.owner[chosen] - np.uint32(first)
            found.append(Part(tuple(self.packs[first:last]), self.rows[chosen], owner))
            first, start = last, start + total
        return found


def names_of(joined: bytes) -> Names:
    """Names from 32 bytes each."""
    return np.frombuffer(joined, "<u8").reshape(-1, 4)


def unique(names: Names) -> tuple[Names, NDArray[np.int64]]:
    """Each name once, and for every name given its place among those."""
    if not len(names):
        return names, np.zeros(0, np.int64)
    _, first, inverse = np.unique(names[:, 0], return_index=True, return_inverse=True)
    if (names[first][inverse] == names).all():
        return names[first], inverse.astype(np.int64)
    found, place = np.unique(names, axis=0, return_inverse=True)
    return found, place.reshape(-1).astype(np.int64)
