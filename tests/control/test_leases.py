"""Leases: when a node is lost, and when it only looks so because nobody here could listen."""

from __future__ import annotations

import pytest
from tests.hand_clock import HandClock

from ergosphere.control.leases import LEASE_S, MARGIN_S, Leases

LOOK_S = 0.5


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def looking(clock: HandClock, leases: Leases, for_s: float) -> None:
    """What the loop does while nothing happens."""
    for _ in range(int(for_s / LOOK_S)):
        clock.sleep(LOOK_S)
        leases.turns()


def test_a_node_that_is_silent_for_its_lease_and_margin_is_lost(clock: HandClock) -> None:
    leases = Leases(clock)
    leases.renew("a")
    looking(clock, leases, LEASE_S + MARGIN_S)
    assert not leases.ready("a") and not leases.lost("a")
    looking(clock, leases, LOOK_S)
    assert leases.lost("a") and leases.lost("never heard of")


def test_a_server_that_stood_still_itself_loses_no_node(clock: HandClock) -> None:
    leases = Leases(clock)
    leases.renew("a")
    clock.sleep(3600.0)
    assert not leases.lost("a") and not leases.lost("never heard of")
    assert leases.left_s("a") == LEASE_S
    looking(clock, leases, LEASE_S + MARGIN_S + LOOK_S)
    assert leases.lost("a"), "it had its time and did not report"


def test_the_first_to_report_after_a_standstill_does_not_make_the_others_lost(clock: HandClock) -> None:
    leases = Leases(clock)
    for node in ("a", "b"):
        leases.renew(node)
    clock.sleep(3600.0)
    leases.renew("a")
    assert all(leases.ready(node) and not leases.lost(node) for node in ("a", "b"))
    assert not leases.gone()


def test_a_margin_shorter_than_the_loops_period_still_loses_nodes(clock: HandClock) -> None:
    leases = Leases(clock, lease_s=1.0, margin_s=LOOK_S / 2)
    leases.renew("a")
    looking(clock, leases, 2.0)
    assert leases.lost("a")


def test_each_turn_of_a_node_is_told_once(clock: HandClock) -> None:
    leases = Leases(clock)
    leases.renew("a")
    leases.expect("silent")
    assert (leases.turned(), leases.turned()) == ({"a"}, set())
    turns = leases.turns()
    looking(clock, leases, LEASE_S - 1.0)
    leases.renew("a")
    assert leases.turns() == turns, "nothing has turned for whoever reports in time"
    looking(clock, leases, MARGIN_S + 2 * LOOK_S + 1.0)
    assert leases.turned() == leases.gone() == {"silent"}
    looking(clock, leases, LEASE_S - 4.0)
    assert (leases.turned(), leases.gone()) == ({"a"}, {"silent"})
    looking(clock, leases, MARGIN_S)
    assert leases.gone() == {"a", "silent"}
    leases.renew("silent")
    assert (leases.turned(), leases.gone()) == ({"a", "silent"}, {"a"})


def test_whoever_reports_now_and_then_is_looked_at_no_more_often_than_time_asks_for(clock: HandClock) -> None:
    leases = Leases(clock)
    for _ in range(200):
        leases.renew("a")
        looking(clock, leases, LEASE_S + LOOK_S)
    assert len(leases._due) <= 2


def test_whoever_is_said_not_to_be_ready_has_turned_and_turns_again_when_it_reports(clock: HandClock) -> None:
    leases = Leases(clock, margin_s=LEASE_S)
    leases.renew("a")
    leases.turned()
    clock.sleep(LEASE_S)
    assert not leases.ready("a")
    leases.renew("a")
    assert leases.ready("a") and leases.turned() == {"a"}
