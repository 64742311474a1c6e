"""How one who waits is given seats: now, held while they come free, or made free at others' cost; else a reason."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from ergosphere.core.model import Phase, Placement, Start, Thaw, Why
from ergosphere.core.policy import reasons, standing
from ergosphere.core.policy.asking import could_ever_hold, numbers_of, shares_wanted, within_limits
from ergosphere.core.policy.claims import could_be_had, has_claim
from ergosphere.core.policy.defrag import bring_together
from ergosphere.core.policy.entry import Entry
from ergosphere.core.policy.shape import in_one_piece, largest
from ergosphere.core.policy.turn import Turn
from ergosphere.core.policy.victims import make_node, make_room, shrink_peers


def seat(turn: Turn, entry: Entry) -> None:
    """Seats now, or held while they come free, or made free; else a reason."""
    job, board = entry.view, turn.board
    if job.not_before_s > board.now_s:
        _wait_out(turn, entry)
        return
    wanted = shares_wanted(board, entry)
    shares = within_limits(board, entry, wanted)
    if not shares:
        _over_quota(turn, entry, job.ranks // wanted[-1])
        return
    if job.id not in board.promises.rooms and was_in_vain(turn, entry, shares):
        return
    found = turn.own_room(entry, board.now)
    if found is not None:
        _sit(turn, entry, found)
        return
    if _seat_on_one_node(turn, entry, shares[:1]):
        return
    seated = could_be_had(turn, entry) and (
        any(_seat_with(turn, entry, some) for some in _rounds(turn, entry, shares)) or shrink_peers(turn, entry)
    )
    if not (seated or bring_together(turn, entry)):
        _give_up(turn, entry, shares, limited=shares != wanted)


def was_in_vain(turn: Turn, entry: Entry, shares: tuple[int, ...]) -> bool:
    """Somebody has tried for the same; with a claim, if it has one."""
    number, _ = numbers_of(turn.board, entry, shares)
    return number in turn.failed and (number in turn.failed_claims or not has_claim(turn, entry))


def _seat_on_one_node(turn: Turn, entry: Entry, shares: tuple[int, ...]) -> bool:
    """Before its first start a gang that one node could hold is given one, for what starts in pieces stays in pieces:
    a free one, one that others leave who go on elsewhere, and to who is promised its devices one that is made free."""
    in_pieces, whole = entry.shape, in_one_piece(entry.shape)
    if whole is None or not could_ever_hold(turn.board, whole, shares):
        return False
    asked, entry.shape, entry.asked = entry.asked, whole, None
    try:
        if was_in_vain(turn, entry, shares):
            return False
        seated = could_be_had(turn, entry) and (
            _sit_down(turn, entry, shares)
            or (
                _is_promised(turn, entry)
                and (_wait_for_leavers(turn, entry, shares) or make_node(turn, entry, shares[0]))
            )
        )
        if seated or bring_together(turn, entry):
            return True
        _give_up(turn, entry, shares, limited=False)
        return False
    finally:
        entry.shape, entry.asked = in_pieces, asked


def _over_quota(turn: Turn, entry: Entry, devices: int) -> None:
    job, tree = entry.view, turn.board.tree
    against = tree.blocked(job.project, job.tier, devices)
    assert against is not None, "limits left it nothing"
    turn.against.setdefault((job.project, job.tier, devices), (against, tree.used(against.id)))
    if entry.gang is not None:
        turn.stuck.add(entry.gang)


def _give_up(turn: Turn, entry: Entry, shares: tuple[int, ...], *, limited: bool) -> None:
    """Who asks for the same behind it need not try. `limited`: its project alone was left so little to ask for."""
    numbers = numbers_of(turn.board, entry, shares)
    for number, some in zip(numbers, (shares, shares[:1]), strict=True):
        turn.failed[number] = entry.shape, some
    if has_claim(turn, entry):
        turn.failed_claims.update(numbers)
    if limited and entry.gang is not None:
        turn.stuck.add(entry.gang)


def _rounds(turn: Turn, entry: Entry, shares: tuple[int, ...]) -> Sequence[Sequence[int]]:
    """How many ranks a device may hold, in rounds: who is promised its devices gets as many as possible, at others'
    cost, before it is given fewer; anybody else takes fewer before others have to leave."""
    return [(share,) for share in shares] if _is_promised(turn, entry) else [shares]


def _is_promised(turn: Turn, entry: Entry) -> bool:
    return turn.board.standing_of(entry) <= standing.STANDARD


def _seat_with(turn: Turn, entry: Entry, shares: Sequence[int]) -> bool:
    """Seats, or seats held and a reason given."""
    return _sit_down(turn, entry, shares) or _wait_for_leavers(turn, entry, shares) or make_room(turn, entry, shares)


def _wait_for_leavers(turn: Turn, entry: Entry, shares: Sequence[int]) -> bool:
    """What comes free by itself, with what is free, is held for it."""
    board = turn.board
    if not board.promises.rooms and board.soon.refresh().total <= board.now.refresh().total:
        return False  # all that comes free is free
    found = turn.own_room(entry, board.soon) or turn.place(entry, board.soon, shares)
    if found is None:
        return False
    turn.hold_coming(entry.view, found)
    turn.use(entry.view, len(set(found)))
    return True


def _sit_down(turn: Turn, entry: Entry, shares: Sequence[int]) -> bool:
    """On what is free."""
    found = turn.place(entry, turn.board.now, shares)
    if found is not None:
        _sit(turn, entry, found)
    return found is not None


def _sit(turn: Turn, entry: Entry, found: Placement) -> None:
    job = entry.view
    kind = Thaw if job.phase is Phase.FROZEN else Start
    turn.decisions[job.id] = kind(job.id, found, reasons.started(job, found))
    turn.give(job, found)


def _wait_out(turn: Turn, entry: Entry) -> None:
    """Back-off. A short one keeps its room: see `Rules.min_run_s`."""
    job, board = entry.view, turn.board
    turn.reasons[job.id] = reasons.back_off(job, board.now_s)
    if job.not_before_s - board.now_s <= board.rules.min_run_s:
        hold_destination(turn, entry)


def hold_destination(turn: Turn, entry: Entry) -> None:
    """A moving job's next seats, so that nobody behind it takes them while it freezes."""
    found = _to_be_had(turn, entry)
    if found is not None:
        turn.hold(entry.view, found)


def _to_be_had(turn: Turn, entry: Entry) -> Placement | None:
    """What was promised to it stays so; else as many devices as there are, rather soon than fewer at once."""
    layers = (turn.board.now, turn.board.soon)
    promised = (turn.own_room(entry, layer) for layer in layers)
    others = (turn.place(entry, layer, (share,)) for share in _shares_worth_it(turn, entry) for layer in layers)
    return next((found for found in chain(promised, others) if found is not None), None)


def _shares_worth_it(turn: Turn, entry: Entry) -> Sequence[int]:
    """Who was frozen to be made whole does not thaw on as few devices as it had: it would be frozen again."""
    job, shape, board = entry.view, entry.shape, turn.board
    to_grow = job.freezing_why is Why.RESIZE and not job.resize_asked
    whole = to_grow and standing.goes_whole(job, board.standing_of(entry), largest(shape), board.usable)
    return shape.shares[:1] if whole else shape.shares
