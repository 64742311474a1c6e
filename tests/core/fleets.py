"""Small fleets for the policy's tests: generated views, and a toy world that obeys plans."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hypothesis import strategies as st

from ergosphere.core.elastic import fewest, sizes
from ergosphere.core.model import (
    HOLDS_SEATS,
    TIER_ORDER,
    Cell,
    JobId,
    JobView,
    NodeId,
    NodeView,
    Phase,
    Plan,
    Seat,
    Tier,
    View,
    Why,
)
from ergosphere.core.policy.decide import decide
from ergosphere.core.policy.obey import ordered
from ergosphere.core.policy.rules import Rules
from ergosphere.core.policy.seats import cells_of
from ergosphere.core.policy.shape import shape_of

RULES = Rules(min_run_s=60.0)
NOW_S = 10_000.0
DEVICES_MAX = 4  # of one generated node


def sizes_of(job: JobView) -> tuple[int, ...]:
    """The numbers of devices that `job` may be given, the largest first."""
    return tuple(job.ranks // share for share in shape_of(job).shares)


def node(name: str, devices: int = 2, **more: bool) -> NodeView:
    return NodeView(NodeId(name), devices, **more)


def seats(*words: str) -> tuple[Seat, ...]:
    """`seats("a0", "a1", "b0")`."""
    return tuple(Seat(NodeId(word[:-1]), int(word[-1])) for word in words)


def job(name: str, tier: Tier = Tier.BASIC, ranks: int = 1, phase: Phase = Phase.WAITING, **more: object) -> JobView:
    """A job submitted at second 0; one that holds seats has run for long, and has the cells that its seats make."""
    view = JobView(JobId(name), name, tier, "default", ranks, phase, 0.0)
    held = more.get("seats")
    if held:
        view = replace(view, ranks=len(held), cells=cells_of(held), running_since_s=0.0)
    return replace(view, **more)


def running(name: str, *where: str, tier: Tier = Tier.BASIC, **more: object) -> JobView:
    return job(name, tier, **{"phase": Phase.RUNNING, "seats": seats(*where)} | more)


def look(jobs: Sequence[JobView], nodes: Sequence[NodeView], now_s: float = NOW_S) -> View:
    return View(now_s, tuple(jobs), tuple(nodes))


@st.composite
def views(draw: st.DrawFn) -> View:
    """Up to 4 nodes and 9 jobs in every phase; nobody shares a seat, cells are what some placement made."""
    names = ["a", "b", "c", "d"][: draw(st.integers(1, 4))]
    usual = st.sampled_from([False, False, False, True])
    nodes = [
        NodeView(NodeId(name), draw(st.integers(1, 4)), ready=not draw(usual), draining=draw(usual)) for name in names
    ]
    free = [Seat(one.id, device) for one in nodes for device in range(one.devices)]
    free = draw(st.permutations(free))
    jobs = []
    for index in range(draw(st.integers(0, 9))):
        found = draw(_jobs(JobId(f"j{index}"), tuple(names), tuple(free)))
        free = [seat for seat in free if seat not in found.seats]
        jobs.append(found)
    return View(NOW_S, tuple(jobs), tuple(nodes))


@st.composite
def _jobs(draw: st.DrawFn, job_id: JobId, names: tuple[str, ...], free: tuple[Seat, ...]) -> JobView:
    ranks = min(draw(st.integers(1, 6)), 4 * len(names))
    least = draw(st.sampled_from([0, 0, 1, 1, 2]))
    valid = sizes(ranks, least or ranks) or (ranks,)
    asked = draw(st.sampled_from([0, 0, *valid]))
    devices = draw(st.sampled_from(valid))
    phase = draw(st.sampled_from([Phase.WAITING, Phase.RUNNING, Phase.RUNNING, *HOLDS_SEATS_LIST, Phase.FROZEN]))
    held = tuple(seat for seat in free[:devices] for _ in range(ranks // devices)) if phase in HOLDS_SEATS else ()
    if phase in HOLDS_SEATS and len(held) < ranks:
        phase, held = Phase.WAITING, ()
    cells: tuple[Cell, ...] = cells_of(held, draw(st.integers(1, DEVICES_MAX)))
    home: tuple[NodeId, ...] = ()
    if phase is Phase.FROZEN:
        nodes = [Seat(NodeId(draw(st.sampled_from(names))), 0) for _ in range(ranks)]
        cells = cells_of(tuple(nodes))
        home = tuple(nodes[cell.ranks[0]].node for cell in cells)
    every = [Seat(NodeId(name), device) for name in names for device in range(4)]
    room = tuple(draw(st.lists(st.sampled_from(every), min_size=ranks, max_size=ranks, unique=True)))
    seldom = st.sampled_from([False] * 7 + [True])
    destination = tuple(NodeId(name) for name in draw(st.sets(st.sampled_from(names), max_size=2)))
    return JobView(
        job_id,
        job_id,
        draw(st.sampled_from(TIER_ORDER)),
        "default",
        ranks,
        phase,
        submitted_s=float(draw(st.integers(0, 5))),
        cells=cells,
        seats=tuple(held),
        destination=tuple(sorted(destination)) if draw(seldom) else (),
        paused=draw(seldom),
        cancel=draw(seldom),
        move_asked=draw(seldom),
        not_before_s=NOW_S + draw(st.sampled_from([-1.0, -1.0, -1.0, 5.0, 500.0])),
        freeze_cost_s=draw(st.sampled_from([0.5, 1.0, 7.0])),
        running_since_s=NOW_S - draw(st.sampled_from([1.0, 100.0, 1000.0])) if phase is Phase.RUNNING else None,
        freezable=not draw(seldom),
        freezing_why=draw(st.sampled_from(list(Why))) if phase is Phase.FREEZING else None,
        home=home,
        room=room if draw(seldom) else (),
        min_devices=least,
        devices_asked=asked,
        resize_asked=bool(asked) and draw(st.booleans()),
        going_to=held if phase is Phase.RESIZING else (),
        resized_s=NOW_S - draw(st.sampled_from([1.0, 100.0])),
        shareable=not draw(seldom),
        unfit=tuple((NodeId(name), "its kernel is older") for name in names if draw(seldom)) if cells else (),
    )


HOLDS_SEATS_LIST = sorted(HOLDS_SEATS)


def obey(view: View, plan: Plan) -> View:
    """The view a moment later: every order is under way, nothing has been answered."""
    decided = {decision.job: decision for decision in plan.decisions}
    after = (ordered(one, decided[one.id], DEVICES_MAX) if one.id in decided else one for one in view.jobs)
    jobs = (replace(one, room=plan.rooms.get(one.id, ())) for one in after)
    return replace(view, jobs=tuple(jobs))


def answered(one: JobView, now_s: float) -> JobView:
    """What follows when everything works."""
    match one.phase:
        case Phase.STARTING | Phase.THAWING:
            moved = one.move_asked and not (one.destination and {s.node for s in one.seats} - set(one.destination))
            asked = one.move_asked and not moved
            return _reached(replace(one, phase=Phase.RUNNING, running_since_s=now_s, move_asked=asked, resized_s=now_s))
        case Phase.RESIZING:
            return _reached(replace(one, phase=Phase.RUNNING, seats=one.going_to, going_to=(), resized_s=now_s))
        case Phase.FREEZING:
            home = tuple(one.seats[cell.ranks[0]].node for cell in one.cells)
            return replace(one, phase=Phase.FROZEN, seats=(), home=home, freezing_why=None, freezing_for=None)
        case Phase.CLEARING:
            return replace(one, phase=Phase.FROZEN, seats=())
        case Phase.ENDING:
            return replace(one, phase=Phase.SUCCEEDED, seats=())
        case _:
            return one


def _reached(one: JobView) -> JobView:
    return replace(one, resize_asked=one.resize_asked and len(set(one.seats)) != sizes_of(one)[0])


@dataclass
class World:
    """A fleet in which seconds pass, orders take a random while, and things happen."""

    view: View
    dice: random.Random
    rules: Rules = RULES
    decisions: list[tuple[float, object]] = field(default_factory=list)

    def turn(self, turn_s: float = 1.0, patience: float = 0.5) -> Plan:
        """Decide and obey; then each order under way is answered with probability `patience`."""
        plan = decide(self.view, self.rules)
        self.decisions += [(self.view.now_s, decision) for decision in plan.decisions]
        self.view = obey(self.view, plan)
        now_s = self.view.now_s + turn_s
        jobs = [answered(one, now_s) if self.dice.random() < patience else one for one in self.view.jobs]
        self.view = replace(self.view, now_s=now_s, jobs=tuple(one for one in jobs if one.phase != Phase.SUCCEEDED))
        return plan

    def happen(self) -> None:
        """One thing that owners, operators or bad luck bring."""
        match self.dice.choice("submit submit end lose pause resume drain undrain move fail resize".split()):
            case "submit":
                count = len(self.decisions) + len(self.view.jobs)
                fresh = job(f"n{self.view.now_s:.0f}-{count}", self.dice.choice(TIER_ORDER), self.dice.randint(1, 5))
                least = self.dice.choice((0, fewest(fresh.ranks)))
                self._add(replace(fresh, submitted_s=self.view.now_s, min_devices=least))
            case "end":
                self._change(Phase.RUNNING, phase=Phase.ENDING)
            case "lose":
                self._change(Phase.RUNNING, phase=Phase.CLEARING)
            case "fail":
                later = self.view.now_s + 10
                self._change(Phase.FREEZING, phase=Phase.RUNNING, not_before_s=later, freezing_why=None)
            case "pause":
                self._change(Phase.RUNNING, paused=True)
            case "resume":
                self.view = replace(self.view, jobs=tuple(replace(one, paused=False) for one in self.view.jobs))
            case "resize":
                asked = self.dice.choice((1, 2, 4))
                valid = [one.id for one in self.view.jobs if asked in sizes(one.ranks, one.min_devices or one.ranks)]
                chosen = self.dice.choice(valid) if valid else None
                jobs = (
                    replace(one, devices_asked=asked, resize_asked=True) if one.id == chosen else one
                    for one in self.view.jobs
                )
                self.view = replace(self.view, jobs=tuple(jobs))
            case "move":
                self._change(Phase.RUNNING, move_asked=True)
            case "drain" | "undrain" as word:
                chosen = self.dice.choice(self.view.nodes)
                changed = replace(chosen, draining=word == "drain")
                nodes = tuple(changed if one is chosen else one for one in self.view.nodes)
                self.view = replace(self.view, nodes=nodes)

    def _add(self, fresh: JobView) -> None:
        self.view = replace(self.view, jobs=(*self.view.jobs, fresh))

    def _change(self, phase_now: Phase, /, **more: object) -> None:
        there = [one for one in self.view.jobs if one.phase is phase_now]
        if there:
            chosen = self.dice.choice(there)
            changed = replace(chosen, **more)
            self.view = replace(self.view, jobs=tuple(changed if one is chosen else one for one in self.view.jobs))
