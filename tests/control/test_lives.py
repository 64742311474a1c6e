"""Lives in a ledger without a server: what answers and lost nodes make of a job's row."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select
from tests.hand_clock import HandClock

from ergosphere import system
from ergosphere.agent import deciding
from ergosphere.agent.answering import failed
from ergosphere.agent.mailbox import CallFailed
from ergosphere.agent.ports import Refused
from ergosphere.control import watch
from ergosphere.control.bell import Bell
from ergosphere.control.leases import Leases
from ergosphere.control.ledger import lives, results, shunning
from ergosphere.control.ledger.change import Change
from ergosphere.control.ledger.database import open_database
from ergosphere.control.ledger.ledger import Ledger
from ergosphere.control.ledger.tables import CellRow, EventRow, JobRow, NodeRow, OrderRow, SnapshotRow
from ergosphere.control.verbs import Verbs
from ergosphere.control.watch import Watch
from ergosphere.core.model import Phase, Tier, Why
from ergosphere.snapshots import records
from ergosphere.snapshots.errors import StoreFull, StoreUnreachable, Unreadable
from ergosphere.snapshots.manifest import Manifest
from ergosphere.snapshots.memory_store import MemoryStore
from ergosphere.snapshots.records import Aborted
from ergosphere.wire.agents import Answer, EndOrder, LifePlan, ThawOrder
from ergosphere.wire.jobs import JobSpec

SPEC = JobSpec(name="j", command=("x",), workdir="/", max_restarts=0)
WRITTEN_S_MAX = 20.0  # a writer that waits for longer waits for ever


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def ledger(tmp_path: Path, clock: HandClock) -> Iterator[Ledger]:
    opened = Ledger(open_database(tmp_path / "ledger.db"), clock, Leases(clock), Bell(clock), system.short_id, "10.99")
    yield opened
    opened.close()


def add_job(ledger: Ledger, phase: Phase) -> None:
    """The job "j", alone on node "n"."""
    with ledger.change() as change:
        change.session.add(NodeRow(id="n", devices=1))
        row = JobRow(id="j", name="j", project="p", tier=Tier.BASIC, ranks=1, spec=SPEC.model_dump(mode="json"))
        row.submitted_s, row.phase, row.incarnation, row.threads = 1.0, phase, 1, 1
        row.cells, row.seats, row.addresses = [[0]], [["n", 0]], ["10.99.0.2"]
        change.session.add(row)


def answer(**fields: object) -> Answer:
    return Answer.model_validate({"order_id": "o", "job": "j", "incarnation": 1, "ok": True, **fields})


def events(change: Change) -> str:
    return "\n".join(change.session.scalars(select(EventRow.text).order_by(EventRow.seq)))


def test_a_thaw_that_fails_costs_no_restart_as_long_as_there_is_a_snapshot(ledger: Ledger) -> None:
    add_job(ledger, Phase.THAWING)
    with ledger.change() as change:
        job = change.job("j")
        change.session.add(snapshot_row("s", 1))
        change.session.flush()
        for error, transient in (("the store is away", True), ("CRIU said no", False), ("CRIU said no", False)):
            lives.did_not_come_up(change, job, answer(ok=False, error=error, transient=transient))
            assert (job.phase, job.restarts, job.try_failed) == (Phase.FROZEN, 0, error)
            assert job.not_before_s > change.now_s
            job.phase = Phase.THAWING


def test_a_start_that_fails_costs_a_restart(ledger: Ledger) -> None:
    add_job(ledger, Phase.STARTING)
    with ledger.change() as change:
        lives.did_not_come_up(change, change.job("j"), answer(ok=False, error="no memory"))
        assert change.job("j").outcome is Phase.FAILED


def test_where_it_did_not_come_up_it_is_not_tried_for_a_while_if_others_could_take_it(
    ledger: Ledger, clock: HandClock, store: MemoryStore
) -> None:
    add_job(ledger, Phase.THAWING)
    with ledger.change() as change:
        job = change.job("j")
        change.session.add(snapshot_row("s", 1))
        change.session.flush()
        job.move_asked, job.destination = True, ["n"]
        lives.did_not_come_up(change, job, answer(ok=False, error="CRIU said no"))
        assert job.shunned == {} and job.destination == ["n"], "there is no other node"
        change.session.add(NodeRow(id="other", devices=1))
        change.session.add(NodeRow(id="drained", devices=1, draining=True))
        change.session.add(NodeRow(id="gone", devices=1, lost=True))
        job.phase = Phase.THAWING
        lives.did_not_come_up(change, job, answer(ok=False, error="CRIU said no"))
        assert (list(job.shunned), job.move_asked, job.destination) == (["n"], False, [])
        change.session.flush()
        assert "it is tried elsewhere than on n" in events(change)
    (seen,) = ledger.picture().jobs
    assert seen.unfit == (("n", "its last try there failed: CRIU said no"),)
    watch = Watch(ledger, ledger.leases, store)
    watch.notice()
    assert job_of(ledger).shunned and watch.alarm_s() <= clock.at_s + shunning.SHUNNED_S
    clock.at_s += shunning.SHUNNED_S + 1
    watch.notice()
    assert not job_of(ledger).shunned


def test_losses_count_in_a_row_and_an_hour_of_work_that_is_kept_ends_it(running: Ledger, clock: HandClock) -> None:
    for lasted_s, restarts in ((60.0, 2), (3600.0, 0)):
        with running.change() as change:
            job = change.job("j")
            job.restarts, job.running_since_s = 2, clock.at_s
            clock.at_s += lasted_s
        with running.change() as change:
            lives.snapshot_taken(change, change.job("j"), answer(snapshot=f"s{lasted_s}", taken_s=clock.at_s))
            assert change.job("j").restarts == restarts


def snapshot_row(name: str, number: int) -> SnapshotRow:
    row = SnapshotRow(id=name, job="j", number=number, incarnation=1, taken_s=1.0, why="pause", bytes=1)
    row.stopped_s, row.progress_s, row.log_lengths = 0.0, 0.0, {}
    return row


LIFE = LifePlan(job="j", incarnation=1, spec=SPEC, cells=(), threads=1)


def by_mail(kind: str) -> Refused:
    """A failure of another node's agent, or of reaching it ("")."""
    refused = Refused("n: something went wrong")
    refused.__cause__ = CallFailed("something went wrong", {"kind": kind} if kind else None)
    return refused


def test_an_agent_says_when_only_the_store_was_away() -> None:
    order = ThawOrder(order_id="o", life=LIFE, snapshots=("s",))
    assert failed(order, StoreUnreachable("the store is away")).transient
    assert failed(order, by_mail("StoreUnreachable")).transient
    assert not failed(order, Refused("a raw socket is open")).transient
    assert not failed(order, by_mail("")).transient


FAILURES = {
    "away": StoreUnreachable("the store is away"),
    "full": StoreFull("the store"),
    "disk": OSError(errno.ENOSPC, "no space"),
    "ours": RuntimeError("a mistake of ours"),
    "full by mail": by_mail("StoreFull"),
    "no answer": by_mail(""),
}


@pytest.mark.parametrize("error", FAILURES.values(), ids=FAILURES)
def test_results_are_given_up_only_where_no_later_try_could_keep_them(error: Exception) -> None:
    order = EndOrder(order_id="o", life=LIFE)
    assert failed(order, error).transient
    assert not failed(order, Unreadable("results/x cannot be read")).transient
    assert not failed(order, by_mail("Unreadable")).transient


def test_a_job_whose_results_wait_holds_no_devices_and_its_owner_may_give_them_up(ledger: Ledger) -> None:
    add_job(ledger, Phase.ENDING)
    with ledger.change() as change:
        job = change.job("j")
        job.outcome, job.exit_code, job.reason = Phase.SUCCEEDED, 0, "all ranks exited with 0"
        for error in ("no room (request 17)", "no room (request 18)"):
            results.not_home_yet(change, job, answer(ok=False, error=error, transient=True))
        assert job.reason.endswith("no room (request 18)")
    (seen,) = ledger.picture().jobs
    assert (seen.phase, seen.seats) == (Phase.ENDING, ())
    with ledger.read() as look:
        assert events(look).count("not home yet") == 1
    Verbs(ledger).cancel("j", 0.0)
    job = job_of(ledger)
    assert job.phase is Phase.SUCCEEDED and job.reason.startswith("all ranks exited with 0; its results could not")


@pytest.mark.parametrize(("outcome", "phase"), [(Phase.SUCCEEDED, Phase.FROZEN), (Phase.FAILED, Phase.FAILED)])
def test_a_node_that_goes_while_results_wait_has_a_success_done_again(
    ledger: Ledger, store: MemoryStore, clock: HandClock, outcome: Phase, phase: Phase
) -> None:
    """Of two nodes the one that goes is not the coordinator's."""
    add_job(ledger, Phase.ENDING)
    for node in ("n", "m"):
        ledger.leases.renew(node)
    with ledger.change() as change:
        job = change.job("j")
        change.session.add(NodeRow(id="m", devices=1))
        change.session.add(snapshot_row("s", 1))
        job.ranks, job.cells, job.seats, job.addresses = 2, [[0], [1]], [["n", 0], ["m", 0]], ["10.99.0.2", "10.99.0.3"]
        job.outcome, job.reason = outcome, "it ended"
        results.not_home_yet(change, job, answer(ok=False, error="m did not answer", transient=True))
    while not ledger.leases.lost("m"):
        clock.at_s += 1.0
        ledger.leases.renew("n")
    Watch(ledger, ledger.leases, store).notice()
    assert job_of(ledger).phase is phase


def test_the_number_of_a_damaged_snapshot_is_not_given_again(ledger: Ledger) -> None:
    add_job(ledger, Phase.RUNNING)
    with ledger.change() as change:
        job = change.job("j")
        for name in ("s1", "s2"):
            lives.record_snapshot(change, job, answer(snapshot=name), "asked")
            change.session.flush()
        change.session.get_one(SnapshotRow, "s2").damaged = True
        lives.record_snapshot(change, job, answer(snapshot="s3"), "asked")
        change.session.flush()
        assert [change.session.get_one(SnapshotRow, name).number for name in ("s1", "s2", "s3")] == [1, 2, 3]


def test_events_name_the_snapshot_and_not_the_order(ledger: Ledger) -> None:
    add_job(ledger, Phase.FREEZING)
    with ledger.change() as change:
        lives.snapshot_taken(change, change.job("j"), answer(snapshot="o-1"))
        lives.froze(change, change.job("j"), answer(snapshot="o-2"))
        change.session.flush()
        assert "snapshot o-1 taken" in events(change) and "snapshot o-2" in events(change)


# -- freezes whose node went away


@pytest.fixture
def store(clock: HandClock) -> MemoryStore:
    return MemoryStore(clock)


@pytest.fixture
def watching(ledger: Ledger, store: MemoryStore, clock: HandClock) -> Watch:
    """A job that is being frozen by the order "o" on a node that is lost."""
    add_job(ledger, Phase.FREEZING)
    with ledger.change() as change:
        change.job("j").freeze_why = Why.PAUSE
        change.node("n").lost = True
        order = OrderRow(id="o", job="j", incarnation=1, node="n", kind="freeze", why=Why.PAUSE, body={}, issued_s=1.0)
        change.session.add(order)
    return Watch(ledger, ledger.leases, store)


def commit(store: MemoryStore, name: str) -> None:
    records.commit(store, name, Manifest(name, "j", 1, {}, 1.0, "pause", 0.1, "4.2.1", "6.18", None, ()))


def job_of(ledger: Ledger) -> JobRow:
    with ledger.read() as look:
        return look.job("j")


def test_a_later_attempt_that_was_committed_is_found(watching: Watch, ledger: Ledger, store: MemoryStore) -> None:
    for name in ("o", "o-1"):
        records.abort(store, name, "the freeze failed before its commit")
    commit(store, "o-2")
    watching.notice()
    assert job_of(ledger).phase is Phase.FROZEN
    with ledger.read() as look:
        assert [one.id for one in look.snapshots(look.job("j"))] == ["o-2"]
        assert look.open_orders(look.job("j")) == []


def test_an_attempt_that_was_open_is_called_off_and_its_life_is_lost(
    watching: Watch, ledger: Ledger, store: MemoryStore
) -> None:
    records.abort(store, "o", "the freeze failed before its commit")
    watching.notice()
    assert job_of(ledger).outcome is Phase.FAILED, "no restart was left"
    assert isinstance(records.verdict(store, "o-1"), Aborted)
    assert records.verdict(store, "o-2") is None


class AwayStore(MemoryStore):
    """Cannot be reached; while it is asked, somebody else writes to the ledger."""

    ledger: Ledger

    def get(self, key: str) -> bytes:
        somebody = threading.Thread(target=self._write, daemon=True)
        somebody.start()
        somebody.join(WRITTEN_S_MAX)
        raise StoreUnreachable("the store is away")

    def _write(self) -> None:
        with self.ledger.change() as change:
            change.note(None, "test", "asked", "the store was asked")


def test_while_the_store_is_away_nothing_is_decided(watching: Watch, ledger: Ledger, clock: HandClock) -> None:
    away = AwayStore(clock)
    away.ledger = ledger
    Watch(ledger, ledger.leases, away).notice()
    assert job_of(ledger).phase is Phase.FREEZING
    with ledger.read() as look:
        assert "the store was asked" in events(look), "it is asked outside of any transaction"


class AnsweredMeanwhile(MemoryStore):
    """While it is asked, the order is answered."""

    ledger: Ledger

    def get(self, key: str) -> bytes:
        with self.ledger.change() as change:
            change.drop_orders(change.job("j"))
            change.job("j").phase = Phase.RUNNING
        return super().get(key)


def test_an_answer_that_comes_while_the_store_is_asked_stands(
    watching: Watch, ledger: Ledger, clock: HandClock
) -> None:
    store = AnsweredMeanwhile(clock)
    store.ledger = ledger
    Watch(ledger, ledger.leases, store).notice()
    assert job_of(ledger).phase is Phase.RUNNING


def test_the_server_walks_as_many_attempts_as_agents_make() -> None:
    assert watch.FREEZE_ATTEMPTS_MAX == deciding.ATTEMPTS_MAX


# -- how much work was lost


@pytest.fixture
def running(ledger: Ledger) -> Ledger:
    """The job "j" has run since second 1000, and may be restarted."""
    add_job(ledger, Phase.RUNNING)
    with ledger.change() as change:
        job = change.job("j")
        job.spec = {**job.spec, "max_restarts": 3}
        job.running_since_s = job.started_s = 1000.0
    return ledger


def thawed_from(ledger: Ledger, snapshot: str) -> float:
    """The job is brought back from a snapshot; the seconds of work that are done again."""
    with ledger.change() as change:
        job = change.job("j")
        lives.cleared(change, job)
        job.phase = Phase.THAWING
        lives.came_up(change, job, answer(snapshot=snapshot))
        return job.lost_s


def test_a_snapshot_keeps_the_work_up_to_the_cut_and_not_up_to_its_answer(running: Ledger, clock: HandClock) -> None:
    clock.at_s = 1039.0
    with running.change() as change:
        lives.snapshot_taken(change, change.job("j"), answer(snapshot="s", taken_s=1030.0))
    clock.at_s = 1050.0
    with running.change() as change:
        lives.lose(change, change.job("j"), "rank 0 was killed")
    assert thawed_from(running, "s") == pytest.approx(20.0)


def test_work_is_lost_up_to_when_the_node_was_last_heard_of_and_not_to_when_it_was_given_up(
    running: Ledger, clock: HandClock, store: MemoryStore
) -> None:
    clock.at_s = 1039.0
    with running.change() as change:
        lives.snapshot_taken(change, change.job("j"), answer(snapshot="s", taken_s=1039.0))
    clock.at_s = 1042.0
    running.leases.renew("n")
    while not running.leases.lost("n"):
        clock.at_s += 1.0
    Watch(running, running.leases, store).notice()
    assert job_of(running).phase is Phase.CLEARING
    assert thawed_from(running, "s") == pytest.approx(3.0)
    assert job_of(running).paused_total_s == pytest.approx(clock.at_s - 1042.0), "since then it stood still"


def test_work_is_lost_up_to_when_a_rank_was_killed(running: Ledger, clock: HandClock, store: MemoryStore) -> None:
    clock.at_s = 1039.0
    with running.change() as change:
        lives.snapshot_taken(change, change.job("j"), answer(snapshot="s", taken_s=1039.0))
        killed = {"rank": 0, "state": "exited", "wait_status": 9, "exited_at_s": 1041.0, "asked": False}
        row = CellRow(job="j", incarnation=1, cell=0, node="n", changed_s=1042.0, phase="ended", ranks=[killed])
        row.keeper_alive, row.notes = True, []
        change.session.add(row)
    clock.at_s = 1045.0
    running.leases.renew("n")
    Watch(running, running.leases, store).notice()
    assert thawed_from(running, "s") == pytest.approx(2.0)


def test_a_life_cannot_have_been_lost_before_it_began(running: Ledger) -> None:
    with running.change() as change:
        lives.lose(change, change.job("j"), "its node was never heard of", at_s=0.0)
        assert (change.job("j").progress_s, change.job("j").stopped_since_s) == (0.0, 1000.0)
