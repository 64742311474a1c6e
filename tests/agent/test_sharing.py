"""Who computes where on one node: share tables, cores of threads, and all ranks told or none."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ergosphere import system
from ergosphere.agent import sharing
from ergosphere.agent.arranging import Undecided, arrange_all
from ergosphere.agent.cut_port import LocalRank
from ergosphere.agent.lives import LifeFolder
from ergosphere.agent.ports import Refused
from ergosphere.shim.ergo_shim import table
from ergosphere.wire.agents import CellPlan, LifePlan
from ergosphere.wire.jobs import JobSpec

THREADS = """
import os, threading, time
def rest(): time.sleep(60)
threading.Thread(target=rest, daemon=True).start()
print("ready", flush=True)
time.sleep(60)
"""


def life(ranks: int, *cells: tuple[str, tuple[int, ...], tuple[int, ...]], **spec: object) -> LifePlan:
    """A life with a cell per (node, ranks, devices)."""
    told = JobSpec(command=("x",), name="x", workdir="/w", ranks=ranks, **spec)
    plans = [
        CellPlan(index=i, ranks=own, node=node, devices=devices, address=f"10.64.0.{i}")
        for i, (node, own, devices) in enumerate(cells)
    ]
    return LifePlan(job="j", incarnation=1, spec=told, cells=tuple(plans), threads=1, arrangement=7)


def folder_of(tmp_path: Path, ranks: int) -> LifeFolder:
    folder = LifeFolder(tmp_path / "j.1.0")
    for rank in range(ranks):
        folder.rank(rank).mkdir(parents=True)
    return folder


def test_every_rank_is_told_the_same_but_for_its_own_number(tmp_path: Path) -> None:
    plan = life(4, ("a", (0, 1), (0, 0)), ("b", (2, 3), (0, 1)))
    folder = folder_of(tmp_path, 4)
    for cell in plan.cells:
        sharing.write_tables(folder, plan, cell)
    told = [table.read(str(folder.control(rank))) for rank in range(4)]
    assert [one.me for one in told if one] == [0, 1, 2, 3]
    assert {one._replace(me=0) for one in map(hashable, told)} == {hashable(told[0])._replace(me=0)}
    assert told[0] is not None and told[0].devices == ["a/0", "a/0", "b/0", "b/1"]
    assert (told[0].number, told[0].exact, told[0].folder) == (7, "auto", "/run/ergo/shared")


def hashable(told: table.Table | None) -> table.Table:
    assert told is not None
    return told._replace(hosts=tuple(told.hosts), devices=tuple(told.devices))  # type: ignore[arg-type]


def test_cells_that_meet_on_a_node_share_its_memory_and_may_share_a_device(tmp_path: Path) -> None:
    plan = life(2, ("a", (0,), (1,)), ("a", (1,), (1,)))
    folder = folder_of(tmp_path, 2)
    sharing.write_tables(folder, plan, plan.cells[1])
    told = table.read(str(folder.control(1)))
    assert told is not None and told.hosts == ["a", "a"] and told.mates() == [0, 1]


@pytest.mark.parametrize("plan", [life(1, ("a", (0,), (0,))), life(2, ("a", (0, 1), (0, 1)), launcher="opaque")])
def test_a_job_that_is_no_world_of_ranks_gets_no_table(tmp_path: Path, plan: LifePlan) -> None:
    folder = folder_of(tmp_path, 2)
    sharing.write_tables(folder, plan, plan.cells[0])
    assert table.read(str(folder.control(0))) is None


@given(st.lists(st.integers(0, 63), unique=True, min_size=1, max_size=8), st.data())
def test_a_thread_keeps_its_place_among_the_cores_of_its_device(cores: list[int], data: st.DataObject) -> None:
    new = data.draw(st.lists(st.integers(64, 127), unique=True, min_size=len(cores), max_size=len(cores)))
    mask = set(data.draw(st.lists(st.sampled_from(cores), min_size=1)))
    moved = sharing._moved(mask, cores, new)
    assert len(moved) == len(mask) and moved <= set(new)
    assert sharing._moved(moved, new, cores) == mask, "there and back again"
    assert sharing._moved({200}, cores, new) == set(new), "cores of nobody's choosing"


@pytest.fixture
def two_threads() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", THREADS], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    yield process.pid
    process.kill()
    process.wait()


def test_every_thread_of_a_rank_goes_to_the_new_cores(two_threads: int) -> None:
    every = sorted(os.sched_getaffinity(0))
    if len(every) < 2:
        pytest.skip("one core: there is nowhere to go")
    threads = [int(name) for name in os.listdir(f"/proc/{two_threads}/task")]  # noqa: PTH208
    sharing.settle_on([two_threads], every, every[:1])
    assert len(threads) == 2 and all(os.sched_getaffinity(one) == {every[0]} for one in threads)
    sharing.settle_on([two_threads], every[:1], every[1:2])
    assert all(os.sched_getaffinity(one) == {every[1]} for one in threads)


class Cell:
    """A cell of a job at a cut, with a disk that may be full."""

    def __init__(self, told: list[str], name: str, *, works: bool = True) -> None:
        self.told, self.name, self.works = told, name, works

    def arrange(self) -> None:
        if not self.works:
            raise OSError("no space left")
        self.told.append(self.name)


@pytest.fixture
def ports(tmp_path: Path) -> dict[int, LocalRank]:
    return {0: LocalRank.create(tmp_path / "control")}


def _orders(tmp_path: Path) -> int:
    from ergosphere.shim.ergo_shim.control_file import ORDERS, Brief, head

    return head(Brief(str(tmp_path / "control")), ORDERS).sequence


def test_when_one_rank_cannot_be_told_all_go_on_where_they_were(ports: dict[int, LocalRank], tmp_path: Path) -> None:
    told: list[str] = []
    after = [Cell(told, "new 0"), Cell(told, "new 1", works=False)]
    before = [Cell(told, "old 0"), Cell(told, "old 1")]
    with pytest.raises(Refused, match="no space left"):
        arrange_all(after, before, ports, (), 1, system.SystemClock())  # type: ignore[arg-type]
    assert {"old 0", "old 1"} <= set(told) and _orders(tmp_path) == 1, "put back first, then let go"


def test_nobody_goes_on_while_tables_differ(ports: dict[int, LocalRank], tmp_path: Path) -> None:
    told: list[str] = []
    after = [Cell(told, "new 0"), Cell(told, "new 1", works=False)]
    before = [Cell(told, "old 0"), Cell(told, "old 1", works=False)]
    with pytest.raises(Undecided):
        arrange_all(after, before, ports, (), 1, system.SystemClock())  # type: ignore[arg-type]
    assert _orders(tmp_path) == 0, "nobody was told to go"


def test_proportional_memory_is_measured(two_threads: int) -> None:
    time.sleep(0.05)
    assert 1 << 20 < sharing.proportional_bytes([two_threads]) < 1 << 30
    assert sharing.proportional_bytes([0]) == 0
