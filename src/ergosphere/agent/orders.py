"""Takes orders from the server's inbox and sees each through to its answer, once, one at a time per job."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from ergosphere.agent.conduct import Conductor
from ergosphere.agent.link import ServerAway, ServerLink
from ergosphere.agent.mailbox import Mailbox
from ergosphere.system import Clock
from ergosphere.wire.agents import Answer, EndOrder, Order

ANSWERS_KEPT: Final = 1000
RETRY_S: Final = 0.5

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Orders:
    """The desk between inbox and conductor. Orders come again until answered; each is carried out once."""

    link: ServerLink
    mailbox: Mailbox
    conductor: Conductor
    clock: Clock
    _under_way: set[str] = field(default_factory=set)
    _answered: OrderedDict[str, Answer] = field(default_factory=OrderedDict)
    _jobs: dict[str, threading.Lock] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def poll_forever(self) -> None:
        """Long-poll the server; whatever it says is taken up by threads of its own."""
        after = 0
        while True:
            try:
                page = self.link.inbox(after)
                for mail in page.mail:
                    self.mailbox.receive(mail)
                for order in page.orders:
                    self.take(order)
                after = page.seq
            except ServerAway:
                self.clock.sleep(RETRY_S)
            except Exception:  # the one door: an agent that no longer listens would be worse than any one page
                log.exception("a page of the inbox could not be taken up; it comes again")
                self.clock.sleep(RETRY_S)

    def take(self, order: Order) -> None:
        with self._lock:
            answered = self._answered.get(order.order_id)
            if answered is None and order.order_id in self._under_way:
                return
            self._under_way.add(order.order_id)
            if isinstance(order, EndOrder) and answered is None:  # heard at once by a freeze that waits for its ranks
                self.conductor.ending.add((order.life.job, order.life.incarnation))
            job = self._jobs.setdefault(order.life.job, threading.Lock())
        work = threading.Thread(
            target=self._see_through, args=(order, job, answered), daemon=True, name=f"order-{order.order_id}"
        )
        work.start()

    def _see_through(self, order: Order, job: threading.Lock, answered: Answer | None) -> None:
        if answered is None:
            with job:
                log.info("order %s %s %s.%s", order.order_id, order.kind, order.life.job, order.life.incarnation)
                answered = self.conductor.carry_out(order)
                if answered is None:
                    with self._lock:
                        self._under_way.discard(order.order_id)
                    return
                log.info("answer %s ok=%s %.3fs %s", order.order_id, answered.ok, answered.took_s, answered.error)
            with self._lock:
                self._answered[order.order_id] = answered
                while len(self._answered) > ANSWERS_KEPT:
                    self._answered.popitem(last=False)
        try:
            self.link.answer(answered)
        except ServerAway:
            self.clock.sleep(RETRY_S)  # the order comes again, and finds its answer here
        finally:
            with self._lock:
                self._under_way.discard(order.order_id)
