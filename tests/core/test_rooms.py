"""Devices that are there are used: gangs mix nodes that differ in nothing they ask for, a job that waits for something
else keeps nobody from them, and those who cannot be served cost a turn nothing."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.fleets import NOW_S, RULES, job, look, node, obey, running, seats

from ergosphere.core import fraction
from ergosphere.core.model import (
    Cell,
    Freeze,
    JobId,
    NodeId,
    Phase,
    Plan,
    ProjectView,
    Resize,
    Start,
    Thaw,
    Tier,
    Together,
    View,
)
from ergosphere.core.policy import standing
from ergosphere.core.policy.board import Board
from ergosphere.core.policy.decide import decide
from ergosphere.core.policy.explain import explain
from ergosphere.core.policy.reasons import places
from ergosphere.core.policy.services import Service, replicas_wanted

PREMIUM, STANDARD, BASIC = Tier.PREMIUM, Tier.STANDARD, Tier.BASIC
LATER_S = NOW_S + 3000.0
GIB = 2**30


def starts(plan: Plan) -> dict[str, int]:
    """Who starts or thaws, on how many devices."""
    return {one.job: len(set(one.placement)) for one in plan.decisions if isinstance(one, Start | Thaw)}


def nodes_of(plan: Plan, name: str) -> set[str]:
    placed = [one for one in plan.decisions if isinstance(one, Start | Thaw) and one.job == name]
    return {seat.node for one in placed for seat in one.placement}


# ---- flaky nodes and memory


def test_a_gang_takes_flaky_nodes_only_where_the_reliable_ones_are_not_enough() -> None:
    fleet = [node("a", 4, flaky_until_s=LATER_S), node("b", 4), node("c", 4)]
    assert nodes_of(decide(look([job("j", ranks=8)], fleet), RULES), "j") == {"b", "c"}
    assert nodes_of(decide(look([job("j", ranks=10)], fleet), RULES), "j") == {"a", "b", "c"}


def test_a_thaw_goes_home_to_two_nodes_of_which_one_is_flaky() -> None:
    cells = (Cell(0, (0, 1)), Cell(1, (2, 3)))
    frozen = job("j", ranks=4, phase=Phase.FROZEN, cells=cells, home=(NodeId("a"), NodeId("b")))
    fleet = [node("a", 2), node("b", 2, flaky_until_s=LATER_S)]
    assert nodes_of(decide(look([frozen], fleet), RULES), "j") == {"a", "b"}


def test_room_is_made_on_flaky_and_healthy_nodes_together() -> None:
    weak = [running("x", "a0", "a1"), running("y", "b0", "b1")]
    plan = decide(look([job("j", PREMIUM, 4), *weak], [node("a"), node("b", flaky_until_s=LATER_S)]), RULES)
    assert {one.job for one in plan.decisions if isinstance(one, Freeze)} == {"x", "y"}


@pytest.mark.parametrize("together", [Together.ANY, Together.DOMAIN])
def test_a_little_less_memory_does_not_part_nodes_of_a_type_but_too_little_does(together: Together) -> None:
    fleet = [node("a", 4, device_bytes=80 * GIB), node("b", 4, device_bytes=80 * GIB - 2**20)]
    asks = job("j", ranks=8, together=together, device_bytes=70 * GIB)
    assert nodes_of(decide(look([asks], fleet), RULES), "j") == {"a", "b"}
    fleet[1] = node("b", 4, device_bytes=40 * GIB)
    assert not starts(decide(look([asks], fleet), RULES))


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 4), st.booleans(), st.sampled_from([70, 80])), min_size=1, max_size=6),
    ranks=st.integers(1, 24),
)
def test_a_job_that_may_mix_all_nodes_starts_whenever_there_are_enough_devices(
    sizes: list[tuple[int, bool, int]], ranks: int
) -> None:
    fleet = [
        node(f"n{at}", devices, flaky_until_s=LATER_S if flaky else 0.0, device_bytes=memory * GIB)
        for at, (devices, flaky, memory) in enumerate(sizes)
    ]
    plan = decide(look([job("j", ranks=ranks)], fleet), RULES)
    assert bool(starts(plan)) == (ranks <= sum(devices for devices, _, _ in sizes))
    steady = {one.id for one in fleet if not one.flaky_until_s}
    if starts(plan) and ranks <= sum(one.devices for one in fleet if one.id in steady):
        assert nodes_of(plan, "j") <= steady


# ---- who waits keeps nobody from what it cannot use


def test_a_job_that_waits_whole_leaves_devices_to_one_that_takes_fewer() -> None:
    """Of the same shape, but only one of them has a promise that half the devices would break."""
    there = running("there", "a0", "a1", "a2", "a3", tier=PREMIUM)
    whole = job("whole", STANDARD, 8, min_devices=2, account=fraction.opened(NOW_S - 10.0, 8))
    fewer = job("fewer", BASIC, 8, min_devices=2, account=fraction.opened(NOW_S - 10.0, 8))
    assert starts(decide(look([there, whole, fewer], [node("a", 4), node("b", 4)]), RULES)) == {"fewer": 4}


@pytest.mark.parametrize(
    "waiting",
    [
        job("w", ranks=4, speeds=(("H100", 1.0),)),  # for devices of another type, all in use
        job("w", ranks=8, together=Together.NODE),  # for a node that the fleet does not have
        job("w", ranks=4, phase=Phase.FROZEN, cells=(Cell(0, (0, 1, 2, 3)),), device_bytes=90 * GIB),  # for more memory
    ],
    ids=["another type", "too large", "too little memory"],
)
def test_only_who_could_use_the_devices_keeps_others_from_growing(waiting: object) -> None:
    fleet = [node("a", 4, type="A100", device_bytes=80 * GIB), node("h", 4, type="H100", device_bytes=80 * GIB)]
    busy = running("busy", "h0", "h1", "h2", "h3", tier=PREMIUM)
    small = running("small", "a0", "a0", "a1", "a1", min_devices=1, speeds=(("A100", 1.0),))
    plan = decide(look([waiting, busy, small], fleet), RULES)  # type: ignore[list-item]
    assert [one.job for one in plan.decisions if isinstance(one, Resize)] == ["small"]


def test_who_could_use_them_still_does() -> None:
    small = running("small", "a0", "a0", "a1", "a1", min_devices=1)
    kept = running("kept", "b0", "b1", tier=PREMIUM)
    plan = decide(look([job("w", ranks=6), small, kept], [node("a", 4), node("b", 4)]), RULES)
    assert not [one for one in plan.decisions if isinstance(one, Resize)], "w waits for these very devices"


def test_small_jobs_are_moved_so_that_one_grows_on_its_node() -> None:
    """Not those that could not spare a move."""
    account, _ = fraction.changed(fraction.opened(NOW_S - 5000.0, 1), NOW_S - 4990.0, rate=1.0)
    small = running("small", "a0", "a0", "a1", "a1", min_devices=1)
    fleet = [node("a", 4), node("b", 2)]
    guests = [running("x", "a2", tier=PREMIUM, account=account), running("y", "a3")]
    plan = decide(look([small, *guests], fleet), RULES)
    assert {one.job for one in plan.decisions if isinstance(one, Freeze)} == {"x", "y"}
    assert set(plan.rooms) == {"x", "y"}, "where they go on is held for them"
    missed, _ = fraction.changed(fraction.opened(NOW_S - 170.0, 1), NOW_S - 5.0, rate=1.0)
    guests = [running("x", "a2", tier=PREMIUM, account=missed), running("y", "a3")]
    assert not decide(look([small, *guests], fleet), RULES).decisions


def test_neighbours_that_leave_already_are_enough_for_it_to_grow() -> None:
    small = running("small", "a0", "a0", "a1", "a1", min_devices=1)
    guests = [running(name, f"a{at}") for at, name in enumerate("wxyz", 2)]
    first = look([small, *guests], [node("a", 6), node("b", 2), node("c", 2)])
    plan = decide(first, RULES)
    assert len([one for one in plan.decisions if isinstance(one, Freeze)]) == 2
    assert not [one for one in decide(obey(first, plan), RULES).decisions if isinstance(one, Freeze)]


# ---- quota


def test_devices_of_a_silent_node_count_as_long_as_their_jobs_hold_them() -> None:
    """Or others would have to leave for a use that costs them nothing."""
    there = (running("there", "a0", "a1", tier=PREMIUM), running("here", "b0", "b1"))
    nodes = (node("a", 2, ready=False), node("b", 2))
    board = Board.of(View(NOW_S, there, nodes, (ProjectView("lab", guarantee=1),)), RULES)
    board.sort_borrowed()
    assert not [entry.view.id for entry in board.entries.values() if entry.borrowed]
    board.drop_node(NodeId("a"))
    board.sort_borrowed()
    assert not [entry.view.id for entry in board.entries.values() if entry.borrowed]
    board.put_job(running("more", "b0", "b1", "c0"))
    board.drop_job(JobId("there"))
    board.sort_borrowed()
    assert [entry.view.id for entry in board.entries.values() if entry.borrowed]
    assert board.usable == 2


LIMITED = (ProjectView("lab", limit=4),)


def in_lab(jobs: list[object], *nodes: object) -> View:
    return View(NOW_S, tuple(jobs), tuple(nodes), LIMITED)  # type: ignore[arg-type]


def test_an_elastic_job_takes_what_the_limit_of_its_project_leaves() -> None:
    elastic = job("e", ranks=8, min_devices=1, project="lab")
    assert starts(decide(in_lab([elastic], node("a", 8)), RULES)) == {"e": 4}
    other = running("o", "a0", "a1", "a2", project="lab")
    assert starts(decide(in_lab([elastic, other], node("a", 8)), RULES)) == {"e": 1}


def test_a_promised_job_wider_than_its_limit_will_ever_allow_takes_as_much_as_that() -> None:
    wide = job("w", STANDARD, 8, min_devices=1, project="lab", account=fraction.opened(NOW_S - 5.0, 8))
    assert starts(decide(in_lab([wide], node("a", 8)), RULES)) == {"w": 4}
    other = running("o", "a0", project="lab", tier=STANDARD)
    plan = decide(in_lab([wide, other], node("a", 8)), RULES)
    assert not starts(plan)
    assert plan.reasons[JobId("w")].code == "over-limit"


def test_behind_a_limit_everybody_is_told_what_it_uses() -> None:
    jobs = [job(f"j{at}", ranks=2, project="lab") for at in range(5)]
    plan = decide(in_lab(jobs, node("a", 8)), RULES)
    assert set(starts(plan)) == {"j0", "j1"}
    assert {plan.reasons[JobId(f"j{at}")].text for at in (2, 3, 4)} == {
        "needs 2 devices at once; project lab uses 4 of the 4 devices it is limited to"
    }


@pytest.mark.parametrize(
    ("projects", "more"),
    [
        (LIMITED, {"project": "lab"}),
        ((ProjectView("lab", guarantee=4, borrow=False),), {"project": "lab"}),
        ((), {"not_before_s": NOW_S + 5000.0}),
    ],
    ids=["limit", "no borrowing", "back-off"],
)
def test_jobs_that_cannot_be_served_cost_a_turn_next_to_nothing(
    projects: tuple[ProjectView, ...], more: dict[str, object]
) -> None:
    there = running("there", "n0-0", "n0-1", "n0-2", "n0-3", project="lab")
    jobs = [job(f"j{at}", submitted_s=float(at), **more) for at in range(5_000)]
    board = Board.of(View(NOW_S, (there, *jobs), (node("n0-", 4), node("n1-", 4)), projects), RULES)
    began_s = time.process_time()
    plan = decide(board, RULES)
    assert time.process_time() - began_s < 0.02
    assert not plan.decisions
    assert plan.reasons[JobId("j4999")].code in {"over-limit", "over-guarantee", "back-off"}


def test_who_backs_off_for_long_wakes_in_time() -> None:
    board = Board.of(look([job("j", not_before_s=NOW_S + 500.0)], [node("a")]), RULES)
    decide(board, RULES)
    assert board.alarm_s() == NOW_S + 500.0 - RULES.min_run_s
    board.advance(board.alarm_s())
    assert set(decide(board, RULES).rooms) == {"j"}, "a short back-off keeps its room"
    board.advance(board.alarm_s())
    assert starts(decide(board, RULES)) == {"j": 1}


def guarded(board: Board) -> bool:
    return board.standing_of(board.entries[JobId("runs")]) == standing.OWED


@pytest.mark.parametrize(("waits", "matters"), [(PREMIUM, True), (STANDARD, False), (BASIC, False), (None, False)])
def test_time_calls_for_a_turn_only_where_somebody_may_gain_by_it(waits: Tier | None, matters: bool) -> None:
    """A standard job that has just come up may be frozen for a premium one after `min_run_s`, for nobody else."""
    runs = running("runs", "a0", "a1", tier=STANDARD, running_since_s=NOW_S, account=fraction.opened(NOW_S, 2, 0.0))
    others = [] if waits is None else [job("waits", waits, ranks=2, submitted_s=NOW_S)]
    board = Board.of(look([runs, *others], [node("a")]), RULES)
    assert board.advance(NOW_S + RULES.min_run_s / 2) is False, "nothing has changed yet"
    assert guarded(board)
    assert board.advance(NOW_S + RULES.min_run_s) is matters
    assert guarded(board), "its turn is not over"


def test_a_job_that_settles_calls_for_a_turn_where_it_may_be_moved_for_one_that_waits() -> None:
    """Each of two nodes has a device free: whoever waits fits on neither, until somebody may be moved."""
    fleet = [node("a"), node("b")]
    there = [running(name, f"{name[-1]}0", tier=PREMIUM, running_since_s=NOW_S) for name in ("on-a", "on-b")]
    waits = job("waits", BASIC, ranks=2, together=Together.NODE)
    board = Board.of(look([*there, waits], fleet), RULES)
    assert not decide(board, RULES).decisions
    assert board.advance(NOW_S + RULES.settle_s + 30.0), "heard later than it rang, as with `--period`"
    [moved] = decide(board, RULES).decisions
    assert isinstance(moved, Freeze) and moved.job in ("on-a", "on-b")


# ---- words and services


def test_many_seats_are_worded_in_one_pass() -> None:
    many = tuple(seat for at in range(2_000) for seat in seats(f"n{at:04}0", f"n{at:04}1"))
    began_s = time.process_time()
    assert places(many) == "n0000 (2 devices), n0001 (2 devices), n0002 (2 devices) and 1997 more"
    assert time.process_time() - began_s < 0.1


def test_nobody_is_ahead_of_a_job_that_waits_for_another_one_only() -> None:
    found = explain(look([job("x"), job("j", after=(JobId("x"),))], [node("a", 0)]), RULES, JobId("j"))
    assert found is not None and found.ahead == ()


def test_without_requests_no_more_than_the_least_replicas_are_wanted() -> None:
    impossible = Service(least=0, most=4, latency_s=2.0, service_s=3.0)
    assert [replicas_wanted(impossible, rate) for rate in (0.0, 0.01)] == [0, 4]
