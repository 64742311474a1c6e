"""The cut: brings all ranks of a job to a point where no collective or message is half done, or says who did not come.

`step` decides from what is seen, and does nothing; `reach_cut` and `go` look, ask it, and post its orders. How far each
rank must go is reckoned in `cut_ledger`; how a rank is reached is `cut_port`'s business."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final, assert_never

from ergosphere.agent import cut_ledger
from ergosphere.agent.cut_ledger import Collectives, Lag, Ledger, Series, Way
from ergosphere.agent.cut_port import RankPort
from ergosphere.agent.cut_view import ANYONE, RankState, RankView
from ergosphere.system import Clock

LOOK_S: Final = 0.0005  # pause between two looks at the ranks: well under the cut's own 10 ms
DROP_S_MAX: Final = 10.0  # beyond the deadline, once groups are being dropped
TOLD_AT_ONCE: Final = 64  # ranks; more than a node that is away has, so that others are not behind it in the queue
GO_S_MAX: Final = 60.0  # process groups of a thousand ranks meeting again
STEP_S_MAX: Final = 2.0  # for ranks to come to the end of a step, where replicas hold the same and are stored once
STALL_PART: Final = 0.25  # of the deadline without any movement, after which everyone held is let on by one operation
UNHELD: Final = (RankState.NONE, RankState.GONE)
ONWARD: Final = ("go ", "release ")  # how the words of an order begin after which a rank runs
DROP: Final = "quiesce"


class LeftWaiting(Exception):
    """Ranks wait at a cut, or may: not all could be told to go on. Whoever takes it up finds them there."""


@dataclass(frozen=True, slots=True)
class CutReached:
    """Nothing is half done. `parked` ranks wait for `go`; the others are frozen where they stand."""

    parked: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CutFailed:
    """The job runs on as if nothing had been asked. `rank` did not come, for `reason` (a plain sentence).

    `lasting`: it would not come the next time either."""

    rank: int
    reason: str
    lasting: bool = False


@dataclass(frozen=True, slots=True)
class Hold:
    """Operations of `rank` beyond the limits wait."""

    rank: int
    limits: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Settle:
    """`rank` finishes what it launched."""

    rank: int


@dataclass(frozen=True, slots=True)
class Quiesce:
    """`rank` drops its groups."""

    rank: int
    orphans: tuple[str, ...]


Instruction = Hold | Settle | Quiesce


@dataclass(frozen=True, slots=True)
class Holding:
    """Ranks are being brought to the same place. `ordered`: the limits each was last given."""

    targets: Mapping[Series, int]
    ordered: Mapping[int, Mapping[str, int]]
    seen: Mapping[int, RankView]
    moved_at_s: float


@dataclass(frozen=True, slots=True)
class Settling:
    """All stand at the same place; what was launched is being finished."""


@dataclass(frozen=True, slots=True)
class Quiescing:
    """Groups are being dropped."""


@dataclass(frozen=True, slots=True)
class CutState:
    """What `step` keeps from one look to the next. Times are those of one monotonic clock."""

    began_s: float
    deadline_s: float
    phase: Holding | Settling | Quiescing | None = None


Outcome = CutReached | CutFailed
Step = tuple[CutState, tuple[Instruction, ...], Outcome | None]


def step(state: CutState, views: Mapping[int, RankView], now_s: float) -> Step:
    """The next orders, or the outcome, from one look at all ranks."""
    failed = _refusal(views)
    if failed is not None:
        return state, (), failed
    match state.phase:
        case None:
            return _begin(state, views, now_s)
        case Holding() as holding:
            return _bring_together(state, holding, views, now_s)
        case Settling():
            return _settle(state, views, now_s)
        case Quiescing():
            return _drop(state, views, now_s)


def reach_cut(ports: Mapping[int, RankPort], deadline_s: float, clock: Clock) -> Outcome:
    """Brings the ranks behind `ports` to a cut within `deadline_s` seconds. On failure all have been released.

    Raises LeftWaiting where one could not be, or could not be told to drop its groups as others were."""
    state = CutState(began_s=clock.monotonic(), deadline_s=deadline_s)
    outcome: Outcome | None = None
    try:
        while outcome is None:
            views = {rank: port.view() for rank, port in ports.items()}
            state, instructions, outcome = step(state, views, clock.monotonic())
            for instruction in instructions:
                _post(ports[instruction.rank], instruction)
            if outcome is None:
                clock.sleep(LOOK_S)
        return outcome
    except Exception as error:
        if isinstance(state.phase, Quiescing):
            raise LeftWaiting(f"not every rank could be told to drop its groups: {error}") from error
        raise
    finally:
        dropping = outcome is None and isinstance(state.phase, Quiescing)  # who has none left waits for the others'
        if not isinstance(outcome, CutReached) and not dropping:
            release(ports, token=f"{state.began_s:.6f}")


def take_up(ports: Mapping[int, RankPort], clock: Clock) -> tuple[int, ...]:
    """Ends what a coordinator that died had begun: the ranks that now wait at a cut, none where all run.

    Whoever was still to drop its groups does; where one was told to go on, whoever has dropped them is told the same.
    Raises LeftWaiting where some wait and the others do not come, or did not find each other.
    """
    began_s, asked = clock.monotonic(), set[tuple[int, str]]()
    while True:
        views = {rank: port.view() for rank, port in ports.items()}
        acting = {rank: view for rank, view in views.items() if view.takes_part}
        waiting = {rank for rank, view in acting.items() if view.state is RankState.READY}
        onward = next((view.told for view in acting.values() if view.told.startswith(ONWARD)), "")
        if not waiting and not any(view.told == DROP for view in acting.values()):
            _check_rebuilt(acting)
            return ()
        if waiting == acting.keys() and not onward:
            return tuple(sorted(waiting))
        if clock.monotonic() - began_s > GO_S_MAX:
            raise LeftWaiting("not all ranks of the job came to a cut, or went on from it")
        for rank, view in acting.items():
            word = onward if rank in waiting else DROP
            if word and not view.told.startswith((word, *ONWARD)) and (rank, word) not in asked:
                _say_as_before(ports[rank], word, tuple(sorted(cut_ledger.read(views).orphans)))
                asked.add((rank, word))
        clock.sleep(LOOK_S)


def _say_as_before(port: RankPort, word: str, orphans: tuple[str, ...]) -> None:
    match word.split(maxsplit=1):
        case ["go", generation]:
            port.go(int(generation))
        case ["release", token]:
            port.release(token)
        case _:
            port.quiesce(orphans)


def _check_rebuilt(views: Mapping[int, RankView]) -> None:
    for rank, view in views.items():
        if view.told.startswith(ONWARD) and view.answered and view.error is not None:
            raise LeftWaiting(f"rank {rank} could not rebuild its process groups: {view.error}")


def anyone_left(ports: Mapping[int, RankPort]) -> bool:
    """Whether a rank is held, or waits at a cut, and has not been told to go on."""
    held = (RankState.HELD, RankState.READY)
    return any(view.state in held and not view.told.startswith(ONWARD) for view in (p.view() for p in ports.values()))


def release(ports: Mapping[int, RankPort], token: str) -> None:
    """Lets every rank go on in place; `token` must be the same for all and never used before in this job.

    Raises LeftWaiting where one could not be told."""
    _say_to_all(ports, lambda port: port.release(token))


def _say_to_all(ports: Mapping[int, RankPort], say: Callable[[RankPort], None]) -> None:
    """All at once, so that a node that is away does not keep the ranks of others waiting for their word."""

    def told(port: RankPort) -> Exception | None:
        try:
            say(port)
        except Exception as error:
            return error
        return None

    with ThreadPoolExecutor(max_workers=max(1, min(len(ports), TOLD_AT_ONCE))) as pool:
        failed = next((error for error in pool.map(told, ports.values()) if error is not None), None)
    if failed is not None:
        raise LeftWaiting(f"not every rank could be told to go on: {failed}") from failed


def go(
    ports: Mapping[int, RankPort], parked: Collection[int], generation: int, deadline_s: float, clock: Clock
) -> CutFailed | None:
    """Lets all ranks go on after a cut, here or after a thaw, and waits until the `parked` ones run. None is success.

    `generation` must not have been used before in this job's life. Raises LeftWaiting where one could not be told."""
    until_s = clock.monotonic() + deadline_s
    _say_to_all(ports, lambda port: port.go(generation))
    while True:
        views = {rank: ports[rank].view() for rank in parked}
        for rank, view in views.items():
            if view.answered and view.error is not None:
                return CutFailed(rank, f"rank {rank} could not rebuild its process groups: {view.error}")
        late = [rank for rank, view in views.items() if not _is_going(view, generation)]
        if not late:
            return None
        if clock.monotonic() > until_s:
            return CutFailed(late[0], f"rank {late[0]} did not go on within {deadline_s:g} s of being told to")
        clock.sleep(LOOK_S)


def _is_going(view: RankView, generation: int) -> bool:
    if view.state is RankState.GONE:
        return True
    return view.answered and view.state is not RankState.NONE and view.generation == generation


def _post(port: RankPort, instruction: Instruction) -> None:
    match instruction:
        case Hold(_, limits):
            port.hold(limits)
        case Settle():
            port.settle()
        case Quiesce(_, orphans):
            port.quiesce(orphans)
        case _:
            assert_never(instruction)


def _refusal(views: Mapping[int, RankView]) -> CutFailed | None:
    for rank, view in views.items():
        if view.fault is not None:
            return CutFailed(rank, f"rank {rank} has lost a peer in a collective: {view.fault}")
        if view.unmanaged:
            backends = ", ".join(view.unmanaged)
            return CutFailed(rank, f"rank {rank} has process groups that cannot be rebuilt: {backends}", lasting=True)
        if view.takes_part and view.answered and view.error is not None:
            return CutFailed(rank, f"rank {rank} could not obey: {view.error}")
        if view.others and len(views) > 1:
            return CutFailed(rank, f"rank {rank} has several processes with process groups; one rank each is needed")
    return None


def _begin(state: CutState, views: Mapping[int, RankView], now_s: float) -> Step:
    if any(view.others for view in views.values()):
        return state, (), CutReached(parked=())  # all its members are in the one tree that is frozen at once
    live = [rank for rank, view in views.items() if view.state is not RankState.GONE]
    holding = Holding({}, {rank: {} for rank in live}, views, now_s)
    return replace(state, phase=holding), tuple(Hold(rank, {}) for rank in live), None


def _bring_together(state: CutState, holding: Holding, views: Mapping[int, RankView], now_s: float) -> Step:
    ledger = cut_ledger.read(views)
    for rank, group in ledger.strangers.items():
        return state, (), CutFailed(rank, f"rank {rank} has a peer in {_name(group)} that is no rank of this job")
    moved_at_s = now_s if views != holding.seen else holding.moved_at_s
    targets, lags = cut_ledger.advance(ledger, holding.targets)
    let_on: set[int] = set()
    if lags and now_s - moved_at_s > STALL_PART * state.deadline_s:
        # Somebody who is behind waits for something that is no collective, from somebody who is held.
        targets, moved_at_s = _let_on(views, targets), now_s
        let_on = {rank for rank, view in views.items() if view.at_step}
    late = [rank for rank, view in views.items() if not _is_held(view)]
    has_time = now_s - state.began_s < min(STEP_S_MAX, STALL_PART * state.deadline_s)
    midway = _midway(views) if not lags and not late and has_time else {}
    if midway:
        targets, lags = cut_ledger.advance(ledger, _let_on(midway, targets))
    elif not lags and not late:
        live = [rank for rank, view in views.items() if view.state is not RankState.GONE]
        return replace(state, phase=Settling()), tuple(Settle(rank) for rank in live), None
    if now_s - state.began_s > state.deadline_s:
        return state, (), _blame(ledger, lags, late, state.deadline_s)
    ordered = dict(holding.ordered)
    for rank in ledger.views:
        limits = cut_ledger.limits_of(ledger, rank, targets) if rank in lags else {}
        if limits and limits != ordered.get(rank):
            ordered[rank] = limits
            let_on.add(rank)
    holds = tuple(Hold(rank, ordered.get(rank, {})) for rank in sorted(let_on))
    return replace(state, phase=Holding(targets, ordered, views, moved_at_s)), holds, None


def _midway(views: Mapping[int, RankView]) -> dict[int, RankView]:
    """Ranks that are not held at the end of a step, in a job whose ranks all take steps."""
    taking = {rank: view for rank, view in views.items() if view.takes_part}
    if len(taking) < 2 or not all(view.steps for view in taking.values()):
        return {}
    return {rank: view for rank, view in taking.items() if not view.at_step}


def _let_on(views: Mapping[int, RankView], targets: Mapping[Series, int]) -> dict[Series, int]:
    """Each by the one operation that it is held at."""
    raised = dict(targets)
    for view in views.values():
        for series, number in cut_ledger.wanted(view).items():
            raised[series] = max(raised.get(series, 0), number)
    return raised


def _is_held(view: RankView) -> bool:
    return view.state in UNHELD or (view.answered and view.state is RankState.HELD)


def _settle(state: CutState, views: Mapping[int, RankView], now_s: float) -> Step:
    late = [r for r, v in views.items() if v.state not in UNHELD and not (v.answered and v.settled)]
    if not late:
        live = [rank for rank, view in views.items() if view.state is not RankState.GONE]
        orphans = tuple(sorted(cut_ledger.read(views).orphans))
        return replace(state, phase=Quiescing()), tuple(Quiesce(rank, orphans) for rank in live), None
    if now_s - state.began_s > state.deadline_s:
        reason = f"rank {late[0]} did not finish the operations it had launched within {state.deadline_s:g} s"
        return state, (), CutFailed(late[0], reason)
    return state, (), None


def _drop(state: CutState, views: Mapping[int, RankView], now_s: float) -> Step:
    late = [r for r, v in views.items() if v.state not in UNHELD and not (v.answered and v.state is RankState.READY)]
    if not late:
        return state, (), CutReached(tuple(r for r, v in views.items() if v.state is RankState.READY))
    # Some have dropped theirs and others not: no place to turn back at while it goes on, and it takes milliseconds.
    if now_s - state.began_s > state.deadline_s + DROP_S_MAX:
        return state, (), CutFailed(late[0], f"rank {late[0]} did not drop its groups within {DROP_S_MAX:g} s")
    return state, (), None


def _blame(ledger: Ledger, lags: Mapping[int, Lag], late: list[int], deadline_s: float) -> CutFailed:
    deaf = [rank for rank in late if rank in lags] or late
    if deaf:
        return CutFailed(
            deaf[0], f"rank {deaf[0]} did not answer within {deadline_s:g} s: it is stopped or busy in native code"
        )
    running = [rank for rank in lags if not ledger.views[rank].wants] or list(lags)
    rank, lag = running[0], lags[running[0]]
    return CutFailed(rank, f"rank {rank} has not reached {_what(lag)} within {deadline_s:g} s; its peers have begun it")


def _what(lag: Lag) -> str:
    match lag.series:
        case Collectives(_, group) if lag.number == 1:
            return f"the making of {_name(group)}"
        case Collectives(_, group):
            return f"collective {lag.number - 1} of {_name(group)}"
        case Way(_, group, source, target):
            origin = "anyone" if source == ANYONE else f"rank {source}"
            return f"message {lag.number} from {origin} to rank {target} in {_name(group)}"


def _name(group: str) -> str:
    name, _, birth = group.rpartition("#")
    if name == "0":
        return "the default group" if birth == "1" else f"the default group (made the {birth}. time)"
    return f"group {name}"
