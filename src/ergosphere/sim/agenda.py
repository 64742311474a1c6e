"""What will happen when: a heap of events, those of one instant in the order in which they were foreseen."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any


class Kind(IntEnum):
    """What can happen."""

    ARRIVAL = 0  # subject: a Life
    FINISH = 1  # subject: a Life; void when its version moved on
    DONE = 2  # an order was carried out; subject: a Life; void when its version moved on
    NODE_DOWN = 3  # subject: the node's id
    NODE_UP = 4
    SPOT_NOTICE = 5
    SLOW = 6  # subject: (node, factor)
    WISH = 7  # a service wants more or fewer replicas; subject: (service, count)
    LOOK = 8  # nothing happened, but time alone may change a decision


@dataclass(slots=True)
class Agenda:
    """Events in the order of time."""

    _heap: list[tuple[float, int, Kind, Any, int]] = field(default_factory=list)
    _count: int = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, at_s: float, kind: Kind, subject: Any, version: int = 0) -> None:
        self._count += 1
        heapq.heappush(self._heap, (at_s, self._count, kind, subject, version))

    def next_s(self) -> float:
        return self._heap[0][0] if self._heap else float("inf")

    def pop(self) -> tuple[Kind, Any, int]:
        _, _, kind, subject, version = heapq.heappop(self._heap)
        return kind, subject, version
