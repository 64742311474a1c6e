"""No starvation: who has waited too long for a room that comes free in pieces gets it from its own tier; and training
yields to services."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.fleets import answered, job, look, node, obey, running

from ergosphere.core import fraction
from ergosphere.core.model import Freeze, JobId, JobView, Plan, Tier, Together
from ergosphere.core.policy.decide import decide
from ergosphere.core.policy.rules import Rules
from ergosphere.core.policy.standing import PREMIUM as FIRST
from ergosphere.core.policy.standing import claims_since_s, yields
from ergosphere.core.policy.turn import Turn

RULES = Rules()
NOW_S = 360_000.0 + 900.0  # a quarter of an hour into a clock hour: a standard job that stood still so far is owed
HOUR_S = 3600.0
BASIC, STANDARD, PREMIUM = Tier.BASIC, Tier.STANDARD, Tier.PREMIUM


def waits(name: str, tier: Tier, ranks: int, since_s: float, **more: object) -> JobView:
    account = fraction.opened(since_s, ranks)
    return job(name, tier, ranks, submitted_s=since_s, account=account, **more)


def runs(
    name: str, where: str, tier: Tier, since_s: float, submitted_s: float | None = None, **more: object
) -> JobView:
    account, _ = fraction.changed(fraction.opened(since_s - 1.0, 1), since_s, rate=1.0)
    begun = {"submitted_s": since_s - 1.0 if submitted_s is None else submitted_s, "running_since_s": since_s}
    return running(name, where, tier=tier, account=account, **begun, **more)


def frozen(plan: Plan) -> set[str]:
    return {one.job for one in plan.decisions if isinstance(one, Freeze)}


def on_two_devices(*jobs: JobView) -> Plan:
    return decide(look(jobs, [node("a", 2)], NOW_S), RULES)


@pytest.mark.parametrize(
    ("tier", "waited_s"), [(BASIC, RULES.patience_s + 1800.0), (STANDARD, 2 * HOUR_S), (PREMIUM, 600.0)]
)
def test_who_began_after_a_large_job_had_to_wait_has_its_devices_on_loan(tier: Tier, waited_s: float) -> None:
    large = waits("large", tier, 2, NOW_S - waited_s)
    small = [runs(name, f"a{at}", tier, NOW_S - 100.0 * (at + 1)) for at, name in enumerate("xy")]
    plan = on_two_devices(large, *small)
    assert frozen(plan) == {"x", "y"}
    assert "on loan" in next(one.reason.text for one in plan.decisions)
    assert "being made and held" in plan.reasons[JobId("large")].text


@pytest.mark.parametrize(("tier", "waited_s"), [(BASIC, RULES.patience_s - 60.0), (STANDARD, 850.0)])
def test_before_its_patience_is_over_its_own_tier_is_left_alone(tier: Tier, waited_s: float) -> None:
    large = waits("large", tier, 2, NOW_S - waited_s)
    assert not frozen(on_two_devices(large, *(runs(n, f"a{at}", tier, NOW_S - 100.0) for at, n in enumerate("xy"))))


def test_who_was_submitted_earlier_or_began_before_the_claim_keeps_its_turn() -> None:
    large = waits("large", PREMIUM, 2, NOW_S - 600.0)
    late = runs("late", "a0", PREMIUM, NOW_S - 100.0)
    earlier = runs("earlier", "a1", PREMIUM, NOW_S - 100.0, submitted_s=NOW_S - 700.0)
    before = runs("before", "a1", PREMIUM, NOW_S - 601.0)
    assert not frozen(on_two_devices(large, late, earlier))
    assert not frozen(on_two_devices(large, late, before))


def test_nobody_leaves_before_that_makes_the_whole_room_or_within_a_minute_of_its_start() -> None:
    large = waits("large", PREMIUM, 2, NOW_S - 600.0)
    fresh = runs("fresh", "a1", PREMIUM, NOW_S - 20.0)
    plan = on_two_devices(large, runs("late", "a0", PREMIUM, NOW_S - 100.0), fresh)
    assert not frozen(plan)
    assert JobId("large") in plan.rooms, "the hole is kept for the rest of the minute"


def test_a_single_device_is_never_claimed() -> None:
    assert not frozen(on_two_devices(*(runs(n, f"a{at}", BASIC, NOW_S - 100.0) for at, n in enumerate("xy")),
                                     waits("one", BASIC, 1, NOW_S - 10 * HOUR_S)))  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    tier=st.sampled_from([BASIC, STANDARD, PREMIUM]),
    waited=st.lists(st.floats(0.0, 50 * HOUR_S), min_size=2, max_size=2),
    ran=st.lists(st.floats(0.0, 5 * HOUR_S), min_size=2, max_size=2),
    submitted=st.lists(st.integers(0, 3), min_size=2, max_size=2),
)
def test_of_two_jobs_only_one_ever_yields_within_a_turn(
    tier: Tier, waited: list[float], ran: list[float], submitted: list[int]
) -> None:
    """Whoever they are: if `a` left for `b`, `b` does not leave for `a` before it has run for a whole turn."""
    urgency = {BASIC: 3, STANDARD: 1, PREMIUM: 0}[tier]
    a, b = (runs(n, f"a{at}", tier, NOW_S - ran[at], submitted_s=float(submitted[at])) for at, n in enumerate("ab"))
    aw, bw = (waits(n, tier, 2, NOW_S - waited[at]) for at, n in enumerate("ab"))
    aw, bw = replace(aw, submitted_s=a.submitted_s), replace(bw, submitted_s=b.submitted_s)
    one = yields(a, bw, claims_since_s(bw, urgency, RULES), NOW_S, RULES)
    other = yields(b, aw, claims_since_s(aw, urgency, RULES), NOW_S, RULES)
    if one and other:
        assert max(ran) >= RULES.quantum_s


def test_whoever_left_for_a_claim_does_not_come_back_before_it() -> None:
    """Though its project uses less by then, and it would be served first."""
    other = runs("other", "b0", PREMIUM, NOW_S - 5000.0, project="lab")
    last = runs("last", "b1", PREMIUM, NOW_S - 5000.0)
    large = waits("large", PREMIUM, 2, NOW_S - 600.0, project="lab")
    small = [runs(name, f"a{at}", PREMIUM, NOW_S - 100.0 * (at + 1)) for at, name in enumerate("xy")]
    fleet = [node("a", 2), node("b", 2)]
    before = look([other, last, large, *small], fleet, NOW_S)
    plan = decide(before, RULES)
    assert frozen(plan) == {"x", "y"}
    under_way = obey(before, plan)
    still = [answered(one, NOW_S) for one in under_way.jobs if one.id != "last"]  # it ends meanwhile
    after = replace(under_way, jobs=tuple(still), nodes=(node("a", 2), node("b", 1)))
    assert [one.job for one in decide(after, RULES).decisions] == ["large"]


def test_who_was_frozen_for_a_long_claim_leaves_it_a_whole_turn() -> None:
    began_s = NOW_S - 100.0
    later = runs("later", "a0", PREMIUM, began_s)
    older = waits("older", PREMIUM, 2, began_s - 1.0, pauses=(began_s - 2.0,))
    older = replace(older, submitted_s=0.0)
    since_s = claims_since_s(older, FIRST, RULES)
    assert not yields(later, older, since_s, NOW_S, RULES)
    assert yields(later, older, since_s, began_s + RULES.quantum_s, RULES)
    assert yields(later, replace(older, pauses=()), since_s, NOW_S, RULES)


@pytest.mark.parametrize("project", ["default", "other"], ids=["one line", "two lines"])
def test_a_job_without_a_claim_hides_none_that_has_one_behind_it(project: str) -> None:
    plain = job("plain", PREMIUM, 2, project=project)
    large = waits("large", PREMIUM, 2, NOW_S - 600.0)
    small = [runs(name, f"a{at}", PREMIUM, NOW_S - 100.0 * (at + 1)) for at, name in enumerate("xy")]
    assert frozen(on_two_devices(plain, large, *small)) == {"x", "y"}


def test_a_claim_reaches_the_one_node_that_makes_its_room_however_many_yield_elsewhere() -> None:
    large = waits("large", PREMIUM, 2, NOW_S - 600.0, together=Together.NODE)
    fleet = [node(f"n{at:02}", 2) for at in range(90)]
    old = [runs(f"o{at}", f"n{at:02}0", PREMIUM, NOW_S - 900.0) for at in range(89)]
    cheap = [runs(f"c{at}", f"n{at:02}1", PREMIUM, NOW_S - 100.0) for at in range(89)]
    dear = [runs(name, f"n89{at}", PREMIUM, NOW_S - 100.0, freeze_cost_s=9.0) for at, name in enumerate("xy")]
    assert frozen(decide(look([large, *old, *cheap, *dear], fleet, NOW_S), RULES)) == {"x", "y"}


def test_room_that_turns_out_to_be_none_costs_nobody_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be, so it is made to be: two modules that disagree must not void the turns of all others."""
    real = Turn.place_as_is
    monkeypatch.setattr(Turn, "place_as_is", lambda turn, *it: None if turn.urgency == FIRST else real(turn, *it))
    large = waits("large", PREMIUM, 2, NOW_S - 600.0)
    small = [runs(name, f"a{at}", PREMIUM, NOW_S - ran_s) for name, at, ran_s in (("x", 0, 100.0), ("y", 1, 20.0))]
    other = job("other", BASIC)
    for jobs in ([large, *small, other], [large, small[0], runs("z", "a1", PREMIUM, NOW_S - 100.0), other]):
        plan = decide(look(jobs, [node("a", 2), node("b", 1)], NOW_S), RULES)
        assert [one.job for one in plan.decisions] == ["other"] and not plan.rooms


# ---- services


def test_a_claim_is_no_way_to_more_than_a_fair_share() -> None:
    other = runs("other", "b0", PREMIUM, NOW_S - 5000.0, project="lab")
    large = waits("large", PREMIUM, 2, NOW_S - 600.0, project="lab")
    small = [runs(name, f"a{at}", PREMIUM, NOW_S - 100.0 * (at + 1)) for at, name in enumerate("xy")]
    fleet = [node("a", 2), node("b", 1)]
    assert not frozen(decide(look([other, large, *small], fleet, NOW_S), RULES)), "lab would have 3, the others 0"
    assert frozen(decide(look([large, *small], fleet[:1], NOW_S), RULES)) == {"x", "y"}


@pytest.mark.parametrize("tier", [PREMIUM, STANDARD, BASIC])
def test_training_yields_to_a_wanted_replica_of_its_tier_and_never_the_other_way(tier: Tier) -> None:
    replica = waits("replica", tier, 1, NOW_S - 5.0, service="chat")
    training = [runs(n, f"a{at}", tier, NOW_S - 700.0) for at, n in enumerate("xy")]
    plan = on_two_devices(replica, *training)
    assert len(frozen(plan)) == 1
    assert "makes room for replica" in next(one.reason.text for one in plan.decisions)
    serving = [runs(n, f"a{at}", tier, NOW_S - 9 * HOUR_S, service="chat") for at, n in enumerate("xy")]
    assert not frozen(on_two_devices(waits("training", tier, 2, NOW_S - 8 * HOUR_S), *serving))


def test_a_replica_is_served_before_training_of_its_tier() -> None:
    training = waits("training", PREMIUM, 2, NOW_S - 500.0)
    plan = on_two_devices(training, waits("replica", PREMIUM, 2, NOW_S - 5.0, service="chat"))
    assert [one.job for one in plan.decisions] == ["replica"]
