"""What the policy sees of the ledger, kept from turn to turn: only what has changed is read anew.

One for the whole service, under the ledger's lock. The loop's board is fed from it; whoever else asks what would be
decided gets it as a picture; and questions about all live jobs at once (whose address is that, who waits for whom) are
answered from here instead of by reading all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from sqlalchemy import select

from ergosphere.control.leases import Leases
from ergosphere.control.ledger import views
from ergosphere.control.ledger.change import Change, chunks
from ergosphere.control.ledger.news import News
from ergosphere.control.ledger.tables import JobRow, NodeRow, ProjectRow, SnapshotRow
from ergosphere.core.model import JobId, JobView, NodeId, NodeView, Phase, ProjectView, Tier, View
from ergosphere.core.policy.board import Board
from ergosphere.core.policy.entry import SEATLESS


class Sight:
    """See the module. `jobs` are the live ones."""

    def __init__(self, leases: Leases) -> None:
        self.jobs: dict[JobId, JobView] = {}
        self.nodes: dict[NodeId, NodeView] = {}
        self.projects: tuple[ProjectView, ...] = ()
        self.lost: frozenset[str] = frozenset()  # nodes that were given up
        self.waiting: set[JobId] = set()  # without seats, for whatever reason
        self.told: set[JobId] = set()  # they run, and their rows carry a reason all the same
        self.addresses: dict[str, JobId] = {}  # of cells
        self.dependents: dict[str, set[JobId]] = {}  # by the job whose success they wait for
        self.rooms: set[JobId] = set()  # jobs with seats held for them
        self.borrowed: set[JobId] = set()  # as their accounts say
        self.demand: Counter[tuple[str, Tier]] = Counter()  # ranks of all jobs, by project and tier
        self.owed: Counter[tuple[str, Tier]] = Counter()  # of those to whom time is owed now
        self._leases = leases
        self._machines: dict[str, str] = {}
        self._homes: dict[JobId, tuple[str, ...]] = {}  # where images lie, lost nodes included
        self._cells: dict[JobId, tuple[str, ...]] = {}  # addresses of each job
        self._placing: set[JobId] = set()  # it matters of them which node could thaw them
        self.unfed = News(whole=True)  # what the loop's board was not told of yet: what moved since the loop looked

    # ---- caught up with the ledger

    def catch_up(self, look: Change, news: News) -> None:
        """Read what changed. Costs what changed, but for a node that is new, gone or another machine: then whoever is
        frozen is looked at again."""
        if news.whole:
            return self._read_all(look)
        jobs = set(news.jobs)
        if news.nodes:
            jobs |= self._read_nodes(look, news.nodes)
        if news.projects:
            self._read_projects(look)
        for some in chunks(news.snapshots):
            jobs |= set(look.session.scalars(select(SnapshotRow.job).where(SnapshotRow.id.in_(some))))
        if jobs:
            self._take(look, look.jobs(jobs, live=True), jobs)
        return None

    def _read_all(self, look: Change) -> None:
        every = list(look.session.scalars(select(NodeRow)))
        self._read_nodes(look, {node.id for node in every} | self.nodes.keys())
        self._read_projects(look)
        self._take(look, look.live_jobs(), {*self.jobs})
        self.unfed.whole = True

    def _read_projects(self, look: Change) -> None:
        rows = look.session.scalars(select(ProjectRow).order_by(ProjectRow.id))
        self.projects = tuple(views.project_view(row) for row in rows)
        self.unfed.projects = True

    def _read_nodes(self, look: Change, names: Iterable[str]) -> set[str]:
        """Nodes that changed; gives the jobs that have to be read again for it."""
        names = set(names)
        asked = (select(NodeRow).where(NodeRow.id.in_(some)) for some in chunks(names))
        rows = [row for query in asked for row in look.session.scalars(query)]
        machines, lost = dict(self._machines), set(self.lost - names)
        for name in names - {row.id for row in rows}:
            machines.pop(name, None)
            self.nodes.pop(NodeId(name), None)
        for row in rows:
            machines[row.id] = row.machine
            lost |= {row.id} if row.lost else set()
            self._leases.expect(row.id)
            self.nodes[NodeId(row.id)] = views.node_view(row, ready=self._leases.ready(row.id), now_s=look.now_s)
        self.unfed.nodes |= names
        again: set[str] = set(self._placing) if machines != self._machines else set()
        turned = self.lost ^ lost
        again |= {job for job, homes in self._homes.items() if not turned.isdisjoint(homes)} if turned else set()
        self._machines, self.lost = machines, frozenset(lost)
        return again

    def _take(self, look: Change, rows: list[JobRow], names: set[str]) -> None:
        """The live ones of these jobs; the others have ended."""
        for name in names:
            self._forget(JobId(name))
        for row, view in zip(rows, views.job_views(look, rows, self._machines, self.lost), strict=True):
            self._keep(row, view)
        self.unfed.jobs |= names | {row.id for row in rows}

    def _keep(self, row: JobRow, view: JobView) -> None:
        job = view.id
        self.jobs[job] = view
        for name in view.after:
            self.dependents.setdefault(name, set()).add(job)
        self._count(view, 1)
        if row.home:
            self._homes[job] = tuple(row.home)
        if row.addresses:
            self._cells[job] = tuple(row.addresses)
            self.addresses |= dict.fromkeys(row.addresses, job)
        if view.room:
            self.rooms.add(job)
        if view.phase in SEATLESS:
            self.waiting.add(job)
        if view.phase is Phase.RUNNING and row.reason:
            self.told.add(job)
        if row.borrowed:
            self.borrowed.add(job)
        if views.wants_place(row):
            self._placing.add(job)

    def _forget(self, job: JobId) -> None:
        before = self.jobs.pop(job, None)
        if before is not None:
            self._count(before, -1)
        for kept in (self.waiting, self.told, self.rooms, self.borrowed, self._placing):
            kept.discard(job)
        self._homes.pop(job, None)
        for address in self._cells.pop(job, ()):
            self.addresses.pop(address, None)
        for name in before.after if before is not None else ():
            waiting = self.dependents[name]
            waiting.discard(job)
            if not waiting:
                del self.dependents[name]

    def _count(self, view: JobView, sign: int) -> None:
        kind = (view.project, view.tier)
        self.demand[kind] += sign * view.ranks
        if view.account is not None and view.account.counts:
            self.owed[kind] += sign * view.account.devices
        for counts in (self.demand, self.owed):
            if not counts[kind]:
                del counts[kind]

    # ---- given to others

    def feed(self, board: Board, now_s: float) -> None:
        """Tell the board what changed since it was told last. Where that fails, it is told everything the next time."""
        news = self.unfed.take()
        try:
            self._tell(board, news, now_s)
        except BaseException:
            self.unfed.whole = True
            raise

    def _tell(self, board: Board, news: News, now_s: float) -> None:
        if news.whole:
            return _take_over(board, self.picture(now_s))
        board.advance(now_s)
        if news.projects:
            board.put_projects(self.projects)
        for name in map(NodeId, sorted(news.nodes)):
            node = self.nodes.get(name)
            board.put_node(node) if node is not None else board.drop_node(name)
        for job_id in map(JobId, sorted(news.jobs)):
            job = self.jobs.get(job_id)
            board.put_job(job) if job is not None else board.drop_job(job_id)
        if news.jobs:
            board.promise({job_id: self.jobs[job_id].room for job_id in sorted(self.rooms)})
        return None

    def picture(self, now_s: float) -> View:
        """All of it as a plain value."""
        return View(
            now_s=now_s,
            jobs=tuple(sorted(self.jobs.values(), key=lambda job: (job.submitted_s, job.id))),
            nodes=tuple(self.nodes[name] for name in sorted(self.nodes)),
            projects=self.projects,
        )


def _take_over(board: Board, view: View) -> None:
    """The board catches up with a picture: whatever is not on it any more is dropped."""
    board.advance(view.now_s)
    board.put_projects(view.projects)
    for node_id in board.nodes.keys() - {node.id for node in view.nodes}:
        board.drop_node(node_id)
    for job_id in board.entries.keys() - {job.id for job in view.jobs}:
        board.drop_job(job_id)
    for node in view.nodes:
        board.put_node(node)
    for job in view.jobs:
        board.put_job(job)
    board.promise({job.id: job.room for job in view.jobs if job.room})
