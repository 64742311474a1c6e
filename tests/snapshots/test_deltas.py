"""Chunks that are kept as deltas of others: always the same bytes again, never without their base."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.snapshots import vaultkit
from tests.snapshots.vaultkit import Cell, fresh, put

from ergosphere.snapshots import collect, fsck, shelf
from ergosphere.snapshots.archive import export, import_archive
from ergosphere.snapshots.bases import HELD_SIZE, with_bases
from ergosphere.snapshots.chunk_index import NOWHERE, ChunkIndex, names_of, part_of
from ergosphere.snapshots.digests import digest_bytes
from ergosphere.snapshots.errors import Damaged
from ergosphere.snapshots.getting import read_stream
from ergosphere.snapshots.likeness import CHUNKS_MAX, Likeness, features
from ergosphere.snapshots.memory_store import MemoryStore
from ergosphere.snapshots.packs import (
    CHUNK_SIZE_MAX,
    DELTA,
    ID_SIZE,
    RAW,
    ZSTD,
    Base,
    ChunkReader,
    PackBuilder,
    make_rows,
    name_of,
)
from ergosphere.snapshots.pages import PAGE
from ergosphere.snapshots.putting import Stream, Watch
from ergosphere.snapshots.recipes import Recipe
from ergosphere.snapshots.records import load
from ergosphere.snapshots.remote import CellSources, put_cell
from ergosphere.snapshots.repacking import copy_chunks
from ergosphere.snapshots.runs import Run
from ergosphere.snapshots.sealing import Sealer
from ergosphere.snapshots.store import Store
from ergosphere.snapshots.vault import Vault

AT_ONCE = collect.Rules(grace_s=0.0)
WORDS = [random.Random(number).randbytes(8 * (1 + number % 25)) for number in range(20_000)]


def heap(seed: int, size: int, addresses: int = 0) -> bytes:
    """Memory as an interpreter leaves it: strings, small numbers, and addresses that another rank has elsewhere."""
    dice, moved, found = random.Random(seed), random.Random(f"{seed} {addresses}"), bytearray()
    while len(found) < size:
        found += dice.choice(WORDS) + bytes(8) + dice.randrange(9).to_bytes(8, "little")
        found += (0x7F0000000000 + 16 * moved.randrange(1 << 20)).to_bytes(8, "little")
        found += bytes(8) + bytes(-len(found) % 16)
    return bytes(found[:size])


def deltas(vault: Vault) -> int:
    vault.refresh()
    return int((vault.index.rows["kind"] == DELTA).sum())


def contents(vault: Vault, recipe: Recipe) -> dict[str, bytes]:
    return {stream.label: read_stream(vault, recipe, stream) for stream in recipe.streams}


def image_of(vault: Vault, freeze_id: str) -> bytes:
    recipe = vault.recipe(f"{freeze_id}.0")
    (stream,) = [each for each in recipe.streams if each.label == "rank0/pages-1.img"]
    return read_stream(vault, recipe, stream)


def packs_of(vault: Vault, kind: int) -> set[bytes]:
    """Packs in which chunks of this kind lie."""
    vault.refresh()
    return {vault.index.packs[owner] for owner in vault.index.owner[vault.index.rows["kind"] == kind]}


def test_ranks_that_differ_by_their_addresses_cost_little_more_than_one() -> None:
    one, four = fresh(MemoryStore()), fresh(MemoryStore())
    put(one, "f", {"rank0/pages-1.img": heap(1, 3_000_000)})
    put(four, "f", {f"rank{rank}/pages-1.img": heap(1, 3_000_000, rank) for rank in range(4)})
    assert deltas(four) > 30
    sizes = [sum(vault.pack_sizes().values()) for vault in (one, four)]
    assert sizes[1] < 2 * sizes[0], sizes


def test_a_later_snapshot_is_kept_as_deltas_of_an_earlier_one_and_both_are_read() -> None:
    vault = fresh(MemoryStore())
    before, after = heap(1, 2_000_000), heap(1, 2_000_000, addresses=5)
    put(vault, "f1", {"rank0/pages-1.img": before})
    assert not deltas(vault)
    put(vault, "f2", {"rank0/pages-1.img": after})
    assert deltas(vault) > 10
    other = fresh(vault.store)
    assert contents(other, other.recipe("f1.0")) == {"rank0/pages-1.img": before}
    assert contents(other, other.recipe("f2.0")) == {"rank0/pages-1.img": after}


def test_numbers_that_resemble_nothing_are_no_deltas_and_nobody_looks_for_their_bases() -> None:
    vault = fresh(MemoryStore())
    for number in range(2):
        put(vault, f"f{number}", {"rank0/pages-1.img": random.Random(number).randbytes(2_000_000)})
    assert not deltas(vault)
    assert (vault.index.rows["kind"] == RAW).all()
    assert not vault.likeness.nearest(features(heap(1, 50_000)))


edits = st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=300), st.integers(0, 5000)), max_size=12)


@settings(max_examples=40, deadline=None)
@given(st.lists(edits, min_size=1, max_size=4), st.integers(0, 3))
def test_whatever_is_edited_comes_out_as_it_was_put(versions: list[list[tuple[float, bytes, int]]], seed: int) -> None:
    vault = fresh(MemoryStore())
    kept = {"f0": heap(seed, 200_000)}
    for number, edit in enumerate(versions, start=1):
        content = bytearray(kept[f"f{number - 1}"])
        for where, inserted, removed in edit:
            at = int(where * len(content))
            content[at : at + removed] = inserted
        kept[f"f{number}"] = bytes(content)
    for name, content in kept.items():
        put(vault, name, {"rank0/pages-1.img": content, "rank1/pages-1.img": content[:-1]})
    other = fresh(vault.store)
    for name, content in kept.items():
        assert contents(other, other.recipe(f"{name}.0")) == {
            "rank0/pages-1.img": content,
            "rank1/pages-1.img": content[:-1],
        }


def cell(root: Path, seed: int, addresses: int) -> Cell:
    """Nothing in it but its memory resembles what another one has."""
    made, dice = Cell(root), random.Random(addresses)
    made.image(0, [(0x7F0000000000, heap(seed, 100 * PAGE, addresses))])
    images = made.images / "rank0"
    for path in (root / "work/model.bin", root / "rank0.out", images / "core-7.img", images / "pagemap-7.img"):
        path.write_bytes(dice.randbytes(2000))
    return made


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["keep", "forget", "sweep", "other"]), st.integers(0, 3)), max_size=14))
def test_whatever_is_put_and_swept_deltas_keep_their_bases(steps: list[tuple[str, int]]) -> None:
    with TemporaryDirectory() as folder:
        _put_and_sweep(Path(folder), steps)


def _put_and_sweep(root: Path, steps: list[tuple[str, int]]) -> None:
    store = MemoryStore()
    vault, kept = fresh(store), {}
    for number, (what, which) in enumerate(steps):
        name = f"f{number}"
        if what == "keep":
            made = cell(root / name, which % 2, number)
            made.keep(vault, name)
            kept[name] = made
        elif what == "forget" and kept:
            gone = sorted(kept)[which % len(kept)]
            vaultkit.forget(store, gone)
            del kept[gone]
        elif what == "other":
            vault = fresh(store)
        else:
            collect.execute(vault, collect.plan(vault, AT_ONCE))
    for _ in range(3):
        collect.execute(vault, collect.plan(vault, AT_ONCE))
    other = fresh(store)
    for name, made in kept.items():
        assert image_of(other, name) == (made.images / "rank0/pages-1.img").read_bytes()
    assert fsck.check(store, [other], deep=True).is_clean


def two(tmp_path: Path, store: Store) -> tuple[Vault, Cell, Cell]:
    """Two snapshots, the second made of deltas of the first, each with a pack of its own."""
    vault = fresh(store)
    first, second = cell(tmp_path / "one", 1, 0), cell(tmp_path / "two", 1, 1)
    first.keep(vault, "f1")
    second.keep(vault, "f2")
    assert deltas(vault) > 2
    return vault, first, second


def test_a_base_outlives_the_snapshot_it_came_with(tmp_path: Path) -> None:
    store = MemoryStore()
    vault, _, second = two(tmp_path, store)
    vaultkit.forget(store, "f1")
    for _ in range(4):
        collect.execute(vault, collect.plan(vault, AT_ONCE))
        assert deltas(vault) > 2 and not collect.plan(vault, AT_ONCE).spare
    assert image_of(fresh(store), "f2") == (second.images / "rank0/pages-1.img").read_bytes()
    vaultkit.forget(store, "f2")
    for _ in range(4):
        collect.execute(vault, collect.plan(vault, AT_ONCE))
    assert not vault.pack_sizes()


def doom_bases(vault: Vault) -> set[bytes]:
    """Packs that hold bases and no deltas, which are doomed from here on."""
    bases = packs_of(vault, ZSTD) - packs_of(vault, DELTA)
    for pack in bases:
        vault.store.put(vault.doomed_key(pack), b"")
    return bases


def test_a_base_in_a_doomed_pack_is_spared_for_deltas_that_lie_elsewhere(tmp_path: Path) -> None:
    store = MemoryStore()
    vault, _, second = two(tmp_path, store)
    bases = doom_bases(vault)
    assert image_of(fresh(store), "f2") == (second.images / "rank0/pages-1.img").read_bytes()
    vaultkit.forget(store, "f1")
    planned = collect.plan(vault, AT_ONCE)
    assert set(planned.spare) == bases
    collect.execute(vault, planned)
    assert not vault.doomed() & bases


def test_a_fork_has_the_base_that_a_sweep_dooms_under_it(tmp_path: Path) -> None:
    store = MemoryStore()
    vault, _, second = two(tmp_path, store)
    doomed = doom_bases(vault)
    manifest = load(store, "f2")
    shelf.fork(fresh(store), manifest, replace(manifest, id="f3"))
    for pack in doomed:
        store.delete(vault.pack_key(pack))
    assert image_of(fresh(store), "f3") == (second.images / "rank0/pages-1.img").read_bytes()
    assert deltas(fresh(store)) > 2


def test_deltas_are_copied_as_they_are_and_an_export_needs_no_bases(tmp_path: Path) -> None:
    store = MemoryStore()
    vault, _, second = two(tmp_path, store)
    rows, sizes = np.flatnonzero(vault.index.rows["kind"] == DELTA), vault.pack_sizes()
    held = packs_of(vault, DELTA)
    assert copy_chunks(vault, vault.index, np.arange(len(vault.index))) < 1.1 * sum(sizes.values())
    for pack in held:
        store.delete(vault.pack_key(pack))
    other = fresh(store)
    assert deltas(other) >= len(rows)
    image = (second.images / "rank0/pages-1.img").read_bytes()
    assert image_of(other, "f2") == image
    export(other, load(store, "f2"), tmp_path / "f2.ergo", None)
    here = fresh(MemoryStore(), ring=vaultkit.OTHER_RING)
    import_archive(tmp_path / "f2.ergo", None, here, lambda manifest: manifest)
    assert image_of(here, "f2") == image
    assert not deltas(here)


def test_a_writer_stores_again_the_base_that_a_sweep_dooms_under_it(tmp_path: Path) -> None:
    store = MemoryStore()
    vault, first, _ = two(tmp_path, store)
    for pack in packs_of(vault, ZSTD) - packs_of(vault, DELTA):
        store.put(vault.doomed_key(pack), b"")
    doomed = vault.doomed()
    third = cell(tmp_path / "three", 1, 1)  # its chunks are deltas that are stored, of bases that are doomed
    third.keep(fresh(store), "f3")
    for pack in doomed:
        store.delete(vault.pack_key(pack))
    assert image_of(fresh(store), "f3") == (third.images / "rank0/pages-1.img").read_bytes()
    assert first.root.exists()


def test_fsck_names_the_snapshots_whose_bases_are_lost(tmp_path: Path) -> None:
    store = MemoryStore()
    vault, _, _ = two(tmp_path, store)
    for pack in packs_of(vault, ZSTD) - packs_of(vault, DELTA):
        store.delete(vault.pack_key(pack))
    report = fsck.check(store, [fresh(store)], deep=True)
    assert report.affected.keys() == {"f1", "f2"}
    with pytest.raises(Damaged, match="missing"):
        contents(other := fresh(store), other.recipe("f2.0"))


@pytest.mark.parametrize("deep", [True, False])
def test_a_damaged_base_is_told_with_the_deltas_that_need_it(tmp_path: Path, deep: bool) -> None:
    store = MemoryStore()
    vault, _, _ = two(tmp_path, store)
    (pack,) = packs_of(vault, ZSTD) - packs_of(vault, DELTA)
    held = bytearray(store.get(vault.pack_key(pack)))
    row = vault.index.rows[vault.index.bases(np.arange(len(vault.index))).max()]
    if deep:
        held[int(row["at"]) + 20] ^= 1
    store.put(vault.pack_key(pack), bytes(held) if deep else bytes(held[: int(row["at"])]))
    report = fsck.check(store, [fresh(store)], deep=deep)
    assert report.affected.keys() == {"f1", "f2"}
    assert any("deltas of lost ones" in what for what in report.damaged)
    with pytest.raises(Damaged):
        contents(other := fresh(store), other.recipe("f2.0"))


@pytest.mark.parametrize("deep", [True, False])
def test_a_repair_counts_damaged_packs_and_deltas_of_lost_chunks_apart(tmp_path: Path, deep: bool) -> None:
    store = MemoryStore()
    vault, _, second = two(tmp_path, store)
    (pack,) = packs_of(vault, ZSTD) - packs_of(vault, DELTA)
    row = vault.index.rows[vault.index.bases(np.arange(len(vault.index))).max()]
    held = bytearray(store.get(vault.pack_key(pack)))
    held[int(row["at"]) + 20] ^= 1
    store.put(vault.pack_key(pack), bytes(held) if deep else bytes(held[: int(row["at"])]))
    report = fsck.check(store, [fresh(store)], deep=deep, repair=True)
    assert any(said.startswith("1 damaged pack(s)") for said in report.mended), report.mended
    assert any("delta(s) of lost chunks" in said for said in report.mended), report.mended
    assert fresh(store).doomed() == {pack}
    again = cell(tmp_path / "again", 1, 1)
    again.keep(fresh(store), "f3")
    for name in ("f2", "f3"):
        assert image_of(fresh(store), name) == (second.images / "rank0/pages-1.img").read_bytes()


def test_what_lost_its_base_is_stored_anew_by_the_next_snapshot(tmp_path: Path) -> None:
    store = MemoryStore()
    vault, _, second = two(tmp_path, store)
    (pack,) = packs_of(vault, ZSTD) - packs_of(vault, DELTA)
    store.delete(vault.pack_key(pack))
    again = cell(tmp_path / "again", 1, 1)
    again.keep(fresh(store), "f3")
    for name in ("f2", "f3"):
        assert image_of(fresh(store), name) == (second.images / "rank0/pages-1.img").read_bytes()


def test_the_index_is_made_again_from_packs_with_its_bases(tmp_path: Path) -> None:
    store = MemoryStore()
    vault, _, second = two(tmp_path, store)
    for stored in list(store.list(f"{vault.root}/index/")):
        store.delete(stored.key)
    assert image_of(fresh(store), "f2") == (second.images / "rank0/pages-1.img").read_bytes()


def test_a_put_that_died_before_its_bases_were_stored_harms_nobody() -> None:
    class Dying(MemoryStore):
        dies = True

        def put(self, key, source, **options):  # type: ignore[no-untyped-def]
            if self.dies and "/packs/" in key and len(list(self.list("vaults/"))) > 2:
                raise KeyboardInterrupt
            return super().put(key, source, **options)

    store = Dying()
    streams = {f"rank{rank}/pages-1.img": heap(1, 2_000_000, rank) for rank in range(2)}
    with pytest.raises(KeyboardInterrupt):
        for number in range(9):
            put(fresh(store), f"f{number}", {"rank0/pages-1.img": heap(number, 900_000)})
    store.dies = False
    vault = fresh(store)
    assert contents(vault, put(vault, "f", streams)) == streams


# ── the index ──────────────────────────────────────────────────────────────────────────────────────────────────


def name(number: int) -> bytes:
    return digest_of(number)[:32]


def digest_of(number: int) -> bytes:
    return bytes.fromhex(digest_bytes(number.to_bytes(4, "little")))


def index_of(*packs: list[tuple[int, int | None]]) -> ChunkIndex:
    """Packs of chunks by number, each with the number of its base or None."""
    parts = []
    for number, chunks in enumerate(packs):
        rows = [
            (name(one), 48, 10, 10, RAW if base is None else DELTA, bytes(16) if base is None else name(base)[:16])
            for one, base in chunks
        ]
        parts.append(part_of([(bytes([number]) * 16, make_rows(rows))]))
    return ChunkIndex(parts)


def test_a_delta_counts_only_while_its_base_is_there() -> None:
    assert index_of([(1, 2)]).find(names_of(name(1)))[0] == NOWHERE
    index = index_of([(1, 2)], [(2, None)])
    assert index.find(names_of(name(1)))[0] == 0
    assert index.with_bases(np.array([0])).tolist() == [0, 1]


def test_a_base_is_never_a_delta_whatever_packs_say() -> None:
    circle = index_of([(1, 2), (2, 1)])
    assert (circle.find(names_of(name(1) + name(2))) == NOWHERE).all()
    chain = index_of([(1, 2), (2, 3), (3, None)])
    assert chain.find(names_of(name(1) + name(2) + name(3))).tolist() == [NOWHERE, 1, 2]
    both = index_of([(1, 2), (2, 3), (3, None)], [(2, None)])
    assert both.find(names_of(name(1) + name(2))).tolist() == [0, 3]
    assert both.bases(np.array([0, 1, 2, 3])).tolist() == [3, 2, NOWHERE, NOWHERE]


# ── bytes ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_delta_of_another_base_is_refused() -> None:
    vault = fresh(MemoryStore())
    base, content = heap(1, 60_000), heap(1, 60_000, addresses=1)
    builder = PackBuilder(vault.sealer)
    named = [name_of(each, vault.naming) for each in (base, content)]
    kinds = [builder.add(named[0], memoryview(base))]
    kinds.append(builder.add(named[1], memoryview(content), lambda _: Base(named[0], base)))
    assert kinds == [ZSTD, DELTA]
    sealed = builder.finish()
    row = sealed.rows[1]
    assert row["base"].tobytes() == named[0][:16]
    at, stored, size = (int(row[part]) for part in ("at", "stored", "size"))
    reader = ChunkReader(vault.sealer, vault.naming, sealed.id)
    held = sealed.content[at : at + stored]
    assert reader.read(named[1], at, size, DELTA, held, base) == content
    for wrong in (None, base[:-1], heap(2, 60_000), Damaged("a chunk")):
        with pytest.raises(Damaged):
            reader.read(named[1], at, size, DELTA, held, wrong)


def test_bases_are_read_in_pieces_that_memory_bounds() -> None:
    vault = fresh(MemoryStore())
    put(vault, "f1", {"rank0/pages-1.img": heap(1, 2 * HELD_SIZE)})
    recipe = put(vault, "f2", {"rank0/pages-1.img": heap(1, 2 * HELD_SIZE, addresses=1)})
    index = vault.index
    rows = index.find(recipe.names)
    chosen = rows[index.rows["kind"][rows] == DELTA]
    (owner,) = np.unique(index.owner[chosen])
    chosen = np.sort(chosen[index.owner[chosen] == owner])
    held = [base for _, base in with_bases(vault, Run(index, chosen, chosen.tolist()))]
    assert sum(len(base) for base in held if isinstance(base, bytes)) > HELD_SIZE
    assert all(isinstance(base, bytes) for base in held)


def test_likeness_forgets_the_earliest_and_learns_what_tells_nothing() -> None:
    known = Likeness()
    mine = features(heap(1, 50_000))
    known.add(mine, b"first")
    assert known.nearest(features(heap(1, 50_000, addresses=9))) == [b"first"]
    known.add(mine, b"second", unlike=b"first")
    assert known.nearest(mine) == []
    for before, after in pairwise(range(CHUNKS_MAX + 2)):
        known.add(mine[:0], f"{before} {after}".encode())
    assert len(known._names) == CHUNKS_MAX


def test_streams_of_one_put_are_each_the_others_base_only_once(tmp_path: Path) -> None:
    vault = fresh(MemoryStore())
    paths = [tmp_path / f"{rank}" for rank in range(3)]
    for rank, path in enumerate(paths):
        path.write_bytes(heap(1, 400_000, rank))
    streams = [Stream(digest_bytes(path.read_bytes()), f"rank{path.name}/pages-1.img", path) for path in paths]
    put_cell(vault, ("f", 0), CellSources(tuple(streams), (), ()))
    recipe = vault.recipe("f.0")
    assert contents(vault, recipe) == {stream.label: Path(str(stream.source)).read_bytes() for stream in streams}
    bases = vault.index.bases(np.arange(len(vault.index)))
    assert (bases != NOWHERE).any()
    assert (vault.index.rows["kind"][bases[bases != NOWHERE]] != DELTA).all()


@pytest.mark.parametrize("kind", [ZSTD, DELTA])
def test_a_chunk_that_claims_to_be_larger_than_its_row_says_is_not_unpacked(kind: int) -> None:
    """zstd makes as much as a frame says, whatever limit it is given."""
    reader = ChunkReader(Sealer(None, bytes(16)), bytes(32), bytes(ID_SIZE))
    bomb = zstandard.ZstdCompressor().compress(bytes(CHUNK_SIZE_MAX + 1))
    with pytest.raises(Damaged, match="larger than it may be"):
        reader.unpack(bytes(32), bomb, 1000, kind, bytes(1000))


def test_where_somebody_waits_nothing_is_kept_as_a_delta() -> None:
    vault = fresh(MemoryStore())
    for name, addresses in (("f1", 0), ("f2", 1)):
        content = heap(1, 400_000, addresses)
        streams = (Stream(digest_bytes(content), "a", content),)
        put_cell(vault, (name, 0), CellSources(streams, (), ()), Watch(waits=True))
    assert not deltas(vault)
