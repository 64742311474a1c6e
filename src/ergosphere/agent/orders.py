"""Takes orders from the server's inbox and sees each through to its answer, once, one at a time per job."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from ergosphere.agent.conduct import Conductor
from ergosphere.agent.inbox_page import Strange
from ergosphere.agent.link import ServerAway, ServerLink
from ergosphere.agent.mailbox import Mailbox
from ergosphere.system import Clock
from ergosphere.wire.agents import Answer, EndOrder, Order

ANSWERS_KEPT: Final = 1000
RETRY_S: Final = 0.5
END: Final = "end"  # the kind of `EndOrder`

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
                for strange in page.strange:
                    self.refuse(strange)
                after = page.seq
            except ServerAway:
                self.clock.sleep(RETRY_S)
            except Exception:  # the one door: an agent that no longer listens would be worse than any one page
                log.exception("a page of the inbox could not be taken up; it comes again")
                self.clock.sleep(RETRY_S)

    def refuse(self, strange: Strange) -> None:
        """Say no to an order that is not understood. One to end a life is left open until somebody understands it:
        after any answer the job is over, and results that were not brought home are lost.
        """
        answer = strange.answer
        if answer.order_id not in self._answered:
            log.error("%s.%s: %s; %s", answer.job, answer.incarnation, answer.error, answer.remedy)
            self._keep(answer)
        if strange.kind != END:
            self.link.answer(answer)

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
            if not _comes_again(order, answered):
                self._keep(answered)
        try:
            self.link.answer(answered)
        except ServerAway:
            self.clock.sleep(RETRY_S)  # the order comes again, and finds its answer here
        finally:
            with self._lock:
                self._under_way.discard(order.order_id)

    def _keep(self, answer: Answer) -> None:
        """It is given again when its order comes again."""
        with self._lock:
            self._answered[answer.order_id] = answer
            while len(self._answered) > ANSWERS_KEPT:
                self._answered.popitem(last=False)


def _comes_again(order: Order, answer: Answer) -> bool:
    """Results that cannot be brought home now are not given up: the server leaves the order open."""
    return isinstance(order, EndOrder) and not answer.ok and answer.transient
