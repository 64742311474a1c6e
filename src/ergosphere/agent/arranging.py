"""Giving the ranks of a job other devices while it stands at a cut: all of them, or none. No process ends for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from ergosphere.agent import cut
from ergosphere.agent.cut_port import RankPort
from ergosphere.agent.ports import CellPort, Refused
from ergosphere.system import Clock

CELLS_AT_ONCE: Final = 16

T = TypeVar("T")
log = logging.getLogger(__name__)


class Undecided(Exception):
    """What was begun can neither be finished nor undone now: whoever is held stays so until the order comes again."""


def arrange_all(
    cells: Sequence[CellPort],
    before: Sequence[CellPort],
    ports: Mapping[int, RankPort],
    parked: Sequence[int],
    generation: int,
    clock: Clock,
) -> tuple[str, ...]:
    """From the cut on, every rank computes where `cells` say; gives what its owner should know.

    `before`: the same cells as they were; `parked`: the ranks that wait at the cut. Raises Refused when all is as it
    was, and Undecided when ranks could not be told: with different tables they would not find each other, so nobody
    goes on before all agree.
    """
    failed = _tell(cells)
    if failed is not None:
        undone = _tell(before)
        if undone is not None:
            raise Undecided(f"not every rank could be told its device: {failed}; {undone}") from undone
    stuck = cut.go(ports, parked, generation, cut.GO_S_MAX, clock)
    if stuck is not None:
        give_up(cells, stuck.reason)
    if failed is not None:
        raise Refused(f"not every rank could be told its device: {failed}") from failed
    return () if stuck is None else (stuck.reason,)


def ports_of(cells: Sequence[CellPort]) -> dict[int, RankPort]:
    """Every rank of the job. Raises Refused where one has ended."""
    return {rank: port for cell in cells for rank, port in cell.rank_ports().items()}


def each(cells: Sequence[CellPort], act: Callable[[CellPort], T]) -> list[T]:
    """Do it with all cells at once and wait for all; the first failure (by cell) is raised after the others ended."""
    if len(cells) == 1:
        return [act(cells[0])]
    with ThreadPoolExecutor(max_workers=min(len(cells), CELLS_AT_ONCE)) as pool:
        futures = [pool.submit(act, cell) for cell in cells]
    return [future.result() for future in futures]


def quietly(cells: Sequence[CellPort], act: Callable[[CellPort], Any]) -> None:
    """Undo as far as it goes: what one cell cannot undo must not keep the others from it."""

    def tried(cell: CellPort) -> None:
        try:
            act(cell)
        except Exception as error:  # its keeper's deadline, or the next discard, does what is left
            log.warning("cell %d on %s: %s", cell.seat.index, cell.seat.node, error)

    each(cells, tried)


def give_up(cells: Sequence[CellPort], why: str) -> None:
    """Ranks that do not find each other again would wait for ever: this life is lost."""
    log.error("the ranks did not go on: %s", why)
    try:
        each(cells, lambda cell: cell.give_up(why))
    except Exception as error:  # a cell out of reach: its peers' end is seen all the same
        log.warning("not every cell could be given up: %s", error)


def _tell(cells: Sequence[CellPort]) -> Exception | None:
    try:
        each(cells, lambda cell: cell.arrange())
    except Exception as error:  # whatever it is, the caller undoes or waits
        return error
    return None
