"""Who works beyond a guarantee: kept with each account, because such hours are promised nothing.

The board knows it turn by turn; here it becomes a fact of the account, so that reports can tell months later.
"""

from __future__ import annotations

from typing import Final

from ergosphere.control.ledger import accounts
from ergosphere.control.ledger.change import Change
from ergosphere.control.ledger.news import News
from ergosphere.control.ledger.sight import Sight
from ergosphere.core.model import JobId
from ergosphere.core.policy.board import Board
from ergosphere.core.policy.entry import Entry
from ergosphere.core.policy.rules import strength
from ergosphere.core.policy.standing import waits

FEW: Final = 1_000  # jobs: of so many it is reckoned in every turn
EVERY_S: Final = 5.0  # of more: accounts of hours can bear that


class Borrowed:
    """Reckoned when due, written where it has changed."""

    def __init__(self) -> None:
        self._reckoned_s = float("-inf")

    def note(self, change: Change, board: Board, sight: Sight, moved: News) -> None:
        """Write down who borrows from now on, and who does not any more."""
        if not (board.tree.kept or sight.borrowed):
            return
        if len(board.entries) > FEW and change.now_s < self._reckoned_s + EVERY_S:
            return
        self._reckoned_s = change.now_s
        borrow = borrowing(board)
        for job in change.jobs((borrow ^ sight.borrowed) - moved.jobs):
            accounts.borrows(change, job, borrowed=job.id in borrow)


def borrowing(board: Board) -> set[JobId]:
    """Of those that run whom the board says; of those that wait whoever has no more room in its project's guarantee."""
    if not board.tree.kept:
        return set()
    found: set[JobId] = set()
    left: dict[str, float] = {}
    for entry in sorted(board.entries.values(), key=_by_strength):
        guardian = board.tree.guardian(entry.view.project)
        pool = guardian.id if guardian is not None else ""
        room = left.setdefault(pool, board.tree.allowance(pool))
        wanted = entry.devices or (entry.view.ranks if guardian is not None and waits(entry.view) else 0)
        if entry.borrowed or (not entry.devices and wanted > room):
            found.add(entry.view.id)
        else:
            left[pool] = room - wanted
    return found


def _by_strength(entry: Entry) -> tuple[object, ...]:
    return (not entry.devices, strength(entry.view.tier), entry.view.submitted_s, entry.view.id)
