"""Who waits for news: woken by a ring, and sent away when the server ends."""

from __future__ import annotations

import asyncio

import pytest

from ergosphere.control.bell import Bell, Ending
from ergosphere.system import SystemClock

FOREVER_S = 3600.0


def test_who_waits_is_sent_away_when_the_server_ends_and_who_has_an_answer_gets_it() -> None:
    bell = Bell(SystemClock())

    async def waiting() -> None:
        wait = asyncio.create_task(bell.until(lambda: None, FOREVER_S, FOREVER_S))
        while not bell._sleepers:
            await asyncio.sleep(0.01)
        bell.end()
        with pytest.raises(Ending):
            await wait
        with pytest.raises(Ending):
            await bell.until(lambda: None, FOREVER_S, FOREVER_S)
        assert await bell.until(lambda: "news", FOREVER_S) == "news"
        assert await bell.until(lambda: None, 0.0) is None, "who does not wait is answered as ever"

    asyncio.run(asyncio.wait_for(waiting(), 60.0))
