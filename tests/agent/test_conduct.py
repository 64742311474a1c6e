"""The coordinator with cells of paper: what it answers, and when it says the cut stood."""

from __future__ import annotations

import json

import pytest
from tests.hand_clock import HandClock

from ergosphere.agent.conduct import Conductor
from ergosphere.agent.cut_view import RankState, RankView
from ergosphere.agent.mailbox import CallFailed
from ergosphere.agent.ports import DamagedSnapshot, Refused
from ergosphere.snapshots import manifest, records
from ergosphere.snapshots.errors import NotFound, TooNew
from ergosphere.snapshots.manifest import CellPart, Manifest
from ergosphere.snapshots.memory_store import MemoryStore
from ergosphere.snapshots.tree import TreeSum
from ergosphere.wire.agents import Answer, CellPlan, FreezeOrder, LifePlan, ThawOrder
from ergosphere.wire.jobs import JobSpec

SEAT = CellPlan(index=0, ranks=(0,), node="n", devices=(0,), address="10.99.0.2")
SPEC = JobSpec(name="j", command=("x",), workdir="/")
LIFE = LifePlan(job="j", incarnation=1, spec=SPEC, cells=(SEAT,), threads=1)
PART = CellPart(0, "n", "10.99.0.2", "", (0,), (), TreeSum("0" * 64, 0, 0), None, ())


class PaperCell:
    """A cell whose every step takes a second, but for `seal`, which takes twenty. `fails`: what `fetch` raises."""

    seat = SEAT

    def __init__(self, clock: HandClock, fails: Exception | None = None) -> None:
        self.clock, self.fails = clock, fails

    def rank_ports(self) -> dict[int, object]:
        return {}

    def begun(self) -> None:
        return None

    def held(self) -> list[str]:
        return []

    def seal(self, freeze_id: str) -> dict[str, object]:
        self.clock.sleep(20.0)
        return manifest.encode_cell(PART)

    def fetch(self, life: LifePlan, body: dict[str, object]) -> None:
        if self.fails is not None:
            raise self.fails

    def __getattr__(self, name: str) -> object:
        return lambda *_: self.clock.sleep(1.0)


@pytest.mark.parametrize("release", [True, False], ids=["the job leaves", "the job goes on"])
def test_a_freeze_says_when_the_job_stood_and_not_when_its_bytes_were_hashed(
    clock: HandClock, store: MemoryStore, release: bool
) -> None:
    conductor = Conductor(lambda _: [PaperCell(clock)], store, clock)
    answer = conductor.carry_out(FreezeOrder(order_id="o", life=LIFE, why=None, release=release))
    assert answer is not None and answer.ok, answer
    assert answer.taken_s == records.load(store, "o").taken_s == 1001.0, "suspended after one second"
    assert clock.now() > 1022.0


def test_a_freeze_that_an_agent_before_had_committed_says_the_same(clock: HandClock, store: MemoryStore) -> None:
    records.commit(store, "o", Manifest("o", "j", 1, {}, 950.0, "pause", 0.1, "4.2.1", "6.18", None, (PART,)))
    answer = Conductor(lambda _: [PaperCell(clock)], store, clock).carry_out(
        FreezeOrder(order_id="o", life=LIFE, why=None, release=True)
    )
    assert answer is not None and answer.taken_s == 950.0


class PaperRank:
    """A rank that always looks the same, whatever it is told."""

    def __init__(self, looks: RankView) -> None:
        self.looks = looks

    def view(self) -> RankView:
        return self.looks

    def __getattr__(self, name: str) -> object:
        return lambda *_: None


@pytest.mark.parametrize(
    ("looks", "lasting", "remedy"),
    [
        (RankView(RankState.RUNNING, unmanaged=("mpi",)), True, "--grace"),
        (RankView(RankState.RUNNING, fault="Connection closed by peer"), False, "--hold"),
    ],
    ids=["it has groups that nobody can rebuild", "it has lost a peer"],
)
def test_a_cut_that_can_never_be_reached_is_not_asked_for_again(
    clock: HandClock, store: MemoryStore, looks: RankView, lasting: bool, remedy: str
) -> None:
    cell = PaperCell(clock)
    cell.rank_ports = lambda: {0: PaperRank(looks)}
    answer = Conductor(lambda _: [cell], store, clock).carry_out(
        FreezeOrder(order_id="o", life=LIFE, why=None, release=True)
    )
    assert answer is not None and not answer.ok and answer.lasting is lasting
    assert "the job runs on" in answer.remedy and remedy in answer.remedy


# -- thaws that fail: what is the snapshot's fault, and what is not


def thawed(clock: HandClock, store: MemoryStore, fails: Exception | None = None) -> Answer:
    conductor = Conductor(lambda _: [PaperCell(clock, fails)], store, clock)
    answer = conductor.carry_out(ThawOrder(order_id="t", life=LIFE, snapshots=("s",)))
    assert answer is not None
    return answer


@pytest.fixture
def kept(store: MemoryStore) -> MemoryStore:
    """A store with the snapshot "s"."""
    records.commit(store, "s", Manifest("s", "j", 1, {}, 950.0, "pause", 0.1, "4.2.1", "6.18", None, (PART,)))
    return store


def by_mail(kind: str) -> Refused:
    """What a cell of another node says."""
    refused = Refused("n: no")
    refused.__cause__ = CallFailed("no", {"kind": kind})
    return refused


def test_a_snapshot_whose_bytes_are_wrong_is_damaged(clock: HandClock, kept: MemoryStore) -> None:
    answer = thawed(clock, kept, DamagedSnapshot("an image differs from its digest"))
    assert (answer.ok, answer.damaged, answer.transient) == (False, ("s",), False)


@pytest.mark.parametrize("fails", [TooNew("recipe", 9, 1), by_mail("TooNew")], ids=["here", "by mail"])
def test_a_snapshot_of_a_newer_version_stays_whole_until_this_machine_is_updated(
    clock: HandClock, kept: MemoryStore, fails: Exception
) -> None:
    answer = thawed(clock, kept, fails)
    assert (answer.ok, answer.damaged, answer.lasting) == (False, (), True)


def test_a_record_of_a_newer_version_is_no_damage_and_says_what_helps(clock: HandClock, store: MemoryStore) -> None:
    newer = {"ergosphere": "freeze", "version": records.RECORD_VERSION + 1, "verdict": "commit"}
    store.put(records.record_key("s"), json.dumps(newer).encode())
    answer = thawed(clock, store)
    assert (answer.ok, answer.damaged, answer.lasting) == (False, (), True)
    assert "version 2" in answer.error and "update" in answer.remedy and "update" not in answer.error


@pytest.mark.parametrize("fails", [NotFound("blobs/ab"), by_mail("NotFound")], ids=["here", "by mail"])
def test_bytes_that_are_not_found_this_time_may_be_found_the_next_time(
    clock: HandClock, kept: MemoryStore, fails: Exception
) -> None:
    answer = thawed(clock, kept, fails)
    assert (answer.ok, answer.damaged, answer.transient) == (False, (), True)


def test_a_snapshot_that_the_store_does_not_know_cannot_be_used(clock: HandClock, store: MemoryStore) -> None:
    assert thawed(clock, store).damaged == ("s",)
    records.commit(store, "s", Manifest("s", "j", 1, {}, 950.0, "pause", 0.1, "4.2.1", "6.18", None, ()))
    records.sweep_record(store, "s")
    assert thawed(clock, store).damaged == ("s",)
