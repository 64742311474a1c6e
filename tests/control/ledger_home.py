"""A ledger without server and agents, and a watch over it: for tests of what the service keeps and decides."""

from __future__ import annotations

from pathlib import Path

from tests.hand_clock import HandClock

from ergosphere import system
from ergosphere.control.bell import Bell
from ergosphere.control.inbox import Inbox
from ergosphere.control.leases import Leases
from ergosphere.control.ledger import accounts
from ergosphere.control.ledger.database import open_database
from ergosphere.control.ledger.ledger import Ledger
from ergosphere.control.ledger.tables import JobRow, NodeRow
from ergosphere.control.logs import LogFiles
from ergosphere.control.verbs import Verbs
from ergosphere.control.watch import Watch
from ergosphere.core import elastic
from ergosphere.core.model import Tier
from ergosphere.core.policy.decide import decide
from ergosphere.core.policy.rules import Rules
from ergosphere.snapshots.memory_store import MemoryStore
from ergosphere.wire.jobs import JobSpec

RULES = Rules(min_run_s=2.0, settle_s=5.0, grow_after_s=2.0, quantum_s=60.0)


class Home:
    """A ledger without agents, and a watch over it."""

    def __init__(self, folder: Path) -> None:
        self.clock = HandClock()
        self.leases = Leases(self.clock)
        bell = Bell(self.clock)
        database = open_database(folder / "ledger.db")
        self.ledger = Ledger(database, self.clock, self.leases, bell, system.short_id, "10.99", RULES)
        self.watch = Watch(self.ledger, self.leases, MemoryStore(self.clock))
        self.inbox = Inbox(self.ledger, self.leases, LogFiles(folder / "logs"), bell)
        self.verbs = Verbs(self.ledger)

    def nodes(self, *names: str, devices: int = 2) -> None:
        with self.ledger.change() as change:
            change.session.add_all(NodeRow(id=name, devices=devices, cores=2, machine=f"m-{name}") for name in names)
        for name in names:
            self.leases.renew(name)

    def job(self, name: str, ranks: int = 1, tier: Tier = Tier.STANDARD, **fields: object) -> None:
        spec = JobSpec(name=name, command=("x",), workdir="/", ranks=ranks, max_restarts=10_000)
        row = JobRow(id=name, name=name, project="p", tier=tier, ranks=ranks, spec=spec.model_dump(mode="json"))
        row.submitted_s, row.min_devices, row.after = self.clock.now(), elastic.fewest(ranks), []
        for field, value in fields.items():
            setattr(row, field, value)
        accounts.open_account(row, self.clock.now())
        with self.ledger.change() as change:
            change.session.add(row)

    def turn(self) -> bool:
        self.watch.notice()
        seen = self.ledger.observe()
        plan = decide(seen.view, RULES)
        committed = self.ledger.commit(plan, seen.version)
        self.ledger.tell(plan)
        return committed

    def row(self, job: str) -> JobRow:
        with self.ledger.read() as look:
            return look.job(job)
