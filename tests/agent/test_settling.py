"""Where images lie: memory, or disk where memory is short; moved, counted, let go. No process is frozen here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.agent.nodekit import MB, a_node, dumped, filled, frozen
from tests.e2e.fleet import wait_for

from ergosphere.agent import settling
from ergosphere.agent.node import Node, Upload
from ergosphere.agent.place import CellKey
from ergosphere.agent.ports import Refused


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with a_node(tmp_path) as node:
        yield node


def test_images_go_to_memory_as_far_as_they_may_and_to_disk_beyond(node: Node) -> None:
    node.image_bytes_max = 10 * MB
    assert settling.room_for(node, "a", "j1", 6 * MB) == node.images("a")
    filled(node, "b", 6)
    settling.written(node, "a")
    assert settling.room_for(node, "c", "j1", 6 * MB) == node.place.disk_images / "c"
    assert settling.image_folder(node, "c") == node.place.disk_images / "c"
    assert node.reserve.held() == 0


def test_more_than_the_machine_has_is_never_set_aside(node: Node) -> None:
    assert settling.room_for(node, "a", "j1", 1 << 50) == node.place.disk_images / "a"
    assert settling.room_for(node, "b", "j1", MB, newcomer=1 << 50) == node.place.disk_images / "b"
    assert node.reserve.held() == 0


def test_files_of_a_job_take_of_the_memory_that_images_may_take(node: Node) -> None:
    node.image_bytes_max = 10 * MB
    pool = node.pool(CellKey("j1", 1, 0))
    (pool.folder / "store/blob").write_bytes(bytes(6 * MB))
    assert settling.held_bytes(node) >= 6 * MB
    assert settling.room_for(node, "a", "j1", 5 * MB) == node.place.disk_images / "a"


def test_whose_images_these_are_is_known_without_the_store(node: Node) -> None:
    settling.room_for(node, "a", "j1", MB)
    assert settling.jobs_here(node) == {"j1"}
    filled(node, "of an agent before us", 1)
    assert settling.jobs_here(node) is None, "then nobody's files are left over"


def test_a_freeze_is_noted_until_its_verdict(node: Node) -> None:
    settling.room_for(node, "a", "j1", MB)
    assert settling.busy(node) == {"a"}
    settling.drop(node, "a")
    assert not settling.busy(node)
    dumped(node, "b")
    assert settling.busy(node) == {"b"} and not node.dumping
    settling.settle(node, "b")
    assert not node.dumped


def test_a_job_whose_snapshots_do_not_get_away_is_not_snapshotted_again_and_others_are(node: Node) -> None:
    for number in range(settling.BACKLOG_MAX):
        settling.check_backlog(node, "j1", MB)
        filled(node, f"s{number}", 1)
        node.uploads[f"s{number}"] = Upload(0.0, job="j1")
    with pytest.raises(Refused, match="wait for the shared store"):
        settling.check_backlog(node, "j1", MB)
    settling.check_backlog(node, "j2", MB)
    node.image_bytes_max = 3 * MB
    with pytest.raises(Refused, match="wait for the shared store"):
        settling.check_backlog(node, "j2", MB)


def test_uploads_are_told_with_how_far_they_have_come(node: Node) -> None:
    node.uploads["s"] = Upload(0.0, job="j1", done_bytes=3, total_bytes=10)
    node.uploads["unread"] = Upload(0.0)
    [state] = settling.states(node)
    assert (state.snapshot, state.durability, state.done_bytes, state.total_bytes) == ("s", "node", 3, 10)


def test_an_upload_that_fails_in_a_way_nobody_foresaw_is_shown_and_can_be_tried_again(node: Node) -> None:
    frozen(node, "s1")
    image = node.images("s1") / "rank0/core-1.img"
    content = image.read_bytes()
    image.unlink()
    image.mkdir()  # reading it fails, and not as a store or a snapshot does
    settling.settle(node, "s1")
    wait_for(lambda: not node.uploads["s1"].running, "the upload has ended")
    [state] = settling.states(node)
    assert "IsADirectoryError" in state.trouble and state.durability == "node" and node.changed.is_set()
    image.rmdir()
    image.write_bytes(content)
    settling.settle(node, "s1")
    wait_for(lambda: "s1" in node.durable, "it is in the store")
