"""Which snapshots of a job stay: as many as it wants, and those without which its next freeze would be lost."""

from __future__ import annotations

import pytest
from tests.control.test_lives import add_job, answer, clock, events, ledger  # noqa: F401

from ergosphere.control.bell import Bell
from ergosphere.control.inbox import Inbox
from ergosphere.control.ledger import costs, kept, lives, orders
from ergosphere.control.ledger.ledger import Ledger
from ergosphere.control.ledger.tables import JobRow, OrderRow, SnapshotRow
from ergosphere.control.logs import LogFiles
from ergosphere.control.verbs import Conflict, Verbs
from ergosphere.core.model import Phase
from ergosphere.wire.agents import AgentReport, Cost, SnapshotState

KINDS = ("freeze", "upload", "thaw")


@pytest.fixture
def running(ledger: Ledger) -> Ledger:  # noqa: F811
    """The job "j" runs on node "n"."""
    add_job(ledger, Phase.RUNNING)
    return ledger


@pytest.fixture
def inbox(running: Ledger, tmp_path) -> Inbox:  # type: ignore[no-untyped-def]
    return Inbox(running, running.leases, LogFiles(tmp_path / "logs"), Bell(running.clock))


def take(running: Ledger, name: str, *, remote: bool = True, label: str = "") -> None:
    with running.change() as change:
        job = change.job("j")
        job.snapshot_asked, job.snapshot_name = bool(label), label
        lives.record_snapshot(change, job, answer(snapshot=name, incarnation=job.incarnation), "asked")
        change.session.flush()
        change.session.get_one(SnapshotRow, name).durability = "remote" if remote else "node"


def is_remote_now(inbox: Inbox, name: str, cost: Cost | None = None) -> None:
    state = SnapshotState(snapshot=name, job="j", durability="remote", cost=cost)
    inbox.report("n", AgentReport(node="n", boot="b", devices=1, cores=1, cells=(), snapshots=(state,)))


def left(running: Ledger) -> list[str]:
    with running.read() as look:
        return [row.id for row in reversed(kept.undropped(look, look.job("j")))]


def thaw(running: Ledger, inbox: Inbox, used: str, *damaged: str) -> None:
    """The job's life is lost, and the next one begins with `used`."""
    with running.change() as change:
        job = change.job("j")
        lives.stop_running(change, job, change.now_s)
        change.drop_orders(job)
        job.phase, job.incarnation = Phase.THAWING, job.incarnation + 1
        change.session.flush()
        orders.issue_thaw(change, job)
        change.session.flush()
        order = change.open_orders(job)[0].id
    told = answer(order_id=order, incarnation=incarnation(running), snapshot=used, damaged=damaged)
    assert inbox.answer("n", told)


def incarnation(running: Ledger) -> int:
    with running.read() as look:
        return look.job("j").incarnation


def remove(running: Ledger, name: str) -> None:
    Verbs(running).remove_snapshot(f"j@{name}")


def mark(running: Ledger, name: str, **fields: object) -> None:
    with running.change() as change:
        for field, value in fields.items():
            setattr(change.session.get_one(SnapshotRow, name), field, value)


# -- what later ones rely on


def test_the_newest_remote_snapshot_of_a_running_job_is_not_removed(running: Ledger) -> None:
    take(running, "s1")
    take(running, "s2")
    take(running, "s3", remote=False)
    with pytest.raises(Conflict, match="did not change since") as no:
        remove(running, "s2")
    assert "ergo snapshot create j" in no.value.remedy
    remove(running, "s3")
    assert left(running) == ["s2"]
    with pytest.raises(Conflict):
        remove(running, "latest")


def test_once_a_newer_one_is_remote_the_one_before_may_go(running: Ledger, inbox: Inbox) -> None:
    take(running, "s1")
    take(running, "s2", remote=False)
    with pytest.raises(Conflict):
        remove(running, "s1")
    is_remote_now(inbox, "s2")
    remove(running, "s1")
    assert left(running) == ["s2"]


@pytest.mark.parametrize("phase", [Phase.FREEZING, Phase.CLEARING, Phase.ENDING, Phase.FROZEN])
def test_no_job_that_may_go_on_loses_it(running: Ledger, phase: Phase) -> None:
    take(running, "s1")
    take(running, "s2")
    with running.change() as change:
        change.job("j").phase = phase
    with pytest.raises(Conflict):
        remove(running, "s2")
    remove(running, "s1")


def test_of_a_job_that_has_ended_any_may_be_removed(running: Ledger) -> None:
    take(running, "s1", label="good")
    with running.change() as change:
        change.job("j").phase = Phase.SUCCEEDED
    remove(running, "good")
    assert left(running) == []


def test_what_a_life_was_thawed_from_is_kept_until_it_has_a_remote_one_of_its_own(
    running: Ledger, inbox: Inbox
) -> None:
    take(running, "s1")
    take(running, "s2")
    thaw(running, inbox, "s1", "s2")
    mark(running, "s2", damaged=False)  # a check found it whole after all
    for name in ("s1", "s2"):
        with pytest.raises(Conflict, match="did not change since"):
            remove(running, name)
    take(running, "s3", remote=False)
    with pytest.raises(Conflict):
        remove(running, "s1")
    is_remote_now(inbox, "s3")
    assert "s1" not in left(running)


def test_while_a_job_is_thawed_nothing_that_it_may_begin_with_goes(running: Ledger) -> None:
    take(running, "s1")
    take(running, "s2")
    with running.change() as change:
        job = change.job("j")
        job.phase, job.incarnation = Phase.THAWING, 2
        orders.issue_thaw(change, job)
    with pytest.raises(Conflict):
        remove(running, "s1")


# -- how many


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_as_many_of_the_newest_stay_as_the_job_wants(running: Ledger, inbox: Inbox, keep: int) -> None:
    with running.change() as change:
        job: JobRow = change.job("j")
        job.spec = {**job.spec, "keep_snapshots": keep}
    for number in range(1, 6):
        take(running, f"s{number}", remote=False)
        is_remote_now(inbox, f"s{number}")
    assert left(running) == [f"s{number}" for number in range(6 - keep, 6)]


def test_the_last_remote_one_stands_in_until_the_newest_is_remote(running: Ledger, inbox: Inbox) -> None:
    with running.change() as change:
        job = change.job("j")
        job.spec = {**job.spec, "keep_snapshots": 1}
    take(running, "s1")
    take(running, "s2", remote=False)
    take(running, "s3", remote=False)
    assert left(running) == ["s1", "s3"]
    is_remote_now(inbox, "s3")
    assert left(running) == ["s3"]


def test_named_ones_are_not_counted(running: Ledger) -> None:
    for number, label in enumerate(("good", "", "", "", ""), 1):
        take(running, f"s{number}", label=label)
    assert left(running) == ["s1", "s4", "s5"]


def test_a_damaged_one_stays_until_it_is_as_old_as_those_that_go(running: Ledger) -> None:
    take(running, "s1")
    take(running, "s2")
    mark(running, "s2", damaged=True)
    take(running, "s3")
    assert left(running) == ["s1", "s2", "s3"], "it may yet be mended, and does not count"
    take(running, "s4")
    assert left(running) == ["s3", "s4"]


def test_what_could_not_be_used_stands_in_the_order(running: Ledger, inbox: Inbox) -> None:
    take(running, "s1")
    take(running, "s2")
    thaw(running, inbox, "s1", "s2")
    with running.read() as look:
        bodies = [row.body for row in look.session.query(OrderRow).filter_by(kind="thaw")]
        assert bodies[0][kept.DAMAGED] == ["s2"] and "s2 cannot be used" in events(look)


# ---- what uploads have cost


def test_an_upload_that_was_measured_foretells_the_next_one_to_the_policy(running: Ledger, inbox: Inbox) -> None:
    take(running, "s1", remote=False)
    with running.change() as change:
        change.session.get_one(SnapshotRow, "s1").bytes = 2 << 30
    is_remote_now(inbox, "s1", Cost(kind="upload", node="n", bytes=2 << 30, seconds=40.0))
    [view] = running.picture().jobs
    assert view.upload_cost_s == 40.0


def test_the_share_of_one_node_is_not_taken_for_that_of_all(running: Ledger) -> None:
    """A job of two nodes: each has frozen and sent a half, at the same time."""
    take(running, "s1")
    with running.change() as change:
        change.session.get_one(SnapshotRow, "s1").bytes = 2 << 30
        job = change.job("j")
        job.seats = [["n", 0], ["m", 0]]
        halves = [Cost(kind=kind, node=node, bytes=1 << 30, seconds=8.0) for kind in KINDS for node in "nm"]
        costs.note(change, job, halves)
        costs.foresee(change, job)
        assert (job.freeze_cost_s, job.upload_cost_s, job.thaw_cost_s) == (8.0, 8.0, 8.0)
        assert job.measured == 1, "one freeze, of which each node has told"


def test_one_slow_freeze_of_many_nodes_is_one_of_a_few(running: Ledger) -> None:
    with running.change() as change:
        job = change.job("j")
        for number, seconds in enumerate((1.0, 1.0, 1.0, 60.0)):
            change.now_s += number + 1
            costs.note(change, job, [Cost(kind="freeze", node=f"n{n}", bytes=1, seconds=seconds) for n in range(8)])
        costs.foresee(change, job)
        assert job.freeze_cost_s == 1.0
