"""Tasks that wait in vfork(2): at rest for the freezer, but not where CRIU, as any debugger, can hold them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

_WAITS_IN: Final = frozenset({"kernel_clone", "_do_fork", "wait_for_vfork_done"})  # by kernel version


def waiting(pids: Iterable[int]) -> int | None:
    """One task among all threads of `pids` that waits for a child to exec, as the host numbers it."""
    for pid in pids:
        with suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                if _wchan(pid, task) in _WAITS_IN:
                    return int(task)
    return None


def _wchan(pid: int, task: str) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/task/{task}/wchan").read_text()
    return ""
