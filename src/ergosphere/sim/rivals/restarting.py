"""Rivals without snapshots: what they preempt or resize is ended and starts again from what its program saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ergosphere.core.model import TIER_ORDER, Decision, JobId, Placement, Plan, Tier
from ergosphere.sim.decisions import Evict
from ergosphere.sim.lives import Life
from ergosphere.sim.rivals.judge import NEVER, begin
from ergosphere.sim.scene import Scene, plan_of

ADJUST_S: Final = 600.0  # how often the elastic rival reconsiders widths


class PriorityEvict:
    """Tiers as priority classes; a job that does not fit evicts weaker ones, the youngest first.

    Sources: Kueue's preemption within a cluster queue (lower priority first, then the most recently admitted),
    Volcano's preempt action and Slurm's PreemptMode=REQUEUE: all end the victim, which starts again from its last
    checkpoint.
    """

    name = "priority, evict and restart"
    source = "Kueue, Volcano, Slurm documentation"
    knows_future = False
    transparent = False

    def judge(self, scene: Scene) -> Plan:
        decisions: list[Decision | Evict] = []
        leaving: set[str] = set()
        weaker = _by_weakness(scene.running.values())
        coming = 0  # devices that evictions of this turn free: their jobs start in the next one
        for life in sorted(scene.waiting.values(), key=_turn):
            placement = None if coming else scene.pool.place(life.work.devices)
            if placement is not None:
                scene.pool.take(life.work.id, placement)
                decisions.append(begin(life, placement))
            elif life.work.tier is not Tier.BASIC:
                freed = self._evict(life, weaker, leaving, scene.pool.free + coming, decisions)
                coming = coming + freed - life.work.devices if freed else coming
        return plan_of(decisions)

    def alarm_s(self, scene: Scene) -> float:
        return NEVER

    def _evict(
        self, life: Life, weaker: Sequence[Life], leaving: set[str], free: int, decisions: list[Decision | Evict]
    ) -> int:
        """Devices freed for `life`; 0 when even all weaker jobs are not enough."""
        victims: list[Life] = []
        gained = 0
        for other in weaker:
            if free + gained >= life.work.devices:
                break
            if _strength(other) > _strength(life) and other.work.id not in leaving:
                victims.append(other)
                gained += other.work.devices
        if free + gained < life.work.devices:
            return 0
        for other in victims:
            leaving.add(other.work.id)
            decisions.append(Evict(JobId(other.work.id)))
        return gained


def _strength(life: Life) -> int:
    return TIER_ORDER.index(life.work.tier)


def _turn(life: Life) -> tuple[int, float, str]:
    return (_strength(life), life.work.submit_s, life.work.id)


def _by_weakness(lives: object) -> list[Life]:
    return sorted(lives, key=lambda one: (-_strength(one), -one.since_s, one.work.id))  # type: ignore[call-overload, no-any-return]


class ElasticRestart:
    """Widths follow the load: every job its smallest part first, then doubled while devices are left; a change of
    width saves, ends and starts the program again, with linear scaling.

    Sources: Optimus (Peng et al., EuroSys 2018) and ElasticFlow (Gu et al., ASPLOS 2023): allocations adjusted in
    intervals by checkpoint and restart, job widths in powers of two.
    """

    name = "elastic by restart"
    source = "Peng et al., EuroSys 2018; Gu et al., ASPLOS 2023"
    knows_future = False
    transparent = False

    def __init__(self, adjust_s: float = ADJUST_S) -> None:
        self._adjust_s = adjust_s
        self._next_s = 0.0
        self._wanted: dict[str, int] = {}

    def judge(self, scene: Scene) -> Plan:
        decisions: list[Decision | Evict] = []
        if scene.now_s >= self._next_s:
            self._next_s = (scene.now_s // self._adjust_s + 1) * self._adjust_s
            self._wanted = widths([*scene.waiting.values(), *scene.running.values()], self._devices(scene))
            for key, life in scene.running.items():
                if self._wanted.get(key, 0) != len(set(life.seats)):
                    decisions.append(Evict(JobId(key), saved=True))
        for life in sorted(scene.waiting.values(), key=lambda one: (one.work.submit_s, one.work.id)):
            width = self._wanted.get(life.work.id, 0)
            placement = scene.pool.place(width) if width else None
            if placement is not None:
                shared = spread(placement, life.work.devices)
                scene.pool.take(life.work.id, shared)
                decisions.append(begin(life, shared))
        return plan_of(decisions)

    def alarm_s(self, scene: Scene) -> float:
        return self._next_s if scene.waiting or scene.running else NEVER

    def _devices(self, scene: Scene) -> int:
        return scene.pool.free + sum(len(set(life.seats)) for life in scene.running.values())


def spread(seats: Placement, ranks: int) -> Placement:
    """One seat per rank, neighbours together."""
    return tuple(seats[rank * len(seats) // ranks] for rank in range(ranks))


def widths(lives: Sequence[Life], devices: int) -> dict[str, int]:
    """How many devices each gets: the smallest part in the order of arrival, then doubled while some are left."""
    given: dict[str, int] = {}
    left = devices
    order = sorted(lives, key=lambda one: (one.work.submit_s, one.work.id))
    for life in order:
        if life.work.devices_min <= left:
            given[life.work.id] = life.work.devices_min
            left -= life.work.devices_min
    growing = [life for life in order if life.work.id in given]
    while growing and left > 0:
        still = []
        for life in growing:
            more = given[life.work.id]
            if 2 * more <= life.work.devices and life.work.devices % (2 * more) == 0 and more <= left:
                given[life.work.id] += more
                left -= more
                still.append(life)
        growing = still
    return given
