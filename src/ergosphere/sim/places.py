"""What the world is made of beside lives: machines as they are now, what each tier has, and the breach of a law."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ergosphere.core.model import Cell, Placement
from ergosphere.sim.fleets import Machine


class Broken(AssertionError):
    """An oracle spoke: a policy ordered what cannot be, or the simulator lost something."""


@dataclass(slots=True)
class Place:
    """A machine as it is now. `slow`: the share of its speed that is left; `failures`: when it went away."""

    machine: Machine
    up: bool = True
    leaves_s: float | None = None
    slow: float = 1.0
    failures: list[float] = field(default_factory=list)
    sitting: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Standing:
    """A work that is there already when a simulation begins. `seats` (): frozen or waiting. `home`: per cell, where its
    images lie; with neither it has never started. `told`: more that is known of it, fields of `core.model.JobView`."""

    id: str
    seats: Placement = ()
    cells: tuple[Cell, ...] = ()
    home: tuple[str, ...] = ()
    told: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Level:
    """What one tier has now, in devices: asked for by jobs that are there, held, and computing."""

    asked: int = 0
    held: int = 0
    computing: float = 0.0
    queued: int = 0  # jobs that are there and do not hold devices
