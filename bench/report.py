"""Rows of a benchmark: how they are summed up, shown and written."""

from __future__ import annotations

import json
import os
import platform
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Literal

from rich.console import Console
from rich.table import Table

RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Row:
    """One promised figure. `spread`: 95 % interval of the median; `against`: what it stands beside."""

    name: str
    value: float
    unit: str
    better: Literal["lower", "higher"]
    goal: float
    bar: float
    spread: tuple[float, float]
    against: str

    @property
    def standing(self) -> str:
        reached = (lambda limit: self.value <= limit) if self.better == "lower" else (lambda limit: self.value >= limit)
        return "goal" if reached(self.goal) else "bar" if reached(self.bar) else "missed"


def interval(values: Sequence[float], of: Callable[[Sequence[float]], float] = median) -> tuple[float, float]:
    """95 % of the resampled medians lie in here. `values`: one figure a pair or run."""
    dice = random.Random(1)
    drawn = sorted(of(dice.choices(list(values), k=len(values))) for _ in range(RESAMPLES))
    return drawn[int(0.025 * RESAMPLES)], drawn[int(0.975 * RESAMPLES) - 1]


def row(name: str, values: Sequence[float], unit: str, *, goal: float, bar: float, against: str) -> Row:
    """A figure of which less is better, from its runs."""
    return Row(name, median(values), unit, "lower", goal, bar, interval(values), against)


def machine() -> dict[str, object]:
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return {
        "cores": os.cpu_count(),
        "cpu": model,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def show(rows: Sequence[Row]) -> None:
    table = Table(title="bench", title_justify="left")
    for column in ("figure", "value", "95 %", "goal", "bar", "", "against"):
        table.add_column(column, justify="right" if column in ("value", "95 %", "goal", "bar") else "left")
    for each in rows:
        colour = {"goal": "green", "bar": "yellow", "missed": "red"}[each.standing]
        table.add_row(
            each.name,
            f"{each.value:.3g} {each.unit}",
            f"{each.spread[0]:.3g} – {each.spread[1]:.3g}",
            f"{each.goal:.3g}",
            f"{each.bar:.3g}",
            f"[{colour}]{each.standing}[/]",
            each.against,
        )
    Console(width=150).print(table)


def write(group: str, rows: Sequence[Row], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    document = {"machine": machine(), "rows": [asdict(each) for each in rows]}
    (folder / f"{group}.json").write_text(json.dumps(document, indent=1) + "\n")
