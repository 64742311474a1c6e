"""How a job on the rung `cooperative` leaves: a signal to all its ranks, a grace period, and an end to who is left.

The coordinator's half: it knows cells, not processes. Before the signal anything may be refused, and the job runs on;
from the signal on every exit is an answer to it, and there is no way back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from ergosphere.agent.answering import AWAY, kind_of
from ergosphere.agent.arranging import Undecided, each
from ergosphere.agent.ports import CellPort, Refused
from ergosphere.agent.saving import ASKED, RUNNING
from ergosphere.system import Clock
from ergosphere.wire.jobs import JobSpec

T = TypeVar("T")
log = logging.getLogger(__name__)

LOOK_S: Final = 0.02  # how soon the ranks are looked at first; twice as long each time
LOOK_S_MAX: Final = 0.5
AGAIN_S: Final = 1.0  # after keeping what they left has failed
AGAIN_S_MAX: Final = 300.0  # so long each step is tried: a store that is full, a node whose agent is restarted
TRIES_MIN: Final = 5  # and so often: one try may take longer than that


class EndedBefore(Refused):
    """A rank had ended before anybody was asked to: the job is judged by that."""


class Gone(Refused):
    """The ranks were asked to leave, and what they left could not be kept: nothing of the job runs on."""

    gone = True


class Cancelled(Refused):
    """The life is to end: its files become the results of the job, and no snapshot."""


@dataclass(frozen=True, slots=True)
class Parting:
    """How the ranks left. `killed`: those that had not ended in time; `lost`: whose keeper was gone before that.
    `seconds`: since they were asked; None: by an agent before this one.
    """

    seconds: float | None
    killed: tuple[int, ...]
    grace_s: float
    lost: tuple[int, ...] = ()

    def in_words(self) -> str:
        """For its owner."""
        if self.lost:
            return f"{self._how()}; rank {_listed(self.lost)} was lost before it had"
        return self._how()

    def _how(self) -> str:
        if self.seconds is None:
            return "it has saved itself"
        if not self.killed:
            return f"it saved itself within {self.seconds:.1f} s"
        who = "it" if self.killed == (0,) else f"rank {_listed(self.killed)}"
        return f"{who} did not end within {self.grace_s:g} s and was killed"


def begun(cells: Sequence[CellPort]) -> bool:
    """Whether anybody was asked to leave, by an agent before this one.

    Raises EndedBefore where nobody was and a rank has ended, Undecided where no cell can tell, and why one cannot where
    the others were not asked.
    """
    told = each(cells, _told)
    if any(one[ASKED] for one in told if not isinstance(one, Exception)):
        return True
    failed = [one for one in told if isinstance(one, Exception)]
    if len(failed) == len(told):
        raise Undecided(f"no cell says whether it was asked to leave: {failed[0]}") from failed[0]
    if failed:
        raise failed[0]
    _check_whole(cells)
    return False


def untouched(cells: Sequence[CellPort]) -> bool:
    """Whether all ranks run and nobody was asked to leave, for certain."""
    told = zip(cells, each(cells, _told), strict=True)
    return all(
        not isinstance(one, Exception) and not one[ASKED] and set(one[RUNNING]) >= set(cell.seat.ranks)
        for cell, one in told
    )


def _told(cell: CellPort) -> dict[str, list[int]] | Exception:
    try:
        return cell.left()
    except Exception as error:  # whatever it is, the other cells may know
        return error


def part(
    cells: Sequence[CellPort], spec: JobSpec, clock: Clock, *, again: bool, cancelled: Callable[[], bool]
) -> Parting:
    """Ask every rank to save itself and wait until all have ended, or the grace period has.

    `again`: an agent before this one asked. No second signal is sent then, and it is waited anew. Raises EndedBefore.
    """
    assert spec.grace_s is not None, "only a job with a grace period stands on this rung"
    began_s = clock.monotonic()
    if again and not _running(cells):
        return Parting(None, (), spec.grace_s, _lost(cells))
    each(cells, lambda cell: cell.ask_to_leave(spec.signal))
    _check_whole(cells)  # who ended in between was not asked
    running = _wait(cells, began_s + spec.grace_s, clock, cancelled)
    return Parting(clock.monotonic() - began_s, tuple(sorted(running)), spec.grace_s, _lost(cells))


def see_through(keep: Callable[[], T], clock: Clock, steps: Collection[object], cancelled: Callable[[], bool]) -> T:
    """What `keep` gives. It is tried again until it works: there is nothing to go back to.

    Whenever one of its `steps` was added, there is time anew. At the end it raises Gone, or Undecided where the store
    does not answer: what was left is kept then, and the order comes again. Raises Cancelled.
    """
    until_s, tries, done = 0.0, 0, -1
    while True:
        if cancelled():
            raise Cancelled("the job was ended while it saved itself")
        try:
            return keep()
        except (Undecided, EndedBefore, Gone, Cancelled):
            raise
        except Exception as error:  # whatever it is: a full store, a node whose agent is restarted
            if len(steps) > done:
                until_s, tries, done = clock.monotonic() + AGAIN_S_MAX, 0, len(steps)
            tries += 1
            if clock.monotonic() > until_s and tries >= TRIES_MIN:
                if kind_of(error) == AWAY:
                    raise Undecided(f"what it left could not be kept yet: {error}") from error
                raise Gone(f"what it left could not be kept: {error}") from error
            log.warning("what a job left is not kept yet: %s", error)
            clock.sleep(AGAIN_S)


def _check_whole(cells: Sequence[CellPort]) -> None:
    told = each(cells, lambda cell: cell.left())
    if any(one[ASKED] for one in told):
        return
    for cell, one in zip(cells, told, strict=True):
        if gone := sorted(set(cell.seat.ranks) - set(one[RUNNING])):
            raise EndedBefore(f"rank {gone[0]} has ended, so the job is judged by that")


def _wait(cells: Sequence[CellPort], until_s: float, clock: Clock, cancelled: Callable[[], bool]) -> list[int]:
    look_s = LOOK_S
    while (running := _running(cells)) and clock.monotonic() < until_s:
        if cancelled():
            raise Cancelled("the job was ended while it saved itself")
        clock.sleep(min(look_s, max(0.0, until_s - clock.monotonic())))
        look_s = min(2 * look_s, LOOK_S_MAX)
    return running


def _running(cells: Sequence[CellPort]) -> list[int]:
    return [rank for told in each(cells, lambda cell: cell.left()) for rank in told[RUNNING]]


def _lost(cells: Sequence[CellPort]) -> tuple[int, ...]:
    """Ranks of cells where nobody knows that they were asked: their keeper is gone, and they with it."""
    told = each(cells, lambda cell: cell.left())
    return tuple(rank for cell, one in zip(cells, told, strict=True) if not one[ASKED] for rank in cell.seat.ranks)


def _listed(ranks: Sequence[int]) -> str:
    return ", ".join(map(str, ranks[:4])) + (" …" if len(ranks) > 4 else "")
