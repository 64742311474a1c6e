"""The policy's rules, one small fleet each."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.core.fleets import NOW_S, RULES, job, look, node, obey, running, seats

from ergosphere.core.fraction import opened
from ergosphere.core.model import (
    Cell,
    Freeze,
    JobId,
    JobView,
    NodeId,
    NodeView,
    Phase,
    Placement,
    Plan,
    Start,
    Stop,
    Thaw,
    Tier,
    Why,
)
from ergosphere.core.policy.decide import decide
from ergosphere.core.policy.explain import capacity, explain
from ergosphere.core.policy.offers import EXACT_MAX
from ergosphere.core.policy.seats import cells_of

PREMIUM, STANDARD, BASIC = Tier.PREMIUM, Tier.STANDARD, Tier.BASIC


def plan_for(jobs: list[JobView], *nodes: object) -> Plan:
    return decide(look(jobs, nodes), RULES)  # type: ignore[arg-type]


def placed(plan: Plan, name: str) -> Placement | None:
    found = [one.placement for one in plan.decisions if isinstance(one, Start | Thaw) and one.job == name]
    return found[0] if found else None


def frozen(plan: Plan) -> set[str]:
    return {one.job for one in plan.decisions if isinstance(one, Freeze)}


def reason(plan: Plan, name: str) -> str:
    return plan.reasons[JobId(name)].text


def code(plan: Plan, name: str) -> str:
    return plan.reasons[JobId(name)].code


# ---- where


def test_a_fresh_job_takes_the_node_that_it_fills_best() -> None:
    plan = plan_for([job("j", ranks=2)], node("a", 4), node("b", 2), node("c", 3))
    assert placed(plan, "j") == seats("b0", "b1")


def test_a_job_too_large_for_one_node_takes_the_fewest_and_its_ranks_stay_in_order() -> None:
    plan = plan_for([job("j", ranks=5)], node("a", 2), node("b", 4), node("c", 1))
    where = placed(plan, "j")
    assert where == seats("b0", "b1", "b2", "b3", "c0")
    assert where is not None and cells_of(where) == (Cell(0, (0, 1, 2, 3)), Cell(1, (4,)))


def test_a_gang_that_does_not_fit_gets_nothing_and_says_why() -> None:
    plan = plan_for([job("j", ranks=3), running("r", "a0", "a1")], node("a"), node("b"))
    assert not plan.decisions
    assert code(plan, "j") == "full"
    assert reason(plan, "j").startswith("needs 3 devices at once; 2 of 4 are free; nobody is ahead of it")


def test_cells_may_meet_on_one_node_but_are_never_torn_apart() -> None:
    two_cells = cells_of(seats("x0", "y0", "y1"))
    frozen_job = job("j", ranks=3, phase=Phase.FROZEN, cells=two_cells)
    assert placed(plan_for([frozen_job], node("a", 3)), "j") == seats("a0", "a1", "a2")
    assert placed(plan_for([frozen_job], node("a", 1), node("b", 2)), "j") == seats("a0", "b0", "b1")
    plan = plan_for([frozen_job, running("r", "b2")], node("a", 1), node("b", 3), node("c", 0))
    assert placed(plan, "j") == seats("a0", "b0", "b1")
    torn = plan_for([frozen_job, *(running(f"r{n}", f"{n}0") for n in "abc")], *(node(n) for n in "abc"))
    assert code(torn, "j") == "fragmented"
    assert "needs 3 devices (1 + 2, each part on one node); 3 of 6 are free" in reason(torn, "j")


def test_cells_are_packed_even_where_the_snuggest_node_first_is_wrong() -> None:
    cells = (Cell(0, (0, 1, 2)), Cell(1, (3, 4)), Cell(2, (5, 6)), Cell(3, (7, 8)))
    tight = job("j", ranks=9, phase=Phase.FROZEN, cells=cells)
    where = placed(plan_for([tight], node("a", 5), node("b", 4)), "j")
    assert where is not None and len(set(where)) == 9
    assert [{seat.node for seat in where[cell.ranks[0] : cell.ranks[-1] + 1]} for cell in cells] == [
        *({"a"}, {"a"}, {"b"}, {"b"})
    ]


def test_a_thaw_goes_home_where_its_images_lie_if_it_can() -> None:
    at_home = job("j", ranks=1, phase=Phase.FROZEN, cells=(Cell(0, (0,)),), home=(NodeId("b"),))
    assert placed(plan_for([at_home], node("a", 1), node("b", 4)), "j") == seats("b0")
    assert placed(plan_for([at_home], node("a", 1), node("b", 4, ready=False)), "j") == seats("a0")


# ---- who first


def test_tiers_come_before_submission_and_submission_before_ids() -> None:
    jobs = [
        job("a", BASIC),
        job("b", STANDARD, submitted_s=5.0),
        job("c", PREMIUM, submitted_s=9.0),
        job("d", STANDARD, submitted_s=5.0),
    ]
    plan = plan_for(jobs, node("n", 2))
    assert [one.job for one in plan.decisions] == ["c", "b"]
    assert "; ahead of it: d (standard);" in reason(plan, "a")


def test_a_smaller_job_behind_may_use_what_the_one_ahead_cannot() -> None:
    plan = plan_for([running("r", "a0"), job("big", ranks=2), job("small", submitted_s=1.0)], node("a"))
    assert placed(plan, "small") == seats("a1")
    assert code(plan, "big") == "full"


# ---- making room


def test_a_premium_job_makes_room_by_freezing_the_cheapest_basic_jobs() -> None:
    jobs = [
        running("dear", "a0", freeze_cost_s=9.0),
        running("cheap", "b0", freeze_cost_s=0.5),
        running("middle", "c0", freeze_cost_s=2.0),
        running("equal", "d0", tier=PREMIUM),
        job("p", PREMIUM, ranks=2),
    ]
    plan = plan_for(jobs, *(node(name, 1) for name in "abcd"))
    assert frozen(plan) == {"cheap", "middle"}
    assert all(isinstance(one, Freeze) and one.why is Why.PREEMPT and one.for_job == "p" for one in plan.decisions)
    assert plan.rooms["p"] == seats("b0", "c0")
    assert "waits for cheap (basic), middle (basic) to leave" in reason(plan, "p")
    assert "makes room for p (premium), which needs 2 devices" in plan.decisions[0].reason.text


@pytest.mark.parametrize(
    ("beside", "leave"),
    [
        ({"freeze_cost_s": 9.0}, {"cheap", "beside"}),
        ({"freeze_cost_s": 900.0}, {"cheap", "middle"}),  # more than being together is worth
        ({"tier": STANDARD}, {"cheap", "middle"}),
        ({"freezable": False}, {"cheap", "middle"}),
    ],
)
def test_a_gang_starts_on_one_node_if_only_weak_jobs_leave_for_that_and_it_costs_little(
    beside: dict[str, object], leave: set[str]
) -> None:
    jobs = [
        running("cheap", "a0", freeze_cost_s=0.5),
        running("beside", "a1", **beside),
        running("middle", "b0", freeze_cost_s=2.0),
        running("equal", "b1", tier=PREMIUM),
        job("p", PREMIUM, ranks=2),
    ]
    assert frozen(plan_for(jobs, node("a"), node("b"))) == leave


def test_nobody_leaves_for_a_basic_gang_to_be_on_one_node_but_small_jobs_are_moved() -> None:
    had = {"account": opened(0.0, 1), "running_since_s": 0.0}
    jobs = [running("old", "a0", **had), running("older", "b0", **had), job("g", ranks=2)]
    plan = plan_for(jobs, node("a"), node("b"))
    assert [(type(one), one.job) for one in plan.decisions if one.job != "g"] == [(Freeze, "old")]
    assert plan.rooms["g"] == seats("a0", "a1") and plan.rooms["old"] == seats("b1")
    busy = [*(replace(one, pauses=(NOW_S,) * RULES.pauses_per_hour) for one in jobs[:2]), jobs[2]]
    plan = plan_for(busy, node("a"), node("b"))
    assert {one.job: one.placement for one in plan.decisions} == {"g": seats("a1", "b1")}


def test_standard_jobs_are_spared_where_basic_ones_are_enough_however_dear() -> None:
    jobs = [
        running("s", "a0", tier=STANDARD, freeze_cost_s=0.1),
        running("b", "a1", freeze_cost_s=50.0),
        job("p", PREMIUM),
    ]
    assert frozen(plan_for(jobs, node("a"))) == {"b"}
    assert frozen(plan_for([replace(jobs[2], ranks=2), *jobs[:2]], node("a"))) == {"s", "b"}


def test_standard_preempts_basic_and_nobody_their_own_tier_or_above() -> None:
    assert frozen(plan_for([running("r", "a0"), job("j", STANDARD)], node("a", 1))) == {"r"}
    for tier, standing in [(BASIC, BASIC), (STANDARD, STANDARD), (PREMIUM, PREMIUM), (BASIC, PREMIUM)]:
        plan = plan_for([running("r", "a0", tier=standing), job("j", tier)], node("a", 1))
        assert not plan.decisions and code(plan, "j") == "full"


def test_nobody_is_frozen_if_that_would_not_make_room_for_the_whole_gang() -> None:
    jobs = [running("b", "a0"), running("p", "a1", tier=PREMIUM), job("j", PREMIUM, ranks=2)]
    assert not plan_for(jobs, node("a")).decisions


def test_of_many_candidates_none_is_frozen_that_is_not_needed() -> None:
    basics = [running(f"b{n}", f"a{n}", freeze_cost_s=1.0 + n) for n in range(5)]
    basics += [running(f"c{n}", f"d{n}", freeze_cost_s=9.0) for n in range(9)]
    assert len(basics) > EXACT_MAX
    plan = plan_for([*basics, job("p", PREMIUM, ranks=3)], node("a", 5), node("d", 9))
    assert frozen(plan) == {"b0", "b1", "b2"}


def test_a_job_that_cannot_be_frozen_is_no_victim() -> None:
    plan = plan_for([running("r", "a0", freezable=False), job("p", PREMIUM)], node("a", 1))
    assert not plan.decisions
    plan = plan_for([running("r", "a0", not_before_s=NOW_S + 9), job("p", PREMIUM)], node("a", 1))
    assert not plan.decisions


def test_room_made_for_a_job_is_held_from_those_behind_it_and_not_made_twice() -> None:
    jobs = [running("b0", "a0"), running("b1", "a1"), job("p", PREMIUM, ranks=2)]
    view = look([*jobs, job("late", BASIC, submitted_s=1.0)], [node("a")])
    first = obey(view, decide(view, RULES))
    one_left = replace(
        first,
        jobs=tuple(
            replace(one, phase=Phase.FROZEN, seats=(), cells=(Cell(0, (0,)),)) if one.id == "b0" else one
            for one in first.jobs
        ),
    )
    plan = decide(one_left, RULES)
    assert not plan.decisions
    assert (code(plan, "p"), code(plan, "late")) == ("room-coming", "held")
    assert "1 more is held for jobs ahead of it" in reason(plan, "late")
    assert plan.rooms["p"] == seats("a0", "a1")


def test_room_stays_where_it_was_promised_though_other_room_comes_free() -> None:
    leaving = [running(f"e{n}", f"b{n}", phase=Phase.ENDING) for n in range(2)]
    freezing = running("v", "c0", "c1", phase=Phase.FREEZING, freezing_why=Why.PREEMPT)
    waits = job("p", PREMIUM, ranks=2)
    assert plan_for([*leaving, freezing, waits], node("b"), node("c")).rooms["p"] == seats("b0", "b1")
    promised = replace(waits, room=seats("c0", "c1"))
    assert plan_for([*leaving, freezing, promised], node("b"), node("c")).rooms["p"] == seats("c0", "c1")


def test_room_that_would_tear_a_cell_or_is_not_to_be_had_is_forgotten() -> None:
    whole = job("f", phase=Phase.FROZEN, ranks=2, cells=(Cell(0, (0, 1)),), room=seats("a0", "b0"))
    assert placed(plan_for([whole], node("a"), node("b")), "f") == seats("a0", "a1")
    gone = job("w", ranks=2, room=seats("c0", "c1"))
    assert placed(plan_for([gone], node("a")), "w") == seats("a0", "a1")


def test_a_stronger_job_takes_free_seats_before_promised_ones() -> None:
    jobs = [job("p", PREMIUM, submitted_s=5.0), job("s", STANDARD, not_before_s=NOW_S + 5, room=seats("a0"))]
    plan = plan_for(jobs, node("a", 2))
    assert placed(plan, "p") == seats("a1") and plan.rooms["s"] == seats("a0")


def test_a_victim_thaws_by_itself_when_room_returns() -> None:
    victim = job("v", phase=Phase.FROZEN, cells=(Cell(0, (0,)),), freezing_for=JobId("p"))
    plan = plan_for([victim], node("a", 1))
    assert isinstance(plan.decisions[0], Thaw)


def test_who_has_just_thawed_is_left_alone_but_not_by_premium_jobs_and_the_hole_is_kept() -> None:
    fresh = running("r", "a0", running_since_s=NOW_S - 20)
    assert frozen(plan_for([fresh, job("p", PREMIUM)], node("a", 1))) == {"r"}
    plan = plan_for([fresh, job("s", STANDARD, ranks=2), job("b", submitted_s=1.0)], node("a"))
    assert not plan.decisions
    assert code(plan, "s") == "min-run"
    assert "r (basic) can make room in 40 seconds" in reason(plan, "s")
    assert code(plan, "b") == "held"


def test_back_off_waits_and_a_short_one_keeps_its_room() -> None:
    soon = job("s", not_before_s=NOW_S + 5)
    plan = plan_for([soon, job("late", submitted_s=1.0)], node("a", 1))
    assert not plan.decisions
    assert reason(plan, "s").endswith("tried again in 5 seconds")
    plan = plan_for([replace(soon, not_before_s=NOW_S + 500), job("late", submitted_s=1.0)], node("a", 1))
    assert placed(plan, "late") is not None


# ---- what owners and operators ask for


def test_a_paused_job_is_frozen_stays_frozen_and_is_not_started() -> None:
    jobs = [
        running("r", "a0", paused=True),
        job("w", paused=True),
        job("f", phase=Phase.FROZEN, cells=(Cell(0, (0,)),), paused=True),
    ]
    plan = plan_for(jobs, node("a"))
    assert [(one.job, one.why) for one in plan.decisions if isinstance(one, Freeze)] == [("r", Why.PAUSE)]
    assert len(plan.decisions) == 1
    assert code(plan, "w") == code(plan, "f") == "paused"
    assert "ergo resume" in plan.reasons[JobId("w")].remedy


def test_a_pause_that_cannot_be_is_refused_in_the_words_of_the_cause() -> None:
    bound = running("r", "a0", paused=True, freezable=False, not_freezable_because="it uses io_uring")
    plan = plan_for([bound], node("a"))
    assert not plan.decisions
    assert reason(plan, "r") == "cannot be paused: it uses io_uring"
    plan = plan_for([running("r", "a0", paused=True, not_before_s=NOW_S + 3)], node("a"))
    assert code(plan, "r") == "back-off"
    plan = plan_for([running("r", "a0", paused=True)], node("a", ready=False))
    assert code(plan, "r") == "unreachable"


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase not in {"succeeded", "failed", "cancelled"}])
def test_cancel_stops_whatever_is_not_ending_already(phase: Phase) -> None:
    held = seats("a0") if phase in {"starting", "running", "freezing", "thawing", "clearing", "ending"} else ()
    plan = plan_for([job("j", phase=phase, seats=held, cells=(Cell(0, (0,)),), cancel=True)], node("a"))
    assert [type(one) for one in plan.decisions] == ([] if phase is Phase.ENDING else [Stop])


def test_a_draining_node_gets_nobody_and_its_jobs_move_where_they_fit() -> None:
    nodes = [node("a", draining=True), node("b")]
    view = look([running("r", "a0"), job("late", ranks=2, submitted_s=1.0)], nodes)
    plan = decide(view, RULES)
    assert [(one.job, one.why) for one in plan.decisions if isinstance(one, Freeze)] == [("r", Why.DRAIN)]
    assert plan.rooms["r"] == seats("b0")
    assert code(plan, "late") == "held"
    assert "1 of 2 is free, 1 more is held" in reason(plan, "late")


def test_on_a_draining_node_who_fits_nowhere_is_frozen_and_waits_with_a_reason() -> None:
    nodes = [node("a", draining=True), node("b", 1)]
    jobs = [running("r", "a0"), running("other", "b0")]
    assert frozen(plan_for(jobs, *nodes)) == {"r"}
    after = job("r", phase=Phase.FROZEN, cells=(Cell(0, (0,)),), home=(NodeId("a"),))
    assert code(plan_for([after, jobs[1]], *nodes), "r") == "full"
    stuck = plan_for([replace(jobs[0], freezable=False)], *nodes)
    assert "cannot be moved off its node" in reason(stuck, "r")


def test_a_migration_happens_only_when_it_fits_and_its_destination_is_held() -> None:
    mover = running("m", "a0", move_asked=True, destination=(NodeId("b"),))
    plan = plan_for([mover, job("late", submitted_s=1.0)], node("a", 1), node("b", 1))
    assert [(one.job, one.why) for one in plan.decisions if isinstance(one, Freeze)] == [("m", Why.MOVE)]
    assert plan.rooms["m"] == seats("b0")
    assert plan.rooms["late"] == seats("a0"), "what it leaves is for the next"
    blocked = plan_for([mover, running("other", "b0")], node("a", 1), node("b", 1))
    assert not blocked.decisions
    assert reason(blocked, "m").startswith("needs 1 device; 0 devices of b could be had: it stays where it is")


def test_a_frozen_mover_goes_where_it_wanted_and_else_anywhere() -> None:
    mover = job(
        "m",
        phase=Phase.FROZEN,
        cells=(Cell(0, (0,)),),
        home=(NodeId("a"),),
        move_asked=True,
        destination=(NodeId("b"),),
    )
    assert placed(plan_for([mover], node("a", 1), node("b", 1)), "m") == seats("b0")
    assert placed(plan_for([mover], node("a", 1), node("b", 1, ready=False)), "m") == seats("a0")
    to_anywhere = replace(mover, destination=())
    assert placed(plan_for([to_anywhere], node("a", 1), node("c", 1)), "m") == seats("c0")


def test_a_migration_to_anywhere_means_another_node() -> None:
    mover = running("m", "a0", move_asked=True)
    assert plan_for([mover], node("a", 4), node("b", 1)).rooms["m"] == seats("b0")
    assert code(plan_for([mover], node("a", 4)), "m") == "move-no-room"


def test_a_migration_within_its_own_nodes_may_use_its_own_seats() -> None:
    mover = running("m", "a0", "b0", move_asked=True, destination=(NodeId("b"),))
    assert set(plan_for([mover], node("a", 1), node("b", 2)).rooms["m"]) == set(seats("b0", "b1"))


# ---- nodes


def test_nodes_that_do_not_answer_give_no_seats_and_the_reason_names_them() -> None:
    plan = plan_for([job("j")], node("a", ready=False), node("b", draining=True))
    assert reason(plan, "j") == "no node can take it: not answering: a; being drained: b"
    assert plan.reasons[JobId("j")].remedy == "ergo undrain b"
    assert "no node" in reason(plan_for([job("j")]), "j")


def test_a_job_too_large_for_the_fleet_as_it_is_says_the_most_that_would_fit() -> None:
    plan = plan_for([job("j", ranks=5)], node("a"), node("b"), node("c", ready=False))
    assert code(plan, "j") == "too-large"
    assert "could hold 4 at most (6 with all nodes back)" in reason(plan, "j")
    assert capacity(look([], [node("a"), node("c", ready=False)])) == 4


# ---- explain


def test_explain_counts_what_satisfies_each_requirement_and_who_is_ahead() -> None:
    jobs = [running("r", "a0", "a1", tier=PREMIUM), job("first", STANDARD, ranks=4), job("j", ranks=3, submitted_s=2.0)]
    found = explain(look(jobs, [node("a"), node("b"), node("c", draining=True)]), RULES, JobId("j"))
    assert found is not None
    assert [(one.devices, one.of) for one in found.requirements] == [(6, 6), (6, 6), (4, 6), (2, 6), (2, 6)]
    assert [one.id for one in found.ahead] == ["first"]


def test_explain_finds_the_smallest_change_of_each_kind_by_asking_the_policy() -> None:
    jobs = [running("s", "a0", tier=STANDARD), running("p", "a1", tier=PREMIUM), job("j", ranks=3)]
    found = explain(look(jobs, [node("a"), node("b"), node("c", draining=True)]), RULES, JobId("j"))
    assert found is not None
    assert found.changes == (
        "ergo undrain c",
        "as a premium job it would get room",
        "with 2 ranks it would get room",
        "the end of p (premium) would make room for it",
    )


def test_explain_knows_paused_jobs_running_jobs_and_strangers() -> None:
    view = look([job("w", paused=True), running("r", "a0")], [node("a")])
    paused = explain(view, RULES, JobId("w"))
    assert paused is not None and paused.changes == ("ergo resume w",)
    busy = explain(view, RULES, JobId("r"))
    assert busy is not None and busy.reason.text == "is running on a (1 device)"
    assert explain(view, RULES, JobId("nobody")) is None


def test_a_job_that_is_split_over_nodes_is_told_so_whatever_its_tier() -> None:
    split = job("p", Tier.PREMIUM, phase=Phase.RUNNING, seats=seats("a0", "b0", "b1"))

    def told(*nodes: NodeView) -> str:
        found = explain(look([split], nodes), RULES, JobId("p"))
        assert found is not None
        return found.reason.text

    crosses = "and what its ranks exchange crosses between them"
    near = told(node("a", 2), node("b", 4))
    here = "is running on a (1 device), b (2 devices)"
    assert near == f"{here}; it is split over 2 nodes (as close as there was room for it), {crosses}"
    far = told(node("a", 2, domain="x"), node("b", 2, domain="y"))
    assert far.endswith(f"; it is split over 2 nodes in 2 locality domains (no node has so many devices), {crosses}")
    whole = replace(split, seats=seats("b0", "b1", "b2"))
    found = explain(look([whole], [node("b", 4)]), RULES, JobId("p"))
    assert found is not None and "split" not in found.reason.text


# ── nodes that cannot thaw it ────────────────────────────────────────────────────────────────────────────────────


def picky(*unfit: str) -> JobView:
    causes = tuple((NodeId(name), f"{name} has an older kernel") for name in unfit)
    return replace(job("one", phase=Phase.FROZEN, cells=(Cell(0, (0,)),)), unfit=causes)


def test_a_node_that_cannot_thaw_a_snapshot_is_never_chosen() -> None:
    plan = plan_for([picky("a")], node("a", 4), node("b", 1))
    assert placed(plan, "one") == seats("b0")
    assert placed(plan_for([replace(picky("a"), home=(NodeId("a"),))], node("a"), node("b")), "one") == seats("b0")


def test_a_job_that_no_node_can_thaw_waits_and_explain_says_why() -> None:
    plan = plan_for([picky("a", "b")], node("a"), node("b"))
    assert placed(plan, "one") is None and code(plan, "one") == "unfit"
    assert "a has an older kernel" in reason(plan, "one") and "b has an older kernel" in reason(plan, "one")
    told = explain(look([picky("a")], [node("a")]), RULES, JobId("one"))
    assert told is not None
    [fits] = [one for one in told.requirements if "thaw its snapshot" in one.text]
    assert (fits.devices, fits.of) == (0, 2) and "older kernel" in fits.text


def test_nobody_is_frozen_for_room_that_could_not_be_used() -> None:
    victim = running("victim", "a0", tier=BASIC)
    plan = plan_for([victim, replace(picky("a"), tier=PREMIUM)], node("a", 1), node("b", 1, ready=False))
    assert frozen(plan) == set()
