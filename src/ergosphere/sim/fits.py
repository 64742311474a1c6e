"""Whether a work could ever run on a fleet: where it is, of what type, and what its project is limited to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ergosphere.core.policy.quota import Tree
from ergosphere.sim.fleets import Fleet
from ergosphere.sim.works import Work

Place = tuple[str, str, str, float]  # region, cluster, type, memory of a device in GiB


@dataclass(frozen=True, slots=True)
class Never:
    """Why a work will never run, and what would change that."""

    why: str
    remedy: str


class Room:
    """What a fleet could hold if nobody else were there. `shares`: our policy lets ranks share devices where the whole
    fleet has fewer than they are; no rival does."""

    def __init__(self, fleet: Fleet, *, shares: bool = False) -> None:
        self.shares = shares
        self.places: dict[Place, int] = {}
        for one in fleet.machines:
            place = (one.region, one.cluster, one.kind, one.memory_gib)
            self.places[place] = self.places.get(place, 0) + one.devices
        self.tree = Tree(fleet.projects)
        self.total = sum(self.places.values())
        self._able: dict[tuple[object, ...], dict[Place, int]] = {}  # by what a work asks of a device

    def never(self, work: Work) -> Never | None:
        """None where it can run."""
        return self._too_wide(work) or self._beyond_quota(work)

    def _too_wide(self, work: Work) -> Never | None:
        asked = (work.speeds, work.regions, work.memory_gib)
        able = self._able.get(asked)
        if able is None:
            able = {place: devices for place, devices in self.places.items() if fits_on(work, place)}
            self._able[asked] = able
        most = max(_together(able).values(), default=0)
        if (work.devices_min if self.shares and self.total < work.devices else work.devices) <= most:
            return None
        needs = f"needs {work.devices:,} devices"
        if work.devices <= sum(able.values()):
            words = f"{needs} of one type in one cluster, the most there are {most:,}"
        elif len(able) == len(self.places):
            words = f"{needs}, the whole fleet has {self.total:,}"
        else:
            words = f"{needs}{_wishes(work)}, the fleet has {sum(able.values()):,}"
        return Never(words, "name a larger fleet with --fleet, or leave the job out")

    def _beyond_quota(self, work: Work) -> Never | None:
        """Ranks may share the devices that a project may have."""
        least = work.devices_min
        for name in self.tree.path(work.project):
            known = self.tree.projects.get(name)
            if known is not None and known.limit is not None and least > known.limit:
                words = f"needs {least:,} devices, project {name} is limited to {known.limit:,}"
                return Never(words, f"raise the limit of project {name}")
        against = self.tree.blocked(work.project, work.tier, least)
        if against is None:
            return None
        words = f"needs {least:,} devices, project {against.id} is guaranteed {against.guarantee:,}"
        return Never(f"{words} and does not borrow", f"raise the guarantee of project {against.id}, or let it borrow")


def fits_on(work: Work, place: Place) -> bool:
    """As `core.policy.packing.pools_for` has it."""
    region, _, kind, memory_gib = place
    types: Mapping[str, float] = dict(work.speeds)
    return (
        (not types or kind in types)
        and (not work.regions or region in work.regions)
        and (not memory_gib or memory_gib >= work.memory_gib)
    )


def _together(able: Mapping[Place, int]) -> dict[tuple[str, str, str], int]:
    """Devices by region, cluster and type: a gang does not leave one, whatever the memory of those that suit it."""
    found: dict[tuple[str, str, str], int] = {}
    for (region, cluster, kind, _), devices in able.items():
        found[region, cluster, kind] = found.get((region, cluster, kind), 0) + devices
    return found


def _wishes(work: Work) -> str:
    """What it asks of a device."""
    types = f" of type {' or '.join(kind for kind, _ in work.speeds)}" if work.speeds else ""
    memory = f" with {work.memory_gib:g} GiB" if work.memory_gib else ""
    return f"{types}{memory}{' in ' + ' or '.join(work.regions) if work.regions else ''}"
