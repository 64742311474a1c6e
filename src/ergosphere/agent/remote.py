"""Cells of other nodes, and their ranks: the same ports, carried by mail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ergosphere.agent.cut_port import RankPort
from ergosphere.agent.cut_view import RankView
from ergosphere.agent.cut_view import from_json as view_from_json
from ergosphere.agent.mailbox import CallFailed, Mailbox
from ergosphere.agent.ports import DamagedSnapshot, Refused
from ergosphere.wire.agents import CellPlan, LifePlan


@dataclass(slots=True)
class RemoteCell:
    """A cell at another node."""

    mailbox: Mailbox
    life: LifePlan
    seat: CellPlan

    def _ask(self, method: str, /, **arguments: Any) -> Any:
        life = self.life.model_dump(mode="json", exclude_defaults=True)
        body = {"life": life, "cell": self.seat.index, "arguments": arguments}
        try:
            return self.mailbox.call(self.seat.node, method, body).get("value")
        except CallFailed as failed:
            text = f"{self.seat.node}: {failed}"
            if failed.kind in ("DamagedSnapshot", "Damaged"):
                raise DamagedSnapshot(text) from failed
            raise Refused(text, remedy=failed.remedy, lasting=failed.lasting, exit_code=failed.exit_code) from failed

    def phase(self) -> str:
        return str(self._ask("phase"))

    def begun(self) -> tuple[int, str] | None:
        told = self._ask("begun")
        return (int(told[0]), str(told[1])) if told else None

    def begin(self, generation: int) -> None:
        self._ask("begin", generation=generation)

    def build(self, life: LifePlan) -> None:
        self._ask("build")

    def launch(self) -> None:
        self._ask("launch")

    def fetch(self, life: LifePlan, manifest: dict[str, Any]) -> None:
        self._ask("fetch", manifest=manifest)

    def restore(self, manifest: dict[str, Any]) -> None:
        self._ask("restore", manifest=manifest)

    def run(self, generation: int) -> None:
        self._ask("run", generation=generation)

    def discard(self) -> None:
        self._ask("discard")

    def rank_ports(self) -> Mapping[int, RankPort]:
        return {rank: RemoteRank(self, rank) for rank in self._ask("holdable")}

    def suspend(self, freeze_id: str, deadline_s: float, on_commit: str) -> None:
        self._ask("suspend", freeze_id=freeze_id, deadline_s=deadline_s, on_commit=on_commit)

    def examine(self) -> None:
        self._ask("examine")

    def dump(self, freeze_id: str, periodic: bool, newcomer_bytes: int) -> None:
        self._ask("dump", freeze_id=freeze_id, periodic=periodic, newcomer_bytes=newcomer_bytes)

    def seal(self, freeze_id: str) -> dict[str, Any]:
        return dict(self._ask("seal", freeze_id=freeze_id))

    def left(self) -> dict[str, list[int]]:
        return dict(self._ask("left"))

    def ask_to_leave(self, signal: str) -> None:
        self._ask("ask_to_leave", signal=signal)

    def keep_files(self, freeze_id: str) -> None:
        self._ask("keep_files", freeze_id=freeze_id)

    def held(self) -> list[str]:
        return list(self._ask("held"))

    def release(self, freeze_id: str) -> None:
        self._ask("release", freeze_id=freeze_id)

    def forget(self, freeze_id: str) -> None:
        self._ask("forget", freeze_id=freeze_id)

    def retire(self, freeze_id: str) -> None:
        self._ask("retire", freeze_id=freeze_id)

    def settle(self, freeze_id: str) -> None:
        self._ask("settle", freeze_id=freeze_id)

    def arrange(self) -> None:
        self._ask("arrange")

    def arrangement(self) -> int:
        return int(self._ask("arrangement"))

    def give_up(self, why: str) -> None:
        self._ask("give_up", why=why)

    def end(self, grace_s: float, collect: bool) -> dict[str, Any]:
        return dict(self._ask("end", grace_s=grace_s, collect=collect))

    def ask_rank(self, rank: int, method: str, /, **arguments: Any) -> Any:
        return self._ask("rank", rank=rank, method=method, arguments=arguments)


@dataclass(slots=True)
class RemoteRank:
    """A rank of a cell at another node, as the coordinator of a cut sees it."""

    cell: RemoteCell
    rank: int

    def view(self) -> RankView:
        return view_from_json(self.cell.ask_rank(self.rank, "view"))

    def hold(self, limits: Mapping[str, int]) -> None:
        self.cell.ask_rank(self.rank, "hold", limits=dict(limits))

    def settle(self) -> None:
        self.cell.ask_rank(self.rank, "settle")

    def quiesce(self, orphans: Sequence[str]) -> None:
        self.cell.ask_rank(self.rank, "quiesce", orphans=list(orphans))

    def go(self, generation: int) -> None:
        self.cell.ask_rank(self.rank, "go", generation=generation)

    def release(self, token: str) -> None:
        self.cell.ask_rank(self.rank, "release", token=token)

    def verdict(self, word: str) -> None:
        self.cell.ask_rank(self.rank, "verdict", word=word)
