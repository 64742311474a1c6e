"""The tree of projects: what each may use, what is promised to it, and whose turn is fair. O(depth) a question."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from ergosphere.core.model import TIER_ORDER, ProjectView, Tier
from ergosphere.core.policy.rules import strength

DEPTH_MAX: Final = 16  # levels of the tree
ROOT: Final = ""


class QuotaTrouble(ValueError):
    """The tree contradicts itself. The text names the project and says what to change; `project` is where to look."""

    def __init__(self, text: str, project: str = "") -> None:
        super().__init__(text)
        self.project = project


@dataclass(slots=True)
class Use:
    """Devices in use below one project."""

    by_tier: list[int] = field(default_factory=lambda: [0] * len(TIER_ORDER))
    total: int = 0


class Tree:
    """Projects and what they use. A project that nobody declared is a child of the root with weight 1.

    Work belongs to the *pool* of its guardian, the nearest project from its own upwards that has a guarantee, or to the
    root's pool, whose devices are those of the fleet. What guaranteed projects below a pool use and wait for, each up
    to its guarantee, is claimed: it is not the pool's. What is left is its `allowance`; work beyond that is borrowed.
    """

    def __init__(self, projects: Iterable[ProjectView] = ()) -> None:
        self.projects = {project.id: project for project in projects}
        self._use: dict[str, Use] = {}
        self._paths: dict[str, tuple[str, ...]] = {}
        self._shares: dict[str, tuple[float, ...]] = {}  # reckoned since the last change
        self._own: dict[str, Use] = {}  # by pool: what its own work uses, not that of guaranteed projects below it
        self._wanted: dict[str, int] = {}  # by project: devices waited for below it that a guarantee may cover
        self._allowances: dict[str, float] | None = None
        self.uses = 0  # how often that has changed
        self.unmet = False  # somebody waits for what is guaranteed to it, as of the last `settle`
        self.guarded = any(one.guarantee is not None or one.limit is not None for one in self.projects.values())
        self.kept = any(one.guarantee is not None for one in self.projects.values())

    def path(self, project: str) -> tuple[str, ...]:
        """The project and those above it, itself first."""
        found = self._paths.get(project)
        if found is None:
            found = self._paths[project] = tuple(self._upwards(project))
        return found

    def _upwards(self, project: str) -> Iterator[str]:
        for _ in range(DEPTH_MAX):
            if project == ROOT:
                return
            yield project
            known = self.projects.get(project)
            project = known.parent if known else ROOT

    def use(self, project: str, tier: Tier, devices: int) -> None:
        """`devices` more (or, negative, fewer) are in use."""
        self._shares.clear()
        self.uses += 1
        for name in self.path(project):
            _add(self._use, name, tier, devices)
        if self.kept:
            _add(self._own, self.pool(project), tier, devices)

    def want(self, project: str, devices: int, sign: int = 1) -> None:
        """A job waits for `devices` (or, with sign -1, does not any more)."""
        guardian = self.guardian(project)
        if guardian is None or guardian.guarantee is None or devices > guardian.guarantee:
            return
        for name in self.path(project):
            self._wanted[name] = self._wanted.get(name, 0) + sign * devices

    def used(self, project: str) -> int:
        use = self._use.get(project)
        return use.total if use else 0

    def guardian(self, project: str) -> ProjectView | None:
        """The nearest project, from itself upwards, that has a guarantee."""
        if not self.kept:
            return None
        return next((known for known in self._known(project) if known.guarantee is not None), None)

    def pool(self, project: str) -> str:
        guardian = self.guardian(project)
        return guardian.id if guardian else ROOT

    def settle(self, capacity: float = math.inf) -> set[str]:
        """Reckon what is left for each pool, of a fleet of `capacity` devices. The pools for which that has changed.

        What is used and wanted later counts from the next time on, so that a turn does not judge by its own marks.
        """
        before = self._allowances or {}
        left = {one.id: float(one.guarantee) for one in self.projects.values() if one.guarantee is not None}
        left[ROOT] = capacity
        self.unmet = False
        for one in self.projects.values():
            if one.guarantee is not None:
                claimed = min(one.guarantee, self.used(one.id) + self._wanted.get(one.id, 0))
                self.unmet = self.unmet or claimed > self.used(one.id)
                left[self.pool(one.parent)] -= claimed
        self._allowances = left
        return {pool for pool, devices in left.items() if before.get(pool) != devices}

    def allowance(self, pool: str) -> float:
        """Devices that work of this pool may use without borrowing, as of the last `settle`."""
        if self._allowances is None:
            self.settle()
        assert self._allowances is not None
        return self._allowances[pool]

    def lends(self, pool: str) -> bool:
        """Work of this pool uses more than its allowance."""
        own = self._own.get(pool)
        return own is not None and own.total > self.allowance(pool)

    def within(self, project: str, tier: Tier, devices: int) -> bool:
        """Whether `devices` more for work of this tier need not be borrowed. Weaker work yields to it."""
        if not self.kept:
            return True
        pool = self.pool(project)
        return _stronger(self._own.get(pool), strength(tier)) + devices <= self.allowance(pool)

    def has_turns(self, project: str, tier: Tier, devices: int) -> bool:
        """Whether `devices` would not be borrowed if others of its own tier and pool left for it."""
        pool = self.pool(project)
        return _stronger(self._own.get(pool), strength(tier) - 1) + devices <= self.allowance(pool)

    def blocked(self, project: str, tier: Tier, devices: int) -> ProjectView | None:
        """The project whose limit, or whose will not to borrow, stands against `devices` more."""
        if not self.guarded:
            return None
        firm = False
        for known in self._known(project):
            if known.limit is not None and self.used(known.id) + devices > known.limit:
                return known
            firm = firm or not known.borrow
            if known.guarantee is None:
                continue
            if firm and _stronger(self._use.get(known.id), strength(tier)) + devices > known.guarantee:
                return known
            firm = False
        return None

    def share(self, project: str) -> tuple[float, ...]:
        """Devices per weight from the root down: less is served first among equals."""
        found = self._shares.get(project)
        if found is None:
            upwards = self.path(project)
            found = self._shares[project] = tuple(self.used(name) / self._weight(name) for name in reversed(upwards))
        return found

    def _weight(self, name: str) -> float:
        known = self.projects.get(name)
        return known.weight if known else 1.0

    def _known(self, project: str) -> Iterator[ProjectView]:
        return (self.projects[name] for name in self.path(project) if name in self.projects)


def _add(uses: dict[str, Use], name: str, tier: Tier, devices: int) -> None:
    use = uses.get(name)
    if use is None:
        use = uses[name] = Use()
    use.by_tier[strength(tier)] += devices
    use.total += devices


def _stronger(use: Use | None, weakest: int) -> int:
    """Devices of the tiers up to `weakest`, the strongest being 0."""
    return sum(use.by_tier[: weakest + 1]) if use else 0


def check(projects: Iterable[ProjectView]) -> None:
    """Raises QuotaTrouble for the first thing that contradicts itself."""
    listed = list(projects)
    by_id = {project.id: project for project in listed}
    for project in listed:
        _check_one(project, by_id)
    if len(by_id) != len(listed):
        twice = next(one.id for one in listed if sum(other.id == one.id for other in listed) > 1)
        raise QuotaTrouble(f"project {twice} is declared twice; keep one of them", twice)
    for project in listed:
        _check_way_up(project, by_id)
    _check_promises(listed)


def _check_one(project: ProjectView, by_id: dict[str, ProjectView]) -> None:
    name = project.id
    if not name:
        raise QuotaTrouble("a project has no name; give it one")
    if not (math.isfinite(project.weight) and project.weight > 0):
        raise QuotaTrouble(f"project {name} has weight {project.weight:g}; a weight is a number above 0", name)
    for word, number in (("guarantee", project.guarantee), ("limit", project.limit)):
        if number is not None and number < 0:
            raise QuotaTrouble(f"project {name} has a {word} of {number} devices; it cannot be negative", name)
    if project.guarantee is not None and project.limit is not None and project.guarantee > project.limit:
        raise QuotaTrouble(
            f"project {name} is guaranteed {project.guarantee} devices but limited to {project.limit}; "
            "raise the limit or lower the guarantee",
            name,
        )
    if project.parent and project.parent not in by_id:
        raise QuotaTrouble(f"project {name} is below {project.parent}, which is not declared; declare that too", name)


def _check_way_up(project: ProjectView, by_id: dict[str, ProjectView]) -> None:
    seen = [project.id]
    while by_id[seen[-1]].parent:
        above = by_id[seen[-1]].parent
        if above in seen:
            circle = " → ".join([*seen[seen.index(above) :], above])
            raise QuotaTrouble(f"projects are below each other in a circle: {circle}; break it", above)
        seen.append(above)
    if len(seen) > DEPTH_MAX:
        raise QuotaTrouble(f"project {project.id} is {len(seen)} levels deep; {DEPTH_MAX} is the most", project.id)


def _check_promises(listed: list[ProjectView]) -> None:
    """No project promises more than it has, through levels without a guarantee of their own too."""
    below: dict[str, list[ProjectView]] = {}
    for one in listed:
        below.setdefault(one.parent, []).append(one)
    for parent in listed:
        most = parent.guarantee if parent.guarantee is not None else parent.limit
        nearest = list(_nearest_promises(parent.id, below)) if most is not None else []
        promised = sum(one.guarantee or 0 for one in nearest)
        if most is not None and promised > most:
            names = ", ".join(f"{one.id} {one.guarantee}" for one in nearest if one.guarantee)
            raise QuotaTrouble(
                f"the children of project {parent.id} are guaranteed {promised} devices ({names}), but {parent.id} "
                f"itself only {most}; lower theirs or raise its own",
                parent.id,
            )


def _nearest_promises(parent: str, below: dict[str, list[ProjectView]]) -> Iterator[ProjectView]:
    """The nearest projects with a guarantee on every way down."""
    for one in below.get(parent, ()):
        if one.guarantee is not None:
            yield one
        else:
            yield from _nearest_promises(one.id, below)
