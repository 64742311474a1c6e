"""Which packs go, when, and what a dry run says of it."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.hand_clock import HandClock
from tests.snapshots.test_vault_faults import NOW, memory_of
from tests.snapshots.test_wrappers import FlippedOnce
from tests.snapshots.vaultkit import OTHER_RING, Cell, forget, fresh, pages, put

from ergosphere.snapshots import collect, fsck, shelf, sweep
from ergosphere.snapshots.blobs import blob_key
from ergosphere.snapshots.digests import digest_bytes
from ergosphere.snapshots.errors import Busy, Damaged, StoreUnreachable
from ergosphere.snapshots.memory_store import MemoryStore
from ergosphere.snapshots.repacking import adopt_chunks, copy_chunks
from ergosphere.snapshots.store import FolderStore
from ergosphere.snapshots.wrappers import Around, Metered, Retrying

COMMITTED = b'{"ergosphere":"freeze","version":1,"verdict":"commit"}'


def swept(store: object, rules: collect.Rules) -> collect.CollectPlan:
    vault = fresh(store)  # type: ignore[arg-type]
    planned = collect.plan(vault, rules)
    collect.execute(vault, planned)
    return planned


def test_a_pack_goes_only_a_grace_after_it_was_doomed(tmp_path: Path) -> None:
    clock = HandClock()
    store, rules = MemoryStore(clock), collect.Rules(grace_s=100.0)
    cell = Cell(tmp_path / "a")
    cell.keep(fresh(store), "f1")
    forget(store, "f1")
    assert swept(store, rules).doom == ()  # too young
    clock.at_s += 200
    assert len(swept(store, rules).doom) == len(fresh(store).pack_sizes()) > 0
    clock.at_s += 50
    assert swept(store, rules).delete == ()
    clock.at_s += 60
    assert len(swept(store, rules).delete) > 0
    assert fresh(store).pack_sizes() == {} and fresh(store).doomed() == set()


def test_a_dry_run_changes_nothing_and_says_what_would_be_done(tmp_path: Path) -> None:
    store = MemoryStore()
    Cell(tmp_path / "a").keep(fresh(store), "f1")
    forget(store, "f1")
    before = {stored.key for stored in store.list()}
    planned = collect.plan(fresh(store), NOW)
    assert {stored.key for stored in store.list()} - before <= {f"{fresh(store).root}/clock"}
    assert planned.bytes_later > 40_000 and len(planned.recipes) == 1
    assert any("go with a later sweep" in line for line in planned.lines())


def test_a_pack_with_little_left_in_it_is_copied_and_goes(tmp_path: Path) -> None:
    store = MemoryStore()
    dice = random.Random(1)
    small, large = dice.randbytes(40_000), dice.randbytes(900_000)
    put(fresh(store), "f1", {"small": small, "large": large})
    vault = fresh(store)
    put(vault, "f2", {"small": small})
    before = sum(vault.pack_sizes().values())
    store.delete(vault.recipe_key("f1.0"))
    rules = collect.Rules(grace_s=0.0)
    store.put("freezes/f2", COMMITTED)
    for _ in range(3):
        swept(store, rules)
    assert sum(fresh(store).pack_sizes().values()) < before / 5
    assert shelf.cell_blobs(fresh(store), "f2", 0).get(blob_key(digest_bytes(small))) == small


def test_what_a_later_snapshot_needs_again_is_spared(tmp_path: Path) -> None:
    clock = HandClock()
    store, rules = MemoryStore(clock), collect.Rules(grace_s=10.0)
    cell = Cell(tmp_path / "a")
    cell.keep(fresh(store), "f1")
    recipe = fresh(store).recipe("f1.0")
    forget(store, "f1")
    clock.at_s += 20
    swept(store, rules)
    doomed = fresh(store).doomed()
    assert doomed
    vault = fresh(store)  # a writer from before dooms were looked at
    vault.put_recipe(recipe)
    store.put("freezes/f1", COMMITTED)
    clock.at_s += 20
    assert set(swept(store, rules).spare) == doomed
    assert fresh(store).doomed() == set() and len(fresh(store).pack_sizes()) == len(doomed)


def test_a_damaged_recipe_stops_all_deleting_until_its_snapshot_is_removed(tmp_path: Path) -> None:
    store = MemoryStore()
    cell = Cell(tmp_path / "a")
    cell.keep(fresh(store), "f1")
    cell.image(0, [(0x10000, pages(random.Random(5), 50))])
    cell.keep(fresh(store), "f2")
    key = fresh(store).recipe_key("f1.0")
    store.put(key, store.get(key)[:-1] + b"?")
    forget(store, "f2")
    planned = collect.plan(fresh(store), NOW)
    assert planned.doom == () and "until snapshot f1 is removed" in planned.notes[0]
    forget(store, "f1")
    assert collect.plan(fresh(store), NOW).doom


def test_two_sweeps_at_once_are_refused(store: FolderStore) -> None:
    vault = fresh(store)
    store.put(f"{vault.root}/sweeping", b"")
    with pytest.raises(Busy, match="another sweep"):
        collect.execute(vault, collect.plan(vault, NOW))


def test_a_clock_that_jumps_here_does_not_age_what_is_in_the_store(tmp_path: Path) -> None:
    """Ages are told by the store's own clock, at both ends."""
    clock = HandClock()
    store = MemoryStore(clock)
    Cell(tmp_path / "a").keep(fresh(store), "f1")
    assert fresh(store).now_s() == clock.at_s


def test_named_snapshots_outlive_every_sweep(tmp_path: Path) -> None:
    store = MemoryStore()
    cell = Cell(tmp_path / "a")
    for number in range(4):
        cell.image(0, [(0x10000, pages(random.Random(number), 40))])
        cell.keep(fresh(store), f"f{number}", taken_s=float(number))
    named = sweep.Needs(snapshots=frozenset({"f0"}))
    planned = sweep.plan(store, 1e12, sweep.Retention(keep_last=2, grace_s=0.0), named)
    assert planned.snapshots == ("f1",)
    sweep.execute(store, planned)
    for _ in range(3):
        swept(store, NOW)
    assert memory_of(store, "f0") == pages(random.Random(0), 40)
    assert "f0" in sweep.plan(store, 1e12, sweep.Retention(keep_last=2, grace_s=0.0)).snapshots


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["put", "remove", "sweep", "lose index"]), st.integers(0, 5)), max_size=14))
def test_whatever_is_put_removed_and_swept_what_is_kept_is_whole(steps: list[tuple[str, int]]) -> None:
    store = MemoryStore()
    kept: dict[str, bytes] = {}
    for step, number in steps:
        name = f"f{number}"
        match step:
            case "put" if name not in kept:
                kept[name] = b"".join(random.Random(number + i).randbytes(30_000) for i in range(3))
                store.put(f"freezes/{name}", COMMITTED)
                put(fresh(store), name, {"a": kept[name]})
            case "remove" if name in kept:
                del kept[name]
                forget(store, name)
            case "lose index":
                for stored in list(store.list(f"{fresh(store).root}/index/"))[number:]:
                    store.delete(stored.key)
            case _:
                swept(store, NOW)
        for each, content in kept.items():
            assert shelf.cell_blobs(fresh(store), each, 0).get(blob_key(digest_bytes(content))) == content
    swept(store, NOW), swept(store, NOW), swept(store, NOW)
    report = fsck.check(MemoryStore(), [fresh(store)], deep=True)
    assert not report.damaged
    if not kept:
        assert fresh(store).pack_sizes() == {}


def test_a_dry_run_counts_what_goes_later_at_once_and_by_copying(tmp_path: Path) -> None:
    """Young packs are not touched yet, and a snapshot that a sweep would forget counts as forgotten."""
    clock, dice = HandClock(), random.Random(1)
    store = MemoryStore(clock)
    small, large = dice.randbytes(40_000), dice.randbytes(900_000)
    held = {"f1": {"small": small, "large": large}, "f2": {"small": small}, "f3": {"x": large[:9]}}
    for name, contents in held.items():
        store.put(f"freezes/{name}", COMMITTED)
        put(fresh(store), name, contents)
    shared = collect.plan(fresh(store), gone=frozenset({"f1"}))
    assert shared.bytes_repacked >= len(large) and shared.repack == () and shared.bytes_later == 0
    alone = collect.plan(fresh(store), gone=frozenset({"f1", "f2"}))
    assert alone.bytes_later > len(large) and alone.doom == ()
    put_away = fresh(store)
    for name in ("f1", "f2"):
        forget(store, name)
    collect.execute(put_away, collect.plan(put_away, NOW))  # doomed, and nothing else yet
    assert collect.plan(fresh(store)).bytes_later == alone.bytes_later
    assert put_away.doomed()


def test_a_pack_that_is_gone_does_not_hide_the_one_that_is_needed(tmp_path: Path) -> None:
    """A sweep that was killed leaves rows, or a marker, of a pack that is no more: another has the same chunk."""
    store, content = MemoryStore(), random.Random(1).randbytes(50_000)
    store.put("freezes/f1", COMMITTED)
    put(fresh(store), "f1", {"a": content})
    (first,) = fresh(store).pack_sizes()
    store.put(fresh(store).doomed_key(first), b"")
    put(fresh(store), "f1", {"a": content})  # stored again, as the pack is doomed
    (second,) = fresh(store).pack_sizes().keys() - {first}
    store.put(fresh(store).doomed_key(second), b"")
    store.delete(fresh(store).pack_key(first))  # its marker and its rows are still there
    for _ in range(2):
        swept(store, NOW)
    assert shelf.cell_blobs(fresh(store), "f1", 0).get(blob_key(digest_bytes(content))) == content


def test_a_sweep_takes_over_from_an_earlier_life_of_its_home_and_from_no_other(store: FolderStore) -> None:
    vault = fresh(store)
    store.put(f"{vault.root}/sweeping", b"home-a 0011")
    with pytest.raises(Busy, match="another sweep"):
        collect.execute(vault, collect.plan(vault, NOW), "home-b")
    collect.execute(vault, collect.plan(vault, NOW), "home-a")
    assert not store.has(f"{vault.root}/sweeping")


def test_a_lock_whose_answer_was_lost_is_still_ours(store: FolderStore) -> None:
    lost = LockLost(store)
    vault = fresh(Retrying(lost, HandClock()))
    collect.execute(vault, collect.plan(vault, NOW))
    assert lost.times == 1 and not store.has(f"{vault.root}/sweeping")


class LockLost(Around):
    """The lock is written and its first answer lost."""

    times = 0

    def put(self, key: str, *arguments: object, **options: object) -> bool:
        done = super().put(key, *arguments, **options)  # type: ignore[arg-type]
        if key.endswith("/sweeping") and not self.times:
            self.times += 1
            raise StoreUnreachable("gone")
        return done


def test_packs_are_copied_in_few_requests_and_one_bad_read_is_read_again(tmp_path: Path) -> None:
    """Export, import, repacking and carrying over read runs of chunks, not one chunk a request."""
    store, dice = MemoryStore(), random.Random(1)
    content = dice.randbytes(20_000_000)
    put(fresh(store), "f1", {"a": content})
    meter = Metered(store, HandClock())
    source = fresh(meter)
    before = meter.figures().gets
    names = source.recipe("f1.0").names
    target = fresh(MemoryStore(), ring=OTHER_RING)
    adopt_chunks(target, source, names)
    assert len(names) > 300 and meter.figures().gets - before < 15
    assert len(target.index) == len(names)
    before = meter.figures().gets
    assert copy_chunks(source, source.index, np.arange(0, len(names), 20)) > 500_000
    assert meter.figures().gets - before <= len(names) / 20 + 2
    bad = fresh(store)
    assert len(bad.index) == len(names) + len(names[::20])
    bad.store = FlippedOnce(store)
    assert copy_chunks(bad, bad.index, np.arange(len(names))) > 0.9 * len(content)


def test_what_cannot_be_read_is_left_out_of_a_copy_and_ends_an_export(tmp_path: Path) -> None:
    store = MemoryStore()
    put(fresh(store), "f1", {"a": random.Random(1).randbytes(400_000)})
    vault = fresh(store)
    names, (pack,) = vault.recipe("f1.0").names, vault.pack_sizes()
    held = store.get(vault.pack_key(pack))
    store.put(vault.pack_key(pack), held[:100_000] + bytes(50) + held[100_050:])
    copied = copy_chunks(vault, vault.index, np.arange(len(names)))
    assert 250_000 < copied < 400_000
    with pytest.raises(Damaged):
        adopt_chunks(fresh(MemoryStore(), ring=OTHER_RING), fresh(store), names)
    store.delete(vault.pack_key(pack))
    assert copy_chunks(vault, vault.index, np.arange(len(names))) == 0
