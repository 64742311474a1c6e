"""Sweeps and checks of a service's store: what the ledger dropped goes, what it needs stays, whatever clocks say."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.control.test_lives import add_job
from tests.hand_clock import HandClock
from tests.snapshots.vaultkit import Cell, pages

from ergosphere import system
from ergosphere.cli.snapshot_views import durability
from ergosphere.control import inspecting, shown
from ergosphere.control.leases import Leases
from ergosphere.control.ledger.database import open_database
from ergosphere.control.ledger.tables import EventRow, SnapshotRow
from ergosphere.control.service import Closing, Identity, Service, assemble
from ergosphere.control.tidy import RESULTS_KEPT_S, Tidy
from ergosphere.core.model import Phase
from ergosphere.core.policy.rules import Rules
from ergosphere.engines.local import LocalEngine
from ergosphere.snapshots import records
from ergosphere.snapshots.blobs import blob_key, put_blob
from ergosphere.snapshots.depot import open_depot
from ergosphere.snapshots.digests import digest_bytes
from ergosphere.snapshots.documents import canonical
from ergosphere.snapshots.errors import Busy, StoreUnreachable
from ergosphere.snapshots.gather import CellFiles
from ergosphere.snapshots.pages import PAGE
from ergosphere.snapshots.pool import Pool
from ergosphere.snapshots.recipes import HEAD, RECIPE_VERSION
from ergosphere.snapshots.records import Swept
from ergosphere.snapshots.remote import marker
from ergosphere.snapshots.results import load_results, save_result
from ergosphere.snapshots.settings import home_id
from ergosphere.snapshots.vault_head import vault_root
from ergosphere.wire.jobs import SnapshotInfo
from ergosphere.wire.snapshots import FsckRequest

DAY_S = 24 * 3600.0


class Failing(Tidy):
    """Every sweep fails in another way; then the service ends."""

    def sweep(self) -> int:
        raise FAULTS.pop()


class Ending(threading.Event):
    """Set once every fault was met."""

    def wait(self, timeout: float | None = None) -> bool:
        return not FAULTS


FAULTS: list[Exception] = []


def test_a_sweep_that_fails_is_logged_and_the_next_one_follows(caplog: pytest.LogCaptureFixture) -> None:
    FAULTS[:] = [OSError("no space"), StoreUnreachable("the store is away"), KeyError("a bug")]
    Failing(service=None)._run(Ending())
    assert not FAULTS
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING", "ERROR"]


# ── a service with a store, without a server process ───────────────────────────────────────────────────────────────


class Jumpy(HandClock):
    """Its wall's clock can be set wrong."""

    ahead_s = 0.0

    def now(self) -> float:
        return self.at_s + self.ahead_s


@pytest.fixture
def clock() -> Jumpy:
    return Jumpy(system.SystemClock().now())


@pytest.fixture
def service(tmp_path: Path, clock: Jumpy) -> Iterator[Service]:
    home = tmp_path / "home"
    depot = open_depot(home)
    made = assemble(
        Identity(home, "f", "10.99", 1, 0.0),
        clock,
        open_database(home / "ledger.db"),
        depot,
        LocalEngine(home, 0, 0, clock, {}),
        Closing(leave=lambda: None),
        leases=Leases(clock),
        rules=Rules(),
        new_id=system.short_id,
    )
    add_job(made.ledger, Phase.RUNNING)
    yield made
    made.ledger.close()


@pytest.fixture
def three(service: Service, tmp_path: Path) -> Cell:
    """Snapshots s1, s2, s3 of the job, all remote."""
    cell = Cell(tmp_path / "cell")
    for number in (1, 2, 3):
        keep(service, cell, f"s{number}", number)
    return cell


def keep(service: Service, cell: Cell, name: str, number: int) -> None:
    manifest = replace(cell.snapshot(name, taken_s=float(number), job="j"), spec={"project": "p"})
    records.commit(service.store, name, manifest)
    cell.upload(service.depot.vault("p"), manifest)
    with service.ledger.change() as change:
        row = SnapshotRow(
            id=name, job="j", number=number, incarnation=1, taken_s=float(number), why="asked", bytes=1, stopped_s=0.0,
            progress_s=0.0, durability="remote", log_lengths={},
        )  # fmt: skip
        change.session.add(row)


def flag(service: Service, name: str) -> None:
    with service.ledger.change() as change:
        change.session.get_one(SnapshotRow, name).damaged = True


def is_flagged(service: Service, name: str) -> bool:
    with service.ledger.read() as look:
        return look.session.get_one(SnapshotRow, name).damaged


def test_a_snapshot_that_was_removed_goes_with_the_next_sweep_however_few_are_left(
    service: Service, three: Cell
) -> None:
    for name in ("s1", "s2"):
        service.verbs.remove_snapshot(f"j@{name}")
    assert Tidy(service).report(dry_run=True).snapshots == ("s1", "s2")
    Tidy(service).sweep()
    assert records.verdict(service.store, "s1") == Swept("s1")
    assert not service.store.has(marker("s2", 0)) and records.load(service.store, "s3").id == "s3"


def test_a_dry_run_says_what_a_removed_snapshot_will_free(service: Service, three: Cell) -> None:
    for number, count in ((4, 300), (5, 10)):
        three.image(0, [(0x10000, pages(random.Random(number), count))])
        keep(service, three, f"s{number}", number)
    service.verbs.remove_snapshot("j@s4")
    would = Tidy(service).report(dry_run=True)
    assert would.bytes == 0 and would.later_bytes + would.repacked_bytes > 300 * PAGE
    assert records.load(service.store, "s4").id == "s4"


def test_what_is_just_being_stored_is_spared_when_the_servers_clock_jumps(service: Service, clock: HandClock) -> None:
    digest = put_blob(service.store, b"train.py, of a submission under way")
    clock.at_s += 100 * 24 * 3600.0
    Tidy(service).sweep()
    assert service.store.has(blob_key(digest))


def test_a_damaged_snapshot_stays_in_the_store_until_it_is_removed(service: Service, three: Cell) -> None:
    flag(service, "s1")
    Tidy(service).sweep()
    assert records.load(service.store, "s1").id == "s1"
    service.verbs.remove_snapshot("j@s1")
    Tidy(service).sweep()
    assert records.verdict(service.store, "s1") == Swept("s1")


def test_a_snapshot_that_is_found_whole_may_be_used_again(service: Service, three: Cell) -> None:
    flag(service, "s3")
    assert inspecting.check(service, FsckRequest(read=False)).ok
    assert is_flagged(service, "s3"), "a quick look has not read it"
    assert inspecting.check(service, FsckRequest()).ok
    assert not is_flagged(service, "s3")
    with service.ledger.read() as look:
        assert look.session.query(EventRow).filter_by(kind="snapshot-whole").one().text.startswith("snapshot s3")


def test_a_snapshot_that_is_damaged_stays_marked_and_others_are_cleared(service: Service, three: Cell) -> None:
    flag(service, "s2")
    flag(service, "s3")
    key = service.depot.vault("p").recipe_key("s3.0")
    service.store.put(key, service.store.get(key)[:-1] + b"?")
    assert not inspecting.check(service, FsckRequest()).ok
    assert is_flagged(service, "s3") and not is_flagged(service, "s2")


def test_a_check_looks_at_the_submissions_of_jobs_that_may_still_start(service: Service) -> None:
    with service.ledger.change() as change:
        job = change.job("j")
        job.spec = {**job.spec, "tree": {"digest": digest_bytes(b"gone"), "files": 1, "bytes": 1}}
    (finding,) = inspecting.check(service, FsckRequest()).findings
    assert finding.kind == "damaged" and "a submission" in finding.what


def test_a_check_names_a_kept_snapshot_whose_record_is_gone(service: Service, three: Cell) -> None:
    service.store.delete(records.record_key("s2"))
    report = inspecting.check(service, FsckRequest(read=False))
    assert [one.snapshots for one in report.findings if one.kind == "snapshot"] == [("s2",)]
    assert "its record is missing" in report.findings[0].what and not report.ok
    service.verbs.remove_snapshot("j@s2")
    assert inspecting.check(service, FsckRequest(read=False)).ok


def listed(service: Service, name: str) -> SnapshotInfo:
    with service.ledger.read() as look:
        return shown.snapshot(look.session.get_one(SnapshotRow, name), service.inbox.uploads)


def test_what_a_check_found_damaged_is_listed_so_until_a_full_check_finds_it_whole(
    service: Service, three: Cell
) -> None:
    key = service.depot.vault("p").recipe_key("s3.0")
    content = service.store.get(key)
    service.store.put(key, content[:-1] + b"?")
    assert durability(listed(service, "s3"))[0] == "remote"
    inspecting.check(service, FsckRequest(read=False))
    assert durability(listed(service, "s3"))[0] == "damaged in the store"
    assert "the recipe s3.0" in listed(service, "s3").trouble and not is_flagged(service, "s3")
    assert durability(listed(service, "s2"))[0] == "remote"
    service.store.put(key, content)
    inspecting.check(service, FsckRequest(read=False))
    assert listed(service, "s3").trouble, "a quick look has not read it"
    inspecting.check(service, FsckRequest())
    assert durability(listed(service, "s3"))[0] == "remote"
    with service.ledger.read() as look:
        (event,) = look.session.query(EventRow).filter_by(kind="snapshot-damaged")
        assert event.text.startswith("a check found snapshot s3 damaged in the store")


def test_a_remote_snapshot_without_mark_and_recipe_is_not_called_whole(service: Service, three: Cell) -> None:
    service.store.delete(marker("s1", 0))
    service.store.delete(marker("s2", 0))
    service.store.delete(service.depot.vault("p").recipe_key("s2.0"))
    report = inspecting.check(service, FsckRequest(read=False))
    assert {one.kind: one.what for one in report.findings if one.kind != "orphaned"} == {
        "snapshot": "j@2 (s2) cannot be thawed: the recipe of its cell 0 is missing",
        "damaged": "remote/s1/0 is missing, which says that this cell is in the store",
    }
    inspecting.check(service, FsckRequest(repair=True))
    assert service.store.has(marker("s1", 0)) and not service.store.has(marker("s2", 0))


def test_recipes_of_no_snapshot_are_told_and_are_no_damage(service: Service, three: Cell) -> None:
    service.verbs.remove_snapshot("j@s1")
    records.sweep_record(service.store, "s1")
    report = inspecting.check(service, FsckRequest(read=False))
    assert report.ok and report.findings[0].what == "1 recipe(s) of no snapshot: s1.0"


def test_one_vault_that_cannot_be_opened_stops_neither_sweeps_nor_checks_of_the_others(
    service: Service, three: Cell
) -> None:
    service.depot.vault("lab")
    root = vault_root("lab")
    for place in ("head", "head.copy"):
        service.store.put(f"{root}/{place}", b"garbage")
    restarted = replace(service, depot=open_depot(service.identity.home))
    for name in ("s1", "s2"):
        restarted.verbs.remove_snapshot(f"j@{name}")
    said = f"the head of the vault {root} and its copy cannot be read"
    swept = Tidy(restarted).report(dry_run=False)
    assert swept.snapshots == ("s1", "s2") and any(said in note for note in swept.notes)
    report = inspecting.check(restarted, FsckRequest())
    (damage,) = (one for one in report.findings if one.kind == "damaged")
    assert damage.what.startswith(f"the vault {root} cannot be opened: {said}") and "backup" in damage.what
    assert not any(one.kind == "snapshot" for one in report.findings) and report.packs > 0


def busy(service: Service) -> None:
    """Another home sweeps project a."""
    service.store.put(f"{vault_root('a')}/sweeping", b"another 00")


def too_new(service: Service) -> None:
    """A newer version has stored a snapshot of project a."""
    vault = service.depot.vault("a")
    head = canonical({"version": RECIPE_VERSION + 1})
    key = vault.recipe_key("new.0")
    service.store.put(key, vault.sealer.seal(HEAD.pack(len(head), 0, 0) + head, key))


@pytest.mark.parametrize(("spoil", "why"), [(busy, "another sweep of this store is under way"), (too_new, "version 2")])
def test_what_stops_the_sweep_of_one_project_is_told_and_the_others_are_swept(
    service: Service, three: Cell, clock: HandClock, spoil: Callable[[Service], None], why: str
) -> None:
    service.depot.vault("a")
    keep(service, Cell(three.root.parent / "other"), "s4", 4)
    spoil(service)
    for name in ("s1", "s2"):
        service.verbs.remove_snapshot(f"j@{name}")
    report = Tidy(service).sweep()
    (note,) = report.notes
    assert note.startswith("project a is left out: ") and why in note
    assert set(service.depot.vault("p").recipe_names()) == {"s3.0", "s4.0"}


def test_a_snapshot_of_a_newer_version_stops_the_sweep_of_what_it_may_refer_to_only(
    service: Service, three: Cell, clock: HandClock
) -> None:
    service.verbs.remove_snapshot("j@s1")
    Tidy(service).sweep()
    key = service.depot.vault("p").recipe_key("gone.0")
    service.store.put(key, service.store.get(service.depot.vault("p").recipe_key("s3.0")))
    service.store.put("freezes/new", canonical({"ergosphere": "freeze", "version": 9, "verdict": "commit"}))
    service.verbs.remove_snapshot("j@s2")
    tidy = Tidy(service)
    assert "version 9" in tidy.sweep().notes[0]
    assert records.load(service.store, "s2").id == "s2"
    assert service.store.has(key), "the new one may be on its way here, and may borrow from it"


def test_snapshots_in_a_vault_that_cannot_be_opened_are_named_with_the_reason(service: Service, three: Cell) -> None:
    for place in ("head", "head.copy"):
        service.store.delete(f"{vault_root('p')}/{place}")
    report = inspecting.check(replace(service, depot=open_depot(service.identity.home)), FsckRequest())
    assert [one.snapshots for one in report.findings if one.kind == "snapshot"] == [("s1",), ("s2",), ("s3",)]
    assert "and its copy are missing" in report.findings[0].what


def test_a_head_that_is_lost_while_the_server_runs_is_mended_by_it(service: Service, three: Cell) -> None:
    for place in ("head", "head.copy"):
        service.store.delete(f"{vault_root('p')}/{place}")
    assert not inspecting.check(service, FsckRequest()).ok
    inspecting.check(service, FsckRequest(repair=True))
    assert inspecting.check(replace(service, depot=open_depot(service.identity.home)), FsckRequest()).ok


def test_a_second_sweep_of_one_server_is_refused_and_one_of_its_earlier_life_is_taken_over(
    service: Service, three: Cell
) -> None:
    vault = service.depot.vault("p")
    service.store.put(f"{vault.root}/sweeping", f"{home_id(service.identity.home)} 00".encode())
    Tidy(service).sweep()
    assert not service.store.has(f"{vault.root}/sweeping")
    with service.sweeping, pytest.raises(Busy, match="under way"):
        Tidy(service).sweep()


def ended_with_results(service: Service, work: Path, pool: Pool) -> str:
    with service.ledger.change() as change:
        job = change.job("j")
        job.phase, job.ended_s = Phase.SUCCEEDED, change.now_s
    return save_result(("j", 1, 0), CellFiles(work, None, {}), service.store, pool)


def test_a_clock_that_jumps_ahead_deletes_no_results(service: Service, three: Cell, clock: Jumpy) -> None:
    key = ended_with_results(service, three.root / "work", three.pool)
    tidy = Tidy(service)
    tidy.sweep()
    clock.ahead_s = 60 * DAY_S
    for _ in range(20):
        tidy.sweep()
        clock.at_s += DAY_S / 24
    assert len(load_results(service.store, key)) == 1
    clock.ahead_s = 0.0
    clock.at_s += DAY_S
    tidy.sweep()
    clock.ahead_s = 60 * DAY_S
    Tidy(service).sweep()
    assert len(load_results(service.store, key)) == 1, "it was not old in between"


def test_results_go_a_month_and_a_day_after_their_job(service: Service, three: Cell, clock: Jumpy) -> None:
    key = ended_with_results(service, three.root / "work", three.pool)
    clock.at_s += RESULTS_KEPT_S + 1
    Tidy(service).sweep()
    assert len(load_results(service.store, key)) == 1
    clock.at_s += DAY_S
    Tidy(service).sweep()
    assert load_results(service.store, key) == ()
