"""The short form of `make chaos`: fifteen kills of server, agents and ranks while the example programs run."""

from __future__ import annotations

from tests.chaos.run import storm
from tests.chaos.storm import Force

SEED = 20
FORCE = Force(kills=15, span_s=900.0, apart_s=0.25)


def test_fifteen_kills_at_random_leave_every_result_as_it_is_without_ergo() -> None:
    made = storm(SEED, FORCE)
    story = f"seed {SEED}\n" + "\n".join(made.history)
    assert made.faults == [], story
    assert made.kills >= FORCE.kills, story
    assert made.compared >= len(made.programs) and made.recoveries > 0, story
