"""The best that any scheduler could do: fluid relaxations. Jobs are poured like water: no gangs, no placement, no cost
of moving, every duration known. What they reach no policy can beat, so "how close to the best" is a number.

- mean JCT: a job completes no earlier than the mean time at which it is served plus half its duration (mean busy time;
  Goemans, Queyranne, Schulz, Skutella and Wang, "Single machine scheduling with release dates", SIAM J. Discrete Math.
  15, 2002). A linear program, solved by HiGHS, chooses when each is served, in buckets of time that count from their
  beginning, so that it stays a bound. Without the width of each job the same program is one fast machine, on which the
  smallest work goes first: that bound is exact in time and serves where the program would be too large. The better
  of the two is told.
- deficit per tier: device-hours that must be missed whatever is done, the stronger tiers served first.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_matrix, vstack

from ergosphere.core.fraction import PROMISE
from ergosphere.core.model import TIER_ORDER, Tier
from ergosphere.sim.works import Trace, Work

VARIABLES_MAX: Final = 200_000  # of one program: some ten seconds
BUCKETS_MAX: Final = 250
BUCKET_S_MAX: Final = 7_200.0  # with longer buckets the program tells less than the fast machine
SPARE: Final = 1e-9  # of a device-second: rounding
HOUR_S: Final = 3_600.0


@dataclass(frozen=True, slots=True)
class Bound:
    """`jct_s`: no policy's mean is lower. `deficit_h`: device-hours each tier must miss. `possible`: the share of the
    entitled hours whose promise can be kept."""

    jct_s: float
    deficit_h: Mapping[Tier, float]
    possible: Mapping[Tier, float]
    guaranteed_load: float  # promised devices ÷ capacity, on average over the time in which works arrive


def bound(trace: Trace, devices: int) -> Bound:
    """The bounds for a trace on so many devices."""
    deficits, possible = _deficits(trace, devices)
    span_s = trace.span_s or 1.0
    promised = sum(PROMISE[one.tier] * one.device_seconds for one in trace.works)
    return Bound(_jct(trace.works, devices), deficits, possible, promised / (devices * span_s))


def _jct(works: Sequence[Work], devices: int) -> float:
    """Mean completion − submission, at least."""
    if not works:
        return 0.0
    alone_s = sum(one.duration_s for one in works) / len(works)
    return max(alone_s, fast_machine_jct(works, devices), _program_jct(works, devices))


def fast_machine_jct(works: Sequence[Work], devices: int) -> float:
    """The bound on one machine as fast as all devices: preemptive, the smallest work first (weights 1 ÷ work)."""
    heap: list[tuple[float, int, float]] = []  # work, number, what is left of it
    moments = [0.0] * len(works)  # ∫ t over the served share of each work
    order = sorted(range(len(works)), key=lambda number: works[number].submit_s)
    now_s, coming = 0.0, 0
    while heap or coming < len(order):
        if not heap:
            now_s = max(now_s, works[order[coming]].submit_s)
        while coming < len(order) and works[order[coming]].submit_s <= now_s:
            number = order[coming]
            heapq.heappush(heap, (works[number].device_seconds, number, works[number].device_seconds))
            coming += 1
        size, number, left = heapq.heappop(heap)
        next_s = works[order[coming]].submit_s if coming < len(order) else float("inf")
        until_s = min(now_s + left / devices, next_s)
        served = (until_s - now_s) * devices
        moments[number] += served / size * (now_s + until_s) / 2
        if until_s == next_s and left - served > SPARE:
            heapq.heappush(heap, (size, number, left - served))
        now_s = until_s
    total_s = sum(mean - one.submit_s + one.duration_s / 2 for mean, one in zip(moments, works, strict=True))
    return total_s / len(works)


def _program_jct(works: Sequence[Work], devices: int) -> float:
    """The program with every job's own width; 0 where it would be too large to tell anything."""
    last_s = max(one.submit_s for one in works)
    end_s = last_s + sum(one.device_seconds for one in works) / devices + max(one.duration_s for one in works)
    count = min(BUCKETS_MAX, VARIABLES_MAX // len(works))
    if end_s / max(count, 1) > BUCKET_S_MAX:
        return 0.0
    return _Program.of(works, end_s / count, count).solve(works, devices) / len(works)


@dataclass(slots=True)
class _Program:
    """Variables: device-seconds of each work in each bucket from its submission on, and each work's mean busy time."""

    width_s: float
    count: int
    jobs: list[int]
    buckets: list[int]
    costs: list[float]
    most: list[float]

    @staticmethod
    def of(works: Sequence[Work], width_s: float, count: int) -> _Program:
        found = _Program(width_s, count, [], [], [], [])
        for number, one in enumerate(works):
            for bucket in range(min(int(one.submit_s // width_s), count - 1), count):
                begins_s = max(bucket * width_s, one.submit_s)
                found.jobs.append(number)
                found.buckets.append(bucket)
                found.costs.append((begins_s - one.submit_s) / one.device_seconds)
                found.most.append(one.devices * ((bucket + 1) * width_s - begins_s))
        return found

    def solve(self, works: Sequence[Work], devices: int) -> float:
        """The least sum of completion − submission."""
        amounts, number = len(self.jobs), len(works)
        ones, columns = np.ones(amounts), np.arange(amounts)
        fit = coo_matrix((ones, (self.buckets, columns)), shape=(self.count, amounts + number))
        busy = coo_matrix(  # Σ cost · amount − mean ≤ 0
            (
                np.concatenate([self.costs, -np.ones(number)]),
                (np.concatenate([self.jobs, np.arange(number)]), np.arange(amounts + number)),
            ),
            shape=(number, amounts + number),
        )
        serve_all = coo_matrix((ones, (self.jobs, columns)), shape=(number, amounts + number))
        halves = np.array([one.duration_s / 2 for one in works])
        solved = linprog(
            np.concatenate([np.zeros(amounts), np.ones(number)]),
            A_ub=vstack([fit, busy]).tocsr(),
            b_ub=np.concatenate([np.full(self.count, devices * self.width_s), np.zeros(number)]),
            A_eq=serve_all.tocsr(),
            b_eq=[one.device_seconds for one in works],
            bounds=np.column_stack(
                [np.concatenate([np.zeros(amounts), halves]), np.concatenate([self.most, np.full(number, np.inf)])]
            ),
            method="highs",
        )
        if not solved.success:
            raise ArithmeticError(f"HiGHS found no bound: {solved.message}")
        return float(solved.fun + halves.sum())


def _deficits(trace: Trace, devices: int) -> tuple[dict[Tier, float], dict[Tier, float]]:
    """Device-hours that each tier must miss, the stronger tiers served first, and the share that can be kept."""
    hours = max(1, math.ceil(max((one.submit_s + one.duration_s for one in trace.works), default=1.0) / HOUR_S))
    left = np.full(hours, float(devices))  # device-hours an hour
    deficits: dict[Tier, float] = {}
    possible: dict[Tier, float] = {}
    for tier in TIER_ORDER:
        due = PROMISE[tier] * _present(trace.works, tier, hours)
        given = np.minimum(due, left)  # what the program of one tier comes to: hours do not help each other
        left = left - given
        missed = float(np.sum(due - given))
        deficits[tier] = missed
        possible[tier] = float(np.sum(given >= due - 1e-6) / hours) if hours else 1.0
    return deficits, possible


def _present(works: Sequence[Work], tier: Tier, hours: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Device-hours entitled to in each hour if nobody ever waits: no policy makes less of it."""
    found = np.zeros(hours + 1)
    for one in works:
        if one.tier is tier:
            begin, end = one.submit_s / HOUR_S, (one.submit_s + one.duration_s) / HOUR_S
            first, last = int(begin), int(end)
            if first == last:
                found[first] += one.devices * (end - begin)
            else:
                found[first] += one.devices * (first + 1 - begin)
                found[first + 1 : last] += one.devices
                found[last] += one.devices * (end - last)
    return found[:hours]
