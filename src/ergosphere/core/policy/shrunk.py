"""Who runs with fewer devices than it asks for: in the order of being served, and who is to be looked at again."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from heapq import merge

from ergosphere.core.fraction import NEVER_S
from ergosphere.core.model import JobId
from ergosphere.core.policy import standing
from ergosphere.core.policy.entry import Entry, Key, Rest
from ergosphere.core.policy.rules import Rules

Rank = tuple[int, bool, str]  # standing, services first, project


class Shrunk:
    """Kept beside a board."""

    def __init__(self) -> None:
        self.jobs: set[JobId] = set()
        self.changed: set[JobId] = set()  # of all jobs those on whose nodes something has, since they could not grow
        self._lines: dict[Rank, list[Rest]] = {}

    def add(self, entry: Entry, rules: Rules) -> None:
        rank = _rank(entry)
        self.jobs.add(entry.view.id)
        insort(self._lines.setdefault(rank, []), entry.rest)
        entry.wants = rank
        entry.grows_s = _grows_from_s(entry, rules)

    def drop(self, entry: Entry) -> None:
        if entry.wants is not None:
            line = self._lines[entry.wants]
            del line[bisect_left(line, entry.rest)]
            if not line:
                del self._lines[entry.wants]
            self.jobs.discard(entry.view.id)
            entry.wants = None

    def look_again(self, jobs: Iterable[JobId]) -> None:
        """Something has changed on their nodes."""
        self.changed.update(jobs)

    def to_look_at(self) -> set[JobId]:
        """Those for whom there may be more on their own nodes than there was."""
        return self.jobs & self.changed

    def in_order(self, share: Callable[[str], tuple[float, ...]]) -> Iterator[JobId]:
        """All of them, who is served first in front. `share`: what a project has had of its fair share."""
        keys = (_keys(rank, share(rank[2]), line) for rank, line in self._lines.items())
        return (key[-1][-1] for key in merge(*keys))


def _keys(rank: Rank, share: tuple[float, ...], line: list[Rest]) -> Iterator[Key]:
    urgency, training, _ = rank
    return ((urgency, training, share, rest) for rest in line)


def _rank(entry: Entry) -> Rank:
    return (standing.BORROWED if entry.borrowed else entry.standing, entry.training, entry.view.project)


def _grows_from_s(entry: Entry, rules: Rules) -> float:
    """From when on it may be given more: its last resize is not too fresh, and its owner wants it where it is."""
    view = entry.view
    if view.paused or view.cancel or view.move_asked:
        return NEVER_S
    return view.resized_s + rules.grow_after_s if view.resized_s else 0.0
