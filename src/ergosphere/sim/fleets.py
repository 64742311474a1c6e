"""Fleets: regions, clusters, domains and nodes, and the quota of projects. Values, and small ways to make them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from ergosphere.core.model import ProjectView
from ergosphere.sim.works import Trace

NODE_DEVICES: Final = 8  # what a training node has in every public trace of the last years
DOMAIN_NODES: Final = 16  # nodes under one leaf switch where a fleet does not say
LOAD: Final = 0.8  # a fleet made for a trace is this full on average


@dataclass(frozen=True, slots=True)
class Machine:
    """One node. `memory_gib` is of one device. `spot` nodes can be taken away with a notice."""

    id: str
    devices: int
    kind: str = "gpu"
    memory_gib: float = 0.0
    domain: str = "d0"
    cluster: str = "c0"
    region: str = "r0"
    spot: bool = False


@dataclass(frozen=True, slots=True)
class Fleet:
    name: str
    machines: tuple[Machine, ...]
    projects: tuple[ProjectView, ...] = ()

    @property
    def devices(self) -> int:
        return sum(one.devices for one in self.machines)

    @property
    def widest_node(self) -> int:
        return max((one.devices for one in self.machines), default=0)


def uniform(nodes: int, devices: int = NODE_DEVICES, name: str = "", kind: str = "gpu") -> Fleet:
    """Equal nodes in one cluster, sixteen to a domain."""
    machines = tuple(
        Machine(f"n{number:05d}", devices, kind, domain=f"d{number // DOMAIN_NODES:04d}") for number in range(nodes)
    )
    return Fleet(name or f"{nodes} × {devices}", machines)


def pooled(devices: int) -> Fleet:
    """One node that holds every device: a fleet without topology, as in the public simulators' pooled mode."""
    return Fleet(f"{devices} pooled", (Machine("pool", devices),))


def made_for(trace: Trace, load: float = LOAD) -> Fleet:
    """A fleet of nodes of eight on which the trace's mean demand makes `load`; it holds the widest job at least."""
    nodes = max(math.ceil(trace.demand / load / NODE_DEVICES), math.ceil(trace.widest / NODE_DEVICES), 1)
    return uniform(nodes, name=f"{nodes} × {NODE_DEVICES} (mean demand ÷ {load:g})")


def scaled(fleet: Fleet, factor: float) -> Fleet:
    """The fleet with `factor` times the nodes: whole copies first, then its first nodes. At least one."""
    wanted = max(1, round(len(fleet.machines) * factor))
    machines = tuple(_copies(fleet.machines, wanted))
    return replace(fleet, name=f"{fleet.name} × {factor:g}", machines=machines)


def _copies(machines: tuple[Machine, ...], wanted: int) -> Iterable[Machine]:
    for number in range(wanted):
        copy, place = divmod(number, len(machines))
        one = machines[place]
        yield one if copy == 0 else replace(one, id=f"{one.id}+{copy}", domain=f"{one.domain}+{copy}")
