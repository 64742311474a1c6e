"""System calls that a dump found asleep with a timeout: they go to sleep again instead of failing with EINTR.

The kernel keeps what is left of such a sleep where CRIU cannot see it, so CRIU lets the call return EINTR: an error
that no stop signal would ever have shown the program. Here the saved registers are set back to the call itself. It
sleeps its whole time again (never less than it asked for); calls with an absolute deadline keep it.
"""

from __future__ import annotations

import platform
import struct
from pathlib import Path
from typing import Final

from ergosphere.agent.images import (
    Change,
    Field,
    ImageError,
    bytes_field,
    entries_of,
    parse,
    replace_entries,
    varint_field,
)
from ergosphere.agent.keeper.sleepers import INTERRUPTED, RESUMED, SYSCALL_BYTES

MAGICS: Final = struct.pack("<II", 0x54564319, 0x55053847)  # "common image" and "core"

# Field numbers of core_entry, thread_info_x86, user_x86_regs_entry, task_core_entry and thread_core_entry.
_THREAD_INFO, _TASK, _THREAD, _REGISTERS = 2, 3, 5, 2
_AX, _ORIG_AX, _IP = 11, 16, 17
_TASK_SIGNALS, _THREAD_SIGNALS = 10, 9


def resume_calls(images: Path) -> int:
    """Sets every thread that slept in one of `RESUMED` back to the start of its call; returns how many there were.

    A process with signals waiting is left alone: their handlers may count on the error. Raises ImageError when an image
    is not what CRIU writes. On machines other than x86-64 nothing is done.
    """
    if platform.machine() != "x86_64":
        return 0
    return sum(_rewrite(path) for path in sorted(images.glob("core-*.img")))


def _rewrite(path: Path) -> bool:
    threads = list(entries_of(path.read_bytes(), path.name, MAGICS))
    if len(threads) != 1:
        raise ImageError(f"{path.name} is not a thread as CRIU writes it: another version of CRIU, or damage")
    core = parse(threads[0])
    if _signals_wait(core):
        return False
    fresh = _within(core, _THREAD_INFO, lambda info: _within(info, _REGISTERS, _set_back))
    if fresh is None:
        return False
    replace_entries(path, MAGICS, [b"".join(field.raw for field in fresh)])
    return True


def _within(message: list[Field], number: int, change: Change) -> list[Field] | None:
    """The message with one sub-message changed; None when there is nothing to change."""
    for index, field in enumerate(message):
        if field.number == number:
            fresh = change(parse(field.payload))
            if fresh is None:
                return None
            changed = bytes_field(number, b"".join(part.raw for part in fresh))
            return [*message[:index], changed, *message[index + 1 :]]
    return None


def _set_back(registers: list[Field]) -> list[Field] | None:
    numbers = {field.number: field.value for field in registers}
    call = numbers.get(_ORIG_AX)
    if numbers.get(_AX) != INTERRUPTED or call not in RESUMED:
        return None
    changes = {_AX: call, _IP: numbers[_IP] - SYSCALL_BYTES}
    return [varint_field(f.number, changes[f.number]) if f.number in changes else f for f in registers]


def _signals_wait(core: list[Field]) -> bool:
    queues = {_TASK: _TASK_SIGNALS, _THREAD: _THREAD_SIGNALS}
    return any(
        part.number == queues[field.number] and part.payload
        for field in core
        if field.number in queues
        for part in parse(field.payload)
    )
