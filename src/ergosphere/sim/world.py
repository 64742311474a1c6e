"""The world of a simulation: works, machines and what happens to them. It carries out orders and decides nothing.

Every change of a job's phase goes through `core.lifecycle.step`; every device is held by one job at most. `touched`
says what changed since somebody last looked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from ergosphere.core.lifecycle import Event
from ergosphere.core.model import Cell, Freeze, Phase, Placement, Resize, Seat, Start, Stop, Thaw, Tier, Why
from ergosphere.core.policy.seats import cells_of
from ergosphere.sim.agenda import Agenda, Kind
from ergosphere.sim.costs import Costs
from ergosphere.sim.decisions import Evict
from ergosphere.sim.fleets import Fleet
from ergosphere.sim.lives import Life
from ergosphere.sim.places import Broken, Level, Place, Standing
from ergosphere.sim.works import Work

SPARE_S: Final = 1e-7  # of a second: work left that is rounding
NEWS: Final = frozenset({Phase.FREEZING, Phase.RESIZING, Phase.CLEARING})  # whose end frees devices

_CAUSE: Final = {Why.PREEMPT: "preempt", Why.MOVE: "move", Why.DRAIN: "move", Why.RESIZE: "shrink", Why.PAUSE: "queue"}


class World:
    """Machines, lives and an agenda. `transparent` False: what is evicted starts again from its own checkpoint."""

    def __init__(
        self, fleet: Fleet, works: Iterable[Work], costs: Costs, *, transparent: bool = True, begins_s: float = 0.0
    ) -> None:
        self.costs = costs
        self.transparent = transparent
        self.now_s = begins_s
        self.events = 0
        self.agenda = Agenda()
        self.places = {one.id: Place(one) for one in fleet.machines}
        self.lives: dict[str, Life] = {}
        self.live: dict[str, Life] = {}
        self.ended: list[Life] = []
        self.levels = {tier: Level() for tier in Tier}
        self.capacity = fleet.devices
        self.holder: dict[Seat, str] = {}
        self.at_once = False  # an order was carried out in the instant in which it was given
        self.news = False  # something came free, came to be wanted or went away: a turn may decide otherwise
        self.touched: dict[str, Life] = {}
        self.places_touched: dict[str, Place] = {}
        self._waited_for: dict[str, list[Life]] = {}
        self.replicas: dict[str, list[Life]] = {}
        self.told: dict[str, Mapping[str, Any]] = {}  # of those that were there before, fields of their JobView
        for work in works:
            self._expect(work)

    def _expect(self, work: Work) -> None:
        life = Life(work, work.duration_s, saved_left_s=work.duration_s, blocked=len(work.after))
        self.lives[work.id] = life
        if work.service:
            life.wanted = False
            self.replicas.setdefault(work.service, []).append(life)
        for other in work.after:
            self._waited_for.setdefault(other, []).append(life)
        self.agenda.add(max(work.submit_s, self.now_s), Kind.ARRIVAL, life)

    def place(self, standing: Standing) -> None:
        """Before anything happens: a work that computes or is frozen already. Its arrival is a thing of the past."""
        life = self.lives[standing.id]
        self._arrive(life)
        life.arrived = True
        self.told[standing.id] = standing.told
        if not standing.cells:
            return
        life.cells, life.home = standing.cells, standing.home
        life.step(Event.START_ORDERED)
        if standing.seats:
            life.started_s = self.now_s
            self._take(life, standing.seats)
            self._came_up(life, Event.STARTED)
            return
        for event in (Event.STARTED, Event.FREEZE_ORDERED, Event.FROZE):
            life.step(event)

    # ---- what time brings

    def advance(self, until_s: float) -> None:
        """Let everything happen that is due by `until_s`, which is now afterwards."""
        agenda = self.agenda
        while agenda.next_s() <= until_s:
            self.now_s = agenda.next_s()
            kind, subject, version = agenda.pop()
            if version and subject.version != version:
                continue
            self.events += 1
            self.news = self.news or kind is not Kind.DONE or subject.phase in NEWS
            match kind:
                case Kind.FINISH:
                    self._finish(subject)
                case Kind.ARRIVAL:
                    self._arrive(subject)
                case Kind.DONE:
                    self._done(subject)
                case Kind.NODE_DOWN:
                    self._node_down(subject)
                case Kind.NODE_UP:
                    self._node_up(subject)
                case Kind.SPOT_NOTICE:
                    node, at_s = subject
                    self.places[node].leaves_s = at_s
                    self.places_touched[node] = self.places[node]
                case Kind.SLOW:
                    self._slow(*subject)
                case Kind.WISH:
                    self._wish(*subject)
                case _:
                    pass
        self.now_s = max(self.now_s, until_s)

    def _arrive(self, life: Life) -> None:
        if life.arrived:
            return
        life.since_s = life.present_s = self.now_s
        self.live[life.work.id] = self.touched[life.work.id] = life
        if not life.blocked:
            self._present(life)

    def _wish(self, service: str, count: int) -> None:
        """So many replicas are wanted now: the first ones."""
        for number, life in enumerate(self.replicas.get(service, ())):
            if life.wanted != (number < count):
                life.wanted = number < count
                self.touched[life.work.id] = life

    def _present(self, life: Life) -> None:
        life.present_s = self.now_s
        level = self.levels[life.work.tier]
        level.asked += life.work.devices
        level.queued += 1

    def _finish(self, life: Life) -> None:
        life.settle(self.now_s)
        if life.left_s > SPARE_S:
            raise Broken(f"{life.work.id} finished with {life.left_s} s of work left")
        life.left_s = 0.0
        self._stand(life)
        life.step(Event.OUTCOME_KNOWN)
        life.step(Event.ENDED_SUCCEEDED)
        self._free(life)
        self._gone(life)

    def _gone(self, life: Life) -> None:
        life.ended_s = self.now_s
        life.version += 1
        del self.live[life.work.id]
        self.ended.append(life)
        self.touched[life.work.id] = life
        level = self.levels[life.work.tier]
        level.asked -= life.work.devices
        level.queued -= 1
        for other in self._waited_for.pop(life.work.id, ()):
            other.blocked -= 1
            if other.work.id in self.live:
                self.touched[other.work.id] = other
                if not other.blocked:
                    self._present(other)

    def _done(self, life: Life) -> None:
        match life.phase:
            case Phase.STARTING:
                self._came_up(life, Event.STARTED)
            case Phase.THAWING:
                self._came_up(life, Event.THAWED)
            case Phase.RESIZING:
                self._resized(life)
            case Phase.FREEZING:
                self._froze(life)
            case Phase.CLEARING:
                self._cleared(life)
            case _:
                raise Broken(f"{life.work.id} is {life.phase}: nothing was under way")

    # ---- orders

    def carry_out(self, decision: Start | Thaw | Freeze | Resize | Stop | Evict) -> None:
        """One decision of a policy. Raises Broken or StepRefused where it cannot be."""
        life = self.live[decision.job]
        life.settle(self.now_s)
        self.touched[life.work.id] = life
        match decision:
            case Start(placement=placement):
                self._start(life, placement)
            case Thaw(placement=placement):
                self._thaw(life, placement)
            case Freeze(why=why):
                self._freeze(life, why)
            case Resize(placement=placement):
                self._resize(life, placement)
            case Evict():
                self._evict(life, saved=decision.saved)
            case Stop():
                raise Broken(f"nobody asked to cancel {life.work.id}")

    def _start(self, life: Life, placement: Placement) -> None:
        if life.blocked:
            raise Broken(f"{life.work.id} was started before what it is after has ended")
        life.step(Event.START_ORDERED)
        if not life.cells:
            life.cells = cells_of(placement)
        self._take(life, placement)
        life.started_s = self.now_s if life.started_s is None else life.started_s
        self._after(life, self.costs.start_s)

    def _thaw(self, life: Life, placement: Placement) -> None:
        life.step(Event.THAW_ORDERED)
        life.started_s = self.now_s if life.started_s is None else life.started_s  # it was frozen when all began
        away = self._nodes_of(life.cells, placement) != life.home
        self._take(life, placement)
        life.cause = "restore"
        life.moves += away
        self._after(life, self.costs.thawing_s(away=away))

    def _freeze(self, life: Life, why: Why) -> None:
        life.step(Event.FREEZE_ORDERED)
        self._stand(life)
        life.why, life.cause = why, _CAUSE[why]
        life.pauses += 1
        self._after(life, self.costs.freeze_s)

    def _resize(self, life: Life, placement: Placement) -> None:
        life.step(Event.RESIZE_ORDERED)
        self._stand(life)
        life.cause = "shrink"
        life.resizes += 1
        life.going_to = placement
        self._occupy(life, [seat for seat in dict.fromkeys(placement) if seat not in life.seats])
        self._after(life, self.costs.resize_s)

    def _evict(self, life: Life, *, saved: bool) -> None:
        """What schedulers without snapshots do: the job starts again from what its program saved by itself."""
        if saved and life.phase is Phase.RUNNING:
            life.saved_left_s = life.left_s
        life.pauses += 1
        life.lost_s += self._lose(life, "preempt")
        self.at_once = True
        self._cleared(life)

    def _after(self, life: Life, delay_s: float) -> None:
        """The order is carried out after `delay_s`; at once where it costs nothing."""
        life.version += 1
        if delay_s > 0.0:
            self.agenda.add(self.now_s + delay_s, Kind.DONE, life, life.version)
        else:
            self.at_once = True
            self._done(life)

    # ---- orders that were carried out

    def _came_up(self, life: Life, event: Event) -> None:
        life.settle(self.now_s)
        life.step(event)
        life.incarnation += 1
        self.touched[life.work.id] = life
        self._run(life)

    def _resized(self, life: Life) -> None:
        life.settle(self.now_s)
        life.step(Event.RESIZED)
        self.touched[life.work.id] = life
        new = life.going_to
        self._free(life)
        self._take(life, new)
        self._run(life)

    def _froze(self, life: Life) -> None:
        life.settle(self.now_s)
        life.step(Event.FROZE)
        self.touched[life.work.id] = life
        life.home = self._nodes_of(life.cells, life.seats)
        life.saved_left_s = life.left_s
        life.why = None
        self._free(life)

    def _cleared(self, life: Life) -> None:
        life.settle(self.now_s)
        has_copy = self.transparent and life.saved_left_s < life.work.duration_s
        life.step(Event.CLEARED_TO_SNAPSHOT if has_copy else Event.CLEARED_TO_BEGINNING)
        self.touched[life.work.id] = life
        self._free(life)
        if not has_copy:
            life.cells, life.home = (), ()

    # ---- machines

    def _node_down(self, node: str) -> None:
        place = self.places[node]
        if not place.up:
            return
        place.up = False
        place.failures.append(self.now_s)
        self.capacity -= place.machine.devices
        self.places_touched[node] = place
        for key in sorted(place.sitting):
            life = self.live[key]
            if life.phase is not Phase.CLEARING:
                life.settle(self.now_s)
                life.faults += 1
                life.lost_to_faults_s += self._lose(life, "fault")
                life.version += 1
                self.agenda.add(self.now_s + self.costs.detect_s, Kind.DONE, life, life.version)

    def _lose(self, life: Life, cause: str) -> float:
        """A life that is over: what it did since its newest copy is lost, in seconds of work."""
        self._stand(life)
        life.save(self.costs.snapshot_every_s if self.transparent else self.costs.checkpoint_every_s)
        life.step(Event.LOST)
        life.version += 1
        life.restarts += 1
        life.cause = cause
        life.why = None
        self.touched[life.work.id] = life
        return life.roll_back()

    def _node_up(self, node: str) -> None:
        place = self.places[node]
        if place.up:
            return
        place.up, place.leaves_s = True, None
        self.capacity += place.machine.devices
        self.places_touched[node] = place

    def _slow(self, node: str, factor: float) -> None:
        place = self.places[node]
        place.slow = factor
        self.places_touched[node] = place
        for key in sorted(place.sitting):
            life = self.live[key]
            if life.phase is Phase.RUNNING:
                life.settle(self.now_s)
                self._run(life)

    # ---- devices and speed

    def _run(self, life: Life) -> None:
        """Set the speed by the seats it has, and foresee its end."""
        self._stand(life)
        devices, width = life.work.devices, len(set(life.seats))
        life.computing = self.costs.computing(devices, width)
        life.cause = "shrink"
        life.rate = life.computing / devices * self._speed(life)
        self.levels[life.work.tier].computing += life.computing
        life.version += 1
        self.agenda.add(self.now_s + max(0.0, life.left_s) / life.rate, Kind.FINISH, life, life.version)

    def _speed(self, life: Life) -> float:
        """That of its slowest machine: a gang goes at the pace of its last member."""
        known = dict(life.work.speeds)
        nodes = {seat.node for seat in life.seats}
        machines = [self.places[node] for node in nodes]
        return min(place.slow * known.get(place.machine.kind, 1.0) for place in machines)

    def _stand(self, life: Life) -> None:
        self.levels[life.work.tier].computing -= life.computing
        life.rate = life.computing = 0.0
        life.version += 1

    def _take(self, life: Life, placement: Placement) -> None:
        distinct = list(dict.fromkeys(placement))
        if len(placement) != life.work.devices or life.work.devices % len(distinct):
            raise Broken(f"{life.work.id} has {life.work.devices} ranks and was given {placement}")
        self._occupy(life, distinct)
        life.seats = placement
        level = self.levels[life.work.tier]
        level.held += len(distinct)
        level.queued -= 1

    def _occupy(self, life: Life, seats: Iterable[Seat]) -> None:
        for seat in seats:
            place = self.places[seat.node]
            other = self.holder.get(seat)
            if other is not None or not place.up or not 0 <= seat.device < place.machine.devices:
                raise Broken(f"{life.work.id} was given {seat}, held by {other}, node up: {place.up}")
            self.holder[seat] = life.work.id
            place.sitting.add(life.work.id)

    def _free(self, life: Life) -> None:
        if not life.seats:
            return
        held = set(life.seats)
        for seat in held.union(life.going_to):
            del self.holder[seat]
            self.places[seat.node].sitting.discard(life.work.id)
        level = self.levels[life.work.tier]
        level.held -= len(held)
        level.queued += 1
        life.seats = life.going_to = ()

    def _nodes_of(self, cells: tuple[Cell, ...], placement: Placement) -> tuple[str, ...]:
        return tuple(placement[cell.ranks[0]].node for cell in cells)
