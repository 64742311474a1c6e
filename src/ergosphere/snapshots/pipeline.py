"""Reads that are under way before anybody asks for them, so that one thread reads while another computes.

What computes on chunks holds the interpreter's lock nearly all the time, and two such threads mostly hand it to each
other; reads and writes of megabytes do without it. So few threads compute, and others read for them.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import Final, Generic, TypeVar

COMPUTING_MAX: Final = 3  # threads; more take the lock from each other

T = TypeVar("T")


def computing() -> int:
    """How many threads of one transfer compute; others read and write for them."""
    return max(1, min(COMPUTING_MAX, os.cpu_count() or 1))


class Ahead(Generic[T]):
    """Calls in their order, up to `depth` of them under way in `pool`. Any number of threads may take."""

    def __init__(self, pool: Executor, calls: Iterable[Callable[[], T]], depth: int) -> None:
        self._pool = pool
        self._calls = iter(calls)
        self._lock = threading.Lock()
        self._under_way: deque[Future[T]] = deque()
        with self._lock:
            for _ in range(depth):
                self._begin_one()

    def take(self) -> Future[T] | None:
        """The next call, done or not yet; None when all were taken."""
        with self._lock:
            if not self._under_way:
                return None
            taken = self._under_way.popleft()
            self._begin_one()
        return taken

    def drop(self) -> None:
        """Nobody takes any more: what has not begun never will."""
        with self._lock:
            self._calls = iter(())
            for future in self._under_way:
                future.cancel()
            self._under_way.clear()

    def _begin_one(self) -> None:
        call = next(self._calls, None)
        if call is not None:
            self._under_way.append(self._pool.submit(call))


class Kept(Generic[T]):
    """At most `count` of what is costly to make, used over and over by any thread; made when it is first needed."""

    def __init__(self, count: int, make: Callable[[], T]) -> None:
        self._count = count
        self._make = make
        self._made = 0
        self._lock = threading.Lock()
        self._free: SimpleQueue[T] = SimpleQueue()

    def take(self) -> T:
        """One of them, as soon as one is free."""
        with self._lock:
            if self._free.empty() and self._made < self._count:
                self._made += 1
                return self._make()
        return self._free.get()

    def give_back(self, one: T) -> None:
        self._free.put(one)


def buffers(count: int, size: int) -> Kept[memoryview]:
    """Room, `size` bytes each, in whole pages; what is not used takes no memory."""
    return Kept(count, lambda: memoryview(mmap.mmap(-1, max(1, size))))
