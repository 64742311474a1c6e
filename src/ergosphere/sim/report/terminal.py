"""Figures as tables on the terminal, one column a run: policies and fleets side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ergosphere.core.fraction import PROMISE
from ergosphere.sim.bound import Bound
from ergosphere.sim.figures import Figures

HOUR_S: Final = 3_600.0


def hours(seconds: float) -> str:
    """A simulated time as people read it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * HOUR_S:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / HOUR_S:.1f} h" if seconds < 100 * HOUR_S else f"{seconds / 86_400:.1f} d"


def real(seconds: float) -> str:
    """A time of ours."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def per_cent(share: float) -> str:
    return f"{100 * share:.2f} %"


_ROWS: Final[tuple[tuple[str, Callable[[Figures], str]], ...]] = (
    ("jobs ended", lambda one: f"{one.ended:,} of {one.jobs:,}"),
    ("JCT mean", lambda one: hours(one.jct_mean_s)),
    ("JCT p50", lambda one: hours(one.jct_p50_s)),
    ("JCT p99", lambda one: hours(one.jct_p99_s)),
    ("waiting, mean", lambda one: hours(one.wait_mean_s)),
    ("waiting, p99", lambda one: hours(one.wait_p99_s)),
    ("allocated of what demand allows", lambda one: per_cent(one.allocation)),
    ("computing, of the capacity", lambda one: per_cent(one.utilisation)),
    ("useful work ÷ devices held", lambda one: per_cent(one.goodput)),
    ("pauses a job-day", lambda one: f"{one.pauses_per_job_day:.2f}"),
    ("moves a job-day", lambda one: f"{one.moves_per_job_day:.2f}"),
    ("resizes a job-day", lambda one: f"{one.resizes_per_job_day:.2f}"),
    ("device-hours they stood still", lambda one: f"{one.standing_h:,.0f}"),
    ("device-hours lost to preemption", lambda one: f"{one.lost_h:,.0f}"),
    ("device-hours lost to failures", lambda one: f"{one.lost_to_faults_h:,.0f}"),
    ("largest gang that fits, mean", lambda one: f"{one.largest_gap:.1f}"),
    ("events · turns", lambda one: f"{one.events:,} · {one.turns:,}"),
    ("CPU time · events a second", lambda one: f"{real(one.busy_s)} · {one.events_per_s:,.0f}"),
    ("a turn, p50 · p99", lambda one: f"{real(one.turn_p50_s)} · {real(one.turn_p99_s)}"),
)


def told(every: Sequence[Figures], best: Bound | None = None, memory_bytes: int = 0) -> Group:
    """The whole report of runs over one trace."""
    first = every[0]
    lines: list[RenderableType] = [
        Text.assemble((first.trace, "bold"), f"  {first.jobs:,} jobs on {first.devices:,} devices ({first.fleet})")
    ]
    lines += [_general(every), _tiers(every)]
    if best is not None:
        lines.append(_bound(every, best))
    stuck = [one for one in every if one.stuck]
    lines += [Text(f"{one.policy}: {one.stuck} jobs never ended", "yellow") for one in stuck]
    if memory_bytes:
        lines.append(Text(f"memory at most {memory_bytes / 2**20:,.0f} MiB", "dim"))
    return Group(*lines)


_SEVERAL: Final[tuple[tuple[str, Callable[[Figures], float], Callable[[float], str]], ...]] = (
    ("JCT mean", lambda one: one.jct_mean_s, hours),
    ("JCT p99", lambda one: one.jct_p99_s, hours),
    ("waiting, mean", lambda one: one.wait_mean_s, hours),
    ("allocated of what demand allows", lambda one: one.allocation, per_cent),
    ("premium hours kept", lambda one: one.tiers[0].attainment, per_cent),
    ("standard hours kept", lambda one: one.tiers[1].attainment, per_cent),
    ("pauses a job-day", lambda one: one.pauses_per_job_day, lambda value: f"{value:.2f}"),
    ("device-hours they stood still", lambda one: one.standing_h, lambda value: f"{value:,.0f}"),
)


def several(every: Sequence[Figures], best: Bound | None = None) -> Group:
    """Runs over many seeds: per policy the median, and the lowest and the highest. `best` is of the first seed."""
    by_policy: dict[str, list[Figures]] = {}
    for one in every:
        by_policy.setdefault(one.policy, []).append(one)
    table = Table(title=f"{every[0].trace} on {every[0].fleet}", title_justify="left")
    table.add_column("median (lowest – highest)")
    for name, of in by_policy.items():
        table.add_column(f"{name}, {len(of)} seeds", justify="right")
    for name, value, word in _SEVERAL:
        table.add_row(name, *(_range([value(one) for one in of], word) for of in by_policy.values()))
    if best is not None:
        lowest = best.jct_s or 1.0
        beside = (_range([one.jct_mean_s / lowest for one in of], "{:.2f}".format) for of in by_policy.values())
        table.add_row(f"JCT mean ÷ the bound, {hours(best.jct_s)}", *beside)
        table.caption = f"promised load: {best.guaranteed_load:.0%} of the capacity"
    stuck = [one for one in every if one.stuck]
    unended = [Text(f"{one.policy}, seed {one.seed}: {one.stuck} jobs never ended", "yellow") for one in stuck]
    return Group(table, *unended)


def _range(values: list[float], word: Callable[[float], str]) -> str:
    return f"{word(median(values))} ({word(min(values))} – {word(max(values))})"


def _table(every: Sequence[Figures], title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="dim")
    table.add_column("")
    for number, one in enumerate(every):
        table.add_column(one.policy, justify="right", style="bold" if number == 0 else "")
    return table


def _general(every: Sequence[Figures]) -> Table:
    table = _table(every, "")
    for name, word in _ROWS:
        table.add_row(name, *(word(one) for one in every))
    return table


def _tiers(every: Sequence[Figures]) -> Table:
    table = _table(every, "GPU fraction by tier: delivered of what was promised")
    for place, tier in enumerate(every[0].tiers):
        promise = PROMISE[tier.tier]
        of = [one.tiers[place] for one in every]
        name = f"{tier.tier} (promise {promise:.0%})" if promise else f"{tier.tier} (best effort)"
        table.add_row(f"[bold]{name}[/]", *(f"{one.jobs:,} jobs" for one in of))
        table.add_row("  fraction", *(f"{one.fraction:.4f}" for one in of))
        if promise:
            table.add_row("  hours kept", *(per_cent(one.attainment) for one in of))
            table.add_row("  jobs kept over their life", *(per_cent(one.jobs_kept) for one in of))
            table.add_row("  deficit, device-hours", *(f"{one.deficit_h:,.1f}" for one in of))
            table.add_row("  p1 · p5 of the hours", *(f"{one.p1:.2f} · {one.p5:.2f}" for one in of))
            table.add_row("  longest run of missed hours", *(str(one.longest_h) for one in of))
        table.add_row("  waiting, mean", *(hours(one.wait_mean_s) for one in of))
        table.add_row("  JCT mean", *(hours(one.jct_mean_s) for one in of))
    return table


def _bound(every: Sequence[Figures], best: Bound) -> Table:
    table = _table(every, "beside the upper bound: fluid, no gangs, no costs, every duration known")
    lowest = best.jct_s or 1.0
    table.add_row(f"JCT mean ÷ {hours(best.jct_s)}", *(f"{one.jct_mean_s / lowest:.2f}" for one in every))
    for place, tier in enumerate(every[0].tiers):
        if PROMISE[tier.tier]:
            must = best.deficit_h[tier.tier]
            name = f"{tier.tier}: deficit beyond {must:,.1f} device-hours"
            table.add_row(name, *(f"{max(0.0, one.tiers[place].deficit_h - must):,.1f}" for one in every))
    table.caption = f"promised load: {best.guaranteed_load:.0%} of the capacity"
    return table
