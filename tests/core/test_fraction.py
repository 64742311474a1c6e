"""The GPU fraction: the definition's own examples, and that hours add up to the life whatever happens."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ergosphere.core import fraction
from ergosphere.core.fraction import HOUR_S, Window
from ergosphere.core.model import Account, Cause, JobId, Tier
from ergosphere.core.sla import Tally, guaranteed_load

T0 = 36_000.0  # a full hour


def played(devices: int, *steps: tuple[float, float], began_s: float = T0) -> tuple[Account, tuple[Window, ...]]:
    """Steps of (seconds, devices computing) from `began_s` to the end of the job."""
    account = fraction.opened(began_s, devices)
    windows: tuple[Window, ...] = ()
    now_s = began_s
    for span_s, rate in steps:
        account, more = fraction.changed(account, now_s, rate=rate)
        windows += more
        now_s += span_s
    account, more = fraction.closed(account, now_s)
    return account, windows + more


@pytest.mark.parametrize(
    "steps, expected",
    [
        (((HOUR_S, 4.0),), 1.0),
        (((1800.0, 4.0), (1800.0, 2.0)), 0.75),
        (((1000.0, 4.0), (90.0, 0.0), (2510.0, 4.0)), 0.975),
        (((HOUR_S, 9.0),), 1.0),
        (((1800.0, 0.0), (1800.0, 8.0)), 0.5),
    ],
)
def test_an_hour_is_worth_what_the_definition_says(steps: tuple, expected: float) -> None:
    _, windows = played(4, *steps)
    assert [window.fraction for window in windows] == [pytest.approx(expected)]


def test_a_rigid_jobs_fraction_is_its_ideal_time_over_its_real_time() -> None:
    account, _ = played(2, (5000.0, 0.0), (7000.0, 2.0), (3000.0, 0.0), (1000.0, 2.0), began_s=T0 + 77)
    assert account.life_delivered / account.life_entitled == pytest.approx(8000 / 16000)


def test_a_premium_job_can_stand_still_for_three_minutes_of_an_hour() -> None:
    account = fraction.opened(T0, 8)
    assert fraction.slack(account, 0.95, T0) == pytest.approx(180 * 8)
    assert fraction.spent_s(account, 0.95, T0) == pytest.approx(T0 + 180)
    account, _ = fraction.changed(account, T0 + 100, rate=8.0)
    assert fraction.slack(account, 0.95, T0 + 2000) == pytest.approx(80 * 8)


def test_nothing_is_spent_before_the_grace_is_over() -> None:
    """Or whoever asks at that moment, to see that it is not so, asks again at once, and so on for the whole grace."""
    account = fraction.opened(T0 + 2_740, 1, grace_s=60.0)  # 800 s of the hour are left of which it may miss 240
    for now_s in (T0 + 2_740, T0 + 2_770):
        assert fraction.spent_s(account, 0.7, now_s, margin_s=240.0) == pytest.approx(T0 + 2_800)


def test_what_the_owner_pauses_and_what_waits_for_others_does_not_count() -> None:
    account = fraction.opened(T0, 2)
    account, _ = fraction.changed(account, T0 + 600, counts=False)
    account, windows = fraction.changed(account, T0 + 10 * HOUR_S, rate=2.0, counts=True)
    account, more = fraction.closed(account, T0 + 10 * HOUR_S + 600)
    assert account.life_entitled == pytest.approx(2400) and account.life_delivered == pytest.approx(1200)
    assert [window.entitled for window in (*windows, *more)] == [pytest.approx(1200), pytest.approx(1200)]


def test_many_quiet_hours_close_as_one_run() -> None:
    _, windows = played(3, (50 * HOUR_S, 3.0), began_s=T0 + 600)
    assert [window.hours for window in windows] == [1, 49, 1]
    assert sum(window.entitled for window in windows) == pytest.approx(150 * HOUR_S)


def test_parts_under_five_minutes_count_with_their_neighbour() -> None:
    _, windows = played(1, (100.0, 0.0), (2 * HOUR_S, 1.0), (100.0, 1.0), began_s=T0 + HOUR_S - 100)
    joined = fraction.merged(windows)
    assert [round(window.entitled) for window in joined] == [3700, 3700]
    assert joined[0].fraction == pytest.approx(3600 / 3700)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 16),
    st.floats(0, 7200),
    st.lists(st.tuples(st.floats(0, 20_000), st.integers(0, 20), st.booleans()), max_size=12),
)
def test_hours_add_up_to_the_life_and_no_second_counts_twice(
    devices: int, offset_s: float, steps: list[tuple[float, int, bool]]
) -> None:
    now_s = T0 + offset_s
    account = fraction.opened(now_s, devices)
    windows: tuple[Window, ...] = ()
    entitled = delivered = 0.0
    for span_s, rate, counts in steps:
        account, more = fraction.changed(account, now_s, rate=rate, counts=counts, cause=Cause.QUEUE)
        windows += more
        now_s += span_s
        entitled += devices * span_s * counts
        delivered += min(rate, devices) * span_s * counts
    account, more = fraction.closed(account, now_s)
    windows += more
    for have, want in ((account.life_entitled, entitled), (account.life_delivered, delivered)):
        assert have == pytest.approx(want, abs=1e-3)
    assert sum(window.entitled for window in windows) == pytest.approx(entitled, abs=1e-3)
    assert sum(window.delivered for window in windows) == pytest.approx(delivered, abs=1e-3)
    missed = sum(amount for window in windows for _, amount in window.lost)
    assert missed == pytest.approx(entitled - delivered, abs=1e-3)
    assert all(window.entitled <= devices * HOUR_S * window.hours + 1e-6 for window in windows)
    joined = fraction.merged(windows)
    assert sum(window.entitled for window in joined) == pytest.approx(entitled, abs=1e-3)


def test_a_report_sets_what_was_promised_beside_what_was_delivered() -> None:
    tally = Tally()
    tally.add(JobId("a"), Tier.PREMIUM, played(2, (HOUR_S, 2.0), (HOUR_S, 1.0), (HOUR_S, 0.0), (HOUR_S, 2.0))[1])
    tally.add(JobId("b"), Tier.STANDARD, played(4, (10 * HOUR_S, 3.0))[1])
    tally.add(JobId("c"), Tier.PREMIUM, played(1, (HOUR_S, 0.0))[1], borrowed=True)
    premium, standard, basic = tally.rows()
    assert premium.jobs == 1 and premium.attainment == pytest.approx(0.5) and premium.longest_missed_h == 2
    assert premium.deficit_device_h == pytest.approx(2 * 0.95 * 2 - 1)
    assert standard.attainment == 1.0 and standard.fraction == pytest.approx(0.75)
    assert basic.jobs == 1 and basic.fraction == 0.0 and basic.attainment == 1.0
    assert dict(premium.lost_device_h)[Cause.QUEUE] == pytest.approx(3.0)


def test_the_guaranteed_load_says_whether_all_promises_could_be_kept() -> None:
    accounts = [(Tier.PREMIUM, fraction.opened(T0, 4)), (Tier.STANDARD, fraction.opened(T0, 10))]
    assert guaranteed_load(accounts, 8) == pytest.approx((3.8 + 7) / 8)
