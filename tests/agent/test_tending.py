"""Images and pools looked after behind everything else, over a store that answers, does not, or hangs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.agent.nodekit import Away, Hand, Hanging, a_node, dumped, filled, frozen, life
from tests.e2e.fleet import wait_for

from ergosphere.agent import settling, spilling
from ergosphere.agent.link import ServerLink
from ergosphere.agent.node import Node
from ergosphere.agent.tending import LEFTOVER_S, POOL_IDLE_S, UNDECIDED_S_MAX, UPLOAD_AGAIN_S, Tending
from ergosphere.agent.watch import Watch
from ergosphere.snapshots import records
from ergosphere.snapshots.records import Aborted

WEEK_S = 7 * 86400.0


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture
def node(tmp_path: Path, clock: Hand) -> Iterator[Node]:
    with a_node(tmp_path) as node:
        node.clock = clock
        yield node


def pools(node: Node) -> list[str]:
    place = node.place
    return [path.name for root in (place.memory_pools, place.disk_pools) for path in spilling.pools(root)]


def round_of(tending: Tending) -> None:
    tending.ask()
    tending.clear()


# ── pools ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_store_that_is_away_costs_no_frozen_job_its_files(node: Node, clock: Hand) -> None:
    snapshot, store = frozen(node, "s1"), node.store
    tending = Tending(node)
    node.store = Away(store)
    for _ in range(20):
        round_of(tending)
        clock.sleep(POOL_IDLE_S)
    assert pools(node) == ["j1.0"] and node.images("s1").is_dir()
    node.store = store
    tending.ask()
    wait_for(lambda: "s1" in node.durable, "it is in the store")
    assert settling.states(node)[0].durability == "remote" and snapshot.job == "j1"


def test_no_pool_goes_while_nobody_knows_whose_images_are_here(node: Node, clock: Hand) -> None:
    frozen(node, "s1")
    (node.images("s1") / settling.JOB).unlink()  # as an agent of an older version leaves them
    store, node.store = node.store, Away(node.store)
    tending = Tending(node)
    for _ in range(3):
        round_of(tending)
        clock.sleep(2 * POOL_IDLE_S)
    assert pools(node) == ["j1.0"]
    node.store = store
    round_of(tending)
    assert settling.jobs_here(node) == {"j1"}, "now it is written down"


def test_the_pool_of_a_job_that_has_neither_a_life_nor_images_here_goes_after_a_while(node: Node, clock: Hand) -> None:
    frozen(node, "s1")
    frozen(node, "s2", job="j2")
    folder = life(node, "j3")
    node.pool(folder.key)
    tending = Tending(node)
    settling.drop(node, "s1")
    tending.clear()
    clock.now_s += WEEK_S
    tending.clear()
    assert set(pools(node)) == {"j1.0", "j2.0", "j3.0"}, "no clock's jump makes a pool old"
    clock.sleep(POOL_IDLE_S + 1)
    tending.clear()
    assert set(pools(node)) == {"j2.0", "j3.0"}
    folder.remove()
    tending.clear()
    assert "j3.0" in pools(node), "it is nobody's since just now"


# ── images without a verdict ─────────────────────────────────────────────────────────────────────────────────────


def test_images_between_seal_and_commit_are_not_left_over_whatever_the_clock_says(node: Node, clock: Hand) -> None:
    snapshot = dumped(node, "s1")
    tending = Tending(node)
    tending.ask()
    clock.now_s += WEEK_S
    clock.monotonic_s += LEFTOVER_S + 1  # another cell of the job hashes
    tending.ask()
    assert records.commit(node.store, "s1", snapshot) == snapshot
    tending.ask()
    assert node.images("s1").is_dir() and "s1" in node.uploads
    wait_for(lambda: "s1" in node.durable, "it is in the store")


def test_images_that_nobody_here_knows_are_removed_only_after_their_freeze_was_called_off(
    node: Node, clock: Hand
) -> None:
    snapshot = dumped(node, "s1")
    node.dumped.clear()  # an agent after the one that dumped it
    tending = Tending(node)
    tending.ask()
    clock.now_s += WEEK_S
    tending.ask()
    assert node.images("s1").is_dir(), "no clock's jump makes images old"
    clock.sleep(LEFTOVER_S + 1)
    tending.ask()
    assert not node.images("s1").exists()
    assert isinstance(records.commit(node.store, "s1", snapshot), Aborted), "no commit names what is gone"


def test_a_freeze_that_never_comes_to_a_verdict_is_called_off_at_last(node: Node, clock: Hand) -> None:
    dumped(node, "s1")
    tending = Tending(node)
    tending.ask()
    clock.sleep(UNDECIDED_S_MAX + 1)
    tending.ask()
    assert not node.dumped and not node.images("s1").exists()
    assert isinstance(records.verdict(node.store, "s1"), Aborted)


def test_the_files_of_a_job_that_saved_itself_are_called_off_by_its_coordinator_alone(node: Node, clock: Hand) -> None:
    dumped(node, "s1")
    for one in node.dumped.values():
        one.begins_anew = True
    tending = Tending(node)
    tending.ask()
    clock.sleep(UNDECIDED_S_MAX + 1)
    tending.ask()
    assert node.dumped and records.verdict(node.store, "s1") is None


def test_while_the_store_is_away_no_freeze_can_come_to_a_verdict_in_time(node: Node, clock: Hand) -> None:
    dumped(node, "s1")
    tending, store = Tending(node), node.store
    tending.ask()
    clock.sleep(UNDECIDED_S_MAX + 1)
    node.store = Away(store)
    tending.ask()
    node.store = store
    tending.ask()
    assert records.verdict(store, "s1") is None and node.images("s1").is_dir()


def test_while_a_dump_writes_nobody_asks_how_old_its_images_are(node: Node, clock: Hand) -> None:
    settling.room_for(node, "s1", "j1", 1)
    tending = Tending(node)
    tending.ask()
    clock.sleep(UNDECIDED_S_MAX + 1)
    tending.ask()
    node.dumping.clear()
    tending.ask()
    assert node.images("s1").is_dir() and records.verdict(node.store, "s1") is None


# ── uploads, and a store that hangs ──────────────────────────────────────────────────────────────────────────────


def test_uploads_of_the_agent_before_this_one_go_on_and_are_tried_again(node: Node, clock: Hand) -> None:
    frozen(node, "s1")
    store, tending = node.store, Tending(node)
    node.store = Away(store)
    tending.ask()
    assert "s1" not in node.uploads
    node.store = store
    settling.settle(node, "s1")
    wait_for(lambda: "s1" in node.durable, "it is in the store")
    node.durable.clear()
    node.uploads.clear()
    tending.ask()
    assert "s1" in node.durable and "s1" not in node.uploads, "it was there already"


def test_an_upload_that_failed_is_tried_again_after_a_while(node: Node, clock: Hand) -> None:
    frozen(node, "s1")
    whole, tending = node.depot.store, Tending(node)
    node.depot.store = Away(whole)
    settling.settle(node, "s1")
    wait_for(lambda: not node.uploads["s1"].running, "it failed")
    node.depot.store = whole
    tending.ask()
    assert not node.uploads["s1"].running
    clock.sleep(UPLOAD_AGAIN_S + 1)
    tending.ask()
    wait_for(lambda: "s1" in node.durable, "it is in the store")


def test_while_the_store_hangs_the_lease_is_kept_and_room_is_made(node: Node, clock: Hand) -> None:
    frozen(node, "s1")
    filled(node, "s2", 4, age_s=100)
    node.image_bytes_max = 1 << 20
    store = node.store = Hanging(node.store)
    tending = Tending(node)
    asking = threading.Thread(target=tending.ask, daemon=True)
    asking.start()
    assert store.asked.wait(10)
    link = ServerLink(node.place.home, node.place.node)
    watch = Watch(node, link, lambda key: None, lambda folder, record: {})

    def rounds() -> None:
        watch.tick()
        clock.sleep(10)
        watch.tick()
        tending.clear()

    ticking = threading.Thread(target=rounds, daemon=True)
    ticking.start()
    ticking.join(10)
    assert not ticking.is_alive() and asking.is_alive()
    assert node.lease_until_s > 0, "no server is there: it keeps its own lease"
    assert settling.image_folder(node, "s2") == node.place.disk_images / "s2"
    settling.drop(node, "s1")
    store.go_on.set()
    asking.join(10)
    assert not asking.is_alive() and "s1" not in node.durable, "dropped while the store was asked"
