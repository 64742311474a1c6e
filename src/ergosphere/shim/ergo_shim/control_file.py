"""The control file's layout, and how its two boards are read and written. What the words mean is not said here.

    0     magic, 8 bytes
    8     orders: sequence, length, crc32 (3 x u32); agent -> rank; the sequence is also a futex word
    24    reply:  sequence, length, crc32 (3 x u32); rank -> agent; the sequence is also a futex word
    40    u32, how many further processes of this rank wanted the file and found it taken
    4096  collectives launched, one u64 per group slot: for show only
    8192  order board, JSON;  1 MiB: reply board, JSON

One writer per board. A torn read is seen by the checksum and tried again. The file keeps its size and mode for life:
CRIU compares them. It is sparse, so only the pages in use cost anything.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import time
import zlib
from typing import Any, Final, NamedTuple, Optional, Protocol

from . import futex

MAGIC: Final = b"ERGOCTL1"
FILE_BYTES: Final = 2 << 20
SLOTS_AT: Final = 4096
SLOTS_MAX: Final = 512
OTHERS_AT: Final = 40
TRIES_MAX: Final = 50  # of a torn read, 0.2 ms apart
_HEAD: Final = struct.Struct("<III")


class Board(NamedTuple):
    """Where one message lives in the file."""

    head_at: int
    body_at: int
    body_bytes_max: int


ORDERS: Final = Board(8, 8192, (1 << 20) - 8192)
REPLY: Final = Board(24, 1 << 20, 1 << 20)


class Head(NamedTuple):
    """What tells one message on a board from the next."""

    sequence: int
    length: int
    checksum: int


class Bytes(Protocol):
    """The file, mapped or opened for each access."""

    def read(self, at: int, size: int) -> bytes: ...

    def write(self, at: int, content: bytes) -> None: ...


class Brief:
    """The file opened for each access and closed at once: leaves no descriptor behind."""

    def __init__(self, path: str) -> None:
        self._path = path

    def read(self, at: int, size: int) -> bytes:
        opened = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(opened, size, at)
        finally:
            os.close(opened)

    def write(self, at: int, content: bytes) -> None:
        opened = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.pwrite(opened, content, at)
        finally:
            os.close(opened)


class Mapped:
    """The file mapped shared, with a futex word for each board."""

    def __init__(self, path: str) -> None:
        opened = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._map = mmap.mmap(opened, FILE_BYTES)
        finally:
            os.close(opened)
        self._words = {}
        if futex.AVAILABLE:
            self._words = {board: futex.Word(self._map, board.head_at) for board in (ORDERS, REPLY)}
        self.slots = memoryview(self._map)[SLOTS_AT : SLOTS_AT + 8 * SLOTS_MAX].cast("Q")

    def read(self, at: int, size: int) -> bytes:
        return self._map[at : at + size]

    def write(self, at: int, content: bytes) -> None:
        self._map[at : at + len(content)] = content

    def wake(self, board: Board) -> None:
        """Wakes whoever sleeps on the board."""
        if board in self._words:
            self._words[board].wake()

    def sleep(self, board: Board, seen: Head, timeout_s: Optional[float], poll_s: float) -> None:
        """Sleeps until the board's sequence moves on from `seen`, or `timeout_s`; polls where there is no futex."""
        if board in self._words:
            self._words[board].wait(seen.sequence, timeout_s)
        elif head(self, board).sequence == seen.sequence:
            time.sleep(poll_s if timeout_s is None else min(poll_s, timeout_s))

    def close(self) -> None:
        """Unmaps the file; nothing of it is left in the process."""
        self.slots.release()
        for word in self._words.values():
            word.drop()
        self._words = {}
        self._map.close()


def create(path: str) -> None:
    """A fresh control file. Readable and writable by whoever owns the rank, so the mode is the caller's umask's."""
    opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        os.ftruncate(opened, FILE_BYTES)
        os.pwrite(opened, MAGIC, 0)
    finally:
        os.close(opened)


def is_ours(path: str) -> bool:
    """Whether there is a control file of this layout at `path`."""
    try:
        return os.path.getsize(path) == FILE_BYTES and Brief(path).read(0, len(MAGIC)) == MAGIC
    except OSError:
        return False


def head(file: Bytes, board: Board) -> Head:
    """The head of the message that is on the board now; all zero where there never was one."""
    return Head(*_HEAD.unpack(file.read(board.head_at, _HEAD.size)))


def post(file: Bytes, board: Board, sequence: int, message: Any) -> Head:
    """Replaces what is on the board. Raises ValueError if the message is too long for it."""
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > board.body_bytes_max:
        raise ValueError("the message has %d bytes, the board holds %d" % (len(body), board.body_bytes_max))
    fresh = Head(sequence & 0xFFFFFFFF, len(body), zlib.crc32(body))
    file.write(board.body_at, body)
    file.write(board.head_at, _HEAD.pack(*fresh))
    return fresh


def fetch(file: Bytes, board: Board) -> "tuple[Head, Any]":
    """What is on the board; (head, None) where nothing legible is."""
    seen = head(file, board)
    for _ in range(TRIES_MAX):
        if seen.length == 0 or seen.length > board.body_bytes_max:
            return seen, None
        body = file.read(board.body_at, seen.length)
        if zlib.crc32(body) == seen.checksum:
            return seen, json.loads(body)
        time.sleep(0.0002)
        seen = head(file, board)
    return seen, None


def others(file: Bytes) -> int:
    """How many further processes of the rank wanted the file and found it taken."""
    return int.from_bytes(file.read(OTHERS_AT, 4), "little")


def add_other(file: Bytes) -> None:
    """Notes that one more process of the rank wanted the file."""
    file.write(OTHERS_AT, (others(file) + 1).to_bytes(4, "little"))
