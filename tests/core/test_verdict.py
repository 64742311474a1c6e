"""First cause: who brought whom down."""

import errno
import signal
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ergosphere.core.model import Outcome, RankExit
from ergosphere.core.verdict import CONSEQUENCE_S, ORDER_S, SETTLE_S, judge, settled

T0 = 1_000.0


def left(rank: int, code: int = 0, at: float = 0.0, asked: bool = False) -> RankExit:
    return RankExit(rank, code << 8, T0 + at, asked)


def killed(rank: int, by: int = signal.SIGKILL, at: float = 0.0, asked: bool = False) -> RankExit:
    return RankExit(rank, int(by), T0 + at, asked)


def outcome(exits: list[RankExit], ranks: int, vanished: Mapping[int, float] | None = None) -> Outcome | None:
    verdict = judge(exits, ranks, vanished or {})
    return verdict.outcome if verdict else None


def test_all_zero_is_a_success_and_some_zero_is_undecided() -> None:
    assert outcome([left(0), left(1)], 2) is Outcome.SUCCEEDED
    assert outcome([left(0)], 2) is None
    assert outcome([], 1) is None


def test_a_program_that_raises_is_failed_with_its_own_code_though_its_peers_abort() -> None:
    verdict = judge([left(2, 3), killed(0, signal.SIGABRT, 0.2), killed(1, signal.SIGABRT, 5.0)], 3)
    assert verdict is not None
    assert (verdict.outcome, verdict.rank, verdict.exit_code) == (Outcome.FAILED, 2, 3)
    assert "rank 0, 1" in verdict.text


def test_a_killed_rank_is_lost_though_its_peers_exit_1_a_moment_later() -> None:
    verdict = judge([killed(1), left(0, 1, 0.4), left(2, 1, 0.6)], 3)
    assert verdict is not None
    assert (verdict.outcome, verdict.rank, verdict.exit_code) == (Outcome.LOST, 1, 137)
    assert "memory" in verdict.text and "rank 0, 2 followed" in verdict.text


def test_clock_skew_does_not_turn_a_killed_rank_into_a_failed_job() -> None:
    assert outcome([left(0, 1), killed(1, at=ORDER_S * 0.9)], 2) is Outcome.LOST


def test_a_kill_long_after_a_failure_does_not_excuse_the_failure() -> None:
    assert outcome([left(0, 1), killed(1, at=ORDER_S * 2)], 2) is Outcome.FAILED


def test_an_abort_of_its_own_is_a_loss() -> None:
    assert outcome([killed(0, signal.SIGABRT), left(1, 1, at=ORDER_S * 2)], 2) is Outcome.LOST
    assert outcome([killed(0, signal.SIGABRT)], 1) is Outcome.LOST


def test_a_vanished_machine_explains_exits_from_when_it_was_last_heard_of() -> None:
    assert outcome([left(0, 1, at=1.0)], 2, {1: T0 + 0.5}) is Outcome.LOST
    assert outcome([left(0, 1, at=1.0)], 2, {1: T0 + 8.0}) is Outcome.FAILED
    verdict = judge([], 2, {1: T0})
    assert verdict is not None and verdict.exit_code == 137 and "machine" in verdict.text


def test_an_exit_reported_before_its_machine_vanished_counts() -> None:
    assert outcome([left(0), left(1)], 2, {1: T0 + 1}) is Outcome.SUCCEEDED


def test_a_peer_that_fails_later_than_a_minute_after_a_loss_is_not_called_its_consequence() -> None:
    verdict = judge([killed(1), left(0, 1, CONSEQUENCE_S + 1)], 2)
    assert verdict is not None and verdict.outcome is Outcome.LOST and "followed" not in verdict.text


def test_exits_we_asked_for_are_no_cause() -> None:
    assert outcome([killed(0, signal.SIGTERM, asked=True), left(1, 1, asked=True)], 2) is Outcome.CANCELLED
    assert outcome([killed(0, asked=True)], 2) is None
    assert outcome([killed(0, asked=True, at=-5), left(1, 4)], 2) is Outcome.FAILED


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [(errno.ENOENT, 127, "not found"), (errno.EACCES, 126, "cannot be executed"), (errno.E2BIG, 126, "too long")],
)
def test_a_command_that_cannot_be_executed_is_failed_in_plain_words(number: int, code: int, words: str) -> None:
    verdict = judge([RankExit(0, 127 << 8, T0, exec_errno=number)], 1)
    assert verdict is not None
    assert (verdict.outcome, verdict.exit_code) == (Outcome.FAILED, code)
    assert words in verdict.text


def test_a_shell_that_reports_a_killed_child_is_failed_and_says_what_137_means() -> None:
    verdict = judge([left(0, 137)], 1)
    assert verdict is not None and verdict.outcome is Outcome.FAILED and "SIGKILL" in verdict.text


def test_the_verdict_waits_until_every_running_rank_was_heard_of_late_enough() -> None:
    exits = [left(0, 1)]
    assert not settled(exits, 2, {1: T0 + SETTLE_S - 0.1})
    assert settled(exits, 2, {1: T0 + SETTLE_S})
    assert settled(exits, 1, {})
    assert not settled([left(0)], 2, {1: T0 + 100})
    assert settled(exits, 2, {}, vanished={1: T0})


STATUSES = st.sampled_from([0, 1 << 8, 3 << 8, 139 << 8, signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV | 0x80])


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, list[RankExit], dict[int, float]]:
    ranks = draw(st.integers(1, 6))
    exits, vanished = [], {}
    for rank in range(ranks):
        at_s = T0 + draw(st.floats(0, 90))
        match draw(st.sampled_from(["exit", "vanish", "run"])):
            case "exit":
                exits.append(RankExit(rank, int(draw(STATUSES)), at_s, asked=draw(st.booleans())))
            case "vanish":
                vanished[rank] = at_s
    return ranks, exits, vanished


@given(histories(), st.randoms())
def test_the_order_of_observation_does_not_matter(history: tuple[int, list[RankExit], dict[int, float]], dice) -> None:
    ranks, exits, vanished = history
    shuffled = [*exits, *exits]
    dice.shuffle(shuffled)
    assert judge(shuffled, ranks, vanished) == judge(exits, ranks, vanished)


@given(histories())
def test_a_success_has_only_zeros_and_every_verdict_names_what_was_seen(
    history: tuple[int, list[RankExit], dict[int, float]],
) -> None:
    ranks, exits, vanished = history
    verdict = judge(exits, ranks, vanished)
    abnormal = {one.rank for one in exits if one.wait_status and not one.asked}
    match verdict and verdict.outcome:
        case None:
            assert not abnormal and not vanished and len(exits) < ranks
        case Outcome.SUCCEEDED | Outcome.CANCELLED:
            assert not abnormal and len(exits) == ranks
        case Outcome.LOST:
            assert verdict.rank in abnormal | set(vanished) and verdict.exit_code > 128
        case Outcome.FAILED:
            assert verdict.rank in abnormal and 0 < verdict.exit_code < 256


@given(histories(), st.floats(0, 120))
def test_what_is_learnt_after_settling_does_not_change_the_outcome(
    history: tuple[int, list[RankExit], dict[int, float]], now: float
) -> None:
    ranks, exits, vanished = history
    heard = {rank: min(T0 + now, vanished.get(rank, T0 + now)) for rank in range(ranks)}
    seen = [one for one in exits if one.at_s <= T0 + now]
    if settled(seen, ranks, heard) and judge(seen, ranks) is not None:
        assert outcome(seen, ranks) == outcome(exits, ranks, vanished)
