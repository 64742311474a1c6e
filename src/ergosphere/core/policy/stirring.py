"""Whether what time alone has changed about a job may change a decision. If not, no turn has to follow. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ergosphere.core.model import JobId, NodeId, Phase
from ergosphere.core.policy import standing
from ergosphere.core.policy.entry import SEATLESS, Entry, GangKey
from ergosphere.core.policy.leavers import Leavers
from ergosphere.core.policy.lines import Lines
from ergosphere.core.policy.rules import Rules
from ergosphere.core.policy.shape import needs_one_node

RIPE_S: Final = 1.0  # a moment is over so long after it

Footing = tuple[int, GangKey | None, bool]  # standing, the line it waits in, whether it is looked at by itself


@dataclass(frozen=True, slots=True)
class Others:
    """Whoever else is on the board. `guaranteed`: some project has a guarantee."""

    entries: Mapping[JobId, Entry]
    occupants: Mapping[NodeId, Mapping[JobId, tuple[int, int]]]
    lines: Lines
    leavers: Leavers
    rules: Rules
    guaranteed: bool

    def foremost(self) -> int:
        """The strongest standing of those who wait: whoever runs with a wish may want anything."""
        singles = [self.entries[job_id] for job_id in self.lines.singles]
        if any(one.view.phase is Phase.RUNNING for one in singles):
            return standing.PREMIUM
        waiting = (one.standing for one in singles if one.view.phase in SEATLESS)
        return min(self.lines.foremost(), *waiting, standing.COUNT)


def footing(entry: Entry, lines: Lines) -> Footing:
    """How a job stands, to be compared with how it stands after time was told of it."""
    return entry.standing, entry.gang, entry.view.id in lines.singles


@dataclass(frozen=True, slots=True)
class Span:
    """From when an alarm was set for to when it is heard: moments in between have come."""

    since_s: float
    now_s: float

    def has(self, at_s: float) -> bool:
        return self.since_s - RIPE_S <= at_s <= self.now_s


def stirs(entry: Entry, before: Footing, span: Span, others: Others) -> bool:
    """Whether somebody may gain by how it stands now.

    Whoever yields to nobody who waits gives nobody anything; nor does one that is guarded better than before, where
    nothing is guaranteed to projects. Who is moving already, or has a wish of its own to be moved, looks at free
    devices only, and of a job that is moved for others only at its node.
    """
    after, view, rules = footing(entry, others.lines), entry.view, others.rules
    if view.phase is not Phase.RUNNING:
        return after != before or after[2] or any(map(span.has, standing.ripens_s(view, rules)))
    if after[2]:
        return True
    if after[0] < before[0]:
        return others.guaranteed
    yields_to = standing.BORROWED if entry.borrowed else entry.standing
    return others.foremost() <= yields_to or _may_move(entry, span, others)


def _may_move(entry: Entry, span: Span, others: Others) -> bool:
    """Whether just now it may be made larger, or be moved so that somebody fits on its node or grows there."""
    view, rules = entry.view, others.rules
    if view.running_since_s is None:
        return False
    settles = span.has(view.running_since_s + rules.settle_s)
    if view.id in others.leavers.shrunk:
        return settles or span.has(view.not_before_s) or span.has(view.resized_s + rules.grow_after_s)
    if not settles or len(entry.masks) != 1:
        return False
    beside = others.occupants.get(next(iter(entry.masks)), {})
    if not others.leavers.shrunk.isdisjoint(beside):
        return True
    return bool(others.lines.singles) or any(needs_one_node(shape) for shape, _, _ in others.lines.gangs)
