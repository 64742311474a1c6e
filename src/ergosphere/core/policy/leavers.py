"""Who runs and could give devices: all of them by being frozen, some by being shrunk; and who could take more."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field

from ergosphere.core.model import TIER_ORDER, JobId, Placement, Tier
from ergosphere.core.policy import standing
from ergosphere.core.policy.entry import Entry, Masks
from ergosphere.core.policy.rules import Rules, freeze_cost, strength
from ergosphere.core.policy.shape import fewest, largest
from ergosphere.core.policy.shrunk import Shrunk

Priced = tuple[float, JobId]


@dataclass(slots=True, eq=False)
class Leaver:
    """One way to gain devices: a job that is frozen, or (with a `placement`) shrunk. Never changed."""

    entry: Entry
    gains: Masks
    cost: float  # device-seconds that it wastes
    placement: Placement | None = None
    id: JobId = field(init=False)
    devices: int = field(init=False)
    dearness: int = field(init=False)  # its tier, and behind them all what is borrowed

    def __post_init__(self) -> None:
        self.id = self.entry.view.id
        self.devices = sum([mask.bit_count() for mask in self.gains.values()])
        self.dearness = len(TIER_ORDER) if self.entry.borrowed else strength(self.entry.view.tier)


class Leavers:
    """Kept beside a board."""

    def __init__(self) -> None:
        # by standing, the cheapest first: device-seconds wasted for each device
        self.by_standing: list[list[Priced]] = [[] for _ in range(standing.COUNT)]
        self.shrinking: list[list[Priced]] = [[] for _ in range(standing.COUNT)]  # of these, who could be shrunk
        self.devices = [0] * standing.COUNT  # that they hold, by standing
        self.guarded = [0] * standing.COUNT  # of these, those of work in a guaranteed project
        self.spare = [0] * standing.COUNT  # of all, those that they would give by being shrunk
        self.shrinkable: set[JobId] = set()  # running, and allowed fewer devices than they have
        self.shrunk = Shrunk()

    def add(self, entry: Entry, *, guarded: bool) -> None:
        """It could be frozen. `guarded`: its project has a guarantee."""
        urgency = standing.BORROWED if entry.borrowed else entry.standing
        spare = entry.devices - fewest(entry.shape) if entry.view.id in self.shrinkable else 0
        entry.listed = (urgency, freeze_cost(entry.view) / entry.devices, spare)
        insort(self.by_standing[urgency], (entry.listed[1], entry.view.id))
        if spare:
            insort(self.shrinking[urgency], (entry.listed[1], entry.view.id))
        self._count(entry, urgency, 1, spare, guarded)

    def drop(self, entry: Entry, *, guarded: bool) -> None:
        self.shrinkable.discard(entry.view.id)
        self.shrunk.drop(entry)
        if entry.listed is None:
            return
        urgency, price, spare = entry.listed
        for listed in (self.by_standing[urgency], *([self.shrinking[urgency]] if spare else [])):
            del listed[bisect_left(listed, (price, entry.view.id))]
        self._count(entry, urgency, -1, spare, guarded)
        entry.listed = None

    def spare_beyond(self, spared: int) -> int:
        """The most devices that could be gained by shrinking those beyond a standing."""
        return sum(self.spare[spared + 1 :])

    def add_size(self, entry: Entry, rules: Rules) -> None:
        """Whether it could go on with fewer devices, or with more."""
        view, shape = entry.view, entry.shape
        watched = view.account is not None and view.tier is not Tier.BASIC and not entry.borrowed
        if fewest(shape) < entry.devices and not view.resize_asked and not watched:  # fewer would break its promise
            self.shrinkable.add(view.id)
        if entry.devices < largest(shape):
            self.shrunk.add(entry, rules)

    def _count(self, entry: Entry, urgency: int, sign: int, spare: int, guarded: bool) -> None:
        self.devices[urgency] += sign * entry.devices
        self.spare[urgency] += sign * spare
        if guarded:
            self.guarded[urgency] += sign * entry.devices
