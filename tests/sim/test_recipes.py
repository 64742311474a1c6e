"""Made traces: the same seed gives the same, and a replication carries the same load."""

import pytest
from tests.sim.kit import DATA

from ergosphere.core.model import Tier
from ergosphere.sim.reading import read
from ergosphere.sim.recipes import JITTER_S, Synthetic, narrowed, replicated, storm, synthetic, tiered, window
from ergosphere.sim.works import smallest_part

T64 = read(DATA / "common_T64.csv")


def test_a_tenfold_replication_has_ten_copies_within_half_an_hour_and_ten_times_the_load() -> None:
    ten = replicated(T64, 10)
    assert len(ten.works) == 7_620 and len({one.id for one in ten.works}) == 7_620
    assert ten.device_seconds == 10 * T64.device_seconds
    first = {one.id: one.submit_s for one in T64.works}
    assert all(abs(one.submit_s - first[one.id.split("x")[0]]) <= JITTER_S for one in ten.works)
    assert [one.submit_s for one in ten.works] == sorted(one.submit_s for one in ten.works)
    assert replicated(T64, 10) == ten != replicated(T64, 10, seed=8)


@pytest.mark.parametrize("load", [0.5, 1.0])
def test_a_made_up_week_has_the_load_that_was_asked_for(load) -> None:
    made = synthetic(Synthetic(devices=64, load=load, seed=1))
    offered = made.device_seconds / (64 * 7 * 86_400)
    assert offered == pytest.approx(load, rel=0.05)
    assert made == synthetic(Synthetic(devices=64, load=load, seed=1))
    assert {one.tier for one in made.works} == set(Tier)


def test_days_are_busier_than_nights() -> None:
    made = synthetic(Synthetic(devices=512, load=1.0))
    day = sum(1 for one in made.works if 21_600 <= one.submit_s % 86_400 < 64_800)
    assert 0.6 < day / len(made.works) < 0.9


def test_windows_and_limits_cut_a_trace() -> None:
    part = window(T64, 86_400.0, 2 * 86_400.0)
    assert part.works and all(0 <= one.submit_s < 86_400 for one in part.works)
    assert narrowed(T64, 4, 3_600.0).widest <= 4
    assert tiered(T64, 1).works != tiered(T64, 2).works


def test_the_smallest_part_divides_the_ranks_and_shares_at_most_four_ways() -> None:
    assert [smallest_part(n) for n in (1, 2, 3, 4, 6, 7, 8, 64)] == [1, 1, 1, 1, 2, 7, 2, 16]


def test_a_storm_comes_within_its_second() -> None:
    assert all(5.0 <= one.submit_s < 6.0 for one in storm(1_000, 5.0))
