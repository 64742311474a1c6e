"""When time alone may change how a job or a node stands: a heap, in which one alarm of each job counts."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush

from ergosphere.core.fraction import NEVER_S
from ergosphere.core.model import JobId, NodeId, Phase
from ergosphere.core.policy import standing
from ergosphere.core.policy.entry import Entry, falls_short, rouses_s
from ergosphere.core.policy.rules import Rules


class Alarms:
    """Kept beside a board."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, str, str]] = []
        self._of: dict[str, float] = {}  # by job

    def look_at_node(self, node_id: NodeId, at_s: float) -> None:
        heappush(self._heap, (at_s, "node", node_id))

    def look_at_job(self, job_id: JobId, at_s: float) -> None:
        """An alarm that is set already for an earlier moment stays."""
        if at_s < self._of.get(job_id, NEVER_S):
            self._of[job_id] = at_s
            heappush(self._heap, (at_s, "job", job_id))

    def forget_job(self, job_id: JobId) -> None:
        self._of.pop(job_id, None)

    def first_s(self) -> float:
        return self._heap[0][0] if self._heap else NEVER_S

    def due(self, now_s: float) -> Iterator[tuple[float, str, str]]:
        """Moment, `node` or `job`, and which: each is taken off as it is given."""
        while self._heap and self._heap[0][0] <= now_s:
            at_s, kind, name = heappop(self._heap)
            if kind == "job":
                if self._of.get(name) != at_s:
                    continue
                del self._of[name]
            yield at_s, kind, name


def next_look_s(entry: Entry, now_s: float, rules: Rules) -> float:
    """When a job is to be looked at again though nothing happens to it (inf: never)."""
    at_s = min(entry.changes_s, rouses_s(entry.view, now_s, rules))
    if entry.view.phase is Phase.RUNNING and falls_short(entry):  # it is made whole as if it waited
        at_s = min(at_s, standing.of_waiting(entry.view, now_s, rules)[1])
    return at_s
