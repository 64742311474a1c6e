"""Whether what time alone has changed about a job may change a decision. If not, no turn has to follow. Pure."""

from __future__ import annotations

from ergosphere.core.model import Phase
from ergosphere.core.policy import standing
from ergosphere.core.policy.entry import Entry, GangKey
from ergosphere.core.policy.leavers import Leavers
from ergosphere.core.policy.lines import Lines
from ergosphere.core.policy.rules import Rules

Footing = tuple[int, GangKey | None, bool]  # standing, the line it waits in, whether it is looked at by itself


def footing(entry: Entry, lines: Lines) -> Footing:
    """How a job stands, to be compared with how it stands after time was told of it."""
    return entry.standing, entry.gang, entry.view.id in lines.singles


def stirs(entry: Entry, before: Footing, lines: Lines, leavers: Leavers, now_s: float, rules: Rules) -> bool:
    """Whether somebody may gain by how it stands now.

    Whoever runs and is guarded better than before gives nobody anything; nor does one that yields to nobody who waits.
    """
    after = footing(entry, lines)
    if entry.view.phase is not Phase.RUNNING:
        return after != before or after[2] or standing.ripens(entry.view, now_s, rules)
    if lines.singles:
        return True
    if after[0] < before[0]:
        return False
    yields_to = standing.BORROWED if entry.borrowed else entry.standing
    if lines.foremost() <= yields_to or entry.view.id in leavers.shrunk:
        return True
    return bool(leavers.shrunk) and standing.settles(entry.view, now_s, rules)  # it may be moved for one of these
