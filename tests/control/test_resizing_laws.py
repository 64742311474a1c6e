"""Two elastic jobs in a ledger without agents: whatever comes in whatever order, what the rows say stays possible."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import select
from tests.hand_clock import HandClock

from ergosphere import system
from ergosphere.control.bell import Bell
from ergosphere.control.inbox import Inbox
from ergosphere.control.leases import Leases
from ergosphere.control.ledger import lives
from ergosphere.control.ledger.database import open_database
from ergosphere.control.ledger.ledger import Ledger
from ergosphere.control.ledger.tables import JobRow, NodeRow, OrderRow, OrderState
from ergosphere.control.logs import LogFiles
from ergosphere.control.verbs import Conflict, Verbs
from ergosphere.core import elastic
from ergosphere.core.model import HOLDS_SEATS, Phase, Tier
from ergosphere.core.policy.decide import decide
from ergosphere.core.policy.rules import Rules
from ergosphere.wire.agents import Answer
from ergosphere.wire.jobs import JobSpec

RULES = Rules(min_run_s=0.0, grow_after_s=2.0)
NODES = ("a", "b")
JOBS = {"weak": (4, Tier.BASIC), "strong": (2, Tier.STANDARD)}
GIVEN = frozenset({"start", "thaw", "resize"})  # orders that give devices


class Resizes(RuleBasedStateMachine):
    """Owners ask, turns are taken, orders are answered well or badly, lives are lost."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = HandClock()
        bell = Bell(self.clock)
        self.leases = Leases(self.clock)
        database = open_database(Path(self.folder.name) / "ledger.db")
        self.ledger = Ledger(database, self.clock, self.leases, bell, system.short_id, "10.99")
        self.inbox = Inbox(self.ledger, self.leases, LogFiles(Path(self.folder.name) / "logs"), bell)
        self.verbs = Verbs(self.ledger)
        with self.ledger.change() as change:
            change.session.add_all(NodeRow(id=name, devices=2, cores=2) for name in NODES)
            for name, (ranks, tier) in JOBS.items():
                spec = JobSpec(name=name, command=("x",), workdir="/", ranks=ranks, max_restarts=10_000)
                row = JobRow(id=name, name=name, project="p", tier=tier, ranks=ranks, spec=spec.model_dump(mode="json"))
                row.submitted_s, row.min_devices, row.paused = 1.0, elastic.fewest(ranks), name == "strong"
                change.session.add(row)

    def teardown(self) -> None:
        self.ledger.close()
        self.folder.cleanup()

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0]))
    def turn(self, seconds: float) -> None:
        self.clock.sleep(seconds)
        for node in NODES:
            self.leases.renew(node)
        seen = self.ledger.observe()
        assert self.ledger.commit(decide(seen.view, RULES), seen.version)

    @rule(job=st.sampled_from(list(JOBS)), devices=st.sampled_from([1, 2, 3, 4]))
    def ask(self, job: str, devices: int) -> None:
        with suppress(Conflict):
            self.verbs.resize(job, devices)

    @rule(job=st.sampled_from(list(JOBS)), paused=st.booleans())
    def pause(self, job: str, paused: bool) -> None:
        self.verbs.pause(job) if paused else self.verbs.resume(job)

    @precondition(lambda self: self.orders())
    @rule(data=st.data(), well=st.sampled_from([True, True, True, False]))
    def answer(self, data: st.DataObject, well: bool) -> None:
        order = data.draw(st.sampled_from(self.orders()))
        told = {"order_id": order.id, "job": order.job, "incarnation": order.incarnation, "ok": well, "stopped_s": 0.1}
        more = {"snapshot": order.id} if order.kind == "freeze" and well else {}
        found = Answer.model_validate({**told, **more, "error": "" if well else "a fault"})
        assert self.inbox.answer(order.node, found)

    @rule(job=st.sampled_from(list(JOBS)))
    def lose(self, job: str) -> None:
        with self.ledger.change() as change:
            row = change.job(job)
            if row.phase in (Phase.RUNNING, Phase.RESIZING):
                lives.lose(change, row, "rank 0 was killed")

    def orders(self) -> list[OrderRow]:
        with self.ledger.read() as look:
            return list(look.session.scalars(select(OrderRow).where(OrderRow.state == OrderState.ISSUED)))

    @invariant()
    def every_job_has_a_size_that_it_may_have(self) -> None:
        for job in self.jobs():
            for seats in (job.seats, job.going_to):
                if seats:
                    devices = len({(node, device) for node, device in seats})
                    assert len(seats) == job.ranks and devices in elastic.sizes(job.ranks, job.min_devices), seats
            if job.phase is Phase.RESIZING:
                assert [node for node, _ in job.going_to] == [node for node, _ in job.seats], "a rank changed its node"
            else:
                assert not job.going_to or job.phase in (Phase.CLEARING, Phase.ENDING), job.phase

    @invariant()
    def no_device_is_held_by_two_jobs(self) -> None:
        held = [
            {(node, device) for node, device in [*job.seats, *job.going_to]}
            for job in self.jobs()
            if job.phase in HOLDS_SEATS
        ]
        assert sum(map(len, held)) == len(set().union(*held)), held

    @invariant()
    def arrangements_are_numbered_and_one_order_is_open_at_a_time(self) -> None:
        with self.ledger.read() as look:
            for job in self.jobs():
                rows = look.session.scalars(select(OrderRow).where(OrderRow.job == job.id).order_by(OrderRow.issued_s))
                given = [row.body["life"]["arrangement"] for row in rows if row.kind in GIVEN]
                assert len(set(given)) == len(given) and job.arrangement == max(given, default=0)
                assert len(look.open_orders(job)) <= 1

    def jobs(self) -> list[JobRow]:
        with self.ledger.read() as look:
            return [look.job(name) for name in JOBS]


TestResizes = Resizes.TestCase
TestResizes.settings = settings(max_examples=15, stateful_step_count=40, deadline=None)
