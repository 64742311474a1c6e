"""Whether what time alone has changed about a job may change a decision. If not, no turn has to follow. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ergosphere.core.model import Phase
from ergosphere.core.policy import standing
from ergosphere.core.policy.entry import Entry, GangKey
from ergosphere.core.policy.leavers import Leavers
from ergosphere.core.policy.lines import Lines
from ergosphere.core.policy.rules import Rules

RIPE_S: Final = 1.0  # a moment is over so long after it

Footing = tuple[int, GangKey | None, bool]  # standing, the line it waits in, whether it is looked at by itself


@dataclass(frozen=True, slots=True)
class Others:
    """Whoever else is on the board. `guaranteed`: some project has a guarantee."""

    lines: Lines
    leavers: Leavers
    rules: Rules
    guaranteed: bool


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
    nothing is guaranteed to projects.
    """
    after, view, rules = footing(entry, others.lines), entry.view, others.rules
    if view.phase is not Phase.RUNNING:
        return after != before or after[2] or any(map(span.has, standing.ripens_s(view, rules)))
    if others.lines.singles:
        return True
    if after[0] < before[0]:
        return others.guaranteed
    yields_to = standing.BORROWED if entry.borrowed else entry.standing
    if others.lines.foremost() <= yields_to or view.id in others.leavers.shrunk:
        return True
    wanted = others.leavers.shrunk or others.lines.gangs  # it may be moved so that one of these fits
    return bool(wanted) and view.running_since_s is not None and span.has(view.running_since_s + rules.settle_s)
