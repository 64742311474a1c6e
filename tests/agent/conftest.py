"""What the tests of the coordinator share: a clock that they move, and a store that goes by it."""

from __future__ import annotations

import pytest
from tests.hand_clock import HandClock

from ergosphere.snapshots.memory_store import MemoryStore


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def store(clock: HandClock) -> MemoryStore:
    return MemoryStore(clock)
