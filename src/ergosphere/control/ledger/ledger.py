"""The ledger: every read and every change of what the service knows goes through here.

One writer at a time; each change notes what it touched and rings the bell. No rule about jobs lives here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Engine, update
from sqlalchemy.orm import Session

from ergosphere.control.bell import Bell
from ergosphere.control.leases import Leases
from ergosphere.control.ledger import decisions, telling
from ergosphere.control.ledger.borrowed import Borrowed
from ergosphere.control.ledger.change import Change
from ergosphere.control.ledger.news import News, gather
from ergosphere.control.ledger.sight import Sight
from ergosphere.control.ledger.tables import NodeRow, WorldRow
from ergosphere.core.model import Plan, View
from ergosphere.core.policy.board import Board
from ergosphere.core.policy.rules import Rules
from ergosphere.system import Clock


@dataclass(frozen=True, slots=True)
class Seen:
    """The board, caught up with the ledger, and which look that was."""

    view: Board
    version: int


class Ledger:
    """Opened over a migrated database; thread-safe."""

    def __init__(
        self,
        database: Engine,
        clock: Clock,
        leases: Leases,
        bell: Bell,
        new_id: Callable[[], str],
        prefix: str,
        rules: Rules = Rules(),
    ) -> None:
        self.clock = clock
        self.leases = leases
        self.bell = bell
        self._database = database
        self._new_id = new_id
        self._prefix = prefix
        self._writing = threading.RLock()
        self._sight = Sight(leases)
        self._news = News(whole=True)  # what the sight has not read yet
        self._listening = [self._news]
        self._board = Board(rules)  # the loop's alone
        self._looks = 0  # how often the loop has looked
        self._turner = telling.Turner()
        self._borrowed = Borrowed()
        with self.change() as change:
            if change.session.get(WorldRow, 1) is None:
                change.session.add(WorldRow(id=1))

    @contextmanager
    def read(self) -> Iterator[Change]:
        """A consistent look; nothing written through it is kept."""
        with Session(self._database) as session:
            yield self._changing(session)

    @contextmanager
    def change(self) -> Iterator[Change]:
        """A transaction: kept when the block ends well, undone when it raises. Rings the bell if anything changed."""
        with self._writing:
            with Session(self._database) as session, session.begin():
                change = self._changing(session)
                gather(session, change.news)
                yield change
                session.flush()
            for news in self._listening:
                news.add(change.news)
        if change.news.anything:
            self.bell.ring()

    def _changing(self, session: Session) -> Change:
        return Change(session, self.clock.now(), self._new_id, self._prefix, self._addresses)

    def _addresses(self) -> Container[str]:
        with self.sight() as sight:
            return sight.addresses

    # ---- what is seen

    def listen(self) -> News:
        """News that whoever asks takes for itself, beginning with everything."""
        news = News(whole=True)
        with self._writing:
            self._listening.append(news)
        return news

    @contextmanager
    def sight(self) -> Iterator[Sight]:
        """All live jobs and nodes as the last finished change left them. Nothing changes as long as it is held."""
        with self._writing:
            news = self._news.take()
            news.nodes |= self.leases.turned()
            if news:
                self._catch_up(news)
            yield self._sight

    def _catch_up(self, news: News) -> None:
        try:
            with self.read() as look:
                self._sight.catch_up(look, news)
        except BaseException:
            self._news.whole = True
            raise

    def observe(self) -> Seen:
        """All that a decision may look at. For the loop only: the next look changes it."""
        with self.sight() as sight:
            sight.feed(self._board, self.clock.now())
            self._looks += 1
            return Seen(self._board, self._looks)

    def picture(self) -> View:
        """The same as a plain value, for whoever else asks what would be decided."""
        with self.sight() as sight:
            return sight.picture(self.clock.now())

    def moved(self) -> bool:
        """Whether anything that a decision looks at has changed since the loop looked."""
        return bool(self._news or self._sight.unfed)

    def alarm_s(self) -> float:
        """When time alone may change a decision next, in seconds since the epoch. For the loop only."""
        return self._board.alarm_s()

    # ---- what is decided

    def commit(self, plan: Plan, version: int) -> bool:
        """Carry out a plan. What has moved since `version` is left out, with whatever depends on it: the next turn sees
        to it. False, and nothing done, when there was a later look, or the tree of projects was changed."""
        with self.sight() as sight:
            moved = sight.unfed
            if version != self._looks or moved.whole or moved.projects:
                return False
            with self.change() as change:
                decisions.carry_out(change, plan, sight, moved)
                self._borrowed.note(change, self._board, sight, moved)
                self._turner.in_turn(change, plan, sight, moved)
        return True

    def tell(self, plan: Plan) -> None:
        """Give reasons to some of those who wait in a queue that is too long for all of them in each turn."""
        with self.sight() as sight:
            if self._turner.is_due(self.clock.monotonic(), sight):
                with self.change() as change:
                    self._turner.in_queue(change, plan, sight, sight.unfed)

    def hear(self, node: str) -> None:
        """Keep roughly when a node was last heard of; concerns no decision, so it rings no bell."""
        with self._writing, Session(self._database) as session, session.begin():
            session.execute(update(NodeRow).where(NodeRow.id == node).values(heard_s=self.clock.now()))

    def close(self) -> None:
        self._database.dispose()
