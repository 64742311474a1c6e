"""Turns: ranks that share a device compute one after the other and hand over where they would wait anyway.

A turn is a record lock on a file, which the kernel lifts when its holder dies and which forked children do not inherit.
Only the thread that began the process takes turns: the others belong to a turn that is already there."""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
from collections import deque
from typing import Any, Final

from .bell import Bell

ORDER_S: Final = 0.05  # for which a rank lets one go first that comes before it, and wants to
LOOK_S: Final = 0.02  # how often a rank that lets another one go first looks again
LOOK_HELD_S: Final = 0.25  # how often one looks whose turn another has: who gives it rings, who dies with it does not
QUANTUM_S: Final = 2.0  # after which a rank computes beside one that never waits
QUANTUM_LONG: Final = 4.0  # times the longest turn of late on this device, where turns are long by nature
FADING: Final = 0.9  # of the longest turn, at each turn
TURNS_LOOKED_AT: Final = 64
OVERRUNS_MAX: Final = 8  # of these, after which turns only cost: ranks here wait for each other where nobody sees it
_LONGEST: Final = struct.Struct("<d")  # in the file of the turn, seconds
_LAST: Final = struct.Struct("<q")  # behind it: whose turn it was
_WANTED_AT: Final = 64  # in the same file: from here a byte for each rank, locked while it wants its turn
_FLOCK: Final = struct.Struct("hhqqi4x")  # struct flock: type, whence, start, length, process


class Turn:
    """This rank's part in the turns of its device."""

    def __init__(self, path: str, bell: Bell, seat: int, seats: int) -> None:
        """`seat`: which of the `seats` ranks of this device it is, in their order."""
        self._path = path
        self._bell = bell
        self._seat, self._seats = seat, seats
        self._file = threading.RLock()  # nobody closes it while another one reads or writes there
        self._opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._thread = threading.main_thread().ident
        self._since_s = 0.0
        self._since_cpu_s = 0.0
        self._overran: "deque[bool]" = deque(maxlen=TURNS_LOOKED_AT)
        self._useless = False
        self._let_go_first_s = 0.0  # since when another one is let go first
        self.held = False
        self.waited_s = 0.0
        self.taken = 0

    @property
    def useless(self) -> bool:
        """Whether the ranks of this device keep waiting for each other outside everything that is seen."""
        return self._useless

    @property
    def patience_s(self) -> float:
        """How long another rank of this device may be expected to compute before it waits for something."""
        return max(QUANTUM_S, QUANTUM_LONG * (self._seats - 1) * self._longest_s())

    def overran(self) -> None:
        """Nobody handed over in time."""
        self._overran.append(True)
        self._useless = self._useless or sum(self._overran) >= OVERRUNS_MAX

    def take(self) -> None:
        """Waits for the turn, a quantum at most: then goes on without it, beside the one who has it.

        Ranks that want it at the same time get it in their order: sums that come in rank order need no room of their
        own (see `parts`)."""
        if self.held or self._opened < 0 or threading.get_ident() != self._thread or self.useless:
            return
        began_s = time.monotonic()
        self._want(True)
        try:
            while True:
                seen = self._bell.seen()
                if self._try():
                    break
                waited_s = time.monotonic() - began_s
                if waited_s > QUANTUM_S and waited_s > self.patience_s:
                    self.overran()
                    return
                self._bell.wait(seen, LOOK_S if self._let_go_first_s else LOOK_HELD_S)
        finally:
            self._want(False)
        self._since_s, self._since_cpu_s = time.monotonic(), time.process_time()
        self.waited_s += self._since_s - began_s
        self.taken += 1

    def give(self) -> None:
        """Lets the next one on. Nothing happens where this rank does not have the turn."""
        if not self.held or threading.get_ident() != self._thread:
            return
        self._let_go()
        self._bell.ring()

    def drop(self) -> None:
        """At a cut, from any thread: gives the turn back and closes the file."""
        with self._file:
            opened, self._opened = self._opened, -1
            self.held = False
            if opened >= 0:
                os.close(opened)  # which lifts the lock

    def _want(self, wants: bool) -> None:
        with self._file:
            if self._opened >= 0:
                fcntl.lockf(self._opened, fcntl.LOCK_EX if wants else fcntl.LOCK_UN, 1, _WANTED_AT + self._seat)

    def _is_preceded(self) -> bool:
        """Whether the turn is free, and a rank that comes before this one, counted from the last one, is to have it."""
        if self._is_locked(0, 1) or not self._is_another_first():
            self._let_go_first_s = 0.0
            return False
        self._let_go_first_s = self._let_go_first_s or time.monotonic()
        return time.monotonic() - self._let_go_first_s < ORDER_S

    def _is_another_first(self) -> bool:
        told = os.pread(self._opened, _LAST.size, _LONGEST.size)
        first = (_LAST.unpack(told)[0] + 1) % self._seats if len(told) == _LAST.size else 0
        if first <= self._seat:
            return self._is_wanted(first, self._seat)
        return self._is_wanted(first, self._seats) or self._is_wanted(0, self._seat)

    def _is_wanted(self, first: int, end: int) -> bool:
        return first < end and self._is_locked(_WANTED_AT + first, end - first)

    def _is_locked(self, at: int, length: int) -> bool:
        """Whether another process has a lock on any of these bytes."""
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, at, length, 0)
        return bool(_FLOCK.unpack(fcntl.fcntl(self._opened, fcntl.F_GETLK, asked))[0] != fcntl.F_UNLCK)

    def _try(self) -> bool:
        with self._file:
            if self._opened < 0:
                return True  # dropped meanwhile: nobody to wait for
            if self._is_preceded():
                return False
            try:
                fcntl.lockf(self._opened, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
            except OSError:
                return False
            self.held = True
            self._overran.append(False)
            return True

    def _let_go(self) -> None:
        self.held = False
        # Time in which it computed: a turn spent waiting for a mate, unseen, must not make the next one longer.
        turn_s = min(time.monotonic() - self._since_s, time.process_time() - self._since_cpu_s)
        with self._file:
            if self._opened < 0:
                return  # dropped meanwhile
            try:
                told = _LONGEST.pack(max(FADING * self._longest_s(), turn_s)) + _LAST.pack(self._seat)
                os.pwrite(self._opened, told, 0)
            except OSError:
                pass  # no room for a few bytes: turns are taken all the same
            fcntl.lockf(self._opened, fcntl.LOCK_UN, 1, 0)

    def _longest_s(self) -> float:
        with self._file:
            told = os.pread(self._opened, _LONGEST.size, 0) if self._opened >= 0 else b""
        return float(_LONGEST.unpack(told)[0]) if len(told) == _LONGEST.size else 0.0

    def told_ms(self) -> float:
        """Mean milliseconds waited for a turn."""
        return 1000 * self.waited_s / self.taken if self.taken else 0.0


class Alive:
    """A lock that says this rank lives, and a look at those of others."""

    def __init__(self, folder: str, prefix: str, me: int) -> None:
        self._stem = os.path.join(folder, prefix)
        self._opened = os.open(self._file(me), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.lockf(self._opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._me = me

    def is_gone(self, rank: int) -> bool:
        """Whether that rank began and lives no more."""
        if rank == self._me:
            return False
        try:
            opened = os.open(self._file(rank), os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            return False
        finally:
            os.close(opened)

    def drop(self) -> None:
        """Says no more."""
        os.close(self._opened)

    def _file(self, rank: int) -> str:
        return "%salive.%d" % (self._stem, rank)


def nobody() -> Any:
    """A turn for ranks that have a device of their own."""
    return _Nobody()


class _Nobody:
    held, useless, taken, patience_s = False, False, 0, QUANTUM_S

    def take(self) -> None: ...

    def overran(self) -> None: ...

    def give(self) -> None: ...

    def drop(self) -> None: ...

    def told_ms(self) -> float:
        return 0.0
