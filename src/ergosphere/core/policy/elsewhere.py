"""Where a running job could go on with more or fewer devices by way of a snapshot, and whether it would fit there."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ergosphere.core.model import Freeze, JobView, NodeId, Placement, Reason, Why
from ergosphere.core.policy import reasons
from ergosphere.core.policy.board import Board
from ergosphere.core.policy.entry import Entry
from ergosphere.core.policy.packing import find
from ergosphere.core.policy.shape import Shape, larger, largest, needs_one_node
from ergosphere.core.policy.turn import Turn

SMALL_MAX: Final = 32  # nodes with too little memory that are passed over in the search for one with enough


def go_elsewhere(turn: Turn, entry: Entry, placement: Placement, reason: Reason) -> None:
    """It is frozen, and thaws there: the room is held."""
    job = entry.view
    turn.decisions[job.id] = Freeze(job.id, Why.RESIZE, reason)
    turn.leave(entry)
    turn.hold(job, placement)


def seats_elsewhere(turn: Turn, entry: Entry, *, breaking: bool = True) -> Placement | Reason:
    """Seats of any nodes, its own counted as free; else why not. `breaking`: promises to those behind, in need."""
    job, board = entry.view, turn.board
    refusal: Reason | None = None
    for number in larger(entry.shape, entry.devices) or [largest(entry.shape)]:
        more = number - entry.devices
        if more > 0 and board.tree.blocked(job.project, job.tier, more):
            continue
        if not (breaking and board.promises.on) and not may_fit(board, entry, number):
            continue
        found = _with_memory(turn, entry, entry.shape.ranks // number, breaking)
        if isinstance(found, tuple):
            return found
        refusal = refusal or found
    return refusal or reasons.resize_no_room(job, board.now.refresh().total)


def may_fit(board: Board, entry: Entry, number: int) -> bool:
    """Whether so many devices may be free for it, its own counted, without breaking promises: False is certain."""
    layer, own = board.now.refresh(), entry.devices
    if layer.total + own < number:
        return False
    if not needs_one_node(entry.shape):
        return True
    here = max((layer.counts.get(name, 0) for name in entry.masks), default=0) + own
    return here >= number or any(pool.nodes.times(number, 1) for pool in layer.pools.values())


def _with_memory(turn: Turn, entry: Entry, share: int, breaking: bool) -> Placement | Reason | None:
    """A place on nodes that can hold its ranks; None without room."""
    shape, refusal = entry.shape, None
    for _ in range(SMALL_MAX):
        found = _place(turn, entry, shape, share, breaking)
        full = None if found is None else too_little_memory(entry.view, found, turn.board)
        if found is None or full is None:
            return found or refusal
        refusal = refusal or reasons.resize_no_memory(entry.view, *full)
        shape = replace(shape, barred=shape.barred | {full[0]})
    return None


def _place(turn: Turn, entry: Entry, shape: Shape, share: int, breaking: bool) -> Placement | None:
    board = turn.board
    groups = board.pools.groups(entry.shape)
    with turn.vacated(entry):
        found = find(entry.view, shape, share, board.now.refresh(), board.nodes, groups)
        if found is None and breaking:
            with turn.ignoring_promises() as some:
                found = find(entry.view, shape, share, board.now.refresh(), board.nodes, groups) if some else None
    return found


def too_little_memory(job: JobView, placement: Placement, board: Board) -> tuple[NodeId, int, int] | None:
    """(node, bytes needed, bytes there) of the first node whose memory cannot hold the ranks that it would get.

    Predicted from what each rank was last measured to hold; nothing is known, and nothing refused, before that.
    """
    if len(job.rank_bytes) != job.ranks:
        return None
    for name in sorted({seat.node for seat in placement}):
        there = {rank for rank, seat in enumerate(placement) if seat.node == name}
        already = {rank for rank, seat in enumerate(job.seats) if seat.node == name}
        node = board.nodes[name]
        if there <= already or not node.view.memory_bytes:
            continue
        needed = sum(job.rank_bytes[rank] for rank in there)
        needed += sum(_bytes_on(board.entries[one].view, name) for one in node.occupants if one != job.id)
        if needed > node.view.memory_bytes:
            return name, needed, node.view.memory_bytes
    return None


def _bytes_on(job: JobView, name: NodeId) -> int:
    return sum(size for size, seat in zip(job.rank_bytes, job.seats, strict=False) if seat.node == name)
