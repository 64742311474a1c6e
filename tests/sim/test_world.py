"""Laws of every simulation: nothing is lost or done twice, one seed has one history, trouble is survived."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sim.kit import trace, work

from ergosphere.core.model import Tier
from ergosphere.core.policy.rules import Rules
from ergosphere.sim import policies
from ergosphere.sim.board_desk import BoardDesk
from ergosphere.sim.costs import NOTHING, Costs
from ergosphere.sim.engine import Scenario, play
from ergosphere.sim.faulty import Faulty
from ergosphere.sim.figures import figures
from ergosphere.sim.fleets import Fleet, Machine, uniform
from ergosphere.sim.many import PARTS, Task, measure, on_all_cores, run, seeded
from ergosphere.sim.recipes import Synthetic, replicated, storm, synthetic
from ergosphere.sim.trouble import Trouble
from ergosphere.sim.works import Trace

SMALL = synthetic(Synthetic(devices=16, load=0.9, span_s=86_400.0, seed=3))
TROUBLE = Trouble(failure_h=20.0, repair_h=0.5, slow=0.5)


def ended_of(scenario, policy=policies.OURS):
    played = run(Task(policy, scenario))
    assert not played.stuck
    assert len(played.world.ended) == len(scenario.trace.works)
    return played


@pytest.mark.parametrize("policy", policies.NAMES)
def test_every_policy_ends_every_job_exactly_once(policy) -> None:
    """The oracles compare what was computed with what there was to do, and the books with the seats."""
    ended_of(Scenario(SMALL, uniform(2)), policy)


@pytest.mark.parametrize("policy", policies.NAMES)
def test_every_policy_survives_failures_and_slow_nodes(policy) -> None:
    played = ended_of(Scenario(SMALL, uniform(3), trouble=TROUBLE, seed=5), policy)
    assert sum(one.faults for one in played.world.ended) > 0


@given(seed=st.integers(0, 10_000), load=st.floats(0.3, 2.0), nodes=st.integers(1, 4))
@settings(max_examples=12, deadline=None)
def test_our_policy_loses_no_work_to_preemption(seed, load, nodes) -> None:
    made = synthetic(Synthetic(devices=8 * nodes, load=load, span_s=43_200.0, seed=seed))
    played = ended_of(Scenario(made, uniform(nodes), seed=seed))
    assert figures(played).lost_h == 0.0


HISTORY = """
import hashlib, sys
from ergosphere.sim.engine import Scenario
from ergosphere.sim.fleets import uniform
from ergosphere.sim.many import Task, run
from ergosphere.sim.recipes import Synthetic, synthetic
from ergosphere.sim.trouble import Trouble
made = synthetic(Synthetic(devices=16, load=1.0, span_s=86_400.0, seed=9))
played = run(Task(sys.argv[1], Scenario(made, uniform(2), trouble=Trouble(failure_h=30.0), seed=9)))
told = repr([(one.work.id, one.ended_s, one.spans, one.pauses, one.moves) for one in played.world.ended])
print(hashlib.sha256(told.encode()).hexdigest())
"""


@pytest.mark.parametrize("policy", ["ergosphere", "tiresias"])
def test_one_seed_has_one_history_in_any_process(policy) -> None:
    def digest(hash_seed):
        found = subprocess.run(
            [sys.executable, "-c", HISTORY, policy],
            env={"PYTHONHASHSEED": hash_seed, "PATH": "/usr/bin:/bin", "PYTHONPATH": "src"},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return found.stdout

    assert digest("1") == digest("4242")


def test_many_seeds_on_many_cores_are_the_same_as_one_by_one() -> None:
    tasks = seeded(Task("fifo", Scenario(SMALL, uniform(2))), range(4))
    told = []
    spread = on_all_cores(measure, tasks, lambda done, of: told.append((done, of)), cores=2)
    alone = [measure(task) for task in tasks]
    assert [one.jct_mean_s for one in spread] == [one.jct_mean_s for one in alone]
    assert told[-1] == (4 * PARTS, 4 * PARTS) and [done for done, _ in told] == sorted(done for done, _ in told)
    assert [one.tiers for one in spread] != [spread[0].tiers] * 4, "seeds deal other tiers"


def test_a_job_waits_for_those_it_is_after() -> None:
    chain = trace(work("a", 0, 600), work("b", 0, 600, after=("a",)), work("c", 10, 600, after=("a", "b")))
    lives = {one.work.id: one for one in ended_of(Scenario(chain, uniform(1))).world.ended}
    assert lives["b"].started_s >= lives["a"].ended_s
    assert lives["c"].started_s >= lives["b"].ended_s
    assert lives["c"].present_s == lives["b"].ended_s, "waiting for others is no entitlement"


def test_a_lost_node_costs_the_work_since_the_last_snapshot() -> None:
    costs = Costs(start_s=0.0, snapshot_every_s=1_000.0, detect_s=13.0)
    scenario = Scenario(trace(work("a", 0, 10_000, devices=1)), uniform(2), costs)
    clean = ended_of(scenario).world.ended[0]
    desk = BoardDesk(scenario.fleet, Rules())
    opened = desk.open

    def open_and_break(world):
        opened(world)
        from ergosphere.sim.agenda import Kind

        world.agenda.add(3_500.0, Kind.NODE_DOWN, "n00000")

    desk.open = open_and_break
    from ergosphere.system import SystemStopwatch

    hurt = play(scenario, desk, SystemStopwatch()).world.ended[0]
    assert hurt.faults == 1 and hurt.lost_to_faults_s == 500.0
    assert hurt.ended_s == clean.ended_s + 500.0 + 13.0 + costs.thaw_s + costs.transfer_s


def test_a_slow_node_slows_the_whole_gang() -> None:
    slowed = Trouble(slow=1.0, slow_factor=0.5)
    alone = ended_of(Scenario(trace(work("a", 0, 7_200, devices=8)), uniform(1), NOTHING, trouble=slowed, seed=2))
    assert alone.world.ended[0].ended_s > 7_200


def test_a_faster_device_type_ends_a_job_sooner() -> None:
    fleet = Fleet("two kinds", (Machine("a", 1, "v100"), Machine("b", 1, "k80")))
    fast = trace(work("x", 0, 1_000, speeds=(("v100", 2.0),)), work("y", 0, 1_000, speeds=(("k80", 0.5),)))
    ends = {one.work.id: one.ended_s for one in ended_of(Scenario(fast, fleet, NOTHING)).world.ended}
    assert ends == {"x": 500.0, "y": 2_000.0}


def test_a_job_larger_than_the_fleet_is_named_with_its_line(tmp_path) -> None:
    with pytest.raises(Faulty, match="line 7: job big needs 99 devices, the whole fleet has 16") as caught:
        run(Task("fifo", Scenario(trace(work("big", 0, 60, devices=99, line=7)), uniform(2))))
    assert "--fleet" in caught.value.remedy


# ---- stress


def test_a_thousand_flapping_nodes_lose_no_job() -> None:
    calm = trace(*(work(f"j{n}", n * 10.0, 1_200.0, 8, list(Tier)[n % 3]) for n in range(40)))
    played = ended_of(Scenario(calm, uniform(1_010), trouble=Trouble(flapping=1_000, flap_s=600.0), seed=1), "fifo")
    assert sum(one.faults for one in played.world.ended) > 0
    ours = ended_of(Scenario(calm, uniform(1_010), trouble=Trouble(flapping=1_000, flap_s=600.0), seed=1))
    assert sum(one.faults for one in ours.world.ended) < sum(one.faults for one in played.world.ended), "avoided"


def test_ten_thousand_submissions_in_one_second_are_all_done() -> None:
    flood = Trace("a flood", tuple(storm(10_000, 5.0)))
    figures_of = figures(ended_of(Scenario(flood, uniform(64), period_s=1.0)))
    assert figures_of.ended == 10_000
    premium, standard, basic = (one.wait_mean_s for one in figures_of.tiers)
    assert premium < standard < basic, "who has to wait longer follows the tiers"


def test_with_five_times_the_demand_guarantees_go_in_the_order_of_the_tiers() -> None:
    made = replicated(synthetic(Synthetic(devices=16, load=1.0, span_s=43_200.0, seed=4)), 5)
    tiers = figures(ended_of(Scenario(made, uniform(2)))).tiers
    premium, standard, basic = (one.fraction for one in tiers)
    assert premium > standard > basic
