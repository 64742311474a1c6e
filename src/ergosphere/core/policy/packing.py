"""Where in a layer a job fits best: the right pool, one domain where that is possible, the snuggest nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from ergosphere.core.model import Cell, JobView, NodeId, Placement, Seat, Together
from ergosphere.core.policy.layers import Area, Group, Layer, Node, PoolKey, Stock
from ergosphere.core.policy.seats import Shares, fewest_nodes, pack_cells, seat_cells
from ergosphere.core.policy.shape import Shape

Nodes = Mapping[NodeId, Node]


class Pools:
    """All pools that any node ever was in, and where shapes may sit among them."""

    def __init__(self) -> None:
        self._keys: set[PoolKey] = set()
        self._groups: dict[Shape, list[Group]] = {}

    def know(self, key: PoolKey) -> None:
        if key not in self._keys:
            self._keys.add(key)
            self._groups.clear()

    def groups(self, shape: Shape) -> list[Group]:
        """Where a shape may sit, best first."""
        found = self._groups.get(shape)
        if found is None:
            found = self._groups[shape] = groups_for(shape, self._keys)
        return found

    def keys(self, shape: Shape) -> list[PoolKey]:
        """The pools of its groups, best first, each once."""
        return list(dict.fromkeys(key for group in self.groups(shape) for key in group))


def groups_for(shape: Shape, keys: Iterable[PoolKey]) -> list[Group]:
    """Pools that a gang of this shape may mix, best first: where its data lies, the fastest type.

    Within one cluster and type flaky nodes are taken only where the reliable ones are not enough; memory excludes a
    device only by being too small.
    """
    speeds = dict(shape.types)
    places: dict[tuple[object, ...], list[PoolKey]] = {}
    for key in sorted(keys):
        _, region, cluster, kind, size = key
        enough = not shape.device_bytes or not size or size >= shape.device_bytes
        if enough and (not speeds or kind in speeds) and (not shape.regions or region in shape.regions):
            place = (region != shape.data_region, -speeds.get(kind, 1.0), region, cluster, kind)
            places.setdefault(place, []).append(key)
    ranked = sorted(places)
    groups = [tuple(places[place]) for place in ranked if not shape.choosy or place[:2] == ranked[0][:2]]
    reliable = [tuple(key for key in group if not key[0]) for group in groups]
    flaky = [] if shape.choosy else [group for group in groups if group[-1][0]]
    return [group for group in reliable if group] + flaky


def find(job: JobView, shape: Shape, share: int, layer: Layer, nodes: Nodes, groups: list[Group]) -> Placement | None:
    """A place for `job` with `share` ranks on each device, in a refreshed layer."""
    needed = shape.ranks // share
    if needed > layer.total:
        return None
    for group in _home_first(job, nodes, groups) if job.home else groups:
        area = layer.area(group)
        if area is None or area.nodes.total < needed:
            continue
        if shape.cells:
            found = _place_cells(job, shape, share, layer, nodes, group, area)
        else:
            taken = _fresh(needed, shape.together, layer, area)
            found = None if taken is None else seated(taken, share, lambda node: layer.mask(nodes[node]), nodes)
        if found is not None:
            return found
    return None


def _home_first(job: JobView, nodes: Nodes, groups: list[Group]) -> list[Group]:
    """Where its images lie it thaws without a transfer."""
    homes = {nodes[home].pool for home in job.home if home in nodes}
    return sorted(groups, key=homes.isdisjoint)


def find_on(
    job: JobView, shape: Shape, share: int, masks: Mapping[NodeId, int], nodes: Nodes, groups: list[Group]
) -> Placement | None:
    """A place for `job` on these nodes and these devices of them only."""
    for group in groups:
        room = {
            name: mask.bit_count()
            for name, mask in masks.items()
            if mask and nodes[name].pool in group and name not in shape.barred
        }
        found = _find_in(job, shape, share, room, masks, nodes)
        if found is not None:
            return found
    return None


def _find_in(
    job: JobView, shape: Shape, share: int, room: dict[NodeId, int], masks: Mapping[NodeId, int], nodes: Nodes
) -> Placement | None:
    if shape.cells:
        node_of = pack_cells(shape.cells, room, dict(enumerate(job.home)), share)
        return None if node_of is None else _seat_cells(job.cells, share, node_of, masks.__getitem__, nodes)
    if shape.together is Together.NODE:
        room = {node: count for node, count in room.items() if count >= shape.ranks // share}
    taken = fewest_nodes(shape.ranks // share, room)
    return None if taken is None else seated(taken, share, masks.__getitem__, nodes)


def seated(taken: Shares, share: int, mask_of: Callable[[NodeId], int], nodes: Nodes) -> Placement:
    """Ranks in order over the devices that were taken of each node."""
    return tuple(
        seat
        for node, count in taken.items()
        for seat in _lowest(nodes[node], mask_of(node), count)
        for _ in range(share)
    )


def _lowest(node: Node, mask: int, count: int) -> Iterator[Seat]:
    for _ in range(min(count, mask.bit_count())):
        bit = mask & -mask
        yield node.seats[bit.bit_length() - 1]
        mask ^= bit


# ---- before the first start


def _fresh(needed: int, together: Together, layer: Layer, area: Area) -> Shares | None:
    node = area.nodes.snug(needed, layer.counts)
    if node is not None:
        return {node: needed}
    if together is Together.NODE:
        return None
    domain = area.snug_domain(needed)
    if domain is not None:
        return _within(needed, area.domain(domain), layer)
    return None if together is Together.DOMAIN else _across(needed, layer, area)


def _within(needed: int, stock: Stock, layer: Layer) -> Shares:
    """The emptiest nodes first, and a snug one for the rest."""
    taken: Shares = {}
    missing = needed
    for node, count in stock.downwards(needed, layer.counts):
        if missing <= count:
            snug = stock.snug(missing, layer.counts)
            assert snug is not None, "the node at hand would do"
            taken[snug if layer.counts[snug] < count else node] = missing
            return taken
        taken[node] = count
        missing -= count
    assert not missing, "asked of a domain with enough devices"
    return taken


def _across(needed: int, layer: Layer, area: Area) -> Shares | None:
    """As few domains as possible: the emptiest whole, and the snuggest for the rest."""
    taken: Shares = {}
    missing = needed
    for place in range(len(area.by_free) - 1, -1, -1):
        free, domain = area.by_free[place]
        if missing <= free:
            rest = next(name for total, name in area.by_free[: place + 1] if total >= missing)
            return taken | _within(missing, area.domain(rest), layer)
        if not free:
            return None
        taken |= _within(free, area.domain(domain), layer)
        missing -= free
    return None


# ---- cells


def _place_cells(
    job: JobView, shape: Shape, share: int, layer: Layer, nodes: Nodes, group: Group, area: Area
) -> Placement | None:
    if len(shape.cells) == 1 and not shape.barred and not _home_has_room(job, shape.ranks // share, layer):
        node = area.nodes.snug(shape.ranks // share, layer.counts)
        node_of = None if node is None else {0: node}
    else:
        room = enough_of_each(area, shape, layer) | _homes(job, shape, layer, nodes, group)
        node_of = pack_cells(shape.cells, room, dict(enumerate(job.home)), share)
    if node_of is None:
        return None
    return _seat_cells(job.cells, share, node_of, lambda node: layer.mask(nodes[node]), nodes)


def _home_has_room(job: JobView, size: int, layer: Layer) -> bool:
    return any(layer.counts.get(node, 0) >= size for node in job.home)


def _homes(job: JobView, shape: Shape, layer: Layer, nodes: Nodes, group: Group) -> dict[NodeId, int]:
    """What its homes in the group could give."""
    here = [home for home in job.home if home not in shape.barred and home in nodes and nodes[home].pool in group]
    return {home: layer.counts[home] for home in here if layer.counts.get(home, 0)}


def enough_of_each(area: Area, shape: Shape, layer: Layer) -> dict[NodeId, int]:
    """Nodes with what they could give: of each number as many as there are cells, none of those that are barred; the
    others would add nothing."""
    most = len(shape.cells) + len(shape.barred)
    return {
        name: count
        for count in range(1, area.nodes.top())
        for name in area.nodes.some(count, most, layer.counts)
        if name not in shape.barred
    }


def _seat_cells(
    cells: tuple[Cell, ...],
    share: int,
    node_of: Mapping[int, NodeId],
    mask_of: Callable[[NodeId], int],
    nodes: Nodes,
) -> Placement:
    names = set(node_of.values())
    free = {name: _lowest(nodes[name], mask_of(name), nodes[name].view.devices) for name in names}
    return seat_cells(cells, share, node_of, free)
