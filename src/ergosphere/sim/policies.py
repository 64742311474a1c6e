"""Policies by name: ours and the rivals, each at its desk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from ergosphere.core.suggest import unknown
from ergosphere.sim.board_desk import BoardDesk
from ergosphere.sim.desks import RivalDesk
from ergosphere.sim.engine import Desk, Scenario
from ergosphere.sim.faulty import Fault, Faulty
from ergosphere.sim.rivals.judge import Rival
from ergosphere.sim.rivals.queues import Partition, fifo, sjf
from ergosphere.sim.rivals.ranked import Gavel, Las, Srtf, Tiresias
from ergosphere.sim.rivals.restarting import ElasticRestart, PriorityEvict

OURS: Final = "ergosphere"

RIVALS: Final[Mapping[str, Callable[[Scenario], Rival]]] = {
    "fifo": lambda _: fifo(skip=True),
    "strict-fifo": lambda _: fifo(skip=False),
    "priority": lambda _: PriorityEvict(),
    "sjf": lambda _: sjf(),
    "srtf": lambda _: Srtf(),
    "tiresias": lambda _: Tiresias(),
    "las": lambda _: Las(),
    "gavel": lambda _: Gavel(),
    "partition": lambda scenario: Partition(scenario.trace.works, scenario.fleet.devices),
    "elastic": lambda _: ElasticRestart(),
}
NAMES: Final = (OURS, *RIVALS)
COMPARED: Final = (OURS, "fifo", "priority", "tiresias", "gavel", "partition", "elastic", "srtf")


def desk(name: str, scenario: Scenario) -> Desk:
    """A fresh desk for one run. Raises Faulty for a name nobody has."""
    if name == OURS:
        return BoardDesk(scenario.fleet, scenario.rules)
    if name not in RIVALS:
        remedy = f"there is {', '.join(NAMES)}"
        raise Faulty("policy", [Fault(0, unknown("policy", name, NAMES), remedy)])
    return RivalDesk(RIVALS[name](scenario))
