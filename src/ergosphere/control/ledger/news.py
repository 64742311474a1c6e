"""What has changed in the ledger, by id: who keeps a picture of it reads only that anew."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import event, inspect
from sqlalchemy.orm import ORMExecuteState, Session

from ergosphere.control.ledger.tables import (
    CellRow,
    EventRow,
    FitnessRow,
    JobRow,
    NodeRow,
    OrderRow,
    ProjectRow,
    SnapshotRow,
)

WORDS: Final = frozenset({"reason", "reason_code", "remedy"})  # of a job: told to people, seen by nobody else
OF_JOBS: Final = (CellRow, SnapshotRow, OrderRow)


@dataclass(slots=True)
class News:
    """Ids of what changed; `whole`: nobody can tell, so everything may have."""

    jobs: set[str] = field(default_factory=set)
    nodes: set[str] = field(default_factory=set)
    snapshots: set[str] = field(default_factory=set)  # those that some node has weighed anew
    projects: bool = False
    whole: bool = False
    anything: bool = False  # a row of any kind; words and history count too

    def __bool__(self) -> bool:
        return bool(self.jobs or self.nodes or self.snapshots or self.projects or self.whole)

    def add(self, more: News) -> None:
        self.jobs |= more.jobs
        self.nodes |= more.nodes
        self.snapshots |= more.snapshots
        self.projects |= more.projects
        self.whole |= more.whole
        self.anything |= more.anything

    def take(self) -> News:
        """All of it; nothing is left here."""
        taken = News(self.jobs, self.nodes, self.snapshots, self.projects, self.whole, self.anything)
        self.jobs, self.nodes, self.snapshots = set(), set(), set()
        self.projects = self.whole = self.anything = False
        return taken


def gather(session: Session, news: News) -> None:
    """From now on whatever the session writes is noted in `news`."""
    event.listen(session, "after_flush", lambda _session, _context: _note_flush(session, news))
    event.listen(session, "do_orm_execute", lambda state: _note_statement(state, news))


def _note_flush(session: Session, news: News) -> None:
    changed = [row for row in session.dirty if session.is_modified(row)]
    for row in (*session.new, *session.deleted, *changed):
        news.anything = True
        _note(row, news)


def _note(row: Any, news: News) -> None:
    match row:
        case JobRow():
            if not _only_words(row):
                news.jobs.add(row.id)
        case CellRow() | SnapshotRow() | OrderRow():
            news.jobs.add(row.job)
        case NodeRow():
            news.nodes.add(row.id)
        case FitnessRow():
            news.snapshots.add(row.snapshot)
        case ProjectRow():
            news.projects = True


def _only_words(row: JobRow) -> bool:
    state = inspect(row)
    changed = state.committed_state
    return state.persistent and bool(changed) and WORDS.issuperset(changed)


def _note_statement(state: ORMExecuteState, news: News) -> None:
    """Statements that change rows without loading them tell no ids."""
    if not (state.is_update or state.is_delete) or state.bind_mapper is None:
        return
    news.anything = True
    kind = state.bind_mapper.class_
    if kind is ProjectRow:
        news.projects = True
    elif kind in (JobRow, NodeRow, *OF_JOBS):
        news.whole = True
    else:
        assert kind in (FitnessRow, EventRow), f"nobody has said who looks at {kind}"  # weighed ones go with snapshots
