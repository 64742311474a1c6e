"""How a freeze is decided, as its coordinator sees it: commit or abort, by the one record in the shared store.

Whoever lets originals go on has won `abort` first, and while the store does not say how a freeze ended nobody may.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ergosphere.agent import parting
from ergosphere.agent.arranging import Undecided, each, quietly
from ergosphere.agent.ports import SUSPEND_S_MAX, CellPort, Refused
from ergosphere.snapshots import records
from ergosphere.snapshots.errors import StoreError, StoreFull
from ergosphere.snapshots.manifest import Manifest
from ergosphere.snapshots.store import Store
from ergosphere.system import Clock

ATTEMPTS_MAX: Final = 8  # agents that died in the middle of one freeze
STORE_AGAIN_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Decider:
    """Asks the store, and tells the cells of a job what follows from it."""

    store: Store
    clock: Clock

    def attempt(self, order_id: str, cells: Sequence[CellPort]) -> str | Manifest:
        """The snapshot's id, which is the order's; with a number where an agent before this one died half-way.

        What it had committed is returned to be finished; what it left undecided is called off first, and begun anew.
        """
        for number in range(ATTEMPTS_MAX):
            freeze_id = f"{order_id}-{number}" if number else order_id
            decided = records.verdict(self.store, freeze_id)
            if decided is None and any(freeze_id in held for held in each(cells, lambda cell: cell.held())):
                decided = self.call_off(freeze_id, cells)
            if decided is None:
                return freeze_id
            if isinstance(decided, Manifest):
                return decided
            if isinstance(decided, records.Swept):
                raise called_off(decided)
            _release(freeze_id, cells)
        raise Refused(f"the freeze was begun {ATTEMPTS_MAX} times and called off each time")

    def before(self, freeze_id: str, cells: Sequence[CellPort]) -> records.Record | None:
        """What is decided already, where ranks save themselves.

        Raises Undecided where the store is away and an agent before this one may have asked the ranks to leave.
        """
        try:
            return records.verdict(self.store, freeze_id)
        except StoreError as away:
            if parting.untouched(cells):
                raise
            raise Undecided(f"the store does not say how the freeze ended: {away}") from away

    def commit(self, manifest: Manifest) -> Manifest:
        """From here on the snapshot is the job. Raises Refused where it was called off, or the store is full."""
        decided = self._decided(lambda: records.commit(self.store, manifest.id, manifest))
        if decided is None:
            raise Refused("the shared store is full, so no snapshot can be kept", remedy="free some space there")
        if not isinstance(decided, Manifest):
            raise called_off(decided)
        return decided

    def call_off(self, freeze_id: str, cells: Sequence[CellPort]) -> records.Record:
        """Undo of a suspension: win `abort` first, then let the originals go on."""
        decided = self._decided(lambda: records.abort(self.store, freeze_id, "the freeze failed before its commit"))
        if decided is None:  # the store is full: no record of anyone fits in, and only we would have committed
            decided = records.Aborted(freeze_id, "the store is full")
        if isinstance(decided, records.Aborted):
            _release(freeze_id, cells)
            quietly(cells, lambda cell: cell.forget(freeze_id))
        return decided

    def _decided(self, ask: Callable[[], records.Record]) -> records.Record | None:
        """The verdict of a freeze, asked for until the store answers; None when it is full and has no verdict."""
        until_s = self.clock.monotonic() + SUSPEND_S_MAX
        while True:
            try:
                return ask()
            except StoreFull:
                return None
            except StoreError as away:
                if self.clock.monotonic() > until_s:
                    raise Undecided(f"the store does not say how the freeze ended: {away}") from away
                self.clock.sleep(STORE_AGAIN_S)


def called_off(decided: records.Record) -> Refused:
    """The record says no: somebody who wanted to release an original won `abort` first."""
    why = decided.why if isinstance(decided, records.Aborted) else "its snapshot was swept"
    return Refused(f"the freeze was called off: {why}")


def _release(freeze_id: str, cells: Sequence[CellPort]) -> None:
    quietly(cells, lambda cell: cell.release(freeze_id))
