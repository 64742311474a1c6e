"""What freezing, thawing, moving, resizing and failing cost in simulated time, from measured or published figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

from ergosphere.core.costs import thaw_there_s
from ergosphere.sim.faulty import Faults

# Singularity (arXiv 2202.07848, as quoted in the design, §8): moving a job takes 28–64 s on 16 GPUs, of which 19–25 s
# are not transfer; resizing 31–69 s. The defaults stand in the middle of that.
FREEZE_S: Final = 12.0
THAW_S: Final = 12.0
TRANSFER_S: Final = 24.0  # more for a thaw away from where the images lie
RESIZE_S: Final = 45.0
START_S: Final = 30.0  # imports, data loaders, first compilation: also what a restart from a checkpoint costs
SPLICE_OVERHEAD: Final = 0.04  # beyond ideal when ranks take turns: Singularity's +1.4 to +5.5 %
CHECKPOINT_EVERY_S: Final = 1_800.0  # how often users' own programs save: what evict-and-restart falls back to
SNAPSHOT_EVERY_S: Final = 1_800.0  # how often ours are taken against failures
SNAPSHOT_S: Final = 0.0  # a periodic snapshot stops the ranks for so long
DETECT_S: Final = 13.0  # lease and margin: until a node that vanished is given up
SECONDS_MAX: Final = 86_400.0
EXAMPLE: Final = '{"freeze_s": 12, "thaw_s": 12}'
MEASURED: Final = {"freeze": "freeze_s", "thaw": "thaw_s", "resize": "resize_s"}  # by a part of a bench row's name
UNITS: Final = {"s": 1.0, "ms": 0.001}


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds, but for `splice_overhead` (a share). A work's own figures, where it has some, are not kept here."""

    start_s: float = START_S
    freeze_s: float = FREEZE_S
    thaw_s: float = THAW_S
    transfer_s: float = TRANSFER_S
    resize_s: float = RESIZE_S
    splice_overhead: float = SPLICE_OVERHEAD
    checkpoint_every_s: float = CHECKPOINT_EVERY_S
    snapshot_every_s: float = SNAPSHOT_EVERY_S
    detect_s: float = DETECT_S

    def computing(self, ranks: int, seats: int) -> float:
        """Devices' worth of work that `ranks` on `seats` distinct devices get done."""
        return float(ranks) if seats >= ranks else seats / (1.0 + self.splice_overhead)

    def thawing_s(self, *, away: bool) -> float:
        """As the policy reckons it, too. `away`: from where the images lie."""
        return thaw_there_s(self.thaw_s, self.transfer_s, away=away)


NOTHING: Final = Costs(
    start_s=0.0, freeze_s=0.0, thaw_s=0.0, transfer_s=0.0, resize_s=0.0, splice_overhead=0.0, detect_s=0.0
)  # the ideal world of the public simulators: everything but waiting is free


def read(path: Path) -> Costs:
    """Costs from a JSON file: seconds by name, or the rows that `make bench GROUP=mechanism` wrote. Raises Faulty."""
    faults = Faults(str(path))
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        faults.add(getattr(error, "lineno", 0), f"cannot be read: {error}", EXAMPLE)
        faults.check()
    if not isinstance(found, dict):
        faults.add(1, "holds no costs", EXAMPLE)
        faults.check()
    measured = _from_bench(found["rows"], faults) if "rows" in found else _named(found, faults)
    faults.check()
    return replace(Costs(), **measured)


def _named(found: Mapping[str, Any], faults: Faults) -> dict[str, float]:
    known = {one.name for one in fields(Costs)}
    for name, number in found.items():
        if name not in known:
            faults.add(0, f"no cost is called {name}", f"there is {', '.join(sorted(known))}")
        elif isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= SECONDS_MAX:
            faults.add(0, f"{name}: {number!r} cannot be meant", f"seconds from 0 to {SECONDS_MAX:g}")
    return dict(found)


def _from_bench(rows: object, faults: Faults) -> dict[str, float]:
    """Medians over the rows about freezing, thawing and resizing, where there are such."""
    measured: dict[str, list[float]] = {}
    for one in rows if isinstance(rows, list) else []:
        name = f"/{one.get('name', '')}" if isinstance(one, dict) else ""
        word = next((cost for part, cost in MEASURED.items() if f"/{part}" in name), None)
        value, unit = (one.get("value"), one.get("unit")) if word else (None, None)
        if unit in UNITS and isinstance(value, int | float) and 0 <= value * UNITS[unit] <= SECONDS_MAX:
            measured.setdefault(str(word), []).append(value * UNITS[unit])
    if not measured:
        words = "no row is about freeze, thaw or resize, in s or ms"
        faults.add(0, words, "make bench GROUP=mechanism writes some, or name seconds: " + EXAMPLE)
    return {cost: median(values) for cost, values in measured.items()}


def from_lives(freezes_s: list[float], thaws_s: list[float], uploads_s: list[float], costs: Costs) -> Costs:
    """`costs` with the medians of what a live fleet measured: one figure of each kind for each job that was frozen."""
    if not freezes_s:
        return costs
    return replace(costs, freeze_s=median(freezes_s), thaw_s=median(thaws_s), transfer_s=median(uploads_s))
