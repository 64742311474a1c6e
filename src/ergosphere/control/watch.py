"""What time tells without anybody saying it: leases that ran out, verdicts that are ripe, snapshots that are due."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, Final

from sqlalchemy import select

from ergosphere.control.inbox import HEARD_EVERY_S, MISSING
from ergosphere.control.leases import Leases
from ergosphere.control.ledger import dependencies, kept, lives, results, shunning
from ergosphere.control.ledger.change import OWNER, POLICY, SERVER, Change, chunks, coordinator
from ergosphere.control.ledger.ledger import Ledger
from ergosphere.control.ledger.news import News
from ergosphere.control.ledger.sight import Sight
from ergosphere.control.ledger.tables import CellRow, JobRow, OrderRow, OrderState
from ergosphere.core import verdict
from ergosphere.core.model import HOLDS_SEATS, JobId, JobView, Outcome, Phase, RankExit, Verdict
from ergosphere.core.policy.flaky import MEMORY_S
from ergosphere.snapshots import records
from ergosphere.snapshots.errors import Damaged, SnapshotError
from ergosphere.snapshots.manifest import Manifest
from ergosphere.snapshots.store import Store
from ergosphere.wire.agents import Answer

MISSING_S: Final = 3.0  # a cell is gone once its node has left it out for so long: reports can overtake each other
RIPENING_S: Final = 0.5  # how often what is between two states is looked at
UNTOLD_S: Final = 15.0  # a running cell that its node has not mentioned for so long is not there
SWEEP_S: Final = 5.0  # how often every job between two states is looked at, whether or not anything was told of it
BETWEEN: Final = HOLDS_SEATS - {Phase.RUNNING}
FREEZE_ATTEMPTS_MAX: Final = 8  # as `agent.deciding` counts them: ID, ID-1 … ID-7


@dataclass(frozen=True, slots=True)
class _Unanswered:
    """A freeze that lost one of its nodes, and the words for it if it came to nothing."""

    job: str
    order: str
    gone: tuple[str, ...]
    words: str


class Watch:
    """Looks at what has changed or is due, and at what is between two states; now and then at all of the latter."""

    def __init__(self, ledger: Ledger, leases: Leases, store: Store) -> None:
        self.leases = leases
        self._ledger = ledger
        self._store = store
        self._news = ledger.listen()
        self._ripening: set[str] = set()  # jobs that time alone may change soon
        self._due: list[tuple[float, str]] = []  # when a snapshot is due, and of whom
        self._due_of: dict[str, float] = {}  # the entries that count
        self._swept_s = float("-inf")
        self._given_up: frozenset[str] = frozenset()  # nodes whose loss was written down

    def notice(self) -> None:
        """Write down everything that has become true by the passing of time."""
        news = self._news.take()
        try:
            with self._ledger.change() as change, self._ledger.sight() as sight:
                gone = self._lose_nodes(change)
                names = self._candidates(change, sight, news, gone)
                round_ = _Round.of(change, names, sight.lost | gone)
                dependencies.settle(change, round_.jobs)
                for job in round_.jobs:
                    self._look_at(round_, job)
                unanswered = [one for job in round_.jobs if (one := _unanswered(round_, job))]
                self._remember(round_, names | news.jobs)
        except BaseException:
            self._news.add(news)
            raise
        self._given_up |= gone
        for freeze in unanswered:
            self._settle(freeze)

    def alarm_s(self) -> float:
        """When time alone may change something next, in seconds since the epoch."""
        snapshot_s = self._due[0][0] if self._due else float("inf")
        return min(snapshot_s, self._ledger.clock.now() + RIPENING_S) if self._ripening else snapshot_s

    def _candidates(self, change: Change, sight: Sight, news: News, gone: frozenset[str]) -> set[str]:
        names = news.jobs | self._ripening | self._due_now(change.now_s)
        for ended in news.jobs - sight.jobs.keys():
            names |= sight.dependents.get(ended, set())
        if gone:
            names |= {job.id for job in sight.jobs.values() if any(seat.node in gone for seat in job.seats)}
        if news.whole:
            names |= sight.jobs.keys()
        if change.now_s >= self._swept_s + SWEEP_S:  # nothing that was overlooked stays so for longer
            self._swept_s = change.now_s
            between = select(JobRow.id).where(JobRow.phase.in_(BETWEEN))
            names |= set(change.session.scalars(between))
        return {name for name in names if _concerns(sight.jobs.get(JobId(name)))}

    def _due_now(self, now_s: float) -> set[str]:
        due: set[str] = set()
        while self._due and self._due[0][0] <= now_s:
            at_s, job = heappop(self._due)
            if self._due_of.get(job) == at_s:
                del self._due_of[job]
                due.add(job)
        return due

    def _remember(self, round_: _Round, names: set[str]) -> None:
        """Who has to be looked at again although nothing is told of it."""
        self._ripening -= names
        for job in round_.jobs:
            if _ripens(round_, job):
                self._ripening.add(job.id)
            at_s = _due_s(job)
            if at_s is not None and at_s > round_.change.now_s and self._due_of.get(job.id) != at_s:
                self._due_of[job.id] = at_s
                heappush(self._due, (at_s, job.id))

    def _lose_nodes(self, change: Change) -> frozenset[str]:
        """Nodes that are lost and were not so when this was asked last."""
        lost = self.leases.gone()
        self._given_up &= lost
        for name in sorted(lost - self._given_up):
            node = change.node(name)
            if node is None or node.lost:
                continue
            node.lost = True
            if node.leaves_s is None:  # else it had said so
                recent = (at_s for at_s in node.failures if at_s > change.now_s - MEMORY_S)
                node.failures = [*recent, change.now_s]
            text = f"{node.id} has not reported for longer than its lease and margin; its jobs go on elsewhere"
            change.note(None, SERVER, "node-lost", text)
            kept.strand(change, node)
        return lost - self._given_up

    def _look_at(self, round_: _Round, job: JobRow) -> None:
        shunning.relent(job, round_.change.now_s)
        if job.phase not in HOLDS_SEATS:
            return
        change, gone = round_.change, round_.gone(job)
        match job.phase:
            case Phase.RUNNING | Phase.RESIZING:
                self._judge(round_, job)
                _snapshot_if_due(round_, job)
            case Phase.FREEZING if gone and not round_.freeze_order(job):
                lives.lose(change, job, _while_frozen(gone), at_s=self._last_heard_s(change, gone))
            case Phase.STARTING | Phase.THAWING if gone:
                lives.lose(change, job, f"{', '.join(gone)} went away while it was {job.phase}")
            case Phase.CLEARING:
                _clear(round_, job)
            case Phase.ENDING if coordinator(job) in gone or (gone and results.wait(job)):
                _end_without_node(change, job, gone)
            case _:
                return

    # -- verdicts

    def _judge(self, round_: _Round, job: JobRow) -> None:
        exits, vanished, heard = self._ranks(round_, job)
        if not (exits or vanished) or not verdict.settled(exits, job.ranks, heard, vanished):
            return
        judged = verdict.judge(exits, job.ranks, vanished)
        if judged is None:
            return
        job.first_rank = judged.rank
        if judged.outcome is Outcome.LOST:
            job.exit_code = judged.exit_code
            lives.lose(round_.change, job, judged.text, at_s=_lost_at_s(judged, exits, vanished))
        else:
            lives.end(round_.change, job, judged)

    def _ranks(self, round_: _Round, job: JobRow) -> tuple[list[RankExit], dict[int, float], dict[int, float]]:
        """Exits, ranks that vanished and when, and when each rank was last heard of."""
        exits: list[RankExit] = []
        vanished: dict[int, float] = {}
        heard: dict[int, float] = {}
        told = {row.cell: row for row in round_.cells(job)}
        for index, node in enumerate(lives.homes(job)):
            heard_s = self._heard_s(round_.change, node)
            heard |= dict.fromkeys(job.cells[index], heard_s)
            row = told.get(index)
            exits += _exits(row)
            if row is None and heard_s < (job.running_since_s or 0.0) + UNTOLD_S and node not in round_.lost:
                continue
            vanished |= _vanished(row, job.cells[index], heard_s, is_lost=node in round_.lost)
        ended = {one.rank for one in exits}
        return exits, {rank: at_s for rank, at_s in vanished.items() if rank not in ended}, heard

    def _heard_s(self, change: Change, node: str) -> float:
        heard_s = self.leases.heard_s(node)
        if heard_s is not None:
            return heard_s
        row = change.node(node)
        return row.heard_s if row else 0.0

    def _last_heard_s(self, change: Change, nodes: Iterable[str]) -> float:
        return min(self._heard_s(change, node) for node in nodes)

    # -- freezes without a coordinator

    def _settle(self, freeze: _Unanswered) -> None:
        """The records in the store decide; it is asked outside of the ledger's transaction, for it may be slow."""
        try:
            found = _outcome(self._store, freeze)
        except SnapshotError:
            return  # nobody may act on a guess: asked again in the next turn
        with self._ledger.change() as change:
            job, order = change.job(freeze.job), change.session.get_one(OrderRow, freeze.order)
            if job.phase is not Phase.FREEZING or order.state is not OrderState.ISSUED:
                return  # it was answered meanwhile
            change.drop_orders(job)
            if found is not None:
                lives.froze(change, job, _answer_of(job, found))
            else:
                lives.lose(change, job, freeze.words, at_s=self._last_heard_s(change, freeze.gone))


def _concerns(job: JobView | None) -> bool:
    """Whether time or others could change anything about it; only the policy does so to whoever waits for seats."""
    return job is not None and (job.phase in HOLDS_SEATS or bool(job.after or job.unfit))


@dataclass(frozen=True, slots=True)
class _Round:
    """The jobs that are looked at, with all that is known of them: read by a few queries, however many they are."""

    change: Change
    jobs: list[JobRow]  # live, oldest first
    lost: frozenset[str]  # nodes
    _cells: dict[str, list[CellRow]]
    _orders: dict[str, list[OrderRow]]

    @staticmethod
    def of(change: Change, names: Iterable[str], lost: frozenset[str]) -> _Round:
        jobs = change.jobs(names, live=True)
        lives_of = {job.id: job.incarnation for job in jobs if job.phase in HOLDS_SEATS}
        cells: dict[str, list[CellRow]] = {}
        orders: dict[str, list[OrderRow]] = {}
        for some in chunks(lives_of):
            for row in change.session.scalars(select(CellRow).where(CellRow.job.in_(some))):
                if row.incarnation == lives_of[row.job]:
                    cells.setdefault(row.job, []).append(row)
            issued = select(OrderRow).where(OrderRow.job.in_(some), OrderRow.state == OrderState.ISSUED)
            for order in change.session.scalars(issued):
                orders.setdefault(order.job, []).append(order)
        return _Round(change, jobs, lost, cells, orders)

    def cells(self, job: JobRow) -> list[CellRow]:
        """Of its present life."""
        return self._cells.get(job.id, [])

    def is_ordered(self, job: JobRow) -> bool:
        """Whether an order to it is open."""
        return any(order.state is OrderState.ISSUED for order in self._orders.get(job.id, ()))

    def freeze_order(self, job: JobRow) -> OrderRow | None:
        opened = (order for order in self._orders.get(job.id, ()) if order.state is OrderState.ISSUED)
        return next((order for order in opened if order.kind == "freeze"), None)

    def gone(self, job: JobRow) -> list[str]:
        """Its nodes that are lost."""
        return sorted({node for node in lives.homes(job) if node in self.lost}) if self.lost else []


def _unanswered(round_: _Round, job: JobRow) -> _Unanswered | None:
    if job.phase is not Phase.FREEZING:
        return None
    gone, order = round_.gone(job), round_.freeze_order(job)
    return _Unanswered(job.id, order.id, tuple(gone), _while_frozen(gone)) if gone and order is not None else None


def _due_s(job: JobRow) -> float | None:
    """When something is due that time alone brings: a snapshot, or that a node is tried again."""
    if job.phase is Phase.RUNNING:
        return job.next_snapshot_s
    return min(job.shunned.values(), default=None)


def _ripens(round_: _Round, job: JobRow) -> bool:
    """Whether time alone may change what becomes of it: an exit that others may follow, a node that is gone."""
    if job.phase not in HOLDS_SEATS:
        return False
    if round_.gone(job):
        return True
    cells = round_.cells(job)
    runs = job.phase in (Phase.RUNNING, Phase.RESIZING)
    return any(map(_is_odd, cells)) or (runs and len(cells) < len(job.cells))


def _while_frozen(gone: list[str]) -> str:
    return f"{', '.join(gone)} went away while it was being frozen"


def _outcome(store: Store, freeze: _Unanswered) -> Manifest | None:
    """The snapshot that an agent committed; None once the first attempt that was open is called off.

    Attempts are made one after the other, so behind one that was called off by an agent there may be another.
    Errors: StoreError, TooNew.
    """
    for number in range(FREEZE_ATTEMPTS_MAX):
        attempt = f"{freeze.order}-{number}" if number else freeze.order
        try:
            decided = records.verdict(store, attempt)
            found = decided or records.abort(store, attempt, freeze.words)
        except Damaged:
            return None  # whatever it said, no life can begin with it
        if isinstance(found, Manifest):
            return found
        if isinstance(found, records.Swept) or (decided is None and found.why == freeze.words):
            return None
    return None


def _is_odd(row: CellRow) -> bool:
    return row.phase == MISSING or any(rank["state"] in ("exited", "gone") for rank in row.ranks)


def _answer_of(job: JobRow, manifest: Manifest) -> Answer:
    return Answer(
        order_id=manifest.id,
        job=job.id,
        incarnation=job.incarnation,
        ok=True,
        snapshot=manifest.id,
        bytes=manifest.bytes,
        taken_s=manifest.taken_s,
        stopped_s=manifest.stopped_s,
        log_lengths=dict(manifest.log_lengths()),
    )


def _exits(row: CellRow | None) -> list[RankExit]:
    if row is None:
        return []
    return [
        RankExit(
            rank=rank["rank"],
            wait_status=rank["wait_status"],
            at_s=rank["exited_at_s"] if rank["exited_at_s"] is not None else row.changed_s,
            asked=rank["asked"],
            exec_errno=rank.get("exec_errno", 0),
        )
        for rank in row.ranks
        if rank["state"] == "exited" and rank["wait_status"] is not None
    ]


def _vanished(row: CellRow | None, ranks: list[int], heard_s: float, *, is_lost: bool) -> dict[int, float]:
    if is_lost or row is None:
        return dict.fromkeys(ranks, heard_s)
    if row.phase == MISSING:
        return dict.fromkeys(ranks, row.changed_s - HEARD_EVERY_S) if heard_s > row.changed_s + MISSING_S else {}
    return {rank["rank"]: row.changed_s for rank in row.ranks if _is_gone(rank)}


def _lost_at_s(judged: Verdict, exits: Iterable[RankExit], vanished: Mapping[int, float]) -> float | None:
    """When the rank that brought the others down ended, or was last heard of."""
    ended = {one.rank: one.at_s for one in exits}
    return None if judged.rank is None else ended.get(judged.rank, vanished.get(judged.rank))


def _is_gone(rank: dict[str, Any]) -> bool:
    return rank["state"] == "gone" or (rank["state"] == "exited" and rank["wait_status"] is None)


def _snapshot_if_due(round_: _Round, job: JobRow) -> None:
    """Periodic and asked-for snapshots: one order a job at a time, and none where freezing cannot work."""
    change = round_.change
    due = job.next_snapshot_s is not None and change.now_s >= job.next_snapshot_s
    if job.phase is not Phase.RUNNING or not (due or job.snapshot_asked) or round_.is_ordered(job):
        return
    if job.snapshot_asked:
        lives.snapshot(change, job, OWNER, "a snapshot was asked for")
    else:
        lives.snapshot(change, job, POLICY, f"a snapshot every {job.spec['snapshot_every_s']:g} s")


def _clear(round_: _Round, job: JobRow) -> None:
    """Cleared once the coordinator said so, or, where it cannot, once no node that lives reports anything of it."""
    left = [row for row in round_.cells(job) if row.node not in round_.lost]
    for row in round_.cells(job):
        if row.node in round_.lost:
            round_.change.session.delete(row)
    if coordinator(job) in round_.lost:
        round_.change.drop_orders(job)
    if not round_.is_ordered(job) and not left:
        lives.cleared(round_.change, job)


def _end_without_node(change: Change, job: JobRow, gone: list[str]) -> None:
    """Nobody can bring results home: a success is done again from its snapshot, any other end stands."""
    words = f"{', '.join(gone)} went away while it was ending"
    if job.outcome is Phase.SUCCEEDED:
        waited = results.wait(job)
        lives.lose(change, job, f"{words}, and its results with it", counted=False)
        if waited:  # nothing of it runs, and its devices may be others' by now
            lives.cleared(change, job)
    else:
        lives.collected(change, job, None, words)
