"""Who runs and could give devices: all of them by being frozen, some by being shrunk; and who could take more."""

from __future__ import annotations

from bisect import bisect_left, insort

from ergosphere.core.model import JobId, Tier
from ergosphere.core.policy import standing
from ergosphere.core.policy.entry import Entry
from ergosphere.core.policy.rules import freeze_cost
from ergosphere.core.policy.shape import largest


class Leavers:
    """Kept beside a board."""

    def __init__(self) -> None:
        # by standing, the cheapest first: device-seconds wasted for each device
        self.by_standing: list[list[tuple[float, JobId]]] = [[] for _ in range(standing.COUNT)]
        self.devices = [0] * standing.COUNT  # that they hold, by standing
        self.guarded = [0] * standing.COUNT  # of these, those of work in a guaranteed project
        self.shrinkable: set[JobId] = set()  # running, and allowed fewer devices than they have
        self.shrunk: set[JobId] = set()  # running with fewer devices than they ask for

    def add(self, entry: Entry, *, guarded: bool) -> None:
        """It could be frozen. `guarded`: its project has a guarantee."""
        urgency = standing.BORROWED if entry.borrowed else entry.standing
        entry.listed = (urgency, freeze_cost(entry.view) / entry.devices)
        insort(self.by_standing[urgency], (entry.listed[1], entry.view.id))
        self._count(entry, urgency, 1, guarded)

    def drop(self, entry: Entry, *, guarded: bool) -> None:
        self.shrinkable.discard(entry.view.id)
        self.shrunk.discard(entry.view.id)
        if entry.listed is None:
            return
        urgency, price = entry.listed
        listed = self.by_standing[urgency]
        del listed[bisect_left(listed, (price, entry.view.id))]
        self._count(entry, urgency, -1, guarded)
        entry.listed = None

    def add_size(self, entry: Entry) -> None:
        """Whether it could go on with fewer devices, or with more."""
        view, shape = entry.view, entry.shape
        watched = view.account is not None and view.tier is not Tier.BASIC and not entry.borrowed
        fewest = shape.ranks // shape.shares[-1]
        if fewest < entry.devices and not view.resize_asked and not watched:  # fewer devices would break its promise
            self.shrinkable.add(view.id)
        if entry.devices < largest(shape):
            self.shrunk.add(view.id)

    def _count(self, entry: Entry, urgency: int, sign: int, guarded: bool) -> None:
        self.devices[urgency] += sign * entry.devices
        if guarded:
            self.guarded[urgency] += sign * entry.devices
