"""An agent told to end: what only this node has stays, whatever the store says or does not say."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.agent.nodekit import Away, Hanging, a_node, dumped, frozen, life
from tests.e2e.fleet import wait_for

from ergosphere.agent import leaving, lives, settling, spilling
from ergosphere.agent.node import Node
from ergosphere.snapshots import records
from ergosphere.snapshots.records import Aborted


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with a_node(tmp_path) as node:
        yield node


def pool_names(node: Node) -> list[str]:
    place = node.place
    return [path.name for root in (place.memory_pools, place.disk_pools) for path in spilling.pools(root)]


def test_with_the_store_away_images_and_their_files_stay(node: Node) -> None:
    frozen(node, "s1")
    dumped(node, "s2", job="j2")
    node.store = Away(node.store)
    leaving.let_images_go(node)
    assert node.images("s1").is_dir() and node.images("s2").is_dir()
    assert pool_names(node) == ["j1.0", "j2.0"]


def test_a_store_that_hangs_keeps_no_agent_from_ending_and_costs_nothing(node: Node) -> None:
    frozen(node, "s1")
    store = node.store = Hanging(node.store)
    began_s = time.monotonic()
    leaving.let_images_go(node, store_s_max=0.5)
    assert time.monotonic() - began_s < 5
    assert node.images("s1").is_dir() and pool_names(node) == ["j1.0"]
    store.go_on.set()


def test_what_the_store_has_and_what_came_to_nothing_goes_and_the_rest_stays(node: Node) -> None:
    frozen(node, "s1")
    settling.settle(node, "s1")
    wait_for(lambda: "s1" in node.durable, "it is in the store")
    node.durable.clear()
    unfinished = dumped(node, "s2", job="j2")
    frozen(node, "s3", job="j3")
    leaving.let_images_go(node)
    assert [path.name for path in settling.image_folders(node)] == ["s3"]
    assert pool_names(node) == ["j3.0"]
    assert isinstance(records.commit(node.store, "s2", unfinished), Aborted), "no commit names what is gone"


def test_files_of_images_that_lie_on_disk_stay(node: Node) -> None:
    frozen(node, "s1")
    node.place.disk_images.mkdir()
    shutil.move(node.images("s1"), node.place.disk_images / "s1")  # its pool is in memory still
    leaving.let_images_go(node)
    assert pool_names(node) == ["j1.0"] and settling.image_folder(node, "s1").is_dir()


def test_a_node_of_which_the_store_has_all_leaves_nothing_in_memory(node: Node) -> None:
    frozen(node, "s1")
    settling.settle(node, "s1")
    wait_for(lambda: "s1" in node.durable, "it is in the store")
    leaving.let_images_go(node)
    assert not settling.image_folders(node) and not pool_names(node)


def test_a_life_that_ended_and_was_not_yet_taken_away_keeps_no_files_in_memory(node: Node) -> None:
    """A fleet that is shut down right after its last job ended, before the server had its life forgotten."""
    frozen(node, "s1")
    settling.settle(node, "s1")
    wait_for(lambda: "s1" in node.durable, "it is in the store")
    life(node).update(phase="ended")
    leaving.let_images_go(node)
    assert not settling.image_folders(node) and not pool_names(node)


def test_a_life_that_was_being_removed_when_the_agent_ended_is_no_life(node: Node, monkeypatch: Any) -> None:
    folder = life(node)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", lambda *_args, **_options: None)  # it came no further
        folder.remove()
    assert list(lives.folders(node.place)) == [] and any(node.place.lives.iterdir())
    leaving.let_images_go(node)
    lives.sweep(node.place)
    assert not any(node.place.lives.iterdir())


def test_where_a_cell_lives_everything_stays(node: Node) -> None:
    life(node)
    frozen(node, "s1")
    node.store = Away(node.store)
    leaving.leave(node)
    assert node.images("s1").is_dir() and pool_names(node) == ["j1.0"]
