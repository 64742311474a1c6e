"""A turn that is left out, because nothing stirs or nobody wants anything, would have given no orders."""

from __future__ import annotations

import pytest
from tests.core.motion import Motion

from ergosphere.core.policy.decide import decide


@pytest.mark.parametrize("seed", range(24))
def test_where_nothing_stirs_a_turn_would_give_no_orders(seed: int) -> None:
    world = Motion(seed)
    quiet = 0
    for _ in range(400):
        if world.dice.random() < 0.15:
            world.happen()
        plan = decide(world.board, world.rules)
        if not world.stirred:
            quiet += 1
            assert not plan.decisions, [(world.jobs[d.job], d) for d in plan.decisions][0]
        world.turn(world.dice.choice([1.0, 7.0, 60.0, 600.0]), patience=0.7)
    assert quiet > 20


@pytest.mark.parametrize("seed", range(8))
def test_where_nobody_wants_anything_a_turn_gives_nothing(seed: int) -> None:
    world = Motion(seed)
    idle = 0
    for _ in range(300):
        if world.dice.random() < 0.04:
            world.happen()
        plan = decide(world.board, world.rules)
        if world.board.is_idle():
            idle += 1
            assert (plan.decisions, dict(plan.rooms)) == ((), {})
        world.turn(world.dice.choice([1.0, 7.0, 60.0, 600.0]), patience=0.7)
    assert idle > 20
