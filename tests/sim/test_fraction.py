"""The GPU fraction after the fact: what the definition demands, and that the policy's own account says the same."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ergosphere.core import fraction as account
from ergosphere.core.policy.rules import Rules
from ergosphere.sim import fraction
from ergosphere.sim.board_desk import BoardDesk
from ergosphere.sim.engine import Scenario, play
from ergosphere.sim.figures import owed_from_s
from ergosphere.sim.fleets import uniform
from ergosphere.sim.recipes import Synthetic, synthetic
from ergosphere.system import SystemStopwatch

HOUR = 3_600.0


def test_a_job_that_never_waits_has_all_of_it() -> None:
    assert fraction.life(8, 0, 5_000, [(0, 5_000, 8)]) == 1.0


def test_half_the_devices_for_half_an_hour_makes_three_quarters() -> None:
    (only,) = fraction.hours(8, 0, HOUR, [(0, 1_800, 4), (1_800, HOUR, 8)])
    assert only.fraction == 0.75


def test_a_move_of_ninety_seconds_in_an_hour_makes_0_975() -> None:
    (only,) = fraction.hours(8, 0, HOUR, [(0, 1_000, 8), (1_090, HOUR, 8)])
    assert only.fraction == 0.975
    assert fraction.met(only, 0.95)


def test_surplus_pays_no_deficit() -> None:
    (only,) = fraction.hours(2, 0, HOUR, [(0, 1_800, 8)])
    assert only.fraction == 0.5


def test_days_at_one_speed_are_one_entry() -> None:
    assert fraction.hours(1, 0, 50 * HOUR, [(0, 50 * HOUR, 1)]) == (fraction.Hours(50, HOUR, HOUR),)


def test_short_ends_count_with_their_neighbours() -> None:
    found = fraction.hours(1, HOUR - 100, 3 * HOUR + 100, [(HOUR - 100, 3 * HOUR + 100, 1)])
    assert [(one.count, one.entitled) for one in found] == [(1, HOUR + 100), (1, HOUR + 100)]


spans = st.lists(st.tuples(st.integers(1, 9_000), st.integers(1, 9_000), st.sampled_from([1, 2, 4])), max_size=12)


def laid_out(drawn, start):
    """Gaps and lengths as spans one behind the other, and when the last ends."""
    found, at = [], start
    for gap, length, rate in drawn:
        found.append((at + gap, at + gap + length, rate))
        at += gap + length
    return found, at


@given(drawn=spans, start=st.integers(0, 10_000), rest=st.integers(1, 9_000))
@settings(max_examples=300, deadline=None)
def test_the_hours_add_up_to_the_life(drawn, start, rest) -> None:
    laid, at = laid_out(drawn, start)
    hours = fraction.hours(4, start, at + rest, laid)
    assert sum(one.count * one.entitled for one in hours) == 4 * (at + rest - start)
    assert sum(one.count * one.delivered for one in hours) == sum((end - begin) * rate for begin, end, rate in laid)


@given(drawn=spans, start=st.integers(0, 10_000), rest=st.integers(1, 9_000))
@settings(max_examples=300, deadline=None)
def test_the_policys_account_has_the_same_hours(drawn, start, rest) -> None:
    laid, at = laid_out(drawn, start)
    kept, windows = account.opened(start, 4), []
    for begin, end, rate in laid:
        for moment, now in ((begin, rate), (end, 0)):
            kept, closed = account.changed(kept, moment, rate=now)
            windows += closed
    windows += account.closed(kept, at + rest)[1]
    theirs = [(one.hours, one.entitled, one.delivered) for one in account.merged(tuple(windows))]
    ours = [
        (one.count, one.count * one.entitled, one.count * one.delivered)
        for one in fraction.hours(4, start, at + rest, laid)
    ]
    assert unrolled(theirs) == unrolled(ours)


def unrolled(hours):
    return [(entitled / count, delivered / count) for count, entitled, delivered in hours for _ in range(count)]


def test_in_a_whole_week_both_come_to_the_same_for_every_job() -> None:
    trace, fleet = synthetic(Synthetic(devices=16, load=1.0, span_s=86_400.0)), uniform(2)
    desk = BoardDesk(fleet, Rules())
    desk.keeps_windows = True
    run = play(Scenario(trace, fleet), desk, SystemStopwatch())
    assert len(run.world.ended) == len(trace.works) > 50
    for life in run.world.ended:
        windows = desk.windows.get(life.work.id, [])
        ours = fraction.hours(life.work.devices, owed_from_s(life), life.ended_s, life.spans)
        assert round(sum(one.delivered for one in windows), 3) == round(sum(o.count * o.delivered for o in ours), 3)
        assert round(sum(one.entitled for one in windows), 3) == round(sum(o.count * o.entitled for o in ours), 3)
