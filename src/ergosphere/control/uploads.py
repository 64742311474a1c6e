"""How far each snapshot has come on its way to the shared store: in memory only, for showing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from ergosphere.wire.agents import SnapshotState

SHARE_MAX: Final = 0.99  # the last pack and the marker are still to come


@dataclass(slots=True)
class Uploads:
    """What nodes have reported last."""

    _told: dict[str, dict[str, SnapshotState]] = field(default_factory=dict)  # snapshot → node → state

    def note(self, node: str, state: SnapshotState) -> None:
        if state.durability == "remote":
            self._told.pop(state.snapshot, None)
        else:
            self._told.setdefault(state.snapshot, {})[node] = state

    def share(self, snapshot: str) -> float | None:
        """The share of its bytes that is in the store, never all before it is remote; None when none is known."""
        told = self._told.get(snapshot, {}).values()
        total = sum(state.total_bytes for state in told)
        return min(SHARE_MAX, sum(state.done_bytes for state in told) / total) if total else None

    def trouble(self, snapshot: str) -> str:
        """Why it has not got there yet; "" while nothing stands in its way."""
        told = sorted(self._told.get(snapshot, {}).items())
        return next((f"{node}: {state.trouble}" for node, state in told if state.trouble), "")
