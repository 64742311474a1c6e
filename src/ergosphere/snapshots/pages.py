"""Where the memory regions of a CRIU page image begin, read from the pagemap that lies beside it.

`pages-N.img` is nothing but pages, one after the other; `pagemap-P.img` names the runs of addresses they came from.
Only the few fields needed are read. What cannot be understood means "no regions known", never an error: chunks are then
cut by content alone, which costs bytes at most.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PAGE: Final = 4096  # bytes
PAGES_NAME: Final = re.compile(r"pages-(\d+)\.img")
PAGEMAPS: Final = "pagemap-*.img"
MAGICS_SIZE: Final = 8  # two words before the first message
PAGEMAP_BYTES_MAX: Final = 256 << 20  # one entry takes about 12 bytes
PRESENT: Final = 4  # flag: the pages of this run are in the page image
HEAD_PAGES_ID: Final = 1
VADDR, PAGES_OLD, FLAGS, PAGES_NEW = 1, 2, 4, 5  # field numbers of pagemap_entry (images/pagemap.proto)
VARINT: Final = 0

Numbers = dict[int, int]


def region_starts(image: Path) -> list[int]:
    """Offsets in a page image at which a new run of addresses begins; [] if nothing is known of it."""
    found = PAGES_NAME.fullmatch(image.name)
    if found is None:
        return []
    try:
        for pagemap in sorted(image.parent.glob(PAGEMAPS)):
            starts = _starts(pagemap, int(found[1]), image.stat().st_size)
            if starts is not None:
                return starts
    except (OSError, ValueError, struct.error, IndexError, KeyError):
        return []
    return []


def _starts(pagemap: Path, pages_id: int, size: int) -> list[int] | None:
    if pagemap.stat().st_size > PAGEMAP_BYTES_MAX:
        return None
    messages = _messages(pagemap.read_bytes())
    if next(messages, {}).get(HEAD_PAGES_ID) != pages_id:
        return None
    starts, offset, follows = [], 0, -1
    for entry in messages:
        if not entry.get(FLAGS, PRESENT) & PRESENT:
            continue
        if entry[VADDR] != follows:
            starts.append(offset)
        length = PAGE * entry.get(PAGES_NEW, entry.get(PAGES_OLD, 0))
        offset, follows = offset + length, entry[VADDR] + length
    return starts if offset == size else None


def _messages(image: bytes) -> Iterator[Numbers]:
    at = MAGICS_SIZE
    while at < len(image):
        (size,) = struct.unpack_from("<I", image, at)
        at += 4
        if at + size > len(image):
            raise ValueError("a message ends beyond the file")
        yield _numbers(image, at, at + size)
        at += size


def _numbers(image: bytes, at: int, end: int) -> Numbers:
    numbers: Numbers = {}
    while at < end:
        key, at = _varint(image, at)
        if key & 7 != VARINT:
            raise ValueError("a field that is not a number")
        numbers[key >> 3], at = _varint(image, at)
    return numbers


def _varint(image: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = image[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a number is longer than 64 bits")
