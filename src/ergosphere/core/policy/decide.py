"""`decide`: what is seen → what shall be done, and a reason for everybody who has to wait. Pure and deterministic.

Who is owed more is served first (`standing`), between equals the project that has had less of its share. A job may
take the devices of those that are owed less: they are shrunk where that is enough, else frozen, the cheapest first.
Room that is being made is held for its job until that job sits in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heapreplace
from itertools import islice
from typing import Final

from ergosphere.core.costs import remote_in_s
from ergosphere.core.model import (
    Decision,
    Freeze,
    JobId,
    NodeId,
    Phase,
    Placement,
    Plan,
    Reason,
    Stop,
    View,
    Why,
)
from ergosphere.core.policy import reasons, standing
from ergosphere.core.policy.asking import shares_wanted
from ergosphere.core.policy.board import Board
from ergosphere.core.policy.claims import has_claim
from ergosphere.core.policy.elastic import grow, spread, take_from_weaker
from ergosphere.core.policy.entry import MOVES, Entry, Key, Place, falls_short, is_emptied
from ergosphere.core.policy.packing import find_on
from ergosphere.core.policy.resizing import resize, shrink_as_asked
from ergosphere.core.policy.rules import Rules
from ergosphere.core.policy.seating import hold_destination, seat, was_in_vain
from ergosphere.core.policy.shape import largest
from ergosphere.core.policy.standing import waits
from ergosphere.core.policy.turn import Turn
from ergosphere.core.policy.victims import would_fit
from ergosphere.core.policy.waiting import WaitingReasons

Queued = tuple[Key, int, int, Entry]  # key, number of its line (-1: none), `Tree.uses` as of then, and who

CLAIMANT_MAX: Final = 64  # places behind one that found no room in which a claim is looked for


def decide(view: View | Board, rules: Rules) -> Plan:
    """One turn of the policy. The same contents, however they came about, give the same plan; a board is left as it
    was. `Plan.reasons` words a waiting job's reason when it is read: read it before the board is told more.
    """
    board = view if isinstance(view, Board) else Board.of(view, rules)
    board.sort_borrowed()
    turn = Turn(board, moves_left=rules.moves_per_turn)
    try:
        # 1. What owners and operators asked for, whoever they are: it frees seats.
        singles = _singles(board)
        for entry in singles:
            _obey(turn, entry)
        # 2. Seats, to one job after the other: who is owed most first.
        for entry in _queue(turn, singles):
            turn.urgency = board.standing_of(entry)
            turn.lift_promise(entry.view.id)
            _serve(turn, entry)
        # 3. What nobody needed now.
        grow(turn)
        return Plan(_in_order(turn.decisions), WaitingReasons.of(turn), turn.rooms)
    finally:
        turn.wipe()


def _in_order(decisions: dict[JobId, Decision]) -> tuple[Decision, ...]:
    return tuple(decisions.values())


def _singles(board: Board) -> list[Entry]:
    return sorted((board.entries[job_id] for job_id in board.lines.singles), key=board.key)


def _queue(turn: Turn, singles: list[Entry]) -> Iterator[Entry]:
    """Everybody who wants something, in order. Of a line only the first is looked at, until its shape finds no room.

    What the others get in the meantime can only move a job back: a key that has grown is put back into the heap.
    """
    board, tree, entries, keyed = turn.board, turn.board.tree, turn.board.entries, turn.board.key
    lines = list(board.lines.gangs.values())
    heads = [(entries[line[0][-1]], number) for number, line in enumerate(lines)]
    heap: list[Queued] = [(keyed(entry), number, tree.uses, entry) for entry, number in heads]
    heap += [(keyed(entry), -1, tree.uses, entry) for entry in singles]
    heapify(heap)
    place = [0] * len(lines)
    while heap:
        key, number, uses, entry = heap[0]
        if number >= 0 and _is_hopeless(turn, entry):
            claimant = _claimant_behind(turn, lines[number], place[number])
            if claimant is None:
                heappop(heap)
            else:
                place[number], entry = claimant
                heapreplace(heap, (keyed(entry), number, tree.uses, entry))
            continue
        if uses != tree.uses and (current := keyed(entry)) != key:
            heapreplace(heap, (current, number, tree.uses, entry))
            continue
        yield entry
        behind = _behind(board, lines, place, number)
        if behind is None:
            heappop(heap)
        else:
            heapreplace(heap, (keyed(behind), number, tree.uses, behind))


def _behind(board: Board, lines: list[list[Place]], place: list[int], number: int) -> Entry | None:
    """Who is next in a line (-1: whoever stands alone)."""
    if number < 0:
        return None
    place[number] += 1
    line = lines[number]
    return board.entries[line[place[number]][-1]] if place[number] < len(line) else None


def _is_hopeless(turn: Turn, entry: Entry) -> bool:
    """Somebody before it who asked for the same was given nothing."""
    if turn.stuck and entry.gang in turn.stuck:
        return True
    return bool(turn.failed) and was_in_vain(turn, entry, shares_wanted(turn.board, entry))


def _claimant_behind(turn: Turn, line: list[Place], place: int) -> tuple[int, Entry] | None:
    """The next in a line whose first found no room that has a claim and is not hopeless, and its place."""
    first = turn.board.entries[line[place][-1]]
    if first.gang in turn.stuck or not first.pieces:  # a service's replicas stand in front of their line
        return None
    for at, (*_, job_id) in islice(enumerate(line), place + 1, place + 1 + CLAIMANT_MAX):
        entry = turn.board.entries[job_id]
        if has_claim(turn, entry):
            return None if _is_hopeless(turn, entry) else (at, entry)
    return None


# ---- 1. what was asked for


def _obey(turn: Turn, entry: Entry) -> None:
    job = entry.view
    if job.cancel:
        if job.phase is not Phase.ENDING:
            turn.decisions[job.id] = Stop(job.id, reasons.cancelled())
            turn.leave(entry)
        return
    if job.phase is not Phase.RUNNING:
        return
    emptied = _emptied_nodes(turn, entry)
    if job.paused:
        _freeze_as_asked(turn, entry, Why.PAUSE, reasons.paused(job))
    elif not job.wanted:
        _freeze_as_asked(turn, entry, Why.PAUSE, reasons.freeze_unwanted(job))
    elif emptied:
        _freeze_as_asked(turn, entry, Why.DRAIN, reasons.freeze_for_drain(emptied, *_deadline(turn, entry, emptied)))
    elif job.resize_asked and entry.devices > largest(entry.shape):
        shrink_as_asked(turn, entry)


def _freeze_as_asked(turn: Turn, entry: Entry, why: Why, reason: Reason) -> None:
    job = entry.view
    refusal = turn.freeze_refused(entry, why)
    if refusal is not None:
        turn.reasons[job.id] = refusal
        return
    turn.decisions[job.id] = Freeze(job.id, why, reason)
    turn.leave(entry)


def _emptied_nodes(turn: Turn, entry: Entry) -> list[NodeId]:
    nodes = turn.board.nodes
    return sorted(name for name in entry.masks if name in nodes and is_emptied(nodes[name].view))


def _deadline(turn: Turn, entry: Entry, names: list[NodeId]) -> tuple[float | None, float]:
    """Seconds until the first of them is gone, None if none said so; and until what is frozen there now has left."""
    nodes, entries = turn.board.nodes, turn.board.entries
    told = [at_s for name in names if (at_s := nodes[name].view.leaves_s) is not None]
    beside = {job_id for name in names for job_id in nodes[name].occupants}
    uploads_s = (entries[job_id].view.upload_cost_s for job_id in sorted(beside))
    return min(told) - turn.board.now_s if told else None, remote_in_s(entry.view.freeze_cost_s, uploads_s)


# ---- 2. seats


def _serve(turn: Turn, entry: Entry) -> None:
    job = entry.view
    decision = turn.decisions.get(job.id)
    if decision is None and waits(job):
        seat(turn, entry)
        return
    match decision:
        case Freeze(why=why) if why in MOVES:
            hold_destination(turn, entry)
        case None if job.phase is Phase.FREEZING and job.freezing_why in MOVES and not (job.paused or job.cancel):
            hold_destination(turn, entry)
        case None if job.phase is Phase.RUNNING and job.move_asked and job.id not in turn.reasons:
            if not (job.paused or job.cancel):
                _move(turn, entry)
        case None if job.phase is Phase.RUNNING and job.resize_asked and job.id not in turn.reasons:
            if not (job.paused or job.cancel):
                resize(turn, entry)
        case None if job.phase is Phase.RUNNING and falls_short(entry) and job.id not in turn.reasons:
            _make_whole(turn, entry)


def _move(turn: Turn, entry: Entry) -> None:
    """Migrate: only to where it fits already, its own seats there counted as free."""
    job, board = entry.view, turn.board
    if {seat.node for seat in job.seats} <= set(job.destination):
        return
    refusal = turn.freeze_refused(entry, Why.MOVE)
    found = None
    with turn.ignoring_promises():
        offered = turn.wished(entry, board.now)
    if refusal is None:
        found = _fit_with_own(turn, entry)
        if found is None:
            with turn.ignoring_promises():
                found = _fit_with_own(turn, entry)
    if found is None:
        for name, mask in entry.masks.items():
            if name in offered:
                offered[name] |= mask & board.nodes[name].full & ~board.nodes[name].taken
        free = sum(mask.bit_count() for mask in offered.values())
        turn.reasons[job.id] = refusal or reasons.move_no_room(job, free)
        return
    turn.decisions[job.id] = Freeze(job.id, Why.MOVE, reasons.freeze_for_move(found))
    turn.leave(entry)
    turn.hold(job, found)


def _make_whole(turn: Turn, entry: Entry) -> None:
    """Who is promised more than its devices can give gets them here, or is frozen to go on where there are enough."""
    job, board = entry.view, turn.board
    if entry.borrowed:
        return
    found = spread(turn, entry)
    if found is not None:
        turn.resize(entry, found, reasons.grown(job, found))
        return
    if take_from_weaker(turn, entry):
        return
    urgency = standing.of_waiting(job, board.now_s, board.rules)[0]
    turn_s = board.rules.min_run_s if urgency <= standing.OWED else board.rules.owed_turn_s
    had_its_turn = job.running_since_s is None or job.running_since_s + turn_s <= board.now_s
    weaker = sum(board.leavers.devices[max(urgency, standing.OWED) + 1 :])
    could_be = board.soon.refresh().total + entry.devices + weaker >= job.ranks
    if not (had_its_turn and could_be) or turn.freeze_refused(entry, Why.RESIZE) is not None:
        return
    turn.leave(entry)
    if would_fit(turn, entry, max(urgency, standing.OWED)):
        turn.decisions[job.id] = Freeze(job.id, Why.RESIZE, reasons.freeze_to_grow(job, entry.devices))
    else:  # enough devices, but not where its parts could sit: it keeps what it has
        turn.stay([entry])


def _fit_with_own(turn: Turn, entry: Entry) -> Placement | None:
    board = turn.board
    offered = turn.wished(entry, board.now)
    for name, mask in entry.masks.items():
        if name in offered:
            offered[name] |= mask & board.nodes[name].full & ~board.nodes[name].taken
    groups = board.pools.groups(entry.shape)
    return next(
        (
            found
            for share in entry.shape.shares
            if (found := find_on(entry.view, entry.shape, share, offered, board.nodes, groups)) is not None
        ),
        None,
    )
