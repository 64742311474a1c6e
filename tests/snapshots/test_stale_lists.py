"""Whatever a store lists, a sweep deletes nothing that is needed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.snapshots.test_deltas import deltas, heap
from tests.snapshots.test_vault_faults import NOW, StaleLists
from tests.snapshots.vaultkit import forget, fresh, put

from ergosphere.snapshots import collect, remote
from ergosphere.snapshots.blobs import blob_key
from ergosphere.snapshots.digests import digest_bytes
from ergosphere.snapshots.errors import Busy
from ergosphere.snapshots.manifest import CellPart, Manifest
from ergosphere.snapshots.memory_store import MemoryStore
from ergosphere.snapshots.records import commit
from ergosphere.snapshots.store import Store, Stored
from ergosphere.snapshots.tree import TreeSum
from ergosphere.snapshots.vault import Vault
from ergosphere.snapshots.wrappers import Around, Call

T = TypeVar("T")


class AnyList(Around):
    """Lists of which each name may be as it was at any time before; single objects are as they are."""

    def __init__(self, inner: Store, dice: random.Random) -> None:
        super().__init__(inner)
        self.dice = dice
        self.past: list[dict[str, Stored]] = []

    def note(self) -> None:
        self.past.append({stored.key: stored for stored in self.inner.list()})

    def _do(self, call: Call, act: Callable[[], T]) -> T:
        if call.verb != "list" or call.key.endswith("/clock"):
            return act()
        self.note()
        keys = {key: None for then in self.past for key in then if key.startswith(call.key)}  # packs have random names
        found = [self.dice.choice(self.past).get(key) for key in keys]
        return [stored for stored in found if stored is not None]  # type: ignore[return-value]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 9999), st.lists(st.sampled_from(["put", "remove", "sweep"]), max_size=12))
def test_whatever_lists_a_sweep_is_given_what_is_kept_is_whole(seed: int, steps: list[str]) -> None:
    store, dice = MemoryStore(), random.Random(seed)
    stale, kept = AnyList(store, dice), dict[str, bytes]()
    for number, step in enumerate([*steps, "put", "sweep", "sweep", "sweep"]):
        if step == "put":
            name = f"f{number}"
            kept[name] = random.Random(dice.randrange(4)).randbytes(30_000) + heap(dice.randrange(2), 90_000, number)
            put(fresh(store), name, {"a": kept[name]})
            commit(store, name, one_cell(name))
        elif step == "remove" and kept:
            name = dice.choice(sorted(kept))
            del kept[name]
            forget(store, name)
        else:
            with suppress(Busy):
                vault = fresh(stale)
                collect.execute(vault, collect.plan(vault, NOW), "home", frozenset(kept))
        stale.note()
        here = names_here(fresh(store))
        for name in kept:
            assert {each.tobytes() for each in fresh(store).recipe(f"{name}.0").names} <= here
    for _ in range(3):  # with lists as they should be
        collect.execute(fresh(store), collect.plan(fresh(store), NOW), "home", frozenset(kept))
    for name, content in kept.items():
        assert remote.cell_blobs(fresh(store), name, 0).get(blob_key(digest_bytes(content))) == content


def names_here(vault: Vault) -> set[bytes]:
    """Of all chunks in packs that are in the store, whatever an index says."""
    rows = (vault.read_rows(pack, size) for pack, size in vault.pack_sizes().items())
    return {name.tobytes() for each in rows for name in each["name"]}


def one_cell(name: str) -> Manifest:
    work = TreeSum("0" * 64, 0, 0)
    part = CellPart(0, "n1", "10.0.0.1", "key", (0,), (), work, None, ())
    return Manifest(name, "j1", 1, {"project": "p"}, 1.0, "test", 0.1, "4.2", "6.1", None, (part,))


class Hiding(Around):
    """Lists without the names of which `hides` holds."""

    def __init__(self, inner: Store, hides: Callable[[str], bool]) -> None:
        super().__init__(inner)
        self.hides = hides

    def list(self, prefix: str = "") -> Iterator[Stored]:
        return (stored for stored in super().list(prefix) if not self.hides(stored.key))


def doomed_and_needed() -> tuple[MemoryStore, bytes]:
    """A pack that a sweep doomed before the snapshot in it, "f1", was kept after all."""
    store, content = MemoryStore(), random.Random(3).randbytes(90_000)
    put(fresh(store), "f1", {"a": content})
    for pack in fresh(store).pack_sizes():
        store.put(fresh(store).doomed_key(pack), b"")
    commit(store, "f1", one_cell("f1"))
    return store, content


@pytest.mark.parametrize("what", ["/packs/", "/recipes/"])
def test_a_doomed_pack_is_not_deleted_because_a_list_lacks_it_or_who_needs_it(what: str) -> None:
    store, content = doomed_and_needed()
    vault = fresh(Hiding(store, lambda key: what in key))
    collect.execute(vault, collect.plan(vault, NOW), "home", frozenset({"f1"}))
    assert remote.cell_blobs(fresh(store), "f1", 0).get(blob_key(digest_bytes(content))) == content


def test_a_pack_that_was_spared_is_not_deleted_because_a_list_still_calls_it_doomed() -> None:
    store, content = doomed_and_needed()
    stale = StaleLists(store)
    stale.freeze()
    vault = fresh(Hiding(stale, lambda key: "/recipes/" in key))
    for pack in fresh(store).pack_sizes():
        store.delete(fresh(store).doomed_key(pack))
    stale.frozen = [s for s in [*stale.frozen, *store.list("vaults/")] if "/clock" not in s.key]
    collect.execute(
        vault, collect.CollectPlan((), (), tuple(fresh(store).pack_sizes()), (), (), 0, 0, 0, False, frozenset())
    )
    assert remote.cell_blobs(fresh(store), "f1", 0).get(blob_key(digest_bytes(content))) == content


def _delta_and_base() -> tuple[MemoryStore, set[bytes], set[str], bytes]:
    """f2, kept as deltas of chunks that f1 stored, and f1 forgotten: the store, packs of bases, keys of f2's pack and
    index, and what f2 holds.
    """
    store = MemoryStore()
    vault = fresh(store)
    put(vault, "f1", {"a": heap(1, 400_000)})
    commit(store, "f1", one_cell("f1"))
    bases, before = set(vault.pack_sizes()), {stored.key for stored in store.list(f"{vault.root}/")}
    held = heap(1, 400_000, addresses=1)
    put(vault, "f2", {"a": held})
    assert deltas(vault)
    commit(store, "f2", one_cell("f2"))
    store.put("remote/f2/0", b"")
    forget(store, "f1")
    after = {stored.key for stored in store.list(f"{vault.root}/")} - before
    return store, bases, {key for key in after if "/packs/" in key or "/index/" in key}, held


@pytest.mark.parametrize("parts", [("/packs/",), ("/packs/", "/index/")])
def test_bases_of_deltas_whose_pack_no_list_has_are_not_deleted(parts: tuple[str, ...]) -> None:
    store, bases, new, held = _delta_and_base()
    hidden = {key for key in new if any(part in key for part in parts)}
    for _ in range(3):
        stale = fresh(Hiding(store, lambda key: key in hidden))
        collect.execute(stale, collect.plan(stale, NOW), "home", frozenset({"f2"}))
    assert bases <= fresh(store).pack_sizes().keys()
    assert remote.cell_blobs(fresh(store), "f2", 0).get(blob_key(digest_bytes(held))) == held


def test_sweeps_come_to_rest_where_a_base_was_doomed_under_its_deltas() -> None:
    store, bases, _, held = _delta_and_base()
    for pack in bases:
        store.put(fresh(store).doomed_key(pack), b"")
    for _ in range(3):
        vault = fresh(store)
        planned = collect.plan(vault, NOW)
        assert not planned.doom and not planned.delete
        collect.execute(vault, planned)
    assert not fresh(store).doomed()
    assert remote.cell_blobs(fresh(store), "f2", 0).get(blob_key(digest_bytes(held))) == held
