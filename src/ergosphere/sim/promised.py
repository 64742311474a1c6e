"""Whose promise holds when: within the guarantees of the tree of projects, for every policy alike.

Whoever is present asks for its devices. Of each pool (`core.policy.quota.Tree`) the strongest tiers and then the
earliest submissions are promised, as far as its allowance reaches; whoever is beyond it borrows meanwhile and counts as
basic.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from ergosphere.core.model import ProjectView
from ergosphere.core.policy.quota import Tree
from ergosphere.core.policy.rules import strength
from ergosphere.sim.lives import Life

Stretch = tuple[float, float, bool]  # from, to, whether it was borrowed
_LEAVES: Final = 0  # before whoever comes in the same instant


def stretches(
    lives: Sequence[Life], projects: Iterable[ProjectView], devices: int, until_s: float
) -> Mapping[str, tuple[Stretch, ...]]:
    """By job: its presence cut where it began or ceased to borrow. Empty where no project has a guarantee."""
    tree = Tree(projects)
    if not tree.kept:
        return {}
    sweep = _Sweep(tree, devices)
    moments = [(life.present_s, 1, life) for life in lives]
    moments += [(until_s if life.ended_s is None else life.ended_s, _LEAVES, life) for life in lives]
    for at_s, comes, life in sorted(moments, key=lambda one: (one[0], one[1], one[2].work.id)):
        sweep.move(at_s, life, 1 if comes else -1)
    return {key: tuple(found) for key, found in sweep.found.items()}


class _Sweep:
    def __init__(self, tree: Tree, devices: int) -> None:
        self.tree = tree
        self.devices = devices
        self.members: dict[str, list[tuple[int, float, str]]] = {}  # by pool, who is promised first in front
        self.lives: dict[str, Life] = {}
        self.since: dict[str, tuple[float, bool]] = {}
        self.found: dict[str, list[Stretch]] = {}

    def move(self, at_s: float, life: Life, sign: int) -> None:
        """A job comes (1) or goes (-1)."""
        work = life.work
        pool = self.tree.pool(work.project)
        place = (strength(work.tier), work.submit_s, work.id)
        members = self.members.setdefault(pool, [])
        if sign > 0:
            insort(members, place)
            self.lives[work.id] = life
            self.since[work.id] = (at_s, False)
        elif work.id in self.since:
            del members[bisect_left(members, place)]
            self._close(work.id, at_s)
            del self.since[work.id]
        self.tree.use(work.project, work.tier, sign * work.devices)
        for changed in sorted(self.tree.settle(self.devices) | {pool}):
            self._sort(changed, at_s)

    def _sort(self, pool: str, at_s: float) -> None:
        left = self.tree.allowance(pool)
        for _, _, key in self.members.get(pool, ()):
            devices = self.lives[key].work.devices
            borrowed = devices > left
            left -= 0 if borrowed else devices
            if borrowed != self.since[key][1]:
                self._close(key, at_s)
                self.since[key] = (at_s, borrowed)

    def _close(self, key: str, at_s: float) -> None:
        began_s, borrowed = self.since[key]
        if at_s > began_s:
            self.found.setdefault(key, []).append((began_s, at_s, borrowed))
