"""Measured speeds of models by device type, from a table `model,gpus,gpu_type,steps_per_s`."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from ergosphere.sim.faulty import Faults
from ergosphere.sim.fleets import Fleet
from ergosphere.sim.works import Trace, Work

COLUMNS: Final = ("model", "gpus", "gpu_type", "steps_per_s")
APART: Final = "_unconsolidated"  # Gavel's rows for gangs over several nodes: placement is the policy's, not the type's

Table = Mapping[tuple[str, int], Mapping[str, float]]  # by model and devices: steps a second by type


def read(path: Path) -> Table:
    """Raises Faulty, naming every line that cannot be meant."""
    faults = Faults(str(path))
    try:
        reader = csv.DictReader(io.StringIO(path.read_text("utf-8-sig")))
    except (OSError, UnicodeDecodeError) as error:
        faults.add(0, f"cannot be read: {error}", "data/gavel_throughputs.csv comes with us")
        faults.check()
    lacking = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if lacking:
        faults.add(1, f"no column {', '.join(lacking)}", f"name them in the first line: {','.join(COLUMNS)}")
    faults.check()
    found: dict[tuple[str, int], dict[str, float]] = {}
    for row in reader:
        try:
            gpus, rate = int(row["gpus"]), float(row["steps_per_s"])
        except (TypeError, ValueError):
            gpus, rate = 0, math.nan
        short = any(row[name] is None for name in COLUMNS)
        if short or gpus < 1 or not 0 <= rate < math.inf:
            faults.add(reader.line_num, "holds no speed", "a whole number of GPUs, and steps a second from 0 on")
        elif rate > 0 and not row["gpu_type"].endswith(APART):
            found.setdefault((row["model"].strip(), gpus), {})[row["gpu_type"].strip()] = rate
    faults.check()
    return found


def measured(trace: Trace, table: Table, fleet: Fleet) -> Trace:
    """Works with the speeds of their models; durations are taken to be of the fastest type. Types are written as the
    fleet writes them. A work keeps what the trace says of it: its own speeds, or the types it is confined to."""
    spelled = {one.kind.casefold(): one.kind for one in fleet.machines}
    works = tuple(_measured(one, table, spelled) for one in trace.works)
    unknown = sorted({one.model for one in works if one.model and not one.speeds})
    if not unknown:
        return replace(trace, works=works)
    words = f"of {', '.join(unknown[:3])}{' …' if len(unknown) > 3 else ''} no speed is known: any type is taken, at 1"
    return replace(trace, works=works, notes=(*trace.notes, words))


def _measured(work: Work, table: Table, spelled: Mapping[str, str]) -> Work:
    rates = table.get((work.model, work.devices))
    if not rates or any(speed != 1.0 for _, speed in work.speeds):
        return work
    fastest = max(rates.values())
    speeds = {spelled.get(kind.casefold(), kind): rate / fastest for kind, rate in rates.items()}
    allowed = {kind for kind, _ in work.speeds} or set(speeds)
    usable = tuple((kind, speed) for kind, speed in speeds.items() if kind in allowed)
    return replace(work, speeds=usable or work.speeds)
