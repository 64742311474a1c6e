"""A vault: what goes in comes out, equal memory is stored once, and nothing that was damaged or forged gets out."""

from __future__ import annotations

import os
import random
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.snapshots.conftest import Bucket
from tests.snapshots.vaultkit import OTHER_RING, RING, Cell, fresh, pages, put

from ergosphere.snapshots import collect, fsck, gather, remote, thawing
from ergosphere.snapshots.blobs import blob_key
from ergosphere.snapshots.chunk_index import NOWHERE
from ergosphere.snapshots.digests import digest_bytes, digest_image
from ergosphere.snapshots.errors import Damaged, Forged, MissingKey, NotFound, Stopped, TooNew, WrongKey
from ergosphere.snapshots.getting import fetch_streams
from ergosphere.snapshots.memory_store import MemoryStore
from ergosphere.snapshots.packs import CHUNK_SIZE_MAX, PackBuilder
from ergosphere.snapshots.pages import PAGE
from ergosphere.snapshots.pool import Pool
from ergosphere.snapshots.putting import WINDOW, Progress, Stream, Watch, put_streams
from ergosphere.snapshots.records import commit, verdict
from ergosphere.snapshots.store import FolderStore, Store
from ergosphere.snapshots.vault_head import vault_root, vault_roots


@pytest.fixture(params=["folder", "memory", "s3 (moto's server, a stand-in)"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    match request.param:
        case "folder":
            return FolderStore.create(tmp_path / "shared", durable=False)
        case "memory":
            return MemoryStore()
        case _:
            bucket: Bucket = request.getfixturevalue("bucket")
            return bucket.store()


def read_back(store: Store, freeze_id: str, folder: Path) -> dict[str, bytes]:
    vault = fresh(store)
    recipe = vault.recipe(f"{freeze_id}.0")
    folder.mkdir()
    fetch_streams(vault, recipe, {stream.digest: folder / stream.digest for stream in recipe.streams})
    return {stream.label: (folder / stream.digest).read_bytes() for stream in recipe.streams}


@pytest.mark.parametrize("ring", [RING, None], ids=["encrypted", "plain"])
def test_a_cell_comes_back_on_another_node_byte_for_byte(shared: Store, tmp_path: Path, ring: object) -> None:
    cell = Cell(tmp_path / "a", ranks=2)
    vault = fresh(shared, ring=ring)  # type: ignore[arg-type]
    manifest = cell.keep(vault, "f1")
    assert gather.is_remote(shared, manifest)
    blobs = remote.cell_blobs(fresh(shared, ring=ring), "f1", 0)  # type: ignore[arg-type]
    for rank in range(2):
        thawing.fetch_images(manifest, rank, tmp_path / f"images{rank}", [blobs])
        for path in (cell.images / f"rank{rank}").iterdir():
            assert (tmp_path / f"images{rank}" / path.name).read_bytes() == path.read_bytes()
    files = gather.CellFiles(tmp_path / "b/work", None, {"rank0.out": tmp_path / "b/rank0.out"})
    files.work.mkdir(parents=True)
    thawing.restore_files(manifest.cells[0], files, Pool.create(tmp_path / "pool"), shared, [blobs])
    assert (files.work / "model.bin").read_bytes() == (cell.root / "work/model.bin").read_bytes()
    assert files.logs["rank0.out"].read_text() == "step 1\n"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3 * PAGE)), max_size=12), st.booleans())
def test_whatever_bytes_go_in_come_out(pieces: list[tuple[int, int]], encrypted: bool) -> None:
    contents = {}
    for number, (seed, size) in enumerate(pieces):
        content = random.Random(seed).randbytes(size) if seed else bytes(size)
        contents[f"s{number}"] = content + bytes(PAGE * seed) + b"text " * 200 * seed
    store, ring = MemoryStore(), RING if encrypted else None
    put(fresh(store, ring=ring), "f1", contents)
    vault = fresh(store, ring=ring)
    blobs = remote.cell_blobs(vault, "f1", 0)
    for stream in blobs.recipe.streams:
        assert blobs.get(f"blobs/00/{stream.digest}") == contents[stream.label]


def test_equal_memory_of_ranks_snapshots_and_jobs_is_stored_once(store: FolderStore, tmp_path: Path) -> None:
    dice = random.Random(8)
    shared, own = pages(dice, 400), [pages(dice, 3) for _ in range(4)]
    cell = Cell(tmp_path / "a", ranks=4)
    for rank in range(4):
        cell.image(rank, [(0x10000 * (rank + 1), own[rank]), (0x7F0000000000 + 0x5000 * rank, shared)])
    first = cell.upload(fresh(store), cell.snapshot("f1"))
    assert 400 * PAGE < first.stored_bytes < 1.1 * 400 * PAGE + 12 * PAGE + 60_000
    second = cell.upload(fresh(store), cell.snapshot("f2"))
    assert second.stored_bytes < 2000 and second.chunks == first.chunks
    other = Cell(tmp_path / "b")
    other.image(0, [(0x7FFF00000000, own[0] + shared)])
    assert other.upload(fresh(store), other.snapshot("g1", job="j2")).stored_bytes < 30 * PAGE


def test_projects_share_nothing_not_even_names(store: FolderStore) -> None:
    content = {"a": random.Random(9).randbytes(100_000)}
    mine, yours = fresh(store, "mine"), fresh(store, "yours")
    one, two = put(mine, "f1", content), put(yours, "f2", content)
    assert not {name.tobytes() for name in one.names} & {name.tobytes() for name in two.names}
    assert (mine.index.find(two.names) == NOWHERE).all()
    assert vault_roots(store) == sorted([vault_root("mine"), vault_root("yours")])


def test_zeros_cost_nothing_and_stay_holes(store: FolderStore, tmp_path: Path) -> None:
    (tmp_path / "big").touch()
    os.truncate(tmp_path / "big", 64 << 20)
    vault = fresh(store)
    digest = digest_image(tmp_path / "big")
    recipe, tally = put_streams(vault, ("f1", 0), [Stream(digest, "x", tmp_path / "big")], Watch())
    assert tally.stored == 0 and tally.chunks == 0
    fetch_streams(vault, recipe, {digest: tmp_path / "out"})
    assert (tmp_path / "out").stat().st_size == 64 << 20 and (tmp_path / "out").stat().st_blocks == 0


def test_text_is_compressed_and_noise_is_not(store: FolderStore) -> None:
    vault = fresh(store)
    words = random.Random(10)
    text = "".join(words.choice(["loss", "step", "epoch"]) + f" {words.random()}\n" for _ in range(30_000)).encode()
    put(vault, "f1", {"text": text})
    size = sum(vault.pack_sizes().values())
    assert size < 0.7 * len(text)
    noise = random.Random(11).randbytes(200_000)
    put(vault, "f2", {"noise": noise})
    assert sum(vault.pack_sizes().values()) - size >= len(noise)


def test_nothing_that_is_stored_can_be_read_by_others(store: FolderStore, tmp_path: Path) -> None:
    secret = b"password=correct horse battery staple" * 200
    put(fresh(store), "f1", {"rank0/pages-1.img": secret})
    for path in store.folder.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600)
        assert path.is_dir() or b"correct horse" not in path.read_bytes()


def test_a_missing_key_and_a_wrong_key_are_told_apart(store: FolderStore) -> None:
    put(fresh(store), "f1", {"a": b"x"})
    with pytest.raises(MissingKey, match="ERGO_KEY_FILE"):
        fresh(store, ring=None)
    with pytest.raises(WrongKey, match="another key"):
        fresh(store, ring=OTHER_RING)


def test_a_vault_of_a_newer_version_is_refused(store: FolderStore) -> None:
    vault = fresh(store)
    for place in ("head", "head.copy"):
        newer = store.get(f"{vault.root}/{place}").replace(b'"version":3', b'"version":9')
        store.put(f"{vault.root}/{place}", newer)
    with pytest.raises(TooNew, match="update ergosphere"):
        fresh(store)


def test_a_recipe_of_a_newer_version_is_refused_and_stops_a_sweep(store: FolderStore) -> None:
    vault = fresh(store)
    recipe = put(vault, "f1", {"a": b"x" * 9000})
    newer = recipe.encode().replace(b'"version":1', b'"version":7')
    store.put(vault.recipe_key("f1.0"), vault.sealer.seal(newer, vault.recipe_key("f1.0")))
    with pytest.raises(TooNew, match="update ergosphere"):
        fresh(store).recipe("f1.0")
    with pytest.raises(TooNew):
        collect.plan(fresh(store))
    assert "f1" in fsck.check(store, [fresh(store)]).affected


@pytest.mark.parametrize("ring", [RING, None], ids=["encrypted", "plain"])
@pytest.mark.parametrize("kind", ["packs", "recipes", "index"])
def test_a_flipped_bit_anywhere_never_gives_wrong_bytes(tmp_path: Path, kind: str, ring: object) -> None:
    store = FolderStore.create(tmp_path / "s", durable=False)
    content = random.Random(12).randbytes(9000) + b"words " * 3000
    put(fresh(store, ring=ring), "f1", {"a": content})  # type: ignore[arg-type]
    (path,) = [p for p in (store.folder / vault_root("p")).rglob("*") if p.is_file() and kind in str(p)]
    whole = path.read_bytes()
    dice = random.Random(13)
    outcomes = set()
    for at in sorted(dice.sample(range(len(whole)), min(60, len(whole)))):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << dice.randrange(8)]) + whole[at + 1 :])
        try:
            blobs = remote.cell_blobs(fresh(store, ring=ring), "f1", 0)  # type: ignore[arg-type]
            assert blobs.get(f"blobs/00/{blobs.recipe.streams[0].digest}") == content
            outcomes.add("whole")
        except (Damaged, MissingKey, TooNew):
            outcomes.add("refused")
    assert "refused" in outcomes or kind == "index"
    assert outcomes == {"whole"} if kind == "index" else True


@pytest.mark.parametrize("keep", [0, 10, 31, 32, 5000, -1, -17, -2000])
def test_a_pack_that_was_cut_short_is_named_with_its_snapshot(tmp_path: Path, keep: int) -> None:
    store = FolderStore.create(tmp_path / "s", durable=False)
    content = random.Random(14).randbytes(90_000)
    put(fresh(store), "f1", {"a": content})
    (pack,) = (store.folder / vault_root("p") / "packs").rglob("????????????????????????????????")
    pack.write_bytes(pack.read_bytes()[:keep])
    blobs = remote.cell_blobs(fresh(store), "f1", 0)
    if -2000 < keep < 0:  # only the table is cut: the index has all of it
        assert blobs.get(blob_key(digest_bytes(content))) == content
        return
    with pytest.raises(Damaged, match="f1"):
        blobs.get(blob_key(digest_bytes(content)))


@pytest.mark.parametrize("ring", [RING, None], ids=["encrypted", "plain"])
def test_a_chunk_in_the_place_of_another_is_refused(tmp_path: Path, ring: object) -> None:
    """What somebody can do who may write to the store and has no key: exchange chunks, in a pack and between packs."""
    store = FolderStore.create(tmp_path / "s", durable=False)
    vault = fresh(store, ring=ring)  # type: ignore[arg-type]
    recipes = [put(vault, name, {"a": random.Random(seed).randbytes(120_000)}) for name, seed in (("f1", 1), ("f2", 2))]
    rows = [vault.index.rows[vault.index.find(recipe.names)] for recipe in recipes]
    packs = [vault.index.packs[vault.index.owner[vault.index.find(recipe.names[:1])[0]]] for recipe in recipes]
    paths = [store.folder / vault.pack_key(pack) for pack in packs]
    mine, theirs = (path.read_bytes() for path in paths)
    spans = [(int(row["at"]), int(row["stored"])) for row in rows[0]]
    forged = [theirs]  # all of another pack under this one's name
    for at, stored in spans:
        forged.append(mine[:at] + theirs[at : at + stored] + mine[at + stored :])  # from the same place of another
        for other, _ in spans:
            if other != at:  # from another place of the same
                forged.append((mine[:at] + mine[other : other + stored] + mine[at + stored :])[: len(mine)])
    for content in forged:
        paths[0].write_bytes(content)
        out = tmp_path / "out"
        with pytest.raises(Damaged, match="f1"):
            fetch_streams(fresh(store, ring=ring), recipes[0], {recipes[0].streams[0].digest: out})  # type: ignore[arg-type]
        assert not out.exists()


def test_a_chunk_that_was_sealed_with_other_bytes_than_it_was_named_after_is_found_by_fsck(store: FolderStore) -> None:
    """The tag says that the writer sealed these bytes, only `fsck --deep` and repacking that it named the same."""
    vault = fresh(store)
    put(vault, "f1", {"a": random.Random(1).randbytes(3000)})
    (pack,) = vault.index.packs
    builder = PackBuilder(vault.sealer)
    builder.add(vault.index.rows["name"][0].tobytes(), memoryview(random.Random(2).randbytes(3000)))
    faulty = builder.finish()
    store.put(vault.pack_key(faulty.id), faulty.content)
    store.delete(vault.pack_key(pack))
    for stored in list(store.list(f"{vault.root}/index/")):
        store.delete(stored.key)
    assert fsck.check(store, [fresh(store)], deep=True).damaged


def test_an_object_in_the_place_of_another_is_forged(store: FolderStore) -> None:
    vault = fresh(store)
    put(vault, "f1", {"a": b"one" * 9000})
    put(vault, "f2", {"a": b"two" * 9000})
    store.put(vault.recipe_key("f1.0"), store.get(vault.recipe_key("f2.0")))
    with pytest.raises(Forged, match="not written with this key"):
        fresh(store).recipe("f1.0")


def test_a_lost_index_is_made_again_from_the_packs(store: FolderStore) -> None:
    put(fresh(store), "f1", {"a": random.Random(15).randbytes(300_000)})
    before = fresh(store).index
    for stored in list(store.list(f"{vault_root('p')}/index/")):
        store.delete(stored.key)
    after = fresh(store).index
    assert len(after) == len(before) > 3
    assert (after.find(before.rows["name"]) != NOWHERE).all()


def test_a_file_that_is_written_anew_never_stands_half_done(store: FolderStore, tmp_path: Path) -> None:
    vault = fresh(store)
    recipe = put(vault, "f1", {"a": random.Random(16).randbytes(200_000), "b": b"b" * 9000})
    for stored in list(store.list(f"{vault.root}/packs/")):
        store.delete(stored.key)
    dests = {stream.digest: tmp_path / stream.label for stream in recipe.streams}
    with pytest.raises(Damaged, match="missing"):
        fetch_streams(vault, recipe, dests)
    assert list(tmp_path.glob("?")) == []


def test_an_upload_tells_its_progress_and_can_be_called_off_and_taken_up(store: FolderStore, tmp_path: Path) -> None:
    cell = Cell(tmp_path / "a")
    cell.image(0, [(0x10000, random.Random(17).randbytes(WINDOW * 6))])
    manifest, seen = cell.snapshot("f1"), []
    stop = threading.Event()

    def watch(progress: Progress) -> None:
        seen.append(progress)
        if progress.done > 2 * WINDOW:
            stop.set()

    vault = fresh(store)
    with pytest.raises(Stopped, match="goes on where it stopped"):
        remote.upload_cell(vault, "f1", manifest.cells[0], cell.images, cell.pool, Watch(watch, stop))
    assert not gather.is_remote(store, manifest)
    assert seen[-1].total > seen[-1].done > 0
    again = cell.upload(fresh(store), manifest)
    assert gather.is_remote(store, manifest) and again.read_bytes > 6 * WINDOW
    assert fsck.check(store, [fresh(store)], deep=True).damaged == []


def test_an_upload_that_is_done_already_costs_nothing(store: FolderStore, tmp_path: Path) -> None:
    cell = Cell(tmp_path / "a")
    manifest = cell.snapshot("f1")
    cell.upload(fresh(store), manifest)
    assert cell.upload(fresh(store), manifest).read_bytes == 0


def test_a_file_that_did_not_change_is_borrowed_from_the_snapshot_before(store: FolderStore, tmp_path: Path) -> None:
    cell = Cell(tmp_path / "a")
    cell.keep(fresh(store), "f1")
    assert list(cell.pool.store.list("blobs/")) == []
    (cell.root / "work/new.txt").write_text("new")
    manifest = cell.keep(fresh(store), "f2")
    blobs = remote.cell_blobs(fresh(store), "f2", 0)
    files = gather.CellFiles(tmp_path / "w", None, {"rank0.out": tmp_path / "l"})
    files.work.mkdir()
    thawing.restore_files(manifest.cells[0], files, Pool.create(tmp_path / "pool"), store, [blobs])
    assert (files.work / "model.bin").read_bytes() == (cell.root / "work/model.bin").read_bytes()
    assert (files.work / "new.txt").read_text() == "new"


def test_two_writers_at_once_both_succeed(store: FolderStore, tmp_path: Path) -> None:
    cells = [Cell(tmp_path / str(number)) for number in range(4)]
    for number, cell in enumerate(cells):
        cell.image(0, [(0x10000, pages(random.Random(18), 500) + pages(random.Random(number), 20))])
    manifests = [cell.snapshot(f"f{number}") for number, cell in enumerate(cells)]
    threads = [
        threading.Thread(target=cell.upload, args=(fresh(store), manifest))
        for cell, manifest in zip(cells, manifests, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for number, cell in enumerate(cells):
        got = read_back(store, f"f{number}", tmp_path / f"out{number}")
        assert got["rank0/pages-1.img"] == (cell.images / "rank0/pages-1.img").read_bytes()


@pytest.mark.parametrize("size", [PAGE * 40, WINDOW * 3])
@pytest.mark.parametrize("change", ["flipped", "longer", "shorter"])
def test_an_image_that_changed_since_it_was_hashed_never_becomes_remote(
    store: FolderStore, tmp_path: Path, size: int, change: str
) -> None:
    cell = Cell(tmp_path / "a")
    cell.image(0, [(0x10000, random.Random(19).randbytes(size))])
    manifest = cell.snapshot("f1")
    commit(store, "f1", manifest)
    image = cell.images / "rank0/pages-1.img"
    whole = image.read_bytes()
    flipped = whole[: size // 2] + bytes([whole[size // 2] ^ 1]) + whole[size // 2 + 1 :]
    image.write_bytes({"flipped": flipped, "longer": whole + bytes(PAGE), "shorter": whole[:-PAGE]}[change])
    with pytest.raises(Damaged, match=r"rank0/pages-1.img of snapshot f1 changed after it was hashed"):
        cell.upload(fresh(store), manifest)
    assert not gather.is_remote(store, manifest)
    assert list(fresh(store).recipe_names()) == [], "no later snapshot borrows it"
    image.write_bytes(whole)
    cell.upload(fresh(store), manifest)
    assert gather.is_remote(store, manifest)


def test_a_file_that_changed_in_its_pool_is_not_taken_for_what_it_was(store: FolderStore, tmp_path: Path) -> None:
    cell = Cell(tmp_path / "a")
    manifest = cell.snapshot("f1")
    (kept,) = (path for path in cell.pool.store.folder.rglob("*") if path.is_file() and path.stat().st_size == 40_000)
    kept.chmod(0o600)
    kept.write_bytes(kept.read_bytes()[:-1] + b"?")
    with pytest.raises(Damaged, match=f"file {kept.name[:12]} of snapshot f1 changed after it was hashed"):
        cell.upload(fresh(store), manifest)
    assert not gather.is_remote(store, manifest)


def test_a_source_that_vanished_is_named(store: FolderStore, tmp_path: Path) -> None:
    cell = Cell(tmp_path / "a")
    manifest = cell.snapshot("f1")
    image = cell.images / "rank0/pages-1.img"
    image.write_bytes(image.read_bytes()[:PAGE])
    (cell.images / "rank0/core-7.img").unlink()
    with pytest.raises(Damaged, match="core-7.img vanished"):
        cell.upload(fresh(store), manifest)
    assert not gather.is_remote(store, manifest) and verdict(store, "f1") is None


def test_a_chunk_is_never_larger_than_readers_believe(store: FolderStore) -> None:
    vault = fresh(store)
    put(vault, "f1", {"a": random.Random(19).randbytes(3 << 20), "b": b"\7" * (3 << 20)})
    assert int(vault.index.rows["size"].max()) <= CHUNK_SIZE_MAX


def test_what_a_recipe_does_not_have_is_not_found(store: FolderStore) -> None:
    vault = fresh(store)
    put(vault, "f1", {"a": b"x"})
    with pytest.raises(NotFound):
        remote.cell_blobs(vault, "f1", 0).get("blobs/ff/" + "f" * 64)
    with pytest.raises(NotFound):
        remote.cell_blobs(vault, "f9", 0)
