"""Bringing back what a snapshot needs: a store that has it, one that lists it only a moment later, and one that will
have it once the node that took it has sent it there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.agent.nodekit import Hand, a_node, frozen, life
from tests.e2e.fleet import wait_for

from ergosphere.agent import beginning, settling, storing, thawing
from ergosphere.agent.answering import failed
from ergosphere.agent.node import Node
from ergosphere.agent.ports import DamagedSnapshot
from ergosphere.snapshots import manifest as manifests
from ergosphere.snapshots.errors import NotRemote
from ergosphere.snapshots.manifest import Manifest
from ergosphere.wire.agents import ThawOrder


class Waiting(Hand):
    """A clock that lets something happen while somebody waits."""

    def __init__(self, happens: Callable[[], object] = lambda: None) -> None:
        self.happens, self.waits = happens, 0

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self.waits += 1
        self.happens()


def bring_back(hidden: list[tuple[Path, Path]]) -> None:
    for source, dest in hidden:
        source.rename(dest)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A node where only files are fetched."""
    for name in ("_check_fitness", "_fetch_images", "_prepare_world"):
        monkeypatch.setattr(thawing, name, lambda *_: None)
    monkeypatch.setattr(beginning, "furnish", lambda *_: None)
    with a_node(tmp_path) as node:
        yield node


def fetch(node: Node, snapshot: Manifest) -> Path:
    record = life(node).read()
    plan = record.plan.model_copy(update={"incarnation": 3})
    thawing.fetch(node, plan, record.seat, {"manifest": manifests.to_json(snapshot).decode()})
    return node.place.lives / "j1.3.0" / "work/checkpoint"


def hidden(node: Node) -> list[tuple[Path, Path]]:
    """The files of the snapshot, put away; how they come back."""
    there = [path for path in (node.place.memory_pools / "j1.0").rglob("*") if len(path.name) == 64]
    aside = [path.rename(path.with_name("hidden-" + path.name)) for path in there]
    assert there
    return list(zip(aside, there, strict=True))


def test_what_is_missing_is_looked_for_again_before_a_snapshot_is_called_damaged(node: Node) -> None:
    snapshot = frozen(node, "s1")
    aside = hidden(node)
    node.clock = clock = Waiting(lambda: bring_back(aside))
    assert fetch(node, snapshot).read_bytes() == b"made by the job"
    assert clock.waits == 1


def test_what_stays_missing_makes_a_snapshot_damaged(node: Node) -> None:
    snapshot = frozen(node, "s1")
    hidden(node)
    node.clock = clock = Waiting()
    with pytest.raises(DamagedSnapshot, match="is missing"):
        fetch(node, snapshot)
    assert clock.waits == 1


@pytest.fixture
def far(tmp_path: Path, node: Node) -> Iterator[Node]:
    """A node of another machine: only the store leads from it to the first."""
    with a_node(tmp_path / "far", "node-9", store=node.place.home) as far:
        yield far


def sent(node: Node) -> None:
    """The node has sent its snapshot to the store."""
    settling.settle(node, "s1")
    wait_for(lambda: "s1" in node.durable, "it is in the store")


def test_a_node_without_a_way_to_the_images_waits_until_they_are_in_the_store(node: Node, far: Node) -> None:
    snapshot = frozen(node, "s1")
    far.clock = clock = Waiting(lambda: sent(node))
    assert fetch(far, snapshot).read_bytes() == b"made by the job"
    assert clock.waits >= 1


def test_what_is_not_sent_is_no_damage_and_is_tried_again_later(node: Node, far: Node) -> None:
    snapshot = frozen(node, "s1")
    far.clock = clock = Waiting()
    with pytest.raises(NotRemote, match="nothing came there from its project for 90 s") as refused:
        fetch(far, snapshot)
    assert clock.waits * storing.LOOK_S >= storing.STALLED_S
    plan = life(node).read().plan
    order = ThawOrder(order_id="o1", life=plan, snapshots=("s1",))
    answer = failed(order, refused.value)
    assert answer.transient and not answer.damaged and not answer.lasting


def test_what_is_in_the_store_already_is_not_waited_for(node: Node, far: Node) -> None:
    snapshot = frozen(node, "s1")
    sent(node)
    far.clock = clock = Waiting()
    assert fetch(far, snapshot).read_bytes() == b"made by the job"
    assert clock.waits == 0
