"""Which device each rank of a cell computes on, and what follows: its cores, its share table, the folder it shares.

A rank reads its table when it begins and at each `go` after a cut; so whoever changes tables holds the job at one. What
the ranks do with it (turns, one copy, exact sums) is the shim's business.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ergosphere.agent import lives
from ergosphere.agent.lives import LifeFolder
from ergosphere.agent.node import Node
from ergosphere.agent.rootfs import SHARED_AT
from ergosphere.shim.ergo_shim import control_file, table
from ergosphere.shim.ergo_shim.control_file import REPLY, Brief
from ergosphere.wire.agents import CellPlan, LifePlan
from ergosphere.wire.jobs import Sharing

ROUNDS_MAX: Final = 8  # a thread may be born while its siblings get their cores; each round sees fewer
ROLLUP: Final = "smaps_rollup"


def is_one_world(life: LifePlan) -> bool:
    """Whether the ranks of the job are a world whose ranks could share a device and sum in rank order."""
    return life.spec.ranks > 1 and life.spec.launcher != "opaque"


def write_tables(folder: LifeFolder, life: LifePlan, seat: CellPlan) -> None:
    """Say to each rank of the cell who is where. Nothing for a job of one rank: nobody is there to share with."""
    if not is_one_world(life):
        return
    placed = {
        rank: (cell.node, device) for cell in life.cells for rank, device in zip(cell.ranks, cell.devices, strict=True)
    }
    ranks = range(life.spec.ranks)
    hosts = [placed[rank][0] for rank in ranks]
    devices = [f"{placed[rank][0]}/{placed[rank][1]}" for rank in ranks]
    for rank in seat.ranks:
        told = table.Table(life.arrangement, life.spec.exact, SHARED_AT, rank, hosts, devices)
        table.write(str(folder.control(rank)), told)


def shared_folder(node: Node, life: LifePlan) -> Path:
    """The folder in memory that all ranks of a life on this node share, made; ours alone to look into."""
    folder = node.place.shared(life.job, life.incarnation)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def sweep_shared(node: Node) -> None:
    """Remove what lives have shared of which no cell is left on this node."""
    found = list(node.place.shared_root.glob("*"))  # first: a life's own folder is made before what it shares
    present = {(folder.key.job, folder.key.incarnation) for folder in lives.folders(node.place)}
    kept = {node.place.shared(job, incarnation).name for job, incarnation in present}
    for folder in found:
        if folder.name not in kept:
            shutil.rmtree(folder, ignore_errors=True)


def cores_for(node: Node, life: LifePlan, device: int) -> tuple[int, ...]:
    """The cores of a device that a rank may use: as many as it saw at its first start, where there are so many."""
    cores = node.cores.of(device)
    return cores[: life.threads] if life.spec.threads is None else cores


def arrange(node: Node, folder: LifeFolder, life: LifePlan, seat: CellPlan) -> None:
    """Every rank of the cell is to compute on the device that `life` gives it. May be done twice."""
    record = folder.read()
    assert record is not None, f"{folder.path} has no record"
    before = dict(zip(record.seat.ranks, record.seat.devices, strict=True))
    write_tables(folder, life, seat)
    for rank, device in zip(seat.ranks, seat.devices, strict=True):
        old, new = cores_for(node, life, before[rank]), cores_for(node, life, device)
        pids = node.freezer(node.place.rank_group(folder.key, rank)).pids()
        settle_on(pids, old, new)
    folder.update(plan=record.plan.model_copy(update={"cells": life.cells, "arrangement": life.arrangement}))


def settle_on(pids: Iterable[int], old: Sequence[int], new: Sequence[int]) -> None:
    """Move every thread from the cores `old` to `new`. One that had chosen some of them gets those at the same places.

    Affinity belongs to each thread, and threads are born meanwhile: looked at until nothing is left to do.
    """
    if list(old) == list(new):
        return
    done: set[int] = set()
    for _ in range(ROUNDS_MAX):
        fresh = [thread for pid in pids for thread in _threads(pid) if thread not in done]
        if not fresh:
            return
        for thread in fresh:
            with suppress(OSError):
                os.sched_setaffinity(thread, _moved(os.sched_getaffinity(thread), old, new))
        done.update(fresh)


def _moved(mask: set[int], old: Sequence[int], new: Sequence[int]) -> set[int]:
    chosen = {new[old.index(core)] for core in mask if core in old and old.index(core) < len(new)}
    return chosen if chosen and mask < set(old) else set(new)


def _threads(pid: int) -> list[int]:
    try:
        return [int(thread.name) for thread in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return []


def told(folder: LifeFolder, rank: int) -> Sharing | None:
    """How a rank says that it shares its device; None while its shim has said nothing."""
    try:
        _, reply = control_file.fetch(Brief(str(folder.control(rank))), REPLY)
    except OSError:
        return None
    elastic: dict[str, Any] | None = reply.get("elastic") if reply else None
    if not elastic:
        return None
    return Sharing.model_validate({name: elastic[name] for name in Sharing.model_fields if name in elastic})


def proportional_bytes(pids: Iterable[int]) -> int:
    """Host memory of some processes, what they share with others counted by its share (PSS)."""
    return 1024 * sum(_pss_kib(pid) for pid in pids)


def _pss_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/{ROLLUP}").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
