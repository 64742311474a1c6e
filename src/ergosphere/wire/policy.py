"""Bodies of the public API about the judgement: projects and their quotas, promised against delivered, services."""

from __future__ import annotations

from pydantic import Field

from ergosphere.core.model import Tier
from ergosphere.wire.jobs import NAME_PATTERN, Wire

PROJECTS_MAX = 10_000  # in one tree


class Project(Wire):
    """One project of the quota tree; devices cover everything below it. See `core.model.ProjectView`."""

    id: str = Field(pattern=NAME_PATTERN)
    parent: str = ""
    weight: float = 1.0
    guarantee: int | None = None
    limit: int | None = None
    borrow: bool = True


class ProjectTree(Wire):
    """The whole tree; putting it replaces the one before."""

    projects: tuple[Project, ...] = Field(default=(), max_length=PROJECTS_MAX)


class ProjectInfo(Project):
    """`used`: devices in use below it; `borrowed`: of these, beyond its guarantee; `waiting`: ranks that wait."""

    declared: bool = True
    used: int = 0
    borrowed: int = 0
    waiting: int = 0


class TierInfo(Wire):
    """Promised against delivered, one tier; see `core.sla.TierReport`. Hours; fractions between 0 and 1."""

    tier: Tier
    promise: float
    jobs: int
    job_hours: float
    fraction: float
    attainment: float
    deficit_device_h: float
    p1: float
    p5: float
    longest_missed_h: float
    lost_device_h: dict[str, float]


class SlaReport(Wire):
    """`guaranteed_load`: devices promised to live jobs ÷ devices there are; above 1 nobody could keep them all."""

    tiers: tuple[TierInfo, ...]
    guaranteed_load: float
    since_s: float


class ScaleRequest(Wire):
    """How many replicas of a service are wanted; within what it was submitted with."""

    replicas: int = Field(ge=0, le=100_000)


class LoadReport(Wire):
    """What a service is asked for, as measured in front of it; the wish for its latency, queueing included."""

    requests_per_s: float = Field(ge=0, le=1e9)
    service_s: float = Field(gt=0, le=86_400)  # of one request on an idle replica
    latency_s: float = Field(gt=0, le=86_400)  # the mean that is wished for
    concurrency: int = Field(default=1, ge=1, le=100_000)  # requests that a replica serves at once


class ScaleResult(Wire):
    service: str
    wanted: int
    running: int
    text: str
