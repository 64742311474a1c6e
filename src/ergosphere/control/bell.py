"""Telling those who wait that something happened: threads of the loop and requests that poll long."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from ergosphere.system import Clock

T = TypeVar("T")
AGAIN_S: Final = 1.0  # a waiter looks again this often even when nothing rang: some answers depend on time alone


class Ending(Exception):
    """The server ends, and whoever waits for news gets none."""

    cause: Final = "the server is shutting down"
    remedy: Final = "start it with `ergo up`"


class Bell:
    """Rings are counted, so that one between looking and waiting is not missed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rung = threading.Condition()
        self._count = 0
        self._ending = False
        self._sleepers: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    @property
    def count(self) -> int:
        return self._count

    def ring(self) -> None:
        """Wake everyone who waits. Callable from any thread."""
        with self._rung:
            self._count += 1
            self._rung.notify_all()
            sleepers, self._sleepers = self._sleepers, set()
        for loop, event in sleepers:
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    def end(self) -> None:
        """No request waits any longer. Callable from any thread."""
        self._ending = True
        self.ring()

    def wait(self, heard: int, wait_s: float) -> int:
        """Sleep until the count is beyond `heard`, or `wait_s` is over; gives the count. For threads."""
        with self._rung:
            self._rung.wait_for(lambda: self._count > heard, wait_s)
            return self._count

    async def until(self, look: Callable[[], T | None], wait_s: float, again_s: float = AGAIN_S) -> T | None:
        """What `look` gives, as soon as it gives something; None once `wait_s` is over. For requests.

        `look` runs in a thread and may read the ledger. Raises Ending, where it would wait, once the server ends.
        """
        end_s = self._clock.monotonic() + wait_s
        while True:
            heard = self._count
            found = await asyncio.to_thread(look)
            left_s = end_s - self._clock.monotonic()
            if found is not None or left_s <= 0:
                return found
            if self._ending:
                raise Ending
            await self._sleep(heard, min(left_s, again_s))

    async def _sleep(self, heard: int, wait_s: float) -> None:
        sleeper = (asyncio.get_running_loop(), asyncio.Event())
        with self._rung:
            if self._count > heard:
                return
            self._sleepers.add(sleeper)
        try:
            await asyncio.wait_for(sleeper[1].wait(), wait_s)
        except TimeoutError:
            return
        finally:
            with self._rung:
                self._sleepers.discard(sleeper)
