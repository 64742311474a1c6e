"""Guarantees and fair shares over time, in a simulated world: kept, taken back, not fought over; nobody is envied."""

from dataclasses import replace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tests.sim.kit import trace, work

from ergosphere.core.model import ProjectView, Tier
from ergosphere.sim.costs import NOTHING
from ergosphere.sim.engine import Scenario
from ergosphere.sim.figures import figures
from ergosphere.sim.fleets import uniform
from ergosphere.sim.many import Task, run
from ergosphere.sim.promised import stretches
from ergosphere.system import dice

P = ProjectView


def fleet(nodes, *projects):
    return replace(uniform(nodes), projects=projects)


def computes(life, at_s):
    """Right after the decisions of that moment, in a world in which these cost no time."""
    return any(begin <= at_s < end for begin, end, _ in life.spans)


def uses(lives, project, at_s):
    """Devices that the project's jobs have."""
    return sum(one.work.devices for one in lives if one.work.project == project and computes(one, at_s))


def waits(lives, project, at_s):
    mine = (one for one in lives if one.work.project == project and one.present_s < at_s < one.ended_s)
    return any(not computes(one, at_s) for one in mine)


@given(
    seed=st.integers(0, 10_000),
    weights=st.sampled_from([(1.0, 1.0), (3.0, 1.0), (1.0, 2.5)]),
    width=st.sampled_from([1, 2, 4]),
    tier=st.sampled_from([Tier.PREMIUM, Tier.BASIC]),
)
@settings(max_examples=10, deadline=None, phases=[Phase.explicit, Phase.generate])
def test_whoever_starts_is_less_than_one_job_ahead_of_any_project_that_waits(seed, weights, width, tier) -> None:
    """The bound on envy, over time: jobs come and go; whenever one starts while another project waits, its project is
    ahead of that one by no more than this job, in devices per weight."""
    throws = dice(seed)
    jobs = [
        work(f"{name}{n}", throws.random() * 2_400, 300 + throws.random() * 1_800, width, tier, project=name)
        for name in "xy"
        for n in range(72 // width)
    ]
    jobs.sort(key=lambda one: one.submit_s)
    weight = dict(zip("xy", weights, strict=True))
    tree = [P(name, weight=weight[name]) for name in "xy"]
    lives = run(Task("ergosphere", Scenario(trace(*jobs), fleet(2, *tree), NOTHING))).world.ended
    compared = 0
    for life in lives:
        at_s, mine = life.started_s, life.work.project
        other = "y" if mine == "x" else "x"
        if computes(life, at_s) and waits(lives, other, at_s):
            ahead = uses(lives, mine, at_s) / weight[mine] - uses(lives, other, at_s) / weight[other]
            assert ahead <= width / weight[mine] + 1e-9, (life.work.id, at_s)
            compared += 1
    assert compared > 72 // width // 4, "often both wait"


@pytest.mark.parametrize("theirs", [Tier.PREMIUM, Tier.STANDARD, Tier.BASIC])
@pytest.mark.parametrize("nested", [False, True])
def test_a_guarantee_is_had_whatever_runs_there_without_one_and_is_not_fought_over(theirs, nested) -> None:
    """`a` is guaranteed half the fleet and comes an hour late, with basic jobs; the others have none."""
    above = (P("lab", guarantee=16),) if nested else ()
    tree = (*above, P("a", "lab" if nested else "", guarantee=8), P("b", "lab" if nested else ""))
    jobs = [work(f"b{n}", n, 40_000, 4, theirs, project="b") for n in range(6)]
    jobs += [work(f"a{n}", 3_600 + n, 20_000, 4, Tier.BASIC, project="a") for n in range(2)]
    played = run(Task("ergosphere", Scenario(trace(*jobs), fleet(2, *tree))))
    lives = {one.work.id: one for one in played.world.ended}
    assert len(lives) == 8
    assert all(lives[f"a{n}"].started_s < 3_800 and not lives[f"a{n}"].pauses for n in range(2))
    pauses = max(one.pauses for one in lives.values())
    assert pauses <= 2 * max(one.ended_s for one in lives.values()) / 3_600, "turns among themselves at most"
    assert figures(played).lost_h == 0.0


def test_work_beyond_its_guarantee_counts_as_basic_while_it_is() -> None:
    """Of three premium jobs of a project with 8 devices, of four each, the youngest borrows until one has ended."""
    jobs = [work(f"p{n}", n, (2 + n) * 3_600, 4, Tier.PREMIUM, project="lab") for n in range(3)]
    other = work("other", 5, 3 * 3_600, 4, Tier.PREMIUM, project="mine")
    tree = (P("lab", guarantee=8), P("mine", guarantee=8))
    played = run(Task("ergosphere", Scenario(trace(*jobs, other), fleet(2, *tree))))
    parts = stretches(played.world.ended, tree, 16, played.world.now_s)
    youngest, first = (next(one for one in played.world.ended if one.work.id == key) for key in ("p2", "p0"))
    assert [borrowed for *_, borrowed in parts["p2"]] == [True, False]
    assert parts["p2"][0][1] == first.ended_s and parts["p2"][-1][1] == youngest.ended_s
    told = figures(played)
    assert told.tiers[2].entitled_h == pytest.approx(4 * (first.ended_s - 62) / 3_600, rel=1e-3)
    assert told.tiers[0].jobs == 4 and told.tiers[0].attainment == 1.0


def test_a_job_that_starves_costs_attainment() -> None:
    """Stopped after a day: eight devices for the one that runs, none in all the hours of the one that waits."""
    jobs = [work(f"j{n}", n, 400_000, 8, Tier.PREMIUM) for n in range(2)]
    told = figures(run(Task("fifo", Scenario(trace(*jobs), fleet(1), until_s=86_400.0))))
    assert told.ended == 0 and told.tiers[0].attainment == pytest.approx(0.5, abs=0.03)
    assert told.wait_p99_s == pytest.approx(86_400, rel=0.1) and told.jct_mean_s > 0
