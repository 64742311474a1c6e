"""What `fsck` finds, whom it touches, and what it mends."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.snapshots.test_vault_faults import CALLS_MAX, NOW, Meddled, memory_of, prepared
from tests.snapshots.vaultkit import RING, Cell, forget, fresh, pages

from ergosphere.snapshots import collect, fsck, sweep
from ergosphere.snapshots.blobs import blob_key, put_blob
from ergosphere.snapshots.chunk_index import NOWHERE
from ergosphere.snapshots.digests import digest_bytes
from ergosphere.snapshots.documents import seal, to_plain
from ergosphere.snapshots.errors import Damaged
from ergosphere.snapshots.keys import KeyRing
from ergosphere.snapshots.packs import FOOT, HEAD
from ergosphere.snapshots.records import abort, commit
from ergosphere.snapshots.results import CellResult
from ergosphere.snapshots.store import FolderStore, Store, Stored
from ergosphere.snapshots.tree import Entry, Kind, Tree, save_tree
from ergosphere.snapshots.wrappers import Around


@pytest.fixture
def two(store: FolderStore, tmp_path: Path) -> Cell:
    """Snapshots f1 and f2 that share nothing in memory."""
    cell = Cell(tmp_path / "cell")
    for name in ("f1", "f2"):
        cell.image(0, [(0x10000, pages(random.Random(name), 80))])
        cell.keep(fresh(store), name)
    return cell


def packs(store: FolderStore, ring: KeyRing | None = RING) -> list[Path]:
    return sorted(p for p in (store.folder / fresh(store, ring=ring).root / "packs").rglob("*") if p.is_file())


def pack_of(store: FolderStore, freeze_id: str) -> Path:
    """A pack that only this snapshot needs."""
    vault = fresh(store)
    needed = [
        {vault.index.packs[vault.index.owner[row]] for row in vault.index.find(vault.recipe(f"{name}.0").names)}
        for name in (freeze_id, "f1" if freeze_id == "f2" else "f2")
    ]
    (mine,) = needed[0] - needed[1]
    return store.folder / vault.pack_key(mine)


def test_a_good_store_is_clean(store: FolderStore, two: Cell) -> None:
    for deep in (False, True):
        report = fsck.check(store, [fresh(store)], deep=deep)
        assert report.is_clean and report.snapshots == 2 and report.chunks > 4 and report.orphan_bytes == 0


def test_a_flipped_bit_touches_the_snapshots_that_need_the_chunk_and_no_other(store: FolderStore, two: Cell) -> None:
    pack = pack_of(store, "f2")
    whole = bytearray(pack.read_bytes())
    whole[50_000] ^= 4
    pack.write_bytes(whole)
    assert fsck.check(store, [fresh(store)]).is_clean  # a quick look does not read chunks
    report = fsck.check(store, [fresh(store)], deep=True)
    assert list(report.affected) == ["f2"] and "1 of its" in report.affected["f2"]
    assert any("snapshot f2 cannot be thawed" in line for line in report.lines())


@pytest.mark.parametrize("repair", [False, True])
def test_what_was_found_damaged_stays_so_until_a_snapshot_stores_it_anew(
    store: FolderStore, two: Cell, repair: bool
) -> None:
    agents = fresh(store)  # one that has the index in memory
    assert len(agents.index)
    pack = pack_of(store, "f2")
    whole = bytearray(pack.read_bytes())
    whole[50_000] ^= 4
    pack.write_bytes(whole)
    for _ in range(3):
        report = fsck.check(store, [fresh(store)], deep=True, repair=repair)
        assert list(report.affected) == ["f2"] and "f2" not in report.whole
    two.keep(agents, "f3")
    report = fsck.check(store, [fresh(store)], deep=True)
    assert not report.affected and memory_of(store, "f2") == pages(random.Random("f2"), 80)


def test_a_file_that_did_not_change_and_is_damaged_in_the_store_is_copied_anew(
    store: FolderStore, tmp_path: Path
) -> None:
    cell, vault = Cell(tmp_path / "cell"), fresh(store)
    first = cell.keep(vault, "f1")
    recipe = vault.recipe("f1.0")
    file = max((one for one in recipe.streams if one.label == "file"), key=lambda one: one.size)
    (row, *_) = vault.index.find(recipe.names[recipe.spans(file)[0]])
    path = store.folder / vault.pack_key(vault.index.packs[vault.index.owner[row]])
    whole = bytearray(path.read_bytes())
    whole[int(vault.index.rows["at"][row]) + 9] ^= 1
    path.write_bytes(whole)
    assert list(fsck.check(store, [fresh(store)], deep=True).affected) == ["f1"]
    cell.image(0, [(0x10000, pages(random.Random("f2"), 80))])
    with pytest.raises(Damaged, match="take another snapshot"):
        cell.keep(vault, "f2")
    cell.keep(vault, "f3")
    report = fsck.check(store, [fresh(store)], deep=True)
    assert not report.affected and {"f1", "f3"} <= report.whole and first.id == "f1"


@pytest.mark.parametrize("keep", [0, 20, 60_000, -1, -50])
def test_a_pack_cut_short_is_seen_without_reading_it(store: FolderStore, two: Cell, keep: int) -> None:
    pack = pack_of(store, "f2")
    pack.write_bytes(pack.read_bytes()[:keep])
    report = fsck.check(store, [fresh(store)])
    assert "instead of" in report.damaged[0]
    assert list(report.affected) == (["f2"] if keep >= 0 else [])


def test_a_missing_pack_recipe_or_record_is_named_with_its_snapshot(store: FolderStore, two: Cell) -> None:
    pack_of(store, "f2").unlink()
    report = fsck.check(store, [fresh(store)])
    assert list(report.affected) == ["f2"] and "missing" in report.affected["f2"]
    (store.folder / fresh(store).recipe_key("f1.0")).unlink()
    assert "recipe of its cell 0 is missing" in fsck.check(store, [fresh(store)]).affected["f1"]
    (store.folder / "freezes/f1").write_bytes(b"{}")
    assert "record" in fsck.check(store, [fresh(store)]).affected["f1"]


def test_a_damaged_index_is_told_harms_nobody_and_is_mended(store: FolderStore, two: Cell) -> None:
    for path in (store.folder / fresh(store).root / "index").iterdir():
        path.write_bytes(path.read_bytes()[:-3] + b"abc")
    report = fsck.check(store, [fresh(store)])
    assert report.damaged and not report.affected
    assert fsck.check(store, [fresh(store)], repair=True).mended
    assert fsck.check(store, [fresh(store)]).is_clean


def test_a_repair_lets_the_next_snapshot_store_anew_what_was_lost(store: FolderStore, two: Cell) -> None:
    pack = pack_of(store, "f2")
    whole = bytearray(pack.read_bytes())
    whole[50_000] ^= 4
    pack.write_bytes(whole)
    report = fsck.check(store, [fresh(store)], deep=True, repair=True)
    assert "1 damaged pack" in report.mended[0]
    assert memory_of(store, "f1") == pages(random.Random("f1"), 80)
    again = two.keep(fresh(store), "f3")
    assert memory_of(store, "f3") == pages(random.Random("f2"), 80)
    assert memory_of(store, "f2") == memory_of(store, "f3"), "what was lost is there again for the damaged one, too"
    assert again.id not in fsck.check(store, [fresh(store)], deep=True).affected


@pytest.mark.parametrize("ring", [RING, None], ids=["encrypted", "plain"])
@pytest.mark.parametrize("at", ["table", "foot", "head"])
def test_what_a_pack_says_of_itself_is_read_and_written_anew_before_the_index_is_lost(
    store: FolderStore, tmp_path: Path, ring: KeyRing | None, at: str
) -> None:
    cell = Cell(tmp_path / "cell")
    cell.keep(fresh(store, ring=ring), "f1")
    whole = fsck.check(store, [fresh(store, ring=ring)], deep=True)
    assert whole.is_clean
    for pack in packs(store, ring):
        content = bytearray(pack.read_bytes())
        content[{"table": -FOOT.size - 40, "foot": -3, "head": HEAD.size - 1}[at]] ^= 1
        pack.write_bytes(content)
    report = fsck.check(store, [fresh(store, ring=ring)], deep=True)
    assert len(report.damaged) == whole.packs and not report.affected and report.whole == {"f1"}
    how = "has a damaged head" if at == "head" else "can be read with the index only"
    assert all(how in said and "0 of its" in said for said in report.damaged)
    fsck.check(store, [fresh(store, ring=ring)], deep=True, repair=True)
    assert fsck.check(store, [fresh(store, ring=ring)], deep=True).is_clean
    for path in (store.folder / fresh(store, ring=ring).root / "index").iterdir():
        path.unlink()
    recipe = fresh(store, ring=ring).recipe("f1.0")
    assert (fresh(store, ring=ring).index.find(recipe.names) != NOWHERE).all(), "the index was made again from packs"


def test_a_pack_of_a_newer_version_is_told_and_left_as_it_is(store: FolderStore, two: Cell) -> None:
    for pack in packs(store):
        pack.write_bytes(HEAD.pack(b"ERGOPACK", 9, 1, bytes.fromhex(pack.name), bytes(16)) + bytes(200_000))
    report = fsck.check(store, [fresh(store)], deep=True, repair=True)
    assert any("cannot be judged: the pack has version 9" in said for said in report.damaged)
    assert not report.mended and not fresh(store).doomed()


def test_a_store_of_which_all_vaults_are_gone_is_not_whole(store: FolderStore, two: Cell) -> None:
    shutil.rmtree(store.folder / "vaults")
    found = fsck.check(store, []).affected
    assert found == dict.fromkeys(("f1", "f2"), "the recipe of its cell 0 is missing")


def test_a_snapshot_that_is_kept_and_has_no_record_is_named(store: FolderStore, two: Cell) -> None:
    kept = fsck.Wanted(snapshots=frozenset({"f1", "f2", "f3", "f4"}))
    forget(store, "f2")
    abort(store, "f3", "called off")
    found = fsck.check(store, [fresh(store)], wanted=kept).affected
    assert found == {
        "f2": "its record says that it was forgotten",
        "f3": "its record says that it was called off",
        "f4": "its record is missing, and nothing else tells what it is made of",
    }
    assert fsck.check(store, [fresh(store)]).is_clean, "nobody wants them"


def test_orphans_are_counted_and_harm_nobody(store: FolderStore, two: Cell) -> None:
    forget(store, "f2")
    store.delete(fresh(store).recipe_key("f2.0"))
    report = fsck.check(store, [fresh(store)])
    assert report.is_clean and report.orphan_bytes > 79 * 4096


class Hiding(Around):
    """Its lists lack packs, and more if told so, as those of some services do for a while."""

    def __init__(self, inner: Store, *also: str) -> None:
        super().__init__(inner)
        self.hidden = ("/packs/", *also)

    def list(self, prefix: str = "") -> Iterator[Stored]:
        return (one for one in super().list(prefix) if not any(word in one.key for word in self.hidden))


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("also", [(), ("/index/",)], ids=["packs", "packs and index"])
def test_own_packs_that_lists_lack_are_neither_lost_nor_doomed(
    store: FolderStore, tmp_path: Path, also: tuple[str, ...], deep: bool
) -> None:
    vault = fresh(Hiding(store, *also))
    Cell(tmp_path / "cell").keep(vault, "f1")
    report = fsck.check(vault.store, [vault], deep=deep, repair=True)
    assert report.is_clean and report.whole == {"f1"} and report.packs > 0
    assert not fresh(store).doomed()
    assert fsck.check(store, [fresh(store)], deep=True).whole == {"f1"}


@pytest.mark.parametrize("whole", [True, False])
def test_packs_of_others_that_lists_lack_are_looked_up_before_their_index_goes(
    store: FolderStore, two: Cell, whole: bool
) -> None:
    needed = fresh(store).recipe("f2.0").names
    if not whole:
        pack_of(store, "f2").unlink()
    vault = fresh(Hiding(store))
    report = fsck.check(vault.store, [vault], repair=True)
    assert set(report.affected) == (set() if whole else {"f2"})
    assert not fresh(store).doomed()
    assert (fresh(Hiding(store)).places(needed)[1] == 0) == whole, "rows of what is gone go, and no others"


def test_a_sweep_keeps_the_index_of_packs_that_lists_lack(store: FolderStore, two: Cell) -> None:
    vault = fresh(Hiding(store))
    collect.execute(vault, replace(collect.plan(vault, NOW), rewrite_index=True))
    assert fresh(Hiding(store)).places(fresh(store).recipe("f1.0").names)[1] == 0
    assert not fresh(store).doomed()


def test_a_pack_that_is_not_listed_and_cut_short_is_told_with_its_size(store: FolderStore, tmp_path: Path) -> None:
    vault = fresh(Hiding(store))
    Cell(tmp_path / "cell").keep(vault, "f1")
    (pack,) = packs(store)
    pack.write_bytes(pack.read_bytes()[:5000])
    assert vault.packs_here() == {bytes.fromhex(pack.name): 5000}
    assert any("has 5000 bytes instead of" in said for said in fsck.check(vault.store, [vault]).damaged)


# ── beside others ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_upload_at_any_moment_of_a_check_raises_no_alarm(tmp_path: Path) -> None:
    for at in range(1, CALLS_MAX):
        store, cell, _ = prepared(tmp_path / str(at))
        meddled = Meddled(store, at, lambda: cell.keep(fresh(store), "f2"))  # noqa: B023
        report = fsck.check(meddled, [fresh(meddled)], deep=True)
        assert report.is_clean, (at, report.lines())
        if meddled.calls < at:
            assert at > 10
            return
    raise AssertionError("a check has no end")


def test_sweeps_at_any_moment_of_a_check_raise_no_alarm(tmp_path: Path) -> None:
    for at in range(1, CALLS_MAX):
        store, cell, _ = prepared(tmp_path / str(at))
        cell.keep(fresh(store), "f2")

        def swept() -> None:
            forget(store, "f1")  # noqa: B023
            for _ in range(3):
                vault = fresh(store)  # noqa: B023
                collect.execute(vault, collect.plan(vault, NOW))

        meddled = Meddled(store, at, swept)
        report = fsck.check(meddled, [fresh(meddled)])
        assert not report.affected, (at, report.lines())
        if meddled.calls < at:
            assert at > 10
            return
    raise AssertionError("a check has no end")


def test_a_snapshot_whose_chunks_are_in_a_doomed_pack_can_be_thawed(store: FolderStore, two: Cell) -> None:
    for pack in fresh(store).pack_sizes():
        store.put(fresh(store).doomed_key(pack), b"")
    assert not fsck.check(store, [fresh(store)]).affected


# ── what a manifest names ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("label", "deep"), [("rank0/core-7.img", False), ("log", False), ("tree", False), ("file", True)]
)
def test_what_a_manifest_names_and_its_recipe_lacks_is_seen(
    store: FolderStore, two: Cell, label: str, deep: bool
) -> None:
    vault = fresh(store)
    recipe = vault.recipe("f2.0")
    vault.put_recipe(replace(recipe, streams=tuple(one for one in recipe.streams if one.label != label)))
    report = fsck.check(store, [fresh(store)], deep=deep)
    assert list(report.affected) == ["f2"] and "lacks 1 image(s), files or logs" in report.affected["f2"]
    assert report.whole == {"f1"}


def test_what_is_whole_is_remote_and_has_all_that_it_needs(store: FolderStore, two: Cell) -> None:
    commit(store, "f3", two.snapshot("f3"))
    assert fsck.check(store, [fresh(store)], deep=True).whole == {"f1", "f2"}
    (store.folder / "remote/f1/0").unlink()
    assert fsck.check(store, [fresh(store)], deep=True).whole == {"f2"}


# ── beside the vaults ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def ended(store: FolderStore) -> str:
    """The results of job j9, which are also the submission of another; the digest of their tree."""
    content = put_blob(store, b"model.pt")
    entries = (Entry(".", Kind.DIR, 0o755), Entry("model.pt", Kind.FILE, 0o644, size=8, digest=content))
    work = save_tree(store, Tree(entries))
    store.put("results/j9.1/0", seal("result", 1, to_plain(CellResult("j9", 1, 0, work))))
    return work.digest


def test_results_and_submissions_that_are_whole_are_clean(store: FolderStore, ended: str) -> None:
    for deep in (False, True):
        assert fsck.check(store, [], deep=deep, wanted=fsck.Wanted(submitted=frozenset({ended}))).is_clean


def test_a_flipped_bit_in_a_file_of_a_submission_or_result_is_seen_and_can_be_stored_anew(
    store: FolderStore, ended: str
) -> None:
    key = blob_key(digest_bytes(b"model.pt"))
    store.put(key, b"model.pu")
    assert fsck.check(store, []).is_clean  # a quick look reads no files
    (said,) = fsck.check(store, [], deep=True).damaged
    assert "of a submission or result" in said and key[-64:][:12] in said
    assert "1 damaged file(s)" in fsck.check(store, [], deep=True, repair=True).mended[0]
    assert not store.has(key)
    (said,) = fsck.check(store, []).damaged
    assert said == "the results of job j9: 1 of its files are missing"
    store.put(key, b"model.pt")
    assert fsck.check(store, [], deep=True).is_clean


def test_a_damaged_list_of_files_is_named_with_whose_it_is(store: FolderStore, ended: str) -> None:
    store.delete("results/j9.1/0")
    store.put(blob_key(ended), b"{}")
    assert fsck.check(store, []).is_clean, "it is nobody's"
    assert "a submission" in fsck.check(store, [], wanted=fsck.Wanted(submitted=frozenset({ended}))).damaged[0]
    fsck.check(store, [], wanted=fsck.Wanted(submitted=frozenset({ended})), repair=True)
    assert not store.has(blob_key(ended))


def test_a_garbage_record_of_results_is_seen_and_a_repair_lets_sweeps_go_on(store: FolderStore, ended: str) -> None:
    store.put("results/j9.1/0", b"garbage")
    assert sweep.plan(store, 4e9).notes
    assert "results/j9.1/0" in fsck.check(store, []).damaged[0]
    fsck.check(store, [], repair=True)
    assert fsck.check(store, []).is_clean and not sweep.plan(store, 4e9).notes
