"""Figures that other simulators gave for the common traces, in an ideal world in which only waiting costs time."""

import pytest
from tests.sim.kit import DATA, mean_jct_s, rival_run

from ergosphere.sim.costs import NOTHING
from ergosphere.sim.engine import Scenario
from ergosphere.sim.fleets import pooled, uniform
from ergosphere.sim.reading import read
from ergosphere.sim.rivals.queues import fifo, sjf
from ergosphere.sim.rivals.ranked import Gavel, Las, Srtf, Tiresias

T64 = read(DATA / "common_T64.csv")
T1024 = read(DATA / "common_T1024.csv.gz")


def pooled_jct_s(trace, devices, rival):
    return mean_jct_s(rival_run(Scenario(trace, pooled(devices), NOTHING), rival))


def consolidated_jct_s(trace, nodes, rival):
    return mean_jct_s(rival_run(Scenario(trace, uniform(nodes), NOTHING), rival, together=True))


def test_fifo_with_skip_is_exact_to_the_hundredth_of_a_second() -> None:
    assert round(pooled_jct_s(T64, 64, fifo(skip=True)), 2) == 28_583.67
    assert round(pooled_jct_s(T1024, 1_024, fifo(skip=True)), 2) == 21_620.22


def test_strict_fifo_is_exact_to_the_second() -> None:
    assert round(pooled_jct_s(T64, 64, fifo(skip=False))) == 42_221


def test_shortest_job_first_is_exact_to_the_second() -> None:
    assert round(pooled_jct_s(T64, 64, sjf())) == 18_892
    assert round(pooled_jct_s(T1024, 1_024, sjf())) == 15_884


def test_strict_fifo_on_whole_nodes_is_what_lucids_simulator_says() -> None:
    """48,114 there; Gavel's rounds pack anew and come to 43,435."""
    assert consolidated_jct_s(T64, 8, fifo(skip=False)) == pytest.approx(48_114, rel=0.005)


def test_shortest_remaining_time_lies_between_the_two_codes() -> None:
    assert 18_534 <= consolidated_jct_s(T64, 8, Srtf()) <= 19_004


def test_least_attained_service_is_within_three_per_cent_of_the_three_codes() -> None:
    """23,123 (Gavel), 23,511 (Lucid) and 24,728 (Muri) differ by 6.7 %: the middle one within 3 %, all within 4 %."""
    found = consolidated_jct_s(T64, 8, Tiresias())
    assert found == pytest.approx(23_511, rel=0.03)
    assert found == pytest.approx(23_123, rel=0.04)
    assert found == pytest.approx(24_728, rel=0.04)


@pytest.mark.parametrize(("rival", "known"), [(Gavel(fills=False), 23_122), (Las(fills=False), 23_123)])
def test_max_min_fairness_in_rounds_is_within_ten_per_cent(rival, known) -> None:
    """Ours is 4 to 5 % lower: a gang that is frozen in a round has made room in that very round."""
    assert consolidated_jct_s(T64, 8, rival) == pytest.approx(known, rel=0.10)
