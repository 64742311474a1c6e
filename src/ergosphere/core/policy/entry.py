"""One job on the board, and what its view says by itself. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ergosphere.core.fraction import HOUR_S, NEVER_S
from ergosphere.core.model import HOLDS_SEATS, JobId, JobView, NodeId, NodeView, Phase, Placement, Tier, Why
from ergosphere.core.policy.rules import Rules
from ergosphere.core.policy.shape import Shape, asks_alike, largest, shape_of

LEAVING: Final = frozenset({Phase.FREEZING, Phase.CLEARING, Phase.ENDING})
_GIVING: Final = LEAVING | {Phase.RESIZING}
COMING: Final = frozenset({Phase.STARTING, Phase.THAWING})
SEATLESS: Final = frozenset({Phase.WAITING, Phase.FROZEN})
MOVES: Final = frozenset({Why.MOVE, Why.DRAIN, Why.RESIZE})

Rest = tuple[float, float, JobId]  # deadline, submission, id
# Order of being served, smaller first: standing, services first, what its project has had of its fair share, the rest.
Key = tuple[int, bool, tuple[float, ...], Rest]
Masks = dict[NodeId, int]  # devices of nodes, as bits


class Entry:
    """One job on the board, with what is reckoned from its view once."""

    __slots__ = (
        "asked",
        "borrowed",
        "changes_s",
        "devices",
        "gang",
        "grows_s",
        "listed",
        "listed_s",
        "masks",
        "moves_s",
        "pieces",
        "place",
        "rest",
        "room",
        "shape",
        "smaller",
        "spared",
        "standing",
        "training",
        "view",
        "waits_s",
        "wants",
        "whole",
    )

    def __init__(self, view: JobView, shape: Shape, masks: Masks) -> None:
        self.view = view
        self.shape = shape
        self.masks = masks  # of the seats it holds
        self.devices = sum([mask.bit_count() for mask in masks.values()])
        self.training = not view.service
        self.pieces = shape.ranks > shape.shares[-1]  # it needs several devices: others may use what comes free for it
        self.waits_s = NEVER_S if view.account is None else view.account.at_s  # since its last event; see `standing`
        self.whole: tuple[tuple[int, ...], int] | None = None  # ranks per device, and devices; see `shares_wanted`
        self.rest: Rest = (deadline_s(view), view.submitted_s, view.id)
        self.borrowed = False  # it holds seats beyond its project's guarantee
        self.standing = 0
        self.changes_s = NEVER_S  # when time alone changes its standing
        self.gang: GangKey | None = None  # the line it waits in
        self.place: Place | None = None  # there
        self.moves_s = NEVER_S  # from when on it may be moved for others, or to grow
        self.grows_s = NEVER_S  # from when on it may be given more devices; see `shrunk`
        self.wants: tuple[int, bool, str] | None = None  # among those who may: standing, services first, project
        self.asked: tuple[tuple[int, ...], tuple[int, int]] | None = None  # ranks per device, and numbers; see `asking`
        self.room: tuple[Placement, bool] | None = None  # promised to it, and whether that makes sense
        self.listed: tuple[int, float, int] | None = None  # as a leaver: standing, price, devices to spare
        self.listed_s = -NEVER_S  # when it was last put where its standing belongs
        self.smaller: dict[int, Smaller | None] = {}  # on so many of its own devices, as far as somebody has asked
        self.spared: Masks | None = None  # devices that it leaves in one of these ways; see `shrinking`


GangKey = tuple[Shape, str, Tier]
Smaller = tuple[Placement, Masks]  # a placement, and the devices that it leaves
Place = tuple[int, bool, float, float, JobId]  # in its line: standing, services first, deadline, submission, id


def shape_again(view: JobView, before: Entry | None) -> Shape:
    """Its shape; the very one that it had before if it asks for the same."""
    if before is not None and asks_alike(view, before.view):
        return before.shape
    fresh = shape_of(view)
    return before.shape if before is not None and before.shape == fresh else fresh


def masks_of(placement: Placement) -> Masks:
    """The devices of a placement, node by node."""
    masks: Masks = {}
    for seat in placement:
        masks[seat.node] = masks.get(seat.node, 0) | 1 << seat.device
    return masks


def masks_again(view: JobView, before: Entry | None) -> Masks:
    """The devices it holds; the very masks that it had before if it holds the same."""
    if view.phase not in HOLDS_SEATS:
        return {}
    moves = bool(view.going_to) or before is None or bool(before.view.going_to)
    if before is not None and not moves and before.masks and view.seats == before.view.seats:
        return before.masks
    return masks_of((*view.seats, *view.going_to))


def kept_masks(entry: Entry) -> Masks:
    """Of its devices those that do not come free by themselves."""
    if entry.view.phase in LEAVING:
        return {}
    return masks_of(entry.view.going_to) if entry.view.phase is Phase.RESIZING else entry.masks


def sits_alike(before: Entry, after: Entry) -> bool:
    """It has the very devices that it had, and they come free by themselves if they did before."""
    phases = {before.view.phase, after.view.phase}
    return after.masks is before.masks and bool(after.masks) and phases.isdisjoint(_GIVING)


def is_special(entry: Entry, now_s: float, rules: Rules) -> bool:
    """It asks for something that others of its shape do not, or its room may have to be kept."""
    view = entry.view
    if view.cancel:
        return True
    match view.phase:
        case Phase.RUNNING:
            return view.paused or view.move_asked or view.resize_asked or not view.wanted or falls_short(entry)
        case Phase.FREEZING:
            return view.freezing_why in MOVES
        case Phase.WAITING | Phase.FROZEN:
            asleep = view.paused or bool(view.after) or not view.wanted or now_s < wakes_s(view, rules)
            return not asleep and (bool(view.destination) or view.move_asked or view.not_before_s > now_s)
        case _:
            return False


def wakes_s(view: JobView, rules: Rules) -> float:
    """When its back-off is short enough for room to be kept for it."""
    return view.not_before_s - rules.min_run_s


def rouses_s(view: JobView, now_s: float, rules: Rules) -> float:
    """When next it has backed off, is ripe for being frozen, has had its turn, or may be grown (inf: never)."""
    times = [NEVER_S, view.not_before_s, wakes_s(view, rules)]
    if view.phase is Phase.RUNNING and view.running_since_s is not None:
        since_s = view.running_since_s
        times += [since_s + rules.min_run_s, since_s + rules.settle_s, view.resized_s + rules.grow_after_s]
        times += [since_s + rules.quantum_s] if view.tier is not Tier.BASIC else []
    return min([at_s for at_s in times if at_s > now_s])


def moves_from_s(view: JobView, rules: Rules) -> float:
    """From when on it may be moved for others, or to grow: it has settled, and the hour's pauses leave one more."""
    if view.phase is not Phase.RUNNING or view.running_since_s is None or not view.freezable:
        return NEVER_S
    settled_s = max(view.running_since_s + rules.settle_s, view.not_before_s)
    if len(view.pauses) < rules.pauses_per_hour:
        return settled_s
    return max(settled_s, sorted(view.pauses)[-rules.pauses_per_hour] + HOUR_S) if rules.pauses_per_hour else NEVER_S


def falls_short(entry: Entry) -> bool:
    """It has a promise and runs on fewer devices than it asks for."""
    job = entry.view
    return entry.devices < largest(entry.shape) and job.tier is not Tier.BASIC and job.account is not None


def deadline_s(job: JobView) -> float:
    return NEVER_S if job.deadline_s is None else job.deadline_s


def is_emptied(node: NodeView) -> bool:
    """Whoever sits there has to leave: it drains, or said when it will be gone."""
    return node.draining or node.leaves_s is not None


def all_of(masks: Mapping[JobId, int] | None) -> int:
    every = 0
    for mask in (masks or {}).values():
        every |= mask
    return every
