"""Claims: who has waited for too long, for a room that comes free in pieces only, gets it from its own tier.

Small jobs use the pieces meanwhile, but on loan: everything can be frozen, so nothing has to be kept idle for a large
job, and whoever began after it had to wait leaves as soon as that makes the whole room. A service's replica claims its
room from training of its tier at once.
"""

from __future__ import annotations

from collections.abc import Iterator

from ergosphere.core.model import JobView
from ergosphere.core.policy import standing
from ergosphere.core.policy.entry import Entry
from ergosphere.core.policy.quota import Tree
from ergosphere.core.policy.reach import is_within
from ergosphere.core.policy.turn import Turn


def has_claim(turn: Turn, entry: Entry) -> bool:
    """A single device needs none: the first that comes free is its own."""
    if entry.training and not entry.pieces:
        return False
    board = turn.board
    urgency = board.standing_of(entry)
    return board.may_claim(entry, urgency) if entry.training else urgency != standing.BORROWED


def could_be_had(turn: Turn, entry: Entry) -> bool:
    """Whether its room might be found if all left for it that ever would: False is certain. Who has a wish or
    a room is tried anyhow."""
    board = turn.board
    if entry.gang is None:
        return True
    if not turn.failed and board.now.refresh().total >= entry.shape.ranks // entry.shape.shares[-1]:
        return True  # nobody was refused yet: most likely there is room
    urgency = board.standing_of(entry)
    leave_from = urgency if has_claim(turn, entry) else urgency + 1
    layer = board.reach.layer((leave_from, standing.FIRST_OF[entry.view.tier]))
    return is_within(layer, entry.shape, board.pools.groups(entry.shape))


def yielding(turn: Turn, entry: Entry) -> Iterator[Entry]:
    """Jobs of its own tier (or borrowed, if it is) that would leave for it."""
    board, job = turn.board, entry.view
    urgency = board.standing_of(entry)
    since_s = standing.claims_since_s(job, urgency, board.rules)
    lent: dict[str, int] = {}
    for _, job_id in board.leavers.by_standing[urgency]:
        one = board.entries[job_id]
        leaves = standing.yields(one.view, job, since_s, board.now_s, board.rules)
        if leaves and job_id not in turn.decisions and not board.silent(one):
            devices = lent.get(one.view.project, 0) + one.devices
            if job.service or _can_spare(board.tree, one.view, devices, job):
                lent[one.view.project] = devices
                yield one


def _can_spare(tree: Tree, runs: JobView, devices: int, waits: JobView) -> bool:
    """Whether its project, with so many devices fewer, would not be behind the other's: a claim is no way to more than
    a fair share."""
    if runs.project == waits.project:
        return True
    tree.use(runs.project, runs.tier, -devices)
    spares = tree.share(runs.project) >= tree.share(waits.project)
    tree.use(runs.project, runs.tier, devices)
    return spares
