"""What a run leaves behind over time: devices asked for, held and computing by tier; the latency of each turn."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Final

from ergosphere.core.model import TIER_ORDER
from ergosphere.sim.world import World

SAMPLES_MAX: Final = 400_000  # moments kept; beyond, every second one is dropped and the step doubles
GAP_S: Final = 3_600.0  # how often the largest gang that fits is looked for


@dataclass(slots=True)
class Record:
    """Columns of equal length, one entry a moment at which something changed. Integrals are exact, whatever is kept."""

    devices: int
    at_s: array[float] = field(default_factory=lambda: array("d"))
    capacity: array[float] = field(default_factory=lambda: array("d"))
    asked: list[array[float]] = field(default_factory=lambda: [array("d") for _ in TIER_ORDER])
    held: list[array[float]] = field(default_factory=lambda: [array("d") for _ in TIER_ORDER])
    computing: list[array[float]] = field(default_factory=lambda: [array("d") for _ in TIER_ORDER])
    queued: list[array[float]] = field(default_factory=lambda: [array("d") for _ in TIER_ORDER])
    gaps: list[tuple[float, int, int]] = field(default_factory=list)  # at, free devices, most free on one node
    latencies_s: array[float] = field(default_factory=lambda: array("d"))
    held_s: float = 0.0  # device-seconds held
    usable_s: float = 0.0  # device-seconds that could have been held: the lesser of capacity and what was asked for
    computing_s: float = 0.0
    capacity_s: float = 0.0
    _last: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)
    _gap_due_s: float = 0.0
    _every: int = 1
    _skipped: int = 0

    def note(self, world: World) -> None:
        """Now is so."""
        levels = [world.levels[tier] for tier in TIER_ORDER]
        first, second, third = levels
        asked = first.asked + second.asked + third.asked
        held = first.held + second.held + third.held
        computing = first.computing + second.computing + third.computing
        self._integrate(world.now_s, held, min(asked, world.capacity), computing, world.capacity)
        if world.now_s >= self._gap_due_s:
            self._gap_due_s = world.now_s + GAP_S
            self.gaps.append((world.now_s, world.capacity - held, largest_gap(world)))
        self._skipped += 1
        if self._skipped < self._every:
            return
        self._skipped = 0
        self.at_s.append(world.now_s)
        self.capacity.append(world.capacity)
        for place, level in enumerate(levels):
            self.asked[place].append(level.asked)
            self.held[place].append(level.held)
            self.computing[place].append(level.computing)
            self.queued[place].append(level.queued)
        if len(self.at_s) > SAMPLES_MAX:
            self._thin()

    def latency_s(self, seconds: float) -> None:
        self.latencies_s.append(seconds)

    def _integrate(self, now_s: float, held: float, usable: float, computing: float, capacity: float) -> None:
        before_s, was_held, was_usable, was_computing, was_capacity = self._last
        passed_s = now_s - before_s
        self.held_s += passed_s * was_held
        self.usable_s += passed_s * was_usable
        self.computing_s += passed_s * was_computing
        self.capacity_s += passed_s * was_capacity
        self._last = (now_s, held, usable, computing, capacity)

    def _thin(self) -> None:
        self._every *= 2
        for column in (self.at_s, self.capacity, *self.asked, *self.held, *self.computing, *self.queued):
            column[:] = column[::2]


def largest_gap(world: World) -> int:
    """The most devices that are free on one machine."""
    free = {node: place.machine.devices for node, place in world.places.items() if place.up}
    for seat in world.holder:
        if seat.node in free:
            free[seat.node] -= 1
    return max(free.values(), default=0)
