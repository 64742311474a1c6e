"""A clock that a test moves."""

from __future__ import annotations


class HandClock:
    def __init__(self, at_s: float = 1000.0) -> None:
        self.at_s = at_s

    def now(self) -> float:
        return self.at_s

    def monotonic(self) -> float:
        return self.at_s

    def sleep(self, seconds: float) -> None:
        self.at_s += seconds
