"""Fewer and more devices: sizes, places, and who is shrunk for whom."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st
from tests.core.fleets import NOW_S, RULES, job, look, node, running, seats, sizes_of

from ergosphere.core import elastic
from ergosphere.core.model import Freeze, NodeId, Phase, Placement, Plan, Resize, Start, Thaw, Tier, Why
from ergosphere.core.policy.decide import decide
from ergosphere.core.policy.seats import cells_of, fit, reshape


def resized(plan: Plan, name: str) -> Placement:
    found = [one.placement for one in plan.decisions if isinstance(one, Resize) and one.job == name]
    assert len(found) == 1, plan
    return found[0]


@given(st.integers(1, 200), st.integers(1, 200))
def test_a_size_is_refused_exactly_where_it_is_not_among_those_that_can_be(ranks: int, devices: int) -> None:
    least = elastic.fewest(ranks)
    told = elastic.refusal(ranks, least, devices)
    assert (told is None) == (least <= devices <= ranks and ranks % devices == 0)
    valid = ", ".join(map(str, sorted(elastic.sizes(ranks, least))))
    assert told is None or told.endswith(f"it can run on {valid}")


@given(st.integers(1, 12), st.integers(1, 4), st.data())
def test_cells_of_a_shrunk_start_are_small_enough_for_the_largest_node(
    ranks: int, most: int, data: st.DataObject
) -> None:
    devices = data.draw(st.sampled_from(elastic.sizes(ranks)))
    nodes = data.draw(st.lists(st.integers(1, most), min_size=1, max_size=6))
    words = [f"{name}{device}" for name, size in zip("abcdef", nodes, strict=False) for device in range(size)]
    offered = set(seats(*words))
    found = fit(job("x", ranks=ranks), offered, devices)
    assume(found is not None)
    assert found is not None
    cells = cells_of(found, max(nodes))
    assert sorted(rank for cell in cells for rank in cell.ranks) == list(range(ranks))
    assert all(len(cell.ranks) <= max(nodes) for cell in cells)
    assert all(len({found[rank].node for rank in cell.ranks}) == 1 for cell in cells)


@given(st.sampled_from([(4, 2), (4, 1), (6, 3), (6, 2), (8, 4), (9, 3)]))
def test_going_there_and_back_keeps_as_many_seats_as_can_be(case: tuple[int, int]) -> None:
    ranks, devices = case
    one = running("x", *(f"a{d}" for d in range(ranks)))
    small = reshape(one, frozenset(), devices)
    assert small is not None and set(small) < set(one.seats)
    back = reshape(replace(one, seats=small), frozenset(one.seats), ranks)
    assert back is not None and set(back) == set(one.seats) and set(small) <= set(back)


def test_a_job_starts_on_fewer_devices_when_that_is_what_there_is() -> None:
    plan = decide(look([running("r", "a0"), job("x", ranks=4, min_devices=1)], [node("a", 3)]), RULES)
    (start,) = plan.decisions
    assert isinstance(start, Start) and start.placement == seats("a1", "a1", "a2", "a2")


def test_a_job_waits_rather_than_have_less_than_its_least() -> None:
    plan = decide(look([running("r", "a0", "a1"), job("x", ranks=4, min_devices=2)], [node("a", 3)]), RULES)
    assert not plan.decisions and "needs 2 to 4 devices" in plan.reasons["x"].text


def test_a_weaker_job_is_shrunk_no_farther_than_needed_and_nobody_is_frozen() -> None:
    basic = running("b", "a0", "a1", "a2", "a3", min_devices=1)
    plan = decide(look([basic, job("p", Tier.PREMIUM, 2)], [node("a", 4)]), RULES)
    assert len(set(resized(plan, "b"))) == 2 and not any(isinstance(one, Freeze) for one in plan.decisions)
    assert set(plan.rooms["p"]) == set(basic.seats) - set(resized(plan, "b"))


def test_where_shrinking_is_not_enough_the_stronger_job_still_gets_its_full_size() -> None:
    basic = [running("b", "a0", "a1", min_devices=1), running("c", "a2", "a3", min_devices=1)]
    plan = decide(look([*basic, job("p", Tier.PREMIUM, 3, min_devices=1)], [node("a", 4)]), RULES)
    frozen = [one for one in plan.decisions if isinstance(one, Freeze)]
    assert len(frozen) == 1 and len([one for one in plan.decisions if isinstance(one, Resize)]) == 1
    assert len(set(plan.rooms["p"])) == 3


def test_nobody_of_its_own_tier_is_shrunk_for_more_than_a_start() -> None:
    first = running("b", "a0", "a1", "a2", "a3", tier=Tier.STANDARD, min_devices=1)
    late = job("s", Tier.STANDARD, 4, min_devices=1)
    plan = decide(look([first, late], [node("a", 4)]), RULES)
    assert len(set(resized(plan, "b"))) == 2 and len(set(plan.rooms["s"])) == 1


def test_free_devices_grow_a_job_back_but_not_at_once() -> None:
    one = running("x", "a0", "a0", "a0", "a0", min_devices=1)
    nodes = [node("a", 4)]
    assert len(set(resized(decide(look([one], nodes), RULES), "x"))) == 4
    fresh = replace(one, resized_s=NOW_S - 1)
    assert not decide(look([fresh], nodes), RULES).decisions


def test_what_its_owner_asked_for_is_the_most_it_gets() -> None:
    one = running("x", "a0", "a0", "a0", "a0", min_devices=1, devices_asked=2)
    assert len(set(resized(decide(look([one], [node("a", 4)]), RULES), "x"))) == 2
    assert not decide(look([replace(one, devices_asked=1)], [node("a", 4)]), RULES).decisions


def test_an_owner_may_have_a_job_of_two_nodes_on_one_device_by_way_of_a_snapshot() -> None:
    one = running("x", "a0", "a1", "b0", "b1", min_devices=1, devices_asked=1, resize_asked=True)
    plan = decide(look([one], [node("a"), node("b")]), RULES)
    (freeze,) = plan.decisions
    assert isinstance(freeze, Freeze) and freeze.why is Why.RESIZE
    frozen = replace(one, phase=Phase.FROZEN, seats=(), room=plan.rooms["x"], home=(NodeId("a"), NodeId("b")))
    (thaw,) = decide(look([frozen], [node("a"), node("b")]), RULES).decisions
    assert isinstance(thaw, Thaw) and len(set(thaw.placement)) == 1


def test_a_node_whose_memory_cannot_hold_them_is_refused_before_anything_is_touched() -> None:
    asked = {"min_devices": 1, "devices_asked": 1, "resize_asked": True, "rank_bytes": (3 << 30,) * 4}
    one = running("x", "a0", "a1", "b0", "b1", **asked)
    small = [replace(node(name), memory_bytes=8 << 30) for name in "ab"]
    plan = decide(look([one], small), RULES)
    assert not plan.decisions
    assert "a has 8.0 GiB of memory, and would need 12.0 GiB" in plan.reasons["x"].text
    large = replace(node("c"), memory_bytes=16 << 30)
    plan = decide(look([one], [*small, large]), RULES)
    assert {seat.node for seat in plan.rooms["x"]} == {"c"}
    guest = running("g", "c1", rank_bytes=(6 << 30,))
    assert not decide(look([one, guest], [*small, large]), RULES).decisions, "who is there needs memory too"


def test_ranks_that_cannot_share_are_given_a_device_each_or_none() -> None:
    one = job("x", ranks=4, min_devices=1, shareable=False, not_shareable_because="they need each other inside a step")
    assert sizes_of(one) == (4,)
    assert not decide(look([one], [node("a", 3)]), RULES).decisions


def test_what_a_resize_under_way_gives_up_is_waited_for_and_nobody_else_is_shrunk() -> None:
    nodes = [node("a", 4), node("b", 4)]
    jobs = [running(name, *(f"{name}{device}" for device in range(4)), min_devices=1) for name in "ab"]
    late = job("p", Tier.PREMIUM, 2)
    plan = decide(look([*jobs, late], nodes), RULES)
    (shrink,) = plan.decisions
    assert isinstance(shrink, Resize)
    going = [
        replace(one, phase=Phase.RESIZING, going_to=shrink.placement) if one.id == shrink.job else one for one in jobs
    ]
    again = decide(look([*going, replace(late, room=plan.rooms["p"])], nodes), RULES)
    assert not again.decisions and again.rooms["p"] == plan.rooms["p"]
