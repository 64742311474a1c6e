"""A node without an agent process, snapshots as a freeze leaves them on it, and stores that fail. No test in here."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from ergosphere import system
from ergosphere.agent import cgroups, lives, settling
from ergosphere.agent.criu import Criu
from ergosphere.agent.link import ServerLink
from ergosphere.agent.lives import LifeFolder, LifeRecord
from ergosphere.agent.logs import LogShipper
from ergosphere.agent.node import Dumped, Node
from ergosphere.agent.place import CellKey, Place
from ergosphere.agent.world import Cores
from ergosphere.snapshots import gather, records
from ergosphere.snapshots.depot import open_depot
from ergosphere.snapshots.errors import StoreUnreachable
from ergosphere.snapshots.gather import CellFacts, CellFiles
from ergosphere.snapshots.manifest import Manifest
from ergosphere.snapshots.store import Store
from ergosphere.snapshots.wrappers import Around, Call
from ergosphere.wire.agents import CellPlan, LifePlan
from ergosphere.wire.jobs import JobSpec

MB = 1 << 20
HANG_S_MAX = 60.0
T = TypeVar("T")


class Hand:
    """A clock whose two hands are moved apart."""

    now_s, monotonic_s = 1_000_000.0, 1000.0

    def now(self) -> float:
        return self.now_s

    def monotonic(self) -> float:
        return self.monotonic_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.monotonic_s += seconds


@contextmanager
def a_node(tmp_path: Path, name: str = "node-0", store: Path | None = None) -> Iterator[Node]:
    """A node's own things, without an agent process. `store`: the home whose store it uses, if not its own: with that
    home's nodes it then shares nothing else.
    """
    home, clock = tmp_path / "home", system.SystemClock()
    home.mkdir(parents=True)
    place, depot = Place(home, name), open_depot(store or home)
    for folder in (place.node_dir, place.lives, place.memory / "images"):
        folder.mkdir(parents=True)
    node = Node(
        place=place,
        depot=depot,
        store=depot.store,
        store_url=depot.url,
        criu=Criu(()),
        nft=None,
        cores=Cores((0,), 1),
        clock=clock,
        shipper=LogShipper(place, ServerLink(home, "node-0"), clock),
        hierarchy=cgroups.choose(None),
        python=sys.executable,
    )
    try:
        yield node
    finally:
        for upload in list(node.uploads.values()):
            upload.stop.set()
        shutil.rmtree(place.memory.parent, ignore_errors=True)


def filled(node: Node, name: str, megabytes: int, age_s: float = 0.0) -> Path:
    """Images of a snapshot in memory."""
    folder = node.images(name)
    (folder / "rank0").mkdir(parents=True)
    (folder / "rank0/pages-1.img").write_bytes(os.urandom(megabytes * MB))
    then = node.clock.now() - age_s
    os.utime(folder, (then, then))
    return folder


def dumped(node: Node, freeze_id: str, job: str = "j1", made: bytes = b"made by the job") -> Manifest:
    """A cell of one rank as it is between seal and commit: images and pool are here, and its freeze is noted."""
    key = CellKey(job, 1, 0)
    images = settling.room_for(node, freeze_id, job, MB)
    (images / "rank0").mkdir()
    (images / "rank0/core-1.img").write_bytes(os.urandom(1000))
    work = node.place.home / "work" / freeze_id
    work.mkdir(parents=True)
    (work / "checkpoint").write_bytes(made)
    files = CellFiles(work, None, {})
    staged = gather.stage_cell(files, node.pool(key))
    node.dumped[(freeze_id, key)] = Dumped(staged, images, {0: {}}, (), {}, {}, frozenset())
    settling.written(node, freeze_id)
    facts = CellFacts(0, node.place.node, "10.64.0.1", "jobnet", (0,))
    part = gather.build(staged, facts, images, {0: {}}, node.pool(key))
    return Manifest(freeze_id, job, 1, {"project": "p"}, 1.0, "test", 0.1, "4.2", "6.1", None, (part,))


def frozen(node: Node, freeze_id: str, job: str = "j1", made: bytes = b"made by the job") -> Manifest:
    """A committed snapshot of which nothing but its record is in the store."""
    snapshot = dumped(node, freeze_id, job, made)
    assert records.commit(node.store, freeze_id, snapshot) == snapshot
    node.dumped.clear()
    return snapshot


def life(node: Node, job: str = "j1") -> LifeFolder:
    """A cell of a job that runs here, as far as the node's disk says."""
    spec = JobSpec(command=("x",), name="x", workdir="/w")
    cell = CellPlan(index=0, ranks=(0,), node=node.place.node, devices=(0,), address="")
    plan = LifePlan(job=job, incarnation=2, spec=spec, cells=(cell,), threads=1)
    return lives.create(node.place, LifeRecord(plan=plan, cell=0, phase="live"))


class Away(Around):
    """A store that does not answer, and says so at once."""

    def _do(self, call: Call, act: Callable[[], T]) -> T:
        raise StoreUnreachable("the store", "wait for it")


class Hanging(Around):
    """A store that says nothing until it is let go; then it is there again."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.asked, self.go_on = threading.Event(), threading.Event()

    def _do(self, call: Call, act: Callable[[], T]) -> T:
        self.asked.set()
        self.go_on.wait(HANG_S_MAX)
        return act()
