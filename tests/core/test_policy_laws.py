"""What holds for every view: generated fleets, and a toy world that obeys plans for many turns."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.fleets import RULES, World, answered, look, node, obey, sizes_of, views

from ergosphere.core.model import (
    HOLDS_SEATS,
    Freeze,
    JobId,
    JobView,
    Phase,
    Placement,
    Plan,
    Resize,
    Seat,
    Start,
    Stop,
    Thaw,
    View,
    Why,
)
from ergosphere.core.policy.decide import decide
from ergosphere.core.policy.explain import explain
from ergosphere.core.policy.rules import strength, turn_in_queue
from ergosphere.core.policy.seats import fit, usable_seats

FROM = {Start: {Phase.WAITING}, Thaw: {Phase.FROZEN}, Freeze: {Phase.RUNNING}, Resize: {Phase.RUNNING}}


def check(view: View, plan: Plan) -> None:
    """Every law that one plan must keep."""
    jobs = {one.id: one for one in view.jobs}
    _one_decision_a_job_from_the_right_phase(view, jobs, plan)
    _whole_gangs_on_seats_of_their_own(view, jobs, plan)
    _every_waiting_job_has_a_reason(view, plan)
    _nobody_behind_is_favoured(view, plan)
    _nobody_is_preempted_in_vain(view, jobs, plan)


def _one_decision_a_job_from_the_right_phase(view: View, jobs: dict[JobId, JobView], plan: Plan) -> None:
    assert len({decision.job for decision in plan.decisions}) == len(plan.decisions)
    for decision in plan.decisions:
        one = jobs[decision.job]
        assert decision.reason.text
        if not isinstance(decision, Stop):
            assert one.phase in FROM[type(decision)]
            assert not one.cancel
            assert not one.paused or (isinstance(decision, Freeze) and decision.why is Why.PAUSE)
            assert one.not_before_s <= view.now_s
        if isinstance(decision, Freeze):
            assert one.freezable


def _free(view: View) -> set[Seat]:
    held = {s for one in view.jobs if one.phase in HOLDS_SEATS for s in (*one.seats, *one.going_to)}
    return set(usable_seats(view.nodes)) - held


def _whole_gangs_on_seats_of_their_own(view: View, jobs: dict[JobId, JobView], plan: Plan) -> None:
    free, usable = _free(view), usable_seats(view.nodes)
    given_out: list[Seat] = []
    for decision in plan.decisions:
        if isinstance(decision, Start | Thaw):
            _assert_whole(jobs[decision.job], decision.placement)
            assert {s.node for s in decision.placement}.isdisjoint(node for node, _ in jobs[decision.job].unfit)
            assert free.issuperset(decision.placement)
            given_out += set(decision.placement)
        if isinstance(decision, Resize):
            one = jobs[decision.job]
            _assert_whole(one, decision.placement)
            assert free.issuperset(set(decision.placement) - set(one.seats))
            assert [s.node for s in decision.placement] == [s.node for s in one.seats], "a rank would change its node"
            assert len(set(decision.placement)) != len(set(one.seats)), "a resize to the same size"
            given_out += set(decision.placement)
    for job_id, room in plan.rooms.items():
        _assert_whole(jobs[job_id], room)
        assert {s.node for s in room}.isdisjoint(name for name, _ in jobs[job_id].unfit)
        assert usable.issuperset(room)
        given_out += set(room)
    assert len(set(given_out)) == len(given_out), "two jobs on one seat"


def _assert_whole(one: JobView, placement: Placement) -> None:
    assert len(placement) == one.ranks
    assert len(set(placement)) in sizes_of(one), "a number of devices that it may not have"
    assert len(set(Counter(placement).values())) == 1, "some of its ranks share with more others than the rest"
    assert all(len({placement[rank].node for rank in cell.ranks}) == 1 for cell in one.cells)


def _every_waiting_job_has_a_reason(view: View, plan: Plan) -> None:
    decided = {decision.job for decision in plan.decisions}
    for one in view.jobs:
        if one.phase in {Phase.WAITING, Phase.FROZEN}:
            assert (one.id in decided) != (one.id in plan.reasons), one
    assert all(reason.text and reason.code for reason in plan.reasons.values())


def _nobody_behind_is_favoured(view: View, plan: Plan) -> None:
    """A job that waits would not fit into what is left by those ahead of it."""
    for one in view.jobs:
        reason = plan.reasons.get(one.id)
        if one.phase not in {Phase.WAITING, Phase.FROZEN} or reason is None or reason.code in {"paused", "back-off"}:
            continue
        if not one.cells and len({seat.node for seat in plan.rooms.get(one.id, ())}) == 1:
            continue  # others leave a node for it, where it will be in one piece
        ahead = {other.id for other in view.jobs if turn_in_queue(other) < turn_in_queue(one)}
        given = {s for d in plan.decisions if isinstance(d, Start | Thaw) and d.job in ahead for s in d.placement}
        held = {s for job_id, room in plan.rooms.items() if job_id in ahead for s in room}
        left = _free(view) - given - held
        coming = len(set(plan.rooms.get(one.id, ())))  # it may wait for more than there is
        wanted = [devices for devices in sizes_of(one) if devices >= coming]
        assert all(fit(one, left, devices) is None for devices in wanted), (one, reason)


def _nobody_is_preempted_in_vain(view: View, jobs: dict[JobId, JobView], plan: Plan) -> None:
    for decision in plan.decisions:
        if not isinstance(decision, Freeze) or decision.why is not Why.PREEMPT:
            continue
        assert decision.for_job is not None
        victim, winner = jobs[decision.job], jobs[decision.for_job]
        assert strength(victim.tier) > strength(winner.tier)
        assert not set(victim.seats).isdisjoint(plan.rooms[winner.id]), "its seats are not even used"
        ran_s = view.now_s - (victim.running_since_s or 0.0)
        assert ran_s >= RULES.min_run_s or strength(winner.tier) == 0


@settings(max_examples=400, deadline=None)
@given(views())
def test_every_plan_keeps_the_laws(view: View) -> None:
    check(view, decide(view, RULES))


@settings(max_examples=200, deadline=None)
@given(views(), st.randoms())
def test_the_order_of_the_view_does_not_matter(view: View, dice: random.Random) -> None:
    jobs, nodes = list(view.jobs), list(view.nodes)
    dice.shuffle(jobs)
    dice.shuffle(nodes)
    assert decide(replace(view, jobs=tuple(jobs), nodes=tuple(nodes)), RULES) == decide(view, RULES)


@settings(max_examples=300, deadline=None)
@given(views())
def test_deciding_again_while_orders_are_under_way_asks_for_nothing_more(view: View) -> None:
    later = obey(view, decide(view, RULES))
    again = decide(later, RULES)
    assert not again.decisions, again.decisions
    check(later, again)


@settings(max_examples=300, deadline=None)
@given(views())
def test_once_the_room_is_made_it_goes_to_whom_it_was_made_for(view: View) -> None:
    plan = decide(view, RULES)
    winners = {one.for_job for one in plan.decisions if isinstance(one, Freeze) and one.for_job}
    later = obey(view, plan)
    made = replace(later, jobs=tuple(answered(one, view.now_s) for one in later.jobs))
    placed = {one.job for one in decide(made, RULES).decisions if isinstance(one, Start | Thaw)}
    ahead_is_waiting = any(one.phase is Phase.FROZEN and one.id not in winners for one in made.jobs)
    assert winners <= placed or ahead_is_waiting


@settings(max_examples=60, deadline=None)
@given(views())
def test_everybody_can_be_explained(view: View) -> None:
    for one in view.jobs:
        found = explain(view, RULES, one.id)
        assert found is not None and found.reason.text
        assert all(0 <= each.devices <= each.of for each in found.requirements)


@pytest.mark.parametrize("seed", range(25))
def test_a_world_in_motion_keeps_the_laws_and_comes_to_rest(seed: int) -> None:
    dice = random.Random(seed)
    world = World(look([], [node(name, dice.randint(1, 4)) for name in "abcd"[: dice.randint(1, 4)]]), dice)
    for _ in range(120):
        if dice.random() < 0.5:
            world.happen()
        before = world.view
        check(before, world.turn())
    for _ in range(200):
        before = world.view
        check(before, world.turn(turn_s=5.0, patience=1.0))
    counted = len(world.decisions)
    for _ in range(20):
        world.turn(turn_s=5.0, patience=1.0)
    assert len(world.decisions) == counted, "it never comes to rest"
