"""Sleeping on a word of shared memory until another process changes it. Linux only; elsewhere `AVAILABLE` is False."""

from __future__ import annotations

import platform
from typing import Any, Final, Optional

_NUMBER: Final = {"x86_64": 202, "aarch64": 98, "riscv64": 98, "ppc64le": 221, "s390x": 238}.get(platform.machine())
_WAIT: Final = 0
_WAKE: Final = 1
_EVERYONE: Final = 2**31 - 1


def _find() -> Optional[Any]:
    try:
        import ctypes

        return None if _NUMBER is None else ctypes.CDLL(None, use_errno=True).syscall
    except Exception:
        return None


_syscall: Final = _find()
AVAILABLE: Final = _syscall is not None


class Word:
    """A 32-bit word inside a writable buffer that processes mapping the same file can sleep on."""

    def __init__(self, buffer: Any, offset: int) -> None:
        import ctypes

        self._cell: Any = ctypes.c_uint32.from_buffer(buffer, offset)
        self._address = ctypes.c_void_p(ctypes.addressof(self._cell))

    def wait(self, expected: int, timeout_s: Optional[float] = None) -> None:
        """Returns once the word differs from `expected`, on a wake, a signal, or after `timeout_s`."""
        import ctypes

        span = None
        if timeout_s is not None:
            span = ctypes.byref((ctypes.c_long * 2)(int(timeout_s), int(timeout_s % 1 * 1e9)))  # a struct timespec
        assert _syscall is not None
        _syscall(ctypes.c_long(_NUMBER or 0), self._address, _WAIT, ctypes.c_uint32(expected), span, None, 0)

    def wake(self) -> None:
        """Wakes every process that sleeps on the word."""
        import ctypes

        assert _syscall is not None
        _syscall(ctypes.c_long(_NUMBER or 0), self._address, _WAKE, _EVERYONE, None, None, 0)

    def drop(self) -> None:
        """Lets go of the buffer, so that it can be unmapped."""
        self._cell = None
