"""What waits for each node: orders, from the ledger until they are answered; mail between agents, in memory only."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from pydantic import TypeAdapter
from sqlalchemy import select

from ergosphere.control.bell import Bell
from ergosphere.control.ledger.change import Change
from ergosphere.control.ledger.ledger import Ledger
from ergosphere.control.ledger.tables import OrderRow, OrderState
from ergosphere.system import Clock
from ergosphere.wire.agents import InboxPage, Mail, Order

REDELIVER_S: Final = 5.0  # an order that is not answered yet is said again this often
MAIL_S_MAX: Final = 600.0  # undelivered mail older than any call waits for
MAIL_MAX: Final = 10_000  # pieces waiting for one node
MAILS_PER_PAGE_MAX: Final = 200

_ORDER: Final[TypeAdapter[Order]] = TypeAdapter(Order)


@dataclass(slots=True)
class _Letter:
    seq: int
    posted_s: float
    mail: Mail


@dataclass(slots=True)
class _Sent:
    seq: int
    at_s: float


@dataclass(slots=True)
class Courier:
    """`seq` grows over restarts too (it begins at the time), so that an agent's `after` never hides what is new."""

    ledger: Ledger
    clock: Clock
    bell: Bell
    _seq: int = field(init=False)
    _sent: dict[str, dict[str, _Sent]] = field(default_factory=dict)  # node → order → when
    _mail: dict[str, deque[_Letter]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._seq = int(self.clock.now() * 1000)

    def dispatch(self) -> None:
        """Whoever waits for orders looks into the ledger now."""
        self.bell.ring()

    def post(self, mail: Mail) -> bool:
        """Take mail for another agent. False when that one has not emptied its box for long."""
        with self._lock:
            box = self._mail.setdefault(mail.to, deque())
            oldest_s = self.clock.monotonic() - MAIL_S_MAX
            while box and box[0].posted_s < oldest_s:
                box.popleft()
            if len(box) >= MAIL_MAX:
                return False
            self._seq += 1
            box.append(_Letter(self._seq, self.clock.monotonic(), mail))
        self.bell.ring()
        return True

    async def page(self, node: str, after: int, wait_s: float) -> InboxPage:
        """What is new for a node since `after`; waits for it. One that restarted asks with 0 and gets all."""
        page = await self.bell.until(lambda: self._look(node, after), wait_s, REDELIVER_S / 2)
        return page or InboxPage(seq=max(after, 0))

    def _look(self, node: str, after: int) -> InboxPage | None:
        issued = self._issued(node)
        with self._lock:
            mail = self._new_mail(node, after)
            before = self._sent.get(node, {})
            sent = self._sent[node] = {one.order_id: before.get(one.order_id) or self._new() for one in issued}
            due = [order for order in issued if self._is_due(sent[order.order_id], after)]
            seqs = [letter.seq for letter in mail] + [sent[order.order_id].seq for order in due]
        if not seqs:
            return None
        return InboxPage(seq=max(after, *seqs), orders=tuple(due), mail=tuple(letter.mail for letter in mail))

    def _new_mail(self, node: str, after: int) -> list[_Letter]:
        box = self._mail.get(node, deque())
        while box and box[0].seq <= after:
            box.popleft()
        return list(box)[:MAILS_PER_PAGE_MAX]

    def _new(self) -> _Sent:
        self._seq += 1
        return _Sent(self._seq, self.clock.monotonic())

    def _is_due(self, sent: _Sent, after: int) -> bool:
        now_s = self.clock.monotonic()
        if sent.seq > after or now_s - sent.at_s >= REDELIVER_S:
            sent.at_s = now_s
            return True
        return False

    def _issued(self, node: str) -> list[Order]:
        with self.ledger.read() as look:
            query = select(OrderRow).where(OrderRow.node == node, OrderRow.state == OrderState.ISSUED)
            return [_whole(look, row) for row in look.session.scalars(query.order_by(OrderRow.issued_s))]


def _whole(look: Change, row: OrderRow) -> Order:
    """The order with its job's environment put back."""
    order = _ORDER.validate_python(row.body)
    life = order.life.model_copy(update={"spec": look.spec(look.job(row.job))})
    return order.model_copy(update={"life": life})
