"""Fitting a gang into counted room: which ranks sit where, all of them or none. Knows nothing of tiers and turns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Final

from ergosphere.core.elastic import sizes
from ergosphere.core.model import Cell, JobView, NodeId, NodeView, Placement, Seat

PACK_STEPS_MAX: Final = 2_000  # nodes tried for cells before a packing counts as not found
PACK_CELLS_MAX: Final = 64  # cells for which more than the first packing is tried

Room = Mapping[NodeId, int]  # devices that each node could give
Shares = dict[NodeId, int]  # devices taken of each node, in the order of the ranks


def cells_of(placement: Placement, ranks_max: int | None = None) -> tuple[Cell, ...]:
    """The cells that a first start at `placement` makes: one per node, the node of rank 0 first.

    `ranks_max`: the devices of the largest node. A node's ranks that share devices make several cells where one could
    never have a device for each of its ranks.
    """
    ranks_by_node: dict[NodeId, list[int]] = {}
    for rank, seat in enumerate(placement):
        ranks_by_node.setdefault(seat.node, []).append(rank)
    groups = [group for ranks in ranks_by_node.values() for group in _split(ranks, ranks_max or len(ranks))]
    return tuple(Cell(index, tuple(ranks)) for index, ranks in enumerate(groups))


def _split(ranks: list[int], most: int) -> list[list[int]]:
    size = sizes(len(ranks), 1, most)[0]
    return [ranks[begin : begin + size] for begin in range(0, len(ranks), size)]


def usable_seats(nodes: Sequence[NodeView]) -> frozenset[Seat]:
    """Every seat of the nodes that answer, are not being drained and are not about to leave."""
    return frozenset(Seat(node.id, device) for node in nodes if takes_jobs(node) for device in range(node.devices))


def takes_jobs(node: NodeView) -> bool:
    return node.ready and not node.draining and node.leaves_s is None


def fit(job: JobView, offered: AbstractSet[Seat], devices: int | None = None) -> Placement | None:
    """Seats for every rank among `offered`: each cell whole on one node; before the first start the fewest nodes.

    `devices`: how many of them, shared evenly; None: one for each rank.
    """
    devices = devices or job.ranks
    unfit = {node for node, _ in job.unfit}
    free: dict[NodeId, list[Seat]] = {}
    for seat in sorted(offered):
        if seat.node not in unfit:
            free.setdefault(seat.node, []).append(seat)
    room = {node: len(seats) for node, seats in free.items()}
    share = job.ranks // devices
    if not job.cells:
        taken = fewest_nodes(devices, room)
        if taken is None:
            return None
        return tuple(seat for node, many in taken.items() for seat in free[node][:many] for _ in range(share))
    node_of = pack_cells([len(cell.ranks) for cell in job.cells], room, dict(enumerate(job.home)), share)
    return None if node_of is None else seat_cells(job.cells, share, node_of, free)


def seat_cells(
    cells: Sequence[Cell], share: int, node_of: Mapping[int, NodeId], free: Mapping[NodeId, Iterable[Seat]]
) -> Placement:
    """Cell after cell over the first of the free seats of its node, `share` ranks on each."""
    ranks_on: dict[NodeId, list[int]] = {}
    for cell in cells:
        ranks_on.setdefault(node_of[cell.index], []).extend(cell.ranks)
    seat_of: dict[int, Seat] = {}
    for node, ranks in ranks_on.items():
        for place, seat in zip(range(0, len(ranks), share), free[node], strict=False):
            seat_of.update(dict.fromkeys(ranks[place : place + share], seat))
    return tuple(seat_of[rank] for rank in range(len(seat_of)))


def keeps_cells(job: JobView, placement: Placement) -> bool:
    """True if `placement` gives every rank a device, as many ranks to each, and keeps every cell whole on one node."""
    if len(placement) != job.ranks or len(set(Counter(placement).values())) > 1:
        return False
    return all(len({placement[rank].node for rank in cell.ranks}) == 1 for cell in job.cells)


def reshape(job: JobView, offered: AbstractSet[Seat], devices: int) -> Placement | None:
    """`devices` seats on the very nodes where its ranks are: as many of its own as can stay, the rest of `offered`.

    None where a node's ranks could not share evenly, or has too few devices.
    """
    share = job.ranks // devices
    ranks_by_node: dict[NodeId, list[int]] = {}
    for rank, seat in enumerate(job.seats):
        ranks_by_node.setdefault(seat.node, []).append(rank)
    seat_of: dict[int, Seat] = {}
    for node, ranks in ranks_by_node.items():
        if len(ranks) % share:
            return None
        blocks = [ranks[begin : begin + share] for begin in range(0, len(ranks), share)]
        own = {job.seats[rank] for rank in ranks}
        seats = _stay_or_take(job, blocks, sorted(own), sorted(s for s in offered - own if s.node == node))
        if seats is None:
            return None
        seat_of.update({rank: seat for block, seat in zip(blocks, seats, strict=True) for rank in block})
    return tuple(seat_of[rank] for rank in range(job.ranks))


def _stay_or_take(job: JobView, blocks: Sequence[list[int]], own: list[Seat], more: list[Seat]) -> list[Seat] | None:
    """A seat per block: that of its first rank where nobody before it kept that; then its other own ones, then more."""
    kept: dict[int, Seat] = {}
    for index, block in enumerate(blocks):
        seat = job.seats[block[0]]
        if seat in own:
            own.remove(seat)
            kept[index] = seat
    spare = [*own, *more]
    if len(spare) < len(blocks) - len(kept):
        return None
    return [kept[index] if index in kept else spare.pop(0) for index in range(len(blocks))]


def fewest_nodes(devices: int, room: Room) -> Shares | None:
    """One node that holds them all, as full as possible; else the emptiest nodes first, and a snug one for the rest."""
    if sum(room.values()) < devices:
        return None
    taken: Shares = {}
    missing = devices
    left = dict(room)
    while missing:
        snug = [node for node in left if left[node] >= missing]
        if snug:
            node = min(snug, key=lambda one: (left[one], one))
        else:
            node = min(left, key=lambda one: (-left[one], one))
        taken[node] = min(left.pop(node), missing)
        missing -= taken[node]
    return taken


def pack_cells(
    ranks: Sequence[int], room: Room, homes: Mapping[int, NodeId], share: int = 1
) -> dict[int, NodeId] | None:
    """A node for every cell (by index): its home where that has room, else the snuggest.

    `ranks` of each cell; `room` in devices, each for `share` ranks.
    """
    if sum(ranks) > share * sum(room.values()):
        return None
    bundles = bundled(ranks, share)
    sizes = [sum(ranks[index] for index in bundle) // share for bundle in bundles]
    homes = {number: homes[bundle[0]] for number, bundle in enumerate(bundles) if bundle[0] in homes}
    order = sorted(range(len(sizes)), key=lambda number: (-sizes[number], number))
    found = _greedily(order, sizes, room, homes)
    if found is None and len(sizes) <= PACK_CELLS_MAX:
        packing = _Packing(sizes, dict(room), homes)
        found = packing.node_of if packing.pack(order) else None
    if found is None:
        return None
    return {index: found[number] for number, bundle in enumerate(bundles) for index in bundle}


def bundled(ranks: Sequence[int], share: int) -> list[list[int]]:
    """Cells that go together because only together they fill whole devices: neighbours, as few as will do."""
    bundles = [[index] for index, size in enumerate(ranks) if size % share == 0]
    open_: list[int] = []
    for index in (index for index, size in enumerate(ranks) if size % share):
        open_.append(index)
        if sum(ranks[one] for one in open_) % share == 0:
            bundles.append(open_)
            open_ = []
    assert not open_, "a share divides the ranks of the whole job"
    return sorted(bundles)


def _greedily(
    order: Iterable[int], sizes: Sequence[int], room: Room, homes: Mapping[int, NodeId]
) -> dict[int, NodeId] | None:
    """Largest first, each into the snuggest node."""
    left = dict(room)
    heaps: dict[int, list[NodeId]] = {}
    for node, count in left.items():
        heaps.setdefault(count, []).append(node)
    for heap in heaps.values():
        heapify(heap)
    most = max(heaps, default=0)
    node_of: dict[int, NodeId] = {}
    for index in order:
        size, home = sizes[index], homes.get(index)
        chosen = home if home is not None and left.get(home, 0) >= size else _snuggest(size, most, heaps, left)
        if chosen is None:
            return None
        node_of[index] = chosen
        left[chosen] -= size
        heappush(heaps.setdefault(left[chosen], []), chosen)
    return node_of


def _snuggest(size: int, most: int, heaps: dict[int, list[NodeId]], left: Room) -> NodeId | None:
    for count in range(size, most + 1):
        heap = heaps.get(count)
        while heap and left[heap[0]] != count:
            heappop(heap)
        if heap:
            return heap[0]
    return None


@dataclass(slots=True)
class _Packing:
    """Depth-first search for a node per cell, largest cell first: home, then the snuggest."""

    sizes: Sequence[int]
    room: dict[NodeId, int]
    homes: Mapping[int, NodeId]
    node_of: dict[int, NodeId] = field(default_factory=dict)
    steps: int = 0

    def pack(self, order: Sequence[int]) -> bool:
        if not order:
            return True
        index, size = order[0], self.sizes[order[0]]
        for node in self._choices(index, size):
            self.steps += 1
            if self.steps > PACK_STEPS_MAX:
                return False
            self.node_of[index] = node
            self.room[node] -= size
            if self.pack(order[1:]):
                return True
            self.room[node] += size
        return False

    def _choices(self, index: int, size: int) -> list[NodeId]:
        """Nodes with enough room, of equally roomy ones only the first: the others would fail the same way."""
        home = self.homes.get(index)
        snug = sorted((room, node) for node, room in self.room.items() if room >= size and node != home)
        first_of_each = dict(reversed(snug))
        choices = list(reversed(first_of_each.values()))
        return [home, *choices] if home is not None and self.room.get(home, 0) >= size else choices
