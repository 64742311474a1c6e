"""Reasons, as the policy gives them, written where owners read them. They concern no decision.

In a short queue every reason is renewed in each turn. In a long one that would be all there is time for: whoever is new
there is told within seconds, and the others in turn, those first that have waited longest for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from ergosphere.control.ledger import resizing
from ergosphere.control.ledger.change import POLICY, Change
from ergosphere.control.ledger.news import News
from ergosphere.control.ledger.sight import Sight
from ergosphere.control.ledger.tables import JobRow
from ergosphere.core.model import JobId, Phase, Plan, Reason
from ergosphere.core.policy.reasons import NO_MEMORY
from ergosphere.core.policy.waiting import WaitingReasons

REASONED: Final = frozenset({Phase.WAITING, Phase.FROZEN, Phase.RUNNING})  # phases whose reason is the policy's to give
SHORT_QUEUE: Final = 100  # jobs without seats: in a longer queue reasons are not renewed in each turn
ROUND: Final = 200  # jobs of a long queue that are told at a time: some 50 ms
ROUND_S: Final = 2.0


@dataclass(slots=True)
class Turner:
    """Whose turn it is to be told."""

    _told: dict[JobId, None] = field(default_factory=dict)  # of a long queue, the longest ago first
    _round_s: float = float("-inf")

    def in_turn(self, change: Change, plan: Plan, sight: Sight, moved: News) -> None:
        """Reasons that belong to this plan: of whoever runs, and of everybody in a short queue."""
        names = {job for job in _said(plan) if _runs(sight, job)} | sight.told
        if len(sight.waiting) <= SHORT_QUEUE:
            names |= sight.waiting
        _give(change, plan, sight, names - moved.jobs)

    def is_due(self, now_s: float, sight: Sight) -> bool:
        """Whether a long queue shall be told now."""
        due = len(sight.waiting) > SHORT_QUEUE and now_s >= self._round_s + ROUND_S
        if due:
            self._round_s = now_s
        return due

    def in_queue(self, change: Change, plan: Plan, sight: Sight, moved: News) -> None:
        """One round of a long queue."""
        self._told = {job: None for job in self._told if job in sight.waiting}
        fresh = sorted(sight.waiting - self._told.keys())
        names = [*fresh, *self._told][:ROUND]
        for job in names:
            self._told.pop(job, None)
            self._told[job] = None
        _give(change, plan, sight, set(names) - moved.jobs)


def _said(plan: Plan) -> Iterable[JobId]:
    """The jobs of which a reason is there already, without wording it."""
    return list(plan.reasons.given if isinstance(plan.reasons, WaitingReasons) else plan.reasons)


def _runs(sight: Sight, job: JobId) -> bool:
    view = sight.jobs.get(job)
    return view is not None and view.phase is Phase.RUNNING


def _give(change: Change, plan: Plan, sight: Sight, names: Iterable[str]) -> None:
    for job in change.jobs(names):
        name = JobId(job.id)
        _give_one(change, job, plan.reasons.get(name))
        (sight.told.add if job.phase is Phase.RUNNING and job.reason else sight.told.discard)(name)


def _give_one(change: Change, job: JobRow, reason: Reason | None) -> None:
    if job.phase not in REASONED:
        return None
    if reason is None:
        if job.phase is Phase.RUNNING and job.reason:
            job.reason, job.reason_code, job.remedy = "", "", ""
        return None
    if reason.code == NO_MEMORY:
        return resizing.refused(change, job, reason)
    if reason.code != job.reason_code:
        change.note(job, POLICY, "waits" if job.phase is not Phase.RUNNING else "stays", reason.text)
    if (reason.code, reason.text, reason.remedy) != (job.reason_code, job.reason, job.remedy):
        job.reason_code, job.reason, job.remedy = reason.code, reason.text, reason.remedy
    return None
