"""Which chunks resemble each other: a table of features of whole chunks, in memory only. Pure; no files, no stores.

A feature is the largest hash among the words of a block of 4 KiB. Words that look like addresses or are small are
left out: those differ from rank to rank where all else is equal. What is forgotten here costs bytes, never a chunk.
"""

from __future__ import annotations

import threading
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ergosphere.snapshots.sealing import Bytes

STEP: Final = 2  # words: objects lie at multiples of 16 bytes, so every second word tells as much in half the time
BLOCK: Final = 256  # words that are looked at in 4 KiB
CHUNKS_MAX: Final = 1 << 16  # remembered; later ones take the places of earlier ones
SLOTS: Final = 1 << 20  # 8 bytes each
SMALL: Final = np.uint64(1 << 32)
ADDRESS_LOWEST: Final = np.uint64(1 << 40)  # what looks like an address of this machine has 41 to 47 bits
ADDRESS_HIGHEST: Final = np.uint64((1 << 47) - 1)
MIXERS: Final = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))  # a feature of a block for each
FOLD: Final = np.uint64(31)
HALF: Final = np.uint64(32)
ALIKE: Final = 0.1  # of its features a chunk shares with one that is worth a try
DULL: Final = np.uint32(0xFFFFFFFF)  # instead of a chunk: a feature that told nothing

Features = NDArray[np.uint64]


def features(content: Bytes) -> Features:
    """Two for each block in which some word tells anything; none where none does."""
    words = np.frombuffer(content, np.uint64, len(content) // 8)[::STEP]
    told = (words >= SMALL) & ((words < ADDRESS_LOWEST) | (words > ADDRESS_HIGHEST))
    if not told.any():
        return np.zeros(0, np.uint64)
    mixed = words * MIXERS[0]
    mixed ^= mixed >> FOLD
    mixed *= told
    starts = np.arange(0, len(words), BLOCK)
    found = np.concatenate([np.maximum.reduceat(mixed * each, starts) for each in MIXERS])
    said: Features = found[found != 0]
    return said


class Likeness:
    """Names of chunks by their features. Any thread may use it. 20 MB at most."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: list[bytes] = []
        self._numbers: dict[bytes, int] = {}
        self._next = 0
        self._check = self._chunk = np.zeros(0, np.uint32)

    def add(self, found: Features, name: bytes, unlike: bytes | None = None) -> None:
        """Remember a chunk. `unlike`: one that seemed to resemble it and did not; what they share tells nothing."""
        with self._lock:
            if not self._names:
                self._check, self._chunk = np.zeros(SLOTS, np.uint32), np.zeros(SLOTS, np.uint32)
            slots, check = _place(found)
            known, chunk = self._check[slots] == check, self._chunk[slots]
            dull = known & ((chunk == DULL) | (chunk == self._numbers.get(unlike or b"", DULL)))
            self._check[slots] = check
            self._chunk[slots] = np.where(dull, DULL, np.uint32(self._number(name)))

    def nearest(self, found: Features) -> list[bytes]:
        """Names of chunks that share enough with one that has these features, the one with most first."""
        with self._lock:
            if not len(found) or not self._names:
                return []
            slots, check = _place(found)
            chunk = self._chunk[slots][self._check[slots] == check]
            chunks, counts = np.unique(chunk[chunk != DULL], return_counts=True)
            order = np.argsort(-counts, kind="stable")
            return [self._names[chunks[i]] for i in order if counts[i] >= ALIKE * len(found)]

    def _number(self, name: bytes) -> int:
        """The place of a name, which takes that of the earliest one where there is no other."""
        if name in self._numbers:
            return self._numbers[name]
        number = self._next
        if len(self._names) < CHUNKS_MAX:
            self._names.append(name)
        else:
            del self._numbers[self._names[number]]
            self._names[number] = name
        self._numbers[name] = number
        self._next = (number + 1) % CHUNKS_MAX
        return number


def _place(found: Features) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """Slot and check word of each feature; no check word is zero."""
    return (found % np.uint64(SLOTS)).astype(np.int64), (found >> HALF).astype(np.uint32) | np.uint32(1)
