"""What each rank holds and how it shares its device, measured now and then and told only when it has changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from ergosphere.agent import sharing
from ergosphere.agent.lives import LifeFolder, LifeRecord
from ergosphere.agent.node import Node
from ergosphere.agent.place import CellKey
from ergosphere.wire.jobs import Sharing

MEASURE_EVERY_S: Final = 10.0  # a rank's memory is read from the kernel's page tables: some milliseconds a gigabyte
WORTH_TELLING: Final = 0.1  # a change by less than this part is not reported: what is reported anew is written down


@dataclass(frozen=True, slots=True)
class Measured:
    """One rank. `bytes` of host memory, 0 before it was measured."""

    bytes: int = 0
    sharing: Sharing | None = None


NOT_MEASURED: Final = Measured()


@dataclass(slots=True)
class _Last:
    at_s: float
    ranks: dict[int, Measured]


@dataclass(slots=True)
class Gauge:
    """Keeps the last figures of each cell."""

    node: Node
    _last: dict[CellKey, _Last] = field(default_factory=dict)

    def measured(self, folder: LifeFolder, record: LifeRecord) -> dict[int, Measured]:
        """By rank. How it shares is looked at each time; figures are renewed every `MEASURE_EVERY_S`."""
        now_s = self.node.clock.monotonic()
        last = self._last.get(folder.key)
        if last is None or now_s - last.at_s >= MEASURE_EVERY_S:
            known = last.ranks if last else {}
            ranks = {rank: self._measure(folder, rank, known.get(rank, NOT_MEASURED)) for rank in record.seat.ranks}
            last = self._last[folder.key] = _Last(now_s, ranks)
        elif sharing.is_one_world(record.plan):
            last.ranks = {rank: _renewed(folder, rank, was) for rank, was in last.ranks.items()}
        return last.ranks

    def forget(self, key: CellKey) -> None:
        self._last.pop(key, None)

    def _measure(self, folder: LifeFolder, rank: int, was: Measured) -> Measured:
        pids = self.node.freezer(self.node.place.rank_group(folder.key, rank)).pids()
        held = sharing.proportional_bytes(pids)
        worth = abs(held - was.bytes) > WORTH_TELLING * was.bytes
        return Measured(held if worth else was.bytes, sharing.told(folder, rank))


def _renewed(folder: LifeFolder, rank: int, was: Measured) -> Measured:
    """Another word is told at once, another number with the next measuring."""
    now = sharing.told(folder, rank)
    same = now is None or (was.sharing is not None and _words(now) == _words(was.sharing))
    return was if same else Measured(was.bytes, now)


def _words(told: Sharing) -> tuple[str, str | None, bool]:
    return told.state, told.why, told.exact
