"""Nodes that fail again and again: until when they are avoided. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

MEMORY_S: Final = 24 * 3600.0  # failures that are remembered
FIRST_S: Final = 600.0  # avoided after one failure; doubles with each more within `MEMORY_S`
LONGEST_S: Final = 6 * 3600.0


def flaky_until_s(failures: Iterable[float], now_s: float) -> float:
    """Until when a node that failed at these times (seconds since the epoch) is taken only where nothing else is
    left; 0 when it has not failed of late."""
    recent = [at_s for at_s in failures if now_s - MEMORY_S < at_s <= now_s]
    if not recent:
        return 0.0
    return float(max(recent) + min(LONGEST_S, FIRST_S * 2 ** min(len(recent) - 1, 10)))
