"""What goes wrong with machines, by a seed: failures and repairs, spot nodes taken away, nodes that are slow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from ergosphere.sim.agenda import Kind
from ergosphere.sim.fleets import Fleet
from ergosphere.sim.tiers import drawn
from ergosphere.system import Dice, dice

TAIL: Final = 2.0  # trouble goes on for so many spans of the trace, since the last jobs end after it
SPOT_NOTICE_S: Final = 120.0  # what the large clouds give
SPOT_AWAY_S: Final = 3_600.0
SLOW_S: Final = 4 * 3_600.0

Foreseen = tuple[float, Kind, Any]


@dataclass(frozen=True, slots=True)
class Trouble:
    """Mean hours between failures of a node, and between takings of a spot node; 0: never. `slow`: the share of the
    nodes that are stragglers at some time, at `slow_factor` of their speed. `flapping`: the first so many nodes fail
    every few minutes."""

    failure_h: float = 0.0
    repair_h: float = 2.0
    spot_h: float = 0.0
    slow: float = 0.0
    slow_factor: float = 0.5
    flapping: int = 0
    flap_s: float = 300.0


def trouble_events(trouble: Trouble, fleet: Fleet, span_s: float, seed: int) -> Iterator[Foreseen]:
    """All that will go wrong, node by node. Each node throws dice of its own, so that fleets can be compared."""
    until_s = span_s * TAIL
    for number, machine in enumerate(fleet.machines):
        if number < trouble.flapping:
            yield from _flaps(trouble, machine.id, until_s, seed)
        elif trouble.failure_h > 0:
            yield from _failures(trouble, machine.id, until_s, _dice(machine.id, seed))
        if machine.spot and trouble.spot_h > 0:
            yield from _spot(trouble, machine.id, until_s, _dice(f"{machine.id}/spot", seed))
        if drawn(f"{machine.id}/slow", seed) < trouble.slow:
            at_s = drawn(f"{machine.id}/when", seed) * span_s
            yield at_s, Kind.SLOW, (machine.id, trouble.slow_factor)
            yield at_s + SLOW_S, Kind.SLOW, (machine.id, 1.0)


def _dice(key: str, seed: int) -> Dice:
    return dice(int(drawn(key, seed) * 2**53))


def _failures(trouble: Trouble, node: str, until_s: float, throws: Dice) -> Iterator[Foreseen]:
    at_s = throws.expovariate(1.0 / (trouble.failure_h * 3_600.0))
    while at_s < until_s:
        back_s = at_s + throws.expovariate(1.0 / (trouble.repair_h * 3_600.0))
        yield at_s, Kind.NODE_DOWN, node
        yield back_s, Kind.NODE_UP, node
        at_s = back_s + throws.expovariate(1.0 / (trouble.failure_h * 3_600.0))


def _spot(trouble: Trouble, node: str, until_s: float, throws: Dice) -> Iterator[Foreseen]:
    at_s = throws.expovariate(1.0 / (trouble.spot_h * 3_600.0))
    while at_s < until_s:
        yield at_s, Kind.SPOT_NOTICE, (node, at_s + SPOT_NOTICE_S)
        yield at_s + SPOT_NOTICE_S, Kind.NODE_DOWN, node
        at_s += SPOT_NOTICE_S + SPOT_AWAY_S
        yield at_s, Kind.NODE_UP, node
        at_s += throws.expovariate(1.0 / (trouble.spot_h * 3_600.0))


def _flaps(trouble: Trouble, node: str, until_s: float, seed: int) -> Iterator[Foreseen]:
    at_s = drawn(f"{node}/flap", seed) * trouble.flap_s
    while at_s < until_s:
        yield at_s, Kind.NODE_DOWN, node
        yield at_s + trouble.flap_s / 5, Kind.NODE_UP, node
        at_s += trouble.flap_s
