"""Whole traces: a job as large as the fleet starts although small ones never stop coming, in every tier; a gang spans a
node that has failed; devices do not lie idle beside jobs that could grow."""

import pytest
from tests.sim.kit import trace, work

from ergosphere.core.model import Tier
from ergosphere.sim import engine, policies
from ergosphere.sim.agenda import Kind
from ergosphere.sim.engine import Scenario
from ergosphere.sim.figures import figures
from ergosphere.sim.fleets import uniform
from ergosphere.sim.many import Task, run

HOUR_S = 3_600.0
COMES_S = 4 * HOUR_S
SMALL_S = 3_000.0  # less than a turn


def waited_s(tier: Tier, load: float, hours: float) -> float:
    """How long a job of all 16 devices waits in a stream of small ones of its own tier."""
    step_s = SMALL_S / (16 * load)
    small = [work(f"s{n:04}", n * step_s, SMALL_S, tier=tier) for n in range(int(hours * HOUR_S / step_s))]
    large = work("large", COMES_S, HOUR_S, devices=16, tier=tier)
    works = sorted([*small, large], key=lambda one: one.submit_s)
    played = run(Task(policies.OURS, Scenario(trace(*works), uniform(2))))
    life = next(one for one in played.world.ended if one.work.id == "large")
    assert life.started_s is not None
    return life.started_s - COMES_S


@pytest.mark.parametrize("load", [0.7, 1.06])
@pytest.mark.parametrize(
    ("tier", "most_s"), [(Tier.PREMIUM, 1.5 * HOUR_S), (Tier.STANDARD, 4 * HOUR_S), (Tier.BASIC, 7.2 * HOUR_S)]
)
def test_a_large_job_starts_though_small_ones_never_stop_coming(tier: Tier, most_s: float, load: float) -> None:
    hours = COMES_S / HOUR_S + most_s / HOUR_S + 3
    assert waited_s(tier, load, hours) <= most_s


def test_a_gang_goes_on_as_soon_as_its_node_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The node is flaky for ten minutes after that, and there is no other."""
    events = [(1_000.0, Kind.NODE_DOWN, "n00001"), (1_060.0, Kind.NODE_UP, "n00001")]
    monkeypatch.setattr(engine, "trouble_events", lambda *_: iter(events))
    gang = trace(work("gang", 0.0, 2 * HOUR_S, devices=16, tier=Tier.PREMIUM))
    life = run(Task(policies.OURS, Scenario(gang, uniform(2)))).world.ended[0]
    assert life.spans[1][0] < 1_060.0 + 60.0


def test_small_jobs_do_not_keep_a_shrunk_one_from_devices_that_are_free_elsewhere() -> None:
    """Two leave the node of the shrunk job for one where nobody is any more, and it gets what it asks for."""
    long_s = 10 * HOUR_S
    works = [
        work("first", 0.0, HOUR_S, devices=8),
        work("guest", 1.0, long_s, devices=4),
        work("shrunk", 2.0, long_s, devices=8, least=4, tier=Tier.BASIC),
    ]
    played = run(Task(policies.OURS, Scenario(trace(*works), uniform(2))))
    assert figures(played).allocation > 0.93
