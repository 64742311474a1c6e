"""The GPU fraction after the fact, from when a job computed: the yardstick for every policy alike.

Independent of the account that the policy itself keeps (`core.fraction`): a test compares the two.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

HOUR_S: Final = 3_600.0
GRACE_S: Final = 60.0  # admission: entitlement begins so long after a job could begin, for its first start takes time
SHORT_S: Final = 300.0  # a partial hour shorter than this counts with its neighbour
CLOSE: Final = 1e-9  # of an hour's entitlement: rounding

Span = tuple[float, float, float]  # from, to, devices' worth of work done meanwhile per second


@dataclass(frozen=True, slots=True)
class Hours:
    """`count` equal windows: what was due in each and what was delivered, in device-seconds."""

    count: int
    entitled: float
    delivered: float

    @property
    def fraction(self) -> float:
        return self.delivered / self.entitled if self.entitled else 1.0


def hours(devices: int, from_s: float, to_s: float, spans: Sequence[Span]) -> tuple[Hours, ...]:
    """Clock-aligned hours of a job's presence, partial ones prorated and short ones merged.

    `spans` are in order and do not overlap; surplus beyond `devices` counts for nothing.
    """
    found = list(_merged(_windows(devices, _whole(from_s, to_s, spans)), devices * SHORT_S))
    return tuple(found)


def life(devices: int, from_s: float, to_s: float, spans: Iterable[Span]) -> float:
    """The fraction over the whole life; 1 for a life of no length."""
    entitled = devices * (to_s - from_s)
    delivered = sum(max(0.0, end - max(begin, from_s)) * min(rate, devices) for begin, end, rate in spans)
    return delivered / entitled if entitled > 0 else 1.0


def met(one: Hours, promise: float) -> bool:
    """Whether a window keeps `promise` (a share)."""
    return one.delivered >= one.entitled * (promise - CLOSE)


def _whole(from_s: float, to_s: float, spans: Sequence[Span]) -> Iterator[Span]:
    """The spans with what lies between them, at rate 0."""
    at_s = from_s
    for begin, end, rate in spans:
        if begin > at_s:
            yield at_s, begin, 0.0
        yield max(begin, at_s), end, rate
        at_s = max(at_s, end)
    if to_s > at_s:
        yield at_s, to_s, 0.0


def _windows(devices: int, spans: Iterable[Span]) -> Iterator[Hours]:
    """Windows cut at the clock's hours; runs of whole hours at one rate come as one."""
    entitled = delivered = 0.0
    for begin, end, rate in spans:
        rate = min(rate, devices)
        edge = _edge_after(begin)
        while begin < end:
            if not entitled and begin == edge - HOUR_S and end >= edge:
                count = int((end - begin) // HOUR_S)
                yield Hours(count, devices * HOUR_S, rate * HOUR_S)
                begin += count * HOUR_S
                edge = begin + HOUR_S
                continue
            until = min(end, edge)
            entitled += devices * (until - begin)
            delivered += rate * (until - begin)
            begin = until
            if until == edge:
                yield Hours(1, entitled, delivered)
                entitled = delivered = 0.0
                edge += HOUR_S
    if entitled:
        yield Hours(1, entitled, delivered)


def _edge_after(at_s: float) -> float:
    return (math.floor(at_s / HOUR_S) + 1) * HOUR_S


def _merged(windows: Iterable[Hours], short: float) -> Iterator[Hours]:
    """Windows in which less than `short` was due put together with the next, the last one with the one before."""
    held: Hours | None = None
    for one in windows:
        if held is not None and held.entitled < short:
            if one.count > 1:
                yield Hours(1, held.entitled + one.entitled, held.delivered + one.delivered)
                held = Hours(one.count - 1, one.entitled, one.delivered)
            else:
                held = Hours(1, held.entitled + one.entitled, held.delivered + one.delivered)
            continue
        if held is not None and one.entitled < short:
            if held.count > 1:
                yield Hours(held.count - 1, held.entitled, held.delivered)
            held = Hours(1, held.entitled + one.entitled, held.delivered + one.delivered)
            continue
        if held is not None:
            yield held
        held = one
    if held is not None:
        yield held
