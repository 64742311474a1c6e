"""What was found old before: a clock that jumps ahead makes nothing old enough to be deleted."""

from __future__ import annotations

import threading
from collections.abc import Set
from dataclasses import dataclass, field
from typing import Final

SEEN_S_MIN: Final = 24 * 3600.0  # a day, in which somebody may set a clock right


@dataclass(slots=True)
class Elders:
    """In memory: after a restart a day passes anew."""

    _since_s: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def confirm(self, old: Set[str], now_s: float) -> frozenset[str]:
        """Of what is `old` by the wall's clock, what was so at every look of the last day; `now_s` is monotonic."""
        with self._lock:
            self._since_s = {name: self._since_s.get(name, now_s) for name in old}
            return frozenset(name for name, since_s in self._since_s.items() if now_s - since_s >= SEEN_S_MIN)
