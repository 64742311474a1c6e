"""Killed at every write, failed at every call in turn, swept at every moment: the snapshot is there or it is not, and
no other is harmed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest
from tests.snapshots.vaultkit import RING, Cell, forget, fresh, pages

from ergosphere.snapshots import collect, fsck, gather, remote
from ergosphere.snapshots.errors import Busy, Damaged, SnapshotError, StoreFull, StoreUnreachable
from ergosphere.snapshots.memory_store import MemoryStore
from ergosphere.snapshots.pages import PAGE
from ergosphere.snapshots.records import commit
from ergosphere.snapshots.store import Store
from ergosphere.snapshots.wrappers import Around, Call

T = TypeVar("T")
NOW = collect.Rules(grace_s=0.0)
CALLS_MAX = 200


class Killed(BaseException):
    """The writer is dead: nothing it would have done after this happens."""


class Faulty(Around):
    """From call number `at` on, or at that call alone, `fault` happens before or after it is carried out."""

    def __init__(self, inner: Store, at: int, fault: Callable[[], BaseException], *, after: bool, ever: bool) -> None:
        super().__init__(inner)
        self.at, self.fault, self.after, self.ever = at, fault, after, ever
        self.calls = 0
        self.fired = False

    def _do(self, call: Call, act: Callable[[], T]) -> T:
        self.calls += 1
        if self.calls == self.at or (self.fired and self.ever):
            self.fired = True
            if self.after:
                act()
            raise self.fault()
        return act()


class Meddled(Around):
    """Somebody else acts before call number `at`."""

    def __init__(self, inner: Store, at: int, act: Callable[[], None]) -> None:
        super().__init__(inner)
        self.at, self.meddle = at, act
        self.calls = 0

    def _do(self, call: Call, act: Callable[[], T]) -> T:
        self.calls += 1
        if self.calls == self.at:
            self.meddle()
        return act()


FAULTS: dict[str, tuple[Callable[[], BaseException], bool, bool]] = {
    "killed before a call": (Killed, False, True),
    "killed after a call": (Killed, True, True),
    "unreachable once": (lambda: StoreUnreachable("gone"), False, False),
    "answer lost": (lambda: StoreUnreachable("gone"), True, False),
    "full from then on": (lambda: StoreFull("there"), False, True),
}


def prepared(tmp_path: Path) -> tuple[MemoryStore, Cell, bytes]:
    """A store with snapshot f1 of a cell that has changed since."""
    store, cell = MemoryStore(), Cell(tmp_path / "cell")
    shared = pages(random.Random(1), 60)
    cell.image(0, [(0x10000, shared)])
    cell.keep(fresh(store), "f1")
    cell.image(0, [(0x10000, shared + pages(random.Random(2), 30))])
    return store, cell, shared


def memory_of(store: Store, freeze_id: str) -> bytes:
    blobs = remote.cell_blobs(fresh(store), freeze_id, 0)
    (stream,) = [stream for stream in blobs.recipe.streams if stream.label == "rank0/pages-1.img"]
    return blobs.get(f"blobs/00/{stream.digest}")


@pytest.mark.parametrize("fault", FAULTS)
def test_an_upload_that_fails_at_any_call_leaves_all_or_nothing(tmp_path: Path, fault: str) -> None:
    make, after, ever = FAULTS[fault]
    for at in range(1, CALLS_MAX):
        store, cell, shared = prepared(tmp_path / str(at))
        wanted = (cell.images / "rank0/pages-1.img").read_bytes()
        faulty = Faulty(store, at, make, after=after, ever=ever)
        manifest = cell.snapshot("f2")
        commit(store, "f2", manifest)
        try:
            cell.upload(fresh(faulty), manifest)
            failed = False
        except (Killed, SnapshotError):
            failed = True
        assert memory_of(store, "f1") == shared
        if gather.is_remote(store, manifest):
            assert memory_of(store, "f2") == wanted
        else:
            assert failed
            cell.upload(fresh(store), manifest)
            assert memory_of(store, "f2") == wanted
        report = fsck.check(store, [fresh(store)], deep=True)
        assert report.is_clean, report.lines()
        if not faulty.fired:
            assert at > 10
            return
    raise AssertionError("an upload has no end")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_sweep_that_fails_at_any_call_harms_nothing_and_the_next_one_ends_it(tmp_path: Path, fault: str) -> None:
    make, after, ever = FAULTS[fault]
    for at in range(1, CALLS_MAX):
        store, cell, _ = prepared(tmp_path / str(at))
        wanted = (cell.images / "rank0/pages-1.img").read_bytes()
        cell.keep(fresh(store), "f2")
        forget(store, "f1")
        faulty = Faulty(store, at, make, after=after, ever=ever)
        for _ in range(3):
            try:
                vault = fresh(faulty)
                collect.execute(vault, collect.plan(vault, NOW))
            except (Killed, SnapshotError):
                continue
        assert memory_of(store, "f2") == wanted
        assert fsck.check(store, [fresh(store)], deep=True).is_clean
        store.delete(f"{fresh(store).root}/sweeping")  # as a sweep does hours after one that died
        for _ in range(4):
            vault = fresh(store)
            collect.execute(vault, collect.plan(vault, NOW))
        assert memory_of(store, "f2") == wanted
        report = fsck.check(store, [fresh(store)], deep=True)
        assert report.is_clean and report.orphan_bytes < 30 * PAGE, report.lines()
        if not faulty.fired:
            assert at > 20
            return
    raise AssertionError("a sweep has no end")


class Full(Around):
    """No room for anything of more than `room` bytes; deleting makes none, as others take it at once."""

    def __init__(self, inner: Store, room: int) -> None:
        super().__init__(inner)
        self.room = room

    def _do(self, call: Call, act: Callable[[], T]) -> T:
        if call.verb == "put" and call.sent > self.room:
            raise StoreFull("there")
        return act()


@pytest.mark.parametrize("room", [-1, 0, 60, 5000])
def test_a_full_store_is_swept_of_all_that_can_go_without_room(tmp_path: Path, room: int) -> None:
    """Not even an empty object fits; no object with content; no records; no packs."""
    store, cell, shared = prepared(tmp_path)
    small = pages(random.Random(7), 5)
    cell.image(0, [(0x10000, small)])
    cell.keep(fresh(store), "gone")
    forget(store, "gone")
    collect.execute(fresh(store), collect.plan(fresh(store), NOW))  # dooms what goes below
    (doomed,) = fresh(store).doomed()
    wanted = fresh(store).pack_sizes()[doomed]
    cell.image(0, [(0x10000, shared[: 4 * PAGE])])
    cell.keep(fresh(store), "f3")
    forget(store, "f1")  # its pack holds little that f3 needs: it is to be copied, for which there is no room
    full = fresh(Full(store, room))
    planned = collect.plan(full, NOW)
    assert planned.repack and planned.delete == (doomed,)
    done = collect.execute(full, planned, "home")
    assert done.bytes == wanted > len(small) and doomed not in fresh(store).pack_sizes()
    assert "the store is full" in done.notes[0]
    for _ in range(3):
        collect.execute(full, collect.plan(full, NOW), "home")
    assert memory_of(store, "f3") == shared[: 4 * PAGE]
    for _ in range(3):
        assert not collect.execute(fresh(store), collect.plan(fresh(store), NOW), "home").notes
    assert memory_of(store, "f3") == shared[: 4 * PAGE]
    assert fsck.check(store, [fresh(store)], deep=True).is_clean
    assert sum(fresh(store).pack_sizes().values()) < len(shared)


class FullFrom(Around):
    """From put number `at` on there is no room."""

    def __init__(self, inner: Store, at: int) -> None:
        super().__init__(inner)
        self.at = at

    def _do(self, call: Call, act: Callable[[], T]) -> T:
        self.at -= call.verb == "put"
        if call.verb == "put" and self.at <= 0:
            raise StoreFull("there")
        return act()


def test_a_store_that_gets_full_at_any_write_of_a_sweep_loses_nothing_that_is_needed(tmp_path: Path) -> None:
    for at in range(1, 30):
        store, cell, shared = prepared(tmp_path / str(at))
        cell.image(0, [(0x10000, shared[: 4 * PAGE])])
        cell.keep(fresh(store), "f2")
        forget(store, "f1")
        full = FullFrom(store, at)
        for _ in range(4):
            vault = fresh(full)
            with suppress(StoreFull):
                collect.execute(vault, collect.plan(vault, NOW), "home")
        assert memory_of(store, "f2") == shared[: 4 * PAGE]
        assert fsck.check(store, [fresh(store)], deep=True).is_clean
        if full.at > 0:
            assert at > 8
            return
    raise AssertionError("a sweep writes for ever")


@pytest.mark.parametrize("sweeps", [1, 2, 3])
def test_a_sweep_without_any_grace_beside_a_writer_never_takes_what_it_needs(tmp_path: Path, sweeps: int) -> None:
    """The protocol of `collect`, tried at every moment of a writer: dooming and deleting in between its calls."""

    for at in range(1, CALLS_MAX):
        store, cell, shared = prepared(tmp_path / str(at))
        manifest = cell.snapshot("f2")
        commit(store, "f2", manifest)
        forget(store, "f1")  # what f2 shares with it is now nobody's

        def sweep() -> None:
            for _ in range(sweeps):
                vault = fresh(store)  # noqa: B023
                collect.execute(vault, collect.plan(vault, NOW))

        meddled = Meddled(store, at, sweep)
        wanted = (cell.images / "rank0/pages-1.img").read_bytes()
        cell.upload(fresh(meddled), manifest)
        assert gather.is_remote(store, manifest)
        for _ in range(3):
            sweep()
        assert memory_of(store, "f2") == wanted
        assert fsck.check(store, [fresh(store)], deep=True).is_clean
        if meddled.calls < at:
            assert at > 10
            return
    raise AssertionError("an upload has no end")


def test_a_writer_that_ends_at_any_moment_of_a_sweep_loses_nothing(tmp_path: Path) -> None:
    for at in range(1, CALLS_MAX):
        store, cell, _ = prepared(tmp_path / str(at))
        cell.keep(fresh(store), "f0")
        wanted = (cell.images / "rank0/pages-1.img").read_bytes()
        forget(store, "f1")
        forget(store, "f0")
        late = Cell(tmp_path / f"{at}-late")  # shares its memory with what the sweep is about to take
        (late.images / "rank0/pages-1.img").write_bytes(wanted)

        def write() -> None:
            late.keep(fresh(store), "f2", job="j2")  # noqa: B023

        meddled = Meddled(store, at, write)
        for _ in range(2):
            vault = fresh(meddled)
            collect.execute(vault, collect.plan(vault, NOW))
        if meddled.calls < at:
            assert at > 20
            return
        assert memory_of(store, "f2") == wanted
        assert fsck.check(store, [fresh(store)], deep=True).is_clean
    raise AssertionError("a sweep has no end")


def test_a_writer_that_a_sweep_always_overtakes_gives_up_and_says_so(tmp_path: Path) -> None:
    store, cell, _ = prepared(tmp_path)

    class Always(Around):
        def put(self, key: str, *arguments: object, **options: object) -> bool:
            done = super().put(key, *arguments, **options)  # type: ignore[arg-type]
            if "/recipes/" in key:
                for pack in fresh(store).pack_sizes():
                    store.put(fresh(store).doomed_key(pack), b"")
            return done

    with pytest.raises((Busy, Damaged), match="sweep"):
        cell.upload(fresh(Always(store)), cell.snapshot("f2"))


class StaleLists(Around):
    """Lists as they were a while ago, as some services give them."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.frozen: list[object] | None = None

    def freeze(self) -> None:
        self.frozen = list(self.inner.list())

    def _do(self, call: Call, act: Callable[[], T]) -> T:
        if call.verb == "list" and self.frozen is not None:
            return [s for s in self.frozen if s.key.startswith(call.key)]  # type: ignore[return-value, attr-defined]
        return act()


def test_stale_lists_stop_sweeps_and_no_upload_which_stores_nothing_twice(tmp_path: Path) -> None:
    store, cell, shared = prepared(tmp_path)
    stale = StaleLists(store)
    stale.freeze()
    manifest = cell.snapshot("f2")
    commit(store, "f2", manifest)
    vault, before = fresh(stale), len(fresh(store).pack_sizes())
    cell.upload(vault, manifest)  # what it stored is not listed, but it is there
    assert len(fresh(store).pack_sizes()) == before + 1
    with pytest.raises(Busy, match="lists"):
        collect.plan(fresh(stale), NOW)
    assert memory_of(store, "f1") == shared
    assert memory_of(store, "f2").startswith(shared)
    for pack in fresh(store).pack_sizes():
        store.delete(fresh(store).pack_key(pack))
    vault.refresh()
    own = vault.recipe("f2.0").names
    assert (vault.index.find(own) == -1).any(), "what was stored from here and is gone is not relied on"


def test_an_upload_whose_packs_vanish_each_time_names_the_lists(tmp_path: Path) -> None:
    store, cell, _ = prepared(tmp_path)

    class Vanishing(Around):
        def put(self, key: str, *arguments: object, **options: object) -> bool:
            done = super().put(key, *arguments, **options)  # type: ignore[arg-type]
            if "/recipes/" in key:
                for pack in fresh(store).pack_sizes():
                    store.delete(fresh(store).pack_key(pack))
            return done

    with pytest.raises(Busy, match="lists lag behind"):
        cell.upload(fresh(Vanishing(store)), cell.snapshot("f2"))


def test_a_store_that_vanishes_and_returns_has_lost_nothing(tmp_path: Path) -> None:
    store, cell, _ = prepared(tmp_path)
    manifest = cell.snapshot("f2")
    faulty = Faulty(store, 3, lambda: StoreUnreachable("gone", "look at the network"), after=False, ever=True)
    with pytest.raises(StoreUnreachable, match="look at the network"):
        cell.upload(fresh(faulty), manifest)
    cell.upload(fresh(store), manifest)
    assert gather.is_remote(store, manifest)
    assert fresh(store, ring=RING).recipe("f2.0").freeze == "f2"
