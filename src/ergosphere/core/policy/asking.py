"""On how many devices a job would start, and whether the fleet could ever give them. Pure questions to the board."""

from __future__ import annotations

import math

from ergosphere.core.model import Together
from ergosphere.core.policy import standing
from ergosphere.core.policy.board import Board
from ergosphere.core.policy.entry import Entry
from ergosphere.core.policy.packing import enough_of_each
from ergosphere.core.policy.quota import Tree
from ergosphere.core.policy.seats import pack_cells
from ergosphere.core.policy.shape import Shape

Shares = tuple[int, ...]  # ranks per device, fewest first


def shares_wanted(board: Board, entry: Entry) -> Shares:
    """Ranks per device to try: who is promised its devices takes all of them or none, as far as its project may ever
    have so many; anybody else takes fewer, too."""
    shape = entry.shape
    if len(shape.shares) == 1:
        return shape.shares
    if entry.whole is None:
        most = ceiling(board.tree, entry.view.project)
        widest = next((share for share in shape.shares if shape.ranks // share <= most), shape.shares[-1])
        entry.whole = (widest,), shape.ranks // widest
    widest_only, devices = entry.whole
    whole = standing.goes_whole(entry.view, board.standing_of(entry), devices, board.usable)
    return widest_only if whole else shape.shares


def numbers_of(board: Board, entry: Entry, shares: Shares) -> tuple[int, int]:
    """A number for its shape with these ranks per device, and one for the fewest of them alone: quicker to look up."""
    if entry.asked is None or entry.asked[0] is not shares:
        whole = board.asks.setdefault((entry.shape, shares), len(board.asks))
        entry.asked = shares, (whole, board.asks.setdefault((entry.shape, shares[:1]), len(board.asks)))
    return entry.asked[1]


def within_limits(board: Board, entry: Entry, shares: Shares) -> Shares:
    """Of these, those that its project may have now."""
    job, tree = entry.view, board.tree
    if not tree.guarded:
        return shares
    return tuple(share for share in shares if tree.blocked(job.project, job.tier, job.ranks // share) is None)


def ceiling(tree: Tree, project: str) -> float:
    """The most devices that limits, and a will not to borrow, would leave the project if nobody else used any."""
    if not tree.guarded:
        return math.inf
    most, firm = math.inf, False
    for known in (tree.projects[name] for name in tree.path(project) if name in tree.projects):
        most = most if known.limit is None else min(most, known.limit)
        firm = firm or not known.borrow
        if known.guarantee is not None:
            most, firm = min(most, known.guarantee) if firm else most, False
    return most


def could_ever_hold(board: Board, shape: Shape, shares: Shares = ()) -> bool:
    """Whether the nodes that take jobs now could hold it if nobody sat on them. Reckoned once until nodes change."""
    asked = (shape, shares or shape.shares)
    found = board.holdable.get(asked)
    if found is None:
        found = board.holdable[asked] = any(_could_hold(board, shape, share) for share in asked[1])
    return found


def _could_hold(board: Board, shape: Shape, share: int) -> bool:
    layer, needed = board.whole.refresh(), shape.ranks // share
    for area in map(layer.area, board.pools.groups(shape)):
        if area is None or area.nodes.total < needed:
            continue
        if shape.cells:
            fits = pack_cells(shape.cells, enough_of_each(area, shape, layer), {}, share) is not None
        elif shape.together is Together.NODE:
            fits = area.nodes.snug(needed, layer.counts) is not None
        else:
            fits = shape.together is Together.ANY or area.snug_domain(needed) is not None
        if fits:
            return True
    return False
