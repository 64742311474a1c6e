"""Who works in which pool of the tree of projects, and who of them borrows: the weakest and youngest beyond it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ergosphere.core.model import JobId
from ergosphere.core.policy import standing
from ergosphere.core.policy.entry import Entry
from ergosphere.core.policy.leavers import Leavers
from ergosphere.core.policy.quota import Tree
from ergosphere.core.policy.rules import strength


class Borrowing:
    """Kept beside a board; see `quota.Tree` for what a pool is."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self._members: dict[str, set[JobId]] = {}  # by pool: who holds seats there
        self._unsorted: set[str] = set()  # pools in which somebody came or went
        self._lent: set[str] = set()  # pools in which somebody borrows

    def count(self, entry: Entry, sign: int) -> None:
        """A job came (1) or goes (-1) as it is."""
        view, tree = entry.view, self.tree
        if tree.kept and standing.waits(view):
            tree.want(view.project, view.ranks, sign)
        if not entry.devices:
            return
        tree.use(view.project, view.tier, sign * entry.devices)
        if not tree.kept:
            return
        pool = tree.pool(view.project)
        members = self._members.setdefault(pool, set())
        (members.add if sign > 0 else members.discard)(view.id)
        self._unsorted.add(pool)

    def changed(self, entries: Mapping[JobId, Entry], capacity: int) -> list[Entry]:
        """Those who borrow now and did not, or the reverse, on a fleet of `capacity` devices."""
        if not self.tree.kept:
            return []
        pools = sorted(self.tree.settle(capacity) | self._unsorted)
        self._unsorted.clear()
        due = [pool for pool in pools if pool in self._lent or self.tree.lends(pool)]
        return [one for pool in due for one in self._sort(pool, entries)]

    def _sort(self, pool: str, entries: Mapping[JobId, Entry]) -> Iterator[Entry]:
        members = [entries[job_id] for job_id in self._members.get(pool, ())]
        left = self.tree.allowance(pool)
        self._lent.discard(pool)
        for entry in sorted(members, key=lambda one: (strength(one.view.tier), one.view.submitted_s, one.view.id)):
            borrowed = entry.devices > left
            left -= 0 if borrowed else entry.devices
            if borrowed:
                self._lent.add(pool)
            if borrowed != entry.borrowed:
                yield entry


def standing_now(entry: Entry, tree: Tree, leavers: Leavers) -> int:
    """Whoever waits counts as borrowing once what its project may use is used up."""
    if entry.devices:
        return standing.BORROWED if entry.borrowed else entry.standing
    view = entry.view
    if not tree.kept or tree.within(view.project, view.tier, view.ranks):
        return entry.standing
    # Outside of every guarantee they take turns with each other, unless guaranteed work waits or would yield.
    if tree.unmet or tree.guardian(view.project) is not None or any(leavers.guarded[entry.standing + 1 : -1]):
        return standing.BORROWED
    has_turns = tree.has_turns(view.project, view.tier, view.ranks)
    return entry.standing if has_turns else standing.BORROWED
