"""The upper bound: no policy is better, and where the best is known it is found."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sim.kit import trace, work

from ergosphere.core.model import Tier
from ergosphere.sim.bound import bound, fast_machine_jct
from ergosphere.sim.costs import NOTHING
from ergosphere.sim.engine import Scenario
from ergosphere.sim.figures import figures
from ergosphere.sim.fleets import pooled
from ergosphere.sim.many import Task, run
from ergosphere.sim.recipes import Synthetic, synthetic


def test_a_job_alone_takes_its_duration() -> None:
    assert bound(trace(work("a", 0, 5_000, devices=4)), 8).jct_s == pytest.approx(5_000, rel=0.01)


def test_of_two_jobs_on_one_device_the_shorter_goes_first() -> None:
    both = trace(work("long", 0, 3_000), work("short", 0, 1_000))
    assert fast_machine_jct(both.works, 1) == pytest.approx((1_000 + 4_000) / 2)


POLICIES = ["srtf", "sjf", "ergosphere", "gavel"]


@given(seed=st.integers(0, 1_000), load=st.floats(0.4, 1.6), policy=st.sampled_from(POLICIES))
@settings(max_examples=15, deadline=None)
def test_no_policy_beats_it(seed, load, policy) -> None:
    made = synthetic(Synthetic(devices=8, load=load, span_s=43_200.0, seed=seed))
    best = bound(made, 8)
    told = figures(run(Task(policy, Scenario(made, pooled(8), NOTHING))))
    assert told.jct_mean_s >= best.jct_s * (1 - 1e-6)
    for tier, own in zip(Tier, told.tiers, strict=True):
        stronger = sum(one.deficit_h for one in told.tiers[: list(Tier).index(tier)])
        grace_h = sum(one.devices for one in made.works) * 60.0 / 3_600.0
        assert own.deficit_h + stronger >= best.deficit_h[tier] - grace_h


def test_where_too_much_is_promised_it_says_how_much_must_be_missed() -> None:
    crowd = trace(*(work(f"p{n}", 0, 3_600, devices=1, tier=Tier.PREMIUM) for n in range(4)))
    found = bound(crowd, 2)
    assert found.deficit_h[Tier.PREMIUM] == pytest.approx(4 * 0.95 - 2)
    assert found.guaranteed_load > 1
