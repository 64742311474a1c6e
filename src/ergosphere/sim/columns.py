"""Which column means what: the public traces' own headers and ours. Values only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

# What a reader looks for, and the names it is known by: ours first, then those of Philly, Helios, ITP, openb, PAI and
# the Alibaba spot fleet.
ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "id": ("job_id", "id", "jobid", "pod_id", "name", "job_name", "inst_id"),
    "submit": ("submit_s", "submit_time", "submitted_time", "creation_time", "arrival_time", "submit", "timestamp"),
    "start": ("start_s", "start_time", "scheduled_time"),
    "end": ("end_s", "end_time", "deletion_time", "finish_time"),
    "duration": ("duration_s", "duration", "run_time", "runtime", "service_time"),
    "devices": ("devices", "gpus", "num_gpu", "gpu_num", "gpu_request", "plan_gpu", "num_gpus", "gpu"),
    "least": ("devices_min", "gpus_min", "min_gpus"),
    "tier": ("tier",),
    "project": ("project", "vc", "cluster", "organization", "group", "user"),
    "kinds": ("kinds", "gpu_spec", "gpu_model", "gpu_type"),
    "speeds": ("speeds",),
    "regions": ("regions", "region"),
    "data_region": ("data_region",),
    "memory_gib": ("memory_gib", "gpu_memory_gib"),
    "array": ("array",),
    "after": ("after", "depends_on"),
    "model": ("model",),
    "deadline": ("deadline_s", "deadline"),
}
NEEDED: Final = ("id", "submit", "devices")


def found(header: Sequence[str]) -> dict[str, int]:
    """Meaning → position, for every meaning that the header has under one of its names."""
    at = {name.strip().lower().lstrip("﻿"): position for position, name in reversed(list(enumerate(header)))}
    return {
        meaning: next(at[name] for name in names if name in at)
        for meaning, names in ALIASES.items()
        if any(name in at for name in names)
    }


def twice(header: Sequence[str]) -> list[str]:
    """Names that more than one column has."""
    names = [name.strip().lower() for name in header]
    return sorted({name for name in names if name and names.count(name) > 1})


def missing(columns: Mapping[str, int]) -> list[str]:
    """Meanings without which a trace cannot be read, in words."""
    lacking = [meaning for meaning in NEEDED if meaning not in columns]
    if "duration" not in columns and not {"submit", "end"} <= set(columns):
        lacking.append("duration")
    return lacking


def spoken(meaning: str) -> str:
    """How a missing column is asked for."""
    return f"{ALIASES[meaning][0]} (or {', '.join(ALIASES[meaning][1:4])})" if len(ALIASES[meaning]) > 1 else meaning
