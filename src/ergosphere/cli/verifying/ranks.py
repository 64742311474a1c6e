"""Finding a running rank's processes from outside, by its cgroup: whom a blow hits."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ergosphere import system
from ergosphere.agent import cgroups
from ergosphere.agent.place import CellKey
from ergosphere.cli.verifying.fleet import PrivateFleet

_INIT: Final = 1  # how a rank's own init is numbered inside


@dataclass(frozen=True, slots=True)
class RunningRank:
    """A rank that is on a node now: which cell of which life, and its main process as the host numbers it."""

    node: str
    cell: CellKey
    rank: int
    pid: int


def running_ranks(fleet: PrivateFleet) -> tuple[RunningRank, ...]:
    """All of them, on every node; nobody is asked but the kernel."""
    hierarchy = cgroups.choose(system.freezer_version())
    found = []
    for node in fleet.nodes:
        for path in sorted((hierarchy.mount / fleet.place(node).group).glob("*.*.*/rank*")):
            pid = _main_of(cgroups.freezer(str(path.relative_to(hierarchy.mount)), hierarchy).pids())
            if pid is not None:
                rank = int(path.name.removeprefix("rank"))
                found.append(RunningRank(node, CellKey.parse(path.parent.name), rank, pid))
    return tuple(found)


def main_process(fleet: PrivateFleet, job: str, incarnation: int, rank: int) -> int | None:
    """The main process of a rank in this life of the job; None when it is not running."""
    for found in running_ranks(fleet):
        if (found.cell.job, found.cell.incarnation, found.rank) == (job, incarnation, rank):
            return found.pid
    return None


def is_running(fleet: PrivateFleet, job: str) -> bool:
    """Some rank of the job is there to be disturbed, whatever the server believes."""
    return any(found.cell.job == job for found in running_ranks(fleet))


def sitting_on(fleet: PrivateFleet, node: str) -> tuple[CellKey, ...]:
    """The cells whose groups are on a node now."""
    hierarchy = cgroups.choose(system.freezer_version())
    names = sorted(path.name for path in (hierarchy.mount / fleet.place(node).group).glob("*.*.*") if path.is_dir())
    return tuple(CellKey.parse(name) for name in names)


def _main_of(pids: frozenset[int]) -> int | None:
    """The first child of init: the lowest number among them, seen from inside."""
    inside = {pid: numbers for pid in pids if (numbers := _numbers(pid)) is not None}
    init = next((pid for pid, (own, _) in inside.items() if own == _INIT), None)
    children = [(own, pid) for pid, (own, parent) in inside.items() if parent == init and pid != init]
    return min(children)[1] if children else None


def _numbers(pid: int) -> tuple[int, int] | None:
    """(its own number inside its namespace, its parent's on the host); None when it is gone or a zombie."""
    with suppress(OSError, ValueError, KeyError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        said = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
        if said["State"][0] != "Z":
            return int(said["NSpid"][-1]), int(said["PPid"][0])
    return None
