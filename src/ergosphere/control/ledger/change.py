"""One change of the ledger: a transaction that steps jobs through their lifecycle and writes why.

Nothing else may set a job's phase. The rules of lives (what follows an order, an answer, a loss) are in `lives`.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ergosphere.control.ledger.news import News
from ergosphere.control.ledger.tables import (
    EnvironmentRow,
    EventRow,
    JobRow,
    Json,
    NodeRow,
    OrderRow,
    OrderState,
    SnapshotRow,
    WorldRow,
)
from ergosphere.core import lifecycle
from ergosphere.core.lifecycle import Event
from ergosphere.core.model import ENDED
from ergosphere.wire.addresses import HOSTS, cell_address
from ergosphere.wire.jobs import JobSpec

OWNER: Final = "owner"
POLICY: Final = "policy"
SERVER: Final = "server"
TEXT_MAX: Final = 4000  # characters of one event
ASKED_MAX: Final = 500  # ids in one query
WITHIN_REACH: Final = (
    SnapshotRow.damaged.is_(False),
    SnapshotRow.dropped.is_(False),
    SnapshotRow.stranded.is_(False),
)  # of whole snapshots: a life can begin with them


def agent(node: str) -> str:
    """The actor that an agent is in events."""
    return f"agent:{node}"


@dataclass(slots=True)
class Change:
    """An open transaction at `now_s`. Whoever opened it commits; see `Ledger.change`."""

    session: Session
    now_s: float
    new_id: Callable[[], str]
    prefix: str  # of the fleet's /16
    in_use: Callable[[], Container[str]]  # addresses of live jobs, as of the last change
    news: News = field(default_factory=News)  # what it has changed so far
    _at_hand: list[object] = field(default_factory=list)  # rows that are not to be read again
    _largest: int | None = None

    def job(self, job: str) -> JobRow:
        """The row of a job by its id; KeyError when there is none."""
        row = self.session.get(JobRow, job)
        if row is None:
            raise KeyError(job)
        return row

    def live_jobs(self) -> list[JobRow]:
        """Every job that has not ended, oldest first."""
        query = select(JobRow).where(JobRow.phase.not_in(ENDED)).order_by(JobRow.submitted_s, JobRow.id)
        return list(self.session.scalars(query))

    def jobs(self, ids: Iterable[str], *, live: bool = False) -> list[JobRow]:
        """The rows of these jobs, as far as there are any, oldest first; with `live` only of those that go on."""
        found: list[JobRow] = []
        for some in chunks(ids):
            query = select(JobRow).where(JobRow.id.in_(some))
            found += self.session.scalars(query.where(JobRow.phase.not_in(ENDED)) if live else query)
        return sorted(found, key=lambda job: (job.submitted_s, job.id))

    def node(self, node: str) -> NodeRow | None:
        return self.session.get(NodeRow, node)

    def fetch(self, jobs: Iterable[str], nodes: Iterable[str]) -> None:
        """Read at once what will be asked for one by one: nodes, and what orders to these jobs say."""
        for some in chunks(nodes):
            self._at_hand += self.session.scalars(select(NodeRow).where(NodeRow.id.in_(some)))
        for some in chunks(jobs):
            self._at_hand += self.session.scalars(select(EnvironmentRow).where(EnvironmentRow.job.in_(some)))
        self._at_hand.append(self.session.get(WorldRow, 1))

    def node_devices_max(self) -> int | None:
        """Devices of the largest node, read once; None where there is no node."""
        if self._largest is None:
            self._largest = self.session.scalar(select(func.max(NodeRow.devices)))
        return self._largest

    def step(self, job: JobRow, event: Event, actor: str, text: str) -> None:
        """Take the lifecycle's step and write it down. Raises StepRefused where the table has none."""
        job.phase = lifecycle.step(job.phase, event)
        job.reason, job.reason_code, job.remedy = text, event.value, ""
        self.note(job, actor, event.value, text)

    def note(self, job: JobRow | None, actor: str, kind: str, text: str) -> None:
        """One line of history."""
        line = EventRow(at_s=self.now_s, job=job.id if job else None, actor=actor, kind=kind, text=text[:TEXT_MAX])
        self.session.add(line)

    def spec(self, job: JobRow) -> JobSpec:
        """The whole spec, environment included: for orders only, never for showing."""
        environment = self.session.get(EnvironmentRow, job.id)
        return JobSpec.model_validate({**job.spec, "env": environment.env if environment else {}})

    def open_orders(self, job: JobRow) -> list[OrderRow]:
        query = select(OrderRow).where(OrderRow.job == job.id, OrderRow.state == OrderState.ISSUED)
        return list(self.session.scalars(query))

    def drop_orders(self, job: JobRow) -> None:
        """What was asked of a life that is over need not be answered any more."""
        for order in self.open_orders(job):
            order.state = OrderState.DROPPED

    def snapshots(self, job: JobRow) -> list[SnapshotRow]:
        """The whole snapshots of a job that are within reach, newest first."""
        query = select(SnapshotRow).where(SnapshotRow.job == job.id, *WITHIN_REACH)
        return list(self.session.scalars(query.order_by(SnapshotRow.number.desc())))

    def addresses(self, count: int) -> list[str]:
        """Fresh cell addresses: the next of a counter that skips what a live job has."""
        world = self.session.get_one(WorldRow, 1)
        used = self.in_use()
        fresh: list[str] = []
        for _ in range(HOSTS):
            if len(fresh) == count:
                break
            address = cell_address(self.prefix, world.addresses)
            world.addresses += 1
            if address not in used:
                fresh.append(address)
        assert len(fresh) == count, "more live cells than addresses"
        return fresh


def chunks(ids: Iterable[str]) -> Iterator[list[str]]:
    """Ids in an order that does not depend on chance, as many at a time as one query may name."""
    rest = iter(sorted(ids))
    while some := list(islice(rest, ASKED_MAX)):
        yield some


def cells_on(job: JobRow, seats: Json = None) -> Iterable[tuple[int, list[int], str, list[int]]]:
    """Each cell of a job's seats, or of others for it: index, ranks, node, devices per rank."""
    at = job.seats if seats is None else seats
    for index, ranks in enumerate(job.cells):
        yield index, ranks, at[ranks[0]][0], [at[rank][1] for rank in ranks]


def coordinator(job: JobRow) -> str:
    """The node of the cell that holds rank 0: every order goes there."""
    return str(job.seats[0][0])
