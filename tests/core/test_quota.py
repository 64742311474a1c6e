"""Quotas, rules and services: what cannot be is named, what can be is kept; shares are fair within a bound."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from tests.core.fleets import NOW_S, RULES, job, look, node, running

from ergosphere.core import fraction
from ergosphere.core.model import (
    Cell,
    Freeze,
    JobId,
    JobView,
    NodeId,
    Phase,
    ProjectView,
    Resize,
    Start,
    Tier,
    Together,
    Why,
)
from ergosphere.core.policy import quota
from ergosphere.core.policy.board import Board
from ergosphere.core.policy.decide import decide
from ergosphere.core.policy.explain import explain
from ergosphere.core.policy.flaky import flaky_until_s
from ergosphere.core.policy.quota import QuotaTrouble
from ergosphere.core.policy.rulebook import RuleTrouble, read_rules
from ergosphere.core.policy.seats import cells_of
from ergosphere.core.policy.services import Scaling, Service, replicas_wanted, scaled

P = ProjectView


@pytest.mark.parametrize(
    "tree, words",
    [
        ([P("a", guarantee=4), P("b", "a", guarantee=3), P("c", "a", guarantee=2)], "a itself only 4"),
        ([P("a", limit=4), P("b", "a", guarantee=5)], "a itself only 4"),
        ([P("a", "b"), P("b", "a")], "in a circle: a → b → a"),
        ([P("a", "gone")], "below gone, which is not declared"),
        ([P("a"), P("a")], "a is declared twice"),
        ([P("a", weight=0.0)], "weight 0"),
        ([P("a", weight=float("nan"))], "weight nan"),
        ([P("a", guarantee=-1)], "cannot be negative"),
        ([P("a", guarantee=5, limit=4)], "guaranteed 5 devices but limited to 4"),
        ([P("", guarantee=5)], "no name"),
        ([P("lab", guarantee=10), P("mid", "lab"), P("kid", "mid", guarantee=20)], "children of project lab are guar"),
        ([P("lab", limit=4), P("mid", "lab"), P("kid", "mid"), P("low", "kid", guarantee=5)], "low 5), but lab"),
    ],
)
def test_a_tree_that_contradicts_itself_is_refused_by_name(tree: list[ProjectView], words: str) -> None:
    with pytest.raises(QuotaTrouble, match=re.escape(words)):
        quota.check(tree)


@pytest.mark.parametrize(
    "said, words",
    [
        ({"quantum": 5}, "did you mean"),
        ({"quantum_s": "soon"}, "must be a number"),
        ({"quantum_s": -5}, "cannot be negative"),
        ({"pauses_per_hour": 2.5}, "must be a whole number"),
        ({"quantum_s": 10, "min_run_s": 60}, "raise quantum_s"),
        ({"owed_margin_s": 1080}, "lower it"),
        ({"payback": 0}, "above 0"),
        ({"min_run_s": float("inf")}, "must be a number"),
    ],
)
def test_rules_that_contradict_each_other_are_refused_by_name(said: dict[str, object], words: str) -> None:
    with pytest.raises(RuleTrouble, match=words):
        read_rules(said)


def test_rules_that_are_not_said_stay_as_they_are() -> None:
    assert read_rules({"min_run_s": 5}).min_run_s == 5.0
    assert read_rules({}) == read_rules({"pauses_per_hour": 4})


def test_a_limit_is_kept_and_the_reason_names_it_and_what_would_change_it() -> None:
    tree = (P("lab", limit=2),)
    jobs = [running("r", "a0", "a1", project="lab"), job("w", Tier.PREMIUM, project="lab"), job("o", project="other")]
    view = replace(look(jobs, [node("a", 4)]), projects=tree)
    plan = decide(view, RULES)
    assert [one.job for one in plan.decisions] == ["o"]
    assert plan.reasons[JobId("w")].text == "needs 1 device; project lab uses 2 of the 2 devices it is limited to"
    found = explain(view, RULES, JobId("w"))
    assert found is not None and "with a limit of 3 devices for project lab it would get room" in found.changes


def test_over_quota_work_runs_as_borrowed_and_is_the_first_to_yield() -> None:
    tree = (P("mine", guarantee=2), P("theirs", guarantee=2))
    over = running("over", "a2", "a3", tier=Tier.PREMIUM, project="theirs", submitted_s=5.0)
    within = running("within", "a0", "a1", tier=Tier.BASIC, project="theirs", submitted_s=9.0)
    jobs = [over, within, job("w", Tier.BASIC, ranks=2, project="mine")]
    view = replace(look(jobs, [node("a", 4)]), projects=tree)
    frozen = [one.job for one in decide(view, RULES).decisions if isinstance(one, Freeze)]
    assert frozen == ["within"], "the stronger tier is within the guarantee, so the basic job is what is borrowed"
    alone = replace(view, jobs=(*jobs, running("late", "b0", tier=Tier.PREMIUM, project="theirs", submitted_s=99.0)))
    alone = replace(alone, nodes=(node("a", 4), node("b", 1)))
    assert {one.job for one in decide(alone, RULES).decisions if isinstance(one, Freeze)} == {"within"}


def test_who_does_not_borrow_waits_at_its_guarantee() -> None:
    tree = (P("own", guarantee=1, borrow=False),)
    view = replace(look([job("a", project="own"), job("b", project="own")], [node("n", 4)]), projects=tree)
    plan = decide(view, RULES)
    assert [one.job for one in plan.decisions] == ["a"]
    assert plan.reasons[JobId("b")].code == "over-guarantee"


LAB = (P("lab", guarantee=8), P("a", "lab", guarantee=8), P("b", "lab"))


@pytest.mark.parametrize("tree", [(P("a", guarantee=8),), LAB, (P("a", guarantee=8), P("b"))])
@pytest.mark.parametrize("tier", [Tier.PREMIUM, Tier.STANDARD, Tier.BASIC])
def test_a_guarantee_is_taken_back_from_work_that_has_none(tree: tuple[ProjectView, ...], tier: Tier) -> None:
    """Of the eight devices `b` holds all; `a` is guaranteed all, and wants four: the youngest of `b` leaves."""
    held = [
        running(f"b{n}", *(f"{node}{device}" for device in range(4)), tier=Tier.PREMIUM, project="b", submitted_s=n)
        for n, node in enumerate("xy")
    ]
    view = replace(look([*held, job("a1", tier, ranks=4, project="a")], [node("x", 4), node("y", 4)]), projects=tree)
    plan = decide(view, RULES)
    assert [one.job for one in plan.decisions if isinstance(one, Freeze)] == ["b1"]
    assert len(plan.rooms[JobId("a1")]) == 4


def test_work_without_a_guarantee_borrows_only_what_guaranteed_work_asks_for() -> None:
    tree = (P("a", guarantee=4),)
    held = running("b1", "x0", "x1", "x2", "x3", tier=Tier.BASIC, project="b")
    idle = replace(look([held, job("b2", Tier.PREMIUM, ranks=4, project="b")], [node("x", 4)]), projects=tree)
    assert [one.job for one in decide(idle, RULES).decisions] == ["b1"], "nobody of `a` asks: tiers as ever"
    guaranteed = running("a1", "x0", "x1", "x2", "x3", tier=Tier.BASIC, project="a")
    full = replace(idle, jobs=(guaranteed, idle.jobs[1]))
    assert not decide(full, RULES).decisions, "a premium job without a guarantee takes none of what is guaranteed"


def test_who_has_no_guarantee_still_takes_turns_beside_guaranteed_premium_work() -> None:
    kept = running("kept", "n0", tier=Tier.PREMIUM, project="a")
    old = with_account(running("old", "n1"), had=RULES.quantum_s + 1)
    waits = with_account(job("waits"), waited_s=RULES.patience_s + 1)
    view = replace(look([kept, old, waits], [node("n", 2)]), projects=(P("a", guarantee=1),))
    assert [one.job for one in decide(view, RULES).decisions if isinstance(one, Freeze)] == ["old"]


def test_a_parent_that_does_not_borrow_holds_its_children_to_that() -> None:
    tree = (P("lab", guarantee=2, borrow=False), P("kid", "lab", guarantee=1))
    jobs = [job(name, project="kid", submitted_s=n) for n, name in enumerate("abc")]
    plan = decide(replace(look(jobs, [node("n", 4)]), projects=tree), RULES)
    assert [one.job for one in plan.decisions] == ["a", "b"]
    assert plan.reasons[JobId("c")].code == "over-guarantee"


@pytest.mark.parametrize("weights", [(1.0, 1.0), (3.0, 1.0), (1.0, 2.5)])
def test_projects_share_by_weight_within_one_job(weights: tuple[float, float]) -> None:
    """No envy within a tier: while both wait, neither is more than one job per weight ahead of the other."""
    tree = tuple(P(name, weight=weight) for name, weight in zip("xy", weights, strict=True))
    sizes = [1, 2, 3, 4]
    jobs = [
        job(f"{name}{n:02}", ranks=sizes[n % 4], project=name, submitted_s=float(n if name == "x" else 100 + n))
        for name in "xy"
        for n in range(30)
    ]
    plan = decide(replace(look(jobs, [node(f"n{n}", 8) for n in range(6)]), projects=tree), RULES)
    used = {"x": 0, "y": 0}
    for one in plan.decisions:
        assert isinstance(one, Start)
        used[one.job[0]] += len(one.placement)
    shares = [used[name] / weight for name, weight in zip("xy", weights, strict=True)]
    assert abs(shares[0] - shares[1]) <= max(sizes) / min(weights)


def test_a_hierarchy_shares_between_branches_before_it_shares_within() -> None:
    tree = (P("a"), P("a1", "a"), P("a2", "a"), P("b"))
    jobs = [job(f"{name}-{n}", project=name, submitted_s=float(n)) for name in ("a1", "a2", "b") for n in range(12)]
    plan = decide(replace(look(jobs, [node("n", 12)]), projects=tree), RULES)
    used = {name: sum(one.job.startswith(f"{name}-") for one in plan.decisions) for name in ("a1", "a2", "b")}
    assert used == {"a1": 3, "a2": 3, "b": 6}


# ---- accounts in the judgement


def with_account(one: JobView, waited_s: float = 0.0, had: float = 0.0) -> JobView:
    """The job with an account: it has waited, or run, for so long."""
    account = fraction.opened(NOW_S - waited_s - had, one.ranks)
    account, _ = fraction.changed(account, NOW_S - waited_s - had, rate=one.ranks if had else 0.0)
    if waited_s:
        account, _ = fraction.changed(account, NOW_S - waited_s, rate=0.0)
    since_s = NOW_S - had if one.phase is Phase.RUNNING else None
    return replace(one, account=account, running_since_s=since_s)


def test_a_basic_job_that_waited_for_long_takes_turns_with_one_that_had_its_turn() -> None:
    old = with_account(running("old", "a0"), had=RULES.quantum_s + 1)
    waits = with_account(job("waits"), waited_s=RULES.patience_s + 1)
    plan = decide(look([old, waits], [node("a", 1)]), RULES)
    assert [one.job for one in plan.decisions if isinstance(one, Freeze)] == ["old"]
    young = with_account(running("old", "a0"), had=RULES.quantum_s - 10)
    assert not decide(look([young, waits], [node("a", 1)]), RULES).decisions


def test_a_job_that_was_paused_often_this_hour_is_left_alone() -> None:
    old = replace(
        with_account(running("old", "a0"), had=RULES.quantum_s + 1), pauses=(NOW_S - 3000,) * RULES.pauses_per_hour
    )
    waits = with_account(job("waits"), waited_s=RULES.patience_s + 1)
    assert not decide(look([old, waits], [node("a", 1)]), RULES).decisions


def test_a_standard_job_whose_hour_is_in_danger_displaces_one_that_can_spare_a_turn() -> None:
    rules = RULES
    began_s = fraction.window_of(NOW_S) + fraction.HOUR_S  # an hour of which they see the first half
    now_s = began_s + 900
    spare = fraction.changed(fraction.opened(began_s - 3600, 1), began_s - 3600, rate=1.0)[0]
    owed = fraction.opened(began_s - 10, 1)
    rich = replace(running("rich", "a0", tier=Tier.STANDARD), account=spare, running_since_s=began_s - 3600)
    poor = replace(job("poor", Tier.STANDARD), account=owed, submitted_s=began_s - 10)
    plan = decide(look([rich, poor], [node("a", 1)], now_s), rules)
    assert [one.job for one in plan.decisions if isinstance(one, Freeze)] == ["rich"]
    early = decide(look([rich, poor], [node("a", 1)], began_s + 100), rules)
    assert not early.decisions


# ---- elastic


def test_jobs_are_shrunk_before_any_is_frozen() -> None:
    wide = replace(running("wide", "a0", "a1", "a2", "a3"), min_devices=1)
    plan = decide(look([wide, job("p", Tier.PREMIUM, ranks=2)], [node("a", 4)]), RULES)
    (one,) = plan.decisions
    assert isinstance(one, Resize) and len(set(one.placement)) < 4 and set(one.placement) <= set(wide.seats)
    assert set(plan.rooms[JobId("p")]) <= set(wide.seats) - set(one.placement)


def test_a_job_starts_on_fewer_devices_and_grows_when_devices_are_idle() -> None:
    small = job("j", ranks=4, min_devices=1)
    (start,) = decide(look([small, running("r", "a2", "a3")], [node("a", 4)]), RULES).decisions
    assert isinstance(start, Start) and start.placement[0] == start.placement[1] and len(set(start.placement)) == 2
    runs = replace(
        small, phase=Phase.RUNNING, seats=start.placement, cells=cells_of(start.placement), running_since_s=0.0
    )
    (grown,) = decide(look([runs], [node("a", 4)]), RULES).decisions
    assert isinstance(grown, Resize) and len(set(grown.placement)) == 4
    waiting = job("w", ranks=3)
    plan = decide(look([runs, waiting], [node("a", 4)]), RULES)
    (shrunk,) = [one for one in plan.decisions if isinstance(one, Resize)]
    assert len(set(shrunk.placement)) == 1 and shrunk.for_job == "w", "devices are not idle while somebody waits"


def test_devices_that_cannot_be_shared_evenly_are_not_used() -> None:
    plan = decide(look([job("j", ranks=4, min_devices=1)], [node("a", 3)]), RULES)
    (start,) = plan.decisions
    assert isinstance(start, Start) and len(set(start.placement)) == 2


# ---- services, flaky nodes


def test_more_load_wants_more_replicas_within_bounds() -> None:
    service = Service(least=1, most=8, latency_s=1.0, service_s=0.5, concurrency=2)
    wanted = [replicas_wanted(service, rate) for rate in (0, 1, 4, 10, 20, 1000)]
    assert wanted == sorted(wanted) and wanted[0] == 1 and wanted[-1] == 8
    up = scaled(Scaling(1), service, 10, 0.0)
    assert up.wanted > 1
    waits = scaled(up, service, 0, 10.0)
    assert waits.wanted == up.wanted and scaled(waits, service, 0, 400.0).wanted == 1


def test_a_replica_that_is_not_wanted_makes_way_and_says_so() -> None:
    replica = running("web-1", "a0", tier=Tier.PREMIUM, service="web", wanted=False)
    plan = decide(look([replica], [node("a", 1)]), RULES)
    assert [one.job for one in plan.decisions if isinstance(one, Freeze)] == ["web-1"]
    rests = job("web-1", Tier.PREMIUM, phase=Phase.FROZEN, service="web", wanted=False, cells=replica.cells)
    plan = decide(look([rests], [node("a", 1)]), RULES)
    assert not plan.decisions and plan.reasons[JobId("web-1")].code == "unwanted"


def test_a_flaky_node_is_taken_only_where_nothing_else_is_left() -> None:
    flaky = node("a", 4, flaky_until_s=NOW_S + 10)  # type: ignore[arg-type]
    plan = decide(look([job("x"), job("y"), job("z")], [flaky, node("b", 2)]), RULES)
    nodes = [one.placement[0].node for one in plan.decisions if isinstance(one, Start)]
    assert nodes == ["b", "b", "a"]
    assert flaky_until_s((), 100.0) == 0.0
    assert flaky_until_s((50.0,), 100.0) < flaky_until_s((40.0, 50.0), 100.0)


def test_a_spot_notice_empties_the_node_and_says_when_it_is_gone() -> None:
    leaving = node("a", 1, leaves_s=NOW_S + 30)  # type: ignore[arg-type]
    plan = decide(look([running("r", "a0")], [leaving, node("b", 1)]), RULES)
    (freeze,) = plan.decisions
    assert isinstance(freeze, Freeze) and "gone in 30 seconds" in freeze.reason.text
    assert plan.rooms[JobId("r")][0].node == "b"


def test_who_waits_for_others_is_not_placed_and_says_for_whom() -> None:
    plan = decide(look([job("b", after=(JobId("a"),))], [node("n")]), RULES)
    assert not plan.decisions and plan.reasons[JobId("b")].text == "waits for a to succeed"


def test_five_times_the_fleet_and_ten_thousand_jobs_degrade_in_the_order_of_the_tiers() -> None:
    tiers = [Tier.PREMIUM, Tier.STANDARD, Tier.BASIC]
    jobs = [job(f"j{n:05}", tiers[n % 3], ranks=1 + n % 4, submitted_s=float(n)) for n in range(10_000)]
    board = Board.of(look(jobs, [node(f"n{n:04}", 8) for n in range(600)]), RULES)
    plan = decide(board, RULES)
    started = [board.entries[one.job].view.tier for one in plan.decisions]
    assert started.count(Tier.BASIC) == 0 < started.count(Tier.PREMIUM)
    assert sum(len(one.placement) for one in plan.decisions if isinstance(one, Start)) == 4800
    assert len(plan.reasons) == 10_000 - len(plan.decisions)


def test_a_thousand_nodes_that_flap_lose_nobody() -> None:
    nodes = [node(f"n{n:04}", 8) for n in range(1000)]
    board = Board.of(look([job(f"j{n}", ranks=8) for n in range(900)], nodes), RULES)
    first = decide(board, RULES)
    for turn in range(6):
        for one in nodes:
            board.put_node(replace(one, ready=turn % 2 == 1))
        decide(board, RULES)
    assert decide(board, RULES) == first


def test_a_tree_may_be_replaced_while_its_projects_work() -> None:
    jobs = [running("r", "a0", "a1", project="lab"), job("w", project="lab")]
    view = replace(look(jobs, [node("a", 4)]), projects=(P("lab", guarantee=1, limit=2),))
    board = Board.of(view, RULES)
    assert decide(board, RULES).reasons[JobId("w")].code == "over-limit"
    for tree in ((), (P("other", guarantee=1),), view.projects, ()):
        board.put_projects(tree)
        assert decide(board, RULES) == decide(Board.of(replace(view, projects=tree), RULES), RULES)


# ---- defragmentation


def scattered(**more: object) -> list[JobView]:
    """Two nodes of four, each half full with two small jobs that have settled."""
    return [running(f"s{n}", where, freeze_cost_s=2.0, **more) for n, where in enumerate(("a0", "a1", "b0", "b1"))]


def test_small_jobs_are_moved_so_that_a_large_one_finds_its_devices_together() -> None:
    large = job("big", ranks=4, together=Together.NODE)
    plan = decide(look([*scattered(), large], [node("a", 4), node("b", 4)]), RULES)
    moved = [one for one in plan.decisions if isinstance(one, Freeze)]
    assert {one.why for one in moved} == {Why.MOVE} and len(moved) == 2
    assert all(plan.rooms[one.job][0].node == "b" for one in moved)
    assert {seat.node for seat in plan.rooms[JobId("big")]} == {"a"}
    assert "finds them together; the move costs 3.0 device-seconds" in moved[0].reason.text


@pytest.mark.parametrize(
    "more",
    [{"freeze_cost_s": 900.0}, {"running_since_s": NOW_S - 30}, {"freezable": False}, {"pauses": (NOW_S - 5,) * 4}],
)
def test_nobody_is_moved_where_it_does_not_pay_or_too_soon_or_too_often(more: dict) -> None:
    jobs = [replace(one, **more) for one in scattered()]
    large = job("big", ranks=4, together=Together.NODE)
    plan = decide(look([*jobs, large], [node("a", 4), node("b", 4)]), RULES)
    assert not plan.decisions
    assert plan.reasons[JobId("big")].code == "fragmented"


@pytest.mark.parametrize(("machines", "moves"), [(("m", "m"), 2), (("", ""), 2), (("m", "n"), 0)])
def test_a_move_to_another_machine_has_to_earn_its_way_through_the_store(machines: tuple[str, str], moves: int) -> None:
    """Four devices win 1440 device-seconds: a move of two jobs may cost that, and each takes 900 s to be remote."""
    nodes = [node(name, 4, machine=machine) for name, machine in zip("ab", machines, strict=True)]  # type: ignore[arg-type]
    jobs = [replace(one, upload_cost_s=900.0) for one in scattered()]
    plan = decide(look([*jobs, job("big", ranks=4, together=Together.NODE)], nodes), RULES)
    assert sum(isinstance(one, Freeze) for one in plan.decisions) == moves


def test_what_is_said_of_a_move_to_another_machine_is_what_it_costs() -> None:
    nodes = [node("a", 4, machine="m"), node("b", 4, machine="n")]  # type: ignore[arg-type]
    jobs = [replace(one, upload_cost_s=20.0) for one in scattered()]
    plan = decide(look([*jobs, job("big", ranks=4, together=Together.NODE)], nodes), RULES)
    moved = [one for one in plan.decisions if isinstance(one, Freeze)]
    assert len(moved) == 2 and all("the move costs 23.0 device-seconds" in one.reason.text for one in moved)


@pytest.mark.parametrize(("within_s", "code"), [(40, "drain"), (39, "drain-late")])
def test_a_spot_notice_says_whether_what_is_frozen_there_reaches_the_store_in_time(within_s: int, code: str) -> None:
    """Uploads of a node go one after the other: 2 s of freezing, 18 s and 20 s of sending."""
    leaving = node("a", 2, leaves_s=NOW_S + within_s)  # type: ignore[arg-type]
    jobs = [running("x", "a0", freeze_cost_s=2.0, upload_cost_s=18.0), running("y", "a1", upload_cost_s=20.0)]
    plan = decide(look(jobs, [leaving, node("b", 1)]), RULES)
    found = {one.job: one.reason for one in plan.decisions if isinstance(one, Freeze)}
    assert found[JobId("x")].code == code
    assert ("about 40 seconds" in found[JobId("x")].text) == (code == "drain-late")


def test_no_node_is_cleared_for_a_job_that_could_not_thaw_there() -> None:
    frozen = job("big", ranks=4, phase=Phase.FROZEN, cells=(Cell(0, (0, 1, 2, 3)),), home=(NodeId("c"),))
    unfit = replace(frozen, unfit=((NodeId("a"), "it has another python"), (NodeId("b"), "it has another python")))
    plan = decide(look([*scattered(), frozen], [node("a", 4), node("b", 4)]), RULES)
    assert plan.rooms[JobId("big")], "elsewhere it would be made room for"
    plan = decide(look([*scattered(), unfit], [node("a", 4), node("b", 4)]), RULES)
    assert not plan.decisions and plan.reasons[JobId("big")].text


def short(phase: Phase = Phase.RUNNING, *, where: tuple[str, ...] = ("a0", "a0", "a1", "a1")) -> JobView:
    """A standard job of two parts on two of its four devices, because the fleet had lost a node."""
    account, _ = fraction.changed(fraction.opened(NOW_S - 2000, 4), NOW_S - 2000, rate=2.0, counts=True)
    cells = (Cell(0, (0, 1)), Cell(1, (2, 3)))
    held = running("short", *where, tier=Tier.STANDARD, cells=cells, min_devices=1, account=account)
    return replace(held, phase=phase, home=(NodeId("a"), NodeId("a")), running_since_s=NOW_S - 2000)


def test_who_is_frozen_to_be_made_whole_does_not_thaw_as_it_was() -> None:
    nodes, other = [node("a"), node("b")], running("other", "b0", running_since_s=NOW_S - 2000)
    plan = decide(look([short(), other], nodes), RULES)
    assert [(one.job, one.why) for one in plan.decisions if isinstance(one, Freeze)] == [("short", Why.RESIZE)]
    freezing = replace(short(Phase.FREEZING), freezing_why=Why.RESIZE)
    assert "short" not in decide(look([freezing, other], nodes), RULES).rooms
    frozen = replace(short(Phase.FROZEN), seats=(), running_since_s=None)
    plan = decide(look([frozen, other], nodes), RULES)
    assert [one.job for one in plan.decisions] == ["other"] and len(set(plan.rooms[JobId("short")])) == 4


def test_nobody_is_frozen_to_grow_where_its_parts_could_not_sit() -> None:
    stuck = [running(name, where, freezable=False) for name, where in (("x", "b0"), ("y", "c0"))]
    plan = decide(look([short(), *stuck], [node("a"), node("b"), node("c")]), RULES)
    assert not plan.decisions, "one device on each of b and c is no room for a part of two"
