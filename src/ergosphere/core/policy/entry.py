"""One job on the board, and what its view says by itself. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ergosphere.core.fraction import NEVER_S
from ergosphere.core.model import JobId, JobView, NodeId, NodeView, Phase, Placement, Tier, Why
from ergosphere.core.policy.rules import Rules
from ergosphere.core.policy.shape import Shape, asks_alike, largest, shape_of

LEAVING: Final = frozenset({Phase.FREEZING, Phase.CLEARING, Phase.ENDING})
COMING: Final = frozenset({Phase.STARTING, Phase.THAWING})
SEATLESS: Final = frozenset({Phase.WAITING, Phase.FROZEN})
MOVES: Final = frozenset({Why.MOVE, Why.DRAIN, Why.RESIZE})

Key = tuple[object, ...]  # order of being served: smaller first
Masks = dict[NodeId, int]  # devices of nodes, as bits


class Entry:
    """One job on the board, with what is reckoned from its view once."""

    __slots__ = (
        "borrowed",
        "changes_s",
        "devices",
        "gang",
        "listed",
        "listed_s",
        "masks",
        "place",
        "seen",
        "shape",
        "smaller",
        "spared",
        "standing",
        "view",
    )

    def __init__(self, view: JobView, shape: Shape, masks: Masks) -> None:
        self.view = view
        self.shape = shape
        self.masks = masks  # of the seats it holds
        self.devices = sum(mask.bit_count() for mask in masks.values())
        self.borrowed = False  # it holds seats beyond its project's guarantee
        self.standing = 0
        self.changes_s = NEVER_S  # when time alone changes its standing
        self.gang: GangKey | None = None  # the line it waits in
        self.place: Place | None = None  # there
        self.seen = -1  # versions of its nodes, added up, when it last could not grow there
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


def kept_masks(entry: Entry) -> Masks:
    """Of its devices those that do not come free by themselves."""
    if entry.view.phase in LEAVING:
        return {}
    return masks_of(entry.view.going_to) if entry.view.phase is Phase.RESIZING else entry.masks


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
    times = [view.not_before_s, wakes_s(view, rules)]
    if view.phase is Phase.RUNNING and view.running_since_s is not None:
        since_s = view.running_since_s
        times += [since_s + rules.min_run_s, since_s + rules.settle_s, view.resized_s + rules.grow_after_s]
        times += [since_s + rules.quantum_s] if view.tier is not Tier.BASIC else []
    return min((at_s for at_s in times if at_s > now_s), default=NEVER_S)


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
