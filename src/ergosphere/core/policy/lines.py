"""Who waits for seats: in lines of those who ask for the same, looked at one by one, or asleep."""

from __future__ import annotations

from bisect import bisect_left, insort

from ergosphere.core.model import JobId
from ergosphere.core.policy import standing
from ergosphere.core.policy.entry import Entry, GangKey, Place, deadline_s, wakes_s
from ergosphere.core.policy.rules import Rules


class Lines:
    """Kept beside a board."""

    def __init__(self) -> None:
        self.gangs: dict[GangKey, list[Place]] = {}  # who waits for nothing but seats
        self.singles: set[JobId] = set()  # who is looked at one by one: wishes, moves, short back-offs, promises
        self.asleep: set[JobId] = set()  # who waits out a back-off that is too long to keep room for

    def add(self, entry: Entry, now_s: float, rules: Rules, *, single: bool) -> None:
        """Its place among those who wait, if it does. `single`: it has to be looked at by itself."""
        view = entry.view
        if single:
            self.singles.add(view.id)
        elif standing.waits(view) and now_s < wakes_s(view, rules):
            self.asleep.add(view.id)
        elif standing.waits(view):
            entry.gang = (entry.shape, view.project, view.tier)
            entry.place = (entry.standing, not view.service, deadline_s(view), view.submitted_s, view.id)
            insort(self.gangs.setdefault(entry.gang, []), entry.place)

    def drop(self, entry: Entry) -> None:
        self.singles.discard(entry.view.id)
        self.asleep.discard(entry.view.id)
        if entry.gang is not None and entry.place is not None:
            line = self.gangs[entry.gang]
            del line[bisect_left(line, entry.place)]
            if not line:
                del self.gangs[entry.gang]
            entry.gang = entry.place = None

    def foremost(self) -> int:
        """The strongest standing in any line; `standing.COUNT` where there is none."""
        return min((line[0][0] for line in self.gangs.values()), default=standing.COUNT)

    def is_empty(self) -> bool:
        """Whether nobody waits."""
        return not (self.gangs or self.singles or self.asleep)
