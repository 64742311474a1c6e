"""What a job asks for, without who asks: jobs of one shape fit, or do not fit, in the same places."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from operator import attrgetter
from typing import Final

from ergosphere.core.elastic import sizes
from ergosphere.core.model import JobView, NodeId, Together


@dataclass(frozen=True, slots=True)
class Shape:
    """`cells`: ranks of each part that stays on one node, () before the first start; `barred`: nodes that cannot
    thaw it; `choosy`: only where it would be put first."""

    ranks: int
    cells: tuple[int, ...]
    types: tuple[tuple[str, float], ...]
    device_bytes: int
    regions: tuple[str, ...]
    data_region: str
    together: Together
    shares: tuple[int, ...]  # ranks per device that it could be run with, fewest first; (1,) when it cannot share
    barred: frozenset[NodeId] = frozenset()
    choosy: bool = False
    _hash: int = field(init=False, repr=False, compare=False)  # asked for many times a turn

    def __post_init__(self) -> None:
        told = (self.ranks, self.cells, self.types, self.device_bytes, self.regions, self.data_region, self.shares)
        object.__setattr__(self, "_hash", hash((told, self.together, self.barred, self.choosy)))

    def __hash__(self) -> int:
        return self._hash


def shape_of(job: JobView) -> Shape:
    cells = tuple(len(cell.ranks) for cell in job.cells)
    return Shape(
        job.ranks,
        cells,
        job.speeds,
        job.device_bytes,
        job.regions,
        job.data_region,
        Together.ANY if cells else job.together,
        shares_of(job.ranks, _least(job), job.devices_asked or job.ranks),
        frozenset(node for node, _ in job.unfit) if cells else frozenset(),
    )


_ASKED: Final = attrgetter(
    *("ranks", "cells", "speeds", "device_bytes", "regions", "data_region", "together", "min_devices"),
    *("shareable", "devices_asked", "unfit"),
)  # what `shape_of` looks at


def asks_alike(job: JobView, other: JobView) -> bool:
    """Certainly of one shape; False: they may be all the same."""
    return bool(_ASKED(job) == _ASKED(other))


def _least(job: JobView) -> int:
    """The fewest devices it may be given."""
    return job.min_devices if job.min_devices and job.shareable else job.ranks


@lru_cache(maxsize=4096)
def shares_of(ranks: int, least: int, most: int) -> tuple[int, ...]:
    """Ranks per device that are possible, the same on every device. Fewest first; never empty."""
    return tuple(ranks // devices for devices in sizes(ranks, least, most)) or (1,)


def devices(shape: Shape, share: int) -> int:
    return shape.ranks // share


def largest(shape: Shape) -> int:
    """The most devices it may be given: what its owner wants."""
    return devices(shape, shape.shares[0])


def fewest(shape: Shape) -> int:
    """The fewest devices it may be given."""
    return devices(shape, shape.shares[-1])


def larger(shape: Shape, has: int) -> list[int]:
    """The numbers of devices above `has` that it may be given, the largest first."""
    return [number for share in shape.shares if (number := devices(shape, share)) > has]


@lru_cache(maxsize=4096)
def in_one_piece(shape: Shape) -> Shape | None:
    """The same gang on one node, for one that has not started and may sit on several; else None. For that it takes no
    slower or flakier node, nor one farther from its data."""
    if shape.cells or shape.together is not Together.ANY or shape.ranks == 1:
        return None
    return replace(shape, together=Together.NODE, choosy=True)


def needs_one_node(shape: Shape) -> bool:
    """It wants all its devices on one node. False where nodes do not matter, or several parts have one each."""
    return len(shape.cells) == 1 or (not shape.cells and shape.together is Together.NODE)
