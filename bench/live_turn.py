"""The service's own turn, with the real ledger: what a change costs on a large fleet with many jobs.

In a process of its own, on a ledger in a temporary folder; CPU time of one core, as in `bench.policy`.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from sqlalchemy import insert

from bench.policy import CHANGES, JOBS, LARGE, RULES, Motion, fleet
from ergosphere import system
from ergosphere.control.bell import Bell
from ergosphere.control.leases import Leases
from ergosphere.control.ledger import accounts
from ergosphere.control.ledger.database import open_database
from ergosphere.control.ledger.ledger import Ledger
from ergosphere.control.ledger.tables import CellRow, EnvironmentRow, JobRow, NodeRow
from ergosphere.control.watch import Watch
from ergosphere.core.model import HOLDS_SEATS, JobView, Phase
from ergosphere.core.policy.decide import decide
from ergosphere.snapshots.memory_store import MemoryStore
from ergosphere.wire.addresses import cell_address
from ergosphere.wire.jobs import JobSpec

PREFIX = "10.99"
PARTS = ("notice", "observe", "decide", "commit", "tell")
ROUNDS = 3  # turns after the fill, until it stands still


@dataclass
class Clock:
    """Moved by hand: no lease runs out because the filling takes long."""

    at_s: float

    def now(self) -> float:
        return self.at_s

    def monotonic(self) -> float:
        return self.at_s

    def sleep(self, seconds: float) -> None:
        self.at_s += seconds


@dataclass
class Live:
    """A ledger with nodes that answer and jobs that run or wait. `parts`: milliseconds of each part of each turn."""

    ledger: Ledger
    watch: Watch
    clock: Clock
    motion: Motion
    parts: dict[str, list[float]] = field(default_factory=dict)
    leaving: list[str] = field(default_factory=list)

    @staticmethod
    def of(folder: Path, nodes: int, jobs: int) -> Live:
        motion = Motion.of(nodes, jobs, seed=1)
        clock = Clock(motion.now_s)
        leases = Leases(clock)
        ledger = Ledger(open_database(folder / "ledger.db"), clock, leases, Bell(clock), system.short_id, PREFIX, RULES)
        names = [view.id for view in fleet(nodes)]
        _fill(ledger, names, list(motion.board.jobs()))
        for name in names:
            leases.renew(name)
        live = Live(ledger, Watch(ledger, leases, MemoryStore(clock)), clock, motion)
        live.leaving = [job.id for job in motion.board.jobs() if job.phase is Phase.RUNNING]
        motion.dice.shuffle(live.leaving)
        for _ in range(ROUNDS):
            live.turn()
        live.parts.clear()
        return live

    def change(self, changes: int) -> None:
        """Half of them end, as many come; whoever was told to start is up."""
        self.clock.sleep(1.0)
        for node in list(self.watch.leases._until):
            self.watch.leases.renew(node)
        with self.ledger.change() as change:
            for job in change.session.query(JobRow).filter(JobRow.phase == Phase.STARTING):
                job.phase, job.running_since_s, job.reason = Phase.RUNNING, change.now_s, ""
                change.drop_orders(job)
                accounts.computes(change, job, change.now_s)
                change.session.add_all(_cells(job.id, job.incarnation, job.cells, job.seats))
        self.motion.now_s = self.clock.now()
        with self.ledger.change() as change:
            for job in change.jobs(self.leaving[: changes // 2]):
                job.phase, job.ended_s, job.running_since_s = Phase.SUCCEEDED, change.now_s, None
                accounts.close(change, job)
            del self.leaving[: changes // 2]
            for row in _rows([self.motion.job() for _ in range(changes - changes // 2)]):
                change.session.add(row)
                change.session.flush()
                change.session.add(EnvironmentRow(job=row.id, env={"PATH": "/usr/bin"}))

    def turn(self) -> float:
        """Milliseconds of CPU of a whole turn: what time tells, the look, the decision, and its orders written."""
        spent = [time.process_time()]
        self.watch.notice()
        spent.append(time.process_time())
        seen = self.ledger.observe()
        spent.append(time.process_time())
        plan = decide(seen.view, RULES)
        spent.append(time.process_time())
        assert self.ledger.commit(plan, seen.version)
        spent.append(time.process_time())
        self.ledger.tell(plan)
        spent.append(time.process_time())
        for name, (before, after) in zip(PARTS, pairwise(spent), strict=True):
            self.parts.setdefault(name, []).append(1000 * (after - before))
        self.parts.setdefault("orders", []).append(len(plan.decisions))
        return 1000 * (spent[4] - spent[0])


def _fill(ledger: Ledger, nodes: list[str], jobs: list[JobView]) -> None:
    with ledger.change() as change:
        change.session.execute(insert(NodeRow), [{"id": name, "devices": 8, "cores": 64} for name in nodes])
        rows = list(_rows(jobs))
        change.session.add_all(rows)
        change.session.flush()
        change.session.execute(insert(EnvironmentRow), [{"job": row.id, "env": {"PATH": "/usr/bin"}} for row in rows])
        for row in rows:
            change.session.add_all(_cells(row.id, 1, row.cells, row.seats))


def _rows(jobs: Iterable[JobView]) -> Iterable[JobRow]:
    for number, job in enumerate(jobs):
        spec = JobSpec(name=job.name, command=("python", "train.py"), workdir="/w", ranks=job.ranks)
        row = JobRow(id=job.id, name=job.name, project=job.project, tier=job.tier, ranks=job.ranks, phase=job.phase)
        row.spec, row.submitted_s, row.min_devices = spec.model_dump(mode="json"), job.submitted_s, job.ranks
        row.account = accounts.dumped(job.account) if job.account else None
        row.freeze_cost_s, row.thaw_cost_s = job.freeze_cost_s, job.thaw_cost_s
        if job.phase in HOLDS_SEATS:
            row.cells = [list(cell.ranks) for cell in job.cells]
            row.seats = [[seat.node, seat.device] for seat in job.seats]
            row.addresses = [cell_address(PREFIX, number)] if len(row.cells) == 1 else []
            row.running_since_s, row.incarnation, row.threads = job.running_since_s, 1, 8
        yield row


def _cells(job: str, incarnation: int, cells: list[list[int]], seats: list[list[object]]) -> Iterable[CellRow]:
    for index, ranks in enumerate(cells):
        told = [{"rank": rank, "state": "running", "bytes": 1 << 30} for rank in ranks]
        yield CellRow(
            job=job,
            incarnation=incarnation,
            cell=index,
            node=seats[ranks[0]][0],
            phase="running",
            ranks=told,
            keeper_alive=True,
            notes=[],
            changed_s=0.0,
        )


def large(turns: int, nodes: int = LARGE, jobs: int = JOBS) -> None:
    """Prints NAME=figure figure … for `turn` and each of its parts."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        live = Live.of(Path(folder), nodes, jobs)
        gc.freeze()
        took = []
        for _ in range(turns):
            live.change(CHANGES)
            took.append(live.turn())
        for name, figures in {"turn": took, **live.parts}.items():
            print(f"{name}={' '.join(f'{each:.6g}' for each in figures)}")
        live.ledger.close()


if __name__ == "__main__":
    large(*map(int, sys.argv[1:]))
