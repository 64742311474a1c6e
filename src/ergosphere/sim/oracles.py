"""What must hold in every simulation: safety at each turn, exactness at the end. A breach raises Broken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ergosphere.core.model import Tier
from ergosphere.sim.lives import Life
from ergosphere.sim.places import Broken
from ergosphere.sim.world import World

EXACT: Final = 1e-6  # of the work: rounding
EVERY_TURNS: Final = 512  # how often the books are compared from scratch; seats are checked at every order


@dataclass(slots=True)
class Oracles:
    turns: int = 0

    def look(self, world: World) -> None:
        """After a turn: no more devices are held than are there, and the books say what is so."""
        held = sum(level.held for level in world.levels.values())
        if held > len(world.holder):
            raise Broken(f"{held} devices are counted as held, {len(world.holder)} are")
        self.turns += 1
        if self.turns % EVERY_TURNS == 0:
            _compare(world)

    def close(self, world: World, stuck: tuple[str, ...]) -> None:
        """At the end: every work was done exactly once over, and nothing was left behind."""
        if not world.live and world.holder:
            raise Broken(f"{len(world.holder)} devices are held though nobody is left")
        for life in world.ended:
            _check_work(life)


def _compare(world: World) -> None:
    for tier in Tier:
        lives = [life for life in world.live.values() if life.work.tier is tier]
        held = sum(len(set(life.seats)) for life in lives)
        if held != world.levels[tier].held:
            raise Broken(f"{tier} jobs hold {held} devices, the books say {world.levels[tier].held}")
    for seat, key in world.holder.items():
        life = world.live.get(key)
        if life is None or (seat not in life.seats and seat not in life.going_to):
            raise Broken(f"{seat} is booked for {key}, which does not have it")


def _check_work(life: Life) -> None:
    """What it computed is its work and what was lost of it: no less, no more."""
    speed_known = not life.work.speeds or all(speed == 1.0 for _, speed in life.work.speeds)
    if not speed_known or life.faults:
        return
    done = sum((end - begin) * rate for begin, end, rate in life.spans)
    due = (life.work.duration_s + life.lost_s) * life.work.devices
    if done < due * (1 - EXACT) - EXACT:
        raise Broken(f"{life.work.id} ended with {done:.3f} of {due:.3f} device-seconds done")
