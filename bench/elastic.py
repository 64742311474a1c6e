"""Group `elastic`: what several ranks on one device cost beyond the ideal, what they hold, and what exact sums cost.

The ideal of k ranks on one device: k times the forward and backward pass of one rank (the same DDP program, alone and
without us), and one optimizer step. Nothing that is done because there are k ranks is in it: no reduction, no check."""

from __future__ import annotations

import os
from statistics import median
from typing import Any

from bench import resizing
from bench.report import Row, row
from bench.sharing import Seats, everywhere, networks, on_one_device, run, side_by_side

MODELS = {"conv": (0.0, 3.0), "transformer": (0.0, 3.0), "mlp": (8.0, 15.0)}  # goal and bar, percent
SIZES_MB = (1, 25, 100)
STEPS = {"conv": 14, "transformer": 14, "mlp": 26}  # memory is looked at 5 s after ranks began to step together
SKIPPED = 7


def measure(quick: bool) -> list[Row]:
    rows: list[Row] = []
    for part in (sums_rows, slicing_rows, resizing.rows):
        for each in part(quick):
            print(f"  {each.name}: {each.value:.3g} {each.unit} (goal {each.goal:.3g}, bar {each.bar:.3g})", flush=True)
            rows.append(each)
    return rows


# ── exact sums ───────────────────────────────────────────────────────────────────────────────────────────────────


def sums_rows(quick: bool) -> list[Row]:
    """Ratio of the exact all-reduce's time to that of Gloo's own, in alternation within the same processes."""
    rows = []
    cores = tuple(sorted(os.sched_getaffinity(0)))
    for ranks in (2,) if quick else (2, 4):
        devices = tuple(f"a/{rank}" for rank in range(ranks))
        rows += [_sums_row("host", everywhere(devices, cores), size, quick) for size in SIZES_MB]
        with networks(ranks) as (names, addresses):
            apart = Seats(ranks, tuple(f"h{rank}/0" for rank in range(ranks)), cores, names, addresses)
            rows += [_sums_row("network", apart, size, quick) for size in SIZES_MB]
    return rows


def _sums_row(where: str, seats: Seats, size_mb: int, quick: bool) -> Row:
    told = run(seats, "reductions.py", str(size_mb), "4" if quick else "16" if size_mb < 100 else "8")[0]
    goal, bar = (0.6, 1.0) if where == "host" else (1.0, 1.15)
    against = f"Gloo's own, {1000 * told['gloo_s']:.3g} ms"
    name = f"elastic/sums/{where}/{seats.ranks}x{size_mb}MB"
    return row(name, told["ratios"], "x", goal=goal, bar=bar, against=against)


# ── several ranks on one device ──────────────────────────────────────────────────────────────────────────────────


def slicing_rows(quick: bool) -> list[Row]:
    rows = []
    for model, (goal, bar) in MODELS.items():
        for ranks in (2,) if quick else (2, 4):
            rows += _slicing_rows(model, ranks, goal, bar, 1 if quick else 3)
    return rows


def _slicing_rows(model: str, ranks: int, goal: float, bar: float, pairs: int) -> list[Row]:
    told = [_pair(model, ranks) for _ in range(pairs)]
    name = f"elastic/slicing/{model}{ranks}"
    cpu = [100 * (pair["spliced"] / pair["ideal"] - 1) for pair in told]
    wall = [100 * (pair["spliced_wall"] / pair["ideal_wall"] - 1) for pair in told]
    floor = median(100 * pair["floor"] / pair["ideal"] for pair in told)
    ideal = f"ideal {1000 * median(pair['ideal'] for pair in told):.0f} ms; floor of the sum alone +{floor:.1f} %"
    rows = [
        row(f"{name}/cpu", cpu, "%", goal=goal, bar=bar, against=ideal),
        row(f"{name}/wall", wall, "%", goal=goal, bar=bar, against="the same, wall time"),
    ]
    if model == "mlp":
        rows += _mlp_rows(name, ranks, told)
    return rows


def _mlp_rows(name: str, ranks: int, told: list[dict[str, Any]]) -> list[Row]:
    ratio = [pair["spliced_wall"] / pair["plain_wall"] for pair in told]
    burnt = [pair["spliced"] / pair["plain"] for pair in told]
    against = f"{ranks} plain processes on the same core"
    rows = [
        row(f"{name}/plain/wall", ratio, "x", goal=0.6, bar=0.75, against=against),
        row(f"{name}/plain/cpu", burnt, "x", goal=0.6, bar=0.75, against=f"{against}, CPU time"),
    ]
    if ranks == 4:
        held = [pair["shared_once"] for pair in told]
        note = "(P+O) over; each rank's own memory taken off by the PSS of plain ranks less their P+O"
        rows.append(row("elastic/memory/mlp4", held, "x", goal=1.1, bar=1.3, against=note))
    return rows


def _pair(model: str, ranks: int) -> dict[str, Any]:
    alone = _train(side_by_side(1), model)[0]
    spliced = _train(on_one_device(ranks), model)
    pair: dict[str, Any] = {
        "ideal": ranks * alone["cpu_s"] + alone["step_s"],
        "ideal_wall": ranks * (alone["wall_s"] - alone["step_s"]) + alone["step_s"],
        "spliced": sum(rank["total_s"] for rank in spliced),
        "spliced_wall": median(rank["wall_s"] for rank in spliced),
        "floor": _floor_s(alone["parameter_bytes"], ranks),
    }
    if model == "mlp":
        plain = _train(side_by_side(ranks), model)
        pair["plain"] = sum(rank["total_s"] for rank in plain)
        pair["plain_wall"] = median(rank["wall_s"] for rank in plain)
        pair["shared_once"] = _shared_once(plain, spliced)
    return pair


def _train(seats: Seats, model: str) -> list[dict[str, Any]]:
    return run(seats, "shared_steps.py", model, "--steps", str(STEPS[model]), "--skip", str(SKIPPED), "--out")


def _shared_once(plain: list[dict[str, Any]], spliced: list[dict[str, Any]]) -> float:
    """What all ranks hold together beyond what is each one's own, in P+O."""
    once = plain[0]["parameter_bytes"] + plain[0]["state_bytes"]
    own = sum(1024 * rank["pss_kb"] - once for rank in plain)
    held = sum(1024 * rank["pss_kb"] for rank in spliced)
    return float((held - own) / once)


def _floor_s(gradient_bytes: int, ranks: int) -> float:
    """Seconds of the sum alone, as fast as memory is: the first gradient laid down, every other one added to it."""
    import time

    import torch

    torch.set_num_threads(1)
    held = [torch.zeros(gradient_bytes // 4) for _ in range(ranks)]
    result = torch.zeros(gradient_bytes // 4)
    took = []
    for _ in range(3):
        began = time.process_time()
        result.copy_(held[0])
        for each in held[1:]:
            result.add_(each)
        took.append(time.process_time() - began)
    return min(took)
