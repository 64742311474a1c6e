"""Desks: what a judge sits at. A rival's has a `Scene`; ours has the service's own `Board` (see `board_desk`)."""

from __future__ import annotations

from dataclasses import replace

from ergosphere.core.model import Plan
from ergosphere.core.policy.rules import Rules
from ergosphere.sim.costs import Costs
from ergosphere.sim.rivals.judge import Rival
from ergosphere.sim.rivals.restarting import ElasticRestart
from ergosphere.sim.scene import Scene
from ergosphere.sim.world import World


class RivalDesk:
    """A rival in the service's own loop."""

    def __init__(self, rival: Rival, *, together: bool = False) -> None:
        self.rival = rival
        self.together = together
        self.name = rival.name
        self.transparent = rival.transparent
        self._scene: Scene | None = None

    def costs(self, costs: Costs) -> Costs:
        """A program that was restarted at another width does not take turns: it has no overhead."""
        return replace(costs, splice_overhead=0.0) if isinstance(self.rival, ElasticRestart) else costs

    def open(self, world: World) -> None:
        self._scene = Scene.of(world, together=self.together)

    def view(self, world: World) -> Scene:
        assert self._scene is not None
        self._scene.refresh(world)
        return self._scene

    def judge(self, view: Scene, rules: Rules) -> Plan:
        return self.rival.judge(view)

    def took(self, plan: Plan, world: World) -> None:
        """A rival keeps its own books."""

    def alarm_s(self) -> float:
        assert self._scene is not None
        return self.rival.alarm_s(self._scene)

    def stirs(self, world: World, *, alarm: bool) -> bool:
        return world.news or alarm
