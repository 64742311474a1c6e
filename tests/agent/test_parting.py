"""How a job that cannot be frozen is asked to leave: cells of paper, and a clock that is turned by hand."""

from __future__ import annotations

import pytest
from tests.agent.nodekit import Away
from tests.agent.test_conduct import LIFE, PART
from tests.hand_clock import HandClock

from ergosphere.agent import parting, saving
from ergosphere.agent.conduct import Conductor
from ergosphere.agent.ports import Refused
from ergosphere.snapshots import manifest, records
from ergosphere.snapshots.errors import StoreFull, StoreUnreachable
from ergosphere.snapshots.manifest import Manifest
from ergosphere.snapshots.memory_store import MemoryStore
from ergosphere.snapshots.records import Aborted
from ergosphere.snapshots.store import Store
from ergosphere.wire.agents import Answer, CellPlan, FreezeOrder, LifePlan, ThawOrder

GRACE_S = 30.0
SEAT = CellPlan(index=0, ranks=(0, 1), node="n", devices=(0, 1), address="10.99.0.2")
SAVER = LIFE.model_copy(
    update={"cells": (SEAT,), "spec": LIFE.spec.model_copy(update={"grace_s": GRACE_S, "signal": "USR1", "ranks": 2})}
)

ORDER = FreezeOrder(order_id="o", life=SAVER, why="pause", release=True, cooperative=True)


class Cell:
    """Two ranks that end `ends_s` after they were asked; `ended` are those that have ended before that."""

    seat = SEAT

    def __init__(self, clock: HandClock, ends_s: float = 2.0, ended: tuple[int, ...] = ()) -> None:
        self.clock, self.ends_s, self.ended = clock, ends_s, ended
        self.asked_s: float | None = None
        self.killed = False
        self.signals: list[str] = []
        self.fails: list[Exception] = []  # what keeping the files raises, one after the other
        self.did: list[str] = []

    def left(self) -> dict[str, list[int]]:
        over = self.killed or (self.asked_s is not None and self.clock.now() >= self.asked_s + self.ends_s)
        running = [] if over else [rank for rank in SEAT.ranks if rank not in self.ended]
        asked = [] if self.asked_s is None else [rank for rank in SEAT.ranks if rank not in self.ended]
        return {saving.RUNNING: running, saving.ASKED: asked}

    def ask_to_leave(self, signal: str) -> None:
        if self.asked_s is None:
            self.signals.append(signal)
            self.asked_s = self.clock.now()

    def keep_files(self, freeze_id: str) -> None:
        self.killed = True
        if self.fails:
            raise self.fails.pop(0)

    def seal(self, freeze_id: str) -> dict[str, object]:
        return manifest.encode_cell(PART)

    def begun(self) -> None:
        return None

    def __getattr__(self, name: str) -> object:
        return lambda *_: self.did.append(name)


def leave(clock: HandClock, store: Store, *cells: Cell, life: LifePlan = SAVER) -> Answer:
    answer = carried_out(clock, store, *cells, life=life)
    assert answer is not None
    return answer


def carried_out(clock: HandClock, store: Store, *cells: Cell, life: LifePlan = SAVER) -> Answer | None:
    return Conductor(lambda _: cells, store, clock).carry_out(ORDER.model_copy(update={"life": life}))


def test_ranks_are_asked_and_what_they_leave_is_the_snapshot(clock: HandClock, store: MemoryStore) -> None:
    cell = Cell(clock)
    answer = leave(clock, store, cell)
    assert (answer.ok, answer.snapshot, cell.signals) == (True, "o", ["USR1"]), answer
    assert answer.parting.startswith("it saved itself within 2."), answer.parting
    assert records.load(store, "o").begins_anew and not answer.costs
    assert "retire" in cell.did and "settle" in cell.did and "suspend" not in cell.did


def test_who_does_not_end_in_time_is_killed_and_named(clock: HandClock, store: MemoryStore) -> None:
    answer = leave(clock, store, Cell(clock, ends_s=1000.0))
    assert answer.ok and answer.parting == "rank 0, 1 did not end within 30 s and was killed"
    assert clock.now() == pytest.approx(1000.0 + GRACE_S)


def test_a_rank_that_had_ended_by_itself_is_what_the_job_is_judged_by(clock: HandClock, store: MemoryStore) -> None:
    cells = Cell(clock), Cell(clock, ended=(1,))
    answer = leave(clock, store, *cells)
    assert (answer.ok, answer.gone) == (False, False) and "rank 1 has ended" in answer.error
    assert cells[0].signals == [], "nobody is asked"


def test_an_agent_after_the_one_that_asked_sends_no_second_signal_and_waits(
    clock: HandClock, store: MemoryStore
) -> None:
    cells = Cell(clock, ends_s=5.0), Cell(clock, ends_s=5.0, ended=(1,))
    for cell in cells:
        cell.ask_to_leave("USR1")
    answer = leave(clock, store, *cells)
    assert answer.ok and cells[0].signals == ["USR1"] and clock.now() >= 1005.0


def test_an_agent_that_finds_everybody_gone_finishes(clock: HandClock, store: MemoryStore) -> None:
    cell = Cell(clock, ends_s=0.0)
    cell.ask_to_leave("USR1")
    assert leave(clock, store, cell).parting == "it has saved itself"
    assert leave(clock, store, cell).ok, "what was committed is answered again"


def test_ranks_that_are_lost_while_they_save_themselves_are_named(clock: HandClock, store: MemoryStore) -> None:
    gone, cell = Cell(clock), Cell(clock)
    cell.ask_to_leave("USR1")
    gone.asked_s, gone.killed = None, True  # its keeper was killed, and remembers nothing
    gone.ask_to_leave = lambda signal: None  # type: ignore[method-assign]
    assert leave(clock, store, cell, gone).parting.endswith("rank 0, 1 was lost before it had")


def test_what_cannot_be_kept_is_tried_again(clock: HandClock, store: MemoryStore) -> None:
    cell = Cell(clock)
    cell.fails = [StoreFull("pool"), OSError("away")]
    answer = leave(clock, store, cell)
    assert answer.ok and answer.parting.startswith("it saved itself within 2.")


def test_after_a_while_nothing_is_left_but_to_say_so(clock: HandClock, store: MemoryStore) -> None:
    cell = Cell(clock)
    cell.fails = [StoreFull("pool") for _ in range(1000)]
    answer = leave(clock, store, cell)
    assert (answer.ok, answer.gone) == (False, True) and "could not be kept" in answer.error
    assert isinstance(records.verdict(store, "o"), Aborted)


def test_one_that_was_called_off_meanwhile_is_not_begun_under_another_name(
    clock: HandClock, store: MemoryStore
) -> None:
    records.abort(store, "o", "its node went away")
    cell = Cell(clock)
    cell.ask_to_leave("USR1")
    answer = leave(clock, store, cell)
    assert (answer.ok, answer.gone) == (False, True)
    assert records.verdict(store, "o-1") is None


def test_whoever_was_never_asked_runs_on(clock: HandClock, store: MemoryStore) -> None:
    cell = Cell(clock)
    answer = leave(clock, Away(store), cell)
    assert (answer.ok, answer.gone, answer.transient, cell.signals) == (False, False, True, [])
    records.abort(store, "o", "its node went away")
    answer = leave(clock, store, cell)
    assert (answer.ok, answer.gone, cell.signals) == (False, False, [])


def test_nobody_who_could_not_be_asked_is_lost_for_it(clock: HandClock, store: MemoryStore) -> None:
    cell = Cell(clock)
    cell.ask_to_leave = lambda signal: 1 / 0  # type: ignore[method-assign, assignment]
    answer = leave(clock, store, cell)
    assert (answer.ok, answer.gone) == (False, False) and "division" in answer.error


def test_a_store_that_is_away_leaves_it_open_what_became_of_a_job_that_was_asked(
    clock: HandClock, store: MemoryStore
) -> None:
    cell = Cell(clock)
    cell.ask_to_leave("USR1")
    assert carried_out(clock, Away(store), cell) is None
    cell = Cell(clock)
    cell.fails = [StoreUnreachable("away") for _ in range(1000)]
    assert carried_out(clock, store, cell) is None
    assert records.verdict(store, "o") is None and "forget" not in cell.did
    cell.fails.clear()
    assert leave(clock, store, cell).ok


def test_a_commit_that_had_won_after_all_is_finished(clock: HandClock, store: MemoryStore) -> None:
    cell = Cell(clock)
    kept = Manifest("o", "j", 1, {}, 950.0, "pause", 0.1, "4.2.1", "6.18", None, (PART,))

    def commit_and_fail(freeze_id: str) -> None:
        records.commit(store, "o", kept)
        raise parting.Gone("not kept")

    cell.keep_files = commit_and_fail  # type: ignore[method-assign]
    assert leave(clock, store, cell).snapshot == "o" and "retire" in cell.did


def test_a_try_that_takes_longer_than_patience_is_not_the_last(clock: HandClock, store: MemoryStore) -> None:
    cell, tries = Cell(clock), []

    def slowly(freeze_id: str) -> None:
        clock.sleep(2 * parting.AGAIN_S_MAX)
        tries.append(freeze_id)
        if len(tries) < parting.TRIES_MIN:
            raise Refused("it did not answer in time")

    cell.keep_files = slowly  # type: ignore[method-assign]
    assert leave(clock, store, cell).ok


def test_a_life_that_is_to_end_is_not_waited_for(clock: HandClock, store: MemoryStore) -> None:
    cell, ending = Cell(clock, ends_s=1000.0), set()
    ask = cell.ask_to_leave

    def ask_and_cancel(signal: str) -> None:
        ask(signal)
        ending.add((SAVER.job, SAVER.incarnation))

    cell.ask_to_leave = ask_and_cancel  # type: ignore[method-assign]
    answer = Conductor(lambda _: [cell], store, clock, ending=ending).carry_out(ORDER)
    assert answer is not None and not answer.ok and clock.now() < 1001.0
    assert isinstance(records.verdict(store, "o"), Aborted)
    assert "forget" in cell.did and "retire" not in cell.did and not cell.killed


def test_a_thaw_of_files_alone_restores_no_process(clock: HandClock, store: MemoryStore) -> None:
    facts = {manifest.BEGINS_ANEW: True}
    kept = Manifest("s", "j", 1, {}, 950.0, "pause", 0.1, "4.2.1", "6.18", None, (PART,), facts)
    records.commit(store, "s", kept)
    cell = Cell(clock)
    answer = Conductor(lambda _: [cell], store, clock).carry_out(ThawOrder(order_id="t", life=LIFE, snapshots=("s",)))
    assert answer is not None and answer.ok and cell.did == ["discard", "fetch", "run"]


@pytest.mark.parametrize(("killed", "words"), [((0,), "it did not"), ((3,), "rank 3 did not"), ((), "within 2.1 s")])
def test_a_parting_is_told_in_words(killed: tuple[int, ...], words: str) -> None:
    assert words in parting.Parting(2.08, killed, GRACE_S).in_words()
