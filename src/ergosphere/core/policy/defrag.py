"""Defragmentation: small jobs are moved to other free devices so that a larger one finds enough on one node.

Nobody loses a device by it: whoever is moved goes on elsewhere. A move has a budget (`moves_per_turn`,
`pauses_per_hour`), is made only by who has settled, and only where what it costs is earned back (`payback`).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from ergosphere.core.fraction import PROMISE, slack
from ergosphere.core.model import Freeze, Placement, Tier, Why
from ergosphere.core.policy import reasons
from ergosphere.core.policy.entry import Entry
from ergosphere.core.policy.layers import Node
from ergosphere.core.policy.rules import freeze_cost, move_cost
from ergosphere.core.policy.shape import larger, needs_one_node
from ergosphere.core.policy.turn import Turn

SPARE: Final = 2.0  # times what a move to another machine costs that a job must be able to miss yet
NODES_MAX: Final = 8  # nodes weighed for one job: those that lack least

Moves = list[tuple[Entry, Placement]]


def bring_together(turn: Turn, entry: Entry) -> bool:
    """Moves small jobs away so that `entry` will fit on one node. True if its room is held and its reason given."""
    needed = _on_one_node(entry)
    if needed is None or turn.moves_left <= 0 or turn.board.now.refresh().total < needed:
        return False
    for node in islice(_nodes(turn, entry, needed), NODES_MAX):
        moves = _cleared(turn, _movers(turn, entry, node), node, needed)
        if moves is not None and _move(turn, entry, moves):
            return True
    return False


def clear_beside(turn: Turn, entry: Entry) -> bool:
    """Moves small jobs without a promise off its one node, so that it can grow there in one of the next turns."""
    if len(entry.masks) != 1:
        return False
    node = turn.board.nodes.get(next(iter(entry.masks)))
    if node is None or not node.full:
        return False
    movers = _movers(turn, entry, node)
    could_be = sum(one.devices for one in movers) + node.now().bit_count()
    for number in larger(entry.shape, entry.devices):
        more = number - entry.devices
        if node.soon().bit_count() >= more:  # neighbours leave already
            return False
        if min(could_be, turn.board.now.refresh().total) < more:
            continue
        if turn.board.tree.blocked(entry.view.project, entry.view.tier, more):
            continue
        moves = _cleared(turn, movers, node, more)
        if moves:
            _send(turn, entry, moves)
            return True
    return False


def _on_one_node(entry: Entry) -> int | None:
    """Devices that it needs together on one node; None where nodes do not matter, or several parts do."""
    shape = entry.shape
    return shape.ranks // shape.shares[0] if needs_one_node(shape) else None


def _nodes(turn: Turn, entry: Entry, needed: int) -> Iterator[Node]:
    """Nodes that lack the fewest devices first; none that could not thaw it."""
    layer = turn.board.now.refresh()
    for key in turn.board.pools.keys(entry.shape):
        pool = layer.pools.get(key)
        if pool is None or pool.nodes.total < needed:
            continue
        for count in range(min(needed, pool.nodes.top()) - 1, 0, -1):
            for name in pool.nodes.some(count, NODES_MAX + len(entry.shape.barred), layer.counts):
                if name not in entry.shape.barred:
                    yield turn.board.nodes[name]


def _movers(turn: Turn, entry: Entry, node: Node) -> list[Entry]:
    """Who could be moved off a node for it, the cheapest first."""
    return sorted(_movable(turn, node, entry), key=lambda one: (_price(one), one.view.id))


def _cleared(turn: Turn, movers: list[Entry], node: Node, needed: int) -> Moves | None:
    """Who of them moves where so that `node` has `needed` devices free, with their places taken; None if nobody can.

    The node is closed while places are sought, so that nobody is moved within it.
    """
    board, rules = turn.board, turn.board.rules
    missing = needed - node.now().bit_count()
    if sum(one.devices for one in movers) < missing:
        return None
    before = node.taken
    node.taken |= node.full
    turn.touch(node.id)
    moves: Moves = []
    cost = 0.0
    for one in movers:
        if missing <= 0 or len(moves) >= turn.moves_left:
            break
        share = one.view.ranks // one.devices
        found = turn.place_as_is(one, board.now, share)
        if found is None:
            continue
        moves.append((one, found))
        turn.take(found)
        cost += move_cost(one.view, away=turn.goes_away(one.view, found))
        missing -= one.devices
    node.taken = before
    turn.touch(node.id)
    if missing <= 0 and cost <= rules.payback * needed * rules.payback_s:
        return moves
    for _, found in moves:
        turn.untake(found)
    return None


def _price(entry: Entry) -> float:
    """Device-seconds wasted for each device it clears."""
    return freeze_cost(entry.view) / entry.devices


def _movable(turn: Turn, node: Node, winner: Entry) -> Iterator[Entry]:
    """Jobs that sit on this node alone, have settled, and have not been paused too often; none whose devices somebody
    has been given already; for one that would only grow none that has a promise."""
    board = turn.board
    for job_id, (mask, _) in node.occupants.items():
        entry = board.entries[job_id]
        if entry is winner or mask & (node.taken | node.promised):
            continue
        if winner.devices and not _spares_a_move(turn, entry):
            continue
        if entry.moves_s <= board.now_s and len(entry.masks) == 1 and job_id not in turn.decisions:
            yield entry


def _spares_a_move(turn: Turn, entry: Entry) -> bool:
    """It keeps its promise this hour with room to spare although it is moved for one that has none."""
    job, board = entry.view, turn.board
    if entry.borrowed or job.tier is Tier.BASIC:
        return True
    if job.account is None:
        return False
    left_s = slack(job.account, PROMISE[job.tier], board.now_s) / job.account.devices
    return left_s >= SPARE * move_cost(job, away=True) / job.ranks


def _move(turn: Turn, entry: Entry, moves: Moves) -> bool:
    """False, and nobody moves, if the room that they leave is none for it."""
    job = entry.view
    for mover, _ in moves:
        turn.leave(mover)
    target = turn.place_as_is(entry, turn.board.soon, entry.shape.shares[0])
    if target is None:
        turn.stay(mover for mover, _ in moves)
        for _, found in moves:
            turn.untake(found)
        return False
    _send(turn, entry, moves)
    turn.hold_coming(job, target)
    turn.use(job, len(set(target)))
    return True


def _send(turn: Turn, entry: Entry, moves: Moves) -> None:
    job = entry.view
    for mover, found in moves:
        turn.untake(found)
        cost = move_cost(mover.view, away=turn.goes_away(mover.view, found))
        reason = reasons.freeze_for_packing(mover.view, job, found, cost)
        turn.decisions[mover.view.id] = Freeze(mover.view.id, Why.MOVE, reason, job.id)
        turn.reasons.pop(mover.view.id, None)
        turn.leave(mover)
        turn.hold(mover.view, found)
    turn.moves_left -= len(moves)
