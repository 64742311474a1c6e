"""The coordinator of a cut against simulated ranks: it ends at a consistent place, or names who did not come."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ergosphere.agent import cut, cut_view
from ergosphere.agent.cut import CutFailed, CutReached, CutState, Hold, Quiesce, Settle
from ergosphere.agent.cut_view import ANYONE, Kind, RankState, RankView, SequenceView, Want

TICK_S = 0.1
DEADLINE_S = 30.0


@dataclass(frozen=True)
class Op:
    """One operation of a program. A group's first operation is its making."""

    kind: Kind
    group: str
    members: tuple[int, ...] = ()
    peer: int = ANYONE
    tag: int = 0
    waits: bool = True
    steps: bool = False  # an optimizer steps after it

    @property
    def sequence(self) -> str:
        return self.group if self.kind is Kind.ALL else f"{self.group}/{self.kind}{self.peer}"


@dataclass
class SimRank:
    """A rank as the shim makes it behave, without a process."""

    number: int
    program: list[Op]
    stuck_at: int | None = None
    starts_at: int = 0  # looks before its shim is active
    done: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    tags: dict[str, Counter[int]] = field(default_factory=dict)
    known: dict[str, Op] = field(default_factory=dict)
    orders: list[object] = field(default_factory=list)
    held: bool = False
    state: RankState = RankState.NONE
    settling: bool = False
    base: Counter[str] = field(default_factory=Counter)
    limits: dict[str, int] = field(default_factory=dict)
    want: Op | None = None
    waiting: Op | None = None
    steps: bool = False
    at_step: bool = False
    about_to_step: bool = False

    def obey(self) -> None:
        order = self.orders.pop(0)
        match order:
            case Hold(_, limits):
                self.base = self.base if self.held else Counter(self.counts)
                self.held, self.limits, self.settling, self.state = True, dict(limits), False, RankState.HELD
                self.at_step = False
            case Settle():
                self.settling = True
            case Quiesce():
                assert self.waiting is None, "a group was dropped under a waiting thread"
                self.state = RankState.READY

    def allowed(self, op: Op) -> bool:
        limit = max(self.base[op.sequence], self.limits.get(op.sequence, 0))
        return self.state is not RankState.READY and (not self.held or self.counts[op.sequence] < limit)

    def is_behind(self) -> bool:
        return any(self.counts[sequence] < limit for sequence, limit in self.limits.items())

    def run(self, world: World) -> None:
        """One step of the program, if nothing stops it."""
        if self.waiting is not None:
            if not world.is_complete(self.number, self.waiting, self.counts[self.waiting.sequence]):
                return
            self.waiting = None
        if self.about_to_step:
            self.about_to_step, self.steps, self.at_step = False, True, self.held and not self.is_behind()
        if self.at_step:
            return
        if self.done == len(self.program) or self.done == self.stuck_at:
            return
        op = self.program[self.done]
        self.known.setdefault(op.sequence, op)
        self.want = None if self.allowed(op) else op
        if self.want is not None:
            return
        self.counts[op.sequence] += 1
        self.tags.setdefault(op.sequence, Counter())[op.tag] += 1
        self.done += 1
        self.waiting = op if op.waits else None
        self.about_to_step = op.steps

    def view(self, world: World) -> RankView:
        if self.state is RankState.NONE:
            return RankView()
        settled = self.settling and world.is_settled(self)
        wants = () if self.want is None else (Want(self.want.sequence, self.counts[self.want.sequence] + 1, "op"),)
        sequences = tuple(self.told(op) for op in self.known.values())
        return RankView(
            self.state, not self.orders, settled, 0, "w", self.number, sequences, wants,
            steps=self.steps, at_step=self.at_step,
        )  # fmt: skip

    def told(self, op: Op) -> SequenceView:
        tags = sum(tag * 1_000_003 * n for tag, n in self.tags.get(op.sequence, Counter()).items())
        peer = op.peer if op.kind is not Kind.ALL else -1
        return SequenceView(op.sequence, op.group, op.kind, op.members, peer, self.counts[op.sequence], tags)


@dataclass
class World:
    """All ranks; knows which operations have found their other sides."""

    ranks: list[SimRank]

    def is_complete(self, number: int, op: Op, nth: int) -> bool:
        if op.kind is Kind.ALL:
            return all(self.ranks[m].counts[op.group] >= nth for m in op.members)
        if op.kind is Kind.SEND:
            return self.taken(op.group, op.peer, number) >= self.ranks[number].counts[op.sequence]
        if op.peer != ANYONE:
            return self.ranks[op.peer].counts[f"{op.group}/send{number}"] >= self.ranks[number].counts[op.sequence]
        return self.sent_to(op.group, number) >= self.received_by(op.group, number)

    def taken(self, group: str, receiver: int, sender: int) -> int:
        rank = self.ranks[receiver]
        from_anyone = rank.counts[f"{group}/recv{ANYONE}"]
        return rank.counts[f"{group}/recv{sender}"] if not from_anyone else self.received_by(group, receiver)

    def sent_to(self, group: str, receiver: int) -> int:
        return sum(rank.counts[f"{group}/send{receiver}"] for rank in self.ranks)

    def received_by(self, group: str, receiver: int) -> int:
        return sum(n for id, n in self.ranks[receiver].counts.items() if id.startswith(f"{group}/recv"))

    def is_settled(self, rank: SimRank) -> bool:
        ops = rank.known.values()
        return all(
            self.is_complete(rank.number, op, rank.counts[op.sequence]) for op in ops if rank.counts[op.sequence]
        )

    def assert_nothing_is_half_done(self) -> None:
        for rank in self.ranks:
            for op in rank.known.values():
                if op.kind is Kind.ALL:
                    assert len({self.ranks[m].counts[op.group] for m in op.members}) == 1, op
            for group in {op.group for op in rank.known.values()}:
                assert self.sent_to(group, rank.number) == self.received_by(group, rank.number)


@st.composite
def programs(draw: st.DrawFn) -> tuple[int, list[list[Op]]]:
    """Programs of two to four ranks that end when left alone: every operation is met, in one global order."""
    size = draw(st.integers(2, 4))
    ranks = list(range(size))
    groups = {"0#1": tuple(ranks)}
    for n in range(draw(st.integers(0, 3))):
        members = draw(st.lists(st.sampled_from(ranks), min_size=2, max_size=size, unique=True))
        groups[f"g{n}#1"] = tuple(sorted(members))
    mailbox = draw(st.none() | st.sampled_from(ranks))
    program: list[list[Op]] = [[] for _ in ranks]
    made: set[str] = set()

    def collective(group: str, waits: bool, steps: bool = False) -> None:
        for member in groups[group]:
            program[member].append(Op(Kind.ALL, group, groups[group], waits=waits, steps=steps))

    for _ in range(draw(st.integers(1, 25))):
        group = draw(st.sampled_from(sorted(groups)))
        if group not in made:
            made.add(group)
            collective(group, waits=True)
        waits = draw(st.booleans())
        if draw(st.booleans()):
            collective(group, waits, steps=draw(st.booleans()))
            continue
        source, target = draw(st.permutations(groups[group]))[:2]
        tag = draw(st.integers(0, 2))
        program[source].append(Op(Kind.SEND, group, groups[group], target, tag, waits))
        origin = ANYONE if target == mailbox else source
        program[target].append(Op(Kind.RECV, group, groups[group], origin, tag, waits or target == mailbox))
    return size, program


def drive(
    world: World, dice: random.Random, warm_up: int, limit_s: float = DEADLINE_S + 10 * TICK_S
) -> CutReached | CutFailed:
    for _ in range(warm_up):
        advance(world, dice)
    state, now_s = CutState(0.0, DEADLINE_S), 0.0
    for look in range(int(limit_s / TICK_S)):
        for rank in world.ranks:
            if rank.state is RankState.NONE and look >= rank.starts_at:
                rank.state, rank.held = RankState.RUNNING, bool(rank.orders)
        state, instructions, outcome = cut.step(state, {r.number: r.view(world) for r in world.ranks}, now_s)
        if outcome is not None:
            return outcome
        for instruction in instructions:
            world.ranks[instruction.rank].orders.append(instruction)
        advance(world, dice)
        now_s += TICK_S
    raise AssertionError("the coordinator neither reached a cut nor gave up")


def advance(world: World, dice: random.Random) -> None:
    for rank in dice.choices(world.ranks, k=dice.randint(1, 4 * len(world.ranks))):
        if rank.state is RankState.NONE:
            continue
        if rank.orders and dice.random() < 0.7:
            rank.obey()
        rank.run(world)


def make(program: list[list[Op]], warm_up: int) -> World:
    return World(
        [SimRank(n, ops, state=RankState.RUNNING if warm_up else RankState.NONE) for n, ops in enumerate(program)]
    )


@settings(max_examples=120, deadline=None)
@given(programs(), st.integers(0, 2**32), st.integers(0, 60))
def test_any_program_is_brought_to_a_place_where_nothing_is_half_done(made, seed, warm_up):
    _, program = made
    world = make(program, warm_up)
    outcome = drive(world, random.Random(seed), warm_up)
    assert isinstance(outcome, CutReached), outcome
    world.assert_nothing_is_half_done()
    assert outcome.parked == tuple(rank.number for rank in world.ranks)


@settings(max_examples=300, deadline=None)
@given(st.integers(2, 4), st.integers(0, 2**32), st.integers(1, 60))
def test_nobody_is_held_at_the_end_of_a_step_that_others_need_further_on(size, seed, warm_up):
    dice, everyone = random.Random(seed), tuple(range(size))
    ops = [
        Op(Kind.ALL, "0#1", everyone, waits=dice.random() < 0.7, steps=dice.random() < 0.3) for _ in range(30)
    ]  # fmt: skip
    world = make([list(ops) for _ in everyone], warm_up)
    outcome = drive(world, dice, warm_up, limit_s=cut.STALL_PART * DEADLINE_S)
    assert isinstance(outcome, CutReached), "before anybody was let on blindly"


@settings(max_examples=40, deadline=None)
@given(programs(), st.integers(0, 2**32), st.integers(0, 60), st.data())
def test_a_rank_that_never_comes_is_named_or_was_not_needed(made, seed, warm_up, data):
    size, program = made
    world = make(program, warm_up)
    stuck = world.ranks[data.draw(st.integers(0, size - 1))]
    stuck.stuck_at = data.draw(st.integers(0, len(stuck.program)))
    outcome = drive(world, random.Random(seed), warm_up)
    if isinstance(outcome, CutReached):
        world.assert_nothing_is_half_done()
    else:
        assert outcome.rank == stuck.number or world.ranks[outcome.rank].waiting is not None
        assert f"rank {outcome.rank}" in outcome.reason


@settings(max_examples=40, deadline=None)
@given(programs(), st.integers(0, 2**32), st.data())
def test_a_rank_whose_shim_starts_late_is_waited_for_only_if_others_need_it(made, seed, data):
    size, program = made
    world = make(program, 0)
    late = world.ranks[data.draw(st.integers(0, size - 1))]
    late.starts_at = data.draw(st.integers(0, 100))  # early enough to come before the deadline
    assert isinstance(drive(world, random.Random(seed), 0), CutReached)
    world.assert_nothing_is_half_done()


def test_a_view_survives_its_journey_from_another_node():
    sequence = SequenceView("0#1/send2", "0#1", Kind.SEND, (), 2, 7, 99)
    view = RankView(RankState.HELD, False, True, 4, "w", 1, (sequence,), (Want("0#1", 8, "allreduce"),), ("g#1",), "f")
    assert cut_view.from_json(json.loads(json.dumps(view.to_json()))) == view


def test_ranks_that_use_no_collectives_are_frozen_where_they_stand():
    views = {0: RankView(), 1: RankView()}
    state, seen = CutState(0.0, 1.0), []
    outcome = None
    while outcome is None:
        state, instructions, outcome = cut.step(state, views, 0.0)
        seen += instructions
    assert outcome == CutReached(parked=())
    assert any(isinstance(order, Hold) for order in seen)  # a shim that starts meanwhile finds itself held


def test_several_members_in_one_tree_are_frozen_together_but_not_beside_other_trees():
    alone = cut.step(CutState(0.0, 1.0), {0: RankView(RankState.RUNNING, others=1)}, 0.0)
    assert alone[2] == CutReached(parked=())
    beside = cut.step(CutState(0.0, 1.0), {0: RankView(RankState.RUNNING, others=1), 1: RankView()}, 0.0)
    assert isinstance(beside[2], CutFailed)


def test_a_group_that_a_member_has_left_is_not_waited_for_and_not_rebuilt():
    sequence = SequenceView("0#1", "0#1", Kind.ALL, (0, 1), -1, 9, 0)
    held = RankView(RankState.HELD, True, True, 0, "w", 0, (sequence,))
    left = RankView(RankState.HELD, True, True, 0, "w", 1, (), (), ("0#1",))
    state, orders, outcome = CutState(0.0, 1.0), (), None
    for _ in range(3):
        state, orders, outcome = cut.step(state, {0: held, 1: left}, 0.0)
        assert outcome is None
    assert orders == (Quiesce(0, ("0#1",)), Quiesce(1, ("0#1",)))


def test_a_fault_refuses_the_cut_and_is_told():
    view = RankView(RankState.RUNNING, fault="Connection closed by peer")
    _, _, outcome = cut.step(CutState(0.0, 1.0), {3: view}, 0.0)
    assert outcome == CutFailed(3, "rank 3 has lost a peer in a collective: Connection closed by peer")


def held(at_step: bool, wants: bool = True, steps: bool = True) -> RankView:
    """A rank of two that has launched six collectives of the default group."""
    sequence = SequenceView("0#1", "0#1", Kind.ALL, (0, 1), -1, 6, 0)
    held_at = (Want("0#1", 7, "allreduce"),) if wants and not at_step else ()
    return RankView(RankState.HELD, True, False, 0, "w", 0, (sequence,), held_at, steps=steps, at_step=at_step)


def together(one: RankView, other: RankView, after_s: float) -> tuple[object, ...]:
    """What is ordered when both stand at the same place that long after the cut began."""
    views = {0: one, 1: replace(other, rank=1)}
    state, _, _ = cut.step(CutState(0.0, 10.0), views, 0.0)
    _, orders, outcome = cut.step(state, views, after_s)
    assert outcome is None
    return orders


def test_ranks_in_the_middle_of_a_step_are_let_on_to_its_end_while_there_is_time():
    on, settle = (Hold(0, {"0#1": 7}), Hold(1, {"0#1": 7})), (Settle(0), Settle(1))
    assert together(held(False), held(False), 0.1) == on
    assert together(held(True), held(True), 0.1) == settle
    assert together(held(True), held(False, wants=False), 0.1) == (), "the other one may be in its step"
    assert together(held(False), held(False), 2.1) == settle
    assert together(held(False), held(False, steps=False), 0.1) == settle, "not all take steps"


def test_who_is_held_at_the_end_of_a_step_goes_on_where_somebody_else_needs_it():
    ahead = replace(held(False, wants=False), sequences=(SequenceView("0#1", "0#1", Kind.ALL, (0, 1), -1, 7, 0),))
    assert together(held(True), ahead, 0.1) == (Hold(0, {"0#1": 7}),), "a collective has begun without it"


class Told:
    """A rank that takes its word once those it waits for have theirs."""

    def __init__(self, after: list[threading.Event], fault: Exception | None = None) -> None:
        self.after, self.fault, self.heard = after, fault, threading.Event()

    def release(self, token: str) -> None:
        assert all(event.wait(10) for event in self.after), "it was told before the others could be"
        if self.fault is not None:
            raise self.fault
        self.heard.set()


def test_ranks_of_a_node_that_is_away_do_not_keep_the_others_from_their_word():
    here = [Told([]) for _ in range(40)]
    away = [Told([rank.heard for rank in here], OSError("node-1 does not answer")) for _ in range(16)]
    with pytest.raises(cut.LeftWaiting, match="node-1 does not answer"):
        cut.release(dict(enumerate([*away, *here])), "token")
    assert all(rank.heard.is_set() for rank in here)
