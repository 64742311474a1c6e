"""Growing: devices that nobody needed this turn go to jobs that run on fewer than they ask for."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from ergosphere.core.model import NodeId, Placement
from ergosphere.core.policy import reasons
from ergosphere.core.policy.asking import could_ever_hold
from ergosphere.core.policy.defrag import clear_beside
from ergosphere.core.policy.elsewhere import go_elsewhere, may_fit, seats_elsewhere
from ergosphere.core.policy.entry import Entry
from ergosphere.core.policy.layers import PoolKey
from ergosphere.core.policy.rules import move_cost
from ergosphere.core.policy.seats import reshape
from ergosphere.core.policy.shape import larger
from ergosphere.core.policy.turn import Turn
from ergosphere.core.policy.victims import send_away, shrunk


def grow(turn: Turn) -> None:
    """Who is owed most first: as far as its own nodes have room, else by a move to where there is more that pays.
    Nobody grows where somebody waits for devices."""
    board = turn.board
    shrunk_ones = board.leavers.shrunk
    if not shrunk_ones.jobs or not board.now.refresh().total:
        return
    wanted = _wanted(turn)
    if wanted >= board.now.pools.keys():  # somebody waits for whatever there is
        return
    _grow_here(turn, wanted)
    if not board.now.refresh().total:
        return
    in_order = (board.entries[job_id] for job_id in shrunk_ones.in_order(board.tree.share))
    movable = (entry for entry in in_order if _could_move(turn, entry))
    for entry in list(islice(movable, board.rules.moves_per_turn)):
        if entry.view.id not in turn.decisions and not _grow_elsewhere(turn, entry, wanted):
            _grow_by_moves(turn, entry, wanted)


def _wanted(turn: Turn) -> set[PoolKey]:
    """Pools in which somebody waits who could sit there once others leave."""
    board = turn.board
    waiting = {shape for shape, shares in turn.failed.values() if could_ever_hold(board, shape, shares)}
    return {key for shape in waiting for key in board.pools.keys(shape)}


def _grow_here(turn: Turn, wanted: set[PoolKey]) -> None:
    board, shrunk_ones = turn.board, turn.board.leavers.shrunk
    could = [one for job_id in shrunk_ones.to_look_at() if _stays(turn, one := board.entries[job_id])]
    for entry in sorted(could, key=board.key):
        if _touches(turn, entry.masks, wanted):
            continue
        found = spread(turn, entry)
        if found is not None:
            turn.resize(entry, found, reasons.grown(entry.view, found))
        elif not board.tree.guarded:  # else a limit may be lifted elsewhere
            shrunk_ones.changed.discard(entry.view.id)


def _touches(turn: Turn, nodes: Iterable[NodeId], wanted: set[PoolKey]) -> bool:
    known = turn.board.nodes
    return any(known[name].pool in wanted for name in nodes if name in known)


def _stays(turn: Turn, entry: Entry) -> bool:
    """It is not about to leave, and its last resize is not too fresh."""
    board = turn.board
    return entry.grows_s <= board.now_s and entry.view.id not in turn.decisions and not board.silent(entry)


def _could_move(turn: Turn, entry: Entry) -> bool:
    """It may be frozen, and has settled."""
    return entry.moves_s <= turn.board.now_s and entry.view.id not in turn.reasons and _stays(turn, entry)


def _grow_by_moves(turn: Turn, entry: Entry, wanted: set[PoolKey]) -> None:
    if turn.moves_left > 0 and not _touches(turn, entry.masks, wanted):
        clear_beside(turn, entry)


def _grow_elsewhere(turn: Turn, entry: Entry, wanted: set[PoolKey]) -> bool:
    """Frozen here, thawed on more devices there, where that is earned back soon."""
    job, rules = entry.view, turn.board.rules
    if not may_fit(turn.board, entry, larger(entry.shape, entry.devices)[-1]):
        return False
    found = seats_elsewhere(turn, entry, breaking=False)
    if isinstance(found, tuple) and not _touches(turn, {seat.node for seat in found}, wanted):
        more = len(set(found)) - entry.devices
        if move_cost(job, away=turn.goes_away(job, found)) <= rules.payback * more * rules.payback_s:
            go_elsewhere(turn, entry, found, reasons.grows_elsewhere(job, found))
            return True
    return False


def spread(turn: Turn, entry: Entry) -> Placement | None:
    """On as many devices of its own nodes as there are free ones, fewest ranks on each."""
    job, board = entry.view, turn.board
    free = {name: board.nodes[name].now() for name in entry.masks if name in board.nodes}
    most = entry.devices + sum(mask.bit_count() for mask in free.values())
    for number in larger(entry.shape, entry.devices):
        if number > most or board.tree.blocked(job.project, job.tier, number - entry.devices):
            continue
        offered = {seat for name, mask in free.items() for seat in board.nodes[name].seats if mask >> seat.device & 1}
        found = reshape(job, offered, number)
        if found is not None:
            return found
    return None


def take_from_weaker(turn: Turn, entry: Entry) -> bool:
    """Weaker jobs on its own nodes give what they can spare, if it is of use: it is free in one of the next turns."""
    board, job = turn.board, entry.view
    nodes = [board.nodes[name] for name in entry.masks if name in board.nodes]
    there = {job_id for node in nodes for job_id in node.occupants} & board.leavers.shrinkable - turn.decisions.keys()
    weaker = [board.entries[one] for one in there if board.standing_of(board.entries[one]) > board.standing_of(entry)]
    leavers = [leaver for one in sorted(weaker, key=board.key) if (leaver := shrunk(turn, one)) is not None]
    coming = {seat for node in nodes for seat in node.seats if node.soon() >> seat.device & 1}
    given = {
        seat for node in nodes for one in leavers for seat in node.seats if one.gains.get(node.id, 0) >> seat.device & 1
    }
    for number in larger(entry.shape, entry.devices):
        found = reshape(job, coming, number)
        if found is None:
            found = reshape(job, coming | given, number)
            for leaver in leavers if found is not None else ():
                send_away(turn, leaver, job)
        if found is not None:  # nobody grows onto what it waits for
            turn.take(tuple(seat for seat in found if seat not in job.seats))
            return True
    return False
