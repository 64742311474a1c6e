"""Group `policy`, the simulator's share: how fast it plays recorded weeks, and that it says what other codes say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

from bench.report import Row, row
from ergosphere.sim import many
from ergosphere.sim.costs import NOTHING
from ergosphere.sim.desks import RivalDesk
from ergosphere.sim.engine import Run, Scenario, play
from ergosphere.sim.figures import figures
from ergosphere.sim.fleets import Fleet, made_for, pooled, uniform
from ergosphere.sim.many import Task
from ergosphere.sim.reading import read
from ergosphere.sim.recipes import replicated
from ergosphere.sim.rivals.judge import Rival
from ergosphere.sim.rivals.queues import fifo, sjf
from ergosphere.sim.rivals.ranked import Gavel, Srtf, Tiresias
from ergosphere.sim.works import Trace
from ergosphere.system import SystemStopwatch

DATA: Final = Path(__file__).resolve().parent.parent / "data"
PLAY_S_MAX: Final = 300.0  # one play, as the clock goes: beyond, it is given up and said to be so

# name, trace, fleet, policy, goal and bar in CPU seconds
PLAYED: Final[tuple[tuple[str, str, int, str, float, float], ...]] = (
    ("T1024, our policy", "common_T1024.csv.gz", 1_024, "ergosphere", 2.0, 5.0),
    ("T1024, FIFO", "common_T1024.csv.gz", 1_024, "fifo", 2.0, 5.0),
    ("ITP whole, our policy", "itp_jobs.csv.gz", 0, "ergosphere", 20.0, 60.0),
    ("Philly whole, our policy", "philly_jobs.csv.gz", 0, "ergosphere", 20.0, 60.0),
    ("Philly whole, FIFO", "philly_jobs.csv.gz", 0, "fifo", 20.0, 60.0),
    ("10,240 GPUs and 120,730 jobs, FIFO", "tenfold", 10_240, "fifo", 20.0, 60.0),
    ("10,240 GPUs and 120,730 jobs, our policy", "tenfold", 10_240, "ergosphere", 20.0, 60.0),
)
QUICK: Final = PLAYED[:2]


def measure(quick: bool) -> list[Row]:
    """Each play in a process of its own, so that its memory is its own."""
    rows = _truths(quick)
    for number, (name, *_, goal, bar) in enumerate(QUICK if quick else PLAYED):
        found = _alone(number)
        if found is None:
            rows.append(row(f"simulate {name}", [PLAY_S_MAX], "s", goal=goal, bar=bar, against="given up"))
            continue
        busy_s, events, turns, memory = found
        against = f"{events / busy_s:,.0f} events/s, {turns:,.0f} turns, {memory:,.0f} MiB"
        rows.append(row(f"simulate {name}", [busy_s], "s", goal=goal, bar=bar, against=against))
    return rows


def _alone(number: int) -> tuple[float, ...] | None:
    """Plays one of `PLAYED` in a fresh interpreter; None when that takes longer than PLAY_S_MAX."""
    code = f"from bench.simulator import tell; tell({number})"
    try:
        told = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=PLAY_S_MAX, check=True
        )
    except subprocess.TimeoutExpired:
        return None
    return tuple(float(word) for word in told.stdout.split()[-4:])


def tell(number: int) -> None:
    """Play one of `PLAYED` and print CPU seconds, events, turns and MiB."""
    _, name, devices, policy, _, _ = PLAYED[number]
    trace = _trace(name)
    told = figures(many.run(Task(policy, Scenario(trace, _fleet(trace, devices)))))
    if told.ended != told.jobs:
        raise AssertionError(f"{told.ended} of {told.jobs} jobs ended")
    print(told.busy_s, told.events, told.turns, many.memory_bytes() / 2**20)


def _trace(name: str) -> Trace:
    return replicated(read(DATA / "common_T1024.csv.gz"), 10) if name == "tenfold" else read(DATA / name)


def _fleet(trace: Trace, devices: int) -> Fleet:
    return uniform(devices // 8) if devices else made_for(trace, 0.8)


def _truths(quick: bool) -> list[Row]:
    """How far our mean completion times are from those that other simulators gave, in per cent."""
    t64, t1024 = read(DATA / "common_T64.csv"), read(DATA / "common_T1024.csv.gz")
    found = [
        _truth("FIFO with skip, T64", _pooled(t64, 64, fifo(skip=True)), 28_583.67, 1e-3, 1e-2),
        _truth("strict FIFO, T64", _pooled(t64, 64, fifo(skip=False)), 42_221, 1e-3, 1e-2),
        _truth("SJF, T64", _pooled(t64, 64, sjf()), 18_892, 1e-2, 1e-1),
        _truth("FIFO with skip, T1024", _pooled(t1024, 1_024, fifo(skip=True)), 21_620.22, 1e-3, 1e-2),
        _truth("SJF, T1024", _pooled(t1024, 1_024, sjf()), 15_884, 1e-2, 1e-1),
        _truth("Tiresias, T64, beside Lucid's", _on_nodes(t64, 8, Tiresias()), 23_511, 1.0, 3.0),
        _truth("SRTF, T64, beside Lucid's", _on_nodes(t64, 8, Srtf()), 18_534, 3.0, 10.0),
        _truth("max-min, T64, beside Gavel's", _on_nodes(t64, 8, Gavel(fills=False)), 23_122, 3.0, 10.0),
    ]
    if not quick:
        found.append(_truth("Tiresias, T1024, beside Lucid's", _on_nodes(t1024, 128, Tiresias()), 18_057, 1.0, 3.0))
        found.append(_truth("max-min, T1024, beside Gavel's", _on_nodes(t1024, 128, Gavel(fills=False)), 18_110, 3, 10))
    return found


def _truth(name: str, ours_s: float, theirs_s: float, goal: float, bar: float) -> Row:
    off = 100 * abs(ours_s - theirs_s) / theirs_s
    return row(f"mean JCT off, {name}", [off], "%", goal=goal, bar=bar, against=f"{ours_s:,.2f} s · {theirs_s:,.2f} s")


def _pooled(trace: Trace, devices: int, rival: Rival) -> float:
    return _mean_jct_s(Scenario(trace, pooled(devices), NOTHING), RivalDesk(rival))


def _on_nodes(trace: Trace, nodes: int, rival: Rival) -> float:
    return _mean_jct_s(Scenario(trace, uniform(nodes), NOTHING), RivalDesk(rival, together=True))


def _mean_jct_s(scenario: Scenario, desk: RivalDesk) -> float:
    played: Run = play(scenario, desk, SystemStopwatch())
    every = [(one.ended_s or 0.0) - one.work.submit_s for one in played.world.ended]
    return sum(every) / len(every)
