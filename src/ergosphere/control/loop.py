"""The loop: observe, decide, commit, dispatch; at once when something happened, else twice a second.

The simulator runs this very `turn` over a world of its own.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from ergosphere.core.model import Plan
from ergosphere.core.policy.decide import decide
from ergosphere.core.policy.rules import Rules
from ergosphere.system import Clock

if TYPE_CHECKING:
    from ergosphere.control.courier import Courier
    from ergosphere.control.ledger.ledger import Ledger
    from ergosphere.control.ledger.ledger import Seen as LedgerSeen
    from ergosphere.control.watch import Watch

PERIOD_S: Final = 0.5  # how often time alone is asked whether it has changed anything
QUIET_S_MAX: Final = 5.0  # without a turn: nothing that was overlooked stays so for longer
AFTER_FAULT_S: Final = 2.0

log = logging.getLogger(__name__)

Sight = TypeVar("Sight")
SightOut = TypeVar("SightOut", covariant=True)


class Seen(Protocol[SightOut]):
    """What a decision may look at, and the version of the world that it shows."""

    @property
    def view(self) -> SightOut: ...

    @property
    def version(self) -> int: ...


class World(Protocol[SightOut]):
    """What a turn acts upon."""

    def notice(self) -> None:
        """Write down everything that has become true by the passing of time."""

    def observe(self) -> Seen[SightOut]: ...

    def commit(self, plan: Plan, version: int) -> bool:
        """Carry out a plan. False, and nothing done, when the world has moved since `version`."""

    def dispatch(self) -> None:
        """Orders leave."""


def turn(world: World[Sight], rules: Rules, judge: Callable[[Sight, Rules], Plan]) -> Plan | None:
    """Observe, decide, commit, dispatch. None means the world moved first: try again."""
    world.notice()
    seen = world.observe()
    plan = judge(seen.view, rules)
    if not world.commit(plan, seen.version):
        return None
    world.dispatch()
    return plan


@dataclass(frozen=True, slots=True)
class Service:
    """The world of the service: the ledger, those who tell it what time tells, and those who carry orders."""

    watch: Watch
    ledger: Ledger
    courier: Courier

    def notice(self) -> None:
        self.watch.notice()

    def observe(self) -> LedgerSeen:
        return self.ledger.observe()

    def commit(self, plan: Plan, version: int) -> bool:
        return self.ledger.commit(plan, version)

    def dispatch(self) -> None:
        self.courier.dispatch()


@dataclass(slots=True)
class Loop:
    """Turns in a thread of its own until stopped."""

    watch: Watch
    ledger: Ledger
    courier: Courier
    rules: Rules
    clock: Clock
    fault: str = ""  # why the last turn failed; "" when it did not. Shown by `ergo status`
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="loop", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No turn begins after this returns."""
        self._stopping.set()
        self.ledger.bell.ring()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            heard, turns = self.ledger.bell.count, self.watch.leases.turns()
            quiet_until_s = self._turn()
            while not self._stopping.is_set() and not self._is_called_for(turns, quiet_until_s):
                heard = self.ledger.bell.wait(heard, PERIOD_S)

    def _is_called_for(self, turns: int, quiet_until_s: float) -> bool:
        """Whether a turn could do anything: news, a node that came or went, or time."""
        moved = self.ledger.moved() or self.watch.leases.turns() != turns
        return moved or self.clock.now() >= quiet_until_s

    def _turn(self) -> float:
        """One turn; until when nothing but news can call for another, in seconds since the epoch."""
        try:
            began_s = self.clock.now()
            plan = turn(Service(self.watch, self.ledger, self.courier), self.rules, decide)
            if plan is not None:
                self.ledger.tell(plan)
            self.fault = ""
            alarm_s = min(self.watch.alarm_s(), self.ledger.alarm_s())
            return min(began_s + QUIET_S_MAX, max(alarm_s, began_s + PERIOD_S))
        except Exception as error:  # the one door: a full disk or a bug must not end the service for all jobs
            self.fault = f"{type(error).__name__}: {error}"
            log.exception("a turn of the loop failed and was undone; the next one follows")
            self._stopping.wait(AFTER_FAULT_S)
            return 0.0
