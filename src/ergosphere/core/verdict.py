"""How a life ended, judged by its first cause (design §3.8): of many exits, the one that brought the others down.

When a rank is killed its peers fail a moment later, and when a rank raises its peers abort a moment later: the same
exits in another order. Times decide, but only as far as they can be trusted (`ORDER_S`):

- a foreign signal or a vanished machine less than `ORDER_S` after a program's own exit still counts as first, because
  taking a killed rank for a failed one would lose the job, while the opposite mistake costs one recovery;
- an abort (SIGABRT) less than `ORDER_S` before a program's own exit counts as its consequence, because that is how
  collective libraries take peers down.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ergosphere.core.model import Outcome, RankExit, Verdict

ORDER_S: Final = 1.0  # two nodes' clocks differ by this much, and a big process takes as long to be reaped
SETTLE_S: Final = 2 * ORDER_S + 0.5  # noted ORDER_S after its effect, by a clock ORDER_S behind, and the way here
CONSEQUENCE_S: Final = 60.0  # a peer's exit this long after a lost rank is called its consequence
SIGNAL_BASE: Final = 128  # what shells add to a signal's number

_NOBODY: Final[Mapping[int, float]] = MappingProxyType({})
_KILLED: Final = int(signal.SIGKILL)
_VANISHED_CODE: Final = SIGNAL_BASE + _KILLED


@dataclass(frozen=True, slots=True, order=True)
class _Loss:
    """A rank that a foreign signal ended, or (signal 0) that went with its machine."""

    at_s: float
    rank: int
    signal: int


@dataclass(frozen=True, slots=True, order=True)
class _Failure:
    """A rank whose program ended by itself with a non-zero status."""

    at_s: float
    rank: int
    code: int
    exec_errno: int


def settled(
    exits: Iterable[RankExit], ranks: int, heard: Mapping[int, float], vanished: Mapping[int, float] = _NOBODY
) -> bool:
    """True once waiting longer cannot change the verdict: every rank still running was heard of late enough.

    `heard` has for each rank when its node last reported (a rank that is missing was never heard of); `vanished` is as
    for `judge`. False as long as nothing abnormal happened and not every rank has ended.
    """
    known = _by_rank(exits)
    open_ranks = [rank for rank in range(ranks) if rank not in known and rank not in vanished]
    if not open_ranks:
        return True
    times_s = [loss.at_s for loss in _losses(known, vanished)] + [failure.at_s for failure in _failures(known)]
    if not times_s:
        return False
    first_s = min(times_s)
    return all(heard.get(rank, float("-inf")) >= first_s + SETTLE_S for rank in open_ranks)


def judge(exits: Iterable[RankExit], ranks: int, vanished: Mapping[int, float] = _NOBODY) -> Verdict | None:
    """The verdict over what is known so far, whatever the order in which it was learnt; None while undecided.

    Ask `settled` first: an exit that is still to be reported may be the cause of those seen. `vanished` has, for each
    rank whose machine is gone, when that machine was last heard of (seconds of the same clock as `RankExit.at_s`); an
    exit that was reported counts, whatever became of the machine afterwards. Exits we asked for are never a cause.
    Do not ask about lives that a freeze ended.
    """
    known = _by_rank(exits)
    losses = _losses(known, vanished)
    failures = _failures(known)
    if not losses and not failures:
        return _quiet(known, ranks)
    failure = min(failures, default=None)
    rooted = losses if failure is None else [loss for loss in losses if _is_first(loss, failure)]
    if rooted:
        return _lost(min(rooted), known)
    assert failure is not None, "a loss that is nobody's consequence is its own cause"
    return _failed(failure, known)


def _by_rank(exits: Iterable[RankExit]) -> dict[int, RankExit]:
    """One exit a rank: the same exit reported twice is one."""
    known: dict[int, RankExit] = {}
    for rank_exit in sorted(exits, key=lambda one: (one.at_s, one.wait_status, one.asked, one.exec_errno)):
        known.setdefault(rank_exit.rank, rank_exit)
    return known


def _losses(known: Mapping[int, RankExit], vanished: Mapping[int, float]) -> list[_Loss]:
    signalled = [
        _Loss(one.at_s, one.rank, os.WTERMSIG(one.wait_status))
        for one in known.values()
        if not one.asked and not one.exec_errno and os.WIFSIGNALED(one.wait_status)
    ]
    gone = [_Loss(last_s, rank, 0) for rank, last_s in vanished.items() if rank not in known]
    return signalled + gone


def _failures(known: Mapping[int, RankExit]) -> list[_Failure]:
    return [
        _Failure(one.at_s, one.rank, _exit_code(one), one.exec_errno)
        for one in known.values()
        if not one.asked and (one.exec_errno or (os.WIFEXITED(one.wait_status) and _exit_code(one) != 0))
    ]


def _exit_code(rank_exit: RankExit) -> int:
    if rank_exit.exec_errno:
        return 127 if rank_exit.exec_errno == errno.ENOENT else 126
    return os.waitstatus_to_exitcode(rank_exit.wait_status)


def _is_first(loss: _Loss, failure: _Failure) -> bool:
    """Whether `loss` and not `failure`, the earliest of its kind, is the first cause. See the module's words."""
    if loss.signal == signal.SIGABRT:
        return loss.at_s < failure.at_s - ORDER_S
    return loss.at_s <= failure.at_s + ORDER_S


def _quiet(known: Mapping[int, RankExit], ranks: int) -> Verdict | None:
    if len(known) < ranks:
        return None
    if any(one.asked for one in known.values()):
        return Verdict(Outcome.CANCELLED, None, 0, "it was stopped because that was asked for")
    return Verdict(Outcome.SUCCEEDED, None, 0, "every rank ended with status 0")


def _lost(loss: _Loss, known: Mapping[int, RankExit]) -> Verdict:
    followers = [one for one in _failures(known) if loss.at_s - ORDER_S <= one.at_s <= loss.at_s + CONSEQUENCE_S]
    text = _loss_text(loss) + _followers_text([one.rank for one in followers])
    code = _VANISHED_CODE if loss.signal == 0 else SIGNAL_BASE + loss.signal
    return Verdict(Outcome.LOST, loss.rank, code, text)


def _loss_text(loss: _Loss) -> str:
    if loss.signal == 0:
        return f"the machine of rank {loss.rank} is gone"
    text = f"rank {loss.rank} was ended by {signal_name(loss.signal)}, which nobody here sent"
    if loss.signal == _KILLED:
        text += "; the kernel does that when memory runs out, so the job may need more than there was"
    return text


def _failed(failure: _Failure, known: Mapping[int, RankExit]) -> Verdict:
    followers = [one.rank for one in known.values() if one.rank != failure.rank and one.wait_status and not one.asked]
    text = _failure_text(failure) + _followers_text(followers)
    return Verdict(Outcome.FAILED, failure.rank, failure.code, text)


def _failure_text(failure: _Failure) -> str:
    match failure.exec_errno:
        case 0:
            return f"rank {failure.rank} ended by itself with status {failure.code}{_shell_hint(failure.code)}"
        case errno.ENOENT:
            return "the command was not found on the node (or the interpreter named in its first line was not)"
        case errno.EACCES | errno.ENOEXEC:
            return "the command is there but cannot be executed: check its permissions and its first line"
        case other:
            return f"the command could not be executed: {os.strerror(other)}"


def _shell_hint(code: int) -> str:
    number = code - SIGNAL_BASE
    if number not in {int(known) for known in signal.Signals}:
        return ""
    return f" (the way a shell says that a child of it was ended by {signal_name(number)})"


def _followers_text(ranks: list[int]) -> str:
    if not ranks:
        return ""
    listed = ", ".join(str(rank) for rank in sorted(ranks)[:4]) + (" …" if len(ranks) > 4 else "")
    return f"; what happened to rank {listed} followed from that"


def signal_name(number: int) -> str:
    """SIGKILL for 9; "signal 63" where the number has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
