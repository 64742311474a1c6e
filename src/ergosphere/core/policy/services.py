"""How many replicas of a service a load asks for. Pure; the simulator and whoever scales a service ask here.

A replica is a queue that serves `concurrency` requests at once, each in `service_s`. The Sakasegawa approximation of
an M/M/c queue (Sakasegawa 1977, "An approximation formula L_q ≈ αρ^β/(1−ρ)") gives the mean wait; the fewest
replicas that keep service and wait within the wish are wanted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

LOAD_MAX: Final = 0.95  # of a replica's capacity: beyond, any burst makes the queue grow for long
DOWN_AFTER_S: Final = 300.0  # a replica goes only once so much time has passed without need of it


@dataclass(frozen=True, slots=True)
class Service:
    """What was asked for at submission. `latency_s`: the mean that is wished for, service included."""

    least: int
    most: int
    latency_s: float
    service_s: float  # of one request on an idle replica
    concurrency: int = 1


def replicas_wanted(service: Service, requests_per_s: float) -> int:
    """The fewest replicas, within the service's bounds, that keep the latency; the most where none are enough."""
    if requests_per_s <= 0:
        return service.least
    offered = requests_per_s * service.service_s
    for replicas in range(max(service.least, 1), service.most + 1):
        servers = replicas * service.concurrency
        if offered / servers < LOAD_MAX and service.service_s + _wait_s(service, offered, servers) <= service.latency_s:
            return replicas
    return service.most


def _wait_s(service: Service, offered: float, servers: int) -> float:
    """Mean wait in the queue, seconds."""
    load = offered / servers
    if load <= 0:
        return 0.0
    queued: float = load ** (math.sqrt(2 * (servers + 1)) - 1) / (servers * (1 - load))
    return queued * service.service_s


@dataclass(frozen=True, slots=True)
class Scaling:
    """How many replicas are wanted now, and since when fewer would do (None: they would not)."""

    wanted: int
    fewer_since_s: float | None = None


def scaled(before: Scaling, service: Service, requests_per_s: float, now_s: float) -> Scaling:
    """Up at once, down only after `DOWN_AFTER_S` without need: training takes back what a service really leaves."""
    needed = replicas_wanted(service, requests_per_s)
    if needed >= before.wanted:
        return Scaling(needed)
    since_s = before.fewer_since_s if before.fewer_since_s is not None else now_s
    return Scaling(needed) if now_s - since_s >= DOWN_AFTER_S else Scaling(before.wanted, since_s)
