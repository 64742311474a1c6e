"""Promised against delivered, tier by tier: what `ergo report sla` prints and what the simulator is judged by. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from ergosphere.core.fraction import HOUR_S, PROMISE, Window, merged
from ergosphere.core.model import TIER_ORDER, Account, Cause, JobId, Tier

ROUNDING: Final = 1e-9  # of fractions: sums of times


@dataclass(frozen=True, slots=True)
class TierReport:
    """One tier. Hours are job-hours or device-hours as named; fractions between 0 and 1."""

    tier: Tier
    promise: float
    jobs: int = 0
    job_hours: float = 0.0
    met_hours: float = 0.0  # job-hours in which the promise was kept
    entitled_device_h: float = 0.0
    delivered_device_h: float = 0.0
    deficit_device_h: float = 0.0  # what was missing to the promise, hour by hour
    p1: float = 1.0  # of the fraction over job-hours, by entitled time
    p5: float = 1.0
    longest_missed_h: float = 0.0  # the longest run of missed hours of one job
    lost_device_h: tuple[tuple[Cause, float], ...] = ()

    @property
    def fraction(self) -> float:
        return self.delivered_device_h / self.entitled_device_h if self.entitled_device_h else 1.0

    @property
    def attainment(self) -> float:
        """Share of the job-hours in which the promise was kept."""
        return self.met_hours / self.job_hours if self.job_hours else 1.0


@dataclass(slots=True)
class _Sums:
    """What is added up of one tier."""

    jobs: set[JobId] = field(default_factory=set)
    hours: list[tuple[float, float]] = field(default_factory=list)  # (fraction, job-hours)
    met: float = 0.0
    entitled: float = 0.0
    delivered: float = 0.0
    deficit: float = 0.0
    longest: float = 0.0
    lost: dict[Cause, float] = field(default_factory=dict)


class Tally:
    """Adds up windows of jobs, each job's at once and in order."""

    def __init__(self) -> None:
        self._tiers = {tier: _Sums() for tier in TIER_ORDER}

    def add(self, job: JobId, tier: Tier, windows: Iterable[Window], *, borrowed: bool = False) -> None:
        """All windows of one job. Borrowed work counts as basic."""
        tier = Tier.BASIC if borrowed else tier
        sums, promise = self._tiers[tier], PROMISE[tier]
        sums.jobs.add(job)
        missed_h = 0.0
        for window in merged(tuple(windows)):
            hours = window.entitled / window.devices / HOUR_S
            met = window.fraction >= promise - ROUNDING
            missed_h = 0.0 if met else missed_h + hours
            _add(sums, window, promise, hours if met else 0.0)
            sums.hours.append((window.fraction, hours))
            sums.longest = max(sums.longest, missed_h)

    def rows(self) -> tuple[TierReport, ...]:
        """One report a tier, strongest first."""
        return tuple(_report(tier, sums) for tier, sums in self._tiers.items())


def _add(sums: _Sums, window: Window, promise: float, met_h: float) -> None:
    sums.met += met_h
    sums.entitled += window.entitled
    sums.delivered += window.delivered
    sums.deficit += max(0.0, promise * window.entitled - window.delivered)
    for cause, missed in window.lost:
        sums.lost[cause] = sums.lost.get(cause, 0.0) + missed


def _report(tier: Tier, sums: _Sums) -> TierReport:
    return TierReport(
        tier=tier,
        promise=PROMISE[tier],
        jobs=len(sums.jobs),
        job_hours=sum(hours for _, hours in sums.hours),
        met_hours=sums.met,
        entitled_device_h=sums.entitled / HOUR_S,
        delivered_device_h=sums.delivered / HOUR_S,
        deficit_device_h=sums.deficit / HOUR_S,
        p1=_quantile(sums.hours, 0.01),
        p5=_quantile(sums.hours, 0.05),
        longest_missed_h=sums.longest,
        lost_device_h=tuple(sorted((cause, lost / HOUR_S) for cause, lost in sums.lost.items())),
    )


def _quantile(weighted: list[tuple[float, float]], part: float) -> float:
    """The fraction below which `part` of the job-hours lie."""
    whole = sum(weight for _, weight in weighted)
    so_far = 0.0
    for value, weight in sorted(weighted):
        so_far += weight
        if so_far >= part * whole:
            return value
    return 1.0


def guaranteed_load(accounts: Iterable[tuple[Tier, Account]], capacity: int) -> float:
    """Devices promised to those present (Σ promise × devices) ÷ devices there are; above 1 no policy can keep them."""
    promised = sum(PROMISE[tier] * account.devices for tier, account in accounts if account.counts)
    return promised / capacity if capacity else float(promised > 0)
