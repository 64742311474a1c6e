"""A cell's bytes through a whole freeze and thaw, and everything that can be wrong with them on the way."""

from __future__ import annotations

import mmap
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ergosphere.snapshots import gather, remote
from ergosphere.snapshots.blobs import blob_key
from ergosphere.snapshots.errors import Damaged, StoreFull
from ergosphere.snapshots.gather import CellFacts, CellFiles, build, discard, is_remote, stage_cell
from ergosphere.snapshots.manifest import CellPart, Manifest
from ergosphere.snapshots.mapped import differing, outside_files, writable_maps
from ergosphere.snapshots.pool import Pool
from ergosphere.snapshots.results import load_results, save_result
from ergosphere.snapshots.scan import scan, upload
from ergosphere.snapshots.store import FolderStore
from ergosphere.snapshots.thawing import fetch_images, lay_out, restore_files
from ergosphere.snapshots.tree import Tree, compare, load_tree, save_tree
from ergosphere.snapshots.vault import open_vault


@dataclass
class Node:
    """One node's folders, and one cell of two ranks on it."""

    folder: Path
    name: str = "node-0"

    def __post_init__(self) -> None:
        self.pool = Pool.create(self.folder / "pool")
        logs = {
            f"rank{r}.{stream}": self.folder / f"ranks/{r}/{stream}.log" for r in (0, 1) for stream in ("out", "err")
        }
        self.files = CellFiles(self.folder / "work", self.folder / "cache", logs)

    def start(self, store: FolderStore, tree_digest: str | None = None) -> None:
        lay_out(store, tree_digest, self.files, self.pool)
        for path in self.files.logs.values():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def log(self, name: str, text: str) -> None:
        with self.files.logs[name].open("a") as file:
            file.write(text)

    def images(self, freeze: str) -> Path:
        folder = self.folder / "images" / freeze
        for rank in (0, 1):
            (folder / f"rank{rank}").mkdir(parents=True, exist_ok=True)
            (folder / f"rank{rank}/pages-1.img").write_bytes(f"{freeze} pages of {rank} ".encode() * 5000)
            (folder / f"rank{rank}/core-1.img").write_bytes(b"the same on both")
            (folder / f"rank{rank}/dump.log").write_bytes(b"not part of a snapshot")
        return folder

    def freeze(self, freeze: str) -> CellPart:
        staged = stage_cell(self.files, self.pool)
        facts = CellFacts(0, self.name, "10.0.0.2", "jobnet", (0, 1), facts={"mounts": ["wd"]})
        return build(staged, facts, self.images(freeze), {0: {"pid": 7}, 1: {"pid": 8}}, self.pool)

    def upload(self, freeze: str, part: CellPart, store: FolderStore) -> int:
        vault = open_vault(store, "p", None)
        return remote.upload_cell(vault, freeze, part, self.folder / "images" / freeze, self.pool).read_bytes

    def state(self) -> tuple[Tree, Tree, dict[str, bytes]]:
        assert self.files.cache is not None
        logs = {name: path.read_bytes() for name, path in self.files.logs.items()}
        return scan(self.files.work).tree, scan(self.files.cache).tree, logs


def sent(store: FolderStore) -> remote.LateBlobs:
    """What uploads have brought to the store."""
    vault = open_vault(store, "p", None)
    return remote.LateBlobs(vault, vault.recipes_by_age)


def manifest_of(freeze: str, part: CellPart) -> Manifest:
    return Manifest(freeze, "j1", 1, {}, 1.0, "pause", 0.1, "4.2.1", "6.18", None, (part,))


@pytest.fixture
def node(tmp_path: Path, store: FolderStore) -> Node:
    found = Node(tmp_path / "node-0")
    found.start(store)
    (found.files.work / "model").write_bytes(b"weights 1")
    (found.files.work / "same").write_bytes(b"never changes")
    (found.files.cache / "compiled").write_bytes(b"kernel")  # type: ignore[operator]
    found.log("rank0.out", "step 1\n")
    return found


@pytest.fixture
def other(tmp_path: Path) -> Node:
    return Node(tmp_path / "node-1", "node-1")


def disturb(node: Node) -> None:
    (node.files.work / "model").write_bytes(b"weights 2")
    (node.files.work / "extra").write_bytes(b"new")
    (node.files.work / "same").unlink(missing_ok=True)
    (node.files.cache / "compiled").write_bytes(b"KERNEL")  # type: ignore[operator]
    node.log("rank0.out", "step 2\n")
    node.log("rank1.err", "warning\n")


def test_files_and_logs_are_rolled_back_where_they_are(node: Node, store: FolderStore) -> None:
    before = node.state()
    part = node.freeze("f1")
    disturb(node)
    restore_files(part, node.files, node.pool, store)
    assert node.state() == before


def test_a_cell_moves_to_another_node_through_the_shared_store(node: Node, other: Node, store: FolderStore) -> None:
    before = node.state()
    part = node.freeze("f1")
    assert not is_remote(store, manifest_of("f1", part))
    assert node.upload("f1", part, store) > 0
    assert is_remote(store, manifest_of("f1", part))
    shutil.rmtree(node.folder)  # the machine is gone
    restore_files(part, other.files, other.pool, store, near=[sent(store)])
    assert other.state() == before


def test_a_cell_moves_to_another_node_before_its_upload(node: Node, other: Node, store: FolderStore) -> None:
    before = node.state()
    part = node.freeze("f1")
    restore_files(part, other.files, other.pool, store, near=[node.pool.store])
    assert other.state() == before
    shutil.rmtree(node.folder)  # what came from there is kept here until the shared store has it
    other.log("rank0.out", "step 2\n")
    later = other.freeze("f2")
    other.upload("f2", later, store)
    shutil.rmtree(other.folder / "pool")
    third = Node(other.folder.parent / "node-2")
    restore_files(later, third.files, third.pool, store, near=[sent(store)])
    assert third.state() == other.state()


def test_what_was_uploaded_leaves_the_pool_and_a_repeated_upload_sends_nothing(node: Node, store: FolderStore) -> None:
    part = node.freeze("f1")
    assert list(node.pool.store.list())
    node.upload("f1", part, store)
    assert list(node.pool.store.list()) == []
    assert node.upload("f1", part, store) == 0


def test_a_source_that_vanished_before_the_upload_is_damage(node: Node, store: FolderStore) -> None:
    part = node.freeze("f1")
    (node.folder / "images/f1/rank0/pages-1.img").unlink()
    with pytest.raises(Damaged, match=r"rank0/pages-1\.img vanished before it reached the store"):
        node.upload("f1", part, store)
    assert not is_remote(store, manifest_of("f1", part))


def test_stopped_time_holds_no_copying_of_what_did_not_change(node: Node) -> None:
    node.freeze("f1")
    (node.files.work / "model").write_bytes(b"weights 2")
    staged = stage_cell(node.files, node.pool)
    assert list(staged.work.copies) == ["model"]
    assert staged.cache is not None and staged.cache.copies == {}
    discard(staged)


def test_the_submission_itself_is_not_copied_again(tmp_path: Path, store: FolderStore, other: Node) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "train.py").write_text("print()")
    tree = scan(source).tree
    upload(tree, source, lambda d: False, lambda d, s: store.put(blob_key(d), s) and None)
    other.start(store, save_tree(store, tree).digest)
    assert compare(tree, scan(other.files.work).tree) == ()
    assert Pool(other.folder / "pool").known("work").digests.keys() == {"train.py"}
    staged = stage_cell(other.files, other.pool)
    assert staged.work.copies == {}


def test_a_file_mapped_for_writing_is_never_trusted_by_its_stat(node: Node, store: FolderStore) -> None:
    path = node.files.work / "mapped"
    path.write_bytes(bytes(8192))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 8192) as view:
        assert path.stat().st_ino in writable_maps([os.getpid()])
        view[0] = 1
        build_part(node, "f1", writable_maps([os.getpid()]))
        before = path.stat()
        view[0] = 2  # the page is dirty already: no fault, no new time stamp
        assert path.stat().st_mtime_ns == before.st_mtime_ns, "this kernel stamps every store; the trap is gone"
        part = build_part(node, "f2", writable_maps([os.getpid()]))
    path.unlink()
    restore_files(part, node.files, node.pool, store)
    assert path.read_bytes()[0] == 2


def build_part(node: Node, freeze: str, distrust: frozenset[int]) -> CellPart:
    staged = stage_cell(node.files, node.pool, distrust=distrust)
    return build(staged, CellFacts(0, "n", "a", "k", (0,)), node.images(freeze), {0: {}, 1: {}}, node.pool)


def test_a_snapshot_holds_the_instant_of_its_staging(node: Node, store: FolderStore) -> None:
    before = node.state()
    staged = stage_cell(node.files, node.pool)
    disturb(node)  # the ranks go on
    part = build(staged, CellFacts(0, "n", "a", "k", (0,)), node.images("f1"), {0: {}, 1: {}}, node.pool)
    disturb(node)
    restore_files(part, node.files, node.pool, store)
    assert node.state() == before


def test_logs_add_pieces_and_the_pieces_stay_few(node: Node, other: Node, store: FolderStore) -> None:
    for step in range(40):
        node.log("rank0.out", f"step {step}\n" * (1 + step % 5))
        part = node.freeze("f1")
        (log,) = (log for log in part.logs if log.name == "rank0.out")
        assert log.length == node.files.logs["rank0.out"].stat().st_size
        assert len(log.pieces) <= 8
    restore_files(part, other.files, other.pool, store, near=[node.pool.store])
    assert other.state() == node.state()


def test_a_log_cut_short_by_its_program_is_stored_anew(node: Node, store: FolderStore) -> None:
    node.freeze("f1")
    node.files.logs["rank0.out"].write_bytes(b"cut")
    part = node.freeze("f2")
    node.log("rank0.out", "more")
    restore_files(part, node.files, node.pool, store)
    assert node.files.logs["rank0.out"].read_bytes() == b"cut"


def test_a_log_whose_beginning_differs_is_written_anew(node: Node, store: FolderStore) -> None:
    part = node.freeze("f1")
    node.files.logs["rank0.out"].write_bytes(b"something else that is longer")
    restore_files(part, node.files, node.pool, store)
    assert node.files.logs["rank0.out"].read_bytes() == b"step 1\n"


def test_after_a_roll_back_the_next_snapshot_is_right(node: Node, other: Node, store: FolderStore) -> None:
    first = node.freeze("f1")
    disturb(node)
    node.freeze("f2")
    restore_files(first, node.files, node.pool, store)
    node.log("rank0.out", "step II\n")  # as long as what was rolled back
    (node.files.work / "model").write_bytes(b"weights B")
    third = node.freeze("f3")
    restore_files(third, other.files, other.pool, store, near=[node.pool.store])
    assert other.state() == node.state()


def test_a_job_that_begins_again_has_no_old_log_pieces(node: Node, store: FolderStore) -> None:
    node.freeze("f1")
    shutil.rmtree(node.files.work)
    for path in node.files.logs.values():
        path.unlink()
    node.start(store)
    node.log("rank0.out", "another beginning\n")
    part = node.freeze("f2")
    node.log("rank0.out", "more")
    restore_files(part, node.files, node.pool, store)
    assert node.files.logs["rank0.out"].read_bytes() == b"another beginning\n"


def test_losing_the_pool_costs_time_only(node: Node, other: Node, store: FolderStore) -> None:
    node.upload("f1", node.freeze("f1"), store)
    node.pool.remove()
    node.pool = Pool.create(node.folder / "pool")
    disturb(node)
    part = node.freeze("f2")
    restore_files(part, other.files, other.pool, store, near=[node.pool.store, sent(store)])
    assert other.state() == node.state()


def test_what_an_earlier_upload_took_from_the_pool_is_found_by_a_later_snapshot(
    node: Node, other: Node, store: FolderStore
) -> None:
    first = node.freeze("f1")
    node.log("rank0.out", "step 2\n")
    second = node.freeze("f2")
    node.upload("f1", first, store)
    assert not node.pool.store.has(blob_key(second.work.digest)), "the same tree, its document gone with the upload"
    restore_files(second, other.files, other.pool, store, near=[node.pool.store, sent(store)])
    assert other.state() == node.state()
    node.upload("f2", second, store)
    shutil.rmtree(node.folder)
    third = Node(other.folder.parent / "node-2")
    own = remote.cell_blobs(open_vault(store, "p", None), "f2", 0)
    restore_files(second, third.files, third.pool, store, near=[own])
    assert third.state() == other.state()


def test_a_full_memory_fails_the_staging_and_leaves_nothing_behind(node: Node, small_pool: Pool) -> None:
    (node.files.work / "big").write_bytes(os.urandom(3 << 20))
    with pytest.raises(StoreFull, match="no room is left"):
        stage_cell(node.files, small_pool)
    assert list((small_pool.folder / "incoming").iterdir()) == []


@pytest.fixture
def small_pool(tmp_path: Path) -> Iterator[Pool]:
    folder = tmp_path / "memory"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=True)
    try:
        yield Pool.create(folder / "pool")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


# Images.


def test_images_are_linked_from_the_nodes_memory(node: Node, store: FolderStore, tmp_path: Path) -> None:
    manifest = manifest_of("f1", node.freeze("f1"))
    fetch_images(manifest, 1, tmp_path / "restore", [node.folder / "images/f1", store])
    source = node.folder / "images/f1/rank1/pages-1.img"
    assert (tmp_path / "restore/pages-1.img").stat().st_ino == source.stat().st_ino
    assert sorted(os.listdir(tmp_path / "restore")) == ["core-1.img", "pages-1.img"]
    assert manifest.rank(1).facts == {"pid": 8}


def test_images_come_from_the_store_when_the_node_is_gone(node: Node, store: FolderStore, tmp_path: Path) -> None:
    part = node.freeze("f1")
    expected = (node.folder / "images/f1/rank0/pages-1.img").read_bytes()
    node.upload("f1", part, store)
    shutil.rmtree(node.folder / "images")
    fetch_images(manifest_of("f1", part), 0, tmp_path / "restore", [node.folder / "images/f1", sent(store)])
    assert (tmp_path / "restore/pages-1.img").read_bytes() == expected


def test_threads_that_ask_for_a_recipe_at_once_all_find_what_is_in_it(node: Node, store: FolderStore) -> None:
    """Each image of a thaw is fetched by a thread of its own: one that comes second must not miss the recipe."""
    node.upload("f1", node.freeze("f1"), store)
    keys = [f"blobs/00/{stream.digest}" for stream in open_vault(store, "p", None).recipe("f1.0").streams]
    for _ in range(20):
        blobs = sent(store)
        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(blobs.has, keys * 4))


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


DAMAGES: list[Callable[[Path], None]] = [flip, Path.unlink, lambda path: os.truncate(path, 100)]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("trust", [False, True])
def test_a_damaged_image_is_named_with_its_snapshot(
    node: Node, store: FolderStore, tmp_path: Path, damage: Callable[[Path], None], trust: bool
) -> None:
    part = node.freeze("f1")
    damage(node.folder / "images/f1/rank0/pages-1.img")
    with pytest.raises(Damaged, match=r"pages-1\.img of rank 0 of snapshot f1 (differs|is missing)") as caught:
        fetch_images(manifest_of("f1", part), 0, tmp_path / "r", [node.folder / "images/f1", store], trust_seals=trust)
    assert caught.value.snapshot == "f1"


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_image_damaged_in_one_place_is_taken_from_another(
    node: Node, store: FolderStore, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    part = node.freeze("f1")
    source = node.folder / "images/f1/rank0/pages-1.img"
    expected = source.read_bytes()
    node.upload("f1", part, store)
    damage(source)
    fetch_images(manifest_of("f1", part), 0, tmp_path / "r", [node.folder / "images/f1", sent(store)])
    assert (tmp_path / "r/pages-1.img").read_bytes() == expected


def test_a_seal_does_not_vouch_for_other_bytes_of_the_same_size(node: Node, store: FolderStore, tmp_path: Path) -> None:
    part = node.freeze("f1")
    source = node.folder / "images/f1/rank0/pages-1.img"
    status = source.stat()
    content = source.read_bytes()
    source.unlink()
    source.write_bytes(content.swapcase())  # another inode, or at least another time
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(Damaged):
        fetch_images(manifest_of("f1", part), 0, tmp_path / "restore", [node.folder / "images/f1"])


def test_digests_a_follower_found_are_used(node: Node) -> None:
    staged = stage_cell(node.files, node.pool)
    known = {0: {"pages-1.img": "a" * 64}}
    part = build(staged, CellFacts(0, "n", "a", "k", (0,)), node.images("f1"), {0: {}, 1: {}}, node.pool, known)
    assert [file.digest for file in part.ranks[0].files if file.name == "pages-1.img"] == ["a" * 64]


@pytest.mark.parametrize("which", ["tree", "file", "log"])
def test_a_damaged_file_or_log_stops_a_thaw(node: Node, other: Node, store: FolderStore, which: str) -> None:
    part = node.freeze("f1")
    file = load_tree([node.pool.store], part.work.digest).by_path["model"].digest
    log = next(log for log in part.logs if log.pieces).pieces[0].digest
    flip(node.pool.store.folder / blob_key({"tree": part.work.digest, "file": file, "log": log}[which]))
    with pytest.raises(Damaged, match="differs from its digest"):
        restore_files(part, other.files, other.pool, store, near=[node.pool.store])


# Results.


def test_what_an_ended_cell_leaves_is_found_by_its_life(node: Node, store: FolderStore) -> None:
    (node.files.work / "venv").mkdir()
    node.freeze("f1")
    key = save_result(("j1", 3, 0), node.files, store, node.pool, bound=("venv",))
    save_result(("j1", 3, 1), node.files, store, node.pool)
    first, second = load_results(store, key)
    assert (first.job, first.incarnation, first.cell, second.cell) == ("j1", 3, 0, 1)
    tree = load_tree([store], first.work.digest)
    assert [entry.path for entry in tree.entries] == [".", "model", "same"]
    assert all(store.has(blob_key(digest)) for digest in tree.digests())
    assert load_results(store, "results/j1.4") == ()


# Files outside.


def test_files_outside_the_copies_are_listed_and_their_change_is_seen(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    for name in ("data", "inside/x"):
        (tmp_path / name).write_bytes(b"x" * 5000)
    with (tmp_path / "data").open("rb"), (tmp_path / "inside/x").open("rb"):
        with (tmp_path / "data").open("rb") as file, mmap.mmap(file.fileno(), 5000, prot=mmap.PROT_READ):
            found = outside_files([os.getpid()], [str(tmp_path / "inside")])
    mine = [item for item in found if item.path.startswith(str(tmp_path))]
    assert [(item.path, item.size) for item in mine] == [(str(tmp_path / "data"), 5000)]
    assert any(item.path.endswith(".so") or ".so." in item.path for item in found)
    assert differing(found) == ()
    (tmp_path / "data").write_bytes(b"y" * 5000)
    assert differing(mine) == (str(tmp_path / "data"),)
    assert differing([replace(mine[0], path=str(tmp_path / "absent"))]) == (str(tmp_path / "absent"),)


def test_a_process_that_is_gone_has_no_files() -> None:
    assert outside_files([2**22 + 1], []) == () and writable_maps([2**22 + 1]) == frozenset()


def test_a_failed_upload_of_one_blob_fails_the_whole_and_can_be_repeated(node: Node, store: FolderStore) -> None:
    part = node.freeze("f1")
    victim = node.pool.store.folder / blob_key(part.work.digest)
    aside = victim.rename(victim.with_name("aside"))
    with pytest.raises(Damaged):
        node.upload("f1", part, store)
    aside.rename(victim)
    node.upload("f1", part, store)
    assert gather.is_remote(store, manifest_of("f1", part))
