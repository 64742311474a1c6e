"""The ladder in a ledger without a server: who steps down where, what is said of it, and what stays as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select
from tests.control.test_lives import answer, events
from tests.hand_clock import HandClock

from ergosphere import system
from ergosphere.control.bell import Bell
from ergosphere.control.leases import Leases
from ergosphere.control.ledger import lives, orders
from ergosphere.control.ledger.change import Change
from ergosphere.control.ledger.database import open_database
from ergosphere.control.ledger.ledger import Ledger
from ergosphere.control.ledger.tables import CostRow, EventRow, JobRow, NodeRow, OrderRow
from ergosphere.core.model import Phase, Rung, Tier, Why
from ergosphere.wire.jobs import JobSpec

CANNOT = {"ok": False, "error": "it has a userfaultfd open", "remedy": "close it", "lasting": True}
SPEC = JobSpec(name="j", command=("x",), workdir="/", grace_s=30.0, snapshot_every_s=60.0)


@pytest.fixture
def change(tmp_path: Path) -> Iterator[Change]:
    clock = HandClock()
    ledger = Ledger(open_database(tmp_path / "ledger.db"), clock, Leases(clock), Bell(clock), system.short_id, "10.99")
    with ledger.change() as opened:
        opened.session.add(NodeRow(id="n", devices=1))
        yield opened
    ledger.close()


def job_of(change: Change, phase: Phase = Phase.FREEZING, spec: JobSpec = SPEC) -> JobRow:
    """A job alone on node "n" that its owner wants paused."""
    row = JobRow(id="j", name="j", project="p", tier=Tier.BASIC, ranks=1, spec=spec.model_dump(mode="json"))
    row.submitted_s, row.phase, row.incarnation, row.threads = 1.0, phase, 1, 1
    row.cells, row.seats, row.addresses = [[0]], [["n", 0]], ["10.99.0.2"]
    row.paused, row.freeze_why = phase is Phase.FREEZING, Why.PAUSE if phase is Phase.FREEZING else None
    change.session.add(row)
    change.session.flush()
    return change.job("j")


def asked_for(change: Change, job: JobRow, why: Why | None) -> bool:
    """Whether a freeze of it asks it to save itself."""
    orders.issue_freeze(change, job, why)
    change.session.flush()
    newest = change.session.scalars(select(OrderRow).order_by(OrderRow.issued_s.desc())).all()[-1]
    return bool(newest.body["cooperative"])


def test_one_with_a_grace_period_saves_itself_where_it_cannot_be_frozen_and_the_wish_stays(change: Change) -> None:
    job = job_of(change)
    lives.did_not_freeze(change, job, answer(**CANNOT))
    assert (job.phase, job.rung, job.freezable, job.paused) == (Phase.RUNNING, Rung.COOPERATIVE, True, True)
    assert (job.freeze_failures, job.not_before_s, job.freeze_cost_s) == (0, 0.0, 30.0)
    assert job.next_snapshot_s is not None and job.next_snapshot_s > change.now_s
    change.session.flush()
    told = events(change)
    assert "now on the rung cooperative: it is asked to save itself (SIGTERM, then 30 s)" in told
    assert "userfaultfd" in told
    assert asked_for(change, job, Why.PAUSE)


def test_one_without_a_grace_period_is_told_no_as_ever(change: Change) -> None:
    job = job_of(change, spec=SPEC.model_copy(update={"grace_s": None}))
    lives.did_not_freeze(change, job, answer(**CANNOT))
    assert (job.rung, job.freezable, job.paused, job.freeze_failures) == (Rung.RESTART, False, False, 1)
    assert not asked_for(change, job, Why.DRAIN)


def test_a_cause_that_passes_moves_nobody_down(change: Change) -> None:
    job = job_of(change)
    lives.did_not_freeze(change, job, answer(**{**CANNOT, "lasting": False}))
    assert (job.rung, job.paused, job.freeze_failures) == (Rung.TRANSPARENT, False, 1)


@pytest.mark.parametrize("grace_s", [None, 30.0])
def test_a_periodic_snapshot_that_cannot_be_taken_is_tried_ever_more_seldom(
    change: Change, grace_s: float | None
) -> None:
    """A profiler that looked in for a moment must not end them for the job's whole life."""
    job = job_of(change, Phase.RUNNING, SPEC.model_copy(update={"grace_s": grace_s, "snapshot_every_s": 10.0}))
    waits = []
    for _ in range(12):
        lives.did_not_freeze(change, job, answer(**CANNOT))
        assert job.rung is not Rung.TRANSPARENT and job.next_snapshot_s is not None
        waits.append(job.next_snapshot_s - change.now_s)
    assert waits[0] == 60.0 and waits == sorted(waits) and waits[-1] == 3600.0
    lives.snapshot_taken(change, job, answer(snapshot="s"))
    assert job.rung is Rung.TRANSPARENT and job.freezable and job.next_snapshot_s == change.now_s + 10.0
    change.session.flush()
    assert events(change).count("now on the rung") == 1


def test_what_it_saves_is_a_snapshot_that_leaves_it_on_its_rung_and_tells_nothing_of_others(change: Change) -> None:
    job = job_of(change)
    job.rung = Rung.COOPERATIVE
    saved = answer(snapshot="s", took_s=2.5, taken_s=change.now_s, parting="it saved itself within 2.1 s")
    lives.froze(change, job, saved)
    assert (job.phase, job.rung, job.freeze_cost_s, job.restarts) == (Phase.FROZEN, Rung.COOPERATIVE, 2.5, 0)
    change.session.flush()
    assert "it saved itself within 2.1 s" in events(change)
    assert list(change.session.scalars(select(CostRow.kind))) == ["saving"]


def test_a_snapshot_that_was_taken_without_its_knowing_puts_it_back_on_top(change: Change) -> None:
    job = job_of(change, Phase.RUNNING)
    job.rung, job.rung_because, job.snapshot_asked = Rung.COOPERATIVE, "because", True
    assert not asked_for(change, job, None), "a snapshot after which it goes on asks nobody to end"
    lives.snapshot_taken(change, job, answer(snapshot="s"))
    assert (job.rung, job.rung_because) == (Rung.TRANSPARENT, "") and job.next_snapshot_s is not None
    change.session.flush()
    assert "on the rung transparent again" in events(change)


def test_one_that_left_and_whose_files_could_not_be_kept_goes_on_from_what_there_is(change: Change) -> None:
    job = job_of(change)
    job.rung = Rung.COOPERATIVE
    lives.did_not_freeze(change, job, answer(ok=False, gone=True, error="what it left could not be kept: full"))
    assert (job.phase, job.restarts, job.paused) == (Phase.CLEARING, 0, True)
    change.session.flush()
    kinds = list(change.session.scalars(select(EventRow.kind)))
    assert "lost" in kinds
