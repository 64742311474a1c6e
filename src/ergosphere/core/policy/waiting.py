"""Reasons of those who wait, worded when they are read: a turn with 20,000 waiting jobs writes none of them in vain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from ergosphere.core.model import JobId, JobView, ProjectView, Reason
from ergosphere.core.policy import reasons, standing
from ergosphere.core.policy.asking import could_ever_hold, shares_wanted
from ergosphere.core.policy.board import Board
from ergosphere.core.policy.entry import SEATLESS, Entry
from ergosphere.core.policy.shape import fewest, largest
from ergosphere.core.policy.standing import waits
from ergosphere.core.policy.turn import Ask, Counts, Later, Turn


@dataclass(eq=False)
class WaitingReasons(Mapping[JobId, Reason]):
    """A reason for every job that waits, and for others where something stands against what was asked."""

    board: Board
    given: dict[JobId, Reason | Later]
    decided: frozenset[JobId]
    free: Counts
    against: dict[Ask, tuple[ProjectView, int]] = field(default_factory=dict)
    _ahead: dict[JobId, tuple[int, list[JobView]]] | None = field(default=None)

    @staticmethod
    def of(turn: Turn) -> WaitingReasons:
        return WaitingReasons(turn.board, turn.reasons, frozenset(turn.decisions), turn.counts(), turn.against)

    def __getitem__(self, job_id: JobId) -> Reason:
        found = self.given.get(job_id)
        if not isinstance(found, Reason):
            found = self.given[job_id] = self._worded(job_id) if found is None else found()
        return found

    def __iter__(self) -> Iterator[JobId]:
        yield from (job_id for job_id in self.board.entries if job_id in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, job_id: object) -> bool:
        if job_id in self.given:
            return True
        if job_id in self.decided:
            return False
        entry = self.board.entries.get(job_id)  # type: ignore[call-overload]
        return entry is not None and entry.view.phase in SEATLESS

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and dict(self) == dict(other)

    def __repr__(self) -> str:
        return repr(dict(self))

    def _worded(self, job_id: JobId) -> Reason:
        if job_id not in self:
            raise KeyError(job_id)
        entry = self.board.entries[job_id]
        job = entry.view
        if job.paused or job.cancel:
            return reasons.paused(job)
        if not job.wanted:
            return reasons.unwanted(job)
        if job.after:
            return reasons.after(job)
        if job.not_before_s > self.board.now_s:
            return reasons.back_off(job, self.board.now_s)
        return self._no_room(entry)

    def _no_room(self, entry: Entry) -> Reason:
        board, job = self.board, entry.view
        if not board.usable:
            return reasons.no_node([node.view for node in board.nodes.values()])
        over = self._over_quota(job, job.ranks // shares_wanted(board, entry)[-1])
        if over is not None:
            return over
        misfit = unsuitable(board, entry)
        if misfit is not None:
            return misfit
        place, first = self._those_ahead(entry)
        counts = self.free
        most = largest(entry.shape)
        whole = standing.goes_whole(job, board.standing_of(entry), most, board.usable)
        asks = replace(job, min_devices=most) if whole else job
        reason = reasons.no_room(asks, counts.free, counts.held, board.usable, first, place)
        return reasons.kept_whole(job, reason) if whole and len(entry.shape.shares) > 1 else reason

    def _over_quota(self, job: JobView, devices: int) -> Reason | None:
        """As it was when its turn came; else as it is."""
        found = self.against.get((job.project, job.tier, devices))
        if found is None:
            project = self.board.tree.blocked(job.project, job.tier, devices)
            found = None if project is None else (project, self.board.tree.used(project.id))
        return None if found is None else reasons.over_quota(job, *found, devices)

    def _those_ahead(self, entry: Entry) -> tuple[int, list[JobView]]:
        """How many jobs without seats are served before it, and the first few of them."""
        if self._ahead is None:
            waiting = sorted(
                (
                    one
                    for one in self.board.entries.values()
                    if one.view.phase in SEATLESS and waits(one.view) and one.view.id not in self.decided
                ),
                key=self.board.key,
            )
            first = [one.view for one in waiting[: reasons.NAMED_MAX]]
            self._ahead = {one.view.id: (place, first) for place, one in enumerate(waiting)}
        place, first = self._ahead[entry.view.id]
        return place, first[:place]


def unsuitable(board: Board, entry: Entry) -> Reason | None:
    """Why the fleet as it is now could not hold it even if it were empty; None if it could."""
    job, shape = entry.view, entry.shape
    if could_ever_hold(board, shape):
        return None
    if shape.barred and could_ever_hold(board, replace(shape, barred=frozenset())):
        return reasons.unfit(job)
    most, whole, suited = most_it_could_have(board, entry)
    if most >= fewest(shape):
        return None
    if suited == 0 and (job.speeds or job.device_bytes or job.regions):
        return reasons.unsuited(job)
    return reasons.too_large(job, most, whole)


def most_it_could_have(board: Board, entry: Entry) -> tuple[int, int, int]:
    """Devices of the best place now, of the best place with all nodes back, and of all that suit it."""
    keys = set(board.pools.keys(entry.shape))
    now: dict[tuple[object, ...], int] = {}
    back: dict[tuple[object, ...], int] = {}
    for node in board.nodes.values():
        if node.pool not in keys:
            continue
        key = _where(entry, node.pool, node.domain, node.id)
        now[key] = now.get(key, 0) + node.full.bit_count()
        back[key] = back.get(key, 0) + node.view.devices
    return max(now.values(), default=0), max(back.values(), default=0), sum(back.values())


def _where(entry: Entry, pool: tuple[object, ...], domain: str, node: str) -> tuple[object, ...]:
    match entry.shape.together:
        case "node":
            return (*pool[1:4], domain, node)
        case "domain":
            return (*pool[1:4], domain)
        case _:
            return pool[1:4]
