"""A bell for all ranks of a job on one host: who changed something others may wait for rings it, all who wait look.

Each ring writes a word nobody else writes, so that a wait that began before it always ends."""

from __future__ import annotations

import os
import time
from typing import Any, Final

from . import futex, pages

RANKS_MAX: Final = 1 << 12
POLL_S: Final = 0.0005  # where there is no futex


class Bell:
    """One rank's hold on the bell."""

    def __init__(self, path: str, me: int) -> None:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        os.truncate(path, pages.PAGE)
        self._address = pages.attach(path, pages.PAGE)
        self._me = me % RANKS_MAX
        self._rings = int(time.monotonic_ns() // 1000)  # a rank that begins again does not repeat its words
        memory = _memory(self._address, pages.PAGE)
        self._cell: Any = memoryview(memory).cast("B").cast("I")
        self._word = futex.Word(memory, 0) if futex.AVAILABLE else None

    def ring(self) -> None:
        """Wakes everyone who waits."""
        self._rings += 1
        self._cell[0] = (self._rings * RANKS_MAX + self._me) & 0xFFFFFFFF
        if self._word is not None:
            self._word.wake()

    def seen(self) -> int:
        """To be asked before looking at what one waits for."""
        return int(self._cell[0])

    def wait(self, seen: int, timeout_s: float) -> None:
        """Returns at the next ring after `seen` was asked for, or after `timeout_s`, or early."""
        if self._word is not None:
            self._word.wait(seen, timeout_s)
        elif self._cell[0] == seen:
            time.sleep(min(POLL_S, timeout_s))

    def drop(self) -> None:
        """Unmaps the bell."""
        self._cell.release()
        if self._word is not None:
            self._word.drop()
        pages.unmap(self._address, pages.PAGE)


def _memory(address: int, size: int) -> Any:
    import ctypes

    return (ctypes.c_char * size).from_address(address)
