"""Rivals that preempt by rank: whoever ranks first and fits, runs; the rest is frozen, at our mechanism's costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from ergosphere.core.model import Decision, Phase, Plan
from ergosphere.sim.decisions import Evict
from ergosphere.sim.lives import Life
from ergosphere.sim.rivals.judge import NEVER, attained, begin, left_s, preempt
from ergosphere.sim.scene import Scene, plan_of

ROUND_S: Final = 360.0  # Gavel's round
DEMOTED_DEVICE_S: Final = 3_600.0 * 4  # served for so long, a job goes to the second queue; the public codes' figures
# come out with it
NEAR: Final = 1.0  # device-seconds: rounding, and no alarm for less


class Ranked:
    """Serves gangs by rank, all devices open to preemption. Subclasses say the rank, and when it changes by itself."""

    name = ""
    source = ""
    knows_future = False
    transparent = True

    def judge(self, scene: Scene) -> Plan:
        if not scene.waiting:
            return plan_of([])
        movable = [*scene.waiting.values(), *scene.running.values()]
        free = scene.pool.free + sum(len(set(life.seats)) for life in scene.running.values())
        decisions: list[Decision | Evict] = []
        starting: list[Life] = []
        for life in self.ranked(movable, scene):
            if life.work.devices <= free:
                free -= life.work.devices
                if life.phase is not Phase.RUNNING:
                    starting.append(life)
            elif life.phase is Phase.RUNNING:
                decisions.append(preempt(life))
        return plan_of([*decisions, *_begun(starting, scene)])

    def fill(self, scene: Scene) -> Plan:
        """Between rounds: what is free goes to whoever ranks first and fits; nobody has to leave."""
        if not scene.waiting or not scene.pool.free:
            return plan_of([])
        return plan_of(_begun(self.ranked([*scene.waiting.values()], scene), scene))

    def ranked(self, lives: Sequence[Life], scene: Scene) -> list[Life]:
        """The first to be served first."""
        raise NotImplementedError

    def alarm_s(self, scene: Scene) -> float:
        return NEVER


def _begun(lives: Sequence[Life], scene: Scene) -> list[Decision | Evict]:
    """Orders for those of `lives` that find seats, the first served first."""
    decisions: list[Decision | Evict] = []
    for life in lives:
        placement = scene.pool.place(life.work.devices)
        if placement is not None:
            scene.pool.take(life.work.id, placement)
            decisions.append(begin(life, placement))
    return decisions


class Srtf(Ranked):
    """Shortest remaining time first with an oracle: the best mean JCT that a list can give on one device."""

    name = "SRTF (oracle)"
    source = "textbook; knows every duration"
    knows_future = True

    def ranked(self, lives: Sequence[Life], scene: Scene) -> list[Life]:
        now_s = scene.now_s
        return sorted(lives, key=lambda life: (left_s(life, now_s), life.work.submit_s, life.work.id))


class Tiresias(Ranked):
    """Discretised two-dimensional least attained service with two queues.

    Source: Gu et al., "Tiresias: A GPU Cluster Manager for Distributed Deep Learning", NSDI 2019. Inside a queue first
    in first out; a job is demoted once its devices × time exceed the threshold.
    """

    name = "Tiresias (2-queue LAS)"
    source = "Gu et al., NSDI 2019"

    def __init__(self, demoted_device_s: float = DEMOTED_DEVICE_S) -> None:
        self._demoted = demoted_device_s

    def ranked(self, lives: Sequence[Life], scene: Scene) -> list[Life]:
        def rank(life: Life) -> tuple[bool, float, str]:
            return (self._left(life, scene.now_s) <= NEAR, life.work.submit_s, life.work.id)

        return sorted(lives, key=rank)

    def alarm_s(self, scene: Scene) -> float:
        """When the next running job is demoted."""
        if not scene.waiting:
            return NEVER
        rest_s = (
            left / (life.work.devices * life.rate)
            for life in scene.running.values()
            if life.rate > 0 and (left := self._left(life, scene.now_s)) > NEAR
        )
        return scene.now_s + min(rest_s, default=NEVER)

    def _left(self, life: Life, now_s: float) -> float:
        """Device-seconds of service until it is demoted."""
        return self._demoted - attained(life, now_s)


@dataclass(slots=True)
class _Rounds:
    """Turns are taken in rounds. The turns at the instant at which one begins belong to it: who was frozen in the first
    of them has made room in the second."""

    every_s: float
    next_s: float = 0.0
    began_s: float = -1.0

    def begins(self, now_s: float) -> bool:
        """True in the first turn of a round."""
        if now_s < self.next_s:
            return False
        self.next_s = (now_s // self.every_s + 1) * self.every_s
        self.began_s = now_s
        return True


class Las(Ranked):
    """Least attained service, continuous, in rounds.

    Source: the LAS policy of Gavel (Narayanan et al., OSDI 2020), itself after Tiresias.
    """

    name = "LAS (rounds)"
    source = "Narayanan et al., OSDI 2020"

    def __init__(self, round_s: float = ROUND_S, *, fills: bool = True) -> None:
        self._rounds = _Rounds(round_s)
        self._fills = fills

    def judge(self, scene: Scene) -> Plan:
        if self._rounds.begins(scene.now_s):
            return super().judge(scene)
        return self.fill(scene) if self._fills or scene.now_s == self._rounds.began_s else plan_of([])

    def ranked(self, lives: Sequence[Life], scene: Scene) -> list[Life]:
        now_s = scene.now_s
        return sorted(lives, key=lambda life: (attained(life, now_s), life.work.submit_s, life.work.id))

    def alarm_s(self, scene: Scene) -> float:
        return self._rounds.next_s if scene.waiting else NEVER


@dataclass(slots=True)
class _Served:
    """What a job got since Gavel last allocated: seconds run and seconds present."""

    share: float = 0.0
    ran_s: float = 0.0
    present_s: float = 0.0


@dataclass(slots=True)
class _Books:
    of: dict[str, _Served] = field(default_factory=dict)
    at_s: float = 0.0


class Gavel(Ranked):
    """Max-min fairness over time: everybody the same device-time, in rounds, whoever is furthest behind first.

    Source: Narayanan et al., "Heterogeneity-Aware Cluster Scheduling Policies for Deep Learning Workloads", OSDI 2020,
    §4.1 and §5: allocation X by water filling (for one device type that is the linear program's solution), and the
    priority of a job in a round is X ÷ the share of the rounds it was given.
    """

    name = "Gavel max-min"
    source = "Narayanan et al., OSDI 2020"

    def __init__(self, round_s: float = ROUND_S, *, fills: bool = True) -> None:
        self._rounds = _Rounds(round_s)
        self._books = _Books()
        self._fills = fills

    def judge(self, scene: Scene) -> Plan:
        self._book(scene)
        if not self._rounds.begins(scene.now_s):
            return self.fill(scene) if self._fills or scene.now_s == self._rounds.began_s else plan_of([])
        return super().judge(scene)

    def ranked(self, lives: Sequence[Life], scene: Scene) -> list[Life]:
        devices = scene.pool.free + sum(len(set(life.seats)) for life in scene.running.values())
        shares = fair_shares({life.work.id: life.work.devices for life in lives}, devices)

        def rank(life: Life) -> tuple[float, float, str]:
            one = self._books.of[life.work.id]
            had = one.ran_s / one.present_s if one.present_s else 0.0
            priority = shares[life.work.id] / had if had else float("inf")
            return (-priority, life.work.submit_s, life.work.id)

        return sorted(lives, key=rank)

    def alarm_s(self, scene: Scene) -> float:
        return self._rounds.next_s if scene.waiting else NEVER

    def _book(self, scene: Scene) -> None:
        """Credit the time since the last round to everybody who was there."""
        passed_s, self._books.at_s = scene.now_s - self._books.at_s, scene.now_s
        present = {**scene.waiting, **scene.holding}
        books = {key: self._books.of.get(key) or _Served() for key in present}
        for key, one in books.items():
            if key in self._books.of:
                one.present_s += passed_s
                one.ran_s += passed_s if key in scene.running else 0.0
        self._books.of = books


def fair_shares(gangs: dict[str, int], devices: int) -> dict[str, float]:
    """The share of the time each gang runs so that all get the same device-time, none more than all the time.

    Water filling: gangs in the order of their width have their fill first.
    """
    shares: dict[str, float] = {}
    left = float(devices)
    order = sorted(gangs, key=lambda key: (gangs[key], key))
    for place, key in enumerate(order):
        level = left / (len(order) - place)  # device-time for each of the rest
        given = min(float(gangs[key]), level)
        shares[key] = given / gangs[key]
        left -= given
    return shares
