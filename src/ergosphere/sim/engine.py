"""Running a scenario: from event to event, each followed by a turn of the service's own loop.

`control.loop.turn` is what runs, with the world replaced: time comes from the agenda, orders are carried out by
`world`, and the judge is our policy or a rival. One scenario and one seed give one history, in any process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from ergosphere.control.loop import turn
from ergosphere.core.model import Phase, Plan
from ergosphere.core.policy.rules import Rules
from ergosphere.sim.agenda import Kind
from ergosphere.sim.costs import Costs
from ergosphere.sim.faulty import Faults
from ergosphere.sim.fits import Room
from ergosphere.sim.fleets import Fleet
from ergosphere.sim.oracles import Oracles
from ergosphere.sim.places import Broken, Standing
from ergosphere.sim.record import Record
from ergosphere.sim.services import Deployed
from ergosphere.sim.trouble import Trouble, trouble_events
from ergosphere.sim.works import Trace
from ergosphere.sim.world import World
from ergosphere.system import Stopwatch

TURNS_AT_ONCE_MAX: Final = 1_000  # turns without time passing: beyond, a policy goes round in circles
IDLE_TURNS_MAX: Final = 100_000  # alarms in a row that changed nothing: beyond, it would never end


class Desk(Protocol):
    """A judge and the view it wants of the world."""

    name: str
    transparent: bool

    def costs(self, costs: Costs) -> Costs: ...

    def open(self, world: World) -> None: ...

    def view(self, world: World) -> Any: ...

    def judge(self, view: Any, rules: Rules) -> Plan: ...

    def took(self, plan: Plan, world: World) -> None: ...

    def alarm_s(self) -> float: ...

    def stirs(self, world: World, *, alarm: bool) -> bool:
        """Whether what happened may change what is to be done: there is news, somebody came up, or time has come to an
        alarm."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is simulated. `period_s`: events are gathered for so long before a turn, as a busy service does; 0: each
    instant has its own. `trouble`: failures, spot, stragglers. `begins_s`, `until_s`: on the trace's clock, whose hours
    are those of the GPU fraction; it stops at the latter, whoever still runs."""

    trace: Trace
    fleet: Fleet
    costs: Costs = field(default_factory=Costs)
    rules: Rules = field(default_factory=Rules)
    trouble: Trouble = field(default_factory=Trouble)
    seed: int = 0
    period_s: float = 0.0
    begins_s: float = 0.0
    until_s: float = float("inf")
    standing: tuple[Standing, ...] = ()  # works that are there already when it begins
    services: tuple[Deployed, ...] = ()  # beside the trace, until its last work has ended


@dataclass(frozen=True, slots=True)
class Run:
    """A scenario played by one policy. `busy_s`: CPU time it took; `stuck`: works that nobody would ever start."""

    policy: str
    scenario: Scenario
    world: World
    record: Record
    turns: int
    busy_s: float
    stuck: tuple[str, ...] = ()

    @property
    def events(self) -> int:
        return self.world.events


def check(scenario: Scenario) -> None:
    """Raises Faulty when a job of the trace could never start on this fleet. Who is there already was judged before."""
    faults = Faults(scenario.trace.name)
    room = Room(scenario.fleet)
    there = {one.id for one in scenario.standing}
    for work in scenario.trace.works:
        never = None if work.id in there else room.never(work)
        if never is not None:
            faults.add(work.line, f"job {work.id} {never.why}", never.remedy)
    faults.check()


@dataclass(frozen=True, slots=True)
class _Sight:
    """What is seen, and after how many events."""

    view: Any
    version: int


@dataclass(slots=True)
class _Loop:
    """The four sides of the service that `turn` needs: what time tells, the ledger, and the courier."""

    world: World
    desk: Desk
    clock: Stopwatch
    oracles: Oracles
    record: Record

    def notice(self) -> None:
        """Time has told already: the engine moves it."""

    def observe(self) -> _Sight:
        return _Sight(self.desk.view(self.world), self.world.events)

    def commit(self, plan: Plan, version: int) -> bool:
        assert version == self.world.events, "nothing happens during a turn"
        self.world.at_once = False
        for decision in plan.decisions:
            self.world.carry_out(decision)
        self.desk.took(plan, self.world)
        return True

    def dispatch(self) -> None:
        self.oracles.look(self.world)
        self.record.note(self.world)


def play(scenario: Scenario, desk: Desk, clock: Stopwatch, told: Callable[[float], None] | None = None) -> Run:
    """Play a scenario to its end. `told` hears of the share of the works that have ended. Raises Faulty, Broken."""
    check(scenario)
    world = _world(scenario, desk)
    desk.open(world)
    loop = _Loop(world, desk, clock, Oracles(), Record(scenario.fleet.devices))
    began_s = clock.cpu()
    turns = _run(scenario, loop, told)
    waits = sorted(key for key, life in world.live.items() if not life.work.service)
    stuck = tuple(waits) if scenario.until_s == float("inf") else ()
    loop.oracles.close(world, stuck)
    return Run(desk.name, scenario, world, loop.record, turns, clock.cpu() - began_s, stuck)


def _world(scenario: Scenario, desk: Desk) -> World:
    """The world as it is when the simulation begins, with everything that can be foreseen in its agenda."""
    replicas = [work for one in scenario.services for work in one.replicas]
    works = [*replicas, *scenario.trace.works]
    costs, begins_s = desk.costs(scenario.costs), scenario.begins_s
    world = World(scenario.fleet, works, costs, transparent=desk.transparent, begins_s=begins_s)
    for at_s, kind, subject in trouble_events(scenario.trouble, scenario.fleet, scenario.trace.span_s, scenario.seed):
        world.agenda.add(at_s, kind, subject)
    for service in scenario.services:
        for at_s, count in service.wishes:
            world.agenda.add(at_s, Kind.WISH, (service.name, count))
    for one in scenario.standing:
        world.place(one)
    return world


def _run(scenario: Scenario, loop: _Loop, told: Callable[[float], None] | None) -> int:
    """Turns until nothing is left to do; how many there were."""
    world, turns, idle, total = loop.world, 0, 0, max(len(scenario.trace.works), 1)
    while len(world.ended) < total:
        due_s, alarm_s = world.agenda.next_s(), loop.desk.alarm_s()
        at_s = max(world.now_s, min(due_s, alarm_s)) + (scenario.period_s if due_s <= alarm_s else 0.0)
        if at_s == float("inf") or at_s > scenario.until_s or idle > IDLE_TURNS_MAX:
            world.advance(scenario.until_s if at_s > scenario.until_s else world.now_s)
            break
        idle = 0 if due_s <= at_s else idle + 1
        world.advance(at_s)
        calls = loop.desk.stirs(world, alarm=at_s >= alarm_s)
        world.news = False
        if not calls:
            loop.record.note(world)
            continue
        turns += _settle(scenario, loop)
        if told is not None and turns % 256 == 0:
            told(len(world.ended) / total)
    return turns


def _settle(scenario: Scenario, loop: _Loop) -> int:
    """Turns at one instant: another one as long as orders are carried out at once, so that the world has moved."""
    for turns in range(1, TURNS_AT_ONCE_MAX):
        began_s = loop.clock.monotonic()
        turn(loop, scenario.rules, loop.desk.judge)
        loop.record.latency_s(loop.clock.monotonic() - began_s)
        if not loop.world.at_once:
            return turns
        loop.world.advance(loop.world.now_s)
    raise Broken(f"{loop.desk.name} orders without end at {loop.world.now_s:g} s")


def standing(run: Run) -> dict[Phase, int]:
    """How many works are in which phase at the end."""
    counts: dict[Phase, int] = {}
    for life in run.world.lives.values():
        counts[life.phase] = counts.get(life.phase, 0) + 1
    return counts
