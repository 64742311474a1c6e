"""What a freeze will take is told from what freezes took."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ergosphere.core.costs import FIXED_S, UNKNOWN_S, Sample, predict, remote_in_s, thaw_there_s

samples = st.lists(st.builds(Sample, st.integers(0, 1 << 40), st.floats(0, 1e4)), max_size=10)


def test_without_any_measurement_there_is_a_guess() -> None:
    assert predict([], [], 10) == UNKNOWN_S


def test_a_job_goes_by_its_own_measurements_before_those_of_its_node() -> None:
    assert predict([Sample(100, 2.0)], [Sample(100, 9.0)], 100) == 2.0
    assert predict([], [Sample(100, 9.0)], 100) == 9.0


def test_twice_the_bytes_take_twice_as_long_but_for_the_fixed_part() -> None:
    assert predict([Sample(1 << 30, 2.3)], [], 2 << 30) == FIXED_S + 2 * (2.3 - FIXED_S)


def test_one_slow_day_is_outvoted() -> None:
    assert predict([Sample(100, 60.0), *[Sample(100, 1.0)] * 4], [], 100) == 1.0


@given(samples, samples, st.none() | st.integers(0, 1 << 40))
def test_a_prediction_lies_within_what_its_measurements_say(
    own: list[Sample], node: list[Sample], bytes_now: int | None
) -> None:
    used = own or node
    each = [predict([one], [], bytes_now) for one in used] or [UNKNOWN_S]
    assert min(each) <= predict(own, node, bytes_now) <= max(each)
    assert all(one >= 0 for one in each)


@given(st.floats(0, 1e4), st.lists(st.floats(0, 1e4), max_size=5))
def test_the_way_through_the_store_is_paid_for_by_who_thaws_on_another_machine(
    thaw_s: float, uploads_s: list[float]
) -> None:
    assert thaw_there_s(thaw_s, sum(uploads_s), away=False) == thaw_s
    assert thaw_there_s(thaw_s, sum(uploads_s), away=True) == thaw_s + sum(uploads_s)
    assert remote_in_s(thaw_s, uploads_s) == thaw_s + sum(uploads_s) >= max([thaw_s, *uploads_s])
