"""What an administrator may set about the judgement, and the order in which jobs are served. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ergosphere.core.costs import thaw_there_s
from ergosphere.core.model import TIER_ORDER, JobView, Tier

GROW_AFTER_S: Final = 5.0  # several times what a resize on one node costs


@dataclass(frozen=True, slots=True)
class Rules:
    """Every number of the judgement that an administrator may set; `docs/policy.md` explains each."""

    min_run_s: float = 60.0  # who started or thawed less than this ago is preempted by premium jobs only; a back-off
    # that is shorter keeps its room: whoever were let in would have to leave before it had earned its move
    quantum_s: float = 3600.0  # who has run so long may have to take turns with its own tier
    patience_s: float = 21_600.0  # a basic job that has waited so long takes its turn before the others
    short_device_s: float = 28_800.0  # a basic job that has had less than this is served before those that had more
    owed_turn_s: float = 600.0  # a standard job leaves for one that is owed only if it can spare so much this hour
    owed_margin_s: float = 240.0  # a standard job is owed when it could stand still for only so much longer this hour
    pauses_per_hour: int = 4  # of one job, by the policy for its own tier or for defragmentation
    moves_per_turn: int = 4  # jobs moved in one turn so that a larger one fits
    settle_s: float = 600.0  # since its start or thaw, before a job is moved to grow or for a larger one
    payback: float = 0.1  # a move may cost this part of the device-seconds that it wins in `payback_s`
    payback_s: float = 3600.0
    grow_after_s: float = GROW_AFTER_S  # since its last resize; a job is grown when nobody waits for idle devices


def strength(tier: Tier) -> int:
    """0 for the strongest tier."""
    return TIER_ORDER.index(tier)


def turn_in_queue(job: JobView) -> tuple[int, float, str]:
    """The order within one project, as long as no promise is in danger: by tier, then by submission, then by id."""
    return (strength(job.tier), job.submitted_s, job.id)


def freeze_cost(job: JobView) -> float:
    """What pausing `job` wastes, in device-seconds: its devices stand still for a freeze and a thaw."""
    return job.ranks * (job.freeze_cost_s + job.thaw_cost_s)


def move_cost(job: JobView, *, away: bool) -> float:
    """What moving it wastes, in device-seconds. `away`: to another machine, where it cannot thaw before its images have
    gone through the store; who is frozen for long pays nothing for that."""
    return job.ranks * (job.freeze_cost_s + thaw_there_s(job.thaw_cost_s, job.upload_cost_s, away=away))
