"""Where bytes are cut into chunks: pure, on numpy arrays; no files, no stores.

A cut depends on the content of a single cache line, so equal memory is cut alike wherever it lies, even when an
allocator has moved it by some lines, and what is inserted shifts nothing. A line begins a chunk when a hash of its
first word says so (one in 512) and the chunk before it is long enough, when a memory region begins there, or when zeros
end or begin; pages of zeros are no chunk at all.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ergosphere.snapshots.pages import PAGE

LINE: Final = 64  # bytes; what tensor allocators align to
CUT_BITS: Final = 9  # one line in 2**9 begins a chunk: 36 KiB on average
CUT_VALUE: Final = 5  # not 0: a line that begins with zeros never begins a chunk
CHUNK_MIN: Final = 4 << 10  # bytes
CHUNK_MAX: Final = 128 << 10  # bytes
WORDS: Final = PAGE // 8
SAMPLED: Final = np.array([1, 67, 131, 195, 259, 323, 387, 451])  # if all of these are zero a page may be
ODD: Final = np.uint64(0x9E3779B97F4A7C15)

Words = NDArray[np.uint64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Cuts:
    """`edges`: offsets, first 0, last the length; piece i is [edges[i], edges[i+1]); `zero[i]`: pages of zeros."""

    edges: list[int]
    zero: list[bool]


def cut(content: memoryview, starts: Sequence[int] = ()) -> Cuts:
    """Cut a buffer. `starts`: page-aligned offsets at which a new region begins."""
    pages = len(content) // PAGE
    if pages == 0:
        return Cuts([0, len(content)] if content else [0], [False] if content else [])
    words = np.frombuffer(content[: pages * PAGE], dtype=np.uint64).reshape(pages, WORDS)
    zero = _zero_pages(words)
    begins = np.zeros(pages, bool)
    begins[1:] = zero[1:] != zero[:-1]
    begins[0] = True
    begins[[start // PAGE for start in starts if 0 <= start < pages * PAGE]] = True
    firsts = np.flatnonzero(begins)
    runs = zip((firsts * PAGE).tolist(), [*(firsts[1:] * PAGE).tolist(), pages * PAGE], zero[firsts], strict=True)
    lines = _lines(words)
    edges, flags = [], []
    for start, end, is_zero in runs:
        pieces = [start] if is_zero else [start, *_divided(start, end, lines)]
        edges += pieces
        flags += [bool(is_zero)] * len(pieces)
    return _with_tail(edges, flags, pages * PAGE, len(content))


def _zero_pages(words: Words) -> Flags:
    """Only pages whose sampled words are zero are looked at as a whole."""
    zero = np.asarray(~words[:, SAMPLED].any(axis=1))
    candidates = np.flatnonzero(zero)
    if len(candidates) == len(zero):
        return np.asarray(~words.any(axis=1))
    if len(candidates):
        zero[candidates] = ~words[candidates].any(axis=1)
    return zero


def _lines(words: Words) -> list[int]:
    """Offsets of lines that may begin a chunk."""
    mixed = words.reshape(-1)[:: LINE // 8] * ODD
    return (np.flatnonzero(mixed >> np.uint64(64 - CUT_BITS) == CUT_VALUE) * LINE).tolist()


def _divided(start: int, end: int, lines: list[int]) -> Iterator[int]:
    """Edges within a run: the next line that may, far enough from the last; or CHUNK_MAX after it."""
    while end - start > CHUNK_MIN:
        at = bisect_left(lines, start + CHUNK_MIN)
        found = lines[at] if at < len(lines) else end
        start = min(found, start + CHUNK_MAX)
        if start >= end:
            return
        yield start


def _with_tail(edges: list[int], zero: list[bool], whole: int, size: int) -> Cuts:
    """The last, incomplete page belongs to the chunk before it."""
    if size > whole and zero[-1]:
        return Cuts([*edges, whole, size], [*zero, False])
    return Cuts([*edges, size], zero)
