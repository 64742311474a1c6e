"""The field's plots. Each function draws one into an axis; `page` puts them into a page, `compare` into pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ergosphere.core.fraction import PROMISE
from ergosphere.core.model import TIER_ORDER, Tier
from ergosphere.sim.engine import Run
from ergosphere.sim.figures import came, hours_by_tier, jcts_s, life_fraction, waits_s

HOUR_S: Final = 3_600.0
DAY_S: Final = 86_400.0
POINTS_MAX: Final = 2_000  # of one line
SIZE: Final = (6.4, 3.6)  # inches
COLOUR: Final = {Tier.PREMIUM: "#b8860b", Tier.STANDARD: "#2f6fad", Tier.BASIC: "#8a8a8a"}
STYLES: Final = ("-", "--", "-.", ":")

Draw = Callable[[Axes, Sequence[Run]], None]


def figure(draw: Draw, runs: Sequence[Run], title: str, size: tuple[float, float] = SIZE) -> Figure:
    """One plot on its own."""
    made = Figure(figsize=size, layout="constrained")
    axis = made.add_subplot()
    axis.set_title(title, fontsize=10, loc="left")
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)
    draw(axis, runs)
    return made


def allocation(axis: Axes, runs: Sequence[Run]) -> None:
    """Devices computing by tier over time, against the capacity and what is asked for."""
    record = runs[0].record
    days, step = np.asarray(record.at_s) / DAY_S, _step(len(record.at_s))
    layers = [np.asarray(record.computing[place])[::step] for place in range(len(TIER_ORDER))]
    colours = [COLOUR[tier] for tier in TIER_ORDER]
    axis.stackplot(days[::step], layers, labels=[str(tier) for tier in TIER_ORDER], colors=colours, alpha=0.85)
    asked = np.sum([np.asarray(column) for column in record.asked], axis=0)
    axis.plot(days[::step], np.asarray(record.capacity)[::step], color="black", lw=1, label="capacity")
    axis.set_ylim(0, 1.15 * max(record.capacity, default=1.0))
    axis.plot(days[::step], asked[::step], color="crimson", lw=0.6, alpha=0.7, label="asked for")
    _label(axis, "days", "devices")


def utilisation(axis: Axes, runs: Sequence[Run]) -> None:
    """The share of the capacity that computes, by policy, over six hours each."""
    for number, run in enumerate(runs):
        days, share = _smoothed(run)
        axis.plot(days, 100 * share, lw=1, ls=STYLES[number % len(STYLES)], label=run.policy)
    _label(axis, "days", "computing, % of capacity")


def queue(axis: Axes, runs: Sequence[Run]) -> None:
    """Jobs that wait, by tier, over time."""
    record, step = runs[0].record, _step(len(runs[0].record.at_s))
    days = np.asarray(record.at_s)[::step] / DAY_S
    for place, tier in enumerate(TIER_ORDER):
        axis.plot(days, np.asarray(record.queued[place])[::step], color=COLOUR[tier], lw=0.8, label=str(tier))
    _label(axis, "days", "jobs waiting")


def jct_cdf(axis: Axes, runs: Sequence[Run]) -> None:
    for number, run in enumerate(runs):
        _cdf(axis, [max(one, 1.0) / HOUR_S for one in jcts_s(run)], run.policy, number)
    axis.set_xscale("log")
    _label(axis, "job completion time, hours", "share of jobs")


def wait_cdf(axis: Axes, runs: Sequence[Run]) -> None:
    for number, run in enumerate(runs):
        _cdf(axis, [max(one, 1.0) / HOUR_S for one in waits_s(run)], run.policy, number)
    axis.set_xscale("log")
    _label(axis, "waiting for the first start, hours", "share of jobs")


def fraction_cdf(axis: Axes, runs: Sequence[Run]) -> None:
    """GPU fraction of the hours by tier, with each promise drawn in."""
    for tier in TIER_ORDER:
        windows = [
            (one.fraction, one.count * one.entitled)
            for _, of, windows in hours_by_tier(runs[0])
            if of is tier
            for one in windows
        ]
        if not windows:
            continue
        values, weights = np.array(sorted(windows)).T
        step = _step(len(values))
        shares = np.cumsum(weights) / np.sum(weights)
        axis.plot(values[::step], shares[::step], color=COLOUR[tier], lw=1.2, label=str(tier))
        if PROMISE[tier]:
            axis.axvline(PROMISE[tier], color=COLOUR[tier], ls=":", lw=1)
    _label(axis, "GPU fraction of an hour (dotted: the promise)", "share of entitled hours")


def attainment(axis: Axes, runs: Sequence[Run]) -> None:
    """Hours in which the promise was kept, by policy."""
    from ergosphere.sim.figures import figures

    every = [figures(run) for run in runs]
    places = np.arange(len(runs))
    for shift, tier in ((-0.2, 0), (0.2, 1)):
        kept = [100 * one.tiers[tier].attainment for one in every]
        name = TIER_ORDER[tier]
        axis.bar(places + shift, kept, 0.38, color=COLOUR[name], label=f"{name} ≥ {PROMISE[name]:.0%}")
    axis.set_xticks(places, [run.policy for run in runs], rotation=25, ha="right", fontsize=7)
    _label(axis, "", "hours kept, %")


def moves(axis: Axes, runs: Sequence[Run]) -> None:
    """How many jobs were paused, moved or resized how often."""
    ended = runs[0].world.ended
    for name, colour in (("pauses", "#b8860b"), ("moves", "#2f6fad"), ("resizes", "#5a9a5a")):
        counts = np.bincount([min(getattr(one, name), 20) for one in ended] or [0])
        axis.plot(np.arange(len(counts)), np.maximum(counts, 0.5), marker="o", ms=3, lw=1, color=colour, label=name)
    axis.set_yscale("log")
    _label(axis, "how often (20: or more)", "jobs")


def gaps(axis: Axes, runs: Sequence[Run]) -> None:
    """Fragmentation: free devices, and the most of them on one node."""
    for number, run in enumerate(runs[:3]):
        at_s, free, most = np.array(run.record.gaps or [(0.0, 0, 0)]).T
        style = STYLES[number % len(STYLES)]
        axis.plot(at_s / DAY_S, most, lw=0.9, ls=style, label=f"{run.policy}: largest gang on a node")
        if number == 0:
            axis.plot(at_s / DAY_S, free, lw=0.6, color="#bbbbbb", label="free devices")
    axis.set_yscale("symlog")
    _label(axis, "days", "devices")


def goodput(axis: Axes, runs: Sequence[Run]) -> None:
    """What became of the devices that were held: useful, standing, lost."""
    places = np.arange(len(runs))
    held = np.array([max(run.record.held_s, 1.0) for run in runs])
    useful = np.array([sum(one.work.device_seconds for one in run.world.ended) for run in runs])
    stood = np.array([sum(one.standing_device_s for one in came(run)) for run in runs])
    lost = np.array([sum(one.lost_s * one.work.devices for one in came(run)) for run in runs])
    for part, below, colour, name in (
        (useful, np.zeros(len(runs)), "#5a9a5a", "useful"),
        (stood, useful, "#2f6fad", "standing: start, freeze, thaw, resize"),
        (lost, useful + stood, "crimson", "lost to preemption"),
    ):
        axis.bar(places, 100 * part / held, 0.6, bottom=100 * below / held, color=colour, label=name)
    axis.set_xticks(places, [run.policy for run in runs], rotation=25, ha="right", fontsize=7)
    axis.set_ylim(60, 100.5)
    _label(axis, "", "% of device-hours held")


def by_width(axis: Axes, runs: Sequence[Run]) -> None:
    """The mean GPU fraction of jobs by their width: no bias against large gangs."""
    for number, run in enumerate(runs):
        found: dict[int, list[float]] = {}
        for life in came(run):
            found.setdefault(life.work.devices, []).append(life_fraction(life, run.world.now_s))
        widths = sorted(found)
        means = [sum(found[width]) / len(found[width]) for width in widths]
        axis.plot(widths, means, marker="o", ms=3, lw=1, ls=STYLES[number % len(STYLES)], label=run.policy)
    axis.set_xscale("log", base=2)
    _label(axis, "devices of a job", "mean GPU fraction over its life")


def latency(axis: Axes, runs: Sequence[Run]) -> None:
    for number, run in enumerate(runs):
        _cdf(axis, sorted(1e3 * one for one in run.record.latencies_s), run.policy, number)
    axis.set_xscale("log")
    _label(axis, "a turn, milliseconds", "share of turns")


EVERY: Final[tuple[tuple[str, Draw], ...]] = (
    ("Devices computing by tier", allocation),
    ("Utilisation", utilisation),
    ("Queue by tier", queue),
    ("Completion times", jct_cdf),
    ("Waiting times", wait_cdf),
    ("GPU fraction by tier", fraction_cdf),
    ("Promises kept", attainment),
    ("Pauses, moves and resizes", moves),
    ("Fragmentation", gaps),
    ("Goodput and lost work", goodput),
    ("Fraction against width", by_width),
    ("Decision latency", latency),
)


def _cdf(axis: Axes, ordered: Sequence[float], name: str, number: int) -> None:
    step = _step(len(ordered))
    shares = np.arange(1, len(ordered) + 1) / max(len(ordered), 1)
    axis.plot(ordered[::step], shares[::step], lw=1.1, ls=STYLES[number % len(STYLES)], label=name)


def _smoothed(run: Run) -> tuple[Any, Any]:
    """Six-hourly means of the share of the capacity that computes."""
    at_s = np.asarray(run.record.at_s)
    share = np.sum([np.asarray(one) for one in run.record.computing], axis=0) / np.maximum(run.record.capacity, 1)
    if len(at_s) < 2:
        return at_s / DAY_S, share
    edges = np.arange(0.0, at_s[-1] + 6 * HOUR_S, 6 * HOUR_S)
    area = np.concatenate([[0.0], np.cumsum(np.diff(at_s) * share[:-1])])
    means = np.diff(np.interp(edges, at_s, area)) / np.diff(edges)
    return (edges[:-1] + 3 * HOUR_S) / DAY_S, means


def _step(count: int) -> int:
    return max(1, count // POINTS_MAX)


def _label(axis: Axes, across: str, up: str) -> None:
    axis.set_xlabel(across, fontsize=8)
    axis.set_ylabel(up, fontsize=8)
    if axis.get_legend_handles_labels()[1]:
        axis.legend(fontsize=7, framealpha=0.6)
