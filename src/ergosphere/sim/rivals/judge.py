"""What a judge of the simulator is: a rule that looks at a scene and gives a plan. Rivals are such rules."""

from __future__ import annotations

from typing import Final, Protocol

from ergosphere.core.model import Freeze, JobId, Phase, Placement, Plan, Reason, Start, Thaw, Why
from ergosphere.sim.lives import Life
from ergosphere.sim.scene import Scene

NEVER: Final = float("inf")
GO: Final = Reason("rival", "its turn came")
LEAVE: Final = Reason("rival", "others come first")


class Rival(Protocol):
    """`knows_future`: an oracle that no real scheduler has. `transparent`: what it preempts goes on where it was."""

    name: str
    source: str
    knows_future: bool
    transparent: bool

    def judge(self, scene: Scene) -> Plan:
        """What is to be done now."""
        ...

    def alarm_s(self, scene: Scene) -> float:
        """When time alone may change that; infinity for never."""
        ...


def begin(life: Life, placement: Placement) -> Start | Thaw:
    """The order that brings a waiting life up, whether it is frozen or was never there."""
    key = JobId(life.work.id)
    return Thaw(key, placement, GO) if life.phase is Phase.FROZEN else Start(key, placement, GO)


def preempt(life: Life) -> Freeze:
    return Freeze(JobId(life.work.id), Why.PREEMPT, LEAVE)


def attained(life: Life, now_s: float) -> float:
    """Device-seconds of service that a life has had."""
    done_s = life.work.duration_s - life.left_s + (now_s - life.since_s) * life.rate
    return done_s * life.work.devices


def left_s(life: Life, now_s: float) -> float:
    """What only an oracle knows: seconds of work left."""
    return life.left_s - (now_s - life.since_s) * life.rate
