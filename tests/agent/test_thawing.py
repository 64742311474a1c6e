"""Bringing back what a snapshot needs: a store that has it, and one that lists it only a moment later."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.agent.nodekit import Hand, a_node, frozen, life

from ergosphere.agent import beginning, thawing
from ergosphere.agent.node import Node
from ergosphere.agent.ports import DamagedSnapshot
from ergosphere.snapshots import manifest as manifests
from ergosphere.snapshots.manifest import Manifest


class Waiting(Hand):
    """A clock that lets something happen while somebody waits."""

    def __init__(self, happens: list[tuple[Path, Path]]) -> None:
        self.happens, self.waits = happens, 0

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self.waits += 1
        for source, dest in self.happens:
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
    node.clock = clock = Waiting(hidden(node))
    assert fetch(node, snapshot).read_bytes() == b"made by the job"
    assert clock.waits == 1


def test_what_stays_missing_makes_a_snapshot_damaged(node: Node) -> None:
    snapshot = frozen(node, "s1")
    hidden(node)
    node.clock = clock = Waiting([])
    with pytest.raises(DamagedSnapshot, match="is missing"):
        fetch(node, snapshot)
    assert clock.waits == 1
