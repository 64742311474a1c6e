"""What a rival sees: who waits, who runs, which devices are free. Kept up to date by what changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from ergosphere.core.model import HOLDS_SEATS, Decision, Phase, Plan
from ergosphere.sim.decisions import Evict
from ergosphere.sim.lives import Life
from ergosphere.sim.pool import Pool
from ergosphere.sim.world import World


@dataclass(slots=True)
class Scene:
    """`waiting` wants devices (never started, evicted or frozen); `holding` has some; `arrived` and `left` since the
    last turn. A rival may look at a life's past; only an oracle looks at `left_s`."""

    now_s: float
    pool: Pool
    waiting: dict[str, Life] = field(default_factory=dict)
    holding: dict[str, Life] = field(default_factory=dict)
    running: dict[str, Life] = field(default_factory=dict)
    came: list[Life] = field(default_factory=list)
    left: list[Life] = field(default_factory=list)

    @staticmethod
    def of(world: World, *, together: bool) -> Scene:
        nodes = ((key, place.machine.devices) for key, place in world.places.items())
        return Scene(world.now_s, Pool(nodes, together=together))

    def refresh(self, world: World) -> None:
        """Take in what changed since the last time."""
        self.now_s = world.now_s
        self.came, self.left = [], []
        for node, place in world.places_touched.items():
            self.pool.set_up(node, up=place.up and place.leaves_s is None)
        for key, life in world.touched.items():
            self._file(key, life)
        world.places_touched.clear()
        world.touched.clear()

    def _file(self, key: str, life: Life) -> None:
        waited = self.waiting.pop(key, None)
        self.holding.pop(key, None)
        self.running.pop(key, None)
        self.pool.take(key, life.seats)
        if life.ended_s is not None:
            self.left.append(life)
        elif life.phase in HOLDS_SEATS:
            self.holding[key] = life
            if life.phase is Phase.RUNNING:
                self.running[key] = life
        elif not life.blocked and life.wanted:
            self.waiting[key] = life
            if waited is None:
                self.came.append(life)


def plan_of(decisions: Sequence[Decision | Evict]) -> Plan:
    """A rival's plan: decisions alone, without reasons. The simulator's world carries out Evict too."""
    return Plan(cast("tuple[Decision, ...]", tuple(decisions)))
