"""How many devices each node could give under one assumption, indexed so that a fitting node is found at once.

A `Layer` answers for one assumption ("free now", "free soon"). It keeps counts only,
refreshed for the nodes that changed; which devices they are, the nodes' masks say. Found nodes depend on the counts
and on ids alone, never on the order in which things happened.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Final

from ergosphere.core.model import JobId, NodeId, NodeView, Seat

STALE_MAX: Final = 64  # dead entries of a bucket beyond twice the live ones before it is built anew

PoolKey = tuple[bool, str, str, str, int]  # avoided, region, cluster, type, memory of a device
Group = tuple[PoolKey, ...]  # pools whose devices one gang may mix, those taken first in front


class Node:
    """A node's seats as bit masks: bit i is device i. Base masks are facts, the last three belong to one turn."""

    __slots__ = (
        "domain",
        "full",
        "going",
        "held",
        "id",
        "leaving",
        "occupants",
        "pool",
        "promised",
        "seats",
        "taken",
        "view",
    )

    def __init__(self, view: NodeView, occupants: dict[JobId, tuple[int, int]]) -> None:
        self.id: NodeId = view.id
        self.view = view
        self.occupants = occupants  # the devices of each job that sits here, and those of them that it keeps
        self.pool: PoolKey = (False, "", "", "", 0)
        self.domain: str = ""
        self.seats: tuple[Seat, ...] = ()
        self.full = 0  # devices that may be given to somebody: 0 while it does not answer, drains or leaves
        self.held = 0  # in use by a job that stays
        self.leaving = 0  # in use by a job that leaves
        self.taken = 0  # given or held this turn
        self.going = 0  # in use by a job that this turn sends away
        self.promised = 0  # held since an earlier turn for a job that was not served yet

    def recount(self) -> None:
        """The base masks from who sits here."""
        held = leaving = 0
        for mask, kept in self.occupants.values():
            held |= kept
            leaving |= mask & ~kept
        self.held, self.leaving = held, leaving

    def now(self) -> int:
        """Free, and promised to nobody."""
        return self.full & ~(self.held | self.leaving | self.taken | self.promised)

    def whole(self) -> int:
        """What it could give if nobody sat on it."""
        return self.full

    def soon(self) -> int:
        """The same as `now`, and what comes free by itself."""
        return self.full & ~(self.taken | self.promised | self.held & ~self.going)


class Stock(ABC):
    """Nodes by what they could give."""

    __slots__ = ()
    total: int  # devices

    @abstractmethod
    def top(self) -> int:
        """Above what any of its nodes could give."""

    @abstractmethod
    def first(self, count: int, counts: dict[NodeId, int]) -> NodeId | None:
        """Of the nodes that could give so many the one that is taken first."""

    @abstractmethod
    def some(self, count: int, most: int, counts: dict[NodeId, int]) -> list[NodeId]:
        """Up to `most` nodes that could give so many, in order."""

    @abstractmethod
    def holds(self, size: int, number: int) -> bool:
        """Whether `size` devices together could be given `number` times."""

    @abstractmethod
    def most(self) -> int:
        """What the emptiest of them could give."""

    def snug(self, least: int, counts: dict[NodeId, int]) -> NodeId | None:
        """The node that could give the fewest of at least `least`."""
        found = (self.first(count, counts) for count in range(least, self.top()))
        return next((node for node in found if node is not None), None)

    def downwards(self, needed: int, counts: dict[NodeId, int]) -> Iterator[tuple[NodeId, int]]:
        """Nodes with what they could give, emptiest first, until `needed` devices are named or none is left."""
        for count in range(self.top() - 1, 0, -1):
            if needed <= 0:
                return
            for node in self.some(count, -(-needed // count), counts):
                yield node, count
                needed -= count


@dataclass(slots=True)
class Buckets(Stock):
    """Of equals the lowest id is found first."""

    heaps: list[list[NodeId]] = field(default_factory=lambda: [[]])
    live: list[int] = field(default_factory=lambda: [0])  # nodes in each bucket
    total: int = 0  # devices
    members: set[NodeId] = field(default_factory=set)  # an entry of a heap counts for these only

    def add(self, node: NodeId, count: int) -> None:
        while len(self.heaps) <= count:
            self.heaps.append([])
            self.live.append(0)
        self.live[count] += 1
        self.total += count
        self.members.add(node)
        if count:
            heappush(self.heaps[count], node)

    def remove(self, count: int) -> None:
        """One node leaves a bucket; its entry there is dead from now on."""
        self.live[count] -= 1
        self.total -= count

    def top(self) -> int:
        return len(self.heaps)

    def most(self) -> int:
        return next((count for count in range(len(self.live) - 1, 0, -1) if self.live[count]), 0)

    def holds(self, size: int, number: int) -> bool:
        return self.times(size, number) >= number

    def times(self, size: int, most: int) -> int:
        """How often `size` devices together could be given; beyond `most` it is not reckoned."""
        found = 0
        for count in range(len(self.live) - 1, size - 1, -1):
            found += self.live[count] * (count // size)
            if found >= most:
                break
        return found

    def first(self, count: int, counts: dict[NodeId, int]) -> NodeId | None:
        """The lowest id in the bucket."""
        if count >= len(self.heaps) or not self.live[count]:
            return None
        heap = self.heaps[count]
        while counts.get(heap[0]) != count or heap[0] not in self.members:
            heappop(heap)
        if len(heap) > STALE_MAX + 2 * self.live[count]:
            self._tidy(count, counts)
        return self.heaps[count][0]

    def some(self, count: int, most: int, counts: dict[NodeId, int]) -> list[NodeId]:
        """Up to `most` ids of the bucket, lowest first."""
        if count >= len(self.heaps) or not self.live[count] or most <= 0:
            return []
        heap = self.heaps[count]
        if most >= self.live[count]:
            self._tidy(count, counts)
            return sorted(self.heaps[count])
        found: list[NodeId] = []
        while len(found) < most:
            node = heappop(heap)
            if counts.get(node) == count and node in self.members and (not found or found[-1] != node):
                found.append(node)
        for node in found:
            heappush(heap, node)
        return found

    def _tidy(self, count: int, counts: dict[NodeId, int]) -> None:
        heap = [node for node in self.members.intersection(self.heaps[count]) if counts.get(node) == count]
        heapify(heap)
        self.heaps[count] = heap


@dataclass(frozen=True, slots=True)
class Joined(Stock):
    """Buckets of several pools as one: of equals the first pool's are found first."""

    parts: tuple[Buckets, ...]
    total: int

    @staticmethod
    def of(parts: Iterable[Buckets]) -> Joined:
        listed = tuple(parts)
        return Joined(listed, sum(part.total for part in listed))

    def top(self) -> int:
        return max(part.top() for part in self.parts)

    def most(self) -> int:
        return max(part.most() for part in self.parts)

    def holds(self, size: int, number: int) -> bool:
        return sum(part.times(size, number) for part in self.parts) >= number

    def first(self, count: int, counts: dict[NodeId, int]) -> NodeId | None:
        found = (part.first(count, counts) for part in self.parts)
        return next((node for node in found if node is not None), None)

    def some(self, count: int, most: int, counts: dict[NodeId, int]) -> list[NodeId]:
        found: list[NodeId] = []
        for part in self.parts:
            found += part.some(count, most - len(found), counts)
        return found


class Area(ABC):
    """Nodes among which the devices of a gang may be mixed; within it locality domains."""

    __slots__ = ()
    nodes: Stock
    by_free: list[tuple[int, str]]  # (devices, domain), sorted

    @abstractmethod
    def domain(self, name: str) -> Stock:
        """The nodes of one domain."""

    def snug_domain(self, least: int) -> str | None:
        """The domain with the fewest devices of at least `least`: large holes are kept."""
        place = bisect_left(self.by_free, (least, ""))
        return self.by_free[place][1] if place < len(self.by_free) else None


class Pool(Area):
    """Nodes that differ in nothing that a job could ask for."""

    __slots__ = ("by_free", "domains", "nodes")
    nodes: Buckets

    def __init__(self) -> None:
        self.nodes = Buckets()
        self.domains: dict[str, Buckets] = {}
        self.by_free = []

    def domain(self, name: str) -> Buckets:
        return self.domains[name]

    def put(self, node: NodeId, domain: str, count: int, before: int | None) -> None:
        """It could give `count`; so far it could give `before` (None: it is new here)."""
        buckets = self.domains.get(domain)
        if buckets is None:
            buckets = self.domains[domain] = Buckets()
            insort(self.by_free, (0, domain))
        total = buckets.total
        for stock in (self.nodes, buckets):
            if before is not None:
                stock.remove(before)
            stock.add(node, count)
        self._moved(domain, total, buckets.total)

    def lose(self, node: NodeId, domain: str, count: int) -> None:
        """The node is not of this pool any more."""
        buckets = self.domains[domain]
        total = buckets.total
        for stock in (self.nodes, buckets):
            stock.remove(count)
            stock.members.discard(node)
        self._moved(domain, total, buckets.total)

    def _moved(self, domain: str, before: int, after: int) -> None:
        if before != after:
            del self.by_free[bisect_left(self.by_free, (before, domain))]
            insort(self.by_free, (after, domain))


class Union(Area):
    """Several pools as one, for a gang that none of them holds by itself."""

    __slots__ = ("by_free", "nodes", "pools")

    def __init__(self, pools: Sequence[Pool]) -> None:
        self.pools = pools
        self.nodes = Joined.of(pool.nodes for pool in pools)
        free: dict[str, int] = {}
        for pool in pools:
            for devices, name in pool.by_free:
                free[name] = free.get(name, 0) + devices
        self.by_free = sorted((devices, name) for name, devices in free.items())

    def domain(self, name: str) -> Joined:
        return Joined.of(pool.domains[name] for pool in self.pools if name in pool.domains)


class Layer:
    """Counts of one assumption over all nodes. `refresh` before asking."""

    __slots__ = ("_mask", "counts", "pools", "stale", "total")

    def __init__(self, mask: Callable[[Node], int]) -> None:
        self._mask = mask
        self.stale: dict[Node, None] = {}  # nodes whose masks have changed, in that order
        self.counts: dict[NodeId, int] = {}
        self.pools: dict[PoolKey, Pool] = {}
        self.total = 0

    def forget(self, node: Node) -> None:
        """It is gone, or about to be put into another pool."""
        self.stale.pop(node, None)
        count = self.counts.pop(node.id, None)
        if count is not None:
            self.pools[node.pool].lose(node.id, node.domain, count)
            self.total -= count

    def refresh(self) -> Layer:
        """Catch up with the nodes that changed: O(changed)."""
        if not self.stale:
            return self
        for node in self.stale:
            count = self._mask(node).bit_count()
            before = self.counts.get(node.id)
            if before == count:
                continue
            pool = self.pools.get(node.pool)
            if pool is None:
                pool = self.pools[node.pool] = Pool()
            pool.put(node.id, node.domain, count, before)
            self.counts[node.id] = count
            self.total += count - (before or 0)
        self.stale.clear()
        return self

    def area(self, group: Group) -> Area | None:
        """The pools of a group that have something to give, as one; None if none has."""
        if len(group) == 1:
            pool = self.pools.get(group[0])
            return pool if pool is not None and pool.nodes.total else None
        parts = [pool for key in group if (pool := self.pools.get(key)) is not None and pool.nodes.total]
        if len(parts) > 1:
            return Union(parts)
        return parts[0] if parts else None

    def mask(self, node: Node) -> int:
        return self._mask(node)
