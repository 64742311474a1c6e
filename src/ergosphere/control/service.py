"""The service as one value: every part that a route may need, wired together."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine as Database

from ergosphere.control.accents import Accents
from ergosphere.control.bell import Bell
from ergosphere.control.courier import Courier
from ergosphere.control.elders import Elders
from ergosphere.control.inbox import Inbox
from ergosphere.control.leases import Leases
from ergosphere.control.ledger.ledger import Ledger
from ergosphere.control.logs import LogFiles
from ergosphere.control.loop import Loop
from ergosphere.control.verbs import Verbs
from ergosphere.control.watch import Watch
from ergosphere.core.policy.rules import Rules
from ergosphere.engines.port import Engine
from ergosphere.snapshots.depot import Depot
from ergosphere.snapshots.store import Store
from ergosphere.system import Clock


@dataclass(frozen=True, slots=True)
class Identity:
    """Which service this is."""

    home: Path
    fleet: str
    prefix: str  # of its /16
    pid: int
    began_s: float


@dataclass(slots=True)
class Closing:
    """A shutdown under way: `begun` refuses new jobs, `leave` ends the process once the last answer is out."""

    leave: Callable[[], None]
    begun: bool = False


@dataclass(frozen=True, slots=True)
class Service:
    identity: Identity
    clock: Clock
    depot: Depot
    store: Store  # the depot's
    engine: Engine
    ledger: Ledger
    leases: Leases
    accents: Accents
    logs: LogFiles
    logs_bell: Bell
    inbox: Inbox
    courier: Courier
    verbs: Verbs
    loop: Loop
    rules: Rules
    closing: Closing
    new_id: Callable[[], str]
    uploads: Path = field(default=Path())
    sweeping: threading.Lock = field(default_factory=threading.Lock)  # held by whoever sweeps the store
    elders: Elders = field(default_factory=Elders)  # jobs whose results were found old

    def dismiss(self) -> None:
        """Requests that wait for news are answered now: the server ends."""
        for bell in (self.ledger.bell, self.logs_bell, self.courier.bell):
            bell.end()


def assemble(
    identity: Identity,
    clock: Clock,
    database: Database,
    depot: Depot,
    engine: Engine,
    closing: Closing,
    *,
    leases: Leases,
    rules: Rules,
    new_id: Callable[[], str],
) -> Service:
    """All parts over a migrated database and an open store. Nothing runs yet."""
    bell, logs_bell = Bell(clock), Bell(clock)
    ledger = Ledger(database, clock, leases, bell, new_id, identity.prefix, rules)
    logs = LogFiles(identity.home / "server/logs")
    courier = Courier(ledger, clock, Bell(clock))
    return Service(
        identity=identity,
        clock=clock,
        depot=depot,
        store=depot.store,
        engine=engine,
        ledger=ledger,
        leases=leases,
        accents=Accents(ledger),
        logs=logs,
        logs_bell=logs_bell,
        inbox=Inbox(ledger, leases, logs, logs_bell),
        courier=courier,
        verbs=Verbs(ledger),
        loop=Loop(Watch(ledger, leases, depot.store), ledger, courier, rules, clock),
        rules=rules,
        closing=closing,
        new_id=new_id,
        uploads=identity.home / "server/uploads",
    )
