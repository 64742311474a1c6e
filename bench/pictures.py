"""The pictures of docs/simulator.md: attainment and completion times against load, and one week in detail."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from ergosphere.core.fraction import PROMISE
from ergosphere.sim.many import Task, run
from ergosphere.sim.report import plots

if TYPE_CHECKING:
    from bench.compare import Case, Row

DPI = 80  # small enough to be kept with the sources
WIDE = (6.0, 3.4)
WEEK = ("ergosphere", "fifo", "priority", "tiresias")


def draw(rows: Sequence[Row], case: Case, folder: Path) -> None:
    """Every picture as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    _save(_against_load(rows, _kept, "hours in which the promise was kept, %"), folder / "kept-against-load.png")
    _save(_against_load(rows, _mean, "mean JCT ÷ the bound's"), folder / "jct-against-load.png")
    runs = [run(Task(name, case.scenario(1.0))) for name in WEEK]
    for name, draw_one, title in (
        ("week-by-tier", plots.allocation, "Our policy, T64 at load 1: devices computing by tier"),
        ("fraction-cdf", plots.fraction_cdf, "Our policy: GPU fraction of the hours"),
        ("jct-cdf", plots.jct_cdf, "Completion times"),
        ("goodput", plots.goodput, "What became of the devices held"),
    ):
        _save(plots.figure(draw_one, runs, title, WIDE), folder / f"{name}.png")


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=DPI)


def _kept(row: Row) -> dict[str, float]:
    tiers = row.figures.tiers[:2]
    return {f"{one.tier} ≥ {PROMISE[one.tier]:.0%}": 100 * one.attainment for one in tiers}


def _mean(row: Row) -> dict[str, float]:
    return {"": row.figures.jct_mean_s / row.best.jct_s}


def _against_load(rows: Sequence[Row], value: object, name: str) -> Figure:
    """One panel a trace: a line a policy (and tier), over the loads that were scaled."""
    cases = list(dict.fromkeys(row.case for row in rows))
    made = Figure(figsize=(4.2 * len(cases), 3.6), layout="constrained")
    for axis, case in zip(made.subplots(1, len(cases), squeeze=False)[0], cases, strict=True):
        axis.set_title(case, fontsize=9, loc="left")
        axis.grid(alpha=0.25)
        axis.tick_params(labelsize=7)
        axis.set_xlabel("load: mean demand ÷ devices", fontsize=8)
        axis.set_ylabel(name, fontsize=8)
        for number, policy in enumerate(dict.fromkeys(row.figures.policy for row in rows)):
            lines: dict[str, list[tuple[float, float]]] = {}
            for row in rows:
                if row.case == case and row.load and row.figures.policy == policy:
                    for label, height in value(row).items():  # type: ignore[operator]
                        lines.setdefault(label, []).append((row.load, height))
            for style, points in zip(("-", "--"), lines.values(), strict=False):
                colour = "black" if number == 0 else f"C{number - 1}"
                shown = policy if style == "-" else None
                axis.plot(*zip(*sorted(points), strict=True), style, color=colour, lw=1.8 - 0.8 * (number > 0),
                          marker="o", ms=3, label=shown)  # fmt: skip
        axis.legend(fontsize=6)
    return made
