"""The desk of our own policy: the service's `Board`, fed by what changed, as the ledger feeds it."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ergosphere.core import fraction
from ergosphere.core.copying import changed
from ergosphere.core.model import (
    HOLDS_SEATS,
    Account,
    Cause,
    Freeze,
    JobId,
    JobView,
    NodeId,
    NodeView,
    Phase,
    Plan,
)
from ergosphere.core.policy.board import Board
from ergosphere.core.policy.decide import decide
from ergosphere.core.policy.entry import COMING
from ergosphere.core.policy.flaky import flaky_until_s
from ergosphere.core.policy.rules import Rules
from ergosphere.sim.costs import Costs
from ergosphere.sim.fleets import Fleet
from ergosphere.sim.fraction import GRACE_S
from ergosphere.sim.lives import Life
from ergosphere.sim.places import Place
from ergosphere.sim.world import World

HOUR_S: Final = 3_600.0  # pauses are remembered for so long


class BoardDesk:
    """`decide` over a board. `windows` keeps the closed hours of every job's account, for comparison."""

    transparent = True

    def __init__(self, fleet: Fleet, rules: Rules, *, name: str = "ergosphere") -> None:
        self.name = name
        self.board = Board(rules)
        self._projects = fleet.projects
        self._costs = Costs()
        self._world: World | None = None
        self._stirred = False  # time has changed what may change a decision
        self._for: dict[str, JobId | None] = {}  # whom a job is frozen for
        self._pauses: dict[str, tuple[float, ...]] = {}
        self.windows: dict[str, list[fraction.Window]] = {}
        self.keeps_windows = False

    def costs(self, costs: Costs) -> Costs:
        return costs

    def open(self, world: World) -> None:
        self._costs = world.costs
        self._world = world
        self.board.put_projects(self._projects)
        for place in world.places.values():
            self.board.put_node(node_view(place, world.now_s))

    def view(self, world: World) -> Board:
        self._feed(world)
        return self.board

    def stirs(self, world: World, *, alarm: bool) -> bool:
        self._feed(world)
        if self.board.is_idle():
            self._stirred = False
            return False
        return world.news or self._stirred

    def judge(self, view: Board, rules: Rules) -> Plan:
        self._stirred = False
        return decide(view, rules)

    def took(self, plan: Plan, world: World) -> None:
        for decision in plan.decisions:
            if isinstance(decision, Freeze):
                key = decision.job
                self._for[key] = decision.for_job
                recent = (at_s for at_s in self._pauses.get(key, ()) if at_s > world.now_s - HOUR_S)
                self._pauses[key] = (*recent, world.now_s)
        self._feed(world)
        self.board.promise(plan.rooms)

    def alarm_s(self) -> float:
        if self._world is not None and self._world.touched:
            self._feed(self._world)  # what changed without a turn has alarms too
        return self.board.alarm_s()

    def _feed(self, world: World) -> None:
        now_s = world.now_s
        self._stirred |= self.board.advance(now_s)
        if not (world.touched or world.places_touched):
            return
        for place in world.places_touched.values():
            self.board.put_node(node_view(place, now_s))
        for key, life in world.touched.items():
            if life.ended_s is not None:
                self._end(key, now_s)
                continue
            before = self.board.job(JobId(key))
            told = self.board.put_job(self._opened(life, world) if before is None else self._moved(before, life, world))
            self._stirred |= told and before is not None and before.phase in COMING
        world.places_touched.clear()
        world.touched.clear()

    def _end(self, key: str, now_s: float) -> None:
        before = self.board.job(JobId(key))
        if before is not None and before.account is not None and self.keeps_windows:
            self._keep(key, fraction.closed(before.account, now_s)[1])
        self.board.drop_job(JobId(key))
        self._pauses.pop(key, None)
        self._for.pop(key, None)

    def _opened(self, life: Life, world: World) -> JobView:
        work = life.work
        account = fraction.opened(world.now_s, work.devices, GRACE_S)
        view = JobView(
            id=JobId(work.id),
            name=work.id,
            tier=work.tier,
            project=work.project,
            ranks=work.devices,
            phase=Phase.WAITING,
            submitted_s=work.submit_s,
            freeze_cost_s=self._costs.freeze_s,
            thaw_cost_s=self._costs.thaw_s,
            upload_cost_s=self._costs.transfer_s,
            resize_cost_s=self._costs.resize_s,
            min_devices=work.devices_min,
            speeds=work.speeds,
            device_bytes=int(work.memory_gib * 2**30),
            regions=work.regions,
            data_region=work.data_region,
            after=awaited(life, world),
            deadline_s=work.deadline_s,
            service=work.service,
            wanted=life.wanted,
            account=account if life.wanted and not life.blocked else replace(account, counts=False),
        )
        told = world.told.get(work.id, {})
        if told:
            view = replace(view, **{name: value for name, value in told.items() if name != "running_since_s"})
        # It may have come up in the very instant in which it came: orders that cost nothing are carried out at once.
        moved = view if life.phase is Phase.WAITING and not told else self._moved(view, life, world)
        began_s = told.get("running_since_s") if moved.phase is Phase.RUNNING else None
        return moved if began_s is None else replace(moved, running_since_s=began_s)

    def _moved(self, before: JobView, life: Life, world: World) -> JobView:
        key, now_s, phase = life.work.id, world.now_s, life.phase
        holds = phase in HOLDS_SEATS
        running = phase is Phase.RUNNING
        came_up = running and before.phase is not Phase.RUNNING and before.phase is not Phase.RESIZING
        freezing = phase is Phase.FREEZING
        return changed(
            before,
            phase=phase,
            cells=life.cells,
            seats=life.seats if holds else (),
            going_to=life.going_to,
            after=awaited(life, world) if before.after else (),
            running_since_s=now_s if came_up else before.running_since_s if holds else None,
            resized_s=now_s if running and before.phase is Phase.RESIZING else before.resized_s,
            freezing_why=life.why if freezing else None,
            freezing_for=self._for.get(key) if freezing else None,
            home=tuple(NodeId(node) for node in life.home),
            wanted=life.wanted,
            account=self._booked(key, before.account, life, now_s),
            pauses=self._pauses.get(key, ()),
        )

    def _booked(self, key: str, account: Account | None, life: Life, now_s: float) -> Account | None:
        assert account is not None, "every simulated job has an account"
        counts, cause = not life.blocked and life.wanted, Cause(life.cause)
        if account.rate == life.computing and account.counts == counts and account.cause is cause:
            return account
        after, windows = fraction.changed(account, now_s, rate=life.computing, counts=counts, cause=cause)
        if self.keeps_windows:
            self._keep(key, windows)
        return after

    def _keep(self, key: str, windows: tuple[fraction.Window, ...]) -> None:
        self.windows.setdefault(key, []).extend(windows)


def awaited(life: Life, world: World) -> tuple[JobId, ...]:
    """The jobs it still waits for."""
    return tuple(JobId(other) for other in life.work.after if world.lives[other].ended_s is None)


def node_view(place: Place, now_s: float) -> NodeView:
    """A machine as the service sees it: gone, leaving, or avoided because it failed more than once in a day."""
    machine = place.machine
    return NodeView(
        id=NodeId(machine.id),
        devices=machine.devices,
        ready=place.up,
        type=machine.kind,
        device_bytes=int(machine.memory_gib * 2**30),
        region=machine.region,
        cluster=machine.cluster,
        domain=machine.domain,
        leaves_s=place.leaves_s,
        flaky_until_s=flaky_until_s(tuple(place.failures), now_s),
        machine=machine.id,
    )
