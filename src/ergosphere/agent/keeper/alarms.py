"""Things to be done at a time. The clock counts while the machine sleeps, so that a deadline is a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable


def now_s() -> float:
    """Seconds since boot, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Alarms:
    """Named alarms; setting one again replaces it."""

    def __init__(self) -> None:
        self._due: dict[str, tuple[float, Callable[[], None]]] = {}

    def set(self, name: str, delay_s: float, action: Callable[[], None]) -> None:
        """Calls `action` once, `delay_s` from now."""
        self._due[name] = (now_s() + delay_s, action)

    def cancel(self, name: str) -> None:
        """Nothing happens if there is none."""
        self._due.pop(name, None)

    def left_s(self) -> float | None:
        """Seconds to the next alarm, None without one."""
        if not self._due:
            return None
        return max(0.0, min(at for at, _ in self._due.values()) - now_s())

    def ring(self) -> None:
        """Does all that is due."""
        now = now_s()
        for name in [name for name, (at, _) in self._due.items() if at <= now]:
            due = self._due.pop(name, None)
            if due is not None:
                due[1]()
