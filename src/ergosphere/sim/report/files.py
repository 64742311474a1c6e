"""Figures and jobs as CSV and JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from ergosphere.sim.bound import Bound
from ergosphere.sim.engine import Run
from ergosphere.sim.figures import Figures, came, life_fraction


def document(every: Sequence[Figures], best: Bound | None = None) -> dict[str, Any]:
    """For machines: everything that the terminal shows."""
    bound = None
    if best is not None:
        bound = {
            "jct_mean_s": best.jct_s,
            "deficit_h": dict(best.deficit_h),
            "possible": dict(best.possible),
            "guaranteed_load": best.guaranteed_load,
        }
    return {"runs": [asdict(one) for one in every], "bound": bound}


def write_json(every: Sequence[Figures], best: Bound | None, path: Path) -> None:
    path.write_text(json.dumps(document(every, best), indent=1) + "\n")


def write_summary(every: Sequence[Figures], path: Path) -> None:
    """A row a run and tier."""
    with path.open("w", newline="") as file:
        writer: csv.DictWriter[str] | None = None
        for one in every:
            whole = {name: value for name, value in asdict(one).items() if name != "tiers"}
            for tier in one.tiers:
                row = {**whole, **{f"tier_{name}": value for name, value in asdict(tier).items()}}
                if writer is None:
                    writer = csv.DictWriter(file, list(row))
                    writer.writeheader()
                writer.writerow(row)


_JOB = "policy seed job tier project devices submit_s present_s started_s ended_s duration_s fraction"
_WENT = "pauses moves resizes restarts lost_s standing_device_s"
JOB_COLUMNS: Final = tuple(f"{_JOB} {_WENT}".split())


def write_jobs(runs: Sequence[Run], path: Path) -> None:
    """A row a job and run: what became of it; without an `ended_s` it has not ended."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(JOB_COLUMNS)
        for run in runs:
            writer.writerows(_job_rows(run))


def _job_rows(run: Run) -> list[list[object]]:
    return [
        [
            run.policy,
            run.scenario.seed,
            life.work.id,
            life.work.tier,
            life.work.project,
            life.work.devices,
            life.work.submit_s,
            life.present_s,
            life.started_s,
            life.ended_s,
            life.work.duration_s,
            round(life_fraction(life, run.world.now_s), 6),
            life.pauses,
            life.moves,
            life.resizes,
            life.restarts,
            round(life.lost_s, 3),
            round(life.standing_device_s, 3),
        ]
        for life in came(run)
    ]
