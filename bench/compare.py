"""`python -m bench.compare`: our policy beside its rivals and the upper bound, on recorded traces at several loads.

Tables on the terminal, CSV and JSON under build/compare/, the pictures and tables of docs/simulator.md with --docs.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from operator import attrgetter
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ergosphere.sim import fleets, many, policies
from ergosphere.sim.bound import Bound, bound
from ergosphere.sim.engine import Scenario
from ergosphere.sim.figures import Figures
from ergosphere.sim.many import Task
from ergosphere.sim.reading import read
from ergosphere.sim.recipes import window
from ergosphere.sim.works import Trace

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
DAY_S = 86_400.0
LOADS = (0.8, 1.0, 1.2)
OWN = 0.0  # the trace's own fleet
POLICIES = ("ergosphere", "fifo", "priority", "tiresias", "gavel", "partition", "elastic", "srtf")
ORACLES = frozenset({"SRTF (oracle)", "static partition"})  # know the future: the durations, each project's demand


@dataclass(frozen=True, slots=True)
class Case:
    """A trace with the number of devices that its own load is about."""

    name: str
    trace: Trace
    devices: int

    def scenario(self, load: float) -> Scenario:
        if load == OWN:
            return Scenario(self.trace, fleets.uniform(self.devices // fleets.NODE_DEVICES))
        return Scenario(self.trace, fleets.made_for(self.trace, load))


def cases(*, large: bool) -> list[Case]:
    """T64, two weeks of ITP with all its gangs, two weeks of Philly; with `large` T1024 too."""
    itp = window(read(DATA / "itp_jobs.csv.gz"), 44 * DAY_S, 51 * DAY_S)
    philly = window(read(DATA / "philly_jobs.csv.gz"), 60 * DAY_S, 67 * DAY_S)
    found = [
        Case("T64", read(DATA / "common_T64.csv"), 64),
        Case("ITP, a week", replace(itp, name="ITP, days 44–50"), own_devices(itp)),
        Case("Philly, a week", replace(philly, name="Philly, days 60–66"), own_devices(philly)),
    ]
    if large:
        found.append(Case("T1024", read(DATA / "common_T1024.csv.gz"), 1_024))
    return found


def own_devices(trace: Trace) -> int:
    """A fleet on which the mean demand makes 0.9: the traces do not say which part of their fleets they used."""
    return fleets.made_for(trace, 0.9).devices


@dataclass(frozen=True, slots=True)
class Row:
    case: str
    load: float
    figures: Figures
    best: Bound


def compare(every: Sequence[Case], loads: Sequence[float], names: Sequence[str], console: Console) -> list[Row]:
    """Every policy on every case at every load."""
    tasks, about = [], []
    for case in every:
        for load in loads:
            scenario = case.scenario(load)
            for name in names:
                tasks.append(Task(name, scenario))
                about.append((case, load))
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("playing", total=len(tasks))
        found = many.on_all_cores(many.measure, tasks, lambda done, of: progress.update(bar, completed=done, total=of))
    bounds: dict[tuple[str, float], Bound] = {}
    for (case, load), task in zip(about, tasks, strict=True):
        if (case.name, load) not in bounds:
            bounds[case.name, load] = bound(case.trace, task.scenario.fleet.devices)
    return [Row(case.name, load, one, bounds[case.name, load]) for (case, load), one in zip(about, found, strict=True)]


def dominated(ours: Figures, rivals: Sequence[Figures]) -> list[str]:
    """Rivals without knowledge of the future that are better in mean JCT and p99 JCT and no worse in attainment (the
    share of all promised hours that was kept)."""
    return [
        one.policy
        for one in rivals
        if one.policy not in ORACLES
        and one.jct_mean_s < ours.jct_mean_s
        and one.jct_p99_s < ours.jct_p99_s
        and one.attainment >= ours.attainment
    ]


def gaps(ours: Figures, rivals: Sequence[Figures]) -> list[str]:
    """For each figure, ours beside the best rival's that does not know the future."""
    able = [one for one in rivals if one.policy not in ORACLES]
    told = []
    for name, seconds in (("mean JCT", attrgetter("jct_mean_s")), ("p99 JCT", attrgetter("jct_p99_s"))):
        best = min(able, key=seconds)
        told.append(f"{name} {seconds(ours) / seconds(best):.2f} × that of {best.policy}")
    for name, share in (
        ("all promises", attrgetter("attainment")),
        ("premium", lambda one: one.tiers[0].attainment),
        ("standard", lambda one: one.tiers[1].attainment),
    ):
        best = max(able, key=share)
        told.append(f"{name} kept {100 * (share(ours) - share(best)):+.2f} points to {best.policy}")
    return told


def show(rows: Sequence[Row], console: Console) -> None:
    """A table a case and load, with the gap to the best rival per figure."""
    for key in dict.fromkeys((row.case, row.load) for row in rows):
        group = [row for row in rows if (row.case, row.load) == key]
        console.print(_table(group))
        console.print("".join(f"  {line}\n" for line in verdict(group)), highlight=False)


def _table(group: Sequence[Row]) -> Table:
    first = group[0]
    load = "its own load" if first.load == OWN else f"load {first.load:g}"
    title = f"{first.case}, {load}: {first.figures.jobs:,} jobs on {first.figures.devices:,} devices"
    table = Table(title=title, title_justify="left")
    names = ("policy", "JCT mean", "÷ bound", "JCT p99", "premium", "standard", "deficit h", "allocated", "computing")
    for name in (*names, "pauses/job-day", "stood h", "lost h", "CPU s"):
        table.add_column(name, justify="left" if name == "policy" else "right")
    for row in group:
        one = row.figures
        table.add_row(
            one.policy,
            f"{one.jct_mean_s:,.0f}",
            f"{one.jct_mean_s / row.best.jct_s:.2f}",
            f"{one.jct_p99_s:,.0f}",
            f"{100 * one.tiers[0].attainment:.2f} %",
            f"{100 * one.tiers[1].attainment:.2f} %",
            f"{sum(tier.deficit_h for tier in one.tiers):,.0f}",
            f"{100 * one.allocation:.1f} %",
            f"{100 * one.utilisation:.1f} %",
            f"{one.pauses_per_job_day:.2f}",
            f"{one.standing_h:,.0f}",
            f"{one.lost_h:,.0f}",
            f"{one.busy_s:.1f}",
        )
    return table


def verdict(group: Sequence[Row]) -> list[str]:
    """What the figures of one case and load come to; the first row is ours."""
    ours, best = group[0].figures, group[0].best
    rivals = [row.figures for row in group[1:]]
    must = " · ".join(f"{tier} {hours:,.1f} h" for tier, hours in best.deficit_h.items() if hours) or "none"
    load = f"promised load {best.guaranteed_load:.0%}"
    lines = [f"the bound: JCT ≥ {best.jct_s:,.0f} s, unavoidable deficit {must}, {load}"]
    if any(one.policy not in ORACLES for one in rivals):
        lines.append(f"beside the best rival: {', '.join(gaps(ours, rivals))}")
        lines.append(f"dominated by: {', '.join(dominated(ours, rivals)) or 'nobody'}")
    return lines


def write(rows: Sequence[Row], folder: Path) -> None:
    """CSV and JSON of every row."""
    folder.mkdir(parents=True, exist_ok=True)
    documents = []
    for row in rows:
        flat = {name: value for name, value in asdict(row.figures).items() if name != "tiers"}
        for tier in row.figures.tiers:
            flat |= {f"{tier.tier}_{name}": value for name, value in asdict(tier).items() if name != "tier"}
        bound_part = {"bound_jct_s": row.best.jct_s, "guaranteed_load": row.best.guaranteed_load}
        documents.append({"case": row.case, "load": row.load or "own", **flat, **bound_part})
    (folder / "compare.json").write_text(json.dumps(documents, indent=1) + "\n")
    with (folder / "compare.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(documents[0]))
        writer.writeheader()
        writer.writerows(documents)


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.compare", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="T64 alone, at its own load")
    parser.add_argument("--large", action="store_true", help="T1024 too: minutes more")
    parser.add_argument("--policy", default=",".join(POLICIES), help=f"of {', '.join(policies.NAMES)}")
    parser.add_argument("--docs", action="store_true", help="write the pictures and tables of docs/simulator.md")
    options = parser.parse_args()
    console = Console(width=170)
    every = cases(large=options.large)
    loads: Sequence[float] = (OWN, *LOADS)
    if options.quick:
        every, loads = every[:1], (OWN,)
    rows = compare(every, loads, options.policy.split(","), console)
    show(rows, console)
    write(rows, ROOT / "build/compare")
    console.print(f"memory at most {many.memory_bytes() / 2**20:,.0f} MiB; figures under build/compare/")
    if options.docs:
        from bench import doc_tables
        from bench.pictures import draw

        draw(rows, every[0], ROOT / "docs/images")
        doc_tables.write(rows, ROOT / "docs/simulator.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
