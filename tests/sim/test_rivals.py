"""The rivals' own rules, and the pool they place with."""

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sim.kit import rival_run, trace, work

from ergosphere.core.model import Tier
from ergosphere.sim.costs import NOTHING, Costs
from ergosphere.sim.engine import Scenario
from ergosphere.sim.fleets import uniform
from ergosphere.sim.lives import Life
from ergosphere.sim.pool import Pool
from ergosphere.sim.rivals.queues import Partition
from ergosphere.sim.rivals.ranked import Tiresias, fair_shares
from ergosphere.sim.rivals.restarting import ElasticRestart, PriorityEvict, widths


@given(gangs=st.lists(st.sampled_from([1, 2, 4, 8, 16]), min_size=1, max_size=30), devices=st.integers(1, 64))
def test_fair_shares_fill_the_fleet_and_give_nobody_more_than_the_smallest_could_have(gangs, devices) -> None:
    named = {f"j{n}": gang for n, gang in enumerate(gangs)}
    shares = fair_shares(named, devices)
    times = {key: shares[key] * named[key] for key in named}
    assert all(0 <= share <= 1 + 1e-9 for share in shares.values())
    assert abs(sum(times.values()) - min(devices, sum(gangs))) < 1e-6
    short = [times[key] for key in named if shares[key] < 1 - 1e-9]
    assert not short or max(short) - min(short) < 1e-6, "who does not have all it can use has the same as others"


@given(
    asks=st.lists(st.tuples(st.integers(1, 20), st.booleans()), max_size=40),
    nodes=st.integers(1, 6),
    together=st.booleans(),
)
@settings(max_examples=200)
def test_a_pool_never_gives_a_device_twice_and_takes_back_what_it_gave(asks, nodes, together) -> None:
    pool = Pool(((f"n{n}", 8) for n in range(nodes)), together=together)
    held: dict[str, set] = {}
    for number, (devices, leaves) in enumerate(asks):
        placement = pool.place(devices)
        if placement is not None:
            assert len(set(placement)) == devices
            assert not any(set(placement) & other for other in held.values())
            if together and devices <= 8:
                assert len({seat.node for seat in placement}) == 1
            pool.take(f"j{number}", placement)
            held[f"j{number}"] = set(placement)
        else:
            assert together or pool.free < devices
        if leaves and held:
            key = min(held)
            pool.release(key)
            del held[key]
    assert pool.free == 8 * nodes - sum(len(one) for one in held.values())


def test_the_snuggest_node_is_taken_first() -> None:
    pool = Pool((f"n{n}", 8) for n in range(3))
    pool.take("a", pool.place(5))
    pool.take("b", pool.place(3))
    assert {seat.node for seat in pool.place(8)} == {"n1"}
    assert pool.free == 16


def test_a_node_that_is_down_is_not_given() -> None:
    pool = Pool((f"n{n}", 8) for n in range(2))
    pool.set_up("n0", up=False)
    assert pool.place(9) is None
    assert {seat.node for seat in pool.place(8)} == {"n1"}
    pool.set_up("n0", up=True)
    assert len(pool.place(16)) == 16


def test_evicted_jobs_start_again_from_their_last_checkpoint() -> None:
    both = trace(work("weak", 0, 4_000, 8, Tier.BASIC), work("strong", 2_500, 1_000, 8, Tier.PREMIUM))
    costs = Costs(start_s=10.0, checkpoint_every_s=1_000.0)
    lives = {one.work.id: one for one in rival_run(Scenario(both, uniform(1), costs), PriorityEvict()).world.ended}
    assert lives["strong"].ended_s == 2_500 + 10 + 1_000
    assert lives["weak"].lost_s == 490.0, "2,490 s were done, 2,000 s were saved"
    assert lives["weak"].ended_s == 3_510 + 10 + 2_000


def test_a_projects_share_is_its_own() -> None:
    mixed = trace(*(work(f"a{n}", 0, 1_000, 4, project="a") for n in range(3)), work("b", 0, 1_000, 4, project="b"))
    run = rival_run(Scenario(mixed, uniform(1), NOTHING), Partition(mixed.works, 8))
    ends = {one.work.id: one.ended_s for one in run.world.ended}
    assert ends["b"] == 1_000
    assert sorted(ends[f"a{n}"] for n in range(3)) == [1_000, 2_000, 3_000], "though half the fleet stands empty"


def test_tiresias_lets_newcomers_pass_whoever_had_much() -> None:
    both = trace(work("long", 0, 20_000, 8), work("short", 10_000, 600, 8))
    run = rival_run(Scenario(both, uniform(1), NOTHING), Tiresias(demoted_device_s=3_600 * 8))
    ends = {one.work.id: one.ended_s for one in run.world.ended}
    assert ends == {"short": 10_600, "long": 20_600}


def test_elastic_widths_give_everybody_a_part_before_anybody_has_two() -> None:
    lives = [Life(work(f"j{n}", n, 600, 8, least=2), 600.0) for n in range(3)]
    assert widths(lives, 8) == {"j0": 4, "j1": 2, "j2": 2}
    assert widths(lives, 4) == {"j0": 2, "j1": 2}
    assert widths(lives, 24) == {"j0": 8, "j1": 8, "j2": 8}


def test_elastic_by_restart_loses_no_work_but_pays_for_each_start() -> None:
    both = trace(work("a", 0, 4_000, 8, least=4), work("b", 100, 4_000, 8, least=4))
    run = rival_run(Scenario(both, uniform(1), Costs(start_s=30.0)), ElasticRestart())
    assert all(one.lost_s == 0 for one in run.world.ended)
    assert sum(one.restarts for one in run.world.ended) >= 2
