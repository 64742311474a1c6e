"""Where ranks of one host lay down what they contribute: files in the shared folder, cut into blocks by their owner.

And the board of each group, which says what lies where, and what has been done with it. Nothing here knows torch."""

from __future__ import annotations

import ctypes
import fcntl
import os
import threading
import time
from collections import deque
from typing import Any, Callable, Final, NamedTuple

from . import pages

RING: Final = 2048  # operations of one group that may be under way at once
SMALL_BYTES: Final = 65536  # up to here blocks share a file
SMALL_FILE_BYTES: Final = 1 << 20
LARGE_STEP_BYTES: Final = 65536
FREE_BYTES_MAX: Final = 32 << 20  # kept for later beyond what the last operations used
STALE_S: Final = 5.0  # a large block that nobody wanted for so long is given back
LOOKED_AT_MAX: Final = 8  # blocks that wait to be free, at each operation: a step must not cost what is under way
FIELDS: Final = 9
CONTRIBUTED, SIGNATURE, OWNER, FILE, AT, DONE, RESULT_FILE, RESULT_AT, ADDED = range(FIELDS)


class Block(NamedTuple):
    """A stretch of one rank's file `file`."""

    owner: int
    file: int
    at: int
    size: int


class Slots:
    """This rank's own blocks, and the view it has of others'."""

    def __init__(self, stem: str, me: int) -> None:
        self._stem = stem
        self._me = me
        self._files = 0
        self._free: "dict[int, list[Block]]" = {}
        self._freed_s: "dict[Block, float]" = {}  # when, of large ones
        self._mapped: "dict[tuple[int, int], tuple[int, int]]" = {}  # (owner, file) -> address, bytes
        self._lock = threading.RLock()

    def take(self, size: int) -> Block:
        """A free block of at least `size` bytes."""
        size = _class_of(size)
        with self._lock:
            free = self._free.get(size)
            if not free:
                free = self._free[size] = self._fresh(size)
            block = free.pop()
            self._freed_s.pop(block, None)
            return block

    def free(self, block: Block) -> None:
        """The block may be used again."""
        with self._lock:
            free = self._free.setdefault(block.size, [])
            free.append(block)
            if block.size > SMALL_BYTES:
                self._freed_s[block] = time.monotonic()
                if block.size * len(free) > max(FREE_BYTES_MAX, 2 * block.size):
                    self._forget(free.pop(0))

    def tidy(self) -> None:
        """Gives back the large block that has been free for longest, if that is long."""
        with self._lock:
            block = next(iter(self._freed_s), None)
            if block is not None and time.monotonic() - self._freed_s[block] > STALE_S:
                self._free[block.size].remove(block)
                self._forget(block)

    def address(self, owner: int, file: int, at: int) -> int:
        """Where a block lies in this process; maps its file at the first time."""
        with self._lock:
            known = self._mapped.get((owner, file))
            if known is None:
                path = self._path(owner, file)
                size = os.path.getsize(path)
                known = self._mapped[owner, file] = (pages.attach(path, size), size)
            return known[0] + at

    def drop(self) -> None:
        """Unmaps everything and removes this rank's files."""
        for address, size in self._mapped.values():
            pages.unmap(address, size)
        self._mapped = {}
        self._free = {}
        for file in range(self._files):
            _remove(self._path(self._me, file))

    def held_bytes(self) -> int:
        """Size of this rank's own files."""
        return sum(size for (owner, _), (_, size) in self._mapped.items() if owner == self._me)

    def _fresh(self, size: int) -> "list[Block]":
        if size > SMALL_BYTES:
            # Sizes repeat with the steps of a program: what is free when another one comes up has had its time.
            for stale in [each for kind, free in self._free.items() if kind > SMALL_BYTES for each in free]:
                self._forget(stale)
            self._free = {kind: free for kind, free in self._free.items() if kind <= SMALL_BYTES}
        file, self._files = self._files, self._files + 1
        whole = SMALL_FILE_BYTES if size <= SMALL_BYTES else size
        self._create(self._path(self._me, file), whole)
        self.address(self._me, file, 0)
        return [Block(self._me, file, at, size) for at in range(0, whole, size)]

    def _create(self, path: str, size: int) -> None:
        # Memory that is not to be had is said here, by name; found out at the first write it would end the process.
        try:
            os.close(pages.create(path, size))
        except OSError as error:
            _remove(path)
            told = "a reduction needs %d MB of shared memory, and there is no room: %s"
            raise RuntimeError(told % (-(-size >> 20), error.strerror)) from error

    def _forget(self, block: Block) -> None:
        # Others may have it mapped until the next cut, without touching it: cutting it short frees its memory now.
        self._freed_s.pop(block, None)
        address, size = self._mapped.pop((self._me, block.file))
        pages.unmap(address, size)
        path = self._path(self._me, block.file)
        os.truncate(path, 0)
        _remove(path)

    def _path(self, owner: int, file: int) -> str:
        return "%ss%d.%d" % (self._stem, owner, file)


class Board:
    """What the members of one group have put where, for each of their last RING operations."""

    def __init__(self, path: str, members: int, parts: int) -> None:
        self._size = pages.whole(8 * RING * (FIELDS * members + parts))
        self._opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(self._opened, 0, self._size)
            self._address = pages.attach(path, self._size)
        except OSError as error:
            os.close(self._opened)
            raise RuntimeError("reductions need shared memory, and there is no room: %s" % error.strerror) from error
        self._path = path
        self._cells: Any = memoryview((ctypes.c_char * self._size).from_address(self._address)).cast("B").cast("Q")
        self._claimed: "set[int]" = set()  # by a thread of this process: to the kernel all its threads are one
        self._claiming = threading.Lock()
        self._parts_at = FIELDS * members * RING
        self.members = members
        self.under_way, self.over = members + 1, members + 2  # said in place of a number of members; see `added`

    def get(self, member: int, number: int, field: int) -> int:
        """A field of one member's entry for operation `number`."""
        return int(self._cells[(member * RING + number % RING) * FIELDS + field])

    def put(self, member: int, number: int, field: int, value: int) -> None:
        """Sets it."""
        self._cells[(member * RING + number % RING) * FIELDS + field] = value

    def added(self, number: int) -> int:
        """How many members' contributions to operation `number` are combined where its result goes. `under_way` while
        somebody is at it, and for ever where he was interrupted; `over` once nothing is left to do.
        """
        whose, count = divmod(self.get(0, number, ADDED), self.over + 1)
        return count if whose == number + 1 else 0

    def set_added(self, number: int, count: int) -> None:
        """Says so."""
        self.put(0, number, ADDED, (number + 1) * (self.over + 1) + count)

    def is_folded(self, part: int, number: int) -> bool:
        """Whether the result of that part lies where it belongs."""
        return bool(self._cells[self._parts_at + part * RING + number % RING] == number + 1)

    def set_folded(self, part: int, number: int) -> None:
        """Says so. Whoever says so has written the same bytes."""
        self._cells[self._parts_at + part * RING + number % RING] = number + 1

    def claim(self, part: int, number: int) -> bool:
        """Whether this thread may fold that part now: no other one is at it. To be given back by `unclaim`."""
        at = part * RING + number % RING
        with self._claiming:
            if at in self._claimed:
                return False
            try:
                fcntl.lockf(self._opened, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, at)
            except OSError:
                return False
            self._claimed.add(at)
            return True

    def unclaim(self, part: int, number: int) -> None:
        """Others may."""
        at = part * RING + number % RING
        with self._claiming:
            self._claimed.discard(at)
            fcntl.lockf(self._opened, fcntl.LOCK_UN, 1, at)

    def drop(self) -> None:
        """Unmaps the board and removes its file."""
        os.close(self._opened)
        self._cells.release()
        pages.unmap(self._address, self._size)
        _remove(self._path)


class Reuse:
    """Blocks whose operations others may still be reading."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._waiting: "deque[tuple[Callable[[], bool], Block]]" = deque()
        self._added = 0  # since the last look
        self._lock = threading.Lock()

    def add(self, is_done: Callable[[], bool], block: Block) -> None:
        """`block` may be used again once `is_done`."""
        with self._lock:
            self._waiting.append((is_done, block))
            self._added += 1

    def collect(self) -> None:
        """Frees what can be freed, of those that were looked at longest ago: twice as many as have come since."""
        self._slots.tidy()
        with self._lock:
            most, self._added = LOOKED_AT_MAX + 2 * self._added, 0
            for _ in range(min(most, len(self._waiting))):
                is_done, block = self._waiting.popleft()
                if is_done():
                    self._slots.free(block)
                else:
                    self._waiting.append((is_done, block))


def _class_of(size: int) -> int:
    if size <= SMALL_BYTES:
        return next(step for step in (4096, 16384, SMALL_BYTES) if size <= step)
    return -(-size // LARGE_STEP_BYTES) * LARGE_STEP_BYTES


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
