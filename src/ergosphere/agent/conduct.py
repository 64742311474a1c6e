"""The coordinator: carries an order through all cells of a job, all of it or nothing.

It knows neither CRIU nor HTTP: cells are `CellPort`s, local or by mail, and what decides a freeze is in `deciding`.
Every undo stands beside its do.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from ergosphere.agent import cut, parting
from ergosphere.agent.answering import costs_of, done, failed
from ergosphere.agent.arranging import Undecided, arrange_all, each, give_up, ports_of, quietly
from ergosphere.agent.cut_port import RankPort
from ergosphere.agent.deciding import Decider, called_off
from ergosphere.agent.laps import Laps
from ergosphere.agent.ports import SUSPEND_S_MAX, CellPort, DamagedSnapshot, Refused
from ergosphere.snapshots import manifest as manifests
from ergosphere.snapshots import records
from ergosphere.snapshots.errors import Damaged, NotFound
from ergosphere.snapshots.manifest import Manifest
from ergosphere.snapshots.store import Store
from ergosphere.system import Clock
from ergosphere.wire.agents import (
    Answer,
    EndOrder,
    FreezeOrder,
    LifePlan,
    Order,
    ResizeOrder,
    StartOrder,
    ThawOrder,
)

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Conductor:
    """Carries out orders for the jobs whose cell 0 sits here."""

    cells: Callable[[LifePlan], Sequence[CellPort]]
    store: Store
    clock: Clock
    criu_version: str = ""
    ending: set[tuple[str, int]] = field(default_factory=set)  # lives whose end was ordered, and has not begun

    def carry_out(self, order: Order) -> Answer | None:
        """Do as ordered; whatever goes wrong comes back as an answer that names cause and remedy.

        None: the store does not say how a freeze ended. There is no honest answer; the order will come again.
        """
        began = self.clock.monotonic()
        try:
            match order:
                case StartOrder():
                    answer = self._start(order)
                case ThawOrder():
                    answer = self._thaw(order)
                case FreezeOrder():
                    answer = self._freeze(order)
                case ResizeOrder():
                    answer = self._resize(order)
                case EndOrder():
                    answer = self._end(order)
        except (Undecided, cut.LeftWaiting):
            log.exception("order %s stays open", order.order_id)
            return None
        except Exception as error:  # the one door: an order always gets an answer
            log.info("order %s failed", order.order_id, exc_info=True)
            if isinstance(order, FreezeOrder | ResizeOrder) and self._left_waiting(order.life):
                return None
            answer = failed(order, error)
        return answer.model_copy(update={"took_s": self.clock.monotonic() - began})

    @property
    def _decider(self) -> Decider:
        return Decider(self.store, self.clock)

    # ── start ────────────────────────────────────────────────────────────────────────────────────────────────

    def _start(self, order: StartOrder) -> Answer:
        cells = self.cells(order.life)
        if _all_live(cells):  # this order was carried out already, by an agent process before this one
            return done(order)
        each(cells, lambda cell: cell.discard())
        with ExitStack() as undo:
            undo.callback(quietly, cells, lambda cell: cell.discard())
            each(cells, lambda cell: cell.build(order.life))
            each(cells, lambda cell: cell.launch())
            undo.pop_all()
        return done(order)

    # ── thaw ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _thaw(self, order: ThawOrder) -> Answer:
        cells = self.cells(order.life)
        begun = cells[0].begun()
        if begun is not None:  # by an agent process before this one
            return self._go_through(order, cells, *begun)
        damaged: list[str] = []
        notes: list[str] = []
        for snapshot in order.snapshots:
            began_s = self.clock.monotonic()
            try:
                manifest = self._manifest(snapshot)
                self._bring_back(cells, order, manifest, goes_back=order.goes_back or bool(damaged))
            except (DamagedSnapshot, Damaged) as bad:
                damaged.append(snapshot)
                notes.append(f"snapshot {snapshot} cannot be used: {bad}")
                continue
            except (Undecided, cut.LeftWaiting):
                raise
            except Exception as error:
                if not damaged:
                    raise
                return failed(order, error).model_copy(update={"damaged": tuple(damaged)})
            return done(
                order,
                snapshot=snapshot,
                damaged=tuple(damaged),
                notes=tuple(notes),
                log_lengths=manifest.log_lengths(),
                costs=costs_of("thaw", manifest, cells, self.clock.monotonic() - began_s),
            )
        raise _NoneWhole(tuple(damaged), notes)

    def _manifest(self, snapshot: str) -> Manifest:
        """Raises DamagedSnapshot where the store has no such snapshot: unlike its bytes, a record never moves."""
        try:
            return records.load(self.store, snapshot)
        except NotFound as gone:
            raise DamagedSnapshot(str(gone)) from gone

    def _go_through(self, order: ThawOrder, cells: Sequence[CellPort], generation: int, snapshot: str) -> Answer:
        """Ranks of this thaw run already, so it is finished, not begun again: what they did cannot be undone."""
        with ExitStack() as undo:
            undo.callback(quietly, cells, lambda cell: cell.discard())
            each(cells, lambda cell: cell.run(generation))
            undo.pop_all()
        return done(order, snapshot=snapshot, log_lengths=records.load(self.store, snapshot).log_lengths())

    def _bring_back(self, cells: Sequence[CellPort], order: ThawOrder, manifest: Manifest, *, goes_back: bool) -> None:
        body = {**_as_body(manifest), "goes_back": goes_back}
        each(cells, lambda cell: cell.discard())
        with ExitStack() as undo:
            undo.callback(quietly, cells, lambda cell: cell.discard())
            laps = Laps(self.clock)
            each(cells, lambda cell: cell.fetch(order.life, body))
            laps.end("fetch")
            generation = self._generation()
            if not manifest.begins_anew:
                each(cells, lambda cell: cell.restore(body))
                laps.end("restore")
                cells[0].begin(generation)
            each(cells, lambda cell: cell.run(generation))
            laps.end("run")
            undo.pop_all()  # from here the restored processes are the job
        log.info("thaw %s: %s", manifest.id, laps)

    # ── freeze ───────────────────────────────────────────────────────────────────────────────────────────────

    def _freeze(self, order: FreezeOrder) -> Answer:
        cells = self.cells(order.life)
        if order.cooperative:
            return self._let_save(order, cells)
        attempt = self._decider.attempt(order.order_id, cells)
        if isinstance(attempt, Manifest):  # committed by an agent process before this one
            return self._finish(order, cells, attempt)
        laps = Laps(self.clock)
        with ExitStack() as undo:
            go_on = self._hold(order.life, cells, undo)
            laps.end("hold")
            undo.callback(self._decider.call_off, attempt, cells)
            on_commit = "kill" if order.release else "release"
            each(cells, lambda cell: cell.suspend(attempt, SUSPEND_S_MAX, on_commit))
            taken_s = self.clock.now()  # what ranks did up to here is kept, and nothing else
            each(cells, lambda cell: cell.examine())
            laps.end("suspend")
            each(cells, lambda cell: cell.dump(attempt, not order.release, order.newcomer_bytes))
            laps.end("dump")
            if not order.release:  # a periodic snapshot: the job goes on while the rest is hashed
                undo.pop_all()
                undo.callback(self._decider.call_off, attempt, cells)
                each(cells, lambda cell: cell.release(attempt))
                if stuck := go_on():  # neither would those that were thawed from these images
                    raise Refused(stuck)
            manifest = self._seal(order, attempt, cells, taken_s, laps.total_s)
            undo.pop_all()  # committed: the snapshot is the job
            laps.end("seal")
        log.info("freeze %s: %s", attempt, laps)
        return self._finish(order, cells, manifest, laps.total_s)

    def _let_save(self, order: FreezeOrder, cells: Sequence[CellPort]) -> Answer:
        """Of a job that cannot be frozen: its ranks save themselves and end, and their files are the snapshot."""
        decided = self._decider.before(order.order_id, cells)
        if isinstance(decided, Manifest):  # committed by an agent process before this one
            return self._finish(order, cells, decided)
        again = parting.begun(cells)
        if decided is not None and not again:
            raise called_off(decided)
        parted: list[parting.Parting] = []
        steps: set[str] = set()

        def cancelled() -> bool:
            return (order.life.job, order.life.incarnation) in self.ending

        def keep() -> Answer:
            decided = records.verdict(self.store, order.order_id) if again or parted else None
            if isinstance(decided, Manifest):  # committed, and we were not told
                return self._finish(order, cells, decided)
            if decided is not None:
                raise parting.Gone("the freeze was called off while the job saved itself")
            if not parted:
                parted.append(parting.part(cells, order.life.spec, self.clock, again=again, cancelled=cancelled))
                steps.add("parted")
            taken_s = self.clock.now()
            each(cells, lambda cell: cell.keep_files(order.order_id))
            steps.add("kept")
            manifest = self._seal(order, order.order_id, cells, taken_s, parted[0].seconds or 0.0)
            return self._finish(order, cells, manifest).model_copy(update={"parting": parted[0].in_words()})

        try:
            return parting.see_through(keep, self.clock, steps, cancelled)
        except (parting.Gone, parting.Cancelled) as over:
            return self._give_up_saving(order, cells, over)

    def _give_up_saving(self, order: FreezeOrder, cells: Sequence[CellPort], over: Refused) -> Answer:
        """Nothing could be kept, unless the store says that it was. Whoever was never asked runs on."""
        untouched = parting.untouched(cells)
        try:
            decided = self._decider.call_off(order.order_id, cells)
        except Undecided:
            raise
        except Exception as error:  # whatever it is, it makes nobody alive again
            raise parting.Gone(f"{over}; {error}") from error
        if isinstance(decided, Manifest):
            return self._finish(order, cells, decided)
        if untouched:
            raise Refused(str(over)) from over.__cause__
        raise over

    def _hold(self, life: LifePlan, cells: Sequence[CellPort], undo: ExitStack) -> Callable[[], str]:
        """Bring all shims to a cut; what is returned (and undone) lets the job go on in place, or says why not."""
        ports = ports_of(cells)
        if not ports:
            return str
        parked = self._take_up(cells, ports) or self._reach_cut(life, ports)

        def go_on() -> str:
            stuck = cut.go(ports, parked, self._generation(), cut.GO_S_MAX, self.clock)
            if stuck is None:
                return ""
            give_up(cells, stuck.reason)
            return stuck.reason

        undo.callback(go_on)
        return go_on

    def _reach_cut(self, life: LifePlan, ports: Mapping[int, RankPort]) -> tuple[int, ...]:
        reached = cut.reach_cut(ports, life.spec.hold_s, self.clock)
        if isinstance(reached, cut.CutFailed):
            remedy = "use Gloo, or submit it with --grace" if reached.lasting else "--hold gives slow steps more time"
            raise Refused(reached.reason, remedy=f"the job runs on; {remedy}", lasting=reached.lasting)
        return reached.parked

    def _take_up(self, cells: Sequence[CellPort], ports: Mapping[int, RankPort]) -> tuple[int, ...]:
        """Ranks that wait at a cut to which an agent before this one, that died, brought the job."""
        try:
            return cut.take_up(ports, self.clock)
        except cut.LeftWaiting as stuck:
            give_up(cells, str(stuck))
            raise Refused(str(stuck)) from stuck

    def _left_waiting(self, life: LifePlan) -> bool:
        """Whether ranks would be left at a cut, as far as their nodes answer, if nobody came again."""

        def left(cell: CellPort) -> bool:
            try:
                return cut.anyone_left(cell.rank_ports())
            except Exception:  # its node is away: those that are here decide
                return False

        return any(each(self.cells(life), left))

    def _generation(self) -> int:
        """A number no earlier cut of this job has used: the process groups' meeting place in the store."""
        return int(self.clock.now() * 1000)

    def _seal(
        self, order: FreezeOrder, freeze_id: str, cells: Sequence[CellPort], taken_s: float, stopped_s: float
    ) -> Manifest:
        parts = each(cells, lambda cell: cell.seal(freeze_id))
        life, begins = order.life, {manifests.BEGINS_ANEW: True} if order.cooperative else {}
        manifest = Manifest(
            id=freeze_id,
            job=life.job,
            incarnation=life.incarnation,
            spec=life.spec.model_dump(mode="json", exclude={"env"}),
            taken_s=taken_s,
            why=order.why.value if order.why else "snapshot",
            stopped_s=stopped_s,
            criu=self.criu_version,
            kernel=platform.release(),
            cpuinfo=None,
            cells=tuple(manifests.decode_cell(part) for part in parts),
            facts={"threads": life.threads, "name": life.known_name or life.spec.name, **begins},
        )
        return self._decider.commit(manifest)

    def _finish(self, order: FreezeOrder, cells: Sequence[CellPort], manifest: Manifest, took_s: float = 0.0) -> Answer:
        """Behind the commit nothing can fail any more: a cell that is out of reach is cleared by its own node."""
        began_s = self.clock.monotonic()
        if order.release:
            quietly(cells, lambda cell: cell.retire(manifest.id))
        took_s += self.clock.monotonic() - began_s
        quietly(cells, lambda cell: cell.settle(manifest.id))
        return done(
            order,
            snapshot=manifest.id,
            bytes=manifest.bytes,
            taken_s=manifest.taken_s,
            stopped_s=manifest.stopped_s,
            log_lengths=manifest.log_lengths(),
            costs=costs_of("freeze", manifest, cells, took_s) if took_s else (),
        )

    # ── resize ───────────────────────────────────────────────────────────────────────────────────────────────

    def _resize(self, order: ResizeOrder) -> Answer:
        """Other devices of the nodes where the ranks are: a cut, new share tables, and on."""
        cells = self.cells(order.life)
        try:
            return self._rearrange(order, cells)
        except Refused as error:
            ended = _ended(cells)
            if not ended:
                raise
            raise RanksEnded(f"rank {', '.join(map(str, ended))} ended meanwhile") from error

    def _rearrange(self, order: ResizeOrder, cells: Sequence[CellPort]) -> Answer:
        ports = ports_of(cells)
        laps = Laps(self.clock)
        parked = self._take_up(cells, ports)
        if not parked:
            if all(number == order.life.arrangement for number in each(cells, lambda cell: cell.arrangement())):
                return done(order)
            parked = self._reach_cut(order.life, ports)
        laps.end("hold")  # from here nobody goes on before all know their device
        notes = arrange_all(cells, self.cells(order.before), ports, parked, self._generation(), self.clock)
        laps.end("arrange")
        log.info("resize %s, arrangement %d: %s", order.life.job, order.life.arrangement, laps)
        return done(order, stopped_s=laps.last_s, notes=notes, gone=bool(notes))

    # ── end ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _end(self, order: EndOrder) -> Answer:
        self.ending.discard((order.life.job, order.life.incarnation))
        ends = each(self.cells(order.life), lambda cell: cell.end(order.grace_s, order.collect))
        results = next((end["results"] for end in ends if end.get("results")), None)
        notes = tuple(note for end in ends for note in end.get("notes", ()))
        return done(order, results=results, notes=notes)


class _NoneWhole(Exception):
    """No snapshot of a job could be used."""

    def __init__(self, damaged: tuple[str, ...], notes: Iterable[str]) -> None:
        super().__init__("; ".join(notes) or "the job has no snapshot")
        self.damaged = damaged


class RanksEnded(Refused):
    """Ranks ended while the job was to be resized: it does not run on as it was."""

    gone = True


def _ended(cells: Sequence[CellPort]) -> list[int]:
    """The ranks that do not run any more; none where that cannot be found out."""
    try:
        running = {rank for left in each(cells, lambda cell: cell.left()) for rank in left["running"]}
    except Exception:  # a node is away: what was said of the failure itself stands
        return []
    return sorted({rank for cell in cells for rank in cell.seat.ranks} - running)


def _all_live(cells: Sequence[CellPort]) -> bool:
    return all(phase in ("live", "ended") for phase in each(cells, lambda cell: cell.phase()))


def _as_body(manifest: Manifest) -> dict[str, Any]:
    return {"manifest": manifests.to_json(manifest).decode()}
