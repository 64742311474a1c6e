"""What a gang could have if others left, and the cheapest of those who could. Pure; it marks nothing."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop
from itertools import islice
from typing import Final

from ergosphere.core.model import TIER_ORDER, JobId, NodeId, Together
from ergosphere.core.policy.board import Board
from ergosphere.core.policy.entry import Entry
from ergosphere.core.policy.layers import Group
from ergosphere.core.policy.leavers import Leaver
from ergosphere.core.policy.packing import enough_of_each
from ergosphere.core.policy.seats import pack_cells
from ergosphere.core.policy.shape import needs_one_node

EXACT_MAX: Final = 10  # candidates up to which every set is weighed: at most 1,024 of them
NODES_MAX: Final = 16  # nodes for each of which a set of its own is weighed

Chosen = tuple[Leaver, ...]
Price = tuple[tuple[float, ...], int, tuple[JobId, ...]]  # by dearness, how many, who


@dataclass(slots=True)
class Offer:
    """What a gang could have without anybody leaving, as far as it could matter, and whether more would be enough."""

    devices: int
    share: int
    sizes: tuple[int, ...]  # of the cells, in ranks
    homes: dict[int, NodeId]
    together: Together
    groups: dict[Group, dict[NodeId, int]]
    totals: dict[Group, int]
    domains: dict[tuple[Group, str], int]
    board: Board
    barred: frozenset[NodeId]
    missing: int  # the fewest devices that have to be gained; 0 or less: only where they are is in the way

    @staticmethod
    def of(board: Board, entry: Entry, share: int) -> Offer:
        shape = entry.shape
        layer = board.soon.refresh()
        groups: dict[Group, dict[NodeId, int]] = {}
        totals: dict[Group, int] = {}
        domains: dict[tuple[Group, str], int] = {}
        together_now: list[int] = []
        for group in board.pools.groups(shape):
            area = layer.area(group)
            groups[group] = enough_of_each(area, shape, layer) if area is not None and shape.cells else {}
            totals[group] = area.nodes.total if area is not None else 0
            if area is not None:
                together_now.append(area.nodes.most() if needs_one_node(shape) else area.nodes.total)
            if area is not None and shape.together is Together.DOMAIN:
                domains.update({(group, name): free for free, name in area.by_free})
        homes = dict(enumerate(entry.view.home))
        needed, together = shape.ranks // share, shape.together
        missing = needed - max(together_now, default=0)
        return Offer(needed, share, shape.cells, homes, together, groups, totals, domains, board, shape.barred, missing)

    def fits(self, leavers: Sequence[Leaver]) -> bool:
        """Whether the gang fits once they have left."""
        if sum([leaver.devices for leaver in leavers]) < self.missing:
            return False
        gained: dict[NodeId, int] = {}
        for leaver in leavers:
            for name, mask in leaver.gains.items():
                gained[name] = gained.get(name, 0) + mask.bit_count()
        return any(self._fits_in(group, gained) for group in self.groups)

    def _fits_in(self, group: Group, gained: dict[NodeId, int]) -> bool:
        nodes, counts = self.board.nodes, self.board.soon.counts
        here = {name: count for name, count in gained.items() if nodes[name].pool in group and name not in self.barred}
        if self.totals[group] + sum(here.values()) < self.devices:
            return False
        if self.sizes:
            return self._fits_cells(group, here)
        match self.together:
            case Together.ANY:
                return True
            case Together.NODE:
                return any(counts.get(name, 0) + count >= self.devices for name, count in here.items())
            case Together.DOMAIN:
                by_domain: dict[str, int] = {}
                for name, count in here.items():
                    by_domain[nodes[name].domain] = by_domain.get(nodes[name].domain, 0) + count
                return any(
                    self.domains.get((group, domain), 0) + count >= self.devices for domain, count in by_domain.items()
                )

    def _fits_cells(self, group: Group, here: dict[NodeId, int]) -> bool:
        nodes, counts = self.board.nodes, self.board.soon.counts
        room = self.groups[group]
        if len(self.sizes) == 1:
            enough = any(counts.get(name, 0) + count >= self.devices for name, count in here.items())
            return enough or max(room.values(), default=0) >= self.devices
        room = dict(room)
        for name, count in here.items():
            room[name] = counts.get(name, 0) + count
        for name in self.homes.values():
            if name in nodes and nodes[name].pool in group and name not in self.barred:
                room.setdefault(name, counts.get(name, 0))
        return pack_cells(self.sizes, room, self.homes, self.share) is not None


def cheapest(candidates: Sequence[Leaver], offer: Offer) -> Chosen | None:
    """The set to ask, or None if even all of them are not enough.

    Standing jobs of a stronger tier are spared first, then device-seconds, then the number of jobs. Up to `EXACT_MAX`
    candidates the cheapest set is found; beyond, a set from which nobody can be left out.
    """
    if not candidates or not offer.fits(candidates):
        return None
    if len(candidates) > EXACT_MAX:
        return min(_lean_sets(candidates, offer), key=_price)
    return next(chosen for chosen in _every_set(candidates, offer.missing) if offer.fits(chosen))


def price_of_one(candidate: Leaver) -> tuple[int, float, JobId]:
    return (-candidate.dearness, candidate.cost / candidate.devices, candidate.id)


def _price(leavers: Sequence[Leaver]) -> Price:
    costs = [0.0] * (len(TIER_ORDER) + 1)
    in_order = sorted(leavers, key=lambda one: one.id)
    for leaver in in_order:
        costs[leaver.dearness] += leaver.cost
    return tuple(costs), len(in_order), tuple([one.id for one in in_order])


def _every_set(candidates: Sequence[Leaver], missing: int) -> Iterator[Chosen]:
    """All sets that give at least what is missing, the cheapest first, each in the order of the candidates."""
    sets: list[tuple[Price, Chosen]] = [(((0.0,) * (len(TIER_ORDER) + 1), 0, ()), ())]
    for one in sorted(candidates, key=lambda one: one.id):
        sets += [(_with(price, one), (*chosen, one)) for price, chosen in sets]
    heap = [(price, chosen) for price, chosen in sets if chosen and sum([one.devices for one in chosen]) >= missing]
    heapify(heap)
    while heap:
        chosen = heappop(heap)[1]
        yield tuple([one for one in candidates if one in chosen])


def _with(price: Price, one: Leaver) -> Price:
    costs, count, ids = price
    place = one.dearness
    return (*costs[:place], costs[place] + one.cost, *costs[place + 1 :]), count + 1, (*ids, one.id)


def _lean_sets(candidates: Sequence[Leaver], offer: Offer) -> Iterator[Chosen]:
    """A lean set out of all candidates, and one out of each of some nodes', where that is enough."""
    by_price = tuple(sorted(candidates, key=price_of_one))
    yield _lean(by_price, offer)
    by_node: dict[NodeId, list[Leaver]] = {}
    for leaver in by_price:
        for name in leaver.gains:
            by_node.setdefault(name, []).append(leaver)
    enough = (tuple(there) for there in by_node.values() if offer.fits(there))
    for there in islice(enough, NODES_MAX):
        yield _lean(there, offer)


def _lean(by_price: Chosen, offer: Offer) -> Chosen:
    """Cheapest per device first until it fits, then leave out whoever is not needed, the dearest first."""
    fits: Callable[[int], bool] = lambda count: offer.fits(by_price[:count])  # noqa: E731
    enough = bisect_left(range(len(by_price)), True, key=fits)
    chosen = by_price[:enough]
    for candidate in reversed(chosen):
        rest = tuple([one for one in chosen if one is not candidate])
        if offer.fits(rest):
            chosen = rest
    return chosen
