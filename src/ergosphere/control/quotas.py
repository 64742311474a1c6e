"""Projects, promises and services: what the tree allows, what was delivered, how many replicas are wanted."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import delete, select

from ergosphere.control.find import NotFound
from ergosphere.control.ledger import accounts
from ergosphere.control.ledger.change import OWNER, Change
from ergosphere.control.ledger.ledger import Ledger
from ergosphere.control.ledger.tables import JobRow, ProjectRow
from ergosphere.control.verbs import Conflict
from ergosphere.core.model import ENDED, JobId, Phase, ProjectView, View
from ergosphere.core.policy import quota
from ergosphere.core.policy.board import Board
from ergosphere.core.policy.entry import SEATLESS
from ergosphere.core.policy.rules import Rules
from ergosphere.core.sla import Tally, TierReport, guaranteed_load
from ergosphere.core.suggest import unknown
from ergosphere.wire.policy import ProjectInfo, ProjectTree, ScaleResult, SlaReport, TierInfo


def set_projects(ledger: Ledger, tree: ProjectTree) -> None:
    """Replace the tree. Raises Conflict, and changes nothing, when it contradicts itself."""
    views = [ProjectView(**one.model_dump()) for one in tree.projects]
    try:
        quota.check(views)
    except quota.QuotaTrouble as trouble:
        raise Conflict(str(trouble), "nothing was changed") from None
    with ledger.change() as change:
        change.session.execute(delete(ProjectRow))
        change.session.add_all(ProjectRow(**one.model_dump()) for one in tree.projects)
        change.note(None, OWNER, "projects", f"the tree of projects was replaced: {len(views)} projects")


def projects(ledger: Ledger, rules: Rules) -> list[ProjectInfo]:
    """Every project that is declared or has live jobs, with what it uses."""
    view = ledger.picture()
    board = Board.of(view, rules)
    board.sort_borrowed()
    declared = {one.id: one for one in view.projects}
    undeclared = {job.project for job in view.jobs} - declared.keys()
    every = [*declared.values(), *(ProjectView(name) for name in sorted(undeclared))]
    return [_project(board, one, one.id in declared) for one in every]


def _project(board: Board, project: ProjectView, declared: bool) -> ProjectInfo:
    below = [entry for entry in board.entries.values() if project.id in board.tree.path(entry.view.project)]
    return ProjectInfo(
        id=project.id,
        parent=project.parent,
        weight=project.weight,
        guarantee=project.guarantee,
        limit=project.limit,
        borrow=project.borrow,
        declared=declared,
        used=board.tree.used(project.id),
        borrowed=sum(entry.devices for entry in below if entry.borrowed),
        waiting=sum(entry.view.ranks for entry in below if entry.view.phase in SEATLESS),
    )


def sla(ledger: Ledger, since_s: float) -> SlaReport:
    """Promised against delivered, from the clock hour of `since_s` on: whoever waits costs as much as whoever runs.
    Borrowed hours count as basic, for nothing was promised in them."""
    tally = Tally()
    with ledger.read() as look:
        for job, borrowed, windows in accounts.windows_since(look, since_s):
            tally.add(JobId(job.id), job.tier, windows, borrowed=borrowed)
    return SlaReport(
        tiers=tuple(_tier(row) for row in tally.rows()), guaranteed_load=_load(ledger.picture()), since_s=since_s
    )


def _tier(row: TierReport) -> TierInfo:
    names = TierInfo.model_fields.keys() - {"lost_device_h"}
    lost = {str(cause): hours for cause, hours in row.lost_device_h}
    return TierInfo(**{name: getattr(row, name) for name in names}, lost_device_h=lost)


def _load(view: View) -> float:
    open_accounts = ((job.tier, job.account) for job in view.jobs if job.account is not None)
    return guaranteed_load(open_accounts, sum(node.devices for node in view.nodes if node.ready))


def replicas_of(ledger: Ledger, service: str) -> tuple[int, int, int]:
    """The fewest and the most replicas of a service, and how many are wanted now. Raises NotFound."""
    with ledger.read() as look:
        rows = _replicas(look, service)
        return *_bounds(rows), sum(job.wanted for job in rows)


def scale(ledger: Ledger, service: str, replicas: int) -> ScaleResult:
    """Want the first `replicas` of a service's replicas. Raises NotFound, or Conflict beyond what was submitted."""
    with ledger.change() as change:
        rows = _replicas(change, service)
        least, most = _bounds(rows)
        if not least <= replicas <= most:
            raise Conflict(f"{service} was submitted with {least} to {most} replicas; {replicas} is outside of that")
        _want(change, rows, replicas)
        running = sum(job.phase is Phase.RUNNING for job in rows if job.phase not in ENDED)
    return ScaleResult(service=service, wanted=replicas, running=running, text=f"{service} wants {replicas} replicas")


def _replicas(look: Change, service: str) -> list[JobRow]:
    of_services = select(JobRow).where(JobRow.phase.not_in(ENDED), JobRow.service != "")
    rows = list(look.session.scalars(of_services.order_by(JobRow.submitted_s, JobRow.id)))
    found = [job for job in rows if job.service == service]
    if not found:
        raise NotFound(unknown("service", service, {job.service for job in rows}))
    return found


def _bounds(rows: list[JobRow]) -> tuple[int, int]:
    low, high = rows[0].spec["replicas"]
    return int(low), min(int(high), len(rows))


def _want(change: Change, rows: Iterable[JobRow], replicas: int) -> None:
    for index, job in enumerate(sorted(rows, key=lambda one: (not one.wanted, one.submitted_s, one.id))):
        if job.wanted != (index < replicas):
            job.wanted = index < replicas
            accounts.entitlement(change, job)
            change.note(job, OWNER, "wanted" if job.wanted else "unwanted", f"service {job.service} was scaled")
