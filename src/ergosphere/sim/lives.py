"""One simulated job: where it stands, how much work is left, and what became of it. Physics only, no decisions."""

from __future__ import annotations

from dataclasses import dataclass, field

from ergosphere.core.lifecycle import Event, step
from ergosphere.core.model import Cell, Phase, Placement, Why
from ergosphere.sim.fraction import Span
from ergosphere.sim.works import Work


@dataclass(slots=True)
class Life:
    """A work in the world. `left_s`: seconds of work left at full width and speed; `rate`: work done per second.

    `computing`: devices' worth of progress now (0 while it stands); `version` rises whenever an event foreseen for it
    becomes void.
    """

    work: Work
    left_s: float
    phase: Phase = Phase.WAITING
    version: int = 0
    incarnation: int = 0
    cells: tuple[Cell, ...] = ()
    seats: Placement = ()
    going_to: Placement = ()
    home: tuple[str, ...] = ()
    why: Why | None = None  # while FREEZING
    cause: str = "queue"  # why it does not compute: the word of `core.fraction.Cause`
    blocked: int = 0  # works it still waits for
    wanted: bool = True  # False: a replica beyond what the load asks for
    arrived: bool = False  # it was there when the simulation began
    rate: float = 0.0
    computing: float = 0.0
    since_s: float = 0.0
    present_s: float = 0.0  # entitlement begins here: submission, or the end of what it was after
    saved_left_s: float = 0.0  # `left_s` at the newest snapshot or checkpoint
    spans: list[Span] = field(default_factory=list)
    started_s: float | None = None
    ended_s: float | None = None
    pauses: int = 0
    moves: int = 0
    resizes: int = 0
    restarts: int = 0  # evictions and failures that went back to a checkpoint
    faults: int = 0
    lost_s: float = 0.0  # seconds of work done twice because of the scheduler
    lost_to_faults_s: float = 0.0
    standing_device_s: float = 0.0  # devices held without computing
    held_since_s: float | None = None

    def step(self, event: Event) -> None:
        """Raises `core.lifecycle.StepRefused` where the table has nothing."""
        self.phase = step(self.phase, event)

    def settle(self, now_s: float) -> None:
        """Book what was done since `since_s`, and the devices that stood."""
        passed_s = now_s - self.since_s
        if passed_s > 0.0:
            if self.rate > 0.0:
                self.left_s -= passed_s * self.rate
                self._remember(now_s)
            elif self.seats:
                self.standing_device_s += passed_s * len(set(self.seats))
        self.since_s = now_s

    def _remember(self, now_s: float) -> None:
        if self.spans and self.spans[-1][1] == self.since_s and self.spans[-1][2] == self.computing:
            self.spans[-1] = (self.spans[-1][0], now_s, self.computing)
        else:
            self.spans.append((self.since_s, now_s, self.computing))

    def save(self, every_s: float) -> None:
        """Where the newest periodic copy stands: one for every `every_s` of work since the last one that was kept."""
        done_s = self.saved_left_s - self.left_s
        if every_s > 0 and done_s >= every_s:
            self.saved_left_s -= every_s * (done_s // every_s)

    def roll_back(self) -> float:
        """Back to the newest copy; the seconds of work that have to be done again."""
        lost_s = self.saved_left_s - self.left_s
        self.left_s = self.saved_left_s
        return lost_s
