"""What is kept of the ledger from turn to turn: it answers as one that was read anew, and costs what has changed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import event, select
from tests.control.ledger_home import RULES, Home

from ergosphere.control.ledger import lives
from ergosphere.control.ledger.news import News
from ergosphere.control.ledger.sight import Sight
from ergosphere.control.ledger.tables import (
    CellRow,
    FitnessRow,
    JobRow,
    NodeRow,
    OrderRow,
    OrderState,
    ProjectRow,
    SnapshotRow,
)
from ergosphere.control.ledger.telling import SHORT_QUEUE
from ergosphere.control.verbs import Conflict
from ergosphere.core.model import ENDED, TIER_ORDER, JobId, NodeId, Phase, Plan, Reason, Seat, Start, Tier
from ergosphere.core.policy.board import Board
from ergosphere.core.policy.decide import decide
from ergosphere.wire.agents import Answer
from ergosphere.wire.jobs import JobSpec


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.ledger.close()


# ---- the same as from nothing


class Motion:
    """Everything that can happen to a ledger, by one seed."""

    def __init__(self, home: Home, seed: int) -> None:
        self.home = home
        self.dice = random.Random(seed)
        self.count = 0
        home.nodes("a", "b", "c")

    def jobs(self, *phases: Phase) -> list[str]:
        with self.home.ledger.read() as look:
            return [job.id for job in look.live_jobs() if not phases or job.phase in phases]

    def some(self, *phases: Phase) -> str | None:
        found = self.jobs(*phases)
        return self.dice.choice(found) if found else None

    def happen(self) -> None:
        kinds = [self.submit, self.ask, self.ask, self.node, self.projects, self.weigh, self.spoil, self.lose]
        self.dice.choice([*kinds, *[self.answer] * 8, *[self.measure] * 2])()

    def submit(self) -> None:
        self.count += 1
        before = self.some()
        after = [before] if before and self.dice.random() < 0.3 else []
        project = self.dice.choice(["lab", "lab-a", "p"])
        ranks = self.dice.choice([1, 1, 2, 4])
        self.home.job(f"j{self.count}", ranks, self.dice.choice(TIER_ORDER), project=project, after=after)

    def ask(self) -> None:
        job, verbs = self.some(), self.home.verbs
        if job is None:
            return
        wish = self.dice.choice(["pause", "resume", "resume", "migrate", "resize", "cancel"])
        try:
            match wish:
                case "migrate":
                    verbs.migrate(job, [self.dice.choice(["a", "b", "c"])])
                case "resize":
                    verbs.resize(job, self.dice.choice([1, 2, 4]))
                case "cancel":
                    verbs.cancel(job, 0.0)
                case _:
                    getattr(verbs, wish)(job)
        except Conflict:
            return

    def answer(self) -> None:
        with self.home.ledger.read() as look:
            orders = list(look.session.scalars(select(OrderRow).where(OrderRow.state == OrderState.ISSUED)))
        if not orders:
            return
        order = self.dice.choice(sorted(orders, key=lambda one: (one.issued_s, one.job)))
        well = self.dice.random() < 0.8
        told = {"order_id": order.id, "job": order.job, "incarnation": order.incarnation, "ok": well, "stopped_s": 0.1}
        more = {"snapshot": order.id, "took_s": 2.0, "bytes": 10} if order.kind == "freeze" and well else {}
        self.home.inbox.answer(order.node, Answer.model_validate({**told, **more, "error": "" if well else "a fault"}))

    def measure(self) -> None:
        """A node tells of a cell: what its ranks hold."""
        job = self.some(Phase.RUNNING)
        if job is None:
            return
        with self.home.ledger.change() as change:
            row = change.job(job)
            for cell, ranks in enumerate(row.cells):
                key = (job, row.incarnation, cell, row.seats[ranks[0]][0])
                told = [{"rank": rank, "state": "running", "bytes": self.dice.choice([0, 5, 9])} for rank in ranks]
                found = change.session.get(CellRow, key)
                if found is None:
                    found = CellRow(job=job, incarnation=row.incarnation, cell=cell, node=key[3], phase="running")
                    found.keeper_alive, found.notes = True, []
                    change.session.add(found)
                found.ranks, found.changed_s = told, change.now_s

    def lose(self) -> None:
        job = self.some(Phase.RUNNING)
        if job is not None:
            with self.home.ledger.change() as change:
                lives.lose(change, change.job(job), "rank 0 was killed")

    def node(self) -> None:
        name = self.dice.choice(["a", "b", "c"])
        with self.home.ledger.change() as change:
            row = change.node(name)
            assert row is not None
            match self.dice.choice(["drain", "drain", "machine", "lost", "back", "leave"]):
                case "drain":
                    row.draining = not row.draining
                case "machine":
                    row.machine = self.dice.choice(["m-a", "m-b"])
                case "lost":
                    row.lost = True
                case "back":
                    row.lost = False
                case "leave" if not any(seat[0] == name for job in change.live_jobs() for seat in job.seats):
                    change.session.delete(row)
                    change.session.flush()
                    change.session.add(NodeRow(id=name, devices=self.dice.choice([1, 2, 4]), cores=2, machine="m-a"))

    def projects(self) -> None:
        with self.home.ledger.change() as change:
            from sqlalchemy import delete

            change.session.execute(delete(ProjectRow))
            if self.dice.random() < 0.7:
                change.session.add(ProjectRow(id="lab", guarantee=3, limit=self.dice.choice([None, 4])))
                change.session.add(ProjectRow(id="lab-a", parent="lab", guarantee=1))

    def weigh(self) -> None:
        with self.home.ledger.change() as change:
            rows = list(change.session.scalars(select(SnapshotRow.id).order_by(SnapshotRow.job, SnapshotRow.number)))
            if rows:
                key = (self.dice.choice(rows), self.dice.choice(["a", "b", "c"]))
                row = change.session.get(FitnessRow, key)
                if row is None:
                    change.session.add(FitnessRow(snapshot=key[0], node=key[1], cause="another GPU"))
                else:
                    row.cause = "" if row.cause else "another GPU"

    def spoil(self) -> None:
        with self.home.ledger.change() as change:
            rows = list(change.session.scalars(select(SnapshotRow).order_by(SnapshotRow.job, SnapshotRow.number)))
            if rows:
                row = self.dice.choice(rows)
                row.stranded = not row.stranded


@pytest.mark.parametrize("seed", range(10))
def test_what_is_kept_answers_as_what_is_read_anew(home: Home, seed: int) -> None:
    motion = Motion(home, seed)
    for _ in range(60):
        for _ in range(motion.dice.choice([0, 1, 1, 3])):
            motion.happen()
        home.clock.sleep(motion.dice.choice([0.1, 1.0, 4.0]))
        for node in "abc":
            if motion.dice.random() < 0.9:
                home.leases.renew(node)
        home.watch.notice()
        seen = home.ledger.observe()
        fresh = Sight(home.leases)
        with home.ledger.read() as look:
            fresh.catch_up(look, News(whole=True))
            now_s = look.now_s
        assert home.ledger.picture() == fresh.picture(now_s)
        plan = decide(seen.view, RULES)
        assert plan == decide(Board.of(fresh.picture(now_s), RULES), RULES)
        with home.ledger.sight() as sight:
            for kept in ("waiting", "told", "addresses", "dependents", "rooms", "lost", "_placing", "_homes", "_cells"):
                assert getattr(sight, kept) == getattr(fresh, kept), kept
        assert home.ledger.commit(plan, seen.version)


def test_whoever_is_frozen_is_looked_at_again_when_a_node_becomes_another_machine_or_is_lost(home: Home) -> None:
    home.nodes("a", "b")
    home.job("j", phase=Phase.FROZEN, cells=[[0]], home=["a"], paused=True)
    with home.ledger.change() as change:
        snapshot = SnapshotRow(id="s", job="j", number=1, incarnation=1, taken_s=1.0, why="pause", bytes=1)
        snapshot.stopped_s, snapshot.progress_s, snapshot.log_lengths = 0.0, 0.0, {}
        snapshot.nodes, snapshot.machines = ["a"], ["m-a"]
        change.session.add(snapshot)
    (job,) = home.ledger.picture().jobs
    assert [node for node, _ in job.unfit] == ["b"] and job.home == ("a",)
    with home.ledger.change() as change:
        change.node("b").machine = "m-a"
    assert home.ledger.picture().jobs[0].unfit == ()
    with home.ledger.change() as change:
        change.session.add(NodeRow(id="c", devices=1, machine="m-c"))
    assert [node for node, _ in home.ledger.picture().jobs[0].unfit] == ["c"]
    with home.ledger.change() as change:
        change.node("a").lost = True
    assert home.ledger.picture().jobs[0].home == ("",)


# ---- what has moved since


def started(job: str, node: str, device: int = 0) -> Start:
    return Start(JobId(job), (Seat(NodeId(node), device),), Reason("placed", f"starts on {node}"))


def test_who_has_moved_is_left_out_of_a_plan_and_the_others_go_on(home: Home) -> None:
    home.nodes("a", "b")
    for name in ("first", "second", "third"):
        home.job(name)
    seen = home.ledger.observe()
    plan = decide(seen.view, RULES)
    assert {one.job for one in plan.decisions} == {"first", "second", "third"}
    home.verbs.pause("second")
    assert home.ledger.commit(plan, seen.version)
    assert [home.row(name).phase for name in ("first", "second", "third")] == ["starting", "waiting", "starting"]


def test_a_seat_on_a_node_that_has_changed_is_not_given(home: Home) -> None:
    home.nodes("a", "b")
    for name in ("first", "second"):
        home.job(name)
    seen = home.ledger.observe()
    home.verbs.drain("a", on=True)
    plan = Plan((started("first", "a"), started("second", "b")))
    assert home.ledger.commit(plan, seen.version)
    assert (home.row("first").phase, home.row("second").phase) == (Phase.WAITING, Phase.STARTING)


def test_nobody_makes_room_for_a_job_that_has_gone_meanwhile(home: Home) -> None:
    home.nodes("a", devices=1)
    home.job("weak", tier=Tier.BASIC)
    home.turn()
    start = home.row("weak")
    with home.ledger.change() as change:
        job = change.job("weak")
        job.phase, job.running_since_s, job.started_s = Phase.RUNNING, 1.0, 1.0
        change.drop_orders(job)
    home.clock.sleep(100.0)
    home.leases.renew("a")
    home.job("strong", tier=Tier.PREMIUM)
    seen = home.ledger.observe()
    plan = decide(seen.view, RULES)
    assert [one.job for one in plan.decisions] == ["weak"], (plan, start.phase)
    home.verbs.cancel("strong", 0.0)
    assert home.ledger.commit(plan, seen.version)
    assert home.row("weak").phase is Phase.RUNNING


def test_turns_go_on_while_somebody_writes_all_the_time(home: Home) -> None:
    """A change between each look and its commit voids nothing but what it is about."""
    home.nodes("a", "b")
    for number in range(8):
        home.job(f"j{number}")
    for number in range(4):
        home.watch.notice()
        seen = home.ledger.observe()
        plan = decide(seen.view, RULES)
        home.job(f"new{number}")
        assert home.ledger.commit(plan, seen.version)
    with home.ledger.read() as look:
        assert sum(job.phase is Phase.STARTING for job in look.live_jobs()) == 4


def test_room_is_written_for_those_whose_room_changed(home: Home) -> None:
    home.nodes("a")
    home.job("j")
    seen = home.ledger.observe()
    room = (Seat(NodeId("a"), 1),)
    assert home.ledger.commit(Plan(rooms={JobId("j"): room}), seen.version)
    assert home.row("j").room == [["a", 1]]
    assert home.ledger.observe().view.promises.rooms == {"j": room}
    assert home.ledger.commit(Plan(), seen.version + 1)
    assert home.row("j").room == []


# ---- what a turn costs


def statements(home: Home) -> list[str]:
    told: list[str] = []
    event.listen(home.ledger._database, "before_cursor_execute", lambda *args: told.append(args[2]))
    return told


def test_a_turn_asks_no_more_of_a_long_queue_than_of_a_short_one(home: Home) -> None:
    home.nodes("a", devices=1)
    counts = []
    for fill in (3, 3 * SHORT_QUEUE):
        for number in range(fill):
            home.job(f"q{fill}-{number}", tier=Tier.PREMIUM)
        for _ in range(4):  # until nothing moves any more
            home.turn()
        told = statements(home)
        home.job(f"new{fill}", tier=Tier.PREMIUM)
        home.turn()
        counts.append(len(told))
    assert counts[1] <= counts[0] + 3, counts


def test_a_long_queue_is_told_its_reasons_by_and_by_and_the_newest_first(home: Home) -> None:
    home.nodes("a", devices=1)
    with home.ledger.change() as change:
        for number in range(5 * SHORT_QUEUE):
            row = JobRow(id=f"j{number:04}", name="j", project="p", tier=Tier.BASIC, ranks=1, submitted_s=1.0)
            row.spec = JobSpec(name="j", command=("x",), workdir="/").model_dump(mode="json")
            change.session.add(row)
    for _ in range(4):
        home.turn()
        home.clock.sleep(3.0)
        home.leases.renew("a")
    with home.ledger.read() as look:
        waiting = [job for job in look.live_jobs() if job.phase is Phase.WAITING]
        assert waiting and all(job.reason for job in waiting)
    home.job("new")
    home.turn()
    assert home.row("new").reason


def test_reasons_alone_call_for_no_turn(home: Home) -> None:
    home.nodes("a", devices=1)
    home.job("first")
    home.job("second")
    for _ in range(4):
        home.turn()
    seen = home.ledger.observe()
    said = Reason("full", "there is no room today")
    assert home.ledger.commit(Plan(reasons={JobId("second"): said}), seen.version)
    assert home.row("second").reason == said.text
    assert not home.ledger.moved()


# ---- what time tells


def test_whoever_waits_for_a_job_is_released_by_its_end(home: Home) -> None:
    home.job("first")
    home.job("second", after=["first"])
    home.watch.notice()
    home.watch.notice()
    with home.ledger.change() as change:
        change.job("first").phase = Phase.SUCCEEDED
    home.watch.notice()
    assert home.row("second").after == []


def test_a_snapshot_is_ordered_when_it_is_due_and_the_alarm_says_when(home: Home) -> None:
    home.nodes("a")
    home.job("j")
    home.turn()
    with home.ledger.change() as change:
        job = change.job("j")
        change.drop_orders(job)
        job.phase, job.next_snapshot_s = Phase.RUNNING, home.clock.now() + 60.0
        job.spec = {**job.spec, "snapshot_every_s": 60.0}
        cell = CellRow(job="j", incarnation=1, cell=0, node="a", phase="running", ranks=[], keeper_alive=True)
        cell.notes, cell.changed_s = [], 1.0
        change.session.add(cell)
    home.watch.notice()
    assert home.watch.alarm_s() == home.clock.now() + 60.0
    home.clock.sleep(61.0)
    home.watch.notice()
    with home.ledger.read() as look:
        assert [order.kind for order in look.open_orders(look.job("j"))] == ["freeze"]


def test_news_that_could_not_be_acted_on_are_not_lost(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.job("first")
    home.job("second", after=["first"])
    home.watch.notice()
    with home.ledger.change() as change:
        change.job("first").phase = Phase.SUCCEEDED
    with monkeypatch.context() as broken:
        broken.setattr("ergosphere.control.ledger.dependencies.settle", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            home.watch.notice()
    home.watch.notice()
    assert home.row("second").after == []


def test_a_board_that_could_not_be_told_is_told_everything_the_next_time(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.ledger.observe()
    home.job("j")
    with monkeypatch.context() as broken:
        broken.setattr(Board, "put_job", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            home.ledger.observe()
    assert home.ledger.observe().view.job(JobId("j")) is not None


def test_who_has_ended_is_gone_from_what_is_kept(home: Home) -> None:
    home.job("j")
    assert [job.id for job in home.ledger.picture().jobs] == ["j"]
    home.verbs.cancel("j", 0.0)
    home.turn()
    assert home.row("j").phase in ENDED
    assert home.ledger.picture().jobs == ()
    assert home.ledger.observe().view.job(JobId("j")) is None
