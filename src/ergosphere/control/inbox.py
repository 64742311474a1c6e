"""What agents tell: reports, answers and logs. Each may come late, twice, or from a life that is over."""

from __future__ import annotations

import base64
import binascii
import threading
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import func, select

from ergosphere.control.bell import Bell
from ergosphere.control.leases import Leases
from ergosphere.control.ledger import costs, fitness, kept, lives, resizing, results
from ergosphere.control.ledger.change import SERVER, Change, agent
from ergosphere.control.ledger.ledger import Ledger
from ergosphere.control.ledger.tables import CellRow, JobRow, LogRow, NodeRow, OrderRow, OrderState, SnapshotRow
from ergosphere.control.logs import NAME, LogFiles
from ergosphere.control.uploads import Uploads
from ergosphere.core.model import ENDED, Phase
from ergosphere.wire.agents import (
    AgentReport,
    Answer,
    CellName,
    CellState,
    LogChunk,
    ReportReply,
    SnapshotState,
)
from ergosphere.wire.api import LogReply

HEARD_EVERY_S: Final = 5.0  # how often "last heard" is written down
OVER: Final = ENDED | {Phase.WAITING, Phase.FROZEN}  # the last life of such a job is over
MISSING: Final = "missing"  # phase of a cell that its node does not know any more


class Refused(Exception):
    """A message that cannot be from an agent of ours: the text says why."""


@dataclass(frozen=True, slots=True)
class _Told:
    """A report and its reply: both stand as long as the ledger's bell has not rung again."""

    report: AgentReport
    count: int
    reply: ReportReply


@dataclass(slots=True)
class Inbox:
    ledger: Ledger
    leases: Leases
    logs: LogFiles
    logs_bell: Bell
    uploads: Uploads = field(default_factory=Uploads)
    _writers: dict[tuple[str, str], int] = field(default_factory=dict)  # (job, log) → the life that writes it
    _births: dict[tuple[str, str], str] = field(default_factory=dict)  # (job, log) → which making of that life
    _told: dict[str, _Told] = field(default_factory=dict)
    _heard_s: dict[str, float] = field(default_factory=dict)
    _logging: threading.Lock = field(default_factory=threading.Lock)

    # -- reports

    def report(self, node: str, report: AgentReport) -> ReportReply:
        """The whole truth of one node. Renews its lease and says what may be removed there."""
        if report.node != node:
            raise Refused(f"the report of {report.node!r} came under the name {node!r}")
        self.leases.renew(node)
        self._hear(node)
        count = self.ledger.bell.count
        known = self._told.get(node)
        if known is not None and (known.report, known.count) == (report, count):
            return known.reply
        reply = self._note(report)
        if self.ledger.bell.count == count:  # else something changed meanwhile, and the reply may be of before
            self._told[node] = _Told(report, count, reply)
        return reply

    def _note(self, report: AgentReport) -> ReportReply:
        node = report.node
        with self.ledger.change() as change:
            _note_node(change, report)
            for cell in report.cells:
                _note_cell(change, node, cell)
            _note_missing(change, report)
            kept.unstrand(change, node, [state.snapshot for state in report.snapshots])
            for state in report.snapshots:
                _note_durability(change, state)
                self.uploads.note(node, state)
            fitness.note(change, node, report.weighed)
            return ReportReply(
                lease_s=self.leases.lease_s,
                forget=tuple(_forgettable(change, report)),
                incarnations=_incarnations(change, report),
                drop_snapshots=tuple(_droppable(change, report)),
                weigh=fitness.to_weigh(change),
            )

    def _hear(self, node: str) -> None:
        now_s = self.leases.clock.monotonic()
        if now_s - self._heard_s.get(node, float("-inf")) >= HEARD_EVERY_S:
            self._heard_s[node] = now_s
            self.ledger.hear(node)

    # -- answers

    def answer(self, node: str, answer: Answer) -> bool:
        """Apply an answer once. False: it was answered before, or the life that it belongs to is over."""
        with self._logging, self.ledger.change() as change:  # in this order everywhere
            order = change.session.get(OrderRow, answer.order_id)
            if order is None or order.state is not OrderState.ISSUED:
                return False
            order.state, order.answered_s = OrderState.ANSWERED, change.now_s
            job = change.job(order.job)
            if not order.incarnation == answer.incarnation == job.incarnation:
                order.state = OrderState.DROPPED
                return False
            change.session.flush()
            _mark_damaged(change, job, answer, node)
            self._apply(change, job, order, answer)
        self.logs_bell.ring()  # who follows a log may have reached its end
        return True

    def _apply(self, change: Change, job: JobRow, order: OrderRow, answer: Answer) -> None:
        match order.kind, job.phase, answer.ok:
            case "start" | "thaw", Phase.STARTING | Phase.THAWING, True:
                self._roll_back(change, job, answer)
                lives.came_up(change, job, answer)
            case "start" | "thaw", Phase.STARTING | Phase.THAWING, False:
                lives.did_not_come_up(change, job, answer)
            case "freeze", Phase.FREEZING, True:
                lives.froze(change, job, answer)
            case "freeze", Phase.RUNNING, True:
                lives.snapshot_taken(change, job, answer)
            case "freeze", Phase.FREEZING | Phase.RUNNING, False:
                lives.did_not_freeze(change, job, answer)
            case "resize", Phase.RESIZING, True:
                resizing.resized(change, job, answer)
            case "resize", Phase.RESIZING, False:
                resizing.did_not_resize(change, job, answer)
            case "end", Phase.CLEARING, True:
                lives.cleared(change, job)
            case "end", Phase.CLEARING, False:  # `watch` waits until no node reports anything of it
                change.note(job, agent(order.node), "clear-failed", f"not all of it is cleared yet: {answer.error}")
            case "end", Phase.ENDING, False if answer.transient:
                order.state = OrderState.ISSUED  # said again soon: results are not given up while the store is away
                results.not_home_yet(change, job, answer)
            case "end", Phase.ENDING, _:
                lives.collected(change, job, answer.results, "" if answer.ok else answer.error)
            case _:
                change.note(
                    job, agent(order.node), "late", f"the answer to {order.kind} came when the job was {job.phase}"
                )
        if answer.notes:
            job.notes = list(dict.fromkeys([*job.notes, *answer.notes]))

    def _roll_back(self, change: Change, job: JobRow, answer: Answer) -> None:
        """A new life begins with the logs of its snapshot; what the server has beyond has to be produced again."""
        for name in sorted({*self.logs.names(job.id), *answer.log_lengths}):
            self._take_over(change, job.id, name, job.incarnation, answer.log_lengths.get(name, 0))

    # -- logs

    def log(self, chunk: LogChunk) -> LogReply:
        """Bytes of a log. The first of a newer life cuts the log back to where they begin."""
        data = _decoded(chunk)
        with self._logging:
            writer = self._writer(chunk)
            if chunk.incarnation < writer:
                return LogReply(length=self.logs.length(chunk.job, chunk.name), stale=True)
            if chunk.incarnation > writer:
                with self.ledger.change() as change:
                    self._take_over(change, chunk.job, chunk.name, chunk.incarnation, chunk.offset)
            if self._births.get((chunk.job, chunk.name), chunk.birth) != chunk.birth and chunk.incarnation == writer:
                self.logs.cut(chunk.job, chunk.name, chunk.offset)  # what the first making printed never happened
            self._births[chunk.job, chunk.name] = chunk.birth
            length = self.logs.write(chunk.job, chunk.name, chunk.offset, data)
        self.logs_bell.ring()
        return LogReply(length=length)

    def _writer(self, chunk: LogChunk) -> int:
        known = self._writers.get((chunk.job, chunk.name))
        if known is not None and known >= chunk.incarnation:
            return known
        with self.ledger.read() as look:
            job = look.session.get(JobRow, chunk.job)
            if job is None or chunk.incarnation > job.incarnation:
                raise Refused(f"there is no life {chunk.incarnation} of a job {chunk.job!r}")
            newest = select(func.max(LogRow.incarnation)).where(LogRow.job == chunk.job, LogRow.name == chunk.name)
            return look.session.scalar(newest) or 0

    def _take_over(self, change: Change, job: str, name: str, incarnation: int, length: int) -> None:
        if change.session.get(LogRow, (job, name, incarnation)) is not None:
            return
        dropped = self.logs.cut(job, name, length)
        if change.job(job).rolling_back:  # its owner wanted that
            dropped = 0
        change.session.add(LogRow(job=job, name=name, incarnation=incarnation, lines_dropped=dropped))
        change.session.flush()
        self._writers[job, name] = incarnation


def _decoded(chunk: LogChunk) -> bytes:
    match = NAME.match(chunk.name)
    if match is None or chunk.offset < 0:
        raise Refused(f"{chunk.name!r} at {chunk.offset} is not a place in a log")
    try:
        return base64.b64decode(chunk.data, validate=True)
    except binascii.Error as error:
        raise Refused(f"log bytes are not base64: {error}") from error


def _note_node(change: Change, report: AgentReport) -> None:
    node = change.node(report.node)
    if node is None:
        node = NodeRow(id=report.node, devices=report.devices)
        change.session.add(node)
    if node.boot != report.boot:
        words = "joined" if not node.boot else "has a new agent"
        change.note(None, agent(node.id), "node", f"{node.id} {words}: {report.devices} devices, {report.cores} cores")
    if node.lost:
        change.note(None, SERVER, "node-back", f"{node.id} reports again")
    node.devices, node.cores, node.boot, node.lost = report.devices, report.cores, report.boot, False
    node.memory_bytes = report.memory_bytes
    node.machine = report.machine


def _note_cell(change: Change, node: str, cell: CellState) -> None:
    key = (cell.job, cell.incarnation, cell.cell, node)
    row = change.session.get(CellRow, key)
    ranks = [rank.model_dump(mode="json") for rank in cell.ranks]
    told = {"phase": cell.phase, "ranks": ranks, "keeper_alive": cell.keeper_alive, "notes": list(cell.notes)}
    if row is None:
        job, incarnation, index, _ = key
        row = CellRow(job=job, incarnation=incarnation, cell=index, node=node, changed_s=change.now_s, **told)
        change.session.add(row)
    elif any(getattr(row, name) != value for name, value in told.items()):
        for name, value in told.items():
            setattr(row, name, value)
        row.changed_s = change.now_s


def _note_missing(change: Change, report: AgentReport) -> None:
    """Cells the node does not know any more: removed as we asked, or gone with a reboot of the machine."""
    told = {(cell.job, cell.incarnation, cell.cell) for cell in report.cells}
    for row in change.session.scalars(select(CellRow).where(CellRow.node == report.node)):
        if (row.job, row.incarnation, row.cell) in told:
            continue
        job = change.session.get(JobRow, row.job)
        if job is None or job.incarnation != row.incarnation or job.phase in OVER | {Phase.CLEARING}:
            change.session.delete(row)
        elif row.phase != MISSING:
            row.phase, row.changed_s = MISSING, change.now_s


def _note_durability(change: Change, state: SnapshotState) -> None:
    row = change.session.get(SnapshotRow, state.snapshot)
    if row is None or row.durability != "node" or state.durability != "remote":
        return
    row.durability, row.stranded = state.durability, False
    job = change.job(row.job)
    if state.cost is not None:
        costs.note(change, job, (state.cost,))
    if job.phase not in ENDED:
        kept.retire(change, job)  # the one before need not stand in for it any more
        costs.foresee(change, job)


def _forgettable(change: Change, report: AgentReport) -> list[CellName]:
    """Cells whose end is on record, or that belong to an older life. What this ledger never knew is left alone."""
    forget = []
    for cell in report.cells:
        job = change.session.get(JobRow, cell.job)
        if job is not None and (cell.incarnation < job.incarnation or _is_over(change, job)):
            forget.append(CellName(job=cell.job, incarnation=cell.incarnation, cell=cell.cell))
    return forget


def _is_over(change: Change, job: JobRow) -> bool:
    if job.phase in (Phase.CLEARING, Phase.ENDING):
        return not change.open_orders(job)
    return job.phase in OVER


def _incarnations(change: Change, report: AgentReport) -> dict[str, int]:
    jobs = (change.session.get(JobRow, cell.job) for cell in report.cells)
    return {job.id: job.incarnation for job in jobs if job is not None}


def _droppable(change: Change, report: AgentReport) -> list[str]:
    """Snapshots whose images that node need not keep: swept, or in the shared store while the job does not wait."""
    return [state.snapshot for state in report.snapshots if _is_droppable(change, state.snapshot)]


def _is_droppable(change: Change, snapshot: str) -> bool:
    row = change.session.get(SnapshotRow, snapshot)
    if row is not None:
        return row.dropped or _goes_on(change, row)
    order = change.session.get(OrderRow, snapshot.partition("-")[0])  # "-1", "-2" …: later attempts of the same order
    return order is not None and order.state is not OrderState.ISSUED  # its life was lost before the answer came


def _goes_on(change: Change, snapshot: SnapshotRow) -> bool:
    job = change.session.get(JobRow, snapshot.job)
    return snapshot.durability == "remote" and (job is None or job.phase in ENDED | {Phase.RUNNING, Phase.RESIZING})


def _mark_damaged(change: Change, job: JobRow, answer: Answer, node: str) -> None:
    """Keep which snapshots could not be used: no thaw asks for them again until a check finds them whole."""
    order = change.session.get_one(OrderRow, answer.order_id)
    if answer.damaged:
        order.body = {**order.body, kept.DAMAGED: list(answer.damaged)}
    for name in answer.damaged:
        row = change.session.get(SnapshotRow, name)
        if row is None or row.damaged:
            continue
        row.damaged = True
        change.session.flush()
        before = next((one.id for one in change.snapshots(job)), None)
        use = f"the one before, {before}, is used" if before else "there is none before it"
        text = f"snapshot {name} cannot be used ({answer.error or 'its digest does not match'}); {use}"
        change.note(job, agent(node), "snapshot-damaged", text)
