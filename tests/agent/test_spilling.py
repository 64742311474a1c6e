"""What goes to disk where memory is short: images and the files that belong to them, whole, and never in use."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.agent.nodekit import MB, a_node, filled, frozen, life
from tests.e2e.fleet import wait_for

from ergosphere.agent import settling, spilling, thawing
from ergosphere.agent.node import Node, Upload
from ergosphere.agent.place import CellKey
from ergosphere.agent.ports import Refused
from ergosphere.agent.reserving import Room
from ergosphere.snapshots import gather, remote
from ergosphere.snapshots.gather import CellFiles
from ergosphere.snapshots.thawing import restore_files

KEY = CellKey("j1", 2, 0)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with a_node(tmp_path) as node:
        yield node


def test_the_oldest_images_move_to_disk_while_too_much_memory_is_taken(node: Node) -> None:
    node.image_bytes_max = 10 * MB
    old, young = filled(node, "old", 4, age_s=100), filled(node, "young", 5)
    content = (old / "rank0/pages-1.img").read_bytes()
    spilling.spill(node)
    assert not old.exists() and young.exists()
    assert (settling.image_folder(node, "old") / "rank0/pages-1.img").read_bytes() == content
    spilling.spill(node)
    assert young.exists(), "enough is free"
    settling.drop(node, "old")
    assert not settling.image_folder(node, "old").exists()


def test_images_that_are_being_sent_stay_where_they_are(node: Node) -> None:
    node.image_bytes_max = 4 * MB
    folder = filled(node, "sent", 4)
    node.uploads["sent"] = Upload(0.0, job="j1")
    spilling.spill(node)
    assert folder.exists()
    settling.drop(node, "sent")
    assert not folder.exists() and not node.uploads


def test_images_that_are_being_written_stay_where_they_are(node: Node) -> None:
    node.image_bytes_max = 4 * MB
    folder = settling.room_for(node, "now", "j1", MB)
    (folder / "pages-1.img").write_bytes(bytes(4 * MB))
    spilling.spill(node)
    assert (folder / "pages-1.img").exists()


def test_an_upload_that_begins_while_its_images_are_copied_finds_them(node: Node) -> None:
    folder = filled(node, "sent", 1)
    there = node.place.disk_images / "sent"

    def may_go() -> bool:
        node.uploads["sent"] = Upload(0.0, job="j1")  # at the very end of the copy
        return "sent" not in settling.busy(node)

    assert not spilling._copied(node, folder, there, may_go)
    assert folder.is_dir() and not there.exists() and not list(node.place.disk_images.iterdir())


def test_images_on_disk_have_their_files_with_them_and_survive_a_reboot(node: Node, tmp_path: Path) -> None:
    snapshot = frozen(node, "s1")
    node.image_bytes_max = 1
    spilling.spill(node)
    shutil.rmtree(node.place.memory)
    part = snapshot.cells[0]
    files = CellFiles(tmp_path / "thawed", None, {})
    restore_files(part, files, node.pool(KEY), node.store)
    assert (files.work / "checkpoint").read_bytes() == b"made by the job"
    settling.settle(node, "s1")
    wait_for(lambda: "s1" in node.durable, "it is in the store")
    blobs = remote.cell_blobs(node.depot.vault("p"), "s1", 0)
    assert part.work.digest in {key.key.rpartition("/")[2] for key in blobs.list()}


def test_the_files_of_a_job_that_runs_stay_in_memory(node: Node) -> None:
    frozen(node, "s1")
    life(node)
    node.image_bytes_max = 1
    spilling.spill(node)
    assert settling.image_folder(node, "s1") == node.place.disk_images / "s1"
    assert node.pool(KEY).folder.parent == node.place.memory_pools


def test_a_dump_to_disk_takes_the_pool_along_and_stages_there(node: Node, tmp_path: Path) -> None:
    snapshot = frozen(node, "s1")
    life(node)
    spilling.pool_to_disk(node, KEY, MB)
    pool = node.pool(KEY)
    assert pool.folder.parent == node.place.disk_pools and not list(spilling.pools(node.place.memory_pools))
    assert gather.file_blobs(snapshot.cells[0], [pool.store]), "what it held is there"
    staged = gather.stage_cell(CellFiles(node.place.home / "work/s1", None, {}), pool)
    assert not staged.work.copies, "what it knew by stat it still knows"
    assert node.place.disk_pools in staged.folder.parents


def test_a_pool_in_use_by_an_upload_stays_in_memory_beside_its_copy_until_that_ends(node: Node) -> None:
    frozen(node, "s1")
    node.uploads["s1"] = Upload(0.0, job="j1")
    spilling.pool_to_disk(node, KEY, MB)
    [left] = spilling.pools(node.place.memory_pools)
    spilling.drop_twins(node)
    assert left.is_dir()
    node.uploads["s1"].running = False
    spilling.drop_twins(node)
    assert not left.exists()


def test_files_for_which_nothing_has_room_are_refused_and_stay_where_they_are(node: Node) -> None:
    frozen(node, "s1")
    with pytest.raises(Refused, match="MB of disk"):
        spilling.pool_to_disk(node, KEY, 1 << 60)
    assert node.pool(KEY).folder.parent == node.place.memory_pools


def test_what_an_upload_deletes_while_its_pool_is_copied_is_no_failure(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen(node, "s1")
    copy = spilling._copy_durably
    sent: list[str] = []

    def send(source: str, dest: str) -> str:
        if "/blobs/" in source and not sent:
            sent.append(source)
            Path(source).unlink()
        return copy(source, dest)

    monkeypatch.setattr(spilling, "_copy_durably", send)
    spilling.pool_to_disk(node, KEY, MB)
    assert sent and node.pool(KEY).folder.parent == node.place.disk_pools


def test_a_pool_that_moves_to_disk_while_another_node_reads_it_is_found_there(node: Node, tmp_path: Path) -> None:
    snapshot = frozen(node, "s1")
    other = replace(node, place=node.place.other("node-1"))
    near = thawing._near(other, KEY)
    spilling.pool_to_disk(node, KEY, MB)
    assert not list(node.place.memory_pools.iterdir())
    assert gather.file_blobs(snapshot.cells[0], near)


def test_copies_that_an_agent_did_not_finish_are_removed_by_the_next(node: Node) -> None:
    frozen(node, "s1")
    for root in (node.place.disk_pools, node.place.disk_images):
        (root / ".j1.0/store").mkdir(parents=True)
    spilling.sweep(node)
    assert not list(node.place.disk_pools.iterdir()) and not list(node.place.disk_images.iterdir())
    assert [pool.name for pool in spilling.pools(node.place.memory_pools)] == ["j1.0"]


def test_without_a_limit_images_leave_memory_when_the_machine_runs_short_of_it() -> None:
    assert not spilling.is_short(Room(total=100 * MB, available=21 * MB, shared_free=0))
    assert spilling.is_short(Room(total=100 * MB, available=19 * MB, shared_free=90 * MB))
