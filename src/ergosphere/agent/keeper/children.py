"""Forked children of the keeper that do one thing and end: build a rank's world, run CRIU, ask how a freeze ended.

Each has a pipe for what it has to tell. A child is done when it was reaped and its pipe is closed; whoever started it
is then called back. Nothing here knows what the children do.
"""

from __future__ import annotations

import os
import selectors
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from .alarms import Alarms

TOLD_BYTES_MAX: Final = 65536


class Ended(NamedTuple):
    """How a child ended: its raw wait status, what it told, and whether it was killed for taking too long."""

    wait_status: int
    told: str
    timed_out: bool

    @property
    def code(self) -> int:
        """Its exit code, or 128 + the signal that ended it."""
        code = os.waitstatus_to_exitcode(self.wait_status)
        return code if code >= 0 else 128 - code


class _Child:
    __slots__ = ("done", "pid", "pipe", "timed_out", "told", "wait_status")

    def __init__(self, pid: int, pipe: int, done: Callable[[Ended], None]) -> None:
        self.pid, self.pipe, self.done = pid, pipe, done
        self.told = b""
        self.wait_status: int | None = None
        self.timed_out = False


class Children:
    """All children under way."""

    def __init__(self, selector: selectors.BaseSelector, alarms: Alarms) -> None:
        self._selector = selector
        self._alarms = alarms
        self._by_pid: dict[int, _Child] = {}

    def __len__(self) -> int:
        return len(self._by_pid)

    def start(self, work: Callable[[int], None], done: Callable[[Ended], None], timeout_s: float) -> int:
        """Forks; the child calls `work(pipe)` and ends. A sentence raised there is told. Returns the child's PID."""
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            _be_child(work, theirs)
        os.close(theirs)
        child = _Child(pid, ours, done)
        self._by_pid[pid] = child
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._read(child))
        self._alarms.set(f"child {pid}", timeout_s, lambda: self._overdue(child))
        return pid

    def pids(self) -> list[int]:
        """All that are under way."""
        return list(self._by_pid)

    def stop(self, pids: list[int]) -> None:
        """Ends these children, with what they have started; their `done` has been called when this returns."""
        for pid in pids:
            child = self._by_pid.get(pid)
            if child is not None:
                _kill_group(pid)
                with suppress(ChildProcessError):
                    child.wait_status = os.waitpid(pid, 0)[1]
                self._close(child)
                self._settle(child)

    def reaped(self, pid: int, wait_status: int) -> bool:
        """Tells that `pid` was reaped; False when it is none of these."""
        child = self._by_pid.get(pid)
        if child is None:
            return False
        child.wait_status = wait_status
        self._settle(child)
        return True

    def _read(self, child: _Child) -> None:
        if child.pipe < 0:
            return  # closed by what came before it in the same round
        part = os.read(child.pipe, TOLD_BYTES_MAX)
        if part:
            child.told = (child.told + part)[:TOLD_BYTES_MAX]
            return
        self._close(child)
        self._settle(child)

    def _close(self, child: _Child) -> None:
        if child.pipe >= 0:
            self._selector.unregister(child.pipe)
            os.close(child.pipe)
            child.pipe = -1

    def _settle(self, child: _Child) -> None:
        if child.wait_status is None or child.pipe >= 0 or child.pid not in self._by_pid:
            return
        del self._by_pid[child.pid]
        self._alarms.cancel(f"child {child.pid}")
        child.done(Ended(child.wait_status, child.told.decode(errors="replace"), child.timed_out))

    def _overdue(self, child: _Child) -> None:
        child.timed_out = True
        _kill_group(child.pid)
        if child.wait_status is not None:  # something it started holds the pipe: do not wait for that
            self._close(child)
            self._settle(child)
        else:
            self._alarms.set(f"child {child.pid}", 1.0, lambda: self._overdue(child))


def children_of(pid: int) -> set[int]:
    """All children of a process of one thread, whoever started them."""
    return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def _be_child(work: Callable[[int], None], pipe: int) -> None:
    code = 1
    try:
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        work(pipe)
        code = 0
    except BaseException as error:  # nothing of a child may return into the keeper's loop
        with suppress(OSError):
            os.write(pipe, f"error {error}\n".encode())
    finally:
        os._exit(code)


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
