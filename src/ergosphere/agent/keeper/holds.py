"""Who wants the ranks suspended, and until when. They run when nobody does.

A hold is a freeze (with a deadline, after which the keeper itself asks how it ended), a thaw that is not complete, or
the agent's lease being out. Groups are frozen with the first hold and let go with the last: in between CRIU owns them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from typing import Any, Final

from . import forks, freezers, sleepers
from .ranks import Rank
from .wire import Wire

LEASE: Final = "lease"
FREEZE_S: Final = 10.0  # a task in a disk wait may need seconds to come to rest
FORK_S_MAX: Final = 2.0  # between vfork and exec lie microseconds, seconds where the program is on a slow disk
FORK_PAUSE_S: Final = 0.0005
FORK_PAUSE_S_MAX: Final = 0.05


class HoldRefused(Exception):
    """The ranks could not be suspended; all of them run on."""


class Holds:
    """The set of holds of one cell."""

    def __init__(self, ranks: Callable[[], Iterable[Rank]], wire: Wire) -> None:
        self._ranks = ranks
        self._wire = wire
        self._dumped = False
        self.names: set[str] = set()

    def add(self, name: str) -> None:
        """Suspends every rank, or none: then HoldRefused says which would not come to rest."""
        if not self.names:
            self._suspend()
        if name != LEASE:
            self._finish_forks()
        self.names.add(name)

    def remove(self, name: str) -> None:
        """The last one to go lets the ranks run."""
        if name in self.names:
            self.names.discard(name)
            if not self.names:
                self._let_go()

    def forget_all(self) -> None:
        """After a kill: nothing is left to hold."""
        self.names.clear()
        self._dumped = False

    def was_dumped(self) -> None:
        """CRIU had a rank in hand during this hold: what slept there has to be sent back to sleep."""
        self._dumped = True

    def restore_order(self, ranks: Iterable[Rank]) -> None:
        """While there is a hold, these ranks stand still. Never a rank that is being dumped: CRIU has thawed its group.

        For ranks that came while a hold was on, and after a CRIU that was killed, which leaves its group thawed.
        """
        for rank in ranks:
            if self.names and rank.alive:
                with suppress(*freezers.FAILURES):
                    if not rank.group.is_frozen():
                        rank.group.freeze(FREEZE_S)

    def _suspend(self) -> None:
        with ExitStack() as undo:
            for rank in self._alive():
                group = rank.group
                try:
                    undo.callback(_thaw, group)
                    group.freeze(FREEZE_S)
                except freezers.FAILURES as error:
                    raise HoldRefused(f"rank {rank.rank} was not suspended: {error}") from error
            undo.callback(self._wire.open)
            self._wire.hold()
            undo.pop_all()

    def _finish_forks(self) -> None:
        """CRIU cannot seize a task that waits in vfork(2) for its child to start a program: let it get that far."""
        until = time.monotonic() + FORK_S_MAX
        pause_s = FORK_PAUSE_S
        for rank in self._alive():
            group = rank.group
            while starting := forks.waiting(group.pids()):
                if time.monotonic() > until:
                    if not self.names:
                        self._let_go()
                    raise HoldRefused(
                        f"rank {rank.rank} cannot be dumped: process {starting} has been starting another program for "
                        f"{FORK_S_MAX:g} s and does not come to rest"
                    )
                group.thaw()
                time.sleep(pause_s)
                pause_s = min(pause_s * 1.5, FORK_PAUSE_S_MAX)
                group.freeze(FREEZE_S)

    def _let_go(self) -> None:
        self._wire.open()
        groups = [rank.group for rank in self._alive()]
        pids = [pid for group in groups for pid in _pids(group)] if self._dumped else []
        self._dumped = False

        def let_go() -> None:
            for group in groups:
                _thaw(group)

        sleepers.thaw(pids, let_go)

    def _alive(self) -> list[Rank]:
        return [rank for rank in self._ranks() if rank.alive]


def _pids(group: Any) -> frozenset[int]:
    with suppress(*freezers.FAILURES):
        return frozenset(group.pids())
    return frozenset()


def _thaw(group: Any) -> None:
    with suppress(*freezers.FAILURES):
        group.thaw()
