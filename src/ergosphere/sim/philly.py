"""Philly's own `cluster_job_log` (JSON) as rows of a table. The work of a job is that of all its attempts together.

Source: Jeon et al., "Analysis of Large-Scale Multi-Tenant GPU Clusters for DNN Training Workloads", ATC 2019.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from ergosphere.sim.faulty import Faults, Faulty

HEADER: Final = ["job_id", "vc", "submit_s", "duration_s", "gpus"]


def rows_of(text: str, path: str) -> tuple[list[str], Iterator[tuple[int, Sequence[str]]]]:
    """The header and the rows, each with the number of its job in the file. Jobs that never ran are left out."""
    try:
        jobs = json.loads(text)
        if not isinstance(jobs, list):
            raise ValueError("a list of jobs is expected")
        rows = sorted((row for number, job in enumerate(jobs, 1) if (row := _row(number, job))), key=lambda r: r[1][2])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        faults = Faults(path)
        faults.add(getattr(error, "lineno", 0), f"is no log of jobs: {error}", "Philly's cluster_job_log is one")
        raise Faulty(path, faults.found) from None
    return HEADER, ((number, [str(one) for one in row]) for number, row in rows)


def _row(number: int, job: Mapping[str, Any]) -> tuple[int, tuple[str, str, float, float, int]] | None:
    ran = [one for one in job["attempts"] if one.get("start_time") and one.get("end_time")]
    duration_s = sum(_seconds(one["end_time"]) - _seconds(one["start_time"]) for one in ran)
    gpus = max((sum(len(server["gpus"]) for server in one["detail"]) for one in ran), default=0)
    if not duration_s or not gpus:
        return None
    return number, (job["jobid"], job["vc"], _seconds(job["submitted_time"]), duration_s, gpus)


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment + "+00:00").timestamp()
