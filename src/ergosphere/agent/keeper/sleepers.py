"""Threads that CRIU found asleep with a timeout: where the originals go on, they go to sleep again instead of failing.

CRIU lets such a call return EINTR, an error that no stop signal would ever have shown the program (what it does in
images, `agent/calls.py` sets right). Here a child of ours takes hold of these threads while their groups are frozen,
and sets their registers back to the call itself as soon as the groups are let go. It ends by itself, and should it be
killed, the kernel lets go of whatever it held.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

# Calls that the kernel would go on with through its restart block, by their numbers on x86-64.
RESUMED: Final = frozenset({7, 35, 202, 230})  # poll, nanosleep, futex, clock_nanosleep
SYSCALL_BYTES: Final = 2  # the length of the instruction `syscall`
INTERRUPTED: Final = (1 << 64) - errno.EINTR  # -EINTR as a register holds it
SECONDS_MAX: Final = 5  # for threads that do not come to a stop

_SEIZE, _INTERRUPT, _GET_REGISTERS, _SET_REGISTERS, _DETACH = 0x4206, 0x4207, 12, 13, 17
_WALL: Final = 0x40000000
_REGISTERS, _AX, _ORIG_AX, _IP = 27, 10, 15, 16  # words in struct user_regs_struct, and places among them

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)


def thaw(pids: Iterable[int], let_go: Callable[[], None]) -> None:
    """Calls `let_go`, which thaws the groups of `pids`; what a dump has interrupted there sleeps on."""
    threads = asleep(pids)
    if not threads:
        let_go()
        return
    ready, tell = os.pipe2(os.O_CLOEXEC)
    gone, go = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        _be_child(threads, tell, gone, (ready, go))
    for descriptor in (tell, gone):
        os.close(descriptor)
    os.read(ready, 1)  # nothing comes from a child that died
    let_go()
    for descriptor in (ready, go):
        os.close(descriptor)
    os.waitpid(child, 0)


def asleep(pids: Iterable[int]) -> list[int]:
    """Threads of `pids` inside one of `RESUMED`, with no signal at hand whose handler may count on the error."""
    if platform.machine() != "x86_64":
        return []
    found = []
    for pid in pids:
        with suppress(OSError):
            found += [int(task) for task in os.listdir(f"/proc/{pid}/task") if _sleeps(f"/proc/{pid}/task/{task}")]
    return found


def _sleeps(task: str) -> bool:
    with suppress(OSError, ValueError):
        return int(Path(f"{task}/syscall").read_text().split()[0]) in RESUMED and not _has_signals(task)
    return False


def _has_signals(task: str) -> bool:
    lines = Path(f"{task}/status").read_text().splitlines()
    pending, shared, blocked = (_bits(lines, name) for name in ("SigPnd", "ShdPnd", "SigBlk"))
    return bool((pending | shared) & ~blocked)


def _bits(lines: Iterable[str], name: str) -> int:
    return next(int(line.split()[1], 16) for line in lines if line.startswith(name))


def _be_child(threads: list[int], tell: int, gone: int, others: tuple[int, int]) -> None:
    code = 1
    try:
        for descriptor in others:
            os.close(descriptor)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        signal.alarm(SECONDS_MAX)
        held = [thread for thread in threads if _hold(thread)]
        os.close(tell)
        os.read(gone, 1)  # the end of the pipe: they may run
        for thread in held:
            with suppress(OSError):
                _send_back(thread)
        code = 0
    finally:
        os._exit(code)


def _hold(thread: int) -> bool:
    """It stops before its next instruction."""
    return not (_libc.ptrace(_SEIZE, thread, None, None) or _libc.ptrace(_INTERRUPT, thread, None, None))


def _send_back(thread: int) -> None:
    """Errors: OSError (it is gone)."""
    _, status = os.waitpid(thread, _WALL)
    if not os.WIFSTOPPED(status):
        return
    registers = (ctypes.c_uint64 * _REGISTERS)()
    _call(_GET_REGISTERS, thread, registers)
    if registers[_AX] == INTERRUPTED and registers[_ORIG_AX] in RESUMED:
        registers[_AX] = registers[_ORIG_AX]
        registers[_IP] -= SYSCALL_BYTES
        _call(_SET_REGISTERS, thread, registers)
    _call(_DETACH, thread, None)


def _call(request: int, thread: int, registers: object) -> None:
    if _libc.ptrace(request, thread, None, registers) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
