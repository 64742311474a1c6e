"""What each node could give at most, whoever has to leave for it: who asks for more than that need not be tried.

A bound, and no place: it counts what is free, comes free, or is held by somebody who may have to go or to shrink, as
if all of that were given to one job; not what somebody was given in this turn. What it denies no search could find.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache, partial
from typing import Final

from ergosphere.core.model import JobId, NodeId, Together
from ergosphere.core.policy.entry import Entry
from ergosphere.core.policy.layers import Group, Layer, Node
from ergosphere.core.policy.seats import bundled
from ergosphere.core.policy.shape import Shape
from ergosphere.core.policy.shrinking import spared

TOUCHED_MAX: Final = 4_096  # nodes that layers have not heard of before all are told

# The standing from which on others leave for it, and that from which on they give what they can spare.
Asker = tuple[int, int]


class Reach:
    """Kept beside a board: a layer for every kind of asker that has asked."""

    def __init__(self, entries: Mapping[JobId, Entry], nodes: Mapping[NodeId, Node]) -> None:
        self._entries = entries
        self._nodes = nodes
        self._layers: dict[Asker, Layer] = {}
        self._touched: list[Node] = []
        self._heard: dict[Asker, int] = {}  # so many of them each layer knows of

    def touch(self, node: Node) -> None:
        """Who sits there has changed, or how somebody who does stands, or what is marked there."""
        self._touched.append(node)
        if len(self._touched) > TOUCHED_MAX:
            for asker, layer in self._layers.items():
                self._tell(asker, layer)
            self._touched.clear()
            self._heard.clear()

    def touch_nodes(self, names: Iterable[NodeId]) -> None:
        """How somebody who sits there stands has changed."""
        for name in names:
            if name in self._nodes:
                self.touch(self._nodes[name])

    def forget(self, node: Node) -> None:
        for asker, layer in self._layers.items():
            self._tell(asker, layer)
            layer.forget(node)

    def layer(self, asker: Asker) -> Layer:
        """For one who is served now."""
        found = self._layers.get(asker)
        if found is None:
            found = self._layers[asker] = Layer(partial(_could_give, self._entries, asker))
            self._heard[asker] = len(self._touched)
            found.stale.update(dict.fromkeys(self._nodes.values()))
        self._tell(asker, found)
        return found.refresh()

    def _tell(self, asker: Asker, layer: Layer) -> None:
        layer.stale.update(dict.fromkeys(self._touched[self._heard.get(asker, 0) :]))
        self._heard[asker] = len(self._touched)


def _could_give(entries: Mapping[JobId, Entry], asker: Asker, node: Node) -> int:
    """The devices that could be had here."""
    leave_from, spare_from = asker
    firm = 0
    for job_id, (_, kept) in node.occupants.items():
        if not kept:
            continue
        entry = entries[job_id]
        listed = entry.listed
        if listed is None or listed[0] < leave_from:
            gives = listed is not None and listed[2] and listed[0] >= spare_from
            firm |= kept & ~spared(entry).get(node.id, 0) if gives else kept
    return node.full & ~(node.taken | firm & ~node.going)


def is_within(layer: Layer, shape: Shape, groups: Iterable[Group]) -> bool:
    """Whether what a layer counts might be enough for a shape: False is certain."""
    for area in map(layer.area, groups):
        if area is not None and any(
            area.nodes.total >= needed and all(area.nodes.holds(size, number) for size, number in parts)
            for needed, parts in _needs(shape)
        ):
            return True
    return False


@lru_cache(maxsize=4096)
def _needs(shape: Shape) -> tuple[tuple[int, tuple[tuple[int, int], ...]], ...]:
    """Ways to seat it, on the fewest devices first: devices in all, and how many of its parts need so many of them or
    more on one node each."""
    return tuple((shape.ranks // share, _parts(shape, share)) for share in reversed(shape.shares))


def _parts(shape: Shape, share: int) -> tuple[tuple[int, int], ...]:
    if not shape.cells:
        return ((shape.ranks // share, 1),) if shape.together is Together.NODE else ()
    bundles = bundled(shape.cells, share)
    sizes = [sum(shape.cells[index] for index in bundle) // share for bundle in bundles]
    return tuple((least, sum(size >= least for size in sizes)) for least in sorted(set(sizes), reverse=True))
