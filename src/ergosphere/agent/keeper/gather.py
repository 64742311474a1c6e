"""Waiting for several children that succeed or fail as one."""

from __future__ import annotations

from collections.abc import Callable

from .children import Ended


class Gather:
    """Calls `done` with every child's end, by rank, once the last one is in."""

    def __init__(self, ranks: list[int], done: Callable[[dict[int, Ended]], None]) -> None:
        self._missing = set(ranks)
        self._done = done
        self._ends: dict[int, Ended] = {}

    def taker(self, rank: int) -> Callable[[Ended], None]:
        """What is to be called with the end of this rank's child."""

        def take(ended: Ended) -> None:
            self._ends[rank] = ended
            self._missing.discard(rank)
            if not self._missing:
                self._done(self._ends)

        return take
