"""Rivals that never preempt: first in first out, shortest job first, and fixed shares per project."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Sequence

from ergosphere.core.model import Decision, Plan
from ergosphere.sim.decisions import Evict
from ergosphere.sim.lives import Life
from ergosphere.sim.rivals.judge import NEVER, begin
from ergosphere.sim.scene import Scene, plan_of
from ergosphere.sim.works import Work

Key = tuple[float, float]
Order = Callable[[Life], Key]


def by_arrival(life: Life) -> Key:
    return (life.work.submit_s, 0.0)


def by_length(life: Life) -> Key:
    return (life.work.duration_s, life.work.submit_s)


class Queue:
    """Gangs in one order. `skip`: whoever fits goes past those that do not; otherwise the first holds up the rest.

    Sources: gang FIFO is the default of YARN-CS in Philly (Jeon et al., ATC 2019); with skip it is Kueue's
    BestEffortFIFO. SJF is the textbook's, with an oracle.
    """

    transparent = True

    def __init__(self, name: str, source: str, order: Order, *, skip: bool, knows_future: bool = False) -> None:
        self.name = name
        self.source = source
        self.knows_future = knows_future
        self._order = order
        self._skip = skip
        self._heaps: dict[int, list[tuple[Key, int, Life]]] = {}
        self._count = 0

    def judge(self, scene: Scene) -> Plan:
        for life in scene.came:
            self._count += 1
            size = life.work.devices if self._skip else 0
            heapq.heappush(self._heaps.setdefault(size, []), (self._order(life), self._count, life))
        decisions: list[Decision | Evict] = []
        while (heap := self._next(scene)) is not None:
            life = heap[0][2]
            placement = scene.pool.place(life.work.devices)
            if placement is None:
                break
            heapq.heappop(heap)
            scene.pool.take(life.work.id, placement)
            decisions.append(begin(life, placement))
        return plan_of(decisions)

    def alarm_s(self, scene: Scene) -> float:
        return NEVER

    def _next(self, scene: Scene) -> list[tuple[Key, int, Life]] | None:
        """The heap whose first is next: of those whose gangs fit. All gangs of a size fit or none does."""
        able = [heap for size, heap in self._heaps.items() if heap and size <= scene.pool.free]
        return min(able, key=lambda heap: heap[0][:2], default=None)


class Partition:
    """Every project has its own share of the devices for good, first in first out with skip inside.

    Source: the static quotas that Philly's virtual clusters began with (Jeon et al., ATC 2019). Shares follow the
    projects' demand over the whole trace, which is kinder than any real quota; each holds its widest job at least.
    """

    name = "static partition"
    source = "Jeon et al., ATC 2019"
    knows_future = True  # of the demand of each project
    transparent = True

    def __init__(self, works: Sequence[Work], devices: int) -> None:
        demand: Counter[str] = Counter()
        widest: dict[str, int] = {}
        for one in works:
            demand[one.project] += math.ceil(one.device_seconds)
            widest[one.project] = max(widest.get(one.project, 0), one.devices)
        total = sum(demand.values()) or 1
        self._share = {name: max(widest[name], devices * part // total) for name, part in demand.items()}
        self._used: Counter[str] = Counter()
        self._queues: dict[str, list[Life]] = {}
        self._running: set[str] = set()

    def judge(self, scene: Scene) -> Plan:
        for life in scene.left:
            if life.work.id in self._running:
                self._running.discard(life.work.id)
                self._used[life.work.project] -= life.work.devices
        for life in scene.came:
            if life.work.id in self._running:  # a machine failed under it
                self._running.discard(life.work.id)
                self._used[life.work.project] -= life.work.devices
            self._queues.setdefault(life.work.project, []).append(life)
        decisions: list[Decision | Evict] = []
        for project, queue in self._queues.items():
            waiting = [life for life in queue if not self._begin(scene, project, life, decisions)]
            self._queues[project] = waiting
        return plan_of(decisions)

    def alarm_s(self, scene: Scene) -> float:
        return NEVER

    def _begin(self, scene: Scene, project: str, life: Life, decisions: list[Decision | Evict]) -> bool:
        devices = life.work.devices
        if self._used[project] + devices > self._share[project]:
            return False
        placement = scene.pool.place(devices)
        if placement is None:
            return False
        scene.pool.take(life.work.id, placement)
        self._used[project] += devices
        self._running.add(life.work.id)
        decisions.append(begin(life, placement))
        return True


def fifo(*, skip: bool) -> Queue:
    return Queue("FIFO with skip" if skip else "strict FIFO", "Jeon et al., ATC 2019", by_arrival, skip=skip)


def sjf() -> Queue:
    return Queue("SJF (oracle)", "textbook; knows every duration", by_length, skip=True, knows_future=True)
