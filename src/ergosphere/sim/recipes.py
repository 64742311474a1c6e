"""Traces made from traces: replicated to a larger fleet, scaled to a load, synthetic ones. All by a seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from ergosphere.core.model import Tier
from ergosphere.sim.tiers import MIX, tier_of
from ergosphere.sim.works import WEEK_S, Trace, Work, smallest_part
from ergosphere.system import dice

JITTER_S: Final = 1_800.0  # copies of a job arrive within half an hour of it, as in the recipe of the common traces
DAY_S: Final = 86_400.0

# Gangs and how often they are drawn: the shape of ITP, in which 11 % of the jobs (8 devices and more) use 79 % of the
# device-hours.
_GANGS: Final = ((1, 0.66), (2, 0.13), (4, 0.10), (8, 0.08), (16, 0.02), (32, 0.01))
_DURATION_MEDIAN_S: Final = 3_600.0
_DURATION_SIGMA: Final = 1.5  # of the logarithm: a mean of three hours, 1 % beyond 33 hours


def replicated(trace: Trace, times: int, seed: int = 7) -> Trace:
    """Every work `times` over, copies jittered by up to half an hour: the same load for `times` the fleet."""
    throws = dice(seed)
    works = [
        replace(one, id=f"{one.id}x{copy}", submit_s=max(0.0, one.submit_s + _jitter(throws.random(), copy)))
        for one in trace.works
        for copy in range(times)
    ]
    works.sort(key=lambda one: one.submit_s)
    return Trace(f"{trace.name} × {times}", tuple(works), trace.notes)


def _jitter(drawn: float, copy: int) -> float:
    return (2 * drawn - 1) * JITTER_S if copy else 0.0


def window(trace: Trace, first_s: float, last_s: float) -> Trace:
    """What was submitted from `first_s` until before `last_s`, counted from there."""
    works = tuple(
        replace(one, submit_s=one.submit_s - first_s) for one in trace.works if first_s <= one.submit_s < last_s
    )
    return Trace(trace.name, works, trace.notes)


def narrowed(trace: Trace, devices_max: int, duration_s_max: float) -> Trace:
    """Without jobs wider or longer than that."""
    works = tuple(one for one in trace.works if one.devices <= devices_max and one.duration_s <= duration_s_max)
    return replace(trace, works=works)


def tiered(trace: Trace, seed: int) -> Trace:
    """The same works, with tiers by a hash under another seed; those that the trace itself names are kept."""
    works = (one if one.tier_named else replace(one, tier=tier_of(one.id, seed)) for one in trace.works)
    return replace(trace, works=tuple(works))


@dataclass(frozen=True, slots=True)
class Synthetic:
    """A made-up week: Poisson arrivals with a daily wave, ITP's mix of gangs, log-normal durations."""

    devices: int = 64  # of the fleet it is made for
    load: float = 0.9  # offered work ÷ what the fleet could do in the same time
    span_s: float = WEEK_S
    gangs_max: int = 8
    wave: float = 0.5  # arrivals at noon are (1 + wave), at midnight (1 - wave) of the mean
    seed: int = 0


def synthetic(wish: Synthetic) -> Trace:
    """Works until the offered load is reached; the same seed gives the same week in any process."""
    throws = dice(wish.seed)
    goal = wish.load * wish.devices * wish.span_s
    drawn: list[tuple[float, float, int]] = []
    while goal > 0:
        gang = _gang(throws.random(), wish.gangs_max)
        duration_s = min(_DURATION_MEDIAN_S * math.exp(_DURATION_SIGMA * throws.gauss(0, 1)), wish.span_s / 4)
        drawn.append((_moment(throws.random(), throws.random(), wish), max(60.0, duration_s), gang))
        goal -= gang * duration_s
    works = [_work(number, *one, wish.seed) for number, one in enumerate(sorted(drawn))]
    return Trace(f"synthetic {wish.devices}, seed {wish.seed}", tuple(works))


def _gang(drawn: float, most: int) -> int:
    able = [(gang, share) for gang, share in _GANGS if gang <= most]
    left = drawn * sum(share for _, share in able)
    for gang, share in able:
        if left < share:
            return gang
        left -= share
    return able[-1][0]


def _moment(where: float, thinned: float, wish: Synthetic) -> float:
    """A time of the span, by its wave: one that the wave thins out is mirrored to the other half of its day."""
    at_s = where * wish.span_s
    height = -math.cos(2 * math.pi * at_s / DAY_S)  # -1 at midnight, 1 at noon
    if height < 0 and thinned < -height * wish.wave:
        at_s = (at_s + DAY_S / 2) % wish.span_s
    return at_s


def _work(number: int, submit_s: float, duration_s: float, gang: int, seed: int) -> Work:
    key = f"s{number}"
    return Work(key, submit_s, duration_s, gang, smallest_part(gang), tier_of(key, seed, MIX))


def storm(count: int, at_s: float, devices: int = 1, duration_s: float = 60.0) -> Sequence[Work]:
    """`count` equal works submitted in one second, tiers in turn."""
    tiers = list(Tier)
    return tuple(
        Work(f"storm{n}", at_s + n / count, duration_s, devices, devices, tiers[n % len(tiers)]) for n in range(count)
    )
