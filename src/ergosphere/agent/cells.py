"""The cells of this node: finds the right one for an order or a piece of mail, and what to do when an agent begins."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from ergosphere.agent import beginning, ending, freezing, lives, saving, settling, sharing, spilling, thawing
from ergosphere.agent.cut_port import LocalRank, RankPort
from ergosphere.agent.lives import LifeFolder, LifeRecord
from ergosphere.agent.node import Node
from ergosphere.agent.place import CellKey
from ergosphere.agent.ports import NotUnderstood
from ergosphere.wire import versions
from ergosphere.wire.agents import CellPlan, LifePlan

SERVED: Final = frozenset({
    "phase", "begun", "begin", "build", "launch", "fetch", "restore", "run", "discard", "holdable", "rank",
    "suspend", "examine", "dump", "held", "seal", "release", "forget", "retire", "settle", "give_up", "end",
    "arrange", "arrangement", "left", "ask_to_leave", "keep_files",
})  # fmt: skip
RANK_SERVED: Final = frozenset({"view", "hold", "settle", "quiesce", "go", "release", "verdict"})

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LocalCell:
    """One cell of a life on this node; `CellPort` says what each method promises."""

    node: Node
    life: LifePlan
    seat: CellPlan

    @property
    def key(self) -> CellKey:
        return CellKey(self.life.job, self.life.incarnation, self.seat.index)

    @property
    def folder(self) -> LifeFolder:
        return LifeFolder(self.node.place.life(self.key))

    def phase(self) -> str:
        record = self.folder.read()
        if record is None:
            return "absent"
        if record.phase == "live" and self.node.keeper(self.key) is None:
            return "ended"  # its keeper is gone: the report says so, and nobody may take it for running
        return record.phase

    def begun(self) -> tuple[int, str] | None:
        return thawing.begun(self.folder)

    def begin(self, generation: int) -> None:
        thawing.begin(self.folder, generation)

    def build(self, life: LifePlan) -> None:
        beginning.build(self.node, life, self.seat)

    def launch(self) -> None:
        beginning.launch(self.node, self.folder)

    def fetch(self, life: LifePlan, manifest: dict[str, Any]) -> None:
        thawing.fetch(self.node, life, self.seat, manifest)

    def restore(self, manifest: dict[str, Any]) -> None:
        thawing.restore(self.node, self.folder, manifest)

    def run(self, generation: int) -> None:
        thawing.run(self.node, self.folder, generation)

    def discard(self) -> None:
        ending.discard(self.node, self.key)

    def holdable(self) -> list[int]:
        return freezing.holdable(self.node, self.folder)

    def rank_ports(self) -> Mapping[int, RankPort]:
        return {rank: LocalRank(self.folder.control(rank)) for rank in self.holdable()}

    def rank(self, rank: int, method: str, arguments: dict[str, Any]) -> Any:
        """One call of a coordinator on another node to the shim of one rank."""
        if method not in RANK_SERVED:
            raise ValueError(f"no such call to a rank: {method!r}")
        value = getattr(LocalRank(self.folder.control(rank)), method)(**arguments)
        return value.to_json() if method == "view" else value

    def suspend(self, freeze_id: str, deadline_s: float, on_commit: str) -> None:
        freezing.suspend(self.node, self.folder, freeze_id, deadline_s, on_commit)

    def examine(self) -> None:
        freezing.examine(self.node, self.folder)

    def dump(self, freeze_id: str, periodic: bool, newcomer_bytes: int) -> None:
        freezing.dump(self.node, self.folder, freeze_id, periodic=periodic, newcomer_bytes=newcomer_bytes)

    def seal(self, freeze_id: str) -> dict[str, Any]:
        return freezing.seal(self.node, self.folder, freeze_id)

    def left(self) -> dict[str, list[int]]:
        return saving.left(self.node, self.folder)

    def ask_to_leave(self, signal: str) -> None:
        saving.ask_to_leave(self.node, self.folder, signal)

    def keep_files(self, freeze_id: str) -> None:
        saving.keep_files(self.node, self.folder, freeze_id)

    def held(self) -> list[str]:
        keeper = self.node.keeper(self.key)
        return list(keeper.state().holds) if keeper else []

    def release(self, freeze_id: str) -> None:
        freezing.release(self.node, self.folder, freeze_id)

    def forget(self, freeze_id: str) -> None:
        freezing.forget(self.node, self.key, freeze_id)

    def retire(self, freeze_id: str) -> None:
        freezing.retire(self.node, self.key, freeze_id)

    def arrange(self) -> None:
        sharing.arrange(self.node, self.folder, self.life, self.seat)

    def arrangement(self) -> int:
        record = self.folder.read()
        return record.plan.arrangement if record is not None else 0

    def settle(self, freeze_id: str) -> None:
        settling.settle(self.node, freeze_id)

    def give_up(self, why: str) -> None:
        ending.give_up(self.node, self.folder, why)

    def end(self, grace_s: float, collect: bool) -> dict[str, Any]:
        return ending.end(self.node, self.folder, grace_s, collect)


@dataclass(slots=True)
class LocalCells:
    """Every cell of this node by name."""

    node: Node

    def cell(self, life: LifePlan, index: int) -> LocalCell:
        return LocalCell(self.node, life, next(seat for seat in life.cells if seat.index == index))

    def serve(self, method: str, body: dict[str, Any]) -> dict[str, Any]:
        """The door for mail: a coordinator on another node asks one of our cells."""
        life = self._understood(method, body)
        cell = self.cell(life, int(body["cell"]))
        arguments = dict(body.get("arguments", {}))
        if method in ("build", "fetch"):
            arguments["life"] = life
        return {"value": getattr(cell, method)(**arguments)}

    def _understood(self, method: str, body: dict[str, Any]) -> LifePlan:
        """The life that a call is about. Raises NotUnderstood where it is one of another version's."""
        why = "there is no such call"
        if method in SERVED:
            try:
                return LifePlan.model_validate(body["life"])
            except ValidationError as error:
                why = versions.faults(error.errors())
        node = self.node.place.node
        words = f"its agent (version {versions.VERSION}) does not understand {method!r}: {why}"
        raise NotUnderstood(words, remedy=versions.remedy(node))

    def forget(self, key: CellKey) -> None:
        """The server has the cell's end on record, or a newer life of the job exists: remove what is left."""
        ending.discard(self.node, key)

    def faults(self, folder: LifeFolder, record: LifeRecord) -> dict[int, str]:
        """Failed collectives that shims of this cell are holding, by rank."""
        return freezing.faults(folder, record.seat)

    def recover(self) -> None:
        """What an agent does first: cells that were being built are undone. Uploads go on by `tending`."""
        for folder in list(lives.folders(self.node.place)):
            if folder.unfinished():
                log.info("cell %s was never finished: undone", folder.key)
                ending.discard(self.node, folder.key)
        sharing.sweep_shared(self.node)
        spilling.sweep(self.node)
        lives.sweep(self.node.place)
