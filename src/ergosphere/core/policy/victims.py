"""Making room: whom to shrink, or else to freeze, so that a gang fits: the cheapest set that is really enough."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from ergosphere.core.model import Freeze, JobView, Placement, Why
from ergosphere.core.policy import reasons, standing
from ergosphere.core.policy.board import Board
from ergosphere.core.policy.claims import has_claim, yielding
from ergosphere.core.policy.entry import Entry, Masks
from ergosphere.core.policy.leavers import Leaver
from ergosphere.core.policy.offers import Chosen, Offer, cheapest, price_of_one
from ergosphere.core.policy.rules import freeze_cost, turn_in_queue
from ergosphere.core.policy.shape import fewest
from ergosphere.core.policy.shrinking import on_fewer
from ergosphere.core.policy.turn import Turn

LOOK_MAX: Final = 64  # of the cheapest candidates of each standing, beyond what the gang needs, that are weighed


def make_room(turn: Turn, entry: Entry, shares: Sequence[int]) -> bool:
    """Shrink or freeze weaker jobs if that really makes room. True if room is held for the job and its reason given.

    Jobs without a promise are shrunk first, then frozen; only then those that have one; at last jobs of its own tier
    that have its room on loan (`claims`).
    """
    urgency = turn.board.standing_of(entry)
    claims = has_claim(turn, entry)
    levels = sorted({max(urgency, standing.STANDARD), urgency}, reverse=True)
    if not _could_be_enough(turn, urgency if claims else urgency + 1, entry.shape.ranks // shares[-1]):
        return False
    with turn.ignoring_promises():
        for share in shares:
            devices = entry.shape.ranks // share
            spare = [spared for spared in levels if _could_be_enough(turn, spared + 1, devices)]
            on_loan = claims and _could_be_enough(turn, urgency, devices)
            if not (spare or on_loan):
                continue
            offer = Offer.of(turn.board, entry, share)
            for spared in spare:
                if _by_shrinking(turn, entry, offer, spared) or _by_freezing(turn, entry, offer, spared):
                    return True
            if on_loan and _by_freezing(turn, entry, offer, urgency, lent=_lent(turn, entry, offer)):
                return True
    return False


def make_node(turn: Turn, entry: Entry, share: int) -> bool:
    """As `make_room`, on one node for a gang that could sit on several: only jobs without a promise leave for that, at
    once, and only if less is wasted than a move may cost (`payback`). Nobody is frozen where shrinking may be enough in
    pieces."""
    board, rules, devices = turn.board, turn.board.rules, entry.shape.ranks // share
    spared = max(board.standing_of(entry), standing.STANDARD)
    if not _could_be_enough(turn, spared + 1, devices):
        return False
    with turn.ignoring_promises():
        offer = Offer.of(board, entry, share)
        smaller, frozen = _smaller_ones(turn, spared), list[Leaver]()
        if board.soon.refresh().total + board.leavers.spare_beyond(spared) < devices:
            frozen = _ripe(turn, _freezable(turn, spared, offer), entry)
        for weaker in (smaller, frozen):
            chosen = cheapest(weaker, offer)
            if chosen is not None and sum(one.cost for one in chosen) <= rules.payback * devices * rules.payback_s:
                return _preempt(turn, entry, offer, chosen)
    return False


def _lent(turn: Turn, entry: Entry, offer: Offer) -> list[Entry]:
    """Of those that yield to its claim, the cheapest: as many as are enough, and some to choose from."""
    urgency = turn.board.standing_of(entry)
    lent: list[Entry] = []
    ripe: list[Leaver] = []
    weighed = LOOK_MAX
    for one in yielding(turn, entry):
        lent.append(one)
        if _unripe_s(turn, one, urgency) <= 0:
            ripe.append(_frozen(turn, one))
        if len(lent) >= weighed:  # twice as many each time: all of it costs no more than weighing everybody twice
            if offer.fits(ripe):
                break
            weighed *= 2
    return lent


def _could_be_enough(turn: Turn, level: int, devices: int) -> bool:
    """Whether there are so many with those of the standing `level` and weaker ones: False is certain."""
    board = turn.board
    weaker = sum(board.leavers.devices[level:])
    return weaker > 0 and board.soon.refresh().total + board.promises.devices + weaker >= devices


def would_fit(turn: Turn, entry: Entry, urgency: int) -> bool:
    """Whether it would fit whole if everybody of a higher standing left; its own seats are marked as leaving."""
    with turn.ignoring_promises():
        offer = Offer.of(turn.board, entry, entry.shape.shares[0])
        return offer.fits([_frozen(turn, one) for one in _weaker(turn, urgency, offer)])


def shrink_peers(turn: Turn, entry: Entry) -> bool:
    """It could not start at all: on its least devices it may, if others of its tier have more than theirs."""
    board, spared = turn.board, standing.FIRST_OF[entry.view.tier] - 1
    spare = board.leavers.spare_beyond(spared)
    if not spare or board.soon.refresh().total + board.promises.devices + spare < fewest(entry.shape):
        return False
    with turn.ignoring_promises():
        return _by_shrinking(turn, entry, Offer.of(board, entry, entry.shape.shares[-1]), spared)


def _by_shrinking(turn: Turn, entry: Entry, offer: Offer, spared: int) -> bool:
    spare = turn.board.leavers.spare_beyond(spared)
    if not spare or max(offer.totals.values(), default=0) + spare < offer.devices:
        return False
    chosen = cheapest(_smaller_ones(turn, spared), offer)
    if chosen is None:
        return False
    return _hold_target(turn, entry, offer, _no_farther(turn, chosen, offer))


def _by_freezing(turn: Turn, entry: Entry, offer: Offer, spared: int, lent: Iterable[Entry] = ()) -> bool:
    urgency = turn.board.standing_of(entry)
    weaker = _freezable(turn, spared, offer, lent)
    ripe = _ripe(turn, weaker, entry)
    chosen = cheapest(ripe, offer)
    if chosen is not None:
        return _preempt(turn, entry, offer, chosen)
    chosen = cheapest(weaker, offer) if len(ripe) < len(weaker) else None
    return chosen is not None and _wait_to_ripen(turn, entry, offer, chosen, urgency)


def _freezable(turn: Turn, spared: int, offer: Offer, lent: Iterable[Entry] = ()) -> list[Leaver]:
    weaker = (_frozen(turn, one) for one in (*_weaker(turn, spared, offer), *lent))
    return [leaver for leaver in weaker if leaver.gains]


def _ripe(turn: Turn, leavers: Iterable[Leaver], winner: Entry) -> list[Leaver]:
    """Of these, who may leave for it at once."""
    urgency = turn.board.standing_of(winner)
    return [leaver for leaver in leavers if _unripe_s(turn, leaver.entry, urgency) <= 0]


def _preempt(turn: Turn, entry: Entry, offer: Offer, chosen: Chosen) -> bool:
    return _hold_target(turn, entry, offer, _no_farther(turn, _some_shrunk(turn, chosen, offer), offer))


def send_away(turn: Turn, leaver: Leaver, winner: JobView) -> None:
    victim = leaver.entry.view
    if leaver.placement is not None:
        turn.resize(leaver.entry, leaver.placement, reasons.shrunk_for(victim, leaver.placement, winner), winner.id)
        return
    standing_of = turn.board.standing_of
    if standing_of(leaver.entry) > standing_of(turn.board.entries[winner.id]):
        reason = reasons.freeze_for_room(victim, winner, freeze_cost(victim))
    else:
        reason = reasons.freeze_on_claim(victim, winner)
    turn.decisions[victim.id] = Freeze(victim.id, Why.PREEMPT, reason, winner.id)
    turn.reasons.pop(victim.id, None)
    turn.leave(leaver.entry)


def _some_shrunk(turn: Turn, chosen: Chosen, offer: Offer) -> Chosen:
    """Who can do its part by shrinking is not frozen; the dearest first."""
    for leaver in sorted(chosen, key=price_of_one, reverse=True):
        smaller = shrunk(turn, leaver.entry) if leaver.id in turn.board.leavers.shrinkable else None
        if smaller is not None:
            mixed = tuple(smaller if one is leaver else one for one in chosen)
            chosen = mixed if offer.fits(mixed) else chosen
    return chosen


def _no_farther(turn: Turn, chosen: Chosen, offer: Offer) -> Chosen:
    """Each is shrunk as little as is needed: stronger tiers are spared first, then whoever was submitted first."""
    for leaver in sorted((one for one in chosen if one.placement), key=lambda one: turn_in_queue(one.entry.view)):
        for smaller in _ways_to_shrink(turn, leaver.entry):
            mixed = tuple(smaller if one is leaver else one for one in chosen)
            if offer.fits(mixed):
                chosen = mixed
                break
    return chosen


def _place_left(turn: Turn, entry: Entry, offer: Offer, chosen: Chosen) -> Placement | None:
    """Where it fits once they have left. None, against what the offer says, costs it its turn and nobody else's."""
    for leaver in chosen:
        turn.leave_seats(leaver.gains)
    target = turn.place_as_is(entry, turn.board.soon, offer.share)
    turn.stay(leaver.entry for leaver in chosen)
    return target


def _hold_target(turn: Turn, entry: Entry, offer: Offer, chosen: Chosen) -> bool:
    target = _place_left(turn, entry, offer, chosen)
    if target is None:
        return False
    for leaver in chosen:
        send_away(turn, leaver, entry.view)
    turn.hold_coming(entry.view, target)
    turn.use(entry.view, len(set(target)))
    return True


def _wait_to_ripen(turn: Turn, entry: Entry, offer: Offer, chosen: Chosen, urgency: int) -> bool:
    """The hole is kept until those who have just started have run long enough."""
    views = [leaver.entry.view for leaver in chosen]
    left_s = max(_unripe_s(turn, leaver.entry, urgency) for leaver in chosen)
    target = _place_left(turn, entry, offer, chosen)
    if target is None:
        return False
    turn.reasons[entry.view.id] = reasons.min_run(entry.view, views, left_s)
    turn.hold(entry.view, target)
    return True


# ---- who could


def _smaller_ones(turn: Turn, spared: int) -> list[Leaver]:
    """Those beyond the standing `spared`, of each some of the cheapest, as small as they may be. Everybody who is
    served before anything is marked anew finds the same."""
    asked = (spared, turn.urgency, turn.marks)
    if turn.smaller is None or turn.smaller[0] != asked:
        board = turn.board
        weaker = (one for level in reversed(board.leavers.shrinking[spared + 1 :]) for _, one in level[:LOOK_MAX])
        entries = (board.entries[one] for one in weaker if one not in turn.decisions)
        found = [leaver for one in entries if not board.silent(one) and (leaver := shrunk(turn, one))]
        turn.smaller = asked, found
    return turn.smaller[1]


def _weaker(turn: Turn, spared: int, offer: Offer) -> Iterator[Entry]:
    """Jobs beyond the standing `spared`, of each the cheapest: as many as the gang needs and some to choose from."""
    board = turn.board
    for level in range(standing.COUNT - 1, spared, -1):
        enough = offer.devices
        for looked, (_, job_id) in enumerate(board.leavers.by_standing[level]):
            if looked >= LOOK_MAX and enough <= 0:
                break
            entry = board.entries[job_id]
            if job_id in turn.decisions or board.silent(entry):
                continue
            enough -= entry.devices
            yield entry


def _unripe_s(turn: Turn, victim: Entry, urgency: int) -> float:
    """Seconds until `victim` has run long enough to be frozen for so urgent a job."""
    since_s = victim.view.running_since_s
    at_once = urgency == standing.PREMIUM and turn.board.standing_of(victim) > urgency
    return 0.0 if at_once or since_s is None else since_s + turn.board.rules.min_run_s - turn.board.now_s


def _frozen(turn: Turn, entry: Entry) -> Leaver:
    """As it is frozen; reckoned once between marks, where promises are ignored."""
    asked = (turn.urgency, turn.marks)
    if turn.frozen is None or turn.frozen[0] != asked:
        turn.frozen = asked, {}
    found = turn.frozen[1].get(entry.view.id)
    if found is None:
        found = turn.frozen[1][entry.view.id] = Leaver(entry, _gains(turn.board, entry.masks), freeze_cost(entry.view))
    return found


def shrunk(turn: Turn, entry: Entry) -> Leaver | None:
    """The job on the fewest devices it may be given, of those it has."""
    return next(_ways_to_shrink(turn, entry, fewest_first=True), None)


def _ways_to_shrink(turn: Turn, entry: Entry, *, fewest_first: bool = False) -> Iterator[Leaver]:
    """The job on ever fewer of its own devices."""
    shape = entry.shape
    for share in reversed(shape.shares) if fewest_first else shape.shares:
        found = on_fewer(entry, shape.ranks // share) if shape.ranks // share < entry.devices else None
        if found is not None:
            placement, left = found
            gains = _gains(turn.board, left)
            if gains:
                yield Leaver(entry, gains, entry.view.resize_cost_s * entry.devices, placement)


def _gains(board: Board, masks: Masks) -> Masks:
    """Of these devices, those that somebody could use and nobody has been promised this turn."""
    gains: Masks = {}
    for name, mask in masks.items():
        node = board.nodes.get(name)
        if node is not None and (gain := mask & node.full & ~(node.taken | node.going | node.promised)):
            gains[name] = gain
    return gains
